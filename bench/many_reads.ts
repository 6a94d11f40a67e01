/**
 * Reads for a while, of one disk or of several: what `many.ts` measures, here and
 * in Workers.
 *
 * @module
 */

import process from "node:process";
import type { VirtualDisk } from "@platter/disk";
import { placesOf } from "./loop.mjs";

/** What reading for a while gave. */
export interface Rates {
  /** Reads a second. */
  readonly rate: number;
  /** The processor's time for each, of the whole process, in µs. */
  readonly cpuUs: number;
}

const BLOCK_BYTES = 4096;
const BLOCK_SECTORS = BLOCK_BYTES / 512;

/**
 * Reads blocks of 4 KiB at random.
 *
 * @param disks The disks, alike in size; they take turns.
 * @param depth Reads in flight, on all of them together.
 * @param ms How long.
 * @returns What it gave.
 */
export async function readFor(
  disks: readonly VirtualDisk[],
  depth: number,
  ms: number,
): Promise<Rates> {
  const next = placesOf({
    order: "random",
    bytes: disks[0]!.sectors * 512,
    blockBytes: BLOCK_BYTES,
    seed: 12_345,
  });
  const memory = Array.from(
    { length: depth },
    () => disks[0]!.allocate(BLOCK_SECTORS),
  );
  let count = 0;
  const spent = process.cpuUsage();
  const start = performance.now();
  const end = start + ms;
  await Promise.all(memory.map(async (buffer, slot) => {
    for (let i = slot; performance.now() < end; i += depth) {
      const disk = disks[i % disks.length]!;
      await disk.readInto(next() * BLOCK_SECTORS, buffer);
      count++;
    }
  }));
  const seconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(spent);
  return { rate: count / seconds, cpuUs: (user + system) / count };
}
