/**
 * Whether an image can be a disk by its size.
 *
 * @module
 */

import { DiskError } from "../errors.ts";
import { plural } from "../plural.ts";
import { formatSize } from "../units.ts";

/**
 * Checks the size of an image.
 *
 * @param path The image's path.
 * @param sizeBytes Its size in bytes.
 * @param blockSize Logical block size in bytes.
 * @throws {DiskError} With kind `geometry` if it is no disk of whole blocks, or
 * too large for addresses that are safe integers of bytes.
 */
export function checkImageSize(
  path: string,
  sizeBytes: number,
  blockSize: number,
): void {
  const reason = !Number.isSafeInteger(sizeBytes)
    ? `it must be smaller than 8 PiB: current value is ${formatSize(sizeBytes)}`
    : sizeBytes % blockSize !== 0
    ? `its size must be whole blocks of ${blockSize} bytes: current value is ${
      plural(sizeBytes, "byte")
    }`
    : null;
  if (reason === null) return;
  throw new DiskError(
    "geometry",
    `Cannot open "${path}" as a disk as ${reason}`,
    { operation: "open", path },
  );
}
