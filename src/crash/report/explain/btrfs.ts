/**
 * What is where on btrfs, as far as the disk itself tells: super blocks, and
 * nodes of trees, which carry their tree and generation. Which file a data block
 * belongs to is not told: `btrfs inspect-internal` needs it mounted.
 *
 * Source: Linux, `include/uapi/linux/btrfs_tree.h` (`btrfs_super_block`,
 * `btrfs_header`), `fs/btrfs/disk-io.h` (mirrors).
 *
 * @module
 */

import { viewOf } from "../../../bytes.ts";
import { isPowerOfTwo, SECTOR_BYTES } from "../../../geometry.ts";
import { type Content, textAt } from "./content.ts";
import type { Volume } from "./volume.ts";

/** Where super blocks are, in bytes, and how long one is. */
const SUPERS = [2 ** 16, 2 ** 26, 2 ** 38] as const;
const SUPER_BYTES = 4096;

/** Offsets in bytes within the super block. */
const FSID_AT = 32;
const MAGIC_AT = 64;
const NODE_SIZE_AT = 148;
const METADATA_UUID_AT = 571;

/** Offsets in bytes within the header of a node. */
const NODE_FSID_AT = 32;
const GENERATION_AT = 80;
const OWNER_AT = 88;
const HEADER_BYTES = 101;

const TREES: ReadonlyMap<number, string> = new Map([
  [1, "root tree"],
  [2, "extent tree"],
  [3, "chunk tree"],
  [4, "device tree"],
  [5, "file tree"],
  [7, "checksum tree"],
  [9, "UUID tree"],
  [10, "free space tree"],
  [11, "block group tree"],
]);

/**
 * Looks for a btrfs file system.
 *
 * @param volume The volume.
 * @returns Who knows it; `null` if there is none.
 */
export async function recognizeBtrfs(volume: Volume): Promise<Content | null> {
  const bytes = await volume.read(SUPERS[0], SUPER_BYTES);
  if (textAt(bytes, MAGIC_AT, 8) !== "_BHRfS_M") return null;
  const nodeSize = viewOf(bytes).getUint32(NODE_SIZE_AT, true);
  if (!isPowerOfTwo(nodeSize) || nodeSize < 4096 || nodeSize > 65_536) {
    return null;
  }
  const ids = new Set([
    textAt(bytes, FSID_AT, 16),
    textAt(bytes, METADATA_UUID_AT, 16),
  ]);
  const blockSectors = SUPER_BYTES / SECTOR_BYTES;
  return {
    name: "btrfs",
    blockSectors,
    explain(blocks) {
      return Promise.all(blocks.map(async (block) => {
        const at = block * SUPER_BYTES;
        const mirror = SUPERS.findIndex((start) => start === at);
        if (mirror >= 0) {
          return [
            mirror === 0 ? "super block" : `super block, mirror ${mirror}`,
          ];
        }
        const node = Math.floor(at / nodeSize) * nodeSize;
        const header = await volume.read(node, HEADER_BYTES);
        if (!ids.has(textAt(header, NODE_FSID_AT, 16))) {
          return ["data or free space"];
        }
        const view = viewOf(header);
        const owner = Number(view.getBigUint64(OWNER_AT, true));
        const generation = view.getBigUint64(GENERATION_AT, true);
        return [
          TREES.get(owner) ?? `tree ${owner}`,
          `node of generation ${generation}`,
        ];
      }));
    },
  };
}
