/**
 * The copies of a GPT on a disk: where they are looked for, which of them are
 * sound, and which one counts.
 *
 * The primary copy is in block 1. The backup is in the last block; if it is not
 * there, where a sound primary says, and if there is none, where the protective
 * MBR says that the disk ended when the table was made. All that is read there
 * is bounded: see {@linkcode decodeHeader}.
 *
 * @module
 */

import type { Mbr } from "./mbr.ts";
import { PROTECTIVE } from "./mbr.ts";
import {
  decodeHeader,
  entriesCrc,
  type GptHeader,
  hasGptSignature,
} from "./gpt.ts";
import type { TableReader } from "./table_reader.ts";

/** A copy that is sound by itself. */
export interface GptCopy {
  readonly sound: true;
  /** Its header. */
  readonly header: GptHeader;
  /** The block that the header stands in. */
  readonly block: Uint8Array;
  /** All entries. */
  readonly entries: Uint8Array;
}

/** A copy that cannot be used. */
export interface DamagedGptCopy {
  readonly sound: false;
  /** Why, as a clause without a period. */
  readonly reason: string;
  /** Whether there is something that calls itself a header. */
  readonly signature: boolean;
}

/** Both copies, for one size of sectors. */
export interface GptCopies {
  /** Bytes of a sector. */
  readonly sectorSize: number;
  /** Whole sectors of that size on the disk. */
  readonly blocks: bigint;
  /** The primary copy. */
  readonly primary: GptCopy | DamagedGptCopy;
  /** The backup. */
  readonly backup: GptCopy | DamagedGptCopy;
}

/**
 * Looks for a GPT.
 *
 * @param reader The disk.
 * @param mbr What its first sector says.
 * @param sectorSize Bytes of a sector.
 * @returns Both copies, such as they are.
 */
export async function findGpt(
  reader: TableReader,
  mbr: Mbr,
  sectorSize: number,
): Promise<GptCopies> {
  const blocks = BigInt(Math.floor(reader.size / sectorSize));
  const look = (block: bigint) => lookAt(reader, block, sectorSize, blocks);
  const last = blocks - 1n;
  const primary = await look(1n);
  let backup = await look(last);
  const elsewhere = primary.sound ? primary.header.alternate : oldEndOf(mbr);
  if (!backup.sound && elsewhere !== null) {
    if (elsewhere > 1n && elsewhere < last) {
      const found = await look(elsewhere);
      if (found.sound || (found.signature && !backup.signature)) backup = found;
    }
  }
  return { sectorSize, blocks, primary, backup };
}

/**
 * Which copy counts: the primary one, if it is sound.
 *
 * @param copies Both.
 * @returns Its name; `null` if neither is sound.
 */
export function usedCopyOf(copies: GptCopies): "primary" | "backup" | null {
  return copies.primary.sound
    ? "primary"
    : copies.backup.sound
    ? "backup"
    : null;
}

/** Reads one copy. */
async function lookAt(
  reader: TableReader,
  block: bigint,
  sectorSize: number,
  blocks: bigint,
): Promise<GptCopy | DamagedGptCopy> {
  const damaged = (reason: string, signature = false) =>
    ({ sound: false, reason, signature }) as const;
  if (block < 1n || block >= blocks) return damaged("the disk ends before it");
  const bytes = await reader.read(Number(block) * sectorSize, sectorSize);
  if (bytes === null) return damaged("its header cannot be read");
  const header = decodeHeader(bytes, block);
  if (typeof header === "string") {
    return damaged(header, hasGptSignature(bytes));
  }
  const length = header.entryCount * header.entryBytes;
  const end = header.entries + BigInt(Math.ceil(length / sectorSize));
  if (header.entries < 1n || end > blocks) {
    return damaged(
      `its entries would be in blocks ${header.entries} to ${
        end - 1n
      }, which is not all on the disk`,
      true,
    );
  }
  if (header.entries <= block && block < end) {
    return damaged("its entries would be where its header is", true);
  }
  const entries = await reader.read(
    Number(header.entries) * sectorSize,
    length,
  );
  if (entries === null) return damaged("its entries cannot be read", true);
  if (entriesCrc(entries) !== header.entriesCrc) {
    return damaged("the checksum of its entries is wrong", true);
  }
  return { sound: true, header, block: bytes, entries };
}

/** The last block of the disk when its protective MBR was written. */
function oldEndOf(mbr: Mbr): bigint | null {
  const entry = mbr.entries.find(({ type }) => type === PROTECTIVE);
  return entry === undefined
    ? null
    : BigInt(entry.start) + BigInt(entry.count) - 1n;
}
