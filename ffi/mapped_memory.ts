/**
 * Memory from the kernel itself: page-aligned, zeroed, out of reach of V8's
 * garbage collection. It stays until it is given back, also when the thread
 * that made it is gone.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { memoryAt } from "./memory.ts";

/** A piece of mapped memory. */
export interface MappedMemory {
  /** The memory. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Its address. */
  readonly address: number;
  /** Unmaps it. It must not be used from then on. */
  readonly release: () => void;
}

/**
 * Maps memory: private, anonymous, mmap(2).
 *
 * @param libc The C library.
 * @param byteLength Length in bytes.
 * @returns The memory.
 * @throws {RangeError} If the system has no memory left.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function mapMemory(libc: Libc, byteLength: number): MappedMemory {
  const { PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS } = libc.abi.mmap;
  const address = libc.mmap(
    0,
    byteLength,
    PROT_READ | PROT_WRITE,
    MAP_PRIVATE | MAP_ANONYMOUS,
    -1,
    0,
  );
  if (address < 0) {
    throw new RangeError(
      `Cannot map ${byteLength} bytes of memory: errno ${-address}`,
    );
  }
  const release = () => {
    libc.munmap(address, byteLength);
  };
  try {
    const bytes = new Uint8Array(memoryAt(address, byteLength));
    return { bytes, address, release };
  } catch (error) {
    release();
    throw error;
  }
}
