/**
 * States as files of the host, for checks that open a file: one file for each
 * check that runs side by side, which is made anew for each state, whatever a
 * check did to it.
 *
 * There is one image that all states come from, the disk as it was before the
 * workload, and what a state has changed of it. Where the file system shares
 * blocks (XFS, btrfs, bcachefs), each state is a new file that shares all of
 * that image's (`FICLONE`, by `cp --reflink`). Elsewhere the file is emptied and
 * filled with what is no hole in the image, in place: so a state costs what the
 * image has of data, which is memory to memory where the folder is a tmpfs.
 *
 * @module
 */

import { isZero } from "../buffer.ts";
import { ProgramError, runProgram } from "./programs.ts";

/** Bytes that are looked at, and kept or left out, in one piece. */
const CHUNK_BYTES = 65_536;

/** Bytes that are copied at once. */
const COPY_BYTES = 1 << 20;

/** A run of bytes. */
interface Run {
  readonly offset: number;
  readonly length: number;
}

/** The image that states come from, as a file. */
export class StateFiles {
  /** Whether a state shares the blocks of the image. */
  readonly shares: boolean;
  readonly #start: string;
  readonly #sizeBytes: number;
  readonly #blockSize: number;
  readonly #data: readonly Run[];

  private constructor(
    start: string,
    sizeBytes: number,
    blockSize: number,
    shares: boolean,
    data: readonly Run[],
  ) {
    this.#start = start;
    this.#sizeBytes = sizeBytes;
    this.#blockSize = blockSize;
    this.shares = shares;
    this.#data = data;
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
    const data = shares ? [] : await dataOf(start, size);
    return new StateFiles(start, size, blockSize, shares, data);
  }

  /**
   * Makes a state a file, in the place of the state before.
   *
   * @param path Its path; nobody may use what is there any more.
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
    } else this.#refill(path);
    using file = Deno.openSync(path, { write: true });
    writeBlocks(file, this.#blockSize, changes);
  }

  #refill(path: string): void {
    using from = Deno.openSync(this.#start);
    using file = Deno.openSync(path, {
      ...{ write: true, create: true, truncate: true, mode: 0o600 },
    });
    file.truncateSync(this.#sizeBytes);
    const buffer = new Uint8Array(COPY_BYTES);
    for (const { offset, length } of this.#data) {
      from.seekSync(offset, Deno.SeekMode.Start);
      file.seekSync(offset, Deno.SeekMode.Start);
      for (let done = 0; done < length;) {
        const part = buffer.subarray(0, Math.min(COPY_BYTES, length - done));
        const count = from.readSync(part);
        if (count === null) break;
        writeAll(file, part.subarray(0, count));
        done += count;
      }
    }
  }
}

/** Writes blocks into a file, neighbours at once. */
function writeBlocks(
  file: Deno.FsFile,
  blockSize: number,
  blocks: ReadonlyMap<number, Uint8Array>,
): void {
  const numbers = [...blocks.keys()].sort((a, b) => a - b);
  for (let i = 0; i < numbers.length;) {
    let end = i + 1;
    while (
      end < numbers.length && numbers[end] === numbers[end - 1]! + 1 &&
      (end - i) * blockSize < COPY_BYTES
    ) end++;
    const run = new Uint8Array((end - i) * blockSize);
    for (let k = i; k < end; k++) {
      run.set(blocks.get(numbers[k]!)!, (k - i) * blockSize);
    }
    file.seekSync(numbers[i]! * blockSize, Deno.SeekMode.Start);
    writeAll(file, run);
    i = end;
  }
}

/** Where a file is not only zeroes. */
async function dataOf(path: string, size: number): Promise<Run[]> {
  const runs: { offset: number; length: number }[] = [];
  using file = await Deno.open(path);
  const buffer = new Uint8Array(COPY_BYTES);
  for (let at = 0; at < size;) {
    const count = await file.read(buffer);
    if (count === null) break;
    for (let from = 0; from < count; from += CHUNK_BYTES) {
      const chunk = buffer.subarray(from, Math.min(from + CHUNK_BYTES, count));
      if (isZero(chunk)) continue;
      const last = runs.at(-1);
      const offset = at + from;
      if (last !== undefined && last.offset + last.length === offset) {
        last.length += chunk.length;
      } else runs.push({ offset, length: chunk.length });
    }
    at += count;
  }
  return runs;
}

function writeAll(file: Deno.FsFile, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
