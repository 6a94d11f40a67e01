/**
 * Memory whose address is known: aligned buffers, iovec arrays, and views of
 * memory that the kernel gave. It touches addresses, and calls no library.
 *
 * Aligned memory is an ordinary ArrayBuffer, a little longer than asked, of
 * which a view begins at an aligned address. A backing store never moves, and
 * lives for as long as anything refers to it, so that nothing has to be freed.
 * (Memory of mmap would have to be unmapped, and its ArrayBuffer must not
 * outlive that.)
 *
 * It cannot be detached. A transfer (`structuredClone`, `postMessage`,
 * `transfer()`) would give the backing store to another ArrayBuffer, which may
 * free it while the kernel still moves bytes; a reference to the first one does
 * not help. So the buffer is marked as untransferable, and a transfer throws.
 *
 * @module
 */

import process from "node:process";
import { foreign } from "./foreign/mod.ts";
import { assertFfiGranted } from "./permission.ts";

/** 2^32, to split a safe integer into two 32-bit halves. */
const TWO_32 = 0x1_0000_0000;

/** Bytes of one `struct iovec`: void* iov_base@0, size_t iov_len@8. */
const IOVEC_BYTES = 16;

/** Bytes of a WebAssembly page (WebAssembly core specification §4.2.8). */
const WASM_PAGE_BYTES = 65_536;

// Address of the first byte of each ArrayBuffer made here.
const baseAddresses = new WeakMap<ArrayBuffer, number>();

function addressOfBuffer(buffer: ArrayBuffer): number {
  const address = Number(foreign().addressOf(buffer));
  if (!Number.isSafeInteger(address)) {
    throw new RangeError(
      `Cannot use memory as its address must be a safe integer: current value is ${address}`,
    );
  }
  return address;
}

/** Marks a buffer, so that it cannot be transferred. */
type Mark = (buffer: ArrayBuffer) => void;

/**
 * Finds out how to mark, once: a runtime may lack the mark (Deno before 2.7
 * does), or heed it in some transfers alone (Bun does), and `transfer()`
 * asks nobody but the buffer itself.
 *
 * @returns How; `null` where marks do not hold.
 */
function findMark(): Mark | null {
  try {
    // Not imported, as it would be loaded by who has no use for it.
    const threads = process.getBuiltinModule("node:worker_threads");
    const buffer = new ArrayBuffer(1);
    threads.markAsUntransferable(buffer);
    try {
      buffer.transfer();
    } catch {
      return threads.markAsUntransferable;
    }
  } catch {
    // There is none.
  }
  return null;
}

let mark: Mark | null | undefined;

/** Zeroed memory that cannot be detached, and where it may be taken from. */
interface Block {
  readonly buffer: ArrayBuffer;
  readonly base: number;
  used: number;
}

/** Bytes of a block that many share where memory is dear. */
const SHARED_BLOCK_BYTES = 1 << 20;

let shared: Block | null = null;

/** Makes zeroed memory that cannot be detached, or takes what is left of it. */
function undetachable(byteLength: number): Block {
  if (mark === undefined) mark = findMark();
  if (mark !== null) {
    const buffer = new ArrayBuffer(byteLength);
    mark(buffer);
    return blockOf(buffer);
  }
  if (byteLength > SHARED_BLOCK_BYTES / 4) return ofModule(byteLength);
  // Bun collects garbage for every one of them (some 2 ms) where there are many.
  if (shared === null || shared.used + byteLength > SHARED_BLOCK_BYTES) {
    shared = ofModule(SHARED_BLOCK_BYTES);
  }
  return shared;
}

/**
 * The memory of a module. It cannot be detached but by growing it, and nobody has
 * the object that could (WebAssembly JavaScript Interface §5.3).
 */
function ofModule(byteLength: number): Block {
  const pages = Math.ceil(byteLength / WASM_PAGE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  return blockOf(memory.buffer as ArrayBuffer);
}

function blockOf(buffer: ArrayBuffer): Block {
  const base = addressOfBuffer(buffer);
  baseAddresses.set(buffer, base);
  return { buffer, base, used: 0 };
}

/**
 * Allocates zeroed memory that begins at an aligned address and cannot be
 * detached. It never begins where its buffer does, so that a program that takes
 * `buffer` for the memory itself fails at once and everywhere.
 *
 * @param byteLength Length in bytes.
 * @param alignment Alignment of the address in bytes, a power of two.
 * @returns A view of the memory; {@linkcode addressOf} knows its address.
 * @throws {RangeError} If the length is not a safe integer ≥ 0, or the
 * alignment is not a power of two.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function alignedMemory(
  byteLength: number,
  alignment = 4096,
): Uint8Array<ArrayBuffer> {
  if (!Number.isSafeInteger(byteLength) || byteLength < 0) {
    throw new RangeError(
      `Cannot allocate memory as its length must be a safe integer from 0: ` +
        `current value is ${byteLength}`,
    );
  }
  // A power of two has one bit set; 2^30 is far beyond any huge page in use.
  if (
    !Number.isInteger(alignment) || alignment < 1 || alignment > 2 ** 30 ||
    (alignment & (alignment - 1)) !== 0
  ) {
    throw new RangeError(
      `Cannot allocate memory as its alignment must be a power of two: ` +
        `current value is ${alignment}`,
    );
  }
  assertFfiGranted();
  // At worst the whole alignment is skipped, and 1 byte at least. An ArrayBuffer
  // made directly is never kept inside the garbage-collected heap, as a small
  // typed array can be.
  const block = undetachable(byteLength + alignment);
  const { buffer, base, used } = block;
  // Addresses are below 2^53, and % is exact there.
  const skip = alignment - (base + used) % alignment;
  block.used += skip + byteLength;
  return new Uint8Array(buffer, used + skip, byteLength);
}

/**
 * The address of memory made here. An address does not keep its memory alive:
 * something must refer to the view until the kernel is done with it.
 *
 * @param view A view of it, or of a part of it.
 * @returns The address of its first byte, or 0 when the memory was not made
 * here.
 */
export function addressOf(view: ArrayBufferView): number {
  const base = baseAddresses.get(view.buffer as ArrayBuffer);
  return base === undefined ? 0 : base + view.byteOffset;
}

/** The memory of every {@linkcode withMemory} that is not over. */
const lent = new Set<Uint8Array>();

/**
 * Lends memory to calls that need no more of it than its address. A variable would
 * not keep it until they are over: what no later line reads is garbage at once, and
 * the system would write into memory that is somebody else's by then.
 *
 * @param byteLength Length in bytes.
 * @param use Makes the calls; the memory is gone once it returns.
 * @returns What `use` returns.
 * @throws {RangeError} If the length is not a safe integer ≥ 0.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function withMemory<T>(
  byteLength: number,
  use: (address: number) => T,
): T {
  const memory = alignedMemory(byteLength);
  lent.add(memory);
  try {
    return use(addressOf(memory));
  } finally {
    lent.delete(memory);
  }
}

/**
 * Shows memory that was not made here, such as a mapping, as an ArrayBuffer.
 * The caller must keep the memory mapped for as long as anything uses it.
 *
 * @param address Address of the first byte.
 * @param byteLength Length in bytes.
 * @returns The memory itself, not a copy.
 * @throws {TypeError} If the address is 0.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function memoryAt(address: number, byteLength: number): ArrayBuffer {
  assertFfiGranted();
  if (address === 0) {
    throw new TypeError("Cannot show memory as its address must not be 0");
  }
  return foreign().memoryAt(BigInt(address), byteLength);
}

/**
 * Shows memory as {@linkcode memoryAt} does, for others to take a share of: its
 * address is known to {@linkcode addressOf}, and where the runtime can hold it
 * to that, it cannot be detached.
 *
 * @param address Address of the first byte.
 * @param byteLength Length in bytes.
 * @returns The memory itself, not a copy.
 * @throws {TypeError} If the address is 0.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function lentMemoryAt(address: number, byteLength: number): ArrayBuffer {
  const buffer = memoryAt(address, byteLength);
  if (mark === undefined) mark = findMark();
  mark?.(buffer);
  baseAddresses.set(buffer, address);
  return buffer;
}

/**
 * Reads a little-endian u64 as a number, without making a BigInt.
 *
 * @param view Where to read.
 * @param byteOffset Offset in bytes.
 * @returns The value; above 2^53 the nearest number.
 */
export function readU64(view: DataView, byteOffset: number): number {
  return view.getUint32(byteOffset + 4, true) * TWO_32 +
    view.getUint32(byteOffset, true);
}

/**
 * Writes a safe integer as a little-endian u64 (or i64), without making a
 * BigInt.
 *
 * @param view Where to write.
 * @param byteOffset Offset in bytes.
 * @param value The value, a safe integer of either sign.
 */
export function writeU64(
  view: DataView,
  byteOffset: number,
  value: number,
): void {
  // setUint32 takes its value modulo 2^32; floor makes the high half of a
  // negative value the two's complement one.
  view.setUint32(byteOffset, value, true);
  view.setUint32(byteOffset + 4, Math.floor(value / TWO_32), true);
}

/** A struct for one call. */
export interface StructMemory {
  /** Address of its first byte, a multiple of 8. */
  readonly address: number;
  /** Its bytes, all zero. */
  readonly view: DataView<ArrayBuffer>;
}

/** Longest struct of a call here, and enough for that of statx (256 bytes). */
const STRUCT_BYTES = 512;

// One piece for all calls: they are synchronous, so that no two need it at
// once. It is also what keeps the memory alive: the compiler may let go of a
// local view as soon as its address is known, before the call is made.
let structBytes: Uint8Array<ArrayBuffer> | undefined;

/**
 * Zeroed memory for the struct of one synchronous call. The next use of this
 * function takes it back.
 *
 * @param byteLength Length in bytes, at most 512.
 * @returns The memory.
 * @throws {RangeError} If the length is greater.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function structMemory(byteLength: number): StructMemory {
  if (!(byteLength <= STRUCT_BYTES)) {
    throw new RangeError(
      `Cannot make a struct as its length must be at most ${STRUCT_BYTES}: ` +
        `current value is ${byteLength}`,
    );
  }
  structBytes ??= alignedMemory(STRUCT_BYTES, 8);
  structBytes.fill(0);
  return {
    address: addressOf(structBytes),
    view: new DataView(
      structBytes.buffer,
      structBytes.byteOffset,
      byteLength,
    ),
  };
}

/** An array of `struct iovec`, for preadv, pwritev and io_uring. */
export class IoVector {
  readonly #memory: Uint8Array<ArrayBuffer>;
  readonly #words: Uint32Array<ArrayBuffer>;

  /** Address of the first entry. */
  readonly address: number;

  /** Number of entries. */
  readonly capacity: number;

  /**
   * Makes an array of empty entries.
   *
   * @param capacity Number of entries.
   * @throws {RangeError} If the capacity is not an integer from 1.
   * @throws {Deno.errors.NotCapable} If FFI is not allowed.
   */
  constructor(capacity: number) {
    if (!Number.isSafeInteger(capacity) || capacity < 1) {
      throw new RangeError(
        `Cannot make an iovec array as its capacity must be an integer from 1: ` +
          `current value is ${capacity}`,
      );
    }
    this.capacity = capacity;
    this.#memory = alignedMemory(capacity * IOVEC_BYTES, IOVEC_BYTES);
    this.address = addressOf(this.#memory);
    this.#words = new Uint32Array(
      this.#memory.buffer,
      this.#memory.byteOffset,
      capacity * IOVEC_BYTES / 4,
    );
  }

  /**
   * Fills one entry. Allocates nothing.
   *
   * @param index Which entry.
   * @param address Address of the segment.
   * @param byteLength Length of the segment in bytes.
   * @throws {RangeError} If the index is beyond the capacity.
   */
  set(index: number, address: number, byteLength: number): void {
    if (!(index >= 0 && index < this.capacity)) {
      throw new RangeError(
        `Cannot set an iovec as its index must be below ${this.capacity}: ` +
          `current value is ${index}`,
      );
    }
    // Stores into a Uint32Array take the value modulo 2^32.
    const words = this.#words;
    const at = index * 4;
    words[at] = address;
    words[at + 1] = address / TWO_32;
    words[at + 2] = byteLength;
    words[at + 3] = byteLength / TWO_32;
  }
}
