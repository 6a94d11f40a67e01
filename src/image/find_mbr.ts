/**
 * The partitions of an MBR on a disk, and the chain of boot records that hold
 * the logical ones: followed no further than it makes sense, since it is a list
 * of places that anybody may have written.
 *
 * @module
 */

import { fileSystemNameOf } from "./file_system_signature.ts";
import {
  decodeEntries,
  isExtended,
  isUsed,
  type Mbr,
  MBR_BYTES,
  type MbrEntry,
} from "./mbr.ts";
import type { PartitionProblem } from "./partition_table.ts";
import type { TableReader } from "./table_reader.ts";

/** Logical partitions that are listed at most; Linux knows fewer of a disk. */
export const MAX_LOGICAL = 256;

/** Bytes of a partition's start that tell whether a file system is there. */
const PROBE_BYTES = 4096;

/** A partition of an MBR. Places are blocks of the whole disk. */
export interface MbrPartition extends MbrEntry {
  /** Its number. */
  readonly number: number;
  /** Where its entry stands. */
  readonly role: "primary" | "extended" | "logical";
}

/** What the chain of logical partitions is. */
interface Chain {
  /** The partitions. */
  readonly partitions: readonly MbrPartition[];
  /** The blocks that its records stand in. */
  readonly records: readonly number[];
  /** What is wrong with it. */
  readonly problems: readonly PartitionProblem[];
}

/**
 * Lists the primary and extended partitions of an MBR.
 *
 * @param mbr The MBR.
 * @returns Its partitions, by number.
 */
export function primariesOf(mbr: Mbr): MbrPartition[] {
  return mbr.entries.flatMap((entry, i) =>
    isUsed(entry)
      ? [{
        ...entry,
        number: i + 1,
        role: isExtended(entry.type) ? "extended" : "primary",
      }]
      : []
  );
}

/**
 * Follows the chain of logical partitions.
 *
 * @param reader The disk.
 * @param primaries What the MBR says.
 * @param sectorSize Bytes of a sector.
 * @returns What is in the first extended partition.
 */
export async function findLogical(
  reader: TableReader,
  primaries: readonly MbrPartition[],
  sectorSize: number,
): Promise<Chain> {
  const partitions: MbrPartition[] = [];
  const records: number[] = [];
  const problems: PartitionProblem[] = [];
  const broken = (message: string, numbers: number[] = []) =>
    void problems.push({ kind: "chain", message, partitions: numbers });
  const [extended, second] = primaries.filter((it) => it.role === "extended");
  if (extended === undefined) return { partitions, records, problems };
  if (second !== undefined) {
    broken(
      `Partition ${second.number} is a second extended partition, which is not looked into`,
      [second.number],
    );
  }
  const seen = new Set<number>();
  // Links count from the start of the extended partition, partitions from the
  // record that they stand in.
  for (let at: number | null = extended.start; at !== null;) {
    if (seen.has(at)) {
      broken(`The chain of logical partitions comes back to block ${at}`);
      break;
    }
    seen.add(at);
    if (records.length === MAX_LOGICAL) {
      broken(
        `The chain of logical partitions has more than ${MAX_LOGICAL} records, and the rest is not listed`,
      );
      break;
    }
    const bytes = await reader.read(at * sectorSize, MBR_BYTES);
    const entries = bytes === null ? null : decodeEntries(bytes);
    if (entries === null) {
      broken(
        bytes === null
          ? `The record of logical partitions at block ${at} is not on the disk or cannot be read`
          : `There is no record of logical partitions at block ${at}`,
      );
      break;
    }
    records.push(at);
    const used = entries.filter(isUsed);
    const data = used.filter(({ type }) => !isExtended(type));
    const links = used.filter(({ type }) => isExtended(type));
    if (data.length > 1 || links.length > 1) {
      broken(
        `The record of logical partitions at block ${at} has more than one partition and one link, of which the first ones count`,
      );
    }
    const [first] = data;
    if (first !== undefined) {
      partitions.push({
        ...first,
        start: at + first.start,
        number: 5 + partitions.length,
        role: "logical",
      });
    }
    const [link]: MbrEntry[] = links;
    if (link === undefined) break;
    at = extended.start + link.start;
    if (at >= extended.start + extended.count) {
      broken(
        `The chain of logical partitions leaves partition ${extended.number} for block ${at}`,
        [extended.number],
      );
    }
  }
  return { partitions, records, problems };
}

/**
 * Finds out what sector size an MBR was made for, which it does not say: that
 * of the disk, unless its partitions would not fit, or what they hold begins
 * where the other size puts it.
 *
 * @param reader The disk.
 * @param primaries What the MBR says.
 * @param sectorSize The disk's sector size.
 * @param other The other one that there may be.
 * @returns One of them.
 */
export async function sectorSizeOfMbr(
  reader: TableReader,
  primaries: readonly MbrPartition[],
  sectorSize: number,
  other: number,
): Promise<number> {
  const fits = (size: number) =>
    primaries.every(({ start, count }) =>
      (start + count) * size <= reader.size
    );
  const [first] = primaries;
  if (first === undefined || !fits(other)) return sectorSize;
  if (!fits(sectorSize)) return other;
  // Tools align to 1 MiB: what begins there as it is needs no other reading.
  if (sectorSize < other && first.start * sectorSize % 2 ** 20 === 0) {
    return sectorSize;
  }
  const isThere = async (size: number) => {
    const bytes = await reader.read(first.start * size, PROBE_BYTES);
    return bytes !== null &&
      (first.role === "extended"
        ? decodeEntries(bytes) !== null
        : fileSystemNameOf(bytes) !== null);
  };
  if (await isThere(sectorSize)) return sectorSize;
  return await isThere(other) ? other : sectorSize;
}
