/**
 * Memory between callers and librbd. Its threads move the bytes, cannot be told
 * to stop, and go on after a request was aborted and after a Worker was
 * terminated: so they are never given memory that somebody else may free, reuse
 * or change meanwhile. To copy costs some 0.1 ms for a MiB, of the milliseconds
 * that a cluster takes.
 *
 * @module
 */

import type { Libc } from "../../../ffi/libc.ts";
import { mapMemory, type MappedMemory } from "../../../ffi/mapped_memory.ts";
import { Pool } from "../pool.ts";

/** Bytes of the pieces that there are, the smaller ones for most requests. */
const SIZES = [16_384, 1_048_576] as const;

/** The most bytes that one piece has. */
export const MAX_BOUNCE_BYTES = SIZES[1];

/** Bytes of each size that there are at most. */
const MAX_BYTES = 33_554_432;

/** Pieces of memory, mapped as they are needed. */
export class Bounce {
  readonly #made: MappedMemory[] = [];
  readonly #pools: readonly Pool<MappedMemory>[];

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   */
  constructor(libc: Libc) {
    this.#pools = SIZES.map((size) =>
      new Pool<MappedMemory>(() => {
        const memory = mapMemory(libc, size);
        this.#made.push(memory);
        return memory;
      }, MAX_BYTES / size)
    );
  }

  /**
   * Lends a piece.
   *
   * @param byteLength Bytes that are wanted, {@linkcode MAX_BOUNCE_BYTES} at
   * most.
   * @param granted Called with it, at once where there is one.
   * @throws {RangeError} If the system has no memory left.
   */
  take(byteLength: number, granted: (memory: MappedMemory) => void): void {
    this.#poolOf(byteLength).take(granted);
  }

  /**
   * Takes a piece back.
   *
   * @param memory The piece, which librbd is done with.
   */
  give(memory: MappedMemory): void {
    this.#poolOf(memory.bytes.length).give(memory);
  }

  /** Unmaps all of it: librbd has none any more. */
  release(): void {
    for (const memory of this.#made.splice(0)) memory.release();
  }

  #poolOf(byteLength: number): Pool<MappedMemory> {
    return this.#pools[byteLength <= SIZES[0] ? 0 : 1]!;
  }
}
