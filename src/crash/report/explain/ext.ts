/**
 * What is where on ext2, ext3 and ext4: the parts of block groups by dumpe2fs,
 * the owners of blocks and their paths by debugfs, the records of the journal by
 * their own magic number.
 *
 * Sources: Linux, `Documentation/filesystems/ext4/` (super, group descriptors,
 * special inodes, journal).
 *
 * @module
 */

import { viewOf } from "../../../bytes.ts";
import { SECTOR_BYTES } from "../../../geometry.ts";
import { printable } from "../../../printable.ts";
import type { Content } from "./content.ts";
import { runTool } from "./tool.ts";
import type { Volume } from "./volume.ts";

const PACKAGE = "e2fsprogs";

/** Offsets in bytes within the super block, which begins at 1024. */
const SUPER_AT = 1024;
const LOG_BLOCK_SIZE_AT = 24;
const MAGIC_AT = 56;
const COMPATIBLE_AT = 92;
const INCOMPATIBLE_AT = 96;
const INODE_SIZE_AT = 88;
const INODES_PER_GROUP_AT = 40;
const REVISION_AT = 76;
const MAGIC = 0xef53;
const HAS_JOURNAL = 0x4;
const EXTENTS = 0x40;
/** Inode size before there was a field for it. */
const OLD_INODE_BYTES = 128;

/** Inodes with a meaning of their own. */
const SPECIAL: ReadonlyMap<number, string> = new Map([
  [1, "list of bad blocks"],
  [2, "/"],
  [3, "user quota"],
  [4, "group quota"],
  [7, "reserved group descriptors"],
  [8, "journal"],
]);

/** The journal's blocks, all big-endian. */
const JOURNAL_MAGIC = 0xc03b3998;
const JOURNAL_BLOCKS: readonly string[] = [
  "",
  "descriptor block",
  "commit block",
  "super block",
  "super block",
  "revocation block",
];

/** Inodes of a block of an inode table that are told by their path. */
const MOST_INODES = 64;

/** What dumpe2fs says of a group, several on a line. */
const STRUCTURES = new RegExp(
  "((?:Primary|Backup) superblock|Group descriptors?|Reserved GDT blocks|" +
    "Block bitmap|Inode bitmap|Inode table) at (\\d+)(?:-(\\d+))?",
  "g",
);

/** A run of blocks that dumpe2fs names. */
interface Structure {
  readonly name: string;
  readonly first: number;
  readonly last: number;
  /** For an inode table: its group. */
  readonly inodesOf?: number;
}

/**
 * Looks for an ext2, ext3 or ext4 file system.
 *
 * @param volume The volume.
 * @returns Who knows it; `null` if there is none.
 */
export async function recognizeExt(volume: Volume): Promise<Content | null> {
  const bytes = viewOf(await volume.read(SUPER_AT, 1024));
  if (bytes.getUint16(MAGIC_AT, true) !== MAGIC) return null;
  const logBlockSize = bytes.getUint32(LOG_BLOCK_SIZE_AT, true);
  const inodeBytes = bytes.getUint32(REVISION_AT, true) === 0
    ? OLD_INODE_BYTES
    : bytes.getUint16(INODE_SIZE_AT, true);
  // What is on the disk may be anything.
  if (logBlockSize > 6 || inodeBytes < OLD_INODE_BYTES) return null;
  const name = bytes.getUint32(INCOMPATIBLE_AT, true) & EXTENTS
    ? "ext4"
    : bytes.getUint32(COMPATIBLE_AT, true) & HAS_JOURNAL
    ? "ext3"
    : "ext2";
  return new Ext(volume, name, {
    blockSize: 1024 << logBlockSize,
    inodesPerGroup: bytes.getUint32(INODES_PER_GROUP_AT, true),
    inodeBytes,
  });
}

/** What of the super block is needed. */
interface Shape {
  readonly blockSize: number;
  readonly inodesPerGroup: number;
  readonly inodeBytes: number;
}

class Ext implements Content {
  readonly name: string;
  readonly blockSectors: number;
  readonly #volume: Volume;
  readonly #shape: Shape;

  constructor(volume: Volume, name: string, shape: Shape) {
    this.#volume = volume;
    this.name = name;
    this.#shape = shape;
    this.blockSectors = shape.blockSize / SECTOR_BYTES;
  }

  async explain(blocks: readonly number[]): Promise<string[][]> {
    const file = await this.#volume.file();
    const debugfs = (request: string, ...flags: string[]) =>
      runTool("debugfs", PACKAGE, ...flags, "-R", request, file);
    // A file may be known to the journal only; the file is a copy.
    await debugfs("journal_run", "-w");
    const structures = structuresOf(await runTool("dumpe2fs", PACKAGE, file));
    const owners = pairsOf(await debugfs(`icheck ${blocks.join(" ")}`));
    const found = blocks.map((block) => ({
      block,
      structure: structures.find(({ first, last }) =>
        first <= block && block <= last
      ),
      owner: Number(owners.get(block) ?? NaN),
    }));
    const inodes = new Set<number>();
    for (const { block, structure, owner } of found) {
      if (structure?.inodesOf !== undefined) {
        for (const inode of this.#inodesIn(block, structure)) inodes.add(inode);
      } else if (structure === undefined && owner > 0) inodes.add(owner);
    }
    const paths = await this.#pathsOf([...inodes], debugfs);
    return await Promise.all(found.map(async (each) => {
      const { block, structure, owner } = each;
      // The blocks of group 0 begin one block later where blocks are small.
      if (block * this.#shape.blockSize < SUPER_AT && structure === undefined) {
        return ["boot block"];
      }
      if (structure?.inodesOf !== undefined) {
        const inodes = this.#inodesIn(block, structure);
        const named = inodes.map((inode) => paths.get(inode))
          .filter((path) => path !== undefined);
        const range = `inodes ${inodes[0]}–${inodes.at(-1)}`;
        return [
          structure.name,
          range,
          ...named.length > 0 ? [named.join(", ")] : [],
        ];
      }
      if (structure !== undefined) return [structure.name];
      if (!(owner > 0)) return ["free space"];
      const special = SPECIAL.get(owner);
      if (owner === 8) return [special!, ...await this.#journalBlock(block)];
      if (special !== undefined && owner !== 2) return [special];
      return [`inode ${owner}`, paths.get(owner) ?? "a file without a name"];
    }));
  }

  /** Which inodes are in a block of an inode table. */
  #inodesIn(block: number, { first, inodesOf }: Structure): number[] {
    const { blockSize, inodeBytes, inodesPerGroup } = this.#shape;
    const each = Math.max(1, Math.floor(blockSize / inodeBytes));
    const start = inodesOf! * inodesPerGroup + (block - first) * each + 1;
    return Array.from(
      { length: Math.min(each, MOST_INODES) },
      (_, i) => start + i,
    );
  }

  async #pathsOf(
    inodes: readonly number[],
    debugfs: (request: string) => Promise<string>,
  ): Promise<Map<number, string>> {
    if (inodes.length === 0) return new Map();
    const paths = new Map<number, string>();
    const listed = pairsOf(await debugfs(`ncheck ${inodes.join(" ")}`));
    for (const [inode, path] of listed) {
      paths.set(inode, printable(path.replace(/^\/+/, "/")));
    }
    if (inodes.includes(2)) paths.set(2, "/");
    if (inodes.includes(8)) paths.set(8, "journal");
    return paths;
  }

  /** What a block of the journal is, as it is on the disk now. */
  async #journalBlock(block: number): Promise<string[]> {
    const { blockSize } = this.#shape;
    const bytes = viewOf(await this.#volume.read(block * blockSize, 12));
    if (bytes.getUint32(0) !== JOURNAL_MAGIC) return ["a copy of a block"];
    const kind = JOURNAL_BLOCKS[bytes.getUint32(4)];
    if (kind === undefined || kind === "") return [];
    return [
      kind === "super block"
        ? kind
        : `${kind} of transaction ${bytes.getUint32(8)}`,
    ];
  }
}

/** The groups and their parts, as dumpe2fs lists them. */
function structuresOf(text: string): Structure[] {
  const structures: Structure[] = [];
  let group = 0;
  for (const line of text.split("\n")) {
    const header = /^Group (\d+): /.exec(line);
    if (header !== null) group = Number(header[1]);
    for (const [, name, first, last] of line.matchAll(STRUCTURES)) {
      const plain = name!.toLowerCase().replace("superblock", "super block")
        .replace(/descriptor$/, "descriptors")
        .replace("reserved gdt blocks", "reserved group descriptors");
      structures.push({
        name: `${plain} of group ${group}`,
        first: Number(first),
        last: Number(last ?? first),
        ...name === "Inode table" ? { inodesOf: group } : {},
      });
    }
  }
  return structures;
}

/** Lines of a number, a tab and what belongs to it. */
function pairsOf(text: string): Map<number, string> {
  const pairs = new Map<number, string>();
  for (const line of text.split("\n")) {
    const match = /^(\d+)\t(.*)$/.exec(line);
    if (match !== null && !match[2]!.startsWith("<")) {
      pairs.set(Number(match[1]), match[2]!);
    }
  }
  return pairs;
}
