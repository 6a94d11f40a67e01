/**
 * What the layers protect and observe cost: a disk in memory beside the same
 * under a layer, 4 KiB at random, 32 in flight, in turns. Each has processes of
 * its own, as in a program: what V8 makes of code depends on all that it was used
 * for, and in one process each of them slows the others down. It also differs by
 * chance from process to process, by some hundredths for one and the same code:
 * so there are new ones every {@linkcode ROUNDS_A_PROCESS} rounds, and memory
 * comes twice, where what is not 1 is noise.
 *
 * ```sh
 * deno task bench:layers [--rounds 200] [--requests 10000]
 * ```
 *
 * A round is short and does each disk once, in an order that turns; what is told
 * is the middle of the rounds' quotients. The time is the processor's, which a
 * busy machine changes least. What is to be reached is 0.95.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import process from "node:process";
import { type Backend, MemoryBackend, VirtualDisk } from "@platter/disk";
import { observe, protect, Random } from "@platter/disk/testing";
import { grouped } from "./format.ts";
import { median, ratio } from "./statistics.ts";

const SECTORS = 131_072;
const DEPTH = 32;
const BLOCK_SECTORS = 8;

/** Rounds that one process does, after those that warm it up. */
const ROUNDS_A_PROCESS = 20;
const WARM_UP = 10;

const GUARDED = [
  { sector: 0, count: 34 },
  { name: "partition 1", sector: SECTORS / 2, count: 8 },
];

const CONTENDERS: readonly [string, (backend: Backend) => Backend][] = [
  ["memory", (backend) => backend],
  ["memory once more", (backend) => backend],
  ["protect, two ranges", (backend) => protect(backend, GUARDED)],
  ["observe", (backend) => observe(backend)],
  [
    "observe, two partitions",
    (backend) =>
      observe(backend, {
        ranges: [
          { sector: 0, count: SECTORS / 2 },
          { sector: SECTORS / 2 },
        ],
      }),
  ],
];

/** Requests a second, of the processor's time. */
async function round(
  disk: VirtualDisk,
  writes: boolean,
  requests: number,
  random: Random,
): Promise<number> {
  let left = requests;
  const before = process.cpuUsage();
  await Promise.all(Array.from({ length: DEPTH }, async () => {
    const memory = disk.allocate(BLOCK_SECTORS);
    while (left-- > 0) {
      // What is protected is left alone: it is the check that costs.
      const block = random.between(5, SECTORS / BLOCK_SECTORS / 2 - 1);
      const sector = block * BLOCK_SECTORS;
      if (writes) await disk.write(sector, memory);
      else await disk.readInto(sector, memory);
    }
  }));
  const { user, system } = process.cpuUsage(before);
  return requests / (user + system) * 1e6;
}

/** What a round is to be. */
interface Task {
  readonly writes: boolean;
  readonly requests: number;
  readonly seed: number;
}

/** What a process of its own does: a round for each task, whose rate it tells. */
async function beChild(name: string): Promise<void> {
  const layer = CONTENDERS.find(([each]) => each === name)![1];
  const disk = VirtualDisk.over(layer(new MemoryBackend({ sectors: SECTORS })));
  // Whoever sends one waits for the answer: no two come together.
  for await (
    const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  ) {
    const { writes, requests, seed } = JSON.parse(text) as Task;
    console.log(await round(disk, writes, requests, new Random(seed)));
  }
  await disk.close();
}

/** A contender in a process of its own. */
class Contender {
  readonly #child: Deno.ChildProcess;
  readonly #tasks: WritableStreamDefaultWriter<Uint8Array>;
  readonly #rates: ReadableStreamDefaultReader<string>;

  constructor(name: string) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", import.meta.filename!, "--child", name],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#tasks = this.#child.stdin.getWriter();
    this.#rates = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
  }

  /** Requests a second, of the processor's time. */
  async round(task: Task): Promise<number> {
    await this.#tasks.write(new TextEncoder().encode(JSON.stringify(task)));
    return Number((await this.#rates.read()).value);
  }

  async close(): Promise<void> {
    await this.#tasks.close();
    await this.#rates.cancel();
    await this.#child.status;
  }
}

/** Measures all of them. */
async function main(rounds: number, requests: number): Promise<void> {
  for (const writes of [false, true]) {
    const rates: number[][] = CONTENDERS.map(() => []);
    for (let done = 0; done < rounds; done += ROUNDS_A_PROCESS) {
      const count = Math.min(ROUNDS_A_PROCESS, rounds - done);
      await inNewProcesses(count, { writes, requests, seed: done }, rates);
    }
    console.log(writes ? "\nrandom writes" : "random reads");
    CONTENDERS.forEach(([name], i) => {
      const each = ratio(rates[i]!, rates[0]!).median;
      console.log(
        `  ${name.padEnd(24)} ${
          grouped(Math.round(median(rates[i]!))).padStart(9)
        } a second of CPU  ${each.toFixed(3)}`,
      );
    });
  }
}

/** Adds so many rounds of each contender to its rates. */
async function inNewProcesses(
  rounds: number,
  first: Task,
  rates: readonly number[][],
): Promise<void> {
  const contenders = CONTENDERS.map(([name]) => new Contender(name));
  for (let i = -WARM_UP; i < rounds; i++) {
    const task = { ...first, seed: first.seed + Math.abs(i) };
    for (let j = 0; j < contenders.length; j++) {
      const which = (j + task.seed) % contenders.length;
      const rate = await contenders[which]!.round(task);
      if (i >= 0) rates[which]!.push(rate);
    }
  }
  for (const contender of contenders) await contender.close();
}

if (import.meta.main) {
  const { rounds, requests, child } = parseArgs(Deno.args, {
    string: ["rounds", "requests", "child"],
    default: { rounds: "200", requests: "10000" },
  });
  if (child !== undefined) await beChild(child);
  else await main(Number(rounds), Number(requests));
}
