/**
 * States as files of the host, for checks that open a file: a new file for each
 * state. So whoever still has the one before (a loop device that is not gone yet,
 * a process that was left, another name that a check gave it) neither sees the
 * next one nor changes it.
 *
 * There is one image that all states come from, the disk as it was before the
 * workload, and what a state has changed of it. Where the file system shares
 * blocks (XFS, btrfs, bcachefs), each state is a new file that shares all of
 * that image's (`FICLONE`, by `cp --reflink`). Elsewhere it is filled with what is
 * no hole in the image: so a state costs what the image has of data, which is
 * memory to memory where the folder is a tmpfs.
 *
 * @module
 */

import { isZero } from "../buffer.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { ProgramError, runProgram } from "./programs.ts";
import { removeIfThere } from "./scratch.ts";

/** Bytes that are looked at, and kept or left out, in one piece: a page. */
const CHUNK_BYTES = 4096;

/** Bytes that are copied at once. */
const COPY_BYTES = 1 << 20;

/** Bytes of data of the image that are kept in memory. */
const KEPT_BYTES = 64 << 20;

/** A run of bytes. */
interface Run {
  readonly offset: number;
  readonly length: number;
}

/** The image that states come from, as a file. */
export class StateFiles {
  /** Whether a state shares the blocks of the image. */
  readonly shares: boolean;
  /** Bytes of a block of the states. */
  readonly blockSize: number;
  readonly #start: string;
  readonly #sizeBytes: number;
  readonly #data: readonly Run[];
  /** All of that, one after the other; `null` if it is too much. */
  readonly #kept: Uint8Array | null;
  /** Nothing waits while it is used, so all states have the same one. */
  readonly #buffer = new Uint8Array(COPY_BYTES);

  private constructor(
    start: string,
    sizeBytes: number,
    blockSize: number,
    shares: boolean,
    data: readonly Run[],
  ) {
    this.#start = start;
    this.#sizeBytes = sizeBytes;
    this.blockSize = blockSize;
    this.shares = shares;
    this.#data = data;
    this.#kept = keptOf(start, data);
  }

  /**
   * Looks at the image, and at what its file system can do.
   *
   * @param start Its path. It must not change any more.
   * @param blockSize Bytes of a block of the states.
   * @returns What makes states of it, in the same folder or below it.
   */
  static async over(start: string, blockSize: number): Promise<StateFiles> {
    const { size } = await Deno.stat(start);
    const trial = `${start}.clone`;
    let shares = true;
    try {
      await runProgram("cp", ["--reflink=always", start, trial]);
    } catch (error) {
      if (!(error instanceof ProgramError)) throw error;
      shares = false;
    } finally {
      await removeIfThere(trial);
    }
    const data = shares ? [] : await dataOf(start);
    return new StateFiles(start, size, blockSize, shares, data);
  }

  /**
   * Makes a state a file.
   *
   * @param path Its path. What is there is removed, and not written to.
   * @param changes What it has changed, in bytes by block number.
   * @returns When it is there.
   */
  async show(
    path: string,
    changes: ReadonlyMap<number, Uint8Array>,
  ): Promise<void> {
    if (this.shares) {
      await removeIfThere(path);
      await runProgram("cp", ["--reflink=always", this.#start, path]);
      using file = Deno.openSync(path, { write: true });
      this.#write(file, changes);
      return;
    }
    let created = createNew(path);
    while (created === null) {
      await removeIfThere(path);
      created = createNew(path);
    }
    using file = created;
    file.truncateSync(this.#sizeBytes);
    if (this.#kept === null) this.#copy(file);
    else {
      let done = 0;
      for (const { offset, length } of this.#data) {
        file.seekSync(offset, Deno.SeekMode.Start);
        writeAll(file, this.#kept.subarray(done, done += length));
      }
    }
    this.#write(file, changes);
  }

  #copy(file: Deno.FsFile): void {
    using from = Deno.openSync(this.#start);
    for (const { offset, length } of this.#data) {
      from.seekSync(offset, Deno.SeekMode.Start);
      file.seekSync(offset, Deno.SeekMode.Start);
      for (let done = 0; done < length;) {
        const some = Math.min(COPY_BYTES, length - done);
        const count = from.readSync(this.#buffer.subarray(0, some));
        if (count === null) break;
        writeAll(file, this.#buffer.subarray(0, count));
        done += count;
      }
    }
  }

  /** Writes blocks into a file, neighbours at once. */
  #write(file: Deno.FsFile, blocks: ReadonlyMap<number, Uint8Array>): void {
    const { blockSize } = this;
    const numbers = [...blocks.keys()].sort((a, b) => a - b);
    for (let i = 0; i < numbers.length;) {
      const first = numbers[i]!;
      let length = 0;
      while (
        numbers[i] === first + length / blockSize && length < COPY_BYTES
      ) {
        this.#buffer.set(blocks.get(numbers[i++]!)!, length);
        length += blockSize;
      }
      file.seekSync(first * blockSize, Deno.SeekMode.Start);
      writeAll(file, this.#buffer.subarray(0, length));
    }
  }
}

/** Where a file is not only zeroes; holes are not read. */
async function dataOf(path: string): Promise<Run[]> {
  const runs: { offset: number; length: number }[] = [];
  await using disk = await VirtualDisk.open(path, {
    ...{ readOnly: true, direct: "never", format: "raw" },
  });
  const buffer = new Uint8Array(COPY_BYTES);
  for (let at = 0; at < disk.sectors;) {
    for (const { sector, count, hole } of await disk.firstExtents(at)) {
      const end = sector + count;
      for (at = sector; at < end && !hole;) {
        const some = Math.min(COPY_BYTES / SECTOR_BYTES, end - at);
        const part = buffer.subarray(0, some * SECTOR_BYTES);
        await disk.readInto(at, part);
        addData(runs, at * SECTOR_BYTES, part);
        at += some;
      }
      at = end;
    }
  }
  return runs;
}

/** Adds the chunks of some bytes that are not only zeroes. */
function addData(
  runs: { offset: number; length: number }[],
  offset: number,
  bytes: Uint8Array,
): void {
  for (let from = 0; from < bytes.length; from += CHUNK_BYTES) {
    const chunk = bytes.subarray(from, from + CHUNK_BYTES);
    if (isZero(chunk)) continue;
    const last = runs.at(-1);
    const at = offset + from;
    if (last !== undefined && last.offset + last.length === at) {
      last.length += chunk.length;
    } else runs.push({ offset: at, length: chunk.length });
  }
}

/** What a file has in some places, if memory has room for it. */
function keptOf(path: string, data: readonly Run[]): Uint8Array | null {
  const bytes = data.reduce((sum, { length }) => sum + length, 0);
  if (bytes > KEPT_BYTES) return null;
  const kept = new Uint8Array(bytes);
  using file = Deno.openSync(path);
  let done = 0;
  for (const { offset, length } of data) {
    file.seekSync(offset, Deno.SeekMode.Start);
    for (const end = done + length; done < end;) {
      const count = file.readSync(kept.subarray(done, end));
      if (count === null) return null;
      done += count;
    }
  }
  return kept;
}

/** Creates a file; `null` if something is there. */
function createNew(path: string): Deno.FsFile | null {
  try {
    return Deno.openSync(path, { write: true, createNew: true, mode: 0o600 });
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) return null;
    throw error;
  }
}

function writeAll(file: Deno.FsFile, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
}
