/**
 * The shape of a disk on an image, and whether its size allows one.
 *
 * @module
 */

import fs from "node:fs";
import {
  compressionOf,
  contentFormatOf,
  FORMAT_BYTES,
} from "../content_format.ts";
import { DiskError } from "../errors.ts";
import { type Geometry, makeGeometry, SECTOR_BYTES } from "../geometry.ts";
import { plural } from "../plural.ts";
import { formatSize } from "../units.ts";

/** What a medium says of itself, in bytes; what it does not say is left out. */
export interface MediumSizes {
  /** What it writes without read-modify-write. */
  readonly physicalBlockSize?: number | undefined;
  /** Smallest I/O that performs well; 0 when not known. */
  readonly minimumIoSize?: number | undefined;
  /** I/O size that performs best; 0 when not known. */
  readonly optimalIoSize?: number | undefined;
}

/**
 * The shape of a disk on an image.
 *
 * @param path The image's path.
 * @param sizeBytes Its size in bytes.
 * @param blockSize Logical block size in bytes.
 * @param medium What its medium says of itself.
 * @returns The shape.
 * @throws {DiskError} With kind `geometry` if it is no disk of whole blocks, or
 * too large for addresses that are safe integers of bytes.
 */
export function imageGeometry(
  path: string,
  sizeBytes: number,
  blockSize: number,
  medium: MediumSizes,
): Geometry {
  checkImageSize(path, sizeBytes, blockSize);
  const { physicalBlockSize, minimumIoSize = 0, optimalIoSize = 0 } = medium;
  return makeGeometry(sizeBytes / SECTOR_BYTES, blockSize, {
    ...(physicalBlockSize === undefined ? {} : { physicalBlockSize }),
    minimumIoSize,
    optimalIoSize,
  });
}

function checkImageSize(
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
  const format = formatOf(path, sizeBytes);
  throw new DiskError(
    "geometry",
    `Cannot open "${path}" as a disk as ${
      format === null
        ? reason
        : `its content looks like ${format}, and only raw images have sectors: ${
          compressionOf(format) !== null ? "unpack it first" : reason
        }`
    }`,
    { operation: "open", path },
  );
}

/** What an image with such a size is instead, as few others have one. */
function formatOf(path: string, sizeBytes: number): string | null {
  try {
    const { O_RDONLY, O_NONBLOCK } = fs.constants;
    // A pipe that has the name by now would be waited for.
    const fd = fs.openSync(path, O_RDONLY | (O_NONBLOCK ?? 0));
    try {
      const read = (at: number) => {
        const bytes = new Uint8Array(Math.min(FORMAT_BYTES, sizeBytes));
        return bytes.subarray(0, fs.readSync(fd, bytes, 0, bytes.length, at));
      };
      return contentFormatOf(
        read(0),
        read(Math.max(0, sizeBytes - FORMAT_BYTES)),
      );
    } finally {
      fs.closeSync(fd);
    }
  } catch {
    return null;
  }
}
