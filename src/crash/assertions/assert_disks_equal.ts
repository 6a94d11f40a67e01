/**
 * The assertion that two disks hold the same. What differs is told by partition,
 * and by what is there in its file system where that is known: a line for each
 * run of sectors, and the bytes of the first few.
 *
 * @module
 */

import { isGranted } from "../../platform/permissions.ts";
import { VirtualDisk } from "../../disk/disk.ts";
import { DiskError } from "../../errors.ts";
import { SECTOR_BYTES, type SectorRange } from "../../geometry.ts";
import { findTable } from "../../image/read_partitions.ts";
import { plural } from "../../plural.ts";
import {
  type AssertSectorsOptions,
  CHUNK_SECTORS,
  Difference,
} from "../../testing/assert_sectors.ts";
import { type ImageRange, ImageRanges } from "../../testing/image_range.ts";
import { explainSectors } from "../report/explain/explain.ts";
import { partsOf as tableParts } from "../report/explain/partitions.ts";

/** How to compare disks. */
export interface AssertDisksOptions extends AssertSectorsOptions {
  /** What may differ: sectors or partitions, such as where a time is kept. */
  ignore?: readonly ImageRange[] | undefined;
  /**
   * Whether programs of the system (`debugfs`, `xfs_db`, …) may say what is in
   * sectors that differ. They look at private copies. Nobody is asked for the
   * permission to run them: without it they are left out.
   *
   * @default {true}
   */
  explain?: boolean | undefined;
}

/** Lines that tell where something differs. */
const MOST_LINES = 40;

/**
 * Asserts that two disks hold the same, and tells what differs: by partition and
 * structure of the file system, runs of sectors on a line each, then the bytes of
 * the first of them.
 *
 * @param actual The disk.
 * @param expected What it should be like.
 * @param options What may differ, and what to show.
 * @returns When they were read and are the same.
 * @throws {DiskAssertionError} If they differ.
 * @throws {DiskError} If a disk fails.
 * @throws {RangeError} If a range to ignore is not on the disk.
 *
 * @example
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { assertDisksEqual } from "@platter/disk/testing";
 * import { assertRejects } from "@std/assert";
 *
 * await using a = VirtualDisk.memory({ sectors: 4096 });
 * await using b = VirtualDisk.memory({ sectors: 4096 });
 * await assertDisksEqual(a, b);
 * await a.write(4000, new Uint8Array(512).fill(1));
 * await assertRejects(() => assertDisksEqual(a, b), Error, "sector 4000");
 * await assertDisksEqual(a, b, { ignore: [{ sector: 4000, count: 1 }] });
 * ```
 */
export async function assertDisksEqual(
  actual: VirtualDisk,
  expected: VirtualDisk,
  options: AssertDisksOptions = {},
): Promise<void> {
  VirtualDisk.check("compare disks", actual, expected);
  const resized = VirtualDisk.resized([actual, expected]);
  if (resized !== null) await resized;
  const difference = new Difference(options, actual.start);
  const sizes = [actual.sectors, expected.sectors] as const;
  const end = Math.min(...sizes);
  const ignored = new ImageRanges(options.ignore ?? [], end, "ignore");
  for (let sector = 0; sector < end; sector += CHUNK_SECTORS) {
    const count = Math.min(CHUNK_SECTORS, end - sector);
    if (
      await isHole(actual, sector, count) &&
      await isHole(expected, sector, count)
    ) continue;
    const [a, b] = await Promise.all([
      actual.read(sector, count),
      expected.read(sector, count),
    ]);
    for (const hidden of ignored.within(sector, count)) {
      const from = (hidden.sector - sector) * SECTOR_BYTES;
      const to = from + hidden.count * SECTOR_BYTES;
      a.set(b.subarray(from, to), from);
    }
    difference.add(sector, a, b);
  }
  const where = await whereOf(
    difference.sectors,
    [actual, expected],
    options.explain ?? true,
  );
  difference.end(
    sizes[0] === sizes[1]
      ? null
      : `The disk has ${plural(sizes[0], "sector")}, and should have ${
        sizes[1]
      }`,
    where,
  );
}

async function isHole(
  disk: VirtualDisk,
  sector: number,
  count: number,
): Promise<boolean> {
  const extents = await disk.extents(sector, count);
  return extents.every(({ hole }) => hole);
}

/** A run of sectors, and what it is, from the outside in. */
interface Place extends SectorRange {
  readonly path: readonly string[];
}

/** Where some sectors are, as lines; none if nothing is known of them. */
async function whereOf(
  sectors: readonly number[],
  disks: readonly VirtualDisk[],
  explain: boolean,
): Promise<string[]> {
  if (sectors.length === 0) return [];
  const runs = runsOf(sectors);
  const places = explain && mayExplain()
    ? await explained(runs, disks)
    : runs.map((run) => ({ ...run, path: [] }));
  const parts = await partsOf(disks);
  const known = places.flatMap((place) =>
    place.path.length > 0 ? [place] : divided(place, parts)
  );
  if (known.every(({ path }) => path.length === 0)) return [];
  const lines: string[] = [];
  let group = "";
  for (const { sector, count, path } of known) {
    const [part = "elsewhere", ...inside] = path;
    if (part !== group) lines.push(`  ${part}:`);
    group = part;
    const name = count === 1
      ? `sector ${sector}`
      : `sectors ${sector} to ${sector + count - 1} (${count})`;
    const what = inside.length === 0 ? "" : `: ${inside.join(", ")}`;
    lines.push(`    ${name}${what}`);
  }
  const rest = lines.length - MOST_LINES;
  return rest > 1
    ? [...lines.slice(0, MOST_LINES), `    … and ${plural(rest, "line")} more`]
    : lines;
}

/** Sectors in order as runs. */
function runsOf(sectors: readonly number[]): SectorRange[] {
  const runs: { sector: number; count: number }[] = [];
  for (const sector of sectors) {
    const last = runs.at(-1);
    if (last !== undefined && last.sector + last.count === sector) last.count++;
    else runs.push({ sector, count: 1 });
  }
  return runs;
}

/** Whether programs may be run and files be made for them, without asking. */
function mayExplain(): boolean {
  return (["run", "read", "write"] as const).every((name) =>
    isGranted({ name })
  );
}

async function explained(
  runs: readonly SectorRange[],
  disks: readonly VirtualDisk[],
): Promise<readonly Place[]> {
  try {
    // What should be there is likelier to be sound.
    return (await explainSectors(runs, disks.toReversed())).ranges;
  } catch {
    // It is a help, and the assertion has something to say without it.
    return runs.map((run) => ({ ...run, path: [] }));
  }
}

/** The partitions of the first disk that has some. */
async function partsOf(disks: readonly VirtualDisk[]): Promise<Place[]> {
  for (const disk of disks.toReversed()) {
    try {
      const parts = tableParts(await findTable(disk))
        .filter(({ partition }) => partition)
        .map(({ name, sector, count }) => ({ sector, count, path: [name] }));
      if (parts.length > 0) return parts;
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
    }
  }
  return [];
}

/** A run cut where partitions begin and end. */
function divided(
  { sector, count }: SectorRange,
  parts: readonly Place[],
): Place[] {
  if (parts.length === 0) return [{ sector, count, path: [] }];
  const end = sector + count;
  const cuts = [
    ...new Set([
      sector,
      ...parts.flatMap((it) => [it.sector, it.sector + it.count])
        .filter((at) => at > sector && at < end),
      end,
    ]),
  ].sort((a, b) => a - b);
  return cuts.slice(0, -1).map((from, i) => ({
    sector: from,
    count: cuts[i + 1]! - from,
    path: parts.find((it) => from >= it.sector && from < it.sector + it.count)
      ?.path ?? ["outside of partitions"],
  }));
}
