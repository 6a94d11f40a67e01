/**
 * Why a disk cannot have another size: the checks and the words that all
 * backends share.
 *
 * @module
 */

import { DiskError, type DiskErrorKind } from "./errors.ts";
import { type Geometry, SECTOR_BYTES } from "./geometry.ts";
import { plural } from "./plural.ts";

/** Why a backend without a way to change its size does not. */
export const KEEPS_ITS_SIZE =
  "only raw image files and disks in memory can change their size";

/** Why a device does not change its size. */
export const DEVICES_KEEP = "a device has a size of its own";

/** Why an overlay does not change its size. */
export const OVERLAYS_KEEP =
  "an overlay has the size of its base: commit it, and resize the base";

/**
 * The error of a disk that keeps its size.
 *
 * @param reason The second half of "Cannot resize … as …".
 * @param path The image's path.
 * @param kind What kind of error it is.
 * @returns The error.
 */
export function resizeError(
  reason: string,
  path: string | null,
  kind: DiskErrorKind = "unsupported",
): DiskError {
  return new DiskError(
    kind,
    `Cannot resize ${path === null ? "the disk" : `"${path}"`} as ${reason}`,
    { operation: "resize", path: path ?? undefined },
  );
}

/**
 * Checks whether a disk of that shape can have so many sectors.
 *
 * @param sectors Sectors.
 * @param geometry Its shape, of which the block size counts.
 * @throws {RangeError} If it cannot.
 */
export function checkNewSize(sectors: number, geometry: Geometry): void {
  const reason = !Number.isInteger(sectors) || sectors <= 0
    ? "its sectors must be an integer above 0"
    : !Number.isSafeInteger(sectors * SECTOR_BYTES)
    ? `its sectors of ${SECTOR_BYTES} bytes must be less than 8 PiB together`
    : sectors * SECTOR_BYTES % geometry.blockSize !== 0
    ? `its sectors must be whole blocks of ${geometry.blockSize} bytes`
    : null;
  if (reason === null) return;
  throw new RangeError(
    `Cannot resize the disk as ${reason}: current value is ${sectors}`,
  );
}

/**
 * The error of a disk that would lose what it has at its end.
 *
 * @param sectors Sectors that are wanted.
 * @param geometry Its shape.
 * @param path The image's path.
 * @returns The error.
 */
export function wouldLose(
  sectors: number,
  geometry: Geometry,
  path: string | null,
): DiskError {
  return resizeError(
    `it has ${
      plural(geometry.sectors, "sector")
    }, and what lies beyond ${sectors} would be lost: cut it with force: true`,
    path,
    "geometry",
  );
}

/**
 * Refuses to change the size of a file that others have changed since it was
 * opened. To make one longer that was cut would hide that; and what others have
 * put behind the disk's end would be cut off, or turn up on the disk.
 *
 * @param isBytes What it has now.
 * @param wasBytes What the disk has.
 * @param path Its path, for the error.
 * @throws {DiskError} If they differ.
 */
export function refuseChangedSize(
  isBytes: number,
  wasBytes: number,
  path: string,
): void {
  if (isBytes === wasBytes) return;
  const reason = isBytes < wasBytes
    ? "it ends before the disk does: it was cut while open"
    : "it goes on behind the disk's end: others have made it longer while it was open";
  throw resizeError(reason, path, "io");
}
