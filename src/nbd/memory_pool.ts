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

/** The smallest piece, and what all are multiples of. */
const SMALLEST_BYTES = 4096;

/** Sizes from one power of two to the next. */
const STEPS = 8;

/** Bytes that are kept while nobody needs them. */
const KEPT_BYTES = 16 << 20;

/** A piece of memory. */
export interface Memory {
  /** All of it; the data begins at {@linkcode HEADROOM_BYTES}. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The same for numbers. */
  readonly view: DataView;
}

/** Pieces of memory of a few sizes, none an eighth larger than need be. */
export class MemoryPool {
  readonly #allocate: (sectors: number) => Uint8Array<ArrayBuffer>;
  /** By their size. */
  readonly #free = new Map<number, Memory[]>();
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
   * @param size Bytes of the memory, if they are known already.
   * @returns The memory, with at least so many.
   */
  take(length: number, size: number = memoryBytes(length)): Memory {
    const found = this.#free.get(size)?.pop();
    if (found !== undefined) {
      this.#freeBytes -= size;
      return found;
    }
    const bytes = this.#allocate(size / SECTOR_BYTES);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    return { bytes, view };
  }

  /**
   * Takes memory back.
   *
   * @param memory The memory; nobody may use it any more.
   */
  give(memory: Memory): void {
    const size = memory.bytes.length;
    if (this.#freeBytes + size > KEPT_BYTES) return;
    this.#freeBytes += size;
    const list = this.#free.get(size);
    if (list === undefined) this.#free.set(size, [memory]);
    else list.push(memory);
  }
}

/**
 * What a piece of memory costs.
 *
 * @param length Bytes of data.
 * @returns Bytes that it takes, its headroom included.
 */
export function memoryBytes(length: number): number {
  const least = Math.max(length, SMALLEST_BYTES);
  // In 32 bits, which is enough: it is asked for each request.
  const power = 1 << (32 - Math.clz32(least - 1));
  const step = Math.max(SMALLEST_BYTES, power / 2 / STEPS);
  return HEADROOM_BYTES + ((least + step - 1) & -step);
}
