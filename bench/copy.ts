/**
 * Copies of a raw image beside `qemu-img convert -n -W -m 4`, in the same rounds,
 * each a process of its own, from its start to its end.
 *
 * ```sh
 * deno run -A bench/copy.ts --rounds 5 --size 1GiB
 * ```
 *
 * The source is two thirds noise and one third a hole; the target exists and has
 * no blocks. Before each measurement the source leaves the page cache. They do not
 * do the same: as it is, qemu-img reads and writes through the page cache and does
 * not flush, and what it wrote is in memory when it ends; "flushed" is the same
 * and a sync(1) of the target. With `-t none -T none` it goes past the cache, as
 * Platter does, which flushes in the end.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { join } from "node:path";
import { parseSize } from "../src/units.ts";
import { median, summarize } from "./statistics.ts";

const MIB = 1_048_576;

const HELP = `Measures platter copy beside qemu-img convert.

Usage: deno task bench:copy [options]

  --rounds N        Rounds (default 5)
  --size SIZE       Size of the image (default 1GiB)
  --dir DIR         Where the images go, on the disk to be measured (default:
                    the current directory); gone afterwards
  --help            Shows this
`;

const CLI = new URL("../src/cli/main.ts", import.meta.url).pathname;

/** What is measured: commands one after another. */
interface Contender {
  readonly name: string;
  commands(source: string, target: string): [string, ...string[]][];
}

const QEMU = ["convert", "-n", "-W", "-m", "4", "-f", "raw", "-O", "raw"];

function platter(name: string, ...options: string[]): Contender {
  const run = ["run", "-A", "--no-check", "--quiet", CLI, "copy"];
  return {
    name,
    commands: (source, target) => [
      [Deno.execPath(), ...run, source, target, "--force", ...options],
    ],
  };
}

const CONTENDERS: readonly Contender[] = [
  platter("platter copy"),
  {
    name: "qemu-img",
    commands: (source, target) => [["qemu-img", ...QEMU, source, target]],
  },
  {
    name: "qemu-img, flushed",
    commands: (source, target) => [
      ["qemu-img", ...QEMU, source, target],
      ["sync", target],
    ],
  },
  {
    name: "qemu-img -t none -T none",
    commands: (source, target) => [
      ["qemu-img", ...QEMU, "-t", "none", "-T", "none", source, target],
    ],
  },
];

async function main(args: string[]): Promise<number> {
  const options = parseArgs(args, {
    boolean: ["help"],
    string: ["rounds", "size", "dir"],
    default: { rounds: "5", size: "1GiB", dir: "." },
  });
  if (options.help) {
    console.log(HELP);
    return 0;
  }
  const bytes = parseSize(options.size);
  const rounds = Number(options.rounds);
  const folder = await Deno.makeTempDir({ dir: options.dir });
  try {
    const [source, target] = [join(folder, "source"), join(folder, "target")];
    await makeImage(source, bytes);
    const rates = new Map<string, number[]>();
    for (let round = -1; round < rounds; round++) {
      // Each comes first as often as any other.
      const turn = (round + 1) % CONTENDERS.length;
      for (
        const { name, commands } of [
          ...CONTENDERS.slice(turn),
          ...CONTENDERS.slice(0, turn),
        ]
      ) {
        await makeTarget(target, bytes);
        const seconds = await measure(commands(source, target), folder);
        // The first fills the caches of programs.
        if (round < 0) continue;
        rates.set(name, [...rates.get(name) ?? [], bytes / MIB / seconds]);
      }
    }
    const own = rates.get(CONTENDERS[0]!.name)!;
    for (const [name, values] of rates) {
      const { median: middle, min, max } = summarize(values);
      // Round by round, as the machine changes with time.
      const ratio = median(own.map((value, i) => value / values[i]!));
      console.log(
        `${name.padEnd(26)} ${middle.toFixed(0).padStart(5)} MiB/s ` +
          `(${min.toFixed(0)} to ${max.toFixed(0)})` +
          (values === own ? "" : `, Platter is ${ratio.toFixed(2)} of it`),
      );
    }
    return 0;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function makeImage(path: string, bytes: number): Promise<void> {
  await using file = await Deno.create(path);
  const noise = new Uint8Array(MIB);
  for (let at = 0; at < noise.length; at += 65_536) {
    crypto.getRandomValues(noise.subarray(at, at + 65_536));
  }
  for (let at = 0; at < bytes * 2 / 3; at += noise.length) {
    for (let left = noise; left.length > 0;) {
      left = left.subarray(await file.write(left));
    }
  }
  await file.truncate(bytes);
  await file.sync();
}

/** A file without a block, so that all find the same. */
async function makeTarget(path: string, bytes: number): Promise<void> {
  await Deno.remove(path).catch(() => {});
  await using file = await Deno.create(path);
  await file.truncate(bytes);
}

/** Seconds of some commands, the disk being quiet and the cache empty before. */
async function measure(
  commands: [string, ...string[]][],
  folder: string,
): Promise<number> {
  await run("sync", "--file-system", folder);
  await run("dd", `if=${join(folder, "source")}`, "iflag=nocache", "count=0");
  const start = performance.now();
  for (const [command, ...args] of commands) await run(command, ...args);
  return (performance.now() - start) / 1000;
}

async function run(command: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(command, {
    args,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) {
    throw new Error(
      `Cannot run ${command} as it says ${new TextDecoder().decode(stderr)}`,
    );
  }
}

Deno.exit(await main(Deno.args));
