/**
 * A table of partitions as people read it.
 *
 * @module
 */

import { SECTOR_BYTES } from "../geometry.ts";
import type { Partition, PartitionTable } from "../image/partition_table.ts";
import { plural } from "../plural.ts";
import { printable } from "../printable.ts";
import { formatSize } from "../units.ts";

/** Columns that the type of a partition has at least. */
const TYPE_COLUMNS = 18;

/**
 * What kind of table there is, in one line.
 *
 * @param table The table.
 * @returns For example `"GPT, 2 partitions"`.
 */
export function tableHeadline(table: PartitionTable): string {
  const { kind, sectorSize, copy, partitions } = table;
  if (kind === "none") return "none";
  const used = copy === "backup"
    ? ", by its backup copy"
    : copy === null
    ? ", neither copy of which can be used"
    : "";
  const size = sectorSize === SECTOR_BYTES
    ? ""
    : `, for sectors of ${sectorSize} bytes`;
  const count = plural(partitions.length, "partition");
  return `${kind.toUpperCase()}, ${count}${used}${size}`;
}

/**
 * The partitions of a table, one to a line below a heading.
 *
 * @param table The table.
 * @returns The lines; none if there are no partitions.
 */
export function partitionLines({ partitions }: PartitionTable): string[] {
  if (partitions.length === 0) return [];
  const rows = partitions.map((it) => [
    String(it.number),
    String(it.start),
    String(it.sectors),
    formatSize(it.sectors * SECTOR_BYTES),
    described(it),
  ]);
  const heading = ["number", "start", "sectors", "size", "type"];
  const widths = heading.map((word, i) =>
    Math.max(word.length, ...rows.map((row) => row[i]!.length))
  );
  return [heading, ...rows].map((row) =>
    row.map((text, i) => i === 4 ? text : text.padStart(widths[i]!)).join("  ")
  );
}

/** What a partition is, and what it is called. */
function described(partition: Partition): string {
  const { type, typeName, name, bootable, role } = partition;
  const words = [
    ...(name === "" ? [] : [`"${printable(name, 36)}"`]),
    ...(bootable ? ["bootable"] : []),
    ...(role === "logical" ? ["logical"] : []),
  ];
  const text = typeName ?? type;
  return words.length === 0
    ? text
    : `${text.padEnd(TYPE_COLUMNS)}  ${words.join(", ")}`;
}
