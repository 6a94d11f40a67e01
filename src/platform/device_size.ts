/**
 * The size of a device, which is where its end is.
 *
 * @module
 */

import fs from "node:fs";
import { runtime } from "./system.ts";

/** Bytes of a sector of sysfs, whatever the device's block size. */
const SECTOR_BYTES = 512;

/**
 * Finds out how large a file or a device is.
 *
 * @param path Its path.
 * @returns Its size in bytes. Where the runtime cannot seek (Node.js and Bun),
 * Linux's sysfs is asked for that of a device.
 * @throws {Error} If it cannot be opened, or its size not be told.
 */
export function endOf(path: string): number {
  if (runtime === "deno") {
    using file = Deno.openSync(path);
    return file.seekSync(0, Deno.SeekMode.End);
  }
  const stat = fs.statSync(path, { bigint: true });
  if (!stat.isBlockDevice()) return Number(stat.size);
  // MAJOR and MINOR as in glibc's sys/sysmacros.h.
  const major = stat.rdev >> 8n & 0xfffn | stat.rdev >> 32n & 0xffff_f000n;
  const minor = stat.rdev & 0xffn | stat.rdev >> 12n & 0xffff_ff00n;
  const size = `/sys/dev/block/${major}:${minor}/size`;
  return Number(fs.readFileSync(size, "utf8")) * SECTOR_BYTES;
}
