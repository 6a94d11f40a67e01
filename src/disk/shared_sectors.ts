/**
 * Two views of one disk: what is moved from one to the other must not be what it
 * is moved to.
 *
 * @module
 */

import { DiskError } from "../errors.ts";
import { plural } from "../plural.ts";
import { VirtualDisk } from "./disk.ts";

/**
 * Refuses to copy a disk to where some of it would be overwritten before it is
 * read.
 *
 * @param source Where from.
 * @param target Where to; all of the source goes to its beginning.
 * @param operation What is done, as errors name it.
 * @throws {DiskError} Kind `"argument"` if both are the same disk, or slices of
 * one, and share some of these sectors.
 */
export function refuseShared(
  source: VirtualDisk,
  target: VirtualDisk,
  operation: string,
): void {
  const { start, sectors: count } = source;
  const isOne =
    VirtualDisk.identityOf(source) === VirtualDisk.identityOf(target);
  if (!isOne || Math.abs(start - target.start) >= count) return;
  throw new DiskError(
    "argument",
    `Cannot ${operation} ${
      plural(count, "sector")
    } at sector ${start} to sector ${target.start} of the same disk as they must not overlap`,
    { operation, sector: start, count },
  );
}
