/**
 * Which file system begins at a place, by the signatures at its beginning: one
 * table for all who ask. It decides nothing but which reader is asked, and whether
 * something is there that must not be overwritten: the reader checks the rest.
 * Pure: bytes in, a name out.
 *
 * @module
 */

import { hasText, viewOf } from "../bytes.ts";

/** The furthest signature ends here: ZFS has its first uberblock at 128 KiB. */
export const SIGNATURE_BYTES: number = 132 * 1024;

type Signature = readonly [offset: number, text: string];

/** What is told by one or more signatures, all of them. The first one counts. */
const SIGNATURES: readonly (
  readonly [name: string, ...signatures: Signature[]]
)[] = [
  // [MS-FSCC]; exFAT specification, section 3.1; BitLocker's boot sector.
  ["NTFS", [3, "NTFS    "]],
  ["exFAT", [3, "EXFAT   "]],
  ["BitLocker", [3, "-FVE-FS-"]],
  // Linux: magic.h, and the header of each file system.
  ["XFS", [0, "XFSB"]],
  ["SquashFS", [0, "hsqs"]],
  ["SquashFS", [0, "sqsh"]],
  ["LUKS", [0, "LUKS\xba\xbe"]],
  ["EROFS", [1024, "\xe2\xe1\xf5\xe0"]],
  ["F2FS", [1024, "\x10\x20\xf5\xf2"]],
  ["bcachefs", [
    4096 + 24,
    "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
  ]],
  ["ReiserFS", [65536 + 52, "ReIsEr"]],
  ["JFS", [32768, "JFS1"]],
  ["Btrfs", [65536 + 64, "_BHRfS_M"]],
  ["ZFS", [131072, "\x0c\xb1\xba\0"]],
  ["ZFS", [131072, "\0\0\0\0\0\xba\xb1\x0c"]],
  ["swap space", [4096 - 10, "SWAPSPACE2"]],
  ["LVM", [512, "LABELONE"], [512 + 24, "LVM2 001"]],
  ["Linux RAID", [4096, "\xfc\x4e\x2b\xa9"]],
  // Apple: TN1150, section "Volume Header"; Apple File System Reference.
  ["HFS+", [1024, "H+\0\x04"]],
  ["HFSX", [1024, "HX\0\x05"]],
  ["HFS", [1024, "BD"]],
  ["APFS", [32, "NXSB"]],
  // cpio(5): the new format, with and without checksums, and the old ones.
  ["cpio", [0, "070701"]],
  ["cpio", [0, "070702"]],
  ["cpio", [0, "070707"]],
  ["cpio", [0, "\xc7\x71"]],
];

/**
 * Names the file system, or what else fills a whole disk, that begins with bytes.
 *
 * @param bytes The first bytes; with fewer than {@linkcode SIGNATURE_BYTES} what
 * stands further back is not seen.
 * @returns Its name, such as `"ext4"` or `"XFS"`; `null` if none was recognised.
 */
export function fileSystemNameOf(bytes: Uint8Array): string | null {
  const has = ([offset, text]: Signature) => hasText(bytes, offset, text);
  for (const [name, ...signatures] of SIGNATURES) {
    if (signatures.every(has)) return name;
  }
  return extOf(bytes) ?? opticalOf(bytes) ?? fatOf(bytes);
}

/** Features of ext: those that only ext4 has, and a journal. From ext4.h. */
const EXT4_INCOMPATIBLE = 0x3c0; // extents, 64bit, mmp, flex_bg
const EXT4_READ_ONLY = 0x478; // huge_file, gdt_csum, dir_nlink, extra_isize, metadata_csum
const EXT_JOURNAL = 0x4;

function extOf(bytes: Uint8Array): string | null {
  if (!hasText(bytes, 1024 + 56, "\x53\xef")) return null;
  const view = viewOf(bytes.subarray(1024));
  const isExt4 = view.getUint32(96, true) & EXT4_INCOMPATIBLE ||
    view.getUint32(100, true) & EXT4_READ_ONLY;
  const hasJournal = view.getUint32(92, true) & EXT_JOURNAL;
  const name = isExt4 ? "ext4" : hasJournal ? "ext3" : "ext2";
  return name;
}

/**
 * Volume descriptors begin in sector 16 of 2,048 bytes, each with five
 * characters after its first byte (ECMA-119, section 8.1; ECMA-167, part 2,
 * section 9.1). What has both kinds is read as UDF, which has the longer names
 * and the larger files.
 */
function opticalOf(bytes: Uint8Array): string | null {
  let iso = false;
  for (let at = 16 * 2048; at + 6 <= bytes.length; at += 2048) {
    if (hasText(bytes, at + 1, "NSR02") || hasText(bytes, at + 1, "NSR03")) {
      return "UDF";
    }
    if (hasText(bytes, at + 1, "CD001")) iso = true;
  }
  return iso ? "ISO 9660" : null;
}

/**
 * FAT has no signature of its own but a text that it need not be told by, and
 * so the numbers of its boot sector must be possible as well (Microsoft,
 * FAT32 File System Specification 1.03, "Boot Sector and BPB").
 */
function fatOf(bytes: Uint8Array): string | null {
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
  return small === 0 ? "FAT32" : clusters < 4085 ? "FAT12" : "FAT16";
}
