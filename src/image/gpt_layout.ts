/**
 * The bytes of both copies of a GPT, and of the MBR before it, as patches of a
 * disk: for whoever makes a GPT and whoever repairs one.
 *
 * @module
 */

import {
  encodeHeader,
  ENTRIES_BYTES,
  ENTRY_BYTES,
  type GptHeader,
} from "./gpt.ts";
import type { GptCopies } from "./find_gpt.ts";
import {
  BOOT_CODE_BYTES,
  encodeEntries,
  MAX_MBR_BLOCKS,
  type Mbr,
  MBR_BYTES,
  PROTECTIVE,
} from "./mbr.ts";
import type { ByteRange, Patch } from "./table_writer.ts";

/** How many entries a new table has at least; others may have fewer. */
export const LEAST_ENTRIES: number = ENTRIES_BYTES / ENTRY_BYTES;

/**
 * Blocks that entries take.
 *
 * @param header How many there are, and of what length.
 * @param sectorSize Bytes of a block.
 * @returns Blocks. Of a table with few entries they are fewer than the
 * specification wants to be kept free for them.
 */
export function entryBlocksOf(
  { entryCount, entryBytes }: Pick<GptHeader, "entryCount" | "entryBytes">,
  sectorSize: number,
): number {
  return Math.ceil(entryCount * entryBytes / sectorSize);
}

/**
 * Makes one copy.
 *
 * @param header Its header.
 * @param entries All entries.
 * @param sectorSize Bytes of a block.
 * @param block The header that it takes the place of, for what has no field.
 * @returns The entries, and the header.
 */
export function copyPatches(
  header: GptHeader,
  entries: Uint8Array,
  sectorSize: number,
  block: Uint8Array = new Uint8Array(sectorSize),
): [entries: Patch, header: Patch] {
  const bytes = block.slice();
  encodeHeader(header, bytes);
  return [
    { offset: Number(header.entries) * sectorSize, bytes: entries },
    { offset: Number(header.own) * sectorSize, bytes },
  ];
}

/**
 * Makes the protective MBR. Boot code stays, unless it is that of a file system
 * that has the disk for itself: with it, the sector would still be taken for
 * one.
 *
 * @param sector The first sector as it is.
 * @param mbr What it is.
 * @param blocks Blocks of the disk.
 * @returns The first sector as it must be.
 */
export function protectiveMbr(
  sector: Uint8Array,
  mbr: Mbr,
  blocks: bigint,
): Patch {
  const bytes = mbr.kind === "boot"
    ? new Uint8Array(MBR_BYTES)
    : sector.slice();
  // The signature of the disk and the two bytes after it are zero beside a GPT.
  bytes.fill(0, BOOT_CODE_BYTES, BOOT_CODE_BYTES + 6);
  const count = Math.min(Number(blocks - 1n), MAX_MBR_BLOCKS);
  const entry = { status: 0, type: PROTECTIVE, start: 1, count };
  encodeEntries([entry], bytes);
  return { offset: 0, bytes };
}

/**
 * Where a copy of a GPT is.
 *
 * @param copies Both copies.
 * @param which One of them.
 * @returns Its header and its entries; nothing if it is not sound.
 */
export function placesOfCopy(
  { sectorSize, ...copies }: GptCopies,
  which: "primary" | "backup",
): ByteRange[] {
  const copy = copies[which];
  if (!copy.sound) return [];
  const { own, entries } = copy.header;
  return [
    { offset: Number(own) * sectorSize, length: sectorSize },
    { offset: Number(entries) * sectorSize, length: copy.entries.length },
  ];
}
