/**
 * Gives an image that is open another size.
 *
 * @module
 */

import fs from "node:fs";
import { resizeError } from "../resize.ts";

/**
 * Cuts a file, or makes it longer by a hole.
 *
 * @param fd The file, open for writing.
 * @param path Its path, for the error.
 * @param oldBytes What it should have now.
 * @param newBytes What it should have afterwards.
 * @returns When it has.
 * @throws {DiskError} If it is shorter than it should be: to make it longer would
 * hide that it was cut while it was open.
 */
export async function truncateImage(
  fd: number,
  path: string,
  oldBytes: number,
  newBytes: number,
): Promise<void> {
  if (fs.fstatSync(fd).size < oldBytes) {
    const reason = "it ends before the disk does: it was cut while open";
    throw resizeError(reason, path, "io");
  }
  await new Promise<void>((resolve, reject) =>
    fs.ftruncate(fd, newBytes, (error) => error ? reject(error) : resolve())
  );
}
