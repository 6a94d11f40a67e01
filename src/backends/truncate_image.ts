/**
 * Gives an image that is open another size.
 *
 * @module
 */

import fs from "node:fs";
import { refuseChangedSize } from "../resize.ts";

/**
 * Cuts a file, or makes it longer by a hole.
 *
 * @param fd The file, open for writing.
 * @param path Its path, for the error.
 * @param oldBytes What it should have now.
 * @param newBytes What it should have afterwards.
 * @returns When it has.
 * @throws {DiskError} If it has another size than it should.
 */
export async function truncateImage(
  fd: number,
  path: string,
  oldBytes: number,
  newBytes: number,
): Promise<void> {
  refuseChangedSize(fs.fstatSync(fd).size, oldBytes, path);
  await new Promise<void>((resolve, reject) =>
    fs.ftruncate(fd, newBytes, (error) => error ? reject(error) : resolve())
  );
}
