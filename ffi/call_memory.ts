/**
 * Memory for the arguments and answers of C calls that are made on another
 * thread, or that leave an address behind: it lies outside of the heap, so that
 * it does not move, and stays for as long as somebody may write into it.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { mapMemory, type MappedMemory } from "./mapped_memory.ts";
import { readU64 } from "./memory.ts";

/** Bytes of a pointer, of a `size_t` and of a `uint64_t`. */
const CELL_BYTES = 8;

/** Arguments of one call, or of a few. */
export class CallMemory {
  readonly #memory: MappedMemory;
  readonly #view: DataView<ArrayBuffer>;
  #used = 0;

  /**
   * Maps memory.
   *
   * @param libc The C library.
   * @param byteLength Bytes that all arguments may have together.
   * @throws {RangeError} If the system has no memory left.
   * @throws {Deno.errors.NotCapable} If FFI is not allowed.
   */
  constructor(libc: Libc, byteLength = 4096) {
    this.#memory = mapMemory(libc, byteLength);
    this.#view = new DataView(this.#memory.bytes.buffer);
  }

  /**
   * Takes a piece, all of it zero.
   *
   * @param byteLength Bytes.
   * @returns Its address.
   * @throws {RangeError} If there is no room for it.
   */
  take(byteLength: number): bigint {
    const at = this.#used;
    const { bytes, address } = this.#memory;
    this.#used += Math.ceil(byteLength / CELL_BYTES) * CELL_BYTES;
    if (this.#used > bytes.length) {
      throw new RangeError(
        `Cannot call a C function as its arguments must be ${bytes.length} bytes at most together`,
      );
    }
    return BigInt(address + at);
  }

  /**
   * Puts a string there, with a zero byte at its end.
   *
   * @param text The string, which has no zero in it.
   * @returns Its address.
   * @throws {RangeError} If there is no room for it.
   */
  text(text: string): bigint {
    const bytes = new TextEncoder().encode(text);
    const address = this.take(bytes.length + 1);
    this.#memory.bytes.set(bytes, this.#at(address));
    return address;
  }

  /**
   * Writes a number or an address of 64 bits.
   *
   * @param address Where, as {@linkcode CallMemory.take} gave it.
   * @param value The value.
   */
  set(address: bigint, value: bigint): void {
    this.#view.setBigUint64(this.#at(address), value, true);
  }

  /**
   * Reads an address.
   *
   * @param address Where it lies.
   * @returns The address.
   */
  pointer(address: bigint): bigint {
    return this.#view.getBigUint64(this.#at(address), true);
  }

  /**
   * Reads a number of 64 bits.
   *
   * @param address Where it lies.
   * @returns The number; above 2^53 the nearest one.
   */
  number(address: bigint): number {
    return readU64(this.#view, this.#at(address));
  }

  /**
   * Reads a number of 32 bits.
   *
   * @param address Where it lies.
   * @returns The number.
   */
  int(address: bigint): number {
    return this.#view.getInt32(this.#at(address), true);
  }

  /**
   * Reads a string that lies in this memory.
   *
   * @param address Where it begins.
   * @returns The string, up to its zero byte.
   */
  string(address: bigint): string {
    const bytes = this.#memory.bytes.subarray(this.#at(address));
    const end = bytes.indexOf(0);
    return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
  }

  /**
   * Copies bytes that lie in this memory.
   *
   * @param address Where they begin.
   * @param byteLength How many.
   * @returns The copy.
   */
  bytes(address: bigint, byteLength: number): Uint8Array<ArrayBuffer> {
    const at = this.#at(address);
    return this.#memory.bytes.slice(at, at + byteLength);
  }

  /** Unmaps it: nobody writes into it any more. */
  release(): void {
    this.#memory.release();
  }

  #at(address: bigint): number {
    return Number(address) - this.#memory.address;
  }
}
