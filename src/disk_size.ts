/**
 * How large a disk is to be: in sectors, or as a size.
 *
 * @module
 */

import { SECTOR_BYTES } from "./geometry.ts";
import { parseSize } from "./units.ts";

/** How large a disk is to be, said in one of two ways. */
export interface DiskSize {
  /** Capacity in sectors of 512 bytes; not beside `size`. */
  sectors?: number | undefined;
  /**
   * Capacity in bytes, or with a unit as {@linkcode parseSize} reads it:
   * `"64MiB"`. It must be whole sectors; not beside `sectors`.
   */
  size?: number | string | undefined;
}

/**
 * Reads a size.
 *
 * @param wanted The size.
 * @param task What it is for, as errors name it.
 * @returns Sectors; a number that was given as such is not checked.
 * @throws {TypeError} If there is not exactly one of both, or it is no size.
 * @throws {RangeError} If it is not whole sectors.
 */
export function sectorsOf(wanted: DiskSize, task: string): number {
  const { sectors, size } = wanted;
  if ((sectors === undefined) === (size === undefined)) {
    throw new TypeError(
      `Cannot ${task} as it must be given one of sectors and size: current values are ${sectors} and ${size}`,
    );
  }
  if (size === undefined) return sectors!;
  const bytes = typeof size === "string" ? parseSize(size) : size;
  if (!Number.isSafeInteger(bytes) || bytes < 0 || bytes % SECTOR_BYTES !== 0) {
    throw new RangeError(
      `Cannot ${task} as its size must be whole sectors of ${SECTOR_BYTES} bytes: current value is ${
        typeof size === "string" ? JSON.stringify(size) : size
      }`,
    );
  }
  return bytes / SECTOR_BYTES;
}
