/**
 * An assertion about where an overlay was written.
 *
 * @module
 */

import type { SectorRange } from "../geometry.ts";
import type { Overlay } from "../layers/overlay.ts";
import { plural } from "../plural.ts";
import { DiskAssertionError } from "./assert_sectors.ts";
import { type ImageRange, ImageRanges } from "./image_range.ts";

/** Runs that are listed. */
const SHOWN = 20;

/** Sectors that the error lists. */
const MOST_SECTORS = 65_536;

/**
 * Asserts that an overlay was changed in some ranges and nowhere else: "nothing
 * outside partition 2 was written". A sector that was written with what it had
 * before counts as well.
 *
 * @param overlay The overlay, with all that is to be looked at awaited.
 * @param ranges Where it may be changed: sectors or partitions.
 * @throws {DiskAssertionError} If it was changed elsewhere.
 * @throws {RangeError} If a range is not on the disk.
 *
 * @example
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { assertOnlyChanged, overlay } from "@platter/disk/testing";
 * import { assertThrows } from "@std/assert";
 *
 * const changes = overlay(new MemoryBackend({ sectors: 4096 }));
 * await using disk = VirtualDisk.over(changes);
 * await disk.write(2048, new Uint8Array(1024));
 * assertOnlyChanged(changes, [{ sector: 2048, count: 8 }]);
 * await disk.write(0, new Uint8Array(512));
 * assertThrows(
 *   () => assertOnlyChanged(changes, [{ sector: 2048, count: 8 }]),
 *   Error,
 *   "sector 0",
 * );
 * ```
 */
export function assertOnlyChanged(
  overlay: Overlay,
  ranges: readonly ImageRange[],
): void {
  const allowed = new ImageRanges(ranges, overlay.geometry.sectors, "allow");
  const outside = overlay.changes().flatMap(({ sector, count }) =>
    allowed.outside(sector, count)
  ).reduce(join, []);
  if (outside.length === 0) return;
  const all = outside.reduce((sum, { count }) => sum + count, 0);
  const sectors: number[] = [];
  for (const { sector, count } of outside) {
    for (let i = 0; i < count && sectors.length < MOST_SECTORS; i++) {
      sectors.push(sector + i);
    }
  }
  const more = outside.length - SHOWN;
  throw new DiskAssertionError(
    [
      `${plural(all, "sector")} ${
        all === 1 ? "was" : "were"
      } written outside ${allowed.name}:`,
      ...outside.slice(0, SHOWN).map((range) => `  ${nameOf(range)}`),
      ...(more > 0 ? [`  … and ${plural(more, "run")} more`] : []),
    ].join("\n"),
    sectors,
  );
}

/** Joins runs that adjoin: zeroes and data are runs of their own. */
function join(runs: SectorRange[], next: SectorRange): SectorRange[] {
  const last = runs.at(-1);
  if (last === undefined || last.sector + last.count !== next.sector) {
    runs.push(next);
  } else {
    runs[runs.length - 1] = {
      sector: last.sector,
      count: last.count + next.count,
    };
  }
  return runs;
}

function nameOf({ sector, count }: SectorRange): string {
  return count === 1
    ? `sector ${sector}`
    : `sectors ${sector} to ${sector + count - 1}, ${plural(count, "sector")}`;
}
