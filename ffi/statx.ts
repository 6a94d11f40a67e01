/**
 * What the kernel says of a file: size, device, and what O_DIRECT demands of
 * memory and offsets (statx, fstatfs, XFS_IOC_DIOINFO). Linux only; elsewhere
 * every function returns −ENOSYS.
 *
 * @module
 */

import { LINUX_IOCTL, STATX, STATX_LAYOUT } from "./abi.ts";
import type { Libc } from "./libc.ts";
import { addressOf, alignedMemory, readU64, structMemory } from "./memory.ts";

/** struct statfs of 64-bit Linux: 120 bytes (asm-generic/statfs.h). */
const STATFS_BYTES = 120;

/** struct dioattr of XFS: three u32 (fs/xfs/libxfs/xfs_fs.h). */
const DIOATTR_BYTES = 12;

/** What statx(2) says. All sizes and alignments are in bytes. */
export interface FileStatus {
  /** Type and permission bits. */
  mode: number;
  /** Inode number; above 2^53 the nearest number. */
  inode: number;
  /** Size; 0 for a block device. */
  sizeBytes: number;
  /** Allocated space, in units of 512 bytes. */
  blocks512: number;
  /** Preferred size of an I/O. */
  blksize: number;
  /** Major number of the device that holds the file. */
  deviceMajor: number;
  /** Minor number of the device that holds the file. */
  deviceMinor: number;
  /** Major number of the device that the file is. */
  rdevMajor: number;
  /** Minor number of the device that the file is. */
  rdevMinor: number;
  /** Attribute bits (`STATX.ATTR_…`). */
  attributes: number;
  /** Which attribute bits the file system knows. */
  attributesMask: number;
  /**
   * Alignment that O_DIRECT demands of memory; 0 when it is not supported for
   * this file, undefined when the kernel does not say.
   */
  dioMemoryAlign: number | undefined;
  /** Alignment that O_DIRECT demands of offset and length; as above. */
  dioOffsetAlign: number | undefined;
  /** Alignment for reads alone; 0 when it is `dioOffsetAlign`. */
  dioReadOffsetAlign: number | undefined;
  /** Smallest untorn write; 0 when there are none, undefined when unknown. */
  atomicWriteUnitMin: number | undefined;
  /** Largest untorn write; as above. */
  atomicWriteUnitMax: number | undefined;
  /** Most segments of an untorn write; as above. */
  atomicWriteSegmentsMax: number | undefined;
  /** Largest untorn write that is also fast; 0 when it makes no difference. */
  atomicWriteUnitMaxOptimal: number | undefined;
}

/**
 * Decodes a `struct statx`.
 *
 * @param struct Its 256 bytes.
 * @returns Its fields; those that the returned mask lacks are undefined.
 */
export function decodeStatx(struct: DataView): FileStatus {
  const at = STATX_LAYOUT;
  const u32 = (byteOffset: number): number =>
    struct.getUint32(byteOffset, true);
  const mask = u32(at.mask);
  const ifMasked = (bit: number, byteOffset: number): number | undefined =>
    (mask & bit) !== 0 ? u32(byteOffset) : undefined;
  return {
    mode: struct.getUint16(at.mode, true),
    inode: readU64(struct, at.inode),
    sizeBytes: readU64(struct, at.size),
    blocks512: readU64(struct, at.blocks),
    blksize: u32(at.blksize),
    deviceMajor: u32(at.deviceMajor),
    deviceMinor: u32(at.deviceMinor),
    rdevMajor: u32(at.rdevMajor),
    rdevMinor: u32(at.rdevMinor),
    attributes: readU64(struct, at.attributes),
    attributesMask: readU64(struct, at.attributesMask),
    dioMemoryAlign: ifMasked(STATX.DIOALIGN, at.dioMemoryAlign),
    dioOffsetAlign: ifMasked(STATX.DIOALIGN, at.dioOffsetAlign),
    dioReadOffsetAlign: ifMasked(STATX.DIO_READ_ALIGN, at.dioReadOffsetAlign),
    atomicWriteUnitMin: ifMasked(STATX.WRITE_ATOMIC, at.atomicWriteUnitMin),
    atomicWriteUnitMax: ifMasked(STATX.WRITE_ATOMIC, at.atomicWriteUnitMax),
    atomicWriteSegmentsMax: ifMasked(
      STATX.WRITE_ATOMIC,
      at.atomicWriteSegmentsMax,
    ),
    atomicWriteUnitMaxOptimal: ifMasked(
      STATX.WRITE_ATOMIC,
      at.atomicWriteUnitMaxOptimal,
    ),
  };
}

// Refers to the path of the last call, as an address alone would not keep it.
let pathBytes: Uint8Array<ArrayBuffer> | undefined;

/**
 * Asks about a file: `int statx(int dirfd, const char *path, int flags,
 * unsigned mask, struct statx *buffer)`. By number, as older C libraries lack
 * the function or make up an answer of their own.
 *
 * @param libc The C library.
 * @param target A file descriptor, or a path (links are followed).
 * @returns What it says, or −errno.
 */
export function statx(
  libc: Libc,
  target: number | string,
): FileStatus | number {
  const number = libc.abi.syscalls?.statx;
  if (number === undefined) return -libc.abi.errno.ENOSYS;
  const path = typeof target === "string" ? target : "";
  // C would stop at the first NUL and ask about another file.
  if (path.includes("\0")) return -libc.abi.errno.EINVAL;
  const encoded = new TextEncoder().encode(path + "\0");
  pathBytes = alignedMemory(encoded.length, 1);
  pathBytes.set(encoded);
  const struct = structMemory(STATX_LAYOUT.byteLength);
  const result = libc.syscall(
    number,
    typeof target === "number" ? target : STATX.AT_FDCWD,
    addressOf(pathBytes),
    // With this flag an empty path means the descriptor; without it, ENOENT.
    typeof target === "number" ? STATX.AT_EMPTY_PATH : 0,
    STATX.BASIC_STATS | STATX.DIOALIGN | STATX.WRITE_ATOMIC |
      STATX.DIO_READ_ALIGN,
    struct.address,
  );
  return result < 0 ? result : decodeStatx(struct.view);
}

/**
 * The number of a file's file system: `int fstatfs(int fd, struct statfs
 * *buffer)`, its first word.
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns The number, as in `linux/magic.h`, or −errno.
 */
export function statfsType(libc: Libc, fd: number): number {
  const number = libc.abi.syscalls?.fstatfs;
  if (number === undefined) return -libc.abi.errno.ENOSYS;
  const struct = structMemory(STATFS_BYTES);
  const result = libc.syscall(number, fd, struct.address);
  // A signed 64-bit word that holds a 32-bit number.
  return result < 0 ? result : struct.view.getUint32(0, true);
}

/** What XFS demands of O_DIRECT, in bytes. */
export interface XfsDirectIo {
  /** Alignment of memory. */
  memoryAlign: number;
  /** Alignment of offset and length, and the least length. */
  minimumBytes: number;
  /** Greatest length. */
  maximumBytes: number;
}

/**
 * Asks XFS what it demands of O_DIRECT, where statx does not say (before
 * Linux 6.1).
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns What it demands, or −errno (−ENOTTY on other file systems).
 */
export function xfsDirectIo(libc: Libc, fd: number): XfsDirectIo | number {
  if (libc.abi.os !== "linux") return -libc.abi.errno.ENOSYS;
  const { address, view } = structMemory(DIOATTR_BYTES);
  const result = libc.ioctl(fd, LINUX_IOCTL.XFS_IOC_DIOINFO, address);
  if (result < 0) return result;
  return {
    memoryAlign: view.getUint32(0, true),
    minimumBytes: view.getUint32(4, true),
    maximumBytes: view.getUint32(8, true),
  };
}
