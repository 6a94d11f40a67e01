/**
 * What is wrong with partitions as places on a disk, whatever table lists them:
 * outside, overlapping, misaligned.
 *
 * @module
 */

import { type Geometry, SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import type { Partition, PartitionProblem } from "./partition_table.ts";

/** Bytes that partitions start on at least: what media write as one block. */
const ALIGNMENT_BYTES = 4096;

/**
 * Looks for what is wrong.
 *
 * @param partitions The partitions.
 * @param usable Where they may be.
 * @param geometry The disk's shape.
 * @returns Problems: at most a few for each partition.
 */
export function checkPartitions(
  partitions: readonly Partition[],
  usable: SectorRange,
  geometry: Pick<Geometry, "sectors" | "physicalBlockSize">,
): PartitionProblem[] {
  return [
    ...partitions.flatMap((it) => outside(it, usable, geometry.sectors)),
    ...overlaps(partitions),
    ...strayLogical(partitions),
    ...misaligned(partitions, geometry.physicalBlockSize),
    ...duplicates(partitions),
  ];
}

/** How a partition and its place read in a message. */
function described({ number, start, sectors }: Partition): string {
  return `Partition ${number} (sectors ${start} to ${start + sectors - 1})`;
}

function endOf({ start, sectors }: Partition): number {
  return start + sectors;
}

function outside(
  partition: Partition,
  usable: SectorRange,
  sectors: number,
): PartitionProblem[] {
  const problem = (message: string): PartitionProblem[] => [
    { kind: "outside", message, partitions: [partition.number] },
  ];
  if (endOf(partition) > sectors) {
    return problem(
      `${
        described(partition)
      } is not all on the disk, which ends at sector ${sectors}`,
    );
  }
  const end = usable.sector + usable.count;
  if (partition.start < usable.sector || endOf(partition) > end) {
    return problem(
      `${
        described(partition)
      } is not all where partitions may be, from sector ${usable.sector} to ${
        end - 1
      }`,
    );
  }
  return [];
}

/** Each partition against the one before it that reaches furthest. */
function overlaps(partitions: readonly Partition[]): PartitionProblem[] {
  // Logical partitions lie in the extended one, which overlaps primary ones only.
  const groups = [
    partitions.filter(({ role }) => role !== "extended"),
    partitions.filter(({ role }) => role !== "logical"),
  ];
  const problems: PartitionProblem[] = [];
  for (const [i, group] of groups.entries()) {
    let furthest: Partition | undefined;
    for (const each of group.toSorted((a, b) => a.start - b.start)) {
      const isKnown = i === 1 && each.role !== "extended" &&
        furthest?.role !== "extended";
      if (furthest !== undefined && each.start < endOf(furthest) && !isKnown) {
        problems.push({
          kind: "overlap",
          message: `${described(furthest)} and ${
            described(each).toLowerCase()
          } overlap`,
          partitions: [furthest.number, each.number],
        });
      }
      if (furthest === undefined || endOf(each) > endOf(furthest)) {
        furthest = each;
      }
    }
  }
  return problems;
}

function strayLogical(partitions: readonly Partition[]): PartitionProblem[] {
  const extended = partitions.find(({ role }) => role === "extended");
  if (extended === undefined) return [];
  return partitions.filter((it) =>
    it.role === "logical" &&
    (it.start < extended.start || endOf(it) > endOf(extended))
  ).map((it) => ({
    kind: "outside",
    message: `${described(it)} is logical and not all in ${
      described(extended).toLowerCase()
    }`,
    partitions: [it.number, extended.number],
  }));
}

function misaligned(
  partitions: readonly Partition[],
  physicalBlockSize: number,
): PartitionProblem[] {
  const bytes = Math.max(physicalBlockSize, ALIGNMENT_BYTES);
  return partitions.filter(({ start, role }) =>
    role !== "extended" && start * SECTOR_BYTES % bytes !== 0
  ).map((it) => ({
    kind: "alignment",
    message: `${
      described(it)
    } does not start on a block of ${bytes} bytes, so that writes to it may be slow`,
    partitions: [it.number],
  }));
}

function duplicates(partitions: readonly Partition[]): PartitionProblem[] {
  const owners = new Map<string, number>();
  const problems: PartitionProblem[] = [];
  for (const { guid, number } of partitions) {
    if (guid === undefined) continue;
    const owner = owners.get(guid);
    if (owner === undefined) {
      owners.set(guid, number);
      continue;
    }
    problems.push({
      kind: "duplicate",
      message: `Partitions ${owner} and ${number} have the same GUID, ${guid}`,
      partitions: [owner, number],
    });
  }
  return problems;
}
