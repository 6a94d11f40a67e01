/**
 * Reads all that was asked for: one call may bring less.
 *
 * @module
 */

import * as fs from "node:fs";

/**
 * Reads all of some memory from a file.
 *
 * @param fd The file.
 * @param target The memory.
 * @param offset Where in the file, in bytes.
 * @returns Bytes that were read: fewer only at the end of the file.
 */
export function readFullySync(
  fd: number,
  target: Uint8Array,
  offset: number,
): number {
  let done = 0;
  while (done < target.length) {
    const bytes = fs.readSync(
      fd,
      target,
      done,
      target.length - done,
      offset + done,
    );
    if (bytes === 0) break;
    done += bytes;
  }
  return done;
}
