/**
 * The format of an overlay's file: what is where, and how the header and the
 * pages of the map are read and written. Bytes in, values out; no I/O.
 *
 * All numbers are little endian. A disk of `n` sectors takes
 *
 * | sectors | what |
 * | --- | --- |
 * | 0 to 7, 8 to 15 | the header, twice |
 * | from 16 | the map: pages of 4 KiB, one for each 31,744 sectors of the disk |
 * | from the next whole MiB | the data: sector `i` of the disk is the `i`-th |
 * | to the next whole 4 KiB, and 4 KiB more | nothing: what the disk has at its end must not make the file look like one of another format |
 *
 * So the file is as long as the disk and a little more, and mostly a hole.
 *
 * The header, 4,096 bytes:
 *
 * | bytes | what |
 * | --- | --- |
 * | 0 to 7 | `"PLTOVLAY"` |
 * | 8 to 11 | version: 1 |
 * | 12 to 15 | CRC-32 (IEEE) of all 4,096 bytes, with zeroes here |
 * | 16 to 23 | how often it was written: of two copies that are whole, the greater counts |
 * | 24 to 31 | epoch: parts of the map with another one are empty |
 * | 32 to 39 | sectors of the disk |
 * | 40 to 43 | bytes of its logical block |
 * | 44 to 47 | state: see {@linkcode OverlayState} |
 * | 48 to 55 | when the base was modified last, in ns since 1970; 0 if not known |
 * | 56 to 87 | SHA-256 of samples of the base's content; once a commit has begun, with zeroes where there are changes, or 0 if not known |
 * | 88 to 91 | bytes of the path that follows |
 * | 92 to 95 | 0 |
 * | 96 to 4,095 | the base's path in UTF-8, then zeroes |
 *
 * A page of the map is eight sectors, each whole by itself, so that a power cut
 * between two of them does no harm:
 *
 * | bytes | what |
 * | --- | --- |
 * | 0 to 3 | CRC-32 of bytes 4 to 511 and, as eight bytes after them, the sector's number in the map |
 * | 4 to 7 | 0 |
 * | 8 to 15 | epoch |
 * | 16 to 511 | a bit for each of 3,968 sectors, the lowest one first: 1 if the data is here |
 *
 * One that is all zeroes is empty.
 *
 * @module
 */

import { crc32 } from "node:zlib";
import { isZero } from "../../buffer.ts";
import { hasText, viewOf } from "../../bytes.ts";
import { SECTOR_BYTES } from "../../geometry.ts";

/** The version that is written and read. */
export const OVERLAY_VERSION = 1;

/** Bytes of a header. */
export const HEADER_BYTES = 4096;

/** Where the two headers begin, in sectors. */
export const HEADER_SECTORS: readonly number[] = [0, 8];

/** Where the map begins, in sectors. */
export const MAP_SECTOR = 16;

/** Bytes of a page of the map, and its sectors. */
export const PAGE_BYTES = 4096;
/** Sectors of a page of the map. */
export const PAGE_SECTORS = 8;

const PART_HEAD_BYTES = 16;
const PART_BIT_BYTES = SECTOR_BYTES - PART_HEAD_BYTES;

/** Bytes of the bits of a page. */
export const PAGE_BIT_BYTES = PAGE_SECTORS * PART_BIT_BYTES;

/** Sectors of the disk that a page tells of. */
export const PAGE_BITS = PAGE_BIT_BYTES * 8;

/** The data begins on a multiple of so many sectors: 1 MiB. */
const DATA_ALIGNMENT = 2048;

/** The file is whole 4 KiB, for direct I/O, and ends with as much of nothing. */
const END_SECTORS = 8;

const MAGIC = "PLTOVLAY";
const PATH_AT = 96;
const MOST_PATH_BYTES = HEADER_BYTES - PATH_AT;

/** What an overlay's file is in the midst of. */
export const OverlayState = {
  /** It has no changes: it goes with any base of its shape. */
  Empty: 0,
  /** It has changes to the base that its header describes. */
  Changed: 1,
  /** A commit has begun: the base has some of the changes. */
  Committing: 2,
  /** Another overlay's changes are copied to it: some of them are missing. */
  Incomplete: 3,
} as const;

/** What an overlay's file is in the midst of. */
export type OverlayState = typeof OverlayState[keyof typeof OverlayState];

/** Where things are in the file of a disk's overlay. */
export interface OverlayLayout {
  /** Pages of the map. */
  readonly pages: number;
  /** First sector of the data. */
  readonly dataSector: number;
  /** Sectors of the file. */
  readonly fileSectors: number;
}

/** What a header says. */
export interface OverlayHeader {
  /** How often it was written. */
  readonly sequence: number;
  /** The epoch of the map. */
  readonly epoch: number;
  /** Sectors of the disk. */
  readonly sectors: number;
  /** Bytes of its logical block. */
  readonly blockSize: number;
  /** What it is in the midst of. */
  readonly state: OverlayState;
  /** When the base was modified last, in ns; 0 if not known. */
  readonly modified: bigint;
  /** SHA-256 of samples of the base. */
  readonly digest: Uint8Array;
  /** The base's path; empty if it has none. */
  readonly basePath: string;
}

/** Bytes that are no header, or no page, of an overlay's file. */
export class OverlayFormatError extends Error {
  /** Always `"OverlayFormatError"`. */
  override readonly name = "OverlayFormatError";
}

/**
 * Where things are in an overlay's file.
 *
 * @param sectors Sectors of the disk.
 * @returns The layout.
 */
export function layoutOf(sectors: number): OverlayLayout {
  const pages = Math.ceil(sectors / PAGE_BITS);
  const dataSector = Math.ceil(
    (MAP_SECTOR + pages * PAGE_SECTORS) / DATA_ALIGNMENT,
  ) * DATA_ALIGNMENT;
  const fileSectors = dataSector +
    Math.ceil(sectors / END_SECTORS) * END_SECTORS + END_SECTORS;
  return { pages, dataSector, fileSectors };
}

/**
 * Whether bytes begin as a header does, whole or not.
 *
 * @param bytes The bytes.
 * @returns Whether they do.
 */
export function hasOverlayMagic(bytes: Uint8Array): boolean {
  return hasText(bytes, 0, MAGIC);
}

/**
 * Writes a header.
 *
 * @param header What it says; a path that is too long for it is left out.
 * @returns Its bytes.
 */
export function encodeHeader(header: OverlayHeader): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = viewOf(bytes);
  bytes.set(new TextEncoder().encode(MAGIC));
  view.setUint32(8, OVERLAY_VERSION, true);
  view.setBigUint64(16, BigInt(header.sequence), true);
  view.setBigUint64(24, BigInt(header.epoch), true);
  view.setBigUint64(32, BigInt(header.sectors), true);
  view.setUint32(40, header.blockSize, true);
  view.setUint32(44, header.state, true);
  view.setBigUint64(48, header.modified, true);
  bytes.set(header.digest, 56);
  const path = new TextEncoder().encode(header.basePath);
  if (path.length <= MOST_PATH_BYTES) {
    view.setUint32(88, path.length, true);
    bytes.set(path, PATH_AT);
  }
  view.setUint32(12, crc32(bytes), true);
  return bytes;
}

/**
 * Reads a header.
 *
 * @param bytes Its {@linkcode HEADER_BYTES} bytes.
 * @returns What it says.
 * @throws {OverlayFormatError} If it is none, or of another version.
 */
export function decodeHeader(bytes: Uint8Array): OverlayHeader {
  if (!hasOverlayMagic(bytes)) {
    fail("it must begin as one does, and is something else");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  const version = view.getUint32(8, true);
  if (version !== OVERLAY_VERSION) {
    fail(
      `its version must be ${OVERLAY_VERSION}: current value is ${version}`,
    );
  }
  const plain = bytes.slice(0, HEADER_BYTES);
  plain.fill(0, 12, 16);
  if (view.getUint32(12, true) !== crc32(plain)) {
    fail("the checksum of its header must be right");
  }
  const state = view.getUint32(44, true);
  if (!Object.values(OverlayState).some((known) => known === state)) {
    fail(`its state must be a known one: current value is ${state}`);
  }
  const sequence = safeU64(view, 16, "sequence");
  if (sequence === 0) fail("it must have been written once at least");
  const pathBytes = view.getUint32(88, true);
  if (pathBytes > MOST_PATH_BYTES) {
    fail(
      `the base's path must fit in its header: current value is ${pathBytes} bytes`,
    );
  }
  return {
    sequence,
    epoch: safeU64(view, 24, "epoch"),
    sectors: safeU64(view, 32, "size"),
    blockSize: view.getUint32(40, true),
    state: state as OverlayState,
    modified: view.getBigUint64(48, true),
    digest: bytes.slice(56, 88),
    basePath: decodePath(bytes.subarray(PATH_AT, PATH_AT + pathBytes)),
  };
}

/**
 * Writes a page of the map.
 *
 * @param index Which page.
 * @param epoch The epoch.
 * @param bits Its bits.
 * @param target Where to: {@linkcode PAGE_BYTES} bytes.
 */
export function encodePage(
  index: number,
  epoch: number,
  bits: Uint8Array,
  target: Uint8Array,
): void {
  const view = viewOf(target);
  for (let part = 0; part < PAGE_SECTORS; part++) {
    const at = part * SECTOR_BYTES;
    view.setUint32(at + 4, 0, true);
    view.setBigUint64(at + 8, BigInt(epoch), true);
    const from = part * PART_BIT_BYTES;
    target.set(
      bits.subarray(from, from + PART_BIT_BYTES),
      at + PART_HEAD_BYTES,
    );
    const bytes = target.subarray(at, at + SECTOR_BYTES);
    view.setUint32(at, checksumOf(bytes, index * PAGE_SECTORS + part), true);
  }
}

/**
 * Reads a page of the map.
 *
 * @param index Which page.
 * @param epoch The epoch: what is older is empty.
 * @param bytes Its {@linkcode PAGE_BYTES} bytes.
 * @param end Bits of it that stand for sectors of the disk.
 * @returns Its bits.
 * @throws {OverlayFormatError} If it is damaged.
 */
export function decodePage(
  index: number,
  epoch: number,
  bytes: Uint8Array,
  end: number,
): Uint8Array<ArrayBuffer> {
  const bits = new Uint8Array(PAGE_BIT_BYTES);
  const view = viewOf(bytes);
  for (let part = 0; part < PAGE_SECTORS; part++) {
    const at = part * SECTOR_BYTES;
    const own = bytes.subarray(at, at + SECTOR_BYTES);
    if (isZero(own)) continue;
    const number = index * PAGE_SECTORS + part;
    if (view.getUint32(at, true) !== checksumOf(own, number)) {
      fail(`the checksum of sector ${number} of its map must be right`);
    }
    const written = safeU64(view, at + 8, "epoch");
    if (written > epoch) {
      fail(
        `sector ${number} of its map must be of epoch ${epoch} or before: current value is ${written}`,
      );
    }
    if (written === epoch) {
      bits.set(own.subarray(PART_HEAD_BYTES), part * PART_BIT_BYTES);
    }
  }
  for (let bit = end; bit < PAGE_BITS; bit++) {
    if (((bits[bit >> 3]! >> (bit & 7)) & 1) === 0) continue;
    fail("its map must end where the disk does");
  }
  return bits;
}

const scratch = new Uint8Array(SECTOR_BYTES - 4 + 8);
const scratchView = viewOf(scratch);

function checksumOf(part: Uint8Array, number: number): number {
  scratch.set(part.subarray(4));
  scratchView.setBigUint64(SECTOR_BYTES - 4, BigInt(number), true);
  return crc32(scratch);
}

/** A number below 2^52: it can be counted on from there. */
function safeU64(view: DataView, at: number, what: string): number {
  const value = Number(view.getBigUint64(at, true));
  if (value < 2 ** 52) return value;
  fail(`its ${what} must be below 2^52: current value is ${value}`);
}

function decodePath(bytes: Uint8Array): string {
  try {
    const path = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!path.includes("\0")) return path;
  } catch {
    // No text at all.
  }
  fail("the base's path must be text");
}

function fail(reason: string): never {
  throw new OverlayFormatError(reason);
}
