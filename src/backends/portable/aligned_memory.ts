/**
 * Page-aligned memory without FFI. The memory of a `WebAssembly.Memory` starts
 * on a page, and that is all that O_DIRECT needs of it: no WebAssembly runs.
 *
 * @module
 */

import { offsetMemory } from "../../buffer.ts";
import { NO_ADDRESS, roundUp } from "../alignment_plan.ts";
import { Pool } from "../pool.ts";

/** Bytes of the smallest page that a supported host has. */
export const PAGE_BYTES = 4096;

/** Bytes of a bounce buffer, and so of the largest write in one system call. */
export const BOUNCE_BYTES = 1 << 20;

/** Bounce buffers of the whole process: 32 MiB, untouched until used. */
const BOUNCE_COUNT = 32;

/** Bytes of a WebAssembly page (WebAssembly core specification §4.2.8). */
const WASM_PAGE_BYTES = 65_536;

/** Bytes that an arena grows by. */
const ARENA_BYTES = 4 << 20;

/** Buffers known to start on a page. */
const alignedBuffers = new WeakSet<ArrayBufferLike>();

/**
 * Makes page-aligned memory.
 *
 * Every `WebAssembly.Memory` reserves about 10 GiB of address space, of which
 * V8 gives out some 1 TiB: so few of them, shared.
 */
function makeAligned(byteLength: number): ArrayBuffer {
  const pages = Math.ceil(byteLength / WASM_PAGE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  // Not shared, as `shared` was not asked for.
  const buffer = memory.buffer as ArrayBuffer;
  alignedBuffers.add(buffer);
  return buffer;
}

/**
 * Where memory lies, as far as that can be told without FFI.
 *
 * @param memory The memory.
 * @returns A number with the address's remainder by {@linkcode PAGE_BYTES}; or
 * `NO_ADDRESS` for memory that was not made here.
 */
export function addressInPages(memory: Uint8Array): number {
  return alignedBuffers.has(memory.buffer) ? memory.byteOffset : NO_ADDRESS;
}

/** Hands out page-aligned memory that the garbage collector takes back. */
export class Arena {
  #buffer: ArrayBuffer | null = null;
  #used = 0;

  /**
   * Takes memory. The first page of each buffer is never lent, so that no memory
   * begins where its buffer does: see `offsetMemory()`.
   *
   * @param byteLength Bytes.
   * @returns The memory, zeroed: page-aligned unless the address space ran out.
   */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    const size = roundUp(byteLength, PAGE_BYTES);
    if (this.#buffer === null || this.#used + size > this.#buffer.byteLength) {
      try {
        this.#buffer = makeAligned(Math.max(size + PAGE_BYTES, ARENA_BYTES));
        this.#used = PAGE_BYTES;
      } catch {
        return offsetMemory(byteLength);
      }
    }
    const memory = new Uint8Array(this.#buffer, this.#used, byteLength);
    this.#used += size;
    return memory;
  }
}

/** The bounce buffers, and a last piece that stays zero; made on first use. */
let memory: ArrayBuffer | null = null;

function pieceOf(index: number): Uint8Array {
  memory ??= makeAligned((BOUNCE_COUNT + 1) * BOUNCE_BYTES);
  return new Uint8Array(memory, index * BOUNCE_BYTES, BOUNCE_BYTES);
}

const bounces = new Pool(pieceOf, BOUNCE_COUNT);

/**
 * Takes a bounce buffer, waiting for one if all are in use. Its user waits
 * for the kernel alone, so that it always comes back.
 *
 * @returns {@linkcode BOUNCE_BYTES} bytes of memory with anything in it.
 */
export function takeBounce(): Promise<Uint8Array> {
  return new Promise((resolve) => bounces.take(resolve));
}

/**
 * Gives a bounce buffer back.
 *
 * @param bounce The buffer.
 */
export function giveBounce(bounce: Uint8Array): void {
  bounces.give(bounce);
}

let zeroMemory: Uint8Array | null = null;

/**
 * Page-aligned zeroes, not to be written to.
 *
 * @returns {@linkcode BOUNCE_BYTES} bytes.
 */
export function zeroes(): Uint8Array {
  return zeroMemory ??= pieceOf(BOUNCE_COUNT);
}
