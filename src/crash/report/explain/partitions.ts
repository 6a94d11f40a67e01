/**
 * Where the partitions of a disk are, and where their table is, as sfdisk reads
 * it.
 *
 * @module
 */

import { SECTOR_BYTES } from "../../../geometry.ts";
import { printable } from "../../../printable.ts";
import { textAt, viewOf } from "./content.ts";
import { runTool } from "./tool.ts";
import type { Volume } from "./volume.ts";

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

/** What sfdisk prints as JSON, as far as it matters. */
interface Printed {
  readonly partitiontable?: {
    readonly label: string;
    readonly sectorsize?: number;
    readonly partitions?: readonly {
      readonly start: number;
      readonly size: number;
      readonly name?: string;
    }[];
  };
}

/**
 * Finds the partitions of a disk.
 *
 * @param volume The disk.
 * @returns Parts of the disk; none if there is no table.
 * @throws {MissingTool} If there is no sfdisk.
 */
export async function partsOf(volume: Volume): Promise<DiskPart[]> {
  const text = await runTool("sfdisk", "fdisk", "-J", await volume.ends());
  if (text.trim() === "") return [];
  const { partitiontable: table } = JSON.parse(text) as Printed;
  if (table === undefined || (table.sectorsize ?? 512) !== 512) return [];
  const parts: DiskPart[] = [];
  const add = (name: string, sector: number, count: number) =>
    parts.push({ name, sector, count, partition: false });
  if (table.label === "gpt") {
    // UEFI 2.10, section 5.3: a protective MBR, the header, the entries; at the
    // end the entries again, and the header after them.
    const entries = await entrySectors(volume);
    const last = volume.sectors - 1;
    add("protective MBR", 0, 1);
    add("primary GPT header", 1, 1);
    add("primary GPT entries", 2, entries);
    add("backup GPT entries", last - entries, entries);
    add("backup GPT header", last, 1);
  } else add(`partition table (${printable(table.label, 16)})`, 0, 1);
  for (const [i, { start, size, name }] of (table.partitions ?? []).entries()) {
    parts.push({
      name: `partition ${i + 1}${name ? ` (${printable(name, 36)})` : ""}`,
      sector: start,
      count: size,
      partition: true,
    });
  }
  return parts;
}

/** How many sectors the entries of a GPT take, as one of its headers says. */
async function entrySectors(volume: Volume): Promise<number> {
  for (const sector of [1, volume.sectors - 1]) {
    const header = await volume.read(sector * SECTOR_BYTES, SECTOR_BYTES);
    if (textAt(header, 0, 8) !== "EFI PART") continue;
    const view = viewOf(header);
    const bytes = view.getUint32(80, true) * view.getUint32(84, true);
    const sectors = Math.ceil(bytes / SECTOR_BYTES);
    if (sectors > 0 && sectors < volume.sectors / 2) return sectors;
  }
  // 128 entries of 128 bytes, which the specification wants at least.
  return 32;
}
