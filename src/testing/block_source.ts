/**
 * Where blocks come from that were not written: zeroes, or a disk below, which
 * is only read.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import { isZero } from "../buffer.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";

/** Something that has blocks. */
export interface BlockSource {
  /** Blocks that may be anything but zeroes; `null` for all of them. */
  readonly stored: Iterable<number> | null;
  /**
   * A block that is at hand.
   *
   * @param block Its number.
   * @returns Its bytes, not to be changed; `undefined` if it must be fetched.
   */
  peek(block: number): Uint8Array | undefined;
  /**
   * Any block.
   *
   * @param block Its number.
   * @returns Its bytes, not to be changed.
   */
  fetch(block: number): Promise<Uint8Array>;
}

/** Nothing but zeroes. */
export class ZeroSource implements BlockSource {
  /** None. */
  readonly stored: Iterable<number> = [];
  readonly #zeroes: Uint8Array;

  /**
   * Constructs a new instance.
   *
   * @param blockSize Bytes of a block.
   */
  constructor(blockSize: number) {
    this.#zeroes = new Uint8Array(blockSize);
  }

  /** A block of zeroes. */
  peek(_block: number): Uint8Array {
    return this.#zeroes;
  }

  /** A block of zeroes. */
  fetch(_block: number): Promise<Uint8Array> {
    return Promise.resolve(this.#zeroes);
  }
}

/** Bytes that are read at once: the largest block size. */
const CHUNK_BYTES = 65_536;

/** Chunks that are kept: 8 MiB of them. */
const KEPT_CHUNKS = 128;

/** A disk below. What was read last is kept, up to 8 MiB. */
export class BackendSource implements BlockSource {
  /** All of them: the disk is not asked for its extents. */
  readonly stored = null;
  readonly #disk: VirtualDisk;
  readonly #blockSize: number;
  readonly #zeroes: Uint8Array;
  /** In the order of reading; `null` is a chunk of zeroes. */
  readonly #chunks = new Map<number, Uint8Array | null>();

  /**
   * Constructs a new instance.
   *
   * @param backend The disk. It stays open when this is given up.
   * @param blockSize Bytes of a block.
   */
  constructor(backend: Backend, blockSize: number) {
    this.#disk = VirtualDisk.over(backend);
    this.#blockSize = blockSize;
    this.#zeroes = new Uint8Array(blockSize);
  }

  /** A block, if its chunk was read lately. */
  peek(block: number): Uint8Array | undefined {
    const start = block * this.#blockSize;
    const chunk = this.#chunks.get(Math.floor(start / CHUNK_BYTES));
    if (chunk === undefined) return undefined;
    if (chunk === null) return this.#zeroes;
    const offset = start % CHUNK_BYTES;
    return chunk.subarray(offset, offset + this.#blockSize);
  }

  /** A block, read with its chunk. */
  async fetch(block: number): Promise<Uint8Array> {
    const known = this.peek(block);
    if (known !== undefined) return known;
    const index = Math.floor(block * this.#blockSize / CHUNK_BYTES);
    const sector = index * CHUNK_BYTES / SECTOR_BYTES;
    const count = Math.min(
      CHUNK_BYTES / SECTOR_BYTES,
      this.#disk.sectors - sector,
    );
    const chunk = await this.#disk.read(sector, count);
    if (this.#chunks.size >= KEPT_CHUNKS) {
      this.#chunks.delete(this.#chunks.keys().next().value!);
    }
    this.#chunks.set(index, isZero(chunk) ? null : chunk);
    return this.peek(block)!;
  }
}
