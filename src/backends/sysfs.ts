/**
 * What Linux tells of a block device's queue in /sys, read only where Deno's
 * permissions already allow it, so that there is no prompt.
 *
 * @module
 */

import fs from "node:fs";
import { isPowerOfTwo } from "../geometry.ts";
import { isGranted } from "../platform/permissions.ts";

/** No host is known to want more of offsets and lengths, in bytes. */
export const MAX_ALIGNMENT = 65_536;

/** What is known of the block device that an image lies on. */
export interface QueueAttributes {
  /** `"write back"` or `"write through"`. */
  readonly writeCache: string | undefined;
  /** Logical block size in bytes. */
  readonly logicalBlockSize: number | undefined;
  /** Physical block size in bytes. */
  readonly physicalBlockSize: number | undefined;
  /** Smallest I/O that performs well, in bytes. */
  readonly minimumIoSize: number | undefined;
  /** I/O size that performs best, in bytes; 0 when not known. */
  readonly optimalIoSize: number | undefined;
  /** Most bytes of one discard; 0 when it has none. */
  readonly discardMaxBytes: number | undefined;
}

/**
 * Reads the queue attributes of a block device or of the disk it is part of.
 *
 * @param major The device's major number.
 * @param minor The device's minor number.
 * @returns What could be read.
 */
export function queueAttributes(major: number, minor: number): QueueAttributes {
  const device = `/sys/dev/block/${major}:${minor}`;
  const read = (name: string): string | undefined =>
    // A partition has no queue of its own.
    readGranted(`${device}/queue/${name}`) ??
      readGranted(`${device}/../queue/${name}`);
  const number = (name: string): number | undefined => {
    const text = read(name);
    return text === undefined ? undefined : Number(text);
  };
  return {
    writeCache: read("write_cache"),
    logicalBlockSize: number("logical_block_size"),
    physicalBlockSize: number("physical_block_size"),
    minimumIoSize: number("minimum_io_size"),
    optimalIoSize: number("optimal_io_size"),
    discardMaxBytes: number("discard_max_bytes"),
  };
}

/**
 * How many flushes a block device has carried out since it is there: the 16th
 * number of `stat` (Documentation/block/stat.rst, since Linux 5.5). They are
 * counted for whole disks. Drivers above other devices (`dm`, `md`) hand flushes
 * down and count none.
 *
 * @param major The device's major number.
 * @param minor The device's minor number.
 * @returns The count; `undefined` if it cannot be told.
 */
export function completedFlushes(
  major: number,
  minor: number,
): number | undefined {
  const device = `/sys/dev/block/${major}:${minor}`;
  const has = (name: string) => readGranted(`${device}/${name}`) !== undefined;
  if (has("dm/name") || has("md/level")) return undefined;
  const disk = has("partition") ? `${device}/..` : device;
  const count = readGranted(`${disk}/stat`)?.split(/\s+/)[15];
  return count === undefined ? undefined : Number(count);
}

/**
 * The two halves of a device's number on Linux, each of which has a low and a
 * high part: `gnu_dev_major` and `gnu_dev_minor` of glibc's <sys/sysmacros.h>.
 *
 * @param device The number, as `stat` gives it.
 * @returns Its halves.
 */
export function splitDevice(device: bigint): { major: number; minor: number } {
  const major = device >> 8n & 0xfffn | device >> 32n & 0xffff_f000n;
  const minor = device & 0xffn | device >> 12n & 0xffff_ff00n;
  return { major: Number(major), minor: Number(minor) };
}

/**
 * Whether a number of sysfs can be an alignment.
 *
 * @param bytes The number.
 * @returns Whether it is a power of two from 512 to 64 KiB.
 */
export function isAlignment(bytes: number | undefined): bytes is number {
  return bytes !== undefined && isPowerOfTwo(bytes) && bytes >= 512 &&
    bytes <= MAX_ALIGNMENT;
}

function readGranted(path: string): string | undefined {
  try {
    const permission = { name: "read", path } as const;
    if (!isGranted(permission)) {
      return undefined;
    }
    return fs.readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}
