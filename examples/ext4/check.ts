/**
 * What becomes of an ext4 image: `e2fsck` replays its journal and looks at all
 * of it, `debugfs` reads the files. Nothing is mounted.
 *
 * @module
 */

import type { VirtualDisk } from "@platter/disk";
import { SECTOR_BYTES } from "@platter/disk";
import { attempt, run } from "./tools.ts";
import { SCRATCH, type Tree } from "./workload.ts";

/** The programs that are needed. */
export const CHECK_TOOLS: readonly string[] = [
  "mkfs.ext4",
  "e2fsck",
  "debugfs",
];

/** What is always in a file system, or was promised to nobody. */
const IGNORED: readonly string[] = ["lost+found", SCRATCH];

/** Sectors of one of ext4's blocks. */
const BLOCK_SECTORS = 8;

/** Bytes of an image that are looked at in one piece. */
const CHUNK_BYTES = 65_536;

/**
 * What `e2fsck` may say of a file system after a power cut: that it replayed the
 * journal, and finished what a mount would have finished as well (orphans, and
 * the total counts, which ext4 keeps in memory and not in its journal).
 * Everything else is damage, whether or not it could be repaired.
 */
const USUAL: readonly RegExp[] = [
  /^$/,
  /^e2fsck \d/,
  /^Pass \d/,
  /: recovering journal$/,
  /^Setting free (inodes|blocks) count to \d+ \(was \d+\)$/,
  /^(Clearing|Truncating) orphaned inode \d+ /,
  /^Free (inodes|blocks) count wrong \(\d+, counted=\d+\)\.$/,
  /^Fix\? yes$/,
  /: \*{5} FILE SYSTEM WAS MODIFIED \*{5}$/,
  /: \d+\/\d+ files \([\d.]+% non-contiguous\), \d+\/\d+ blocks$/,
];

/** A run of sectors. */
export interface SectorRun {
  /** The first. */
  readonly sector: number;
  /** How many. */
  readonly count: number;
}

/**
 * Makes an empty ext4 file system, the same one each time, all of whose
 * structures are written: nothing is left for the kernel to do later.
 *
 * @param path The image's path.
 * @param bytes Its size.
 * @returns The image.
 */
export async function makeFileSystem(
  path: string,
  bytes: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const id = "5eed5eed-5eed-45ee-95ee-d5eed5eed5ee";
  using file = await Deno.create(path);
  await file.truncate(bytes);
  await run("mkfs.ext4", [
    ...["-q", "-F", "-b", "4096", "-U", id, "-E"],
    `lazy_itable_init=0,lazy_journal_init=0,nodiscard,hash_seed=${id}`,
    path,
  ], { E2FSPROGS_FAKE_TIME: "1700000000" });
  return await Deno.readFile(path);
}

/**
 * Which sectors are whose, for the reader of a story.
 *
 * @param path The path of an image that was made so.
 * @returns One line.
 */
export async function describeLayout(path: string): Promise<string> {
  const ask = (what: string) => run("debugfs", ["-R", what, path]);
  const range = (first: number, last: number) =>
    `from ${first * BLOCK_SECTORS} to ${(last + 1) * BLOCK_SECTORS - 1}`;
  const parts = ["the superblock from 0 to 7", `descriptors ${range(1, 1)}`];
  const group =
    /block bitmap at (\d+), inode bitmap at (\d+), inode table at (\d+)/
      .exec(await ask("stats"));
  if (group !== null) {
    const [blocks, inodes, table] = group.slice(1).map(Number);
    parts.push(
      `bitmaps ${range(blocks!, blocks!)} and ${range(inodes!, inodes!)}`,
      `inodes from ${table! * BLOCK_SECTORS}`,
    );
  }
  const journal = (await ask("blocks <8>")).split(/\s+/).map(Number)
    .filter((block) => block > 0);
  // In one piece, but for what says where it is.
  if (journal.length > 0) {
    parts.push(
      `the journal ${range(Math.min(...journal), Math.max(...journal))}`,
    );
  }
  return `Sectors: ${parts.join(", ")}`;
}

/** Looks at one image after the other, in one file. */
export class FileSystemCheck {
  readonly #dir: string;
  readonly #base: Uint8Array<ArrayBuffer>;
  readonly #chunks: { at: number; bytes: Uint8Array<ArrayBuffer> }[] = [];

  /**
   * Constructs a new instance.
   *
   * @param dir A folder to work in, best one in memory.
   * @param base What all images have where nothing was written.
   */
  constructor(dir: string, base: Uint8Array<ArrayBuffer>) {
    this.#dir = dir;
    this.#base = base;
    for (let at = 0; at < base.length; at += CHUNK_BYTES) {
      const bytes = base.subarray(at, at + CHUNK_BYTES);
      if (bytes.some((byte) => byte !== 0)) this.#chunks.push({ at, bytes });
    }
  }

  /**
   * Recovers a file system.
   *
   * @param disk The disk; it is only read.
   * @param written What may differ from the base.
   * @returns What is in it.
   * @throws {Error} If it is damaged: if there is more to do than to replay the
   * journal.
   */
  async recover(
    disk: VirtualDisk,
    written: readonly SectorRun[],
  ): Promise<Tree> {
    const image = `${this.#dir}/state.img`;
    await this.#write(image, disk, written);
    const { code, said } = await attempt("e2fsck", ["-f", "-y", image]);
    const unusual = said.split("\n").filter((line) =>
      !USUAL.some((usual) => usual.test(line.trim()))
    );
    if (code > 1 || unusual.length > 0) {
      throw new Error(
        `The file system is damaged: e2fsck exits with ${code} and says:\n${
          (unusual.length > 0 ? unusual : [said]).slice(0, 12).join("\n")
        }`,
      );
    }
    const found = `${this.#dir}/found`;
    await Deno.mkdir(found);
    try {
      const { said } = await attempt("debugfs", [
        "-R",
        `rdump / ${found}`,
        image,
      ]);
      // What it says that matters shows in what is there.
      const tree = new Map<string, Uint8Array | null>();
      readTree(found, "", tree);
      if (tree.size === 0 && !said.startsWith("debugfs")) {
        throw new Error(`Cannot read the files as debugfs says: ${said}`);
      }
      return tree;
    } finally {
      await Deno.remove(found, { recursive: true });
    }
  }

  /** Writes an image, with holes where there are only zeroes. */
  async #write(
    path: string,
    disk: VirtualDisk,
    written: readonly SectorRun[],
  ): Promise<void> {
    using file = Deno.openSync(path, {
      write: true,
      create: true,
      truncate: true,
    });
    file.truncateSync(this.#base.length);
    const put = (at: number, bytes: Uint8Array) => {
      file.seekSync(at, Deno.SeekMode.Start);
      for (let done = 0; done < bytes.length;) {
        done += file.writeSync(bytes.subarray(done));
      }
    };
    for (const { at, bytes } of this.#chunks) put(at, bytes);
    for (const { sector, count } of written) {
      put(sector * SECTOR_BYTES, await disk.read(sector, count));
    }
  }
}

function readTree(
  dir: string,
  prefix: string,
  tree: Map<string, Uint8Array | null>,
): void {
  for (const { name, isDirectory } of Deno.readDirSync(dir)) {
    const path = prefix + name;
    if (IGNORED.includes(path)) continue;
    tree.set(path, isDirectory ? null : Deno.readFileSync(`${dir}/${name}`));
    if (isDirectory) readTree(`${dir}/${name}`, `${path}/`, tree);
  }
}
