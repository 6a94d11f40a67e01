/**
 * Tables of partitions, made byte by byte as the specifications say, and without
 * the code under test.
 *
 * @module
 */

import { MemoryBackend, VirtualDisk } from "@platter/disk";
import { crc32 } from "node:zlib";

/** What a GPT is made of. */
export interface RawGpt {
  /** Bytes of the disk. */
  size: number;
  sectorSize?: number;
  entryBytes?: number;
  entryCount?: number;
  partitions?: { first: number; last: number; name?: string }[];
}

/** The type of all partitions that are made here: Linux file system. */
const LINUX = [
  ...[0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47],
  ...[0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4],
];

/** Makes a sound GPT. */
export function rawGpt(gpt: RawGpt): Uint8Array<ArrayBuffer> {
  const { size, sectorSize = 512, entryBytes = 128, entryCount = 128 } = gpt;
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  const blocks = Math.floor(size / sectorSize);
  const entryBlocks = Math.ceil(entryCount * entryBytes / sectorSize);
  const places = [
    { own: 1, other: blocks - 1, entries: 2 },
    { own: blocks - 1, other: 1, entries: blocks - 1 - entryBlocks },
  ];
  for (const { own, other, entries } of places) {
    for (const [i, partition] of (gpt.partitions ?? []).entries()) {
      const at = entries * sectorSize + i * entryBytes;
      bytes.set(LINUX, at);
      bytes.fill(0x11, at + 16, at + 32);
      bytes[at + 16] = i;
      view.setBigUint64(at + 32, BigInt(partition.first), true);
      view.setBigUint64(at + 40, BigInt(partition.last), true);
      for (const [j, unit] of [...partition.name ?? ""].entries()) {
        view.setUint16(at + 56 + 2 * j, unit.charCodeAt(0), true);
      }
    }
    const at = own * sectorSize;
    bytes.set(new TextEncoder().encode("EFI PART"), at);
    view.setUint32(at + 8, 0x1_0000, true);
    view.setUint32(at + 12, 92, true);
    view.setBigUint64(at + 24, BigInt(own), true);
    view.setBigUint64(at + 32, BigInt(other), true);
    view.setBigUint64(at + 40, BigInt(2 + entryBlocks), true);
    view.setBigUint64(at + 48, BigInt(blocks - 2 - entryBlocks), true);
    bytes.fill(0x22, at + 56, at + 72);
    view.setBigUint64(at + 72, BigInt(entries), true);
    view.setUint32(at + 80, entryCount, true);
    view.setUint32(at + 84, entryBytes, true);
    seal(bytes, at, sectorSize);
  }
  rawMbr(bytes, [{ type: 0xee, start: 1, count: blocks - 1 }]);
  return bytes;
}

/** Makes the checksums of a header right, whatever it says. */
export function seal(
  bytes: Uint8Array<ArrayBuffer>,
  at: number,
  sectorSize = 512,
): void {
  const view = new DataView(bytes.buffer);
  const entries = Number(view.getBigUint64(at + 72, true)) * sectorSize;
  const length = view.getUint32(at + 80, true) * view.getUint32(at + 84, true);
  if (entries + length <= bytes.length) {
    const sum = crc32(bytes.subarray(entries, entries + length));
    view.setUint32(at + 88, sum, true);
  }
  sealHeader(bytes, at);
}

/** Makes the checksum of a header alone right. */
export function sealHeader(bytes: Uint8Array<ArrayBuffer>, at: number): void {
  const view = new DataView(bytes.buffer);
  const size = Math.min(view.getUint32(at + 12, true), bytes.length - at);
  view.setUint32(at + 16, 0, true);
  view.setUint32(at + 16, crc32(bytes.subarray(at, at + size)), true);
}

/** One entry of an MBR. */
export interface RawMbrEntry {
  type: number;
  start: number;
  count: number;
  status?: number;
}

/** Writes entries and the signature of an MBR, or of a record of a chain. */
export function rawMbr(
  bytes: Uint8Array<ArrayBuffer>,
  entries: RawMbrEntry[],
  at = 0,
): void {
  const view = new DataView(bytes.buffer, at);
  for (const [i, { type, start, count, status = 0 }] of entries.entries()) {
    view.setUint8(446 + 16 * i, status);
    view.setUint8(446 + 16 * i + 4, type);
    view.setUint32(446 + 16 * i + 8, start, true);
    view.setUint32(446 + 16 * i + 12, count, true);
  }
  view.setUint16(510, 0xaa55, true);
}

/** A disk in memory that holds these bytes, or what fits of them. */
export async function diskOf(
  bytes: Uint8Array<ArrayBuffer>,
  options: { blockSize?: number; size?: number } = {},
): Promise<VirtualDisk> {
  const { size = bytes.length, blockSize = 512 } = options;
  const disk = VirtualDisk.over(
    new MemoryBackend({ sectors: size / 512, blockSize }),
  );
  const there = bytes.subarray(0, Math.min(size, bytes.length));
  if (there.length > 0) await disk.write(0, there);
  return disk;
}
