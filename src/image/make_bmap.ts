/**
 * Makes a block map of a disk: asks it where it has data, reads that once, and
 * sums it up. One chunk is in memory at a time, and two are in flight.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { type BmapRange, formatBmap } from "./bmap.ts";

/** Bytes of a block of a map, as bmaptool makes them on most file systems. */
const BLOCK_BYTES = 4096;

/** Sectors whose extents are asked for at once: 1 GiB. */
const WINDOW_SECTORS = 2 ** 21;

/** Options for {@linkcode makeBmap}. */
export interface MakeBmapOptions {
  /**
   * Called as work goes on.
   *
   * @param doneSectors Sectors dealt with, holes included.
   * @param totalSectors Sectors in all.
   */
  onProgress?:
    | ((doneSectors: number, totalSectors: number) => void)
    | undefined;
  /** Stops the work, which then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/**
 * Makes the bmap of a disk. A block is in it unless all of it is a hole, as with
 * bmaptool: zeroes that are stored are data, since who flashes by the map leaves
 * everything else as it was on the target.
 *
 * @param disk The disk; it should not change meanwhile.
 * @param options How.
 * @returns The file's content, version 2.0 with SHA-256.
 * @throws {DiskError} Whatever a read failed with. If the signal fired, its
 * reason.
 *
 * @example
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { makeBmap, parseBmap } from "@platter/disk/image";
 * import { assertEquals } from "@std/assert";
 *
 * await using disk = VirtualDisk.memory({ sectors: 2048 });
 * await disk.write(800, new Uint8Array(512).fill(1));
 * const [range] = parseBmap(await makeBmap(disk)).ranges;
 * assertEquals(range!.first <= 100 && 100 <= range!.last, true);
 * ```
 */
export async function makeBmap(
  disk: VirtualDisk,
  options: MakeBmapOptions = {},
): Promise<string> {
  const { signal } = options;
  const resized = VirtualDisk.resized([disk], signal);
  if (resized !== null) await resized;
  const blockBytes = Math.max(BLOCK_BYTES, disk.blockSize);
  const blockSectors = blockBytes / SECTOR_BYTES;
  const ranges: BmapRange[] = [];
  for await (const { first, last } of mappedBlocks(disk, blockSectors)) {
    signal?.throwIfAborted();
    const sector = first * blockSectors;
    const end = Math.min((last + 1) * blockSectors, disk.sectors);
    const hash = createHash("sha256");
    let done = sector;
    const bytes = disk.readable({
      sector,
      count: end - sector,
      depth: 2,
      signal,
    });
    for await (const chunk of bytes) {
      hash.update(chunk);
      done += chunk.length / SECTOR_BYTES;
      options.onProgress?.(done, disk.sectors);
    }
    ranges.push({ first, last, checksum: hash.digest("hex") });
  }
  return formatBmap({
    imageBytes: disk.sectors * SECTOR_BYTES,
    blockBytes,
    ranges,
  });
}

/** Runs of blocks that are not wholly holes, in order and apart. */
async function* mappedBlocks(
  disk: VirtualDisk,
  blockSectors: number,
): AsyncGenerator<{ first: number; last: number }, void> {
  let run: { first: number; last: number } | undefined;
  for (let start = 0; start < disk.sectors; start += WINDOW_SECTORS) {
    const count = Math.min(WINDOW_SECTORS, disk.sectors - start);
    for (const extent of await disk.extents(start, count)) {
      if (extent.hole) continue;
      const first = Math.floor(extent.sector / blockSectors);
      const last = Math.ceil((extent.sector + extent.count) / blockSectors) - 1;
      if (run !== undefined && first <= run.last + 1) {
        run.last = Math.max(run.last, last);
        continue;
      }
      if (run !== undefined) yield run;
      run = { first, last };
    }
  }
  if (run !== undefined) yield run;
}
