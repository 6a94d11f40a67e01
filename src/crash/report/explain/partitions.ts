/**
 * Where the partitions of a disk are, and where their table is.
 *
 * @module
 */

import { SECTOR_BYTES } from "../../../geometry.ts";
import { usedCopyOf } from "../../../image/find_gpt.ts";
import { ENTRY_BYTES } from "../../../image/gpt.ts";
import { entryBlocksOf, LEAST_ENTRIES } from "../../../image/gpt_layout.ts";
import type { FoundTable } from "../../../image/read_partitions.ts";
import { printable } from "../../../printable.ts";

/** A part of a disk with a name. */
export interface DiskPart {
  /** What it is. */
  readonly name: string;
  /** First sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
  /** Whether something is in it that may be looked into. */
  readonly partition: boolean;
}

/**
 * The parts of a disk.
 *
 * @param found Its table.
 * @returns Table and partitions; none if there is no table.
 */
export function partsOf(found: FoundTable): DiskPart[] {
  const { kind, partitions } = found.table;
  if (kind === "none") return [];
  return [
    ...(kind === "gpt" ? gptParts(found) : [
      {
        ...{ name: "partition table (MBR)", sector: 0, count: 1 },
        partition: false,
      },
    ]),
    ...partitions.filter(({ role }) => role !== "extended").map((
      { number, start, sectors, name },
    ) => ({
      name: `partition ${number}${name && ` (${printable(name, 36)})`}`,
      sector: start,
      count: sectors,
      partition: true,
    })),
  ];
}

/**
 * UEFI 2.10, section 5.3: a protective MBR, the header, the entries; at the end
 * the entries again, and the header after them.
 */
function gptParts({ gpt }: FoundTable): DiskPart[] {
  const { sectorSize, blocks } = gpt!;
  const each = sectorSize / SECTOR_BYTES;
  const used = usedCopyOf(gpt!);
  const copy = used === null ? null : gpt![used];
  // Without a header, the 16 KiB that the specification wants at least.
  const size = copy?.sound ? copy.header : {
    entryCount: LEAST_ENTRIES,
    entryBytes: ENTRY_BYTES,
  };
  const entries = entryBlocksOf(size, sectorSize);
  const last = Number(blocks) - 1;
  const part = (name: string, block: number, count: number): DiskPart => ({
    name,
    sector: block * each,
    count: count * each,
    partition: false,
  });
  return [
    part("protective MBR", 0, 1),
    part("primary GPT header", 1, 1),
    part("primary GPT entries", 2, entries),
    part("backup GPT entries", last - entries, entries),
    part("backup GPT header", last, 1),
  ];
}
