/**
 * Random reads of 4 KiB, 32 in flight, on each runtime: Platter's direct backend
 * beside `node:fs` with O_DIRECT there, and both beside Platter on Deno.
 *
 * ```sh
 * deno task bench:runtimes [--rounds 15] [--ms 150] [--file /var/tmp/bench.img]
 * ```
 *
 * Each runtime is one process that stays; the rounds go from one to the next in
 * an order that turns, so that a busy machine is busy for all. What is told is the
 * middle of the rounds' quotients, and of the processor time of a read, which a
 * busy machine changes least; of the calls, the best round. What is to be
 * reached: 0.85 of Platter on Deno, 1.8 of `node:fs` on the same runtime, and a
 * call within twice a bare one.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { install, RUNTIMES } from "../tests/runtimes/runtimes.ts";
import type { RuntimeSlice } from "./runtimes_child.ts";
import { median } from "./statistics.ts";

const SIZE = 256 << 20;

const CHILD = new URL("runtimes_child.ts", import.meta.url).pathname;

/** One runtime that measures when it is told to. */
class Contender implements AsyncDisposable {
  readonly name: string;
  readonly slices: RuntimeSlice[] = [];
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #lines: ReadableStreamDefaultReader<string>;
  #rest = "";

  constructor(
    name: string,
    program: string,
    args: string[],
    env: Readonly<Record<string, string>>,
  ) {
    this.name = name;
    this.#child = new Deno.Command(program, {
      args,
      env: { ...env },
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#lines = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
  }

  async measure(): Promise<RuntimeSlice> {
    await this.#input.write(new TextEncoder().encode("go\n"));
    for (;;) {
      const end = this.#rest.indexOf("\n");
      if (end >= 0) {
        const line = this.#rest.slice(0, end);
        this.#rest = this.#rest.slice(end + 1);
        return JSON.parse(line);
      }
      const { value, done } = await this.#lines.read();
      if (done) throw new Error(`${this.name} has ended`);
      this.#rest += value;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close().catch(() => {});
    await this.#child.status;
  }
}

const options = parseArgs(Deno.args, {
  string: ["file", "rounds", "ms"],
  default: { file: "", rounds: "15", ms: "150" },
});
const folder = options.file === ""
  ? await Deno.makeTempDir({ dir: "/var/tmp", prefix: "platter-bench-" })
  : null;
const path = folder === null ? options.file : `${folder}/disk.img`;
try {
  if (folder !== null) {
    // With data in it: a hole is not read from the disk.
    using file = await Deno.create(path);
    const piece = crypto.getRandomValues(new Uint8Array(65_536));
    for (let at = 0; at < SIZE; at += piece.length) await file.write(piece);
    await file.sync();
  }
  await using contenders = new AsyncDisposableStack();
  const all: Contender[] = [];
  const add = (contender: Contender) => all.push(contenders.use(contender));
  add(
    new Contender("Deno", Deno.execPath(), [
      ...["run", "-A", "--no-check", CHILD, path, options.ms],
    ], {}),
  );
  for (const runtime of RUNTIMES) {
    const { program, env } = await install(runtime);
    add(new Contender(runtime.name, program, [CHILD, path, options.ms], env));
  }
  // The first round is for the compilers.
  for (let round = -1; round < Number(options.rounds); round++) {
    const order = round % 2 === 0 ? all : all.toReversed();
    for (const contender of order) {
      const slice = await contender.measure();
      if (round >= 0) contender.slices.push(slice);
    }
  }
  const deno = all[0]!;
  const table = [[
    "",
    "engine",
    "Platter/s",
    "node:fs/s",
    "of Deno",
    "of node:fs",
    "µs",
    "node:fs µs",
    "call, ns",
    "bare, ns",
  ]];
  for (const { name, slices } of all) {
    const quotient = (of: (slice: RuntimeSlice, round: number) => number) =>
      median(slices.map(of)).toFixed(2);
    table.push([
      name,
      slices[0]!.engine,
      String(Math.round(median(slices.map(({ platter }) => platter)))),
      String(Math.round(median(slices.map(({ nodeFs }) => nodeFs)))),
      quotient(({ platter }, i) => platter / deno.slices[i]!.platter),
      quotient(({ platter, nodeFs }) => platter / nodeFs),
      median(slices.map(({ platterUs }) => platterUs)).toFixed(1),
      median(slices.map(({ nodeFsUs }) => nodeFsUs)).toFixed(1),
      Math.min(...slices.map(({ callNs }) => callNs)).toFixed(0),
      Math.min(...slices.map(({ bareNs }) => bareNs)).toFixed(0),
    ]);
  }
  const widths = table[0]!.map((_, i) =>
    Math.max(...table.map((row) => row[i]!.length))
  );
  for (const row of table) {
    console.log(
      row.map((cell, i) =>
        i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)
      ).join("  "),
    );
  }
} finally {
  if (folder !== null) await Deno.remove(folder, { recursive: true });
}
