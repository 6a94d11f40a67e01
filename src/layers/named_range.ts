/**
 * Ranges of a disk that have a name, as layers take them.
 *
 * @module
 */

import { plural } from "../plural.ts";

/** A run of sectors that may have a name. */
export interface NamedRange {
  /** What it is called in errors and figures; its sectors if not given. */
  readonly name?: string | undefined;
  /** First sector. */
  readonly sector: number;
  /** Sectors; the rest of the disk if not given. */
  readonly count?: number | undefined;
}

/**
 * Checks that ranges lie on a disk.
 *
 * @param ranges The ranges.
 * @param sectors The disk's sectors.
 * @param purpose What they are for, as a verb.
 * @throws {RangeError} If one does not.
 */
export function checkRanges(
  ranges: readonly NamedRange[],
  sectors: number,
  purpose: string,
): void {
  for (const { sector, count } of ranges) {
    if (
      Number.isSafeInteger(sector) && sector >= 0 && sector < sectors &&
      (count === undefined ||
        Number.isSafeInteger(count) && count >= 1 && count <= sectors - sector)
    ) continue;
    throw new RangeError(
      `Cannot ${purpose} a range as it must be at least one sector and lie on the disk, which has ${
        plural(sectors, "sector")
      }: current value is ${
        count === undefined ? "all" : plural(count, "sector")
      } from sector ${sector} on`,
    );
  }
}

/**
 * What a range is called.
 *
 * @param range The range.
 * @returns Its name, or its sectors.
 */
export function nameOfRange({ name, sector, count }: NamedRange): string {
  return name ??
    (count === 1
      ? `sector ${sector}`
      : count === undefined
      ? `sectors from ${sector} on`
      : `sectors ${sector} to ${sector + count - 1}`);
}
