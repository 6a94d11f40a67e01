/**
 * Where the contents of a recording are in its file.
 *
 * @module
 */

import { DiskError } from "../errors.ts";
import { readFullySync } from "../backends/read_fully_sync.ts";

/** The places of contents, in the order of their numbers. */
export class ContentRuns {
  /** How many contents there are. */
  count = 0;
  readonly #fd: number;
  readonly #path: string;
  readonly #blockSize: number;
  /** The number of the first of each run, and where it is. */
  readonly #firsts: number[] = [];
  readonly #offsets: number[] = [];

  /**
   * Constructs a new instance.
   *
   * @param fd The file.
   * @param path Its name, for errors.
   * @param blockSize Bytes of a block.
   */
  constructor(fd: number, path: string, blockSize: number) {
    this.#fd = fd;
    this.#path = path;
    this.#blockSize = blockSize;
  }

  /**
   * Adds contents that follow each other in the file.
   *
   * @param count How many.
   * @param offset Where the first is, in bytes.
   */
  add(count: number, offset: number): void {
    this.#firsts.push(this.count + 1);
    this.#offsets.push(offset);
    this.count += count;
  }

  /**
   * Reads contents.
   *
   * @param first The number of the first.
   * @param target Where to; filled wholly.
   * @throws {DiskError} If the file has become shorter, or cannot be read.
   */
  load(first: number, target: Uint8Array): void {
    let run = this.#runOf(first);
    const size = this.#blockSize;
    for (let done = 0; done < target.length; run++) {
      const skipped = first + done / size - this.#firsts[run]!;
      const end = this.#firsts[run + 1] ?? this.count + 1;
      const bytes = Math.min(
        (end - this.#firsts[run]! - skipped) * size,
        target.length - done,
      );
      const offset = this.#offsets[run]! + skipped * size;
      const some = target.subarray(done, done + bytes);
      if (readFullySync(this.#fd, some, offset) < bytes) {
        throw new DiskError(
          "io",
          `Cannot read the recording "${this.#path}" as it ends before byte ${
            offset + bytes
          }: it was cut while it was open`,
          { operation: "read", path: this.#path },
        );
      }
      done += bytes;
    }
  }

  /** The last run that begins with a content or before it. */
  #runOf(content: number): number {
    let [low, high] = [0, this.#firsts.length];
    while (high - low > 1) {
      const middle = low + high >> 1;
      if (this.#firsts[middle]! <= content) low = middle;
      else high = middle;
    }
    return low;
  }
}
