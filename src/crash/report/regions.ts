/**
 * Divides what was written of a disk into a few regions: what lies together is
 * one, so that a picture has a lane for each, and none for the rest of the disk.
 *
 * @module
 */

/** Sectors next to each other. */
export interface SectorRange {
  /** First sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
}

/** Regions that a large one is divided into, if there are no more anyway. */
const WANTED = 6;

/** Sectors from which on a region is worth dividing. */
const LARGE = 64;

/**
 * Divides what was written into regions.
 *
 * @param written What was written, in any order, also more than once.
 * @param most How many regions there may be, at least 1.
 * @returns Regions in the order of the disk, which hold all of it.
 */
export function regionsOf(
  written: readonly SectorRange[],
  most: number,
): SectorRange[] {
  const runs = joined(written);
  // The widest gaps stay.
  const gaps = runs.slice(1).map(({ sector }, i) => ({
    before: i + 1,
    width: sector - runs[i]!.sector - runs[i]!.count,
  })).sort((a, b) => b.width - a.width).slice(0, most - 1);
  const starts = [0, ...gaps.map(({ before }) => before)].sort((a, b) => a - b);
  const regions = runs.length === 0 ? [] : starts.map((first, i) => {
    const last = runs[(starts[i + 1] ?? runs.length) - 1]!;
    const { sector } = runs[first]!;
    return { sector, count: last.sector + last.count - sector };
  });
  while (regions.length < Math.min(most, WANTED)) {
    const largest = regions.reduce(
      (best, { count }, i) => count > (regions[best]?.count ?? 0) ? i : best,
      -1,
    );
    if (largest < 0 || regions[largest]!.count < LARGE) break;
    const { sector, count } = regions[largest]!;
    // On whole 4 KiB, which is where programs' blocks end.
    const half = Math.ceil(count / 16) * 8;
    regions.splice(
      largest,
      1,
      { sector, count: half },
      { sector: sector + half, count: count - half },
    );
  }
  return regions;
}

/**
 * Sorts ranges, and joins those that touch or overlap.
 *
 * @param ranges Ranges in any order.
 * @returns The same sectors, each once.
 */
export function joined(ranges: readonly SectorRange[]): SectorRange[] {
  const sorted = ranges.filter(({ count }) => count > 0)
    .sort((a, b) => a.sector - b.sector);
  const runs: { sector: number; count: number }[] = [];
  for (const { sector, count } of sorted) {
    const last = runs.at(-1);
    if (last !== undefined && sector <= last.sector + last.count) {
      last.count = Math.max(last.count, sector + count - last.sector);
    } else runs.push({ sector, count });
  }
  return runs;
}
