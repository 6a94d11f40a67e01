/**
 * The shape of a disk: how many sectors, in what blocks. Nothing here is about
 * the host; what O_DIRECT demands of it is another matter and never gets in.
 *
 * @module
 */

import { plural } from "./plural.ts";

/** Bytes of a sector, always: virtio-blk counts every address in these. */
export const SECTOR_BYTES = 512;

/** The largest logical block size, in bytes. */
export const MAX_BLOCK_SIZE = 65_536;

/** The shape of a disk. Sizes of blocks are in bytes, the rest in sectors. */
export interface Geometry {
  /** Capacity in sectors of 512 bytes. */
  readonly sectors: number;
  /** Logical block size in bytes: requests start and end on it. */
  readonly blockSize: number;
  /** Bytes that the medium writes without read-modify-write. */
  readonly physicalBlockSize: number;
  /** Smallest I/O that performs well, in bytes; 0 when not known. */
  readonly minimumIoSize: number;
  /** I/O size that performs best, in bytes; 0 when not known. */
  readonly optimalIoSize: number;
}

/**
 * Makes a geometry and checks it.
 *
 * @param sectors Capacity in sectors.
 * @param blockSize Logical block size in bytes, a power of two from 512 to
 * 65,536.
 * @param more What else is known of the medium.
 * @returns The geometry.
 * @throws {RangeError} If a number is none that a disk can have.
 */
export function makeGeometry(
  sectors: number,
  blockSize: number = SECTOR_BYTES,
  more: Partial<Omit<Geometry, "sectors" | "blockSize">> = {},
): Geometry {
  checkBlockSize(blockSize);
  if (!Number.isInteger(sectors) || sectors < 0) {
    throw new RangeError(
      `Cannot make a disk as its sectors must be an integer ≥ 0: current value is ${sectors}`,
    );
  }
  if (!Number.isSafeInteger(sectors * SECTOR_BYTES)) {
    throw new RangeError(
      `Cannot make a disk as it must be smaller than 8 PiB: current value is ${
        plural(sectors, "sector")
      } of ${SECTOR_BYTES} bytes`,
    );
  }
  if (sectors * SECTOR_BYTES % blockSize !== 0) {
    throw new RangeError(
      `Cannot make a disk of ${
        plural(sectors, "sector")
      } as it must be whole blocks of ${blockSize} bytes`,
    );
  }
  return {
    sectors,
    blockSize,
    physicalBlockSize: Math.max(blockSize, more.physicalBlockSize ?? blockSize),
    minimumIoSize: more.minimumIoSize ?? 0,
    optimalIoSize: more.optimalIoSize ?? 0,
  };
}

/**
 * Checks a logical block size.
 *
 * @param blockSize Bytes.
 * @throws {RangeError} If it is not a power of two from 512 to 65,536.
 */
export function checkBlockSize(blockSize: number): void {
  if (
    !isPowerOfTwo(blockSize) || blockSize < SECTOR_BYTES ||
    blockSize > MAX_BLOCK_SIZE
  ) {
    throw new RangeError(
      `Cannot use a block size that is not a power of two from ${SECTOR_BYTES} to ${MAX_BLOCK_SIZE}: current value is ${blockSize}`,
    );
  }
}

/**
 * Tells whether a number is a power of two that bit arithmetic can hold.
 *
 * @param value The number.
 * @returns Whether it is 1, 2, 4, … 2^30.
 */
export function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && value > 0 && value <= 2 ** 30 &&
    (value & (value - 1)) === 0;
}

/** A run of sectors. */
export interface SectorRange {
  /** First sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
}
