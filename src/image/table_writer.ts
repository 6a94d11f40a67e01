/**
 * Writing tables so that a power cut at any moment leaves one that can be read.
 *
 * What is written goes in steps: everything of a step is written, then there is
 * a flush, then comes the next one. Each step touches only what nobody needs
 * while it is written: a copy that does not count, or one sector, which a medium
 * writes whole or not at all.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";

/** Bytes for a place on a disk. */
export interface Patch {
  /** First byte. */
  readonly offset: number;
  /** What goes there. */
  readonly bytes: Uint8Array;
}

/** A run of bytes. */
export interface ByteRange {
  /** First byte. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

/**
 * Writes one step and flushes. Blocks that are written in part are read first.
 *
 * @param disk The disk.
 * @param patches What to write; nothing is flushed if it is nothing.
 * @throws {DiskError} If it fails.
 */
export async function writeStep(
  disk: VirtualDisk,
  patches: readonly Patch[],
): Promise<void> {
  const { blockSize } = disk;
  // Patches may share a block, with each other too.
  const blocks = new Map<number, Uint8Array>();
  for (const { offset, bytes } of patches) {
    const end = offset + bytes.length;
    const last = Math.ceil(end / blockSize);
    for (let block = Math.floor(offset / blockSize); block < last; block++) {
      const start = block * blockSize;
      const isWhole = offset <= start && end >= start + blockSize;
      const content = blocks.get(block) ??
        (isWhole
          ? new Uint8Array(blockSize)
          : await disk.read(sectorOf(start), blockSize / SECTOR_BYTES));
      const from = Math.max(offset, start);
      const to = Math.min(end, start + blockSize);
      content.set(bytes.subarray(from - offset, to - offset), from - start);
      blocks.set(block, content);
    }
  }
  if (blocks.size === 0) return;
  const written: Promise<void>[] = [];
  for (const [block, content] of blocks) {
    await disk.ready;
    const write = disk.write(sectorOf(block * blockSize), content);
    // All are waited for below; until then a failure must not count as lost.
    write.catch(() => {});
    written.push(write);
  }
  await Promise.all(written);
  if (disk.info.abilities.flush !== "none") await disk.flush();
}

/**
 * Whether two lists of ranges share a byte.
 *
 * @param left One list.
 * @param right The other.
 * @returns Whether they do.
 */
export function intersect(
  left: readonly ByteRange[],
  right: readonly ByteRange[],
): boolean {
  return left.some((a) =>
    right.some((b) =>
      a.offset < b.offset + b.length && b.offset < a.offset + a.length
    )
  );
}

/**
 * Where patches go.
 *
 * @param patches The patches.
 * @returns Their places.
 */
export function placesOf(patches: readonly Patch[]): ByteRange[] {
  return patches.map(({ offset, bytes: { length } }) => ({ offset, length }));
}

/**
 * Refuses a step that would overwrite what must stay readable meanwhile.
 *
 * @param step What is to be written.
 * @param needed What is needed until it is.
 * @param task What is being done, as the error names it.
 * @throws {DiskError} With kind `unsupported` if it would.
 */
export function checkApart(
  step: readonly Patch[],
  needed: readonly ByteRange[],
  task: string,
): void {
  if (!intersect(placesOf(step), needed)) return;
  throw new DiskError(
    "unsupported",
    `Cannot ${task} as what there is must stay readable until the new table is, and lies where that has to go`,
    { operation: "write" },
  );
}

function sectorOf(offset: number): number {
  return offset / SECTOR_BYTES;
}
