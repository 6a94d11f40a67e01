/**
 * The bytes of a disk in order, as of a stream, but what is passed over is not
 * read.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { plural } from "../plural.ts";
import { CliError } from "./images.ts";
import type { ByteSource } from "./image_stream.ts";

/** A disk read from its start to its end. */
export class DiskSource implements ByteSource {
  /** What to call it in errors. */
  readonly name: string;
  readonly #disk: VirtualDisk;
  readonly #signal: AbortSignal;
  #position = 0;

  /**
   * Constructs a new instance.
   *
   * @param disk The disk.
   * @param path What the person calls it.
   * @param signal Stops what is being read.
   */
  constructor(disk: VirtualDisk, path: string, signal: AbortSignal) {
    this.#disk = disk;
    this.#signal = signal;
    this.name = `"${path}"`;
  }

  /** As in {@linkcode ByteSource}. */
  async *take(
    bytes: number = this.#left,
  ): AsyncGenerator<Uint8Array, void> {
    const sector = this.#position / SECTOR_BYTES;
    await this.pass(bytes);
    const { blockSize } = this.#disk;
    const whole = Math.ceil(bytes / blockSize) * blockSize;
    let left = bytes;
    for await (
      const piece of this.#disk.readable({
        sector,
        count: whole / SECTOR_BYTES,
        signal: this.#signal,
      })
    ) {
      // An image may end within a block.
      yield piece.subarray(0, left);
      left -= Math.min(left, piece.length);
    }
  }

  /** As in {@linkcode ByteSource}. */
  pass(bytes: number): Promise<void> {
    const left = this.#left;
    if (bytes > left) {
      return Promise.reject(
        new CliError(
          `Cannot read all of ${this.name} as it ends early: ${
            plural(bytes - left, "byte")
          } of it are missing`,
        ),
      );
    }
    this.#position += bytes;
    return Promise.resolve();
  }

  /** A device may have more than the image that was flashed onto it. */
  end(): Promise<void> {
    return Promise.resolve();
  }

  get #left(): number {
    return this.#disk.sectors * SECTOR_BYTES - this.#position;
  }
}
