/**
 * Which file system a disk has, by the signatures at its beginning. Reads
 * 132 KiB and nothing else, and decides nothing but which reader is asked: the
 * reader checks the rest.
 *
 * @module
 */

import { hasText, viewOf } from "../bytes.ts";
import type { RequestOptions, VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";

/** A kind of file system, or of what else fills a whole disk. */
export interface FileSystemKind {
  /** What it is called, such as `"ext4"` or `"XFS"`. */
  readonly name: string;
  /** What 7-Zip calls it; `null` if it cannot read it. */
  readonly reader: string | null;
  /** Whether names that differ in case only are the same. */
  readonly ignoresCase: boolean;
}

/** What is looked at: ZFS, the furthest, has its first uberblock at 128 KiB. */
const LOOKED_AT_BYTES = 132 * 1024;

type Signature = readonly [offset: number, text: string];

/** What is told by one or more signatures, all of them. The first one counts. */
const SIGNATURES: readonly (
  readonly [kind: FileSystemKind, ...signatures: Signature[]]
)[] = [
  // [MS-FSCC]; exFAT specification, section 3.1; BitLocker's boot sector.
  [readable("NTFS", "NTFS", true), [3, "NTFS    "]],
  [unreadable("exFAT"), [3, "EXFAT   "]],
  [unreadable("BitLocker"), [3, "-FVE-FS-"]],
  // Linux: magic.h, and the header of each file system.
  [unreadable("XFS"), [0, "XFSB"]],
  [readable("SquashFS", "SquashFS"), [0, "hsqs"]],
  [readable("SquashFS", "SquashFS"), [0, "sqsh"]],
  [unreadable("LUKS"), [0, "LUKS\xba\xbe"]],
  [unreadable("EROFS"), [1024, "\xe2\xe1\xf5\xe0"]],
  [unreadable("F2FS"), [1024, "\x10\x20\xf5\xf2"]],
  [unreadable("bcachefs"), [
    4096 + 24,
    "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
  ]],
  [unreadable("ReiserFS"), [65536 + 52, "ReIsEr"]],
  [unreadable("JFS"), [32768, "JFS1"]],
  [unreadable("Btrfs"), [65536 + 64, "_BHRfS_M"]],
  [unreadable("ZFS"), [131072, "\x0c\xb1\xba\0"]],
  [unreadable("ZFS"), [131072, "\0\0\0\0\0\xba\xb1\x0c"]],
  [unreadable("swap space"), [4096 - 10, "SWAPSPACE2"]],
  [unreadable("LVM"), [512, "LABELONE"], [512 + 24, "LVM2 001"]],
  [unreadable("Linux RAID"), [4096, "\xfc\x4e\x2b\xa9"]],
  // Apple: TN1150, section "Volume Header"; Apple File System Reference.
  [readable("HFS+", "HFS", true), [1024, "H+\0\x04"]],
  [readable("HFS+", "HFS"), [1024, "HX\0\x05"]],
  [unreadable("HFS"), [1024, "BD"]],
  [readable("APFS", "APFS", true), [32, "NXSB"]],
  // cpio(5): the new format, with and without checksums, and the old ones.
  [readable("cpio", "Cpio"), [0, "070701"]],
  [readable("cpio", "Cpio"), [0, "070702"]],
  [readable("cpio", "Cpio"), [0, "070707"]],
  [readable("cpio", "Cpio"), [0, "\xc7\x71"]],
];

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
  const block = disk.blockSize / SECTOR_BYTES;
  const wanted = Math.ceil(LOOKED_AT_BYTES / SECTOR_BYTES / block) * block;
  const bytes = await disk.read(0, Math.min(disk.sectors, wanted), options);
  const has = ([offset, text]: Signature) => hasText(bytes, offset, text);
  for (const [kind, ...signatures] of SIGNATURES) {
    if (signatures.every(has)) return kind;
  }
  return extOf(bytes) ?? opticalOf(bytes) ?? fatOf(bytes);
}

function readable(
  name: string,
  reader: string,
  ignoresCase = false,
): FileSystemKind {
  return { name, reader, ignoresCase };
}

function unreadable(name: string): FileSystemKind {
  return { name, reader: null, ignoresCase: false };
}

/** Features of ext: those that only ext4 has, and a journal. From ext4.h. */
const EXT4_INCOMPATIBLE = 0x3c0; // extents, 64bit, mmp, flex_bg
const EXT4_READ_ONLY = 0x478; // huge_file, gdt_csum, dir_nlink, extra_isize, metadata_csum
const EXT_JOURNAL = 0x4;

function extOf(bytes: Uint8Array): FileSystemKind | null {
  if (!hasText(bytes, 1024 + 56, "\x53\xef")) return null;
  const view = viewOf(bytes.subarray(1024));
  const isExt4 = view.getUint32(96, true) & EXT4_INCOMPATIBLE ||
    view.getUint32(100, true) & EXT4_READ_ONLY;
  const hasJournal = view.getUint32(92, true) & EXT_JOURNAL;
  const name = isExt4 ? "ext4" : hasJournal ? "ext3" : "ext2";
  return readable(name, "Ext");
}

/**
 * Volume descriptors begin in sector 16 of 2,048 bytes, each with five
 * characters after its first byte (ECMA-119, section 8.1; ECMA-167, part 2,
 * section 9.1). What has both kinds is read as UDF, which has the longer names
 * and the larger files.
 */
function opticalOf(bytes: Uint8Array): FileSystemKind | null {
  let iso = false;
  for (let at = 16 * 2048; at + 6 <= bytes.length; at += 2048) {
    if (hasText(bytes, at + 1, "NSR02") || hasText(bytes, at + 1, "NSR03")) {
      return readable("UDF", "Udf");
    }
    if (hasText(bytes, at + 1, "CD001")) iso = true;
  }
  return iso ? readable("ISO 9660", "Iso") : null;
}

/**
 * FAT has no signature of its own but a text that it need not be told by, and
 * so the numbers of its boot sector must be possible as well (Microsoft,
 * FAT32 File System Specification 1.03, "Boot Sector and BPB").
 */
function fatOf(bytes: Uint8Array): FileSystemKind | null {
  if (bytes.length < 512 || !hasText(bytes, 510, "\x55\xaa")) return null;
  const view = viewOf(bytes);
  const sector = view.getUint16(11, true);
  const cluster = view.getUint8(13);
  const isPossible = [512, 1024, 2048, 4096].includes(sector) &&
    cluster > 0 && (cluster & (cluster - 1)) === 0 &&
    view.getUint16(14, true) > 0 && [1, 2].includes(view.getUint8(16));
  if (!isPossible) return null;
  const small = view.getUint16(22, true);
  const fat = small || view.getUint32(36, true);
  const total = view.getUint16(19, true) || view.getUint32(32, true);
  const root = Math.ceil(view.getUint16(17, true) * 32 / sector);
  const first = view.getUint16(14, true) + view.getUint8(16) * fat + root;
  if (fat === 0 || total <= first) return null;
  const clusters = Math.floor((total - first) / cluster);
  const name = small === 0 ? "FAT32" : clusters < 4085 ? "FAT12" : "FAT16";
  return readable(name, "FAT", true);
}
