/**
 * Bytes of a disk for whoever reads its tables: any length at any place, read in
 * whole blocks, each block once. What cannot be had is `null` and no error:
 * places outside of the disk, which a table may name, and sectors that the
 * medium does not give, as there may be a copy. All else goes through: a disk
 * that is closed, an abort.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { isOfMedium } from "../medium_error.ts";

/** Reads bytes of one disk, and keeps them. */
export class TableReader {
  readonly #disk: VirtualDisk;
  readonly #signal: AbortSignal | undefined;
  /** Blocks that were read, by number; `null` where the medium failed. */
  readonly #blocks = new Map<number, Uint8Array | null>();
  /** Bytes of the disk. */
  readonly size: number;

  /**
   * Constructs a new instance.
   *
   * @param disk The disk.
   * @param signal Gives up.
   */
  constructor(disk: VirtualDisk, signal?: AbortSignal) {
    this.#disk = disk;
    this.#signal = signal;
    this.size = disk.sectors * SECTOR_BYTES;
  }

  /**
   * Reads bytes.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @returns New memory with them; `null` if they are not all on the disk, or
   * cannot be read.
   * @throws {DiskError} If the disk fails otherwise than by its medium.
   */
  async read(offset: number, length: number): Promise<Uint8Array | null> {
    if (
      !Number.isSafeInteger(offset) || offset < 0 ||
      offset + length > this.size
    ) return null;
    const { blockSize } = this.#disk;
    const first = Math.floor(offset / blockSize);
    const end = Math.ceil((offset + length) / blockSize);
    await this.#fetch(first, end);
    const bytes = new Uint8Array((end - first) * blockSize);
    for (let block = first; block < end; block++) {
      const known = this.#blocks.get(block);
      if (known === null || known === undefined) return null;
      bytes.set(known, (block - first) * blockSize);
    }
    const from = offset - first * blockSize;
    return bytes.subarray(from, from + length);
  }

  /** Reads what is not known yet of some blocks, neighbours together. */
  async #fetch(first: number, end: number): Promise<void> {
    for (let from = first; from < end;) {
      if (this.#blocks.has(from)) {
        from++;
        continue;
      }
      let to = from + 1;
      while (to < end && !this.#blocks.has(to)) to++;
      await this.#read(from, to);
      from = to;
    }
  }

  async #read(from: number, to: number): Promise<void> {
    const { blockSize } = this.#disk;
    const each = blockSize / SECTOR_BYTES;
    let bytes: Uint8Array | null;
    try {
      bytes = await this.#disk.read(from * each, (to - from) * each, {
        signal: this.#signal,
      });
    } catch (error) {
      if (!isOfMedium(error)) throw error;
      bytes = null;
    }
    for (let block = from; block < to; block++) {
      const at = (block - from) * blockSize;
      this.#blocks.set(block, bytes?.subarray(at, at + blockSize) ?? null);
    }
  }
}
