/**
 * Memory that processes share by a descriptor of a file in memory (memfd, tmpfs):
 * what may become of its size, and its mapping. Linux only.
 *
 * Whoever has another descriptor of the file may cut it at any time, and a page
 * that is touched beyond its end ends the process (SIGBUS). A seal rules that
 * out for ever, memfd_create(2), so that a mapping is made of sealed files only.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { lentMemoryAt, structMemory } from "./memory.ts";
import { statfsType } from "./statx.ts";

// include/uapi/linux/fcntl.h.
const F_SEAL_SEAL = 0x1;
const F_SEAL_SHRINK = 0x2;
const F_SEAL_GROW = 0x4;

// include/uapi/linux/memfd.h.
const MFD_CLOEXEC = 0x1;
const MFD_ALLOW_SEALING = 0x2;
const MAX_NAME_BYTES = 249;

// include/uapi/linux/magic.h.
const TMPFS_MAGIC = 0x01021994;

/** O_ACCMODE, include/uapi/asm-generic/fcntl.h. */
const ACCESS_MODE = 0x3;

/** Bytes of a page on every architecture that has a table. */
const PAGE_BYTES = 4096;

/** A file in memory. */
export interface MemoryFile {
  /** Its size in bytes. */
  readonly sizeBytes: number;
  /** Whether it can never become shorter. */
  readonly cannotShrink: boolean;
}

/**
 * Tells what a descriptor is that somebody else sent. None of the calls waits for
 * anybody, whatever it is: only a file in memory answers the first one, and
 * others are asked nothing more (a file of FUSE is asked by its owner).
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns What is known of it; `null` if it is no file in memory, or one of huge
 * pages, which the system may lack when they are touched.
 */
export function memoryFile(libc: Libc, fd: number): MemoryFile | null {
  const { F_GET_SEALS } = libc.abi.fcntl;
  if (F_GET_SEALS === undefined) return null;
  const seals = libc.fcntl(fd, F_GET_SEALS);
  if (seals < 0 || statfsType(libc, fd) !== TMPFS_MAGIC) {
    return null;
  }
  const sizeBytes = libc.lseek(fd, 0, libc.abi.whence.SEEK_END);
  if (sizeBytes < 0) return null;
  return { sizeBytes, cannotShrink: (seals & F_SEAL_SHRINK) !== 0 };
}

/**
 * Opens a file in memory once more, to be read and written. Whoever sent a
 * descriptor shares its description, and with it O_APPEND, by which a write goes
 * to the file's end wherever it was meant for. The new one is ours alone.
 *
 * @param libc The C library.
 * @param fd Its descriptor, which must be open for both: nobody gets at more than
 * was given.
 * @returns Another descriptor, or −errno (−EBADF if it is not open for both). It
 * waits for nobody, also not for whoever has a lease on the file.
 */
export function openMemoryFile(libc: Libc, fd: number): number {
  const { O_RDWR, O_CLOEXEC, O_NONBLOCK } = libc.abi.open;
  const flags = libc.fcntl(fd, libc.abi.fcntl.F_GETFL);
  if (flags < 0) return flags;
  if ((flags & ACCESS_MODE) !== O_RDWR) return -libc.abi.errno.EBADF;
  return libc.open(
    `/proc/self/fd/${fd}`,
    O_RDWR | O_NONBLOCK | (O_CLOEXEC ?? 0),
  );
}

/**
 * Makes a file in memory that keeps its size for ever, memfd_create(2).
 *
 * @param libc The C library.
 * @param name Its name, of ASCII alone, as `/proc` has it.
 * @param byteLength Its size, at least one byte; all of it is zero.
 * @returns Its descriptor, or −errno.
 */
export function makeMemoryFile(
  libc: Libc,
  name: string,
  byteLength: number,
): number {
  const { syscalls, fcntl, errno } = libc.abi;
  if (syscalls === undefined || fcntl.F_ADD_SEALS === undefined) {
    return -errno.ENOSYS;
  }
  if (name.length > MAX_NAME_BYTES) return -errno.EINVAL;
  const { address, view } = structMemory(name.length + 1);
  new TextEncoder().encodeInto(
    name,
    new Uint8Array(view.buffer, view.byteOffset, name.length),
  );
  const fd = libc.syscall(
    syscalls.memfd_create,
    address,
    MFD_CLOEXEC | MFD_ALLOW_SEALING,
  );
  if (fd < 0) return fd;
  const seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW;
  let result = libc.ftruncate(fd, byteLength);
  if (result >= 0) result = libc.fcntl(fd, fcntl.F_ADD_SEALS, seals);
  if (result >= 0) return fd;
  libc.close(fd);
  return result;
}

/** A part of a file in memory, mapped. */
export interface SharedMapping {
  /** The mapping, from the start of a page. */
  readonly buffer: ArrayBuffer;
  /** Where in it the part begins. */
  readonly start: number;
  /** Unmaps it. From then on nobody may touch it: the process would end. */
  readonly release: () => void;
}

/**
 * Maps a part of a file, shared, to be read and written: mmap(2). The file must
 * be as long, and must not be able to shrink.
 *
 * @param libc The C library.
 * @param fd File descriptor; it may be closed afterwards.
 * @param offset First byte of the part.
 * @param byteLength Bytes of the part, at least one.
 * @returns The mapping, or −errno.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function mapShared(
  libc: Libc,
  fd: number,
  offset: number,
  byteLength: number,
): SharedMapping | number {
  const { PROT_READ, PROT_WRITE, MAP_SHARED, MAP_NORESERVE } = libc.abi.mmap;
  const start = offset % PAGE_BYTES;
  const length = start + byteLength;
  const address = libc.mmap(
    0,
    length,
    PROT_READ | PROT_WRITE,
    MAP_SHARED | (MAP_NORESERVE ?? 0),
    fd,
    offset - start,
  );
  if (address < 0) return address;
  const release = () => {
    libc.munmap(address, length);
  };
  try {
    return { buffer: lentMemoryAt(address, length), start, release };
  } catch (error) {
    release();
    throw error;
  }
}
