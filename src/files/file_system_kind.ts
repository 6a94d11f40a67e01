/**
 * Which file system a disk has, by the signatures at its beginning, and what
 * 7-Zip calls it. Reads 132 KiB and nothing else.
 *
 * @module
 */

import { type RequestOptions, VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import {
  fileSystemNameOf,
  SIGNATURE_BYTES,
} from "../image/file_system_signature.ts";

/** A kind of file system, or of what else fills a whole disk. */
export interface FileSystemKind {
  /** What it is called, such as `"ext4"` or `"XFS"`. */
  readonly name: string;
  /** What 7-Zip calls it; `null` if it cannot read it. */
  readonly reader: string | null;
  /** Whether names that differ in case only are the same. */
  readonly ignoresCase: boolean;
}

/** What 7-Zip calls those that it reads. */
const READERS: Readonly<Record<string, string>> = {
  ext2: "Ext",
  ext3: "Ext",
  ext4: "Ext",
  FAT12: "FAT",
  FAT16: "FAT",
  FAT32: "FAT",
  NTFS: "NTFS",
  SquashFS: "SquashFS",
  "HFS+": "HFS",
  HFSX: "HFS",
  APFS: "APFS",
  cpio: "Cpio",
  UDF: "Udf",
  "ISO 9660": "Iso",
};

/** Those in which names that differ in case only are the same. */
const IGNORING_CASE: ReadonlySet<string> = new Set([
  ...["FAT12", "FAT16", "FAT32", "NTFS", "HFS+", "APFS"],
]);

/**
 * Finds out which file system a disk has.
 *
 * @param disk The disk, or the slice of it that is one partition.
 * @param options A signal.
 * @returns Its kind, which may be one that cannot be read; `null` if none was
 * recognised.
 * @throws {DiskError} If the disk fails.
 *
 * @example
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { fileSystemOf } from "@platter/disk/files";
 * import { assertEquals } from "@std/assert";
 *
 * await using disk = VirtualDisk.memory({ size: "1MiB" });
 * assertEquals(await fileSystemOf(disk), null);
 * await disk.write(0, new Uint8Array(512).fill(0x58)); // All X
 * await disk.write(0, new TextEncoder().encode("XFSB".padEnd(512)));
 * assertEquals((await fileSystemOf(disk))?.name, "XFS");
 * ```
 */
export async function fileSystemOf(
  disk: VirtualDisk,
  options: RequestOptions = {},
): Promise<FileSystemKind | null> {
  const resized = VirtualDisk.resized([disk], options.signal);
  if (resized !== null) await resized;
  const block = disk.blockSize / SECTOR_BYTES;
  const wanted = Math.ceil(SIGNATURE_BYTES / SECTOR_BYTES / block) * block;
  const bytes = await disk.read(0, Math.min(disk.sectors, wanted), options);
  const name = fileSystemNameOf(bytes);
  return name === null ? null : {
    name,
    reader: READERS[name] ?? null,
    ignoresCase: IGNORING_CASE.has(name),
  };
}
