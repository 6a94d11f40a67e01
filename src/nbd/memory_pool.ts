/**
 * Memory for the data of requests, used again and again.
 *
 * Each piece has room in front for a reply's header, so that header and data go
 * to the socket in one write, and the data begins on a page, so that it goes to
 * and from the disk without a copy.
 *
 * @module
 */

import { SECTOR_BYTES } from "../geometry.ts";

/** Bytes in front of the data: a page, so that the data begins on one. */
export const HEADROOM_BYTES = 4096;

/** The smallest piece. */
const SMALLEST_BYTES = 4096;

/** Bytes that are kept while nobody needs them. */
const KEPT_BYTES = 16 << 20;

/** A piece of memory. */
export interface Memory {
  /** All of it; the data begins at {@linkcode HEADROOM_BYTES}. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The same for numbers. */
  readonly view: DataView;
}

/** Pieces of memory whose sizes are powers of two. */
export class MemoryPool {
  readonly #allocate: (sectors: number) => Uint8Array<ArrayBuffer>;
  /** By the logarithm of their size. */
  readonly #free: Memory[][] = [];
  #freeBytes = 0;

  /**
   * Constructs a new instance.
   *
   * @param allocate Makes memory that the disk moves without a copy.
   */
  constructor(allocate: (sectors: number) => Uint8Array<ArrayBuffer>) {
    this.#allocate = allocate;
  }

  /**
   * Lends memory; what it has is undefined.
   *
   * @param length Bytes of data.
   * @returns The memory, with at least so many.
   */
  take(length: number): Memory {
    const power = powerFor(length);
    const found = this.#free[power]?.pop();
    if (found !== undefined) {
      this.#freeBytes -= found.bytes.length;
      return found;
    }
    const bytes = this.#allocate(
      (HEADROOM_BYTES + 2 ** power) / SECTOR_BYTES,
    );
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    return { bytes, view };
  }

  /**
   * Takes memory back.
   *
   * @param memory The memory; nobody may use it any more.
   */
  give(memory: Memory): void {
    if (this.#freeBytes + memory.bytes.length > KEPT_BYTES) return;
    this.#freeBytes += memory.bytes.length;
    const power = powerFor(memory.bytes.length - HEADROOM_BYTES);
    (this.#free[power] ??= []).push(memory);
  }
}

function powerFor(length: number): number {
  return 32 - Math.clz32(Math.max(length, SMALLEST_BYTES) - 1);
}
