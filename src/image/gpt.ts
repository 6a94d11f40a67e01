/**
 * The bytes of a GPT: its header and its entries, read and written. Pure: bytes
 * in, values out; which copy is used and what is wrong is decided elsewhere.
 *
 * Places are blocks (LBA) of the table's sector size, as bigints, since the
 * fields have 64 bits and hold whatever somebody wrote. Source: UEFI
 * Specification 2.10, section 5.3.
 *
 * @module
 */

import process from "node:process";
import { hasText, viewOf } from "../bytes.ts";
import { decodeGuid, encodeGuid } from "./guid.ts";

// Not imported, as it takes long to load and most disks have no such table.
const crc32 = (bytes: Uint8Array): number =>
  process.getBuiltinModule("node:zlib").crc32(bytes);

const SIGNATURE = "EFI PART";

/** Bytes of a header at least: all fields that revision 1.0 has. */
const HEADER_BYTES = 92;

/** Revision 1.0. */
export const GPT_REVISION = 0x0001_0000;

/** Bytes of an entry at least; more is 128 × 2^n. */
export const ENTRY_BYTES = 128;

/** Bytes that the entries have at least, by the specification. */
export const ENTRIES_BYTES = 16_384;

/**
 * Bytes of entries that are read at most, 8,192 of the usual ones: what says it
 * has more is taken for damage, so that a header cannot fill memory.
 */
export const MAX_ENTRIES_BYTES = 1_048_576;

/** Attribute bit 2: legacy firmware boots from it. */
export const LEGACY_BOOT = 4n;

/** Characters (UTF-16 code units) of a name. */
export const NAME_UNITS = 36;

/** The type of an entry that is not used. */
const UNUSED = "00000000-0000-0000-0000-000000000000";

/** The fields of a header. */
export interface GptHeader {
  /** Its revision; {@linkcode GPT_REVISION} so far. */
  readonly revision: number;
  /** Where it stands. */
  readonly own: bigint;
  /** Where the other copy's header stands. */
  readonly alternate: bigint;
  /** First block where partitions may be. */
  readonly firstUsable: bigint;
  /** Last block where partitions may be. */
  readonly lastUsable: bigint;
  /** The disk's GUID. */
  readonly guid: string;
  /** First block of the entries. */
  readonly entries: bigint;
  /** How many entries there are. */
  readonly entryCount: number;
  /** Bytes of each. */
  readonly entryBytes: number;
  /** CRC-32 of all entries. */
  readonly entriesCrc: number;
}

/** One entry that is used. */
export interface GptEntry {
  /** Its place among the entries, from 1 on. */
  readonly number: number;
  /** Its type's GUID. */
  readonly type: string;
  /** Its own GUID. */
  readonly guid: string;
  /** First block. */
  readonly first: bigint;
  /** Last block. */
  readonly last: bigint;
  /** Attribute bits. */
  readonly attributes: bigint;
  /** Its name. */
  readonly name: string;
}

/**
 * Whether a block looks like a header of a GPT, sound or not.
 *
 * @param block The block.
 * @returns Whether it has the signature.
 */
export function hasGptSignature(block: Uint8Array): boolean {
  return hasText(block, 0, SIGNATURE);
}

/**
 * Reads a header.
 *
 * @param block The block that it stands in.
 * @param own Which block that is.
 * @returns The fields, or why it is none, as a clause without a period.
 */
export function decodeHeader(
  block: Uint8Array,
  own: bigint,
): GptHeader | string {
  if (!hasGptSignature(block)) return "there is no header";
  const view = viewOf(block);
  const size = view.getUint32(12, true);
  if (size < HEADER_BYTES || size > block.length) {
    return `its header says that it has ${size} bytes`;
  }
  // The checksum counts as zero in itself.
  const covered = block.slice(0, size).fill(0, 16, 20);
  if (crc32(covered) !== view.getUint32(16, true)) {
    return "the checksum of its header is wrong";
  }
  const header: GptHeader = {
    revision: view.getUint32(8, true),
    own: view.getBigUint64(24, true),
    alternate: view.getBigUint64(32, true),
    firstUsable: view.getBigUint64(40, true),
    lastUsable: view.getBigUint64(48, true),
    guid: decodeGuid(block, 56),
    entries: view.getBigUint64(72, true),
    entryCount: view.getUint32(80, true),
    entryBytes: view.getUint32(84, true),
    entriesCrc: view.getUint32(88, true),
  };
  if (header.own !== own) {
    return `its header belongs to block ${header.own} and stands in block ${own}`;
  }
  if (header.firstUsable > header.lastUsable) {
    return `partitions could only be from block ${header.firstUsable} to ${header.lastUsable}`;
  }
  const { entryBytes, entryCount } = header;
  if (entryBytes < ENTRY_BYTES || entryBytes % 8 !== 0) {
    return `its entries would have ${entryBytes} bytes each`;
  }
  if (entryCount === 0 || entryCount * entryBytes > MAX_ENTRIES_BYTES) {
    return `its entries would be ${entryCount} of ${entryBytes} bytes, and at most ${MAX_ENTRIES_BYTES} bytes are read`;
  }
  return header;
}

/**
 * Writes a header, and its checksum.
 *
 * @param header The fields; the checksum of the entries as they will be.
 * @param block The block that it goes to: bytes of a header that was there and
 * have no field here stay, or zeroes.
 */
export function encodeHeader(header: GptHeader, block: Uint8Array): void {
  const view = viewOf(block);
  if (!hasGptSignature(block)) {
    block.fill(0);
    block.set(new TextEncoder().encode(SIGNATURE));
    view.setUint32(12, HEADER_BYTES, true);
  }
  view.setUint32(8, header.revision, true);
  view.setBigUint64(24, header.own, true);
  view.setBigUint64(32, header.alternate, true);
  view.setBigUint64(40, header.firstUsable, true);
  view.setBigUint64(48, header.lastUsable, true);
  encodeGuid(header.guid, block, 56);
  view.setBigUint64(72, header.entries, true);
  view.setUint32(80, header.entryCount, true);
  view.setUint32(84, header.entryBytes, true);
  view.setUint32(88, header.entriesCrc, true);
  view.setUint32(16, 0, true);
  const size = view.getUint32(12, true);
  view.setUint32(16, crc32(block.subarray(0, size)), true);
}

/**
 * Reads the entries that are used.
 *
 * @param bytes All entries.
 * @param header Their header.
 * @returns The entries, by number.
 */
export function decodeEntries(
  bytes: Uint8Array,
  header: GptHeader,
): GptEntry[] {
  const view = viewOf(bytes);
  const entries: GptEntry[] = [];
  for (let i = 0; i < header.entryCount; i++) {
    const at = i * header.entryBytes;
    const type = decodeGuid(bytes, at);
    if (type === UNUSED) continue;
    entries.push({
      number: i + 1,
      type,
      guid: decodeGuid(bytes, at + 16),
      first: view.getBigUint64(at + 32, true),
      last: view.getBigUint64(at + 40, true),
      attributes: view.getBigUint64(at + 48, true),
      name: decodeName(view, at + 56),
    });
  }
  return entries;
}

/**
 * Writes entries.
 *
 * @param entries The entries that are used.
 * @param count How many there are in all.
 * @returns All entries, of {@linkcode ENTRY_BYTES} each.
 */
export function encodeEntries(
  entries: readonly GptEntry[],
  count: number,
): Uint8Array {
  const bytes = new Uint8Array(count * ENTRY_BYTES);
  const view = viewOf(bytes);
  for (const { number, type, guid, first, last, attributes, name } of entries) {
    const at = (number - 1) * ENTRY_BYTES;
    encodeGuid(type, bytes, at);
    encodeGuid(guid, bytes, at + 16);
    view.setBigUint64(at + 32, first, true);
    view.setBigUint64(at + 40, last, true);
    view.setBigUint64(at + 48, attributes, true);
    for (let i = 0; i < name.length; i++) {
      view.setUint16(at + 56 + 2 * i, name.charCodeAt(i), true);
    }
  }
  return bytes;
}

/** The checksum that a header has of its entries. */
export function entriesCrc(bytes: Uint8Array): number {
  return crc32(bytes);
}

function decodeName(view: DataView, at: number): string {
  let name = "";
  for (let i = 0; i < NAME_UNITS; i++) {
    const unit = view.getUint16(at + 2 * i, true);
    if (unit === 0) break;
    name += String.fromCharCode(unit);
  }
  return name;
}
