/**
 * Platter's own part in a measurement, in a process of its own: a fresh heap,
 * fresh inline caches, and processor time of its own.
 *
 * @module
 */

import process from "node:process";
import type { EngineName, VirtualDisk } from "../mod.ts";
import { placesOf, runLoop } from "./loop.mjs";
import type { Measurement, Work } from "./work.ts";

/** How Platter is to do it. */
export interface PlatterOptions {
  /** Which backend. */
  backend: "direct" | "portable" | "memory";
  /** The tree whose library is measured, as a URL; this one by default. */
  root?: string;
  /** Which engine of the direct backend; the best one by default. */
  engine?: EngineName;
  /** One request at a time, a web stream, or many requests in one turn. */
  face: "requests" | "stream" | "turns";
  /** Requests in one turn. */
  turn?: number;
  /** Whether those of one turn lie side by side in memory too. */
  adjacentMemory?: boolean;
  /** Whether to watch resident memory. */
  watchMemory?: boolean;
}

const SECTOR_BYTES = 512;
const MAX_QUEUE_SIZE = 1024;

const { work, options }: { work: Work; options: PlatterOptions } = JSON.parse(
  Deno.args[0]!,
);
const library: typeof import("../mod.ts") = await import(
  new URL("mod.ts", options.root ?? new URL("../", import.meta.url)).href
);
const rss = () => Deno.memoryUsage().rss;

const start = rss();
const openingAt = performance.now();
const disk = await open();
const openMs = performance.now() - openingAt;
const memory = { start, open: rss(), early: 0, peak: 0, end: 0, openMs };
const sampler = options.watchMemory ? watch(work) : undefined;
const measured: Measurement = await measure();
clearInterval(sampler);
measured.engine = disk.info.engine.name;
if (options.backend === "memory") measured.heapBytes = await heapPerRequest();
await disk.close();
if (options.watchMemory) measured.memory = { ...memory, end: rss() };
console.log(JSON.stringify(measured));

function open(): VirtualDisk | Promise<VirtualDisk> {
  const queueSize = Math.min(
    Math.max(128, 2 ** Math.ceil(Math.log2(work.depth))),
    MAX_QUEUE_SIZE,
  );
  if (options.backend === "memory") {
    return library.VirtualDisk.memory({
      sectors: work.bytes / SECTOR_BYTES,
      queueSize,
    });
  }
  return library.VirtualDisk.open(work.path, {
    backend: options.backend,
    direct: work.direct ? "require" : "never",
    readOnly: work.operation === "read",
    queueSize,
    ...(options.engine === undefined ? {} : { engine: options.engine }),
  });
}

function measure(): Promise<Measurement> {
  switch (options.face) {
    case "requests":
      return requests();
    case "stream":
      return stream();
    case "turns":
      return turns();
  }
}

async function requests(): Promise<Measurement> {
  const sectors = work.blockBytes / SECTOR_BYTES;
  const buffers = Array.from(
    { length: work.depth },
    () => disk.allocate(sectors),
  );
  if (options.backend === "memory") {
    for (let at = 0; at < disk.sectors; at += sectors) {
      await disk.write(at, buffers[0]!);
    }
  }
  const next = placesOf(work);
  const read = (slot: number) =>
    disk.readInto(next() * sectors, buffers[slot]!);
  const write = (slot: number) => disk.write(next() * sectors, buffers[slot]!);
  let turn = 0;
  const one = {
    read,
    write,
    mixed: (slot: number) => turn++ % 2 === 0 ? read(slot) : write(slot),
    "write + flush": (slot: number) => {
      write(slot);
      return disk.flush();
    },
  }[work.operation];
  const timed = options.backend !== "memory";
  return await runLoop({ ...work, timed }, one);
}

async function stream(): Promise<Measurement> {
  const chunkSectors = work.blockBytes / SECTOR_BYTES;
  const open = () =>
    disk.readable({ chunkSectors, depth: work.depth })[Symbol.asyncIterator]();
  let chunks = open();
  // One consumer, whatever the depth: reading ahead is up to the stream.
  const measured = await runLoop({ ...work, depth: 1 }, async () => {
    if ((await chunks.next()).done) {
      chunks = open();
      await chunks.next();
    }
  });
  await chunks.return?.();
  return measured;
}

async function turns(): Promise<Measurement> {
  const turn = options.turn!;
  const sectors = work.blockBytes / SECTOR_BYTES;
  const each = sectors / turn;
  const all = disk.allocate(sectors);
  const pieces = Array.from(
    { length: turn },
    (_, i) =>
      options.adjacentMemory
        ? all.subarray(i * each * SECTOR_BYTES, (i + 1) * each * SECTOR_BYTES)
        : disk.allocate(each),
  );
  const next = placesOf(work);
  const pending = new Array<Promise<void>>(turn);
  return await runLoop(work, () => {
    const sector = next() * sectors;
    if (turn === 1) return disk.write(sector, pieces[0]!);
    for (let i = 0; i < turn; i++) {
      pending[i] = disk.write(sector + i * each, pieces[i]!);
    }
    return Promise.all(pending);
  });
}

/** Looks at resident memory ten times a second. */
function watch(
  { seconds, warmUpSeconds }: Work,
): ReturnType<typeof setInterval> {
  const begin = performance.now();
  const quarter = (warmUpSeconds + seconds / 4) * 1000;
  const look = () => {
    const now = rss();
    memory.peak = Math.max(memory.peak, now);
    if (memory.early === 0 && performance.now() - begin >= quarter) {
      memory.early = now;
    }
  };
  return setInterval(look, 100);
}

/**
 * How much JavaScript heap one request takes: the median over short runs, as
 * those in which memory is collected give nonsense.
 */
async function heapPerRequest(): Promise<number> {
  const run = 256;
  const sectors = work.blockBytes / SECTOR_BYTES;
  const buffers = Array.from(
    { length: work.depth },
    () => disk.allocate(sectors),
  );
  const taken: number[] = [];
  for (let i = 0; i < 101; i++) {
    const before = process.memoryUsage().heapUsed;
    for (let done = 0; done < run; done += work.depth) {
      let last: Promise<void> | undefined;
      for (let slot = 0; slot < work.depth; slot++) {
        last = disk.readInto(slot * sectors, buffers[slot]!);
      }
      await last;
    }
    taken.push((process.memoryUsage().heapUsed - before) / run);
  }
  return taken.sort((a, b) => a - b)[50]!;
}
