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
import type { BlockTable } from "./block_table.ts";
import type { ContentStore } from "./content_store.ts";

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

/** Sectors that are read at once, from multiples of it on. */
export const CHUNK_SECTORS: number = CHUNK_BYTES / SECTOR_BYTES;

/** Chunks that are kept: 8 MiB of them. */
const KEPT_CHUNKS = 128;

/** A disk below. What was read last is kept, up to 8 MiB. */
export class BackendSource implements BlockSource {
  /** All of them: the disk is not asked for its extents. */
  readonly stored = null;
  /** Called with each chunk that is read; not to keep or change its bytes. */
  onRead: (index: number, bytes: Uint8Array) => void = () => {};
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
    const chunk = await this.readChunk(index);
    this.onRead(index, chunk);
    if (this.#chunks.size >= KEPT_CHUNKS) {
      this.#chunks.delete(this.#chunks.keys().next().value!);
    }
    this.#chunks.set(index, isZero(chunk) ? null : chunk);
    return this.peek(block)!;
  }

  /**
   * Reads a chunk.
   *
   * @param index Which one.
   * @returns Its bytes: the last one may be shorter.
   */
  async readChunk(index: number): Promise<Uint8Array> {
    const sector = index * CHUNK_SECTORS;
    const count = Math.min(CHUNK_SECTORS, this.#disk.sectors - sector);
    return await this.#disk.read(sector, count);
  }
}

/** Blocks of a disk that a recording has all of. */
export class StoredSource implements BlockSource {
  readonly #table: BlockTable;
  readonly #contents: ContentStore;

  /**
   * Constructs a new instance.
   *
   * @param table The content of each block that is not zeroes.
   * @param contents The contents.
   */
  constructor(table: BlockTable, contents: ContentStore) {
    this.#table = table;
    this.#contents = contents;
  }

  /** The blocks that it has contents of. */
  get stored(): Iterable<number> {
    return Array.from(this.#table.entries(), ([block]) => block);
  }

  /** A block. */
  peek(block: number): Uint8Array {
    return this.#contents.read(Math.max(this.#table.get(block), 0));
  }

  /** A block. */
  fetch(block: number): Promise<Uint8Array> {
    return Promise.resolve(this.peek(block));
  }
}
