/**
 * The bytes of an MBR, and of the boot records of logical partitions (EBR), read
 * and written. Pure: bytes in, values out.
 *
 * Places are blocks of the disk's sector size. Sources: UEFI Specification 2.10,
 * section 5.2; Microsoft's description of the extended partition; Linux,
 * block/partitions/msdos.c.
 *
 * @module
 */

import { hasText, viewOf } from "../bytes.ts";

/** Bytes of a record, whatever the sector size. */
export const MBR_BYTES = 512;

/** Bytes before the disk's signature: boot code, which tables leave alone. */
export const BOOT_CODE_BYTES = 440;

/** Where the four entries begin. */
const ENTRIES_AT = 446;

/** Blocks that 32 bits can count. */
export const MAX_MBR_BLOCKS = 2 ** 32 - 1;

/** Types of extended partitions: DOS, Windows 95 with LBA, Linux. */
const EXTENDED: ReadonlySet<number> = new Set([0x05, 0x0f, 0x85]);

/** The type of the entry that keeps a disk with a GPT from being taken as empty. */
export const PROTECTIVE = 0xee;

/** One entry. */
export interface MbrEntry {
  /** The boot indicator: 0x80 if it is active, else 0. */
  readonly status: number;
  /** Its type; 0 is an entry that is not used. */
  readonly type: number;
  /** First block: of the disk, or as the record counts. */
  readonly start: number;
  /** Blocks. */
  readonly count: number;
}

/** What the first sector of a disk is. */
export interface Mbr {
  /**
   * `"none"` has no signature or boot indicators that are none; `"boot"` is the
   * boot sector of a file system that has the disk for itself; `"mbr"` may have
   * no partitions at all; `"protective"` and `"hybrid"` have an entry for a GPT.
   */
  readonly kind: "none" | "boot" | "mbr" | "protective" | "hybrid";
  /** The disk's signature. */
  readonly id: number;
  /** The four entries. */
  readonly entries: readonly MbrEntry[];
}

/**
 * Whether a type is that of an extended partition.
 *
 * @param type The type.
 * @returns Whether logical partitions may be in it.
 */
export function isExtended(type: number): boolean {
  return EXTENDED.has(type);
}

/**
 * Whether an entry is used: Linux ignores what has no type or no blocks.
 *
 * @param entry The entry.
 * @returns Whether it is a partition.
 */
export function isUsed({ type, count }: MbrEntry): boolean {
  return type !== 0 && count !== 0;
}

/**
 * Reads the first sector of a disk.
 *
 * @param sector Its first {@linkcode MBR_BYTES} bytes.
 * @returns What it is.
 */
export function decodeMbr(sector: Uint8Array): Mbr {
  const id = viewOf(sector).getUint32(BOOT_CODE_BYTES, true);
  const entries = decodeEntries(sector);
  if (entries === null || entries.some(({ status }) => (status & 0x7f) !== 0)) {
    return { kind: "none", id, entries: [] };
  }
  const used = entries.filter(isUsed);
  if (used.some(({ type }) => type === PROTECTIVE)) {
    return { kind: used.length > 1 ? "hybrid" : "protective", id, entries };
  }
  return { kind: isBootSector(sector) ? "boot" : "mbr", id, entries };
}

/**
 * Reads the entries of a record.
 *
 * @param sector The record.
 * @returns Its four entries; `null` if it has no signature.
 */
export function decodeEntries(sector: Uint8Array): MbrEntry[] | null {
  if (sector[510] !== 0x55 || sector[511] !== 0xaa) return null;
  const view = viewOf(sector);
  return [0, 1, 2, 3].map((i) => {
    const at = ENTRIES_AT + 16 * i;
    return {
      status: view.getUint8(at),
      type: view.getUint8(at + 4),
      start: view.getUint32(at + 8, true),
      count: view.getUint32(at + 12, true),
    };
  });
}

/**
 * Writes entries and signature into a record; the rest of it stays.
 *
 * @param entries At most four entries; the others become unused.
 * @param sector The record.
 * @param bases The blocks that the entries' places count from, for cylinders; 0
 * for those that are not given.
 */
export function encodeEntries(
  entries: readonly (MbrEntry | undefined)[],
  sector: Uint8Array,
  bases: readonly number[] = [],
): void {
  const view = viewOf(sector);
  sector.fill(0, ENTRIES_AT, 510);
  for (const [i, entry] of entries.entries()) {
    if (entry === undefined) continue;
    const at = ENTRIES_AT + 16 * i;
    const start = (bases[i] ?? 0) + entry.start;
    view.setUint8(at, entry.status);
    sector.set(cylinderOf(start), at + 1);
    view.setUint8(at + 4, entry.type);
    sector.set(cylinderOf(start + entry.count - 1), at + 5);
    view.setUint32(at + 8, entry.start, true);
    view.setUint32(at + 12, entry.count, true);
  }
  sector[510] = 0x55;
  sector[511] = 0xaa;
}

/**
 * A place as old firmware wants it: head, sector and cylinder of a drive with
 * 255 heads and 63 sectors, or the highest ones if there are not enough.
 */
function cylinderOf(block: number): [number, number, number] {
  const cylinder = Math.floor(block / (255 * 63));
  if (cylinder > 1023) return [0xfe, 0xff, 0xff];
  const head = Math.floor(block / 63) % 255;
  const sector = block % 63 + 1;
  return [head, sector | (cylinder >> 8) << 6, cylinder & 0xff];
}

/**
 * Whether a sector is the boot sector of a FAT, exFAT or NTFS, which ends as an
 * MBR does: what is there instead of entries is code or a message.
 */
function isBootSector(sector: Uint8Array): boolean {
  if (hasText(sector, 3, "NTFS    ") || hasText(sector, 3, "EXFAT   ")) {
    return true;
  }
  // Microsoft, FAT32 File System Specification 1.03: bytes of a sector, sectors
  // of a cluster, FATs, and the medium, beside the type that is only a hint.
  const view = viewOf(sector);
  const sectorBytes = view.getUint16(11, true);
  const clusterSectors = view.getUint8(13);
  const media = view.getUint8(21);
  return (hasText(sector, 54, "FAT") || hasText(sector, 82, "FAT")) &&
    [512, 1024, 2048, 4096].includes(sectorBytes) &&
    clusterSectors > 0 && (clusterSectors & (clusterSectors - 1)) === 0 &&
    view.getUint8(16) > 0 && (media === 0xf0 || media >= 0xf8);
}
