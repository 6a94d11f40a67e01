/**
 * What many disks cost: several at work in one event loop, a hundred open ones
 * that nobody uses, ten thousand slices, and disks in two Workers.
 *
 * ```sh
 * deno task bench:many [--dir DIR] [--rounds 9] [--ms 100]
 * ```
 *
 * Rows of a table take turns in short slices, in both orders, and each is
 * compared to the first one round by round. The processor's time is that of the
 * whole process. Turns of the event loop are looked at in slices of their own,
 * as to look at them keeps it awake.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import fs from "node:fs";
import process from "node:process";
import { VirtualDisk } from "@platter/disk";
import { duration, grouped, MIB } from "./format.ts";
import { Scratch } from "./scratch.ts";
import { describeRatio, median, ratio } from "./statistics.ts";
import { type Rates, readFor } from "./many_reads.ts";

/** Bytes of each image. */
const IMAGE_BYTES = 4 * MIB;
/** Disks that are open at once. */
const OPEN = 100;
/** Disks that are read at once. */
const BUSY = [1, 4, 16, 64] as const;
/** Reads in flight, on all disks together. */
const IN_FLIGHT = 64;
const SLICES = 10_000;
/** Reads in flight of each Worker. */
const WORKER_DEPTH = 32;

/** One row of a table: what it is, and one slice of it. */
interface Row {
  readonly title: string;
  measure(): Promise<Rates>;
}

/** Measures rows in turns, and prints them beside the first one. */
async function compare(title: string, rows: readonly Row[]): Promise<void> {
  const taken: Rates[][] = rows.map(() => []);
  for (let round = -1; round < rounds; round++) {
    const order = [...rows.keys()];
    for (const i of round % 2 === 0 ? order : order.toReversed()) {
      stop.signal.throwIfAborted();
      const rates = await rows[i]!.measure();
      // The first round warms up.
      if (round >= 0) taken[i]!.push(rates);
    }
  }
  console.log(`\n${title}`);
  rows.forEach(({ title }, i) => {
    const rate = median(taken[i]!.map(({ rate }) => rate));
    const cpu = median(taken[i]!.map(({ cpuUs }) => cpuUs));
    const beside = (of: (rates: Rates) => number) =>
      describeRatio(ratio(taken[i]!.map(of), taken[0]!.map(of)));
    console.log(
      `  ${title.padEnd(24)} ${grouped(rate).padStart(9)} reads/s  ${
        duration(cpu).padStart(8)
      } of CPU each` + (i === 0 ? "" : `  × ${beside(({ cpuUs }) => cpuUs)}`),
    );
  });
}

/** Times between turns of the event loop while disks are read, in µs, sorted. */
async function turnsOf(disks: readonly VirtualDisk[]): Promise<number[]> {
  const gaps: number[] = [];
  let last = performance.now();
  let looking = true;
  const look = () => {
    const now = performance.now();
    gaps.push((now - last) * 1000);
    last = now;
    if (looking) setImmediate(look);
  };
  setImmediate(look);
  await readFor(disks, IN_FLIGHT, ms * rounds);
  looking = false;
  return gaps.sort((a, b) => a - b);
}

/**
 * Reads of several disks at once: one of each, which costs the same for each
 * however many they are, and as many on all of them together as one disk has.
 */
async function severalDisks(
  name: string,
  disks: readonly VirtualDisk[],
): Promise<void> {
  const row = (count: number, depth: number): Row => ({
    title: disksOf(count),
    measure: () => readFor(disks.slice(0, count), depth, ms),
  });
  await compare(
    `${name}: one read of 4 KiB in flight on each of`,
    BUSY.map((count) => row(count, count)),
  );
  await compare(
    `${name}: ${IN_FLIGHT} reads of 4 KiB in flight, spread over`,
    BUSY.map((count) => row(count, IN_FLIGHT)),
  );
}

/** How long the event loop is held: `stallMs` twice at most, and the answers. */
async function turns(disks: readonly VirtualDisk[]): Promise<void> {
  console.log("\nBetween two turns of the loop: half of them, 99 %, the most");
  for (const count of BUSY) {
    stop.signal.throwIfAborted();
    const gaps = await turnsOf(disks.slice(0, count));
    const at = (part: number) =>
      duration(gaps[Math.floor(part * (gaps.length - 1))]!).padStart(9);
    console.log(
      `  ${disksOf(count).padEnd(24)} ${at(0.5)} ${at(0.99)} ${at(1)}`,
    );
  }
}

function disksOf(count: number): string {
  return `${count} disk${count === 1 ? "" : "s"}`;
}

/** What a disk that is open and idle costs, and costs the others. */
async function openDisks(paths: readonly string[]): Promise<void> {
  const [first, ...rest] = paths;
  await using disk = await open(first!);
  const times: number[] = [];
  const memory: number[] = [];
  const descriptors: number[] = [];
  const alone: number[] = [];
  const among: number[] = [];
  for (let round = -1; round < Math.min(rounds, 5); round++) {
    stop.signal.throwIfAborted();
    const single = await readFor([disk], 1, ms);
    const before = usage();
    const others: VirtualDisk[] = [];
    for (const path of rest) {
      const start = performance.now();
      others.push(await open(path));
      if (round >= 0) times.push((performance.now() - start) * 1000);
    }
    const after = usage();
    const crowded = await readFor([disk], 1, ms);
    for (const other of others) await other.close();
    if (round < 0) {
      // Whatever is made once is there from now on, and nothing is used again.
      memory.push((after.memory - before.memory) / rest.length / 1024);
      descriptors.push((after.descriptors - before.descriptors) / rest.length);
      continue;
    }
    alone.push(single.cpuUs);
    among.push(crowded.cpuUs);
  }
  const tenth = (from: number) =>
    duration(median(times.filter((_, i) => {
      const place = i % rest.length;
      return place >= from && place < from + 10;
    })));
  console.log(`\n${paths.length} open images, of which one is read`);
  console.log(
    `  to open one              ${tenth(0)} with none open, ${
      tenth(rest.length - 10)
    } with ${rest.length - 10}`,
  );
  console.log(
    `  an open one takes        ${grouped(memory[0]!)} KiB of memory and ${
      grouped(descriptors[0]!)
    } descriptors`,
  );
  console.log(
    `  CPU of a read beside it  × ${describeRatio(ratio(among, alone))}`,
  );
}

function usage(): { memory: number; descriptors: number } {
  return {
    memory: process.memoryUsage().rss,
    descriptors: fs.readdirSync("/proc/self/fd").length,
  };
}

async function slices(): Promise<void> {
  const sectors = SLICES * 8;
  await using disk = VirtualDisk.memory({ sectors });
  const memory = disk.allocate(8);
  for (let at = 0; at < sectors; at += 8) await disk.write(at, memory);
  const before = process.memoryUsage().heapUsed;
  const start = performance.now();
  const all = Array.from(
    { length: SLICES },
    (_, i) => disk.slice(i * 8, 8),
  );
  const us = (performance.now() - start) * 1000 / SLICES;
  const bytes = (process.memoryUsage().heapUsed - before) / SLICES;
  console.log(
    `\n${
      grouped(SLICES)
    } slices of a disk in memory\n  to make one              ${duration(us)}, ${
      grouped(bytes)
    } bytes of heap`,
  );
  await compare(`32 reads of 4 KiB in flight, through`, [
    { title: "the whole disk", measure: () => readFor([disk], 32, ms) },
    { title: "one slice", measure: () => readFor(all.slice(0, 1), 32, ms) },
    { title: "all slices", measure: () => readFor(all, 32, ms) },
  ]);
}

/** A Worker with a disk of its own. */
function workerOn(path: string) {
  const worker = new Worker(new URL("many_worker.ts", import.meta.url), {
    type: "module",
    name: path,
  });
  return {
    read: () =>
      new Promise<Rates>((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = reject;
        worker.postMessage({ depth: WORKER_DEPTH, ms });
      }),
    [Symbol.dispose]: () => worker.terminate(),
  };
}

async function workers([one, two]: readonly string[]): Promise<void> {
  await using disk = await open(one!);
  await using other = await open(two!);
  using first = workerOn(one!);
  using second = workerOn(two!);
  const both = async (): Promise<Rates> => {
    const spent = process.cpuUsage();
    const [a, b] = await Promise.all([first.read(), second.read()]);
    const { user, system } = process.cpuUsage(spent);
    const rate = a.rate + b.rate;
    return { rate, cpuUs: (user + system) / (rate * ms / 1000) };
  };
  await compare(`${WORKER_DEPTH} reads of 4 KiB in flight on each image`, [
    {
      title: "one, here",
      measure: () => readFor([disk], WORKER_DEPTH, ms),
    },
    {
      title: "two, here",
      measure: () => readFor([disk, other], 2 * WORKER_DEPTH, ms),
    },
    { title: "one, in a Worker", measure: () => first.read() },
    { title: "two, in two Workers", measure: both },
  ]);
}

function open(path: string): Promise<VirtualDisk> {
  return VirtualDisk.open(path, { readOnly: true, lock: "none" });
}

/** A whole number above 0. */
function numberOf(name: string, typed: string): number {
  const value = Number(typed);
  if (Number.isSafeInteger(value) && value >= 1) return value;
  console.error(
    `Cannot run as --${name} must be a whole number above 0: current value is ${typed}`,
  );
  Deno.exit(2);
}

const typed = parseArgs(Deno.args, {
  string: ["dir", "rounds", "ms"],
  default: { rounds: "9", ms: "100" },
});
const rounds = numberOf("rounds", typed.rounds);
const ms = numberOf("ms", typed.ms);

const stop = new AbortController();
// Between two slices, so that the images are removed.
Deno.addSignalListener("SIGINT", () => stop.abort());
await using scratch = await Scratch.make({
  ...(typed.dir === undefined ? {} : { parent: typed.dir }),
  bytes: IMAGE_BYTES,
  signal: stop.signal,
});
const { path } = await scratch.place("image");
const paths = Array.from(
  { length: OPEN },
  (_, i) => `${scratch.directory}/${i}.img`,
);
// Whole copies: each of them is stored.
for (const each of paths) await Deno.copyFile(path, each);
for (const each of [path, ...paths]) {
  const synced = fs.openSync(each, "r+");
  fs.fsyncSync(synced);
  fs.closeSync(synced);
}

{
  const most = BUSY.at(-1)!;
  await using opened = new AsyncDisposableStack();
  const images: VirtualDisk[] = [];
  for (const each of paths.slice(0, most)) {
    images.push(opened.use(await open(each)));
  }
  await severalDisks("Images", images);
  await turns(images);
  const memory = Array.from(
    { length: most },
    () => opened.use(VirtualDisk.memory({ sectors: IMAGE_BYTES / 512 })),
  );
  for (const disk of memory) {
    await disk.write(0, disk.allocate(disk.sectors));
  }
  await severalDisks("Disks in memory", memory);
}
await openDisks(paths);
await slices();
await workers(paths);
