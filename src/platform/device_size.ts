/**
 * The size of a device, which is where its end is.
 *
 * @module
 */

import fs from "node:fs";
import { runtime } from "./system.ts";

/** Bytes of a sector of sysfs, whatever the device's block size. */
const SECTOR_BYTES = 512;

/** A file or a device that is open for its size. */
export interface SizedFile {
  /** Its size in bytes, which may have changed. */
  size(): number;
  /** Closes it. */
  close(): void;
}

/**
 * Opens a file or a device for its size.
 *
 * @param path Its path.
 * @returns It. Where the runtime cannot seek (Node.js and Bun), Linux's sysfs is
 * asked for the size of a device.
 * @throws {Error} If it cannot be opened.
 */
export function openSized(path: string): SizedFile {
  if (runtime === "deno") {
    const file = Deno.openSync(path);
    return {
      size: () => file.seekSync(0, Deno.SeekMode.End),
      close: () => file.close(),
    };
  }
  const stat = fs.statSync(path, { bigint: true });
  const close = () => {};
  if (!stat.isBlockDevice()) {
    return { size: () => fs.statSync(path).size, close };
  }
  // MAJOR and MINOR as in glibc's sys/sysmacros.h.
  const major = stat.rdev >> 8n & 0xfffn | stat.rdev >> 32n & 0xffff_f000n;
  const minor = stat.rdev & 0xffn | stat.rdev >> 12n & 0xffff_ff00n;
  const size = `/sys/dev/block/${major}:${minor}/size`;
  return {
    size: () => Number(fs.readFileSync(size, "utf8")) * SECTOR_BYTES,
    close,
  };
}

/**
 * Finds out how large a file or a device is.
 *
 * @param path Its path.
 * @returns Its size in bytes, as {@linkcode openSized} has it.
 * @throws {Error} If it cannot be opened, or its size not be told.
 */
export function endOf(path: string): number {
  const file = openSized(path);
  try {
    return file.size();
  } finally {
    file.close();
  }
}
