/**
 * ISO 9660 images often have their tree three times: with short names, with
 * those and Rock Ridge's names, modes and links beside them, and once more with
 * Joliet's long names. 7-Zip takes Joliet's wherever it is, which knows neither
 * modes nor links, so that links would be empty files. Where there is Rock Ridge,
 * Joliet is hidden from it.
 *
 * @module
 */

import { viewOf } from "../bytes.ts";
import type { RequestOptions, VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";

/** Bytes of the disk that read as others. */
export type Mask = ReadonlyMap<number, number>;

/** Bytes of a sector of such an image, and the first one with a descriptor. */
const ISO_SECTOR = 2048;
const FIRST_DESCRIPTOR = 16;

/** Descriptors that are looked at. */
const MOST_DESCRIPTORS = 32;

/** Where a descriptor says that its names are Joliet's: ECMA-119, section 8.5.6. */
const ESCAPE = 88;

/** Types of descriptors: ECMA-119, section 8.1.1. */
const PRIMARY = 1;
const SUPPLEMENTARY = 2;
const TERMINATOR = 255;

/**
 * Finds what is to be hidden of an image.
 *
 * @param disk The disk with the image.
 * @param options A signal.
 * @returns By what Joliet's descriptors are known, turned into nothing; none of
 * it if there is no Rock Ridge.
 * @throws {DiskError} If the disk fails.
 */
export async function hiddenJoliet(
  disk: VirtualDisk,
  options: RequestOptions,
): Promise<Mask> {
  const mask = new Map<number, number>();
  let hasRockRidge = false;
  for (let index = 0; index < MOST_DESCRIPTORS; index++) {
    const number = FIRST_DESCRIPTOR + index;
    const bytes = await readIsoSector(disk, number, options);
    const type = bytes?.[0];
    if (bytes === null || type === TERMINATOR) break;
    if (type === SUPPLEMENTARY) mask.set(number * ISO_SECTOR + ESCAPE, 0);
    if (type !== PRIMARY) continue;
    // The record of the root directory, and in it where that is: 8.4.18, 9.1.
    const root = viewOf(bytes.subarray(156, 190));
    const first = await readIsoSector(disk, root.getUint32(2, true), options);
    hasRockRidge ||= first !== null && hasSystemUse(first);
  }
  return hasRockRidge ? mask : new Map();
}

/** Whether the first record of a root directory says that SUSP is used: IEEE P1281, 5.3. */
function hasSystemUse(record: Uint8Array): boolean {
  const name = record[32]!;
  // A name of even length is followed by a byte of padding.
  const at = 33 + name + (name % 2 === 0 ? 1 : 0);
  const [s, p, , , be, ef] = record.subarray(at, at + 6);
  return s === 0x53 && p === 0x50 && be === 0xbe && ef === 0xef;
}

async function readIsoSector(
  disk: VirtualDisk,
  number: number,
  options: RequestOptions,
): Promise<Uint8Array | null> {
  // Blocks of the disk may be larger.
  const size = Math.max(ISO_SECTOR, disk.blockSize);
  const start = Math.floor(number * ISO_SECTOR / size) * size;
  const [sector, count] = [start / SECTOR_BYTES, size / SECTOR_BYTES];
  if (sector + count > disk.sectors) return null;
  const bytes = await disk.read(sector, count, options);
  const at = number * ISO_SECTOR - start;
  return bytes.subarray(at, at + ISO_SECTOR);
}
