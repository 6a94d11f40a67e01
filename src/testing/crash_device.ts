/**
 * What a power cut may do to a disk: the promises of the device that a crash
 * exploration is about.
 *
 * The rules (those of a volatile write cache, as dm-log-writes and the SCSI and
 * NVMe standards have them):
 *
 * - A write that was submitted may be on the medium from then on; it surely is
 *   once it is durable. Until then each of its blocks is there or not, each by
 *   itself, unless the device promises more.
 * - A flush makes durable what *completed* before the flush was submitted, and
 *   does so when it completes. A FUA write is durable when it completes. On a
 *   write-through device every write is.
 * - Of several writes of one block, the durable one and any later one may be
 *   what is found; one before the durable one never is.
 * - A block is found as one write left it: it is never a mixture, unless the
 *   device tears blocks. Then any block of a write that is neither durable nor
 *   atomic may be a mixture of it and of one write before it.
 * - On a device that keeps the order, whatever comes before what is durable is
 *   durable as well; a write cut off in the middle has lost its last blocks,
 *   and only the block at the cut is torn.
 * - What a failed flush was to write is there, or not, or torn where the device
 *   tears, block by block, whatever comes later and whatever order is kept; it
 *   may have failed from the moment on at which that flush was submitted.
 * - A durable discard has happened, to each block or not as `discarded` says,
 *   and tears nothing.
 *
 * @module
 */

import { checkBlockSize, isPowerOfTwo, SECTOR_BYTES } from "../geometry.ts";
import { inspected } from "../platform/inspect.ts";
import { plural } from "../plural.ts";

/** A device and what it promises. */
export interface CrashDevice {
  /** Capacity in sectors of 512 bytes; that of `base` if there is one. */
  sectors?: number;
  /**
   * Logical block size in bytes, which the device writes wholly or not at all
   * (but see `tornBlocks`); that of `base` if there is one.
   *
   * @default {512}
   */
  blockSize?: number;
  /**
   * `"writeback"`: a completed write is in a cache that a power cut empties.
   * `"writethrough"`: it is on the medium.
   *
   * @default {"writeback"}
   */
  cache?: "writeback" | "writethrough";
  /**
   * Whether the cache writes back in any order. If not, what is found is the
   * durable image and the first so many blocks that were written after it.
   *
   * @default {true}
   */
  reorders?: boolean;
  /**
   * Whether a block may be torn inside: a first part of it new and the rest
   * old, or the other way round. It is torn in the middle of what differs, as
   * any other place is less likely to be noticed.
   *
   * @default {false}
   */
  tornBlocks?: boolean;
  /**
   * Atomic write unit in bytes: a write, of data or of zeroes, of at most this
   * much, a power of two and on a multiple of its own length, is found wholly
   * or not at all. That goes for a single block as well, whatever `tornBlocks`
   * says.
   *
   * @default {0}
   */
  atomicWriteBytes?: number;
  /**
   * Whether a flush does what it says. There are devices that lie.
   *
   * @default {true}
   */
  honorsFlush?: boolean;
  /**
   * Whether FUA does what it says.
   *
   * @default {true}
   */
  honorsFua?: boolean;
  /**
   * What a discarded block reads as after the cut: zeroes once the discard is
   * durable, what it was before, or either of them, each block by itself.
   *
   * @default {"either"}
   */
  discarded?: "zero" | "old" | "either";
  /**
   * Which flushes of the workload fail with EIO, counted from 1: from where it
   * begins. A `CrashRecorder` counts from its `start()`, as what prepares a disk
   * is not to fail; without that call none fails. What such a
   * flush was to write is marked clean and reads as new, but each block of it
   * may never reach the medium, whatever is flushed later: what Linux file
   * systems do (Rebello et al., "Can Applications Recover from fsync
   * Failures?", ATC 2020).
   */
  failFlushes?: readonly number[];
}

/** A device with nothing left open. */
export interface CompleteCrashDevice {
  /** Capacity in sectors. */
  readonly sectors: number;
  /** Logical block size in bytes. */
  readonly blockSize: number;
  /** Sectors of a block. */
  readonly blockSectors: number;
  /** Whether a completed write may be lost. */
  readonly writeBack: boolean;
  /** Whether the cache writes back in any order. */
  readonly reorders: boolean;
  /** Whether a block may be torn inside. */
  readonly tornBlocks: boolean;
  /** Atomic write unit in bytes. */
  readonly atomicWriteBytes: number;
  /** Whether a flush does what it says. */
  readonly honorsFlush: boolean;
  /** Whether FUA does what it says. */
  readonly honorsFua: boolean;
  /** What a discarded block reads as. */
  readonly discarded: "zero" | "old" | "either";
  /** Which flushes fail. */
  readonly failFlushes: ReadonlySet<number>;
}

/**
 * Fills in what a device left open, and checks it.
 *
 * @param device The device.
 * @param base The shape of the disk below, if there is one.
 * @returns The device, complete.
 * @throws {RangeError} If it cannot have that shape, or fail such a flush.
 * @throws {TypeError} If a promise is none that there is.
 */
export function completeCrashDevice(
  device: CrashDevice,
  base?: { readonly sectors: number; readonly blockSize: number },
): CompleteCrashDevice {
  const sectors = device.sectors ?? base?.sectors;
  const blockSize = device.blockSize ?? base?.blockSize ?? SECTOR_BYTES;
  const { cache = "writeback", discarded = "either", atomicWriteBytes = 0 } =
    device;
  checkBlockSize(blockSize);
  if (
    sectors === undefined || !Number.isSafeInteger(sectors) ||
    !Number.isSafeInteger(sectors * SECTOR_BYTES) ||
    sectors <= 0 || sectors * SECTOR_BYTES % blockSize !== 0
  ) {
    throw new RangeError(
      `Cannot explore crashes as device.sectors must be a safe integer above 0 and whole blocks of ${blockSize} bytes: current value is ${sectors}`,
    );
  }
  if (base !== undefined) {
    if (sectors !== base.sectors || blockSize % base.blockSize !== 0) {
      throw new RangeError(
        `Cannot explore crashes as the device must have the shape of its base, ${
          plural(base.sectors, "sector")
        } in blocks of ${base.blockSize} bytes: current value is ${
          plural(sectors, "sector")
        } in blocks of ${blockSize} bytes`,
      );
    }
  }
  if (cache !== "writeback" && cache !== "writethrough") {
    throw new TypeError(
      `Cannot explore crashes as device.cache must be one of "writeback", "writethrough": current value is ${
        JSON.stringify(cache)
      }`,
    );
  }
  if (discarded !== "zero" && discarded !== "old" && discarded !== "either") {
    throw new TypeError(
      `Cannot explore crashes as device.discarded must be one of "zero", "old", "either": current value is ${
        JSON.stringify(discarded)
      }`,
    );
  }
  if (
    atomicWriteBytes !== 0 &&
    (!isPowerOfTwo(atomicWriteBytes) || atomicWriteBytes < blockSize)
  ) {
    throw new RangeError(
      `Cannot explore crashes as device.atomicWriteBytes must be 0 or a power of two from the block size on: current value is ${atomicWriteBytes}`,
    );
  }
  const {
    reorders = true,
    tornBlocks = false,
    honorsFlush = true,
    honorsFua = true,
    failFlushes = [],
  } = device;
  const promises = { reorders, tornBlocks, honorsFlush, honorsFua };
  for (const [name, value] of Object.entries(promises)) {
    if (typeof value === "boolean") continue;
    throw new TypeError(
      `Cannot explore crashes as device.${name} must be a boolean: current value is ${
        inspected(value)
      }`,
    );
  }
  if (!Array.isArray(failFlushes)) {
    throw new TypeError(
      `Cannot explore crashes as device.failFlushes must be an array: current value is ${
        inspected(failFlushes)
      }`,
    );
  }
  // A number that is none would fail no flush, and nobody would notice.
  for (const number of failFlushes) {
    if (Number.isSafeInteger(number) && number >= 1) continue;
    throw new RangeError(
      `Cannot explore crashes as device.failFlushes must be safe integers from 1: current value is ${
        inspected(failFlushes)
      }`,
    );
  }
  return {
    sectors,
    blockSize,
    blockSectors: blockSize / SECTOR_BYTES,
    writeBack: cache === "writeback",
    ...promises,
    atomicWriteBytes,
    discarded,
    failFlushes: new Set(failFlushes),
  };
}

/**
 * A device in words.
 *
 * @param device The device.
 * @returns One line.
 */
export function describeCrashDevice(device: CompleteCrashDevice): string {
  const words = [
    device.writeBack ? "write-back cache" : "write-through",
    device.reorders
      ? "writes back in any order"
      : "writes back in the order of submission",
    device.tornBlocks
      ? `blocks of ${device.blockSize} bytes may be torn inside`
      : `blocks of ${device.blockSize} bytes are written wholly or not`,
  ];
  if (device.atomicWriteBytes > 0) {
    words.push(`aligned writes up to ${device.atomicWriteBytes} bytes, too`);
  }
  if (!device.honorsFlush) words.push("ignores flushes");
  if (!device.honorsFua) words.push("ignores FUA");
  return words.join(", ");
}
