/**
 * What is where on XFS, as far as it can be told from the super block and the
 * magic numbers of blocks: headers of allocation groups, the log, kinds of
 * metadata. Which file a block belongs to is not told: `xfs_db` would have to
 * read all of the file system for it.
 *
 * Source: XFS Algorithms & Data Structures, 3rd edition; Linux,
 * `fs/xfs/libxfs/xfs_format.h`, `xfs_da_format.h`.
 *
 * @module
 */

import { viewOf } from "../../../bytes.ts";
import { isPowerOfTwo, SECTOR_BYTES } from "../../../geometry.ts";
import { type Content, textAt } from "./content.ts";
import type { Volume } from "./volume.ts";

/** Offsets in bytes within the super block. */
const BLOCK_SIZE_AT = 4;
const LOG_START_AT = 48;
const AG_BLOCKS_AT = 84;
const LOG_BLOCKS_AT = 96;
const SECTOR_SIZE_AT = 102;
const AG_BLOCK_LOG_AT = 124;

/** The first sectors of an allocation group, in order. */
const HEADERS = [
  "super block",
  "free space header",
  "inode header",
  "free list",
] as const;

/** What blocks of metadata begin with, at offset 0 or as a directory's at 8. */
const MAGICS: ReadonlyMap<string, string> = new Map([
  ["ABTB", "free space tree by number"],
  ["AB3B", "free space tree by number"],
  ["ABTC", "free space tree by size"],
  ["AB3C", "free space tree by size"],
  ["IABT", "inode tree"],
  ["IAB3", "inode tree"],
  ["FIB3", "free inode tree"],
  ["RMB3", "reverse map tree"],
  ["R3FC", "reference count tree"],
  ["BMAP", "extent map of a file"],
  ["BMA3", "extent map of a file"],
  ["XD2B", "directory block"],
  ["XDB3", "directory block"],
  ["XD2D", "directory data"],
  ["XDD3", "directory data"],
  ["XSLM", "symbolic link"],
  ["XARM", "extended attribute"],
]);

/**
 * Looks for an XFS file system.
 *
 * @param volume The volume.
 * @returns Who knows it; `null` if there is none.
 */
export async function recognizeXfs(volume: Volume): Promise<Content | null> {
  const bytes = await volume.read(0, SECTOR_BYTES);
  if (textAt(bytes, 0, 4) !== "XFSB") return null;
  const view = viewOf(bytes);
  const blockSize = view.getUint32(BLOCK_SIZE_AT);
  const sectorSize = view.getUint16(SECTOR_SIZE_AT);
  const agBlocks = view.getUint32(AG_BLOCKS_AT);
  // What is on the disk may be anything.
  if (
    !isBlockSize(blockSize) || !isBlockSize(sectorSize) ||
    sectorSize > blockSize || agBlocks === 0
  ) return null;
  // A block's number has its group above so many bits.
  const agLog = BigInt(view.getUint8(AG_BLOCK_LOG_AT));
  const logAt = view.getBigUint64(LOG_START_AT);
  const logFirst = Number(logAt >> agLog) * agBlocks +
    Number(logAt & ((1n << agLog) - 1n));
  const logEnd = logFirst + (logAt === 0n ? 0 : view.getUint32(LOG_BLOCKS_AT));
  const perBlock = blockSize / sectorSize;
  return {
    name: "XFS",
    // Headers are sectors; smaller than a block.
    blockSectors: sectorSize / SECTOR_BYTES,
    explain(sectors) {
      return Promise.all(sectors.map(async (sector) => {
        const block = Math.floor(sector / perBlock);
        const group = `allocation group ${Math.floor(block / agBlocks)}`;
        if (block >= logFirst && block < logEnd) return ["log"];
        const header =
          HEADERS[sector - Math.floor(block / agBlocks) * agBlocks * perBlock];
        if (header !== undefined) return [group, header];
        const bytes = await volume.read(block * blockSize, 16);
        const kind = MAGICS.get(textAt(bytes, 0, 4)) ??
          MAGICS.get(textAt(bytes, 8, 4)) ??
          (textAt(bytes, 0, 2) === "IN" ? "inodes" : "data or free space");
        return [group, kind];
      }));
    },
  };
}

function isBlockSize(bytes: number): boolean {
  return isPowerOfTwo(bytes) && bytes >= SECTOR_BYTES && bytes <= 65_536;
}
