/**
 * Page-aligned memory that stands in for memory that is not: small pieces made
 * as needed and kept, and a few large ones that transfers wait for in turn.
 *
 * The memory is mapped, not V8's: a Worker that is terminated with I/O in
 * flight leaves it behind, so that the kernel never writes into memory that has
 * another owner by then.
 *
 * @module
 */

import type { MappedMemory } from "../../../ffi/mapped_memory.ts";
import { Pool } from "../pool.ts";
import type { FileHost } from "./file_host.ts";

/** Bytes of a small piece: what most requests of a database fit in. */
const SMALL_BOUNCE_BYTES = 16_384;

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
  readonly #made: Bounce[] = [];
  readonly #small: Pool<Bounce>;
  readonly #large: Pool<Bounce>;

  /**
   * Constructs a new instance.
   *
   * @param host The operating system.
   */
  constructor(host: FileHost) {
    const make = (bytes: number) => () => {
      const bounce = host.mapMemory(bytes);
      this.#made.push(bounce);
      return bounce;
    };
    this.#small = new Pool(make(SMALL_BOUNCE_BYTES), Infinity);
    this.#large = new Pool(make(LARGE_BOUNCE_BYTES), MAX_LARGE);
  }

  /**
   * Lends a piece.
   *
   * @param bytes Bytes that are wanted, at most {@linkcode LARGE_BOUNCE_BYTES}.
   * @param granted Called with the piece, maybe at once.
   * @throws If there is no memory for it; then it was not called.
   */
  take(bytes: number, granted: (bounce: Bounce) => void): void {
    (bytes <= SMALL_BOUNCE_BYTES ? this.#small : this.#large).take(granted);
  }

  /**
   * Takes a piece back.
   *
   * @param bounce The piece.
   */
  give(bounce: Bounce): void {
    const isSmall = bounce.bytes.length === SMALL_BOUNCE_BYTES;
    (isSmall ? this.#small : this.#large).give(bounce);
  }

  /** Gives all of it back to the system. Nothing may be lent. */
  close(): void {
    for (const { release } of this.#made) release();
  }
}
