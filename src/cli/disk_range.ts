/**
 * Ranges of a disk as they are typed: sectors, bytes, or a partition.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { openPartition } from "../image/open_partition.ts";
import type { Partition } from "../image/partition_table.ts";
import { type FaultDraft, readFaultWord } from "../layers/fault_words.ts";
import type { NamedRange } from "../layers/named_range.ts";
import { printable } from "../printable.ts";

/** A range that was typed: sectors, or the number of a partition. */
export type TypedRange = NamedRange | { readonly partition: number };

/** What a range may be, for a help. */
export const RANGE_HELP: string =
  "A RANGE is sectors as in sector=100..200, sector=100.. or sector=100+8,\n" +
  "bytes as in offset=1MiB..2MiB or offset=1MiB+64KiB, or a partition as in\n" +
  "partition=2.";

/**
 * Reads a range.
 *
 * @param text What was typed.
 * @returns The range.
 * @throws {TypeError} If it is none.
 */
export function parseRange(text: string): TypedRange {
  const partition = /^partition=([1-9]\d{0,8})$/i.exec(text);
  if (partition !== null) return { partition: Number(partition[1]) };
  const draft: FaultDraft = {};
  // The words for places are those of fault rules.
  const fault = /^(sectors?|offset)=/i.test(text)
    ? readFaultWord(text, draft, new Set())
    : 'a range must be as in "sector=8..15", "offset=1MiB..2MiB" or "partition=2"';
  const { sector, count } = draft;
  if (fault !== null || sector === undefined) {
    throw new TypeError(
      `Cannot parse a range as ${fault}: current value is ${
        JSON.stringify(text)
      }`,
    );
  }
  return count === undefined ? { sector } : { sector, count };
}

/**
 * Finds where ranges are on a disk.
 *
 * @param ranges The ranges.
 * @param disk The disk, to look for partitions on.
 * @returns The same with sectors.
 * @throws {DiskError} If there is no such partition, or the disk fails.
 */
export async function placeRanges(
  ranges: readonly TypedRange[],
  disk: VirtualDisk,
): Promise<NamedRange[]> {
  const placed: NamedRange[] = [];
  for (const range of ranges) {
    if (!("partition" in range)) {
      placed.push(range);
      continue;
    }
    const { partition: number } = range;
    await using partition = await openPartition(disk, number);
    const { start, sectors } = partition;
    placed.push({ name: `partition ${number}`, sector: start, count: sectors });
  }
  return placed;
}

/**
 * The ranges of partitions, for what is told of each.
 *
 * @param partitions The partitions.
 * @param sectors The disk's sectors.
 * @returns Those that hold data and lie on the disk.
 */
export function rangesOf(
  partitions: readonly Partition[],
  sectors: number,
): NamedRange[] {
  return partitions.filter((it) =>
    it.role !== "extended" && it.sectors > 0 && it.start + it.sectors <= sectors
  ).map(({ number, name, start, sectors }) => ({
    name: `partition ${number}${name && ` "${printable(name, 36)}"`}`,
    sector: start,
    count: sectors,
  }));
}
