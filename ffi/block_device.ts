/**
 * What a block device says of itself, and the commands that are not reads or
 * writes: discard, zero, erase. Linux; FreeBSD and macOS where they have the
 * ioctl (written from their headers, not yet run there).
 *
 * Every function returns a result ≥ 0 or −errno: −ENOTTY (or −EINVAL) for what
 * is not a block device, −ENOSYS where the system has no such request.
 *
 * @module
 */

import {
  DARWIN_IOCTL,
  FREEBSD_IOCTL,
  ILLUMOS_IOCTL,
  LINUX_IOCTL,
} from "./abi.ts";
import type { Libc } from "./libc.ts";
import { readU64, structMemory, writeU64 } from "./memory.ts";

type FieldType = "u16" | "u32" | "u64";

/** Asks for one value; it is read only when the request succeeded. */
function ask(
  libc: Libc,
  fd: number,
  request: number | undefined,
  type: FieldType,
): number {
  if (request === undefined) return -libc.abi.errno.ENOSYS;
  // Long enough for every type, so that a kernel that writes more than it
  // should still writes into our memory.
  const { address, view } = structMemory(8);
  const result = libc.ioctl(fd, request, address);
  if (result < 0) return result;
  switch (type) {
    case "u16":
      return view.getUint16(0, true);
    case "u32":
      return view.getUint32(0, true);
    case "u64":
      return readU64(view, 0);
  }
}

/** Sends a request with a range: {u64 start, u64 length}, in bytes. */
function sendRange(
  libc: Libc,
  fd: number,
  request: number | undefined,
  start: number,
  length: number,
): number {
  if (request === undefined) return -libc.abi.errno.ENOSYS;
  const { address, view } = structMemory(16);
  writeU64(view, 0, start);
  writeU64(view, 8, length);
  return libc.ioctl(fd, request, address);
}

/** What illumos says of a disk: struct dk_minfo, u32 type, u32 size, i64 blocks. */
function mediaInfo(
  libc: Libc,
  fd: number,
): { blockSize: number; blocks: number } | number {
  const { address, view } = structMemory(16);
  const result = libc.ioctl(fd, ILLUMOS_IOCTL.DKIOCGMEDIAINFO, address);
  if (result < 0) return result;
  return { blockSize: view.getUint32(4, true), blocks: readU64(view, 8) };
}

/** A request that only Linux has. */
function linuxOnly(libc: Libc, request: number): number | undefined {
  return libc.abi.os === "linux" ? request : undefined;
}

/**
 * Size of a device (BLKGETSIZE64; DIOCGMEDIASIZE; block count × block size on
 * macOS; DKIOCGMEDIAINFO).
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns Bytes, or −errno.
 */
export function blockDeviceSize(libc: Libc, fd: number): number {
  switch (libc.abi.os) {
    case "linux":
      return ask(libc, fd, LINUX_IOCTL.BLKGETSIZE64, "u64");
    case "freebsd":
      return ask(libc, fd, FREEBSD_IOCTL.DIOCGMEDIASIZE, "u64");
    case "darwin": {
      const blocks = ask(libc, fd, DARWIN_IOCTL.DKIOCGETBLOCKCOUNT, "u64");
      if (blocks < 0) return blocks;
      const blockSize = logicalBlockSize(libc, fd);
      return blockSize < 0 ? blockSize : blocks * blockSize;
    }
    case "illumos": {
      const info = mediaInfo(libc, fd);
      return typeof info === "number" ? info : info.blocks * info.blockSize;
    }
  }
}

/**
 * Logical block size: the unit of addressing (BLKSSZGET; DIOCGSECTORSIZE;
 * DKIOCGETBLOCKSIZE).
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns Bytes, or −errno.
 */
export function logicalBlockSize(libc: Libc, fd: number): number {
  switch (libc.abi.os) {
    case "linux":
      return ask(libc, fd, LINUX_IOCTL.BLKSSZGET, "u32");
    case "freebsd":
      return ask(libc, fd, FREEBSD_IOCTL.DIOCGSECTORSIZE, "u32");
    case "darwin":
      return ask(libc, fd, DARWIN_IOCTL.DKIOCGETBLOCKSIZE, "u32");
    case "illumos": {
      const info = mediaInfo(libc, fd);
      return typeof info === "number" ? info : info.blockSize;
    }
  }
}

/**
 * Physical block size: what the medium writes without reading first
 * (BLKPBSZGET; DIOCGSTRIPESIZE; DKIOCGETPHYSICALBLOCKSIZE).
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns Bytes, or −errno.
 */
export function physicalBlockSize(libc: Libc, fd: number): number {
  switch (libc.abi.os) {
    case "linux":
      return ask(libc, fd, LINUX_IOCTL.BLKPBSZGET, "u32");
    case "freebsd": {
      // 0 when the device has no stripe beyond its sector.
      const stripe = ask(libc, fd, FREEBSD_IOCTL.DIOCGSTRIPESIZE, "u64");
      return stripe === 0 ? logicalBlockSize(libc, fd) : stripe;
    }
    case "darwin":
      return ask(libc, fd, DARWIN_IOCTL.DKIOCGETPHYSICALBLOCKSIZE, "u32");
    case "illumos":
      return logicalBlockSize(libc, fd);
  }
}

/**
 * Smallest I/O that is efficient (BLKIOMIN; Linux).
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns Bytes, or −errno.
 */
export function minimumIo(libc: Libc, fd: number): number {
  return ask(libc, fd, linuxOnly(libc, LINUX_IOCTL.BLKIOMIN), "u32");
}

/**
 * Size of I/O that is most efficient (BLKIOOPT; Linux).
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns Bytes, 0 when the device does not say, or −errno.
 */
export function optimalIo(libc: Libc, fd: number): number {
  return ask(libc, fd, linuxOnly(libc, LINUX_IOCTL.BLKIOOPT), "u32");
}

/**
 * Tells the device that a range is no longer needed (BLKDISCARD; DIOCGDELETE;
 * DKIOCUNMAP). What it reads as afterwards is not specified.
 *
 * @param libc The C library.
 * @param fd File descriptor, open for writing.
 * @param start First byte, a multiple of the logical block size.
 * @param length Number of bytes, a multiple of it too.
 * @returns 0, or −errno: −EOPNOTSUPP where the device cannot, −EINVAL for a
 * range that is misaligned or beyond the end, −EBADF for a descriptor that is
 * not open for writing.
 */
export function discard(
  libc: Libc,
  fd: number,
  start: number,
  length: number,
): number {
  switch (libc.abi.os) {
    case "linux":
      return sendRange(libc, fd, LINUX_IOCTL.BLKDISCARD, start, length);
    case "freebsd":
      return sendRange(libc, fd, FREEBSD_IOCTL.DIOCGDELETE, start, length);
    case "darwin": {
      // dk_unmap_t {dk_extent_t *extents@0, u32 count@8, u32 options@12} and
      // one dk_extent_t {u64 offset, u64 length} behind it.
      const { address, view } = structMemory(32);
      writeU64(view, 0, address + 16);
      view.setUint32(8, 1, true);
      writeU64(view, 16, start);
      writeU64(view, 24, length);
      return libc.ioctl(fd, DARWIN_IOCTL.DKIOCUNMAP, address);
    }
    case "illumos":
      return -libc.abi.errno.EOPNOTSUPP;
  }
}

/** The request that flushes a device's cache, by the system; Linux needs none. */
const FLUSH_REQUESTS = {
  linux: null,
  darwin: {
    name: "DKIOCSYNCHRONIZECACHE",
    request: DARWIN_IOCTL.DKIOCSYNCHRONIZECACHE,
  },
  freebsd: { name: "DIOCGFLUSH", request: FREEBSD_IOCTL.DIOCGFLUSH },
  illumos: {
    name: "DKIOCFLUSHWRITECACHE",
    request: ILLUMOS_IOCTL.DKIOCFLUSHWRITECACHE,
  },
} as const;

/**
 * The name of the request that {@linkcode flushDevice} makes.
 *
 * @param libc The C library.
 * @returns The name; `null` on Linux, whose fsync flushes a device's cache.
 */
export function flushRequest(libc: Libc): string | null {
  return FLUSH_REQUESTS[libc.abi.os]?.name ?? null;
}

/**
 * Flushes a device's own cache, which fsync does not reach (DIOCGFLUSH;
 * DKIOCSYNCHRONIZECACHE; DKIOCFLUSHWRITECACHE).
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns 0, or −errno: {@linkcode isNoFlush} says whether there is none to be
 * had, of what is no such device among others.
 */
export function flushDevice(libc: Libc, fd: number): number {
  const flush = FLUSH_REQUESTS[libc.abi.os];
  if (flush === null) return -libc.abi.errno.EOPNOTSUPP;
  return libc.ioctl(fd, flush.request, 0);
}

/**
 * Whether a device was not asked to flush its cache, as it cannot be by this
 * descriptor. FreeBSD wants one that is open for writing.
 *
 * @param libc The C library.
 * @param result What {@linkcode flushDevice} has returned.
 * @returns Whether it was not: else it has flushed, or failed.
 */
export function isNoFlush(libc: Libc, result: number): boolean {
  const { ENOTTY, ENOTSUP, EOPNOTSUPP, ENOSYS, EINVAL, EPERM, EBADF } =
    libc.abi.errno;
  return [ENOTTY, ENOTSUP, EOPNOTSUPP, ENOSYS, EINVAL, EPERM, EBADF]
    .includes(-result);
}

/**
 * Erases a range and every copy that the device may hold of it
 * (BLKSECDISCARD; Linux). Few devices can.
 *
 * @param libc The C library.
 * @param fd File descriptor, open for writing.
 * @param start First byte, a multiple of the logical block size.
 * @param length Number of bytes, a multiple of it too.
 * @returns 0, or −errno; as {@linkcode discard}.
 */
export function secureErase(
  libc: Libc,
  fd: number,
  start: number,
  length: number,
): number {
  const request = linuxOnly(libc, LINUX_IOCTL.BLKSECDISCARD);
  return sendRange(libc, fd, request, start, length);
}
