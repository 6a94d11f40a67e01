/**
 * Memory of our own for data that cannot go between guest and disk as it is.
 * What all requests together have is bounded; who finds none waits in line.
 *
 * @module
 */

import { alignedMemory } from "../../ffi/memory.ts";

/** Bytes of the pieces that there are, the smaller ones for most requests. */
const SIZES = [16_384, 262_144] as const;

/** The most bytes that one request gets at once. */
export const MAX_BOUNCE_BYTES = SIZES[1];

/** Bytes of each size that there are at most. */
const MAX_BYTES = 16_777_216;

/** Pieces of one size. */
class Shelf {
  readonly #size: number;
  #made = 0;
  readonly #free: Uint8Array<ArrayBuffer>[] = [];
  readonly #waiting: ((memory: Uint8Array<ArrayBuffer>) => void)[] = [];

  constructor(size: number) {
    this.#size = size;
  }

  take(): Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>> {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#made * this.#size < MAX_BYTES) {
      this.#made++;
      return alignedMemory(this.#size);
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  give(memory: Uint8Array<ArrayBuffer>): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(memory);
    else next(memory);
  }
}

/** Memory to bounce data through. */
export class BouncePool {
  readonly #shelves = SIZES.map((size) => new Shelf(size));

  /**
   * Lends a piece: at once where there is one.
   *
   * @param bytes Bytes that are wanted, {@linkcode MAX_BOUNCE_BYTES} at most.
   * @returns The piece, which may be longer.
   */
  take(
    bytes: number,
  ): Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>> {
    return this.#shelves[bytes <= SIZES[0] ? 0 : 1]!.take();
  }

  /**
   * Takes a piece back.
   *
   * @param memory The piece.
   */
  give(memory: Uint8Array<ArrayBuffer>): void {
    this.#shelves[memory.length === SIZES[0] ? 0 : 1]!.give(memory);
  }
}
