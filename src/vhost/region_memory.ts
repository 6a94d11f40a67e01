/**
 * The two ways to reach the bytes of a region: mapped, or by calls.
 *
 * A mapping costs nothing per access and can be lent to the kernel, but whoever
 * cuts the file ends the process that touches what is gone (SIGBUS). So only a
 * file that is sealed against it is mapped (QEMU's `memory-backend-memfd` is).
 * Any other file in memory (User Mode Linux's, Cloud Hypervisor's) is read and
 * written by pread(2) and pwrite(2): a cut file is a short read then. That is by
 * a description of our own: the front end may set O_APPEND on the one it sent.
 *
 * Order of accesses. In a mapping, loads and stores by `Atomics` are
 * sequentially consistent, which is acquire, release and the full barrier
 * between a store and a later load, on every architecture. Between two calls,
 * each of which copies inside of the kernel, a processor may still reorder
 * (arm64): an atomic load and store of our own on either side is the barrier
 * there.
 *
 * @module
 */

import { fileSizeLimit } from "../../ffi/file_size_limit.ts";
import type { Libc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory } from "../../ffi/memory.ts";
import {
  mapShared,
  memoryFile,
  openMemoryFile,
} from "../../ffi/shared_memory.ts";
import { GuestFault, type RegionMemory } from "./memory_map.ts";

/** Memory that is there for good: a mapping, or any ArrayBuffer. */
export class MappedMemory implements RegionMemory {
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #words: Uint16Array<ArrayBuffer>;
  /** Where the region begins in the buffer. */
  readonly #start: number;
  readonly #release: () => void;

  /**
   * Constructs a new instance.
   *
   * @param buffer The memory.
   * @param start Where the region begins in it.
   * @param release Called when nobody touches it any more.
   */
  constructor(buffer: ArrayBuffer, start: number, release: () => void) {
    this.#bytes = new Uint8Array(buffer);
    this.#words = new Uint16Array(buffer, 0, Math.floor(buffer.byteLength / 2));
    this.#start = start;
    this.#release = release;
  }

  /** The memory itself. */
  lend(at: number, length: number): Uint8Array<ArrayBuffer> {
    const start = this.#start + at;
    return this.#bytes.subarray(start, start + length);
  }

  /** Copies bytes out of the region. */
  read(at: number, target: Uint8Array<ArrayBuffer>): void {
    const { length } = target;
    if (length > SHORT_BYTES) {
      target.set(this.lend(at, length));
      return;
    }
    const bytes = this.#bytes;
    const start = this.#start + at;
    for (let i = 0; i < length; i++) target[i] = bytes[start + i]!;
  }

  /** Copies bytes into the region. */
  write(at: number, source: Uint8Array<ArrayBuffer>): void {
    const { length } = source;
    if (length > SHORT_BYTES) {
      this.#bytes.set(source, this.#start + at);
      return;
    }
    const bytes = this.#bytes;
    const start = this.#start + at;
    for (let i = 0; i < length; i++) bytes[start + i] = source[i]!;
  }

  /** Loads a u16, sequentially consistent. */
  loadU16(at: number): number {
    return Atomics.load(this.#words, wordOf(this.#start + at));
  }

  /** Stores a u16, sequentially consistent. */
  storeU16(at: number, value: number): void {
    Atomics.store(this.#words, wordOf(this.#start + at), value);
  }

  /** Gives the memory back. */
  release(): void {
    this.#release();
  }
}

/** Bytes up to which a loop is faster than a view for one copy. */
const SHORT_BYTES = 64;

/** A file in memory that may be cut at any time. */
class FileMemory implements RegionMemory {
  readonly #libc: Libc;
  readonly #fd: number;
  /** Where the region begins in the file. */
  readonly #start: number;
  readonly #word = alignedMemory(2, 8);
  readonly #view = new DataView(this.#word.buffer, this.#word.byteOffset, 2);
  readonly #fence = new Int32Array(1);

  constructor(libc: Libc, fd: number, start: number) {
    this.#libc = libc;
    this.#fd = fd;
    this.#start = start;
  }

  lend(): null {
    return null;
  }

  read(at: number, target: Uint8Array<ArrayBuffer>): void {
    let address = addressOf(target);
    let offset = this.#start + at;
    for (let left = target.length; left > 0;) {
      const done = this.#libc.pread(this.#fd, address, left, offset);
      if (done === -this.#libc.abi.errno.EINTR) continue;
      if (done <= 0) throw gone();
      address += done;
      offset += done;
      left -= done;
    }
  }

  write(at: number, source: Uint8Array<ArrayBuffer>): void {
    let address = addressOf(source);
    let offset = this.#start + at;
    for (let left = source.length; left > 0;) {
      const done = this.#libc.pwrite(this.#fd, address, left, offset);
      if (done === -this.#libc.abi.errno.EINTR) continue;
      if (done <= 0) throw gone();
      address += done;
      offset += done;
      left -= done;
    }
  }

  loadU16(at: number): number {
    wordOf(at);
    this.#barrier();
    this.read(at, this.#word);
    this.#barrier();
    return this.#view.getUint16(0, true);
  }

  storeU16(at: number, value: number): void {
    wordOf(at);
    this.#view.setUint16(0, value, true);
    this.#barrier();
    this.write(at, this.#word);
    this.#barrier();
  }

  release(): void {
    this.#libc.close(this.#fd);
  }

  /** A full barrier: what comes after it in the program comes after it. */
  #barrier(): void {
    // Sequentially consistent read-modify-write: `lock xadd`, `ldaddal`.
    Atomics.add(this.#fence, 0, 1);
  }
}

/** Where a region's bytes are, as a front end says. */
export interface RegionFile {
  /** Offset in the file. */
  readonly fileOffset: number;
  /** Bytes. */
  readonly byteLength: number;
}

/**
 * Opens the memory of a region.
 *
 * @param libc The C library.
 * @param fd What the front end sent: it is closed here.
 * @param file Where in it the region is.
 * @param closeOther Closes what turns out to be no file in memory.
 * @returns The memory.
 * @throws {GuestFault} If it is no file in memory, or shorter than said, or
 * cannot be mapped or opened.
 */
export function openRegionMemory(
  libc: Libc,
  fd: number,
  { fileOffset, byteLength }: RegionFile,
  closeOther: (fd: number) => void = (fd) => libc.close(fd),
): RegionMemory {
  let kept = false;
  try {
    const file = memoryFile(libc, fd);
    if (file === null) {
      kept = true;
      closeOther(fd);
      throw new GuestFault(
        "Cannot use guest memory as it must be a file in memory: a memfd, or a file on tmpfs, without huge pages",
      );
    }
    if (fileOffset + byteLength > file.sizeBytes) {
      throw new GuestFault(
        `Cannot use guest memory as its file must have ${
          fileOffset + byteLength
        } bytes: current value is ${file.sizeBytes}`,
      );
    }
    if (!file.cannotShrink) {
      // Whoever writes beyond such a limit is ended by a signal.
      if (fileSizeLimit(libc) < fileOffset + byteLength) {
        throw new GuestFault(
          "Cannot use guest memory as the limit on file sizes (ulimit -f) is below its end",
        );
      }
      const own = openMemoryFile(libc, fd);
      if (own < 0) {
        throw new GuestFault(
          `Cannot use guest memory as its file must be open for reading and writing, and so for the server: errno ${-own}`,
        );
      }
      return new FileMemory(libc, own, fileOffset);
    }
    const mapped = mapShared(libc, fd, fileOffset, byteLength);
    if (typeof mapped === "number") {
      throw new GuestFault(
        `Cannot map ${byteLength} bytes of guest memory: errno ${-mapped}`,
      );
    }
    return new MappedMemory(mapped.buffer, mapped.start, mapped.release);
  } finally {
    if (!kept) libc.close(fd);
  }
}

function wordOf(at: number): number {
  if (at % 2 === 0) return at / 2;
  throw new GuestFault("Cannot use a ring as its address must be even");
}

function gone(): GuestFault {
  return new GuestFault(
    "Cannot reach guest memory as its file was cut or cannot be written",
  );
}
