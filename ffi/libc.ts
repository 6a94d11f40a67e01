/**
 * The functions of the C library that a disk needs, with plain numbers for
 * arguments and results. It opens libc on first use, and knows no disks.
 *
 * Every call returns a result ≥ 0, or −errno. An interrupted call is not
 * retried here (−EINTR comes back), nor is a short count continued.
 *
 * @module
 */

import { arch, os } from "../src/platform/system.ts";
import { type Abi, abiFor, whyNoAbi } from "./abi.ts";
import { FfiError } from "./ffi_error.ts";
import { foreign } from "./foreign/mod.ts";
import {
  ensureFfiPermission,
  type LibcFunctions,
  openLibcFunctions,
} from "./library.ts";

/** 2^32, to split a safe integer into two 32-bit halves. */
const TWO_32 = 0x1_0000_0000;

/**
 * Most bytes that one call moves: INT_MAX rounded down to a page of 4096
 * bytes (MAX_RW_COUNT in include/linux/fs.h). Longer requests come back short.
 */
export const MAX_TRANSFER = 0x7fff_f000;

// Deno's fast calls take a bigint for each 64-bit argument; a number makes the
// call some 150 ns slower, and BigInt() allocates. A bigint read from a typed
// array straight into a call is not allocated: the compiler passes the machine
// word on. So numbers are written here in halves and read back as words. One
// set for the thread is enough, as no call here is asynchronous.
const words = new BigInt64Array(7);
const halves = new Int32Array(words.buffer);

/** Puts a safe integer, of either sign, into one word. */
function put(index: number, value: number): void {
  // Stores into an Int32Array take the value modulo 2^32; floor makes the high
  // half of a negative value the two's complement one. (Little-endian, as are
  // all systems that have a table.)
  halves[index * 2] = value;
  halves[index * 2 + 1] = Math.floor(value / TWO_32);
}

const encoder = new TextEncoder();

/**
 * Somewhere that descriptors are kept so that they end with the thread. A Worker
 * can be terminated, and what C functions opened stays open then.
 */
export interface DescriptorKeeper {
  /** Takes a descriptor; gives the number that it has from then on. */
  keep(fd: number): number;
  /** Closes a descriptor; false if it is none of those that were kept. */
  close(fd: number): boolean;
}

/**
 * The C library of this thread. All lengths, offsets and addresses are in
 * bytes and are safe integers; addresses come from {@linkcode addressOf}.
 */
export class Libc {
  /** Constants of this system. */
  readonly abi: Abi;
  /** Keeps what lives longer than a call; `null` where it may outlive us. */
  keeper: DescriptorKeeper | null = null;

  readonly #errno: Int32Array<ArrayBuffer>;
  readonly #enosys: number;
  readonly #open: LibcFunctions["open"];
  readonly #close: LibcFunctions["close"];
  readonly #pread: LibcFunctions["pread"];
  readonly #pwrite: LibcFunctions["pwrite"];
  readonly #preadv: LibcFunctions["preadv"];
  readonly #pwritev: LibcFunctions["pwritev"];
  readonly #preadv2: LibcFunctions["preadv2"];
  readonly #pwritev2: LibcFunctions["pwritev2"];
  readonly #fdatasync: LibcFunctions["fsync"];
  readonly #fsync: LibcFunctions["fsync"];
  readonly #fallocate: LibcFunctions["fallocate"];
  readonly #directio: LibcFunctions["directio"];
  readonly #flock: LibcFunctions["flock"];
  readonly #ftruncate: LibcFunctions["ftruncate"];
  readonly #lseek: LibcFunctions["lseek"];
  readonly #ioctl: LibcFunctions["ioctl"];
  readonly #fcntl: LibcFunctions["fcntl"];
  readonly #syscall: LibcFunctions["syscall"];
  readonly #mmap: LibcFunctions["mmap"];
  readonly #munmap: LibcFunctions["munmap"];

  /**
   * Puts numbers in front of a library's functions. Most callers want
   * {@linkcode openLibc}.
   *
   * @param abi Constants of the system.
   * @param functions Functions of its C library, of this thread.
   * @throws {FfiError} If the library does not say where errno is.
   */
  constructor(abi: Abi, functions: LibcFunctions) {
    const location = functions.errnoLocation();
    if (location === 0n) {
      throw new FfiError(
        "library",
        "Cannot open libc as it does not say where errno is: use the portable backend",
      );
    }
    this.abi = abi;
    // errno stays in one place for as long as the thread lives.
    this.#errno = new Int32Array(
      foreign().memoryAt(location, 4),
    );
    this.#enosys = -abi.errno.ENOSYS;
    this.#open = functions.open;
    this.#close = functions.close;
    this.#pread = functions.pread;
    this.#pwrite = functions.pwrite;
    this.#preadv = functions.preadv;
    this.#pwritev = functions.pwritev;
    this.#preadv2 = functions.preadv2;
    this.#pwritev2 = functions.pwritev2;
    this.#fdatasync = functions.fdatasync ?? functions.fsync;
    this.#fsync = functions.fsync;
    this.#fallocate = functions.fallocate;
    this.#directio = functions.directio;
    this.#flock = functions.flock;
    this.#ftruncate = functions.ftruncate;
    this.#lseek = functions.lseek;
    this.#ioctl = functions.ioctl;
    this.#fcntl = functions.fcntl;
    this.#syscall = functions.syscall;
    this.#mmap = functions.mmap;
    this.#munmap = functions.munmap;
  }

  /**
   * Opens a file: `int open(const char *path, int flags, mode_t mode)`.
   *
   * @param path The path; one with a NUL character is refused with −EINVAL.
   * @param flags Flags of `abi.open`.
   * @param mode Permission bits of a file that is created.
   * @returns A file descriptor, or −errno.
   */
  open(path: string, flags: number, mode = 0): number {
    // C would stop at the first NUL and open another file.
    if (path.includes("\0")) return -this.abi.errno.EINVAL;
    const result = this.#open(encoder.encode(path + "\0"), flags, mode);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Closes a file: `int close(int fd)`. The descriptor is gone whatever the
   * result, so it must not be closed again.
   *
   * @param fd File descriptor.
   * @returns 0, or −errno.
   */
  close(fd: number): number {
    const result = this.#close(fd);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Makes a descriptor end with this thread, where there is a
   * {@linkcode Libc.keeper}.
   *
   * @param fd File descriptor.
   * @returns The number that it has from then on; to be closed by
   * {@linkcode Libc.closeKept}.
   */
  keep(fd: number): number {
    return this.keeper?.keep(fd) ?? fd;
  }

  /**
   * Closes a descriptor that {@linkcode Libc.keep} gave.
   *
   * @param fd File descriptor.
   */
  closeKept(fd: number): void {
    if (this.keeper?.close(fd) !== true) this.close(fd);
  }

  /**
   * Moves a descriptor to the number of another one, which is closed: `int
   * dup3(int old, int new, int flags)`. Linux only.
   *
   * @param fd File descriptor.
   * @param target The number that it is to have as well.
   * @param flags O_CLOEXEC or 0.
   * @returns `target`, or −errno (−ENOSYS elsewhere).
   */
  dup3(fd: number, target: number, flags: number): number {
    const number = this.abi.syscalls?.dup3;
    if (number === undefined) return this.#enosys;
    return this.syscall(number, fd, target, flags);
  }

  /**
   * Reads: `ssize_t pread(int fd, void *buffer, size_t length, off_t offset)`.
   * Allocates nothing.
   *
   * @param fd File descriptor.
   * @param address Where to put the bytes.
   * @param length How many bytes; at most {@linkcode MAX_TRANSFER} are read.
   * @param offset Where in the file.
   * @returns Bytes read (0 at the end of the file), or −errno.
   */
  pread(fd: number, address: number, length: number, offset: number): number {
    put(0, address);
    put(1, length > MAX_TRANSFER ? MAX_TRANSFER : length);
    put(2, offset);
    const result = this.#pread(fd, words[0]!, words[1]!, words[2]!);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Writes: `ssize_t pwrite(int fd, const void *buffer, size_t length, off_t
   * offset)`. Allocates nothing.
   *
   * @param fd File descriptor.
   * @param address Where the bytes are.
   * @param length How many bytes; at most {@linkcode MAX_TRANSFER} are written.
   * @param offset Where in the file.
   * @returns Bytes written, or −errno.
   */
  pwrite(fd: number, address: number, length: number, offset: number): number {
    put(0, address);
    put(1, length > MAX_TRANSFER ? MAX_TRANSFER : length);
    put(2, offset);
    const result = this.#pwrite(fd, words[0]!, words[1]!, words[2]!);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Reads into several segments: `ssize_t preadv(int fd, const struct iovec
   * *iov, int count, off_t offset)`. Allocates nothing. The segments together
   * must not be longer than {@linkcode MAX_TRANSFER}.
   *
   * @param fd File descriptor.
   * @param iovAddress Address of the first iovec ({@linkcode IoVector}).
   * @param iovCount Number of iovecs, at most `abi.iovecMax`.
   * @param offset Where in the file.
   * @returns Bytes read, or −errno (−ENOSYS where there is no such function).
   */
  preadv(
    fd: number,
    iovAddress: number,
    iovCount: number,
    offset: number,
  ): number {
    if (this.#preadv === undefined) return this.#enosys;
    put(0, iovAddress);
    put(1, offset);
    const result = this.#preadv(fd, words[0]!, iovCount, words[1]!);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Writes from several segments: `ssize_t pwritev(int fd, const struct iovec
   * *iov, int count, off_t offset)`. Allocates nothing. The segments together
   * must not be longer than {@linkcode MAX_TRANSFER}.
   *
   * @param fd File descriptor.
   * @param iovAddress Address of the first iovec ({@linkcode IoVector}).
   * @param iovCount Number of iovecs, at most `abi.iovecMax`.
   * @param offset Where in the file.
   * @returns Bytes written, or −errno (−ENOSYS where there is no such function).
   */
  pwritev(
    fd: number,
    iovAddress: number,
    iovCount: number,
    offset: number,
  ): number {
    if (this.#pwritev === undefined) return this.#enosys;
    put(0, iovAddress);
    put(1, offset);
    const result = this.#pwritev(fd, words[0]!, iovCount, words[1]!);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * As {@linkcode Libc.preadv}, with flags: `ssize_t preadv2(int fd, const
   * struct iovec *iov, int count, off_t offset, int flags)`. Linux only; by
   * number where the C library has no such function.
   *
   * @param fd File descriptor.
   * @param iovAddress Address of the first iovec.
   * @param iovCount Number of iovecs.
   * @param offset Where in the file.
   * @param flags Flags of {@linkcode RWF}.
   * @returns Bytes read, or −errno (−ENOSYS elsewhere, −EOPNOTSUPP for a flag
   * that the kernel or the file system does not know).
   */
  preadv2(
    fd: number,
    iovAddress: number,
    iovCount: number,
    offset: number,
    flags: number,
  ): number {
    if (this.#preadv2 === undefined) {
      const number = this.abi.syscalls?.preadv2;
      if (number === undefined) return this.#enosys;
      // The offset's upper half is an argument of its own for 32-bit systems.
      return this.syscall(number, fd, iovAddress, iovCount, offset, 0, flags);
    }
    put(0, iovAddress);
    put(1, offset);
    const result = this.#preadv2(fd, words[0]!, iovCount, words[1]!, flags);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * As {@linkcode Libc.pwritev}, with flags: `ssize_t pwritev2(int fd, const
   * struct iovec *iov, int count, off_t offset, int flags)`. Linux only; by
   * number where the C library has no such function.
   *
   * @param fd File descriptor.
   * @param iovAddress Address of the first iovec.
   * @param iovCount Number of iovecs.
   * @param offset Where in the file.
   * @param flags Flags of {@linkcode RWF}.
   * @returns Bytes written, or −errno (−ENOSYS elsewhere, −EOPNOTSUPP for a
   * flag that the kernel or the file system does not know).
   */
  pwritev2(
    fd: number,
    iovAddress: number,
    iovCount: number,
    offset: number,
    flags: number,
  ): number {
    if (this.#pwritev2 === undefined) {
      const number = this.abi.syscalls?.pwritev2;
      if (number === undefined) return this.#enosys;
      return this.syscall(number, fd, iovAddress, iovCount, offset, 0, flags);
    }
    put(0, iovAddress);
    put(1, offset);
    const result = this.#pwritev2(fd, words[0]!, iovCount, words[1]!, flags);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Makes a file's data durable: `int fdatasync(int fd)`; fsync on macOS,
   * where that stops at the drive's cache (use F_FULLFSYNC there).
   *
   * @param fd File descriptor.
   * @returns 0, or −errno. After a failure a second call may succeed although
   * the data is lost.
   */
  fdatasync(fd: number): number {
    const result = this.#fdatasync(fd);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Makes a file's data and metadata durable: `int fsync(int fd)`.
   *
   * @param fd File descriptor.
   * @returns 0, or −errno. After a failure a second call may succeed although
   * the data is lost.
   */
  fsync(fd: number): number {
    const result = this.#fsync(fd);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Allocates, frees or zeroes space: `int fallocate(int fd, int mode, off_t
   * offset, off_t length)`. Linux only.
   *
   * @param fd File descriptor.
   * @param mode Modes of {@linkcode FALLOCATE}.
   * @param offset First byte.
   * @param length Number of bytes, from 1.
   * @returns 0, or −errno (−ENOSYS elsewhere, −EOPNOTSUPP where the file system
   * does not know the mode).
   */
  fallocate(fd: number, mode: number, offset: number, length: number): number {
    if (this.#fallocate === undefined) return this.#enosys;
    put(0, offset);
    put(1, length);
    const result = this.#fallocate(fd, mode, words[0]!, words[1]!);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Advises to bypass the page cache of a file, for everybody who has it open:
   * `int directio(int fd, int advice)`. illumos only.
   *
   * @param fd File descriptor.
   * @param advice {@linkcode DIRECTIO_ON}.
   * @returns 0, or −errno (−ENOSYS elsewhere, −ENOTTY where the file system has
   * no such thing).
   */
  directio(fd: number, advice: number): number {
    if (this.#directio === undefined) return this.#enosys;
    const result = this.#directio(fd, advice);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Locks a whole file: `int flock(int fd, int operation)`.
   *
   * @param fd File descriptor.
   * @param operation LOCK_SH or LOCK_EX, with LOCK_NB so as not to wait.
   * @returns 0, or −errno (−EAGAIN if another open file has it).
   */
  flock(fd: number, operation: number): number {
    const result = this.#flock(fd, operation);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Sets a file's size: `int ftruncate(int fd, off_t length)`.
   *
   * @param fd File descriptor.
   * @param length New size.
   * @returns 0, or −errno.
   */
  ftruncate(fd: number, length: number): number {
    put(0, length);
    const result = this.#ftruncate(fd, words[0]!);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Moves a file's position, or finds data and holes: `off_t lseek(int fd,
   * off_t offset, int whence)`.
   *
   * @param fd File descriptor.
   * @param offset Offset, from the place that `whence` says.
   * @param whence One of `abi.whence`.
   * @returns The offset from the start, or −errno (−ENXIO for no more data).
   */
  lseek(fd: number, offset: number, whence: number): number {
    put(0, offset);
    const result = this.#lseek(fd, words[0]!, whence);
    return result < 0n ? -this.#errno[0]! : Number(result);
  }

  /**
   * Controls a device: `int ioctl(int fd, unsigned long request, ...)`.
   *
   * @param fd File descriptor.
   * @param request The request.
   * @param argument Address of its argument, or a number that stands for one.
   * @returns A result ≥ 0, or −errno.
   */
  ioctl(fd: number, request: number, argument = 0): number {
    put(0, request);
    put(1, argument);
    const result = this.#ioctl(fd, words[0]!, words[1]!);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Controls a descriptor: `int fcntl(int fd, int command, ...)`.
   *
   * @param fd File descriptor.
   * @param command One of `abi.fcntl`.
   * @param argument Its argument, a number or an address.
   * @returns A result ≥ 0, or −errno.
   */
  fcntl(fd: number, command: number, argument = 0): number {
    put(0, argument);
    const result = this.#fcntl(fd, command, words[0]!);
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Calls the kernel by number: `long syscall(long number, ...)`. Linux only.
   * Allocates nothing.
   *
   * @param number One of `abi.syscalls`.
   * @param a First argument, a number or an address.
   * @param b Second argument.
   * @param c Third argument.
   * @param d Fourth argument.
   * @param e Fifth argument.
   * @param f Sixth argument.
   * @returns A result from 0 to 2^31 − 1, or −errno (−ENOSYS elsewhere). Not
   * for calls whose result can be greater, such as mmap.
   */
  syscall(
    number: number,
    a = 0,
    b = 0,
    c = 0,
    d = 0,
    e = 0,
    f = 0,
  ): number {
    if (this.#syscall === undefined) return this.#enosys;
    put(0, number);
    put(1, a);
    put(2, b);
    put(3, c);
    put(4, d);
    put(5, e);
    put(6, f);
    const result = this.#syscall(
      words[0]!,
      words[1]!,
      words[2]!,
      words[3]!,
      words[4]!,
      words[5]!,
      words[6]!,
    );
    return result < 0 ? -this.#errno[0]! : result;
  }

  /**
   * Submits to an io_uring, and waits for completions: `int
   * io_uring_enter(unsigned fd, unsigned submit, unsigned complete, unsigned
   * flags, const void *argument, size_t size)`. Linux only. Allocates nothing.
   *
   * @param fd File descriptor of the ring.
   * @param submit How many entries to submit.
   * @param complete How many completions to wait for.
   * @param flags IORING_ENTER_ flags.
   * @param address Address of the argument that the flags call for, or 0.
   * @param size Its size in bytes.
   * @returns How many entries were submitted, or −errno (−ETIME when a bounded
   * wait ends, −ENOSYS elsewhere).
   */
  ioUringEnter(
    fd: number,
    submit: number,
    complete: number,
    flags: number,
    address = 0,
    size = 0,
  ): number {
    const number = this.abi.syscalls?.io_uring_enter;
    if (number === undefined) return this.#enosys;
    return this.syscall(number, fd, submit, complete, flags, address, size);
  }

  /**
   * Maps memory: `void *mmap(void *address, size_t length, int protection, int
   * flags, int fd, off_t offset)`.
   *
   * @param address Where to map, or 0 for anywhere.
   * @param length Number of bytes.
   * @param protection PROT_ flags of `abi.mmap`.
   * @param flags MAP_ flags of `abi.mmap`.
   * @param fd File descriptor, or −1 for MAP_ANONYMOUS.
   * @param offset Where in the file, a multiple of the page size.
   * @returns The address, or −errno.
   */
  mmap(
    address: number,
    length: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number,
  ): number {
    put(0, address);
    put(1, length);
    put(2, offset);
    const result = this.#mmap(
      words[0]!,
      words[1]!,
      protection,
      flags,
      fd,
      words[2]!,
    );
    // MAP_FAILED is (void *) -1.
    return result === -1n ? -this.#errno[0]! : Number(result);
  }

  /**
   * Unmaps memory: `int munmap(void *address, size_t length)`. Whatever still
   * shows that memory must not be used any more: the process would crash.
   *
   * @param address Address of the mapping.
   * @param length Number of bytes.
   * @returns 0, or −errno.
   */
  munmap(address: number, length: number): number {
    put(0, address);
    put(1, length);
    const result = this.#munmap(words[0]!, words[1]!);
    return result < 0 ? -this.#errno[0]! : result;
  }
}

let shared: Libc | undefined;

/**
 * The C library of this thread, opened on the first call.
 *
 * @returns The library, the same one each time. There is nothing to close.
 * @throws {FfiError} If there are no constants for this system, if FFI is not
 * allowed, or if the library cannot be opened; the message says what to do.
 */
export function openLibc(): Libc {
  if (shared === undefined) {
    const abi = abiFor(os, arch);
    if (abi === undefined) {
      throw new FfiError(
        "platform",
        `Cannot open libc: ${whyNoAbi(os, arch)}; use the portable backend`,
      );
    }
    ensureFfiPermission(abi);
    shared = new Libc(abi, openLibcFunctions(abi));
  }
  return shared;
}
