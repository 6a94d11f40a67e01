/**
 * Page-aligned memory that stands in for memory that is not: small pieces made
 * as needed and kept, and a few large ones that transfers wait for in turn.
 *
 * The memory is mapped, not V8's: a Worker that is terminated with I/O in
 * flight leaves it behind, so that the kernel never writes into memory that
 * somebody else was given meanwhile.
 *
 * @module
 */

import type { Libc } from "../../../ffi/libc.ts";
import { mapMemory, type MappedMemory } from "../../../ffi/mapped_memory.ts";

/** Bytes of a small piece: what most requests of a database fit in. */
export const SMALL_BOUNCE_BYTES = 16_384;

/** Bytes of a large piece. */
export const LARGE_BOUNCE_BYTES = 1_048_576;

/** Large pieces that exist at most. */
const MAX_LARGE = 8;

/** A piece of aligned memory. */
export type Bounce = MappedMemory;

/**
 * Aligned memory for transfers. Small pieces are as many as there were
 * transfers at once (the queue's size bounds that), large ones at most eight.
 */
export class BouncePool {
  readonly #libc: Libc;
  readonly #made: Bounce[] = [];
  readonly #small: Bounce[] = [];
  readonly #large: Bounce[] = [];
  #largeMade = 0;
  readonly #waiting: ((bounce: Bounce) => void)[] = [];

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   */
  constructor(libc: Libc) {
    this.#libc = libc;
  }

  /**
   * Lends a piece.
   *
   * @param bytes Bytes that are wanted; a large piece may have fewer.
   * @param granted Called with the piece, maybe at once.
   * @throws If there is no memory for it; then it was not called.
   */
  take(bytes: number, granted: (bounce: Bounce) => void): void {
    if (bytes <= SMALL_BOUNCE_BYTES) {
      granted(this.#small.pop() ?? this.#make(SMALL_BOUNCE_BYTES));
    } else if (this.#large.length > 0) {
      granted(this.#large.pop()!);
    } else if (this.#largeMade < MAX_LARGE) {
      const bounce = this.#make(LARGE_BOUNCE_BYTES);
      this.#largeMade++;
      granted(bounce);
    } else {
      this.#waiting.push(granted);
    }
  }

  /**
   * Takes a piece back.
   *
   * @param bounce The piece.
   */
  give(bounce: Bounce): void {
    if (bounce.bytes.length === SMALL_BOUNCE_BYTES) this.#small.push(bounce);
    else {
      const next = this.#waiting.shift();
      if (next === undefined) this.#large.push(bounce);
      else next(bounce);
    }
  }

  /** Gives all of it back to the system. Nothing may be lent. */
  close(): void {
    for (const { release } of this.#made) release();
  }

  #make(bytes: number): Bounce {
    const bounce = mapMemory(this.#libc, bytes);
    this.#made.push(bounce);
    return bounce;
  }
}
