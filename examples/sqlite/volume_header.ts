/**
 * The header of a volume: one sector that says which files there are, where
 * their regions lie, and how long each file is. It carries a generation and a
 * checksum, so that of two copies the newer whole one is known.
 *
 * | offset | bytes | field |
 * | --- | --- | --- |
 * | 0 | 8 | magic, `PLTRVOL1` |
 * | 8 | 8 | generation |
 * | 16 | 4 | block size of the disk |
 * | 20 | 4 | regions, up to 8 |
 * | 24 + 56 n | 16 | name, ASCII, padded with zeroes |
 * | 40 + 56 n | 8 | first sector |
 * | 48 + 56 n | 8 | sectors |
 * | 56 + 56 n | 8 | size of the file in bytes |
 * | 64 + 56 n | 8 | 1 if the file exists |
 * | 72 + 56 n | 8 | zero |
 * | 508 | 4 | CRC-32 of what is before |
 *
 * @module
 */

import { SECTOR_BYTES } from "@platter/disk";
import { crc32 } from "node:zlib";

const MAGIC = "PLTRVOL1";
const REGIONS_AT = 24;
const REGION_BYTES = 56;
const NAME_BYTES = 16;
const CHECKSUM_AT = SECTOR_BYTES - 4;

/** The most regions that a header has room for: (508 − 24) / 56. */
export const MAX_REGIONS = 8;

/** A region of the disk and the file in it. */
export interface RegionState {
  /** The file's name: up to 16 ASCII characters. */
  readonly name: string;
  /** First sector. */
  readonly sector: number;
  /** Sectors: the file cannot grow beyond them. */
  readonly sectors: number;
  /** Bytes that the file has. */
  readonly size: number;
  /** Whether the file exists. */
  readonly exists: boolean;
}

/** What a header says. */
export interface VolumeHeader {
  /** Counts the headers that were written: the higher one is newer. */
  readonly generation: number;
  /** The disk's block size, which the regions are aligned to. */
  readonly blockSize: number;
  /** Every region. */
  readonly regions: readonly RegionState[];
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/**
 * Puts a header into memory.
 *
 * @param header What it says.
 * @param sector Where to: at least a sector, the rest is left as it is.
 */
export function encodeHeader(header: VolumeHeader, sector: Uint8Array): void {
  const bytes = sector.subarray(0, SECTOR_BYTES).fill(0);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  encoder.encodeInto(MAGIC, bytes);
  view.setBigUint64(8, BigInt(header.generation), true);
  view.setUint32(16, header.blockSize, true);
  view.setUint32(20, header.regions.length, true);
  header.regions.forEach((region, index) => {
    const at = REGIONS_AT + index * REGION_BYTES;
    encoder.encodeInto(region.name, bytes.subarray(at, at + NAME_BYTES));
    view.setBigUint64(at + 16, BigInt(region.sector), true);
    view.setBigUint64(at + 24, BigInt(region.sectors), true);
    view.setBigUint64(at + 32, BigInt(region.size), true);
    view.setBigUint64(at + 40, region.exists ? 1n : 0n, true);
  });
  view.setUint32(CHECKSUM_AT, crc32(bytes.subarray(0, CHECKSUM_AT)), true);
}

/**
 * Reads a header.
 *
 * @param sector Its sector.
 * @returns What it says, or `null` if this is no header, or none that is whole.
 */
export function decodeHeader(sector: Uint8Array): VolumeHeader | null {
  const bytes = sector.subarray(0, SECTOR_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (decoder.decode(bytes.subarray(0, MAGIC.length)) !== MAGIC) return null;
  const checksum = crc32(bytes.subarray(0, CHECKSUM_AT));
  if (view.getUint32(CHECKSUM_AT, true) !== checksum) return null;
  const count = view.getUint32(20, true);
  if (count > MAX_REGIONS) return null;
  const regions: RegionState[] = [];
  for (let index = 0; index < count; index++) {
    const at = REGIONS_AT + index * REGION_BYTES;
    const name = decoder.decode(bytes.subarray(at, at + NAME_BYTES));
    regions.push({
      name: name.replace(/\0+$/, ""),
      sector: Number(view.getBigUint64(at + 16, true)),
      sectors: Number(view.getBigUint64(at + 24, true)),
      size: Number(view.getBigUint64(at + 32, true)),
      exists: view.getBigUint64(at + 40, true) === 1n,
    });
  }
  return {
    generation: Number(view.getBigUint64(8, true)),
    blockSize: view.getUint32(16, true),
    regions,
  };
}
