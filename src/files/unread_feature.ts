/**
 * What a file system has that 7-Zip cannot read, although it reads file systems of
 * that kind. 7-Zip does not say so: to it, they are damaged.
 *
 * @module
 */

import { viewOf } from "../bytes.ts";
import type { RequestOptions, VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";

/** Bytes from the start in which all of it is told. */
const HEAD_BYTES = 2048;

/** `EXT4_FEATURE_RO_COMPAT_BIGALLOC` of `s_feature_ro_compat`: ext4.h. */
const BIGALLOC = 0x200;

/** `LZ4_COMPRESSION` of `compression`, in version 4: squashfs_fs.h. */
const LZ4 = 5;

/**
 * Finds what keeps 7-Zip from reading a file system.
 *
 * @param disk The disk that begins with it.
 * @param reader What 7-Zip calls its kind.
 * @param options A signal.
 * @returns What it is called, such as `"bigalloc"`; `null` if nothing is known.
 * @throws {DiskError} If the disk fails.
 */
export async function unreadFeature(
  disk: VirtualDisk,
  reader: string,
  options: RequestOptions,
): Promise<string | null> {
  if (reader !== "Ext" && reader !== "SquashFS") return null;
  const sectors = Math.max(HEAD_BYTES, disk.blockSize) / SECTOR_BYTES;
  if (disk.sectors < sectors) return null;
  const head = viewOf(await disk.read(0, sectors, options));
  if (reader === "Ext") {
    const isClustered = (head.getUint32(1024 + 100, true) & BIGALLOC) !== 0;
    return isClustered ? "bigalloc" : null;
  }
  const [version, compression] = [28, 20].map((at) => head.getUint16(at, true));
  return version === 4 && compression === LZ4 ? "lz4 compression" : null;
}
