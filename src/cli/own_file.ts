/**
 * Files that are written over without `--force`, as they are an earlier version of
 * what is written: nothing else is lost by that.
 *
 * @module
 */

import { isSame } from "../bytes.ts";
import { openFile } from "../platform/files.ts";

/**
 * Whether a file is empty, or begins as the files that are written there.
 *
 * @param path The file.
 * @param start How each of them begins.
 * @returns Whether it may be written over.
 * @throws {Error} With the system's `code`, if it cannot be read.
 */
export async function isOwnFile(path: string, start: string): Promise<boolean> {
  using file = await openFile(path);
  const wanted = new TextEncoder().encode(start);
  const found = new Uint8Array(wanted.length);
  const length = await file.read(found);
  return length === null || isSame(found.subarray(0, length), wanted);
}
