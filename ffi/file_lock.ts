/**
 * Locks of byte ranges that belong to the open file description (OFD locks):
 * two openings of one file keep each other out even within one process, and
 * closing another descriptor of the file does not drop them. Linux and macOS
 * (not yet run there); FreeBSD has none, and the functions return −ENOSYS.
 *
 * They are advisory: they bind only who asks.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import {
  readU64,
  type StructMemory,
  structMemory,
  writeU64,
} from "./memory.ts";

/** A lock that another open file description holds. */
export interface HeldLock {
  /** Its kind: F_RDLCK or F_WRLCK of `abi.flock`. */
  type: number;
  /** Its first byte. */
  start: number;
  /** Its length in bytes; 0 means up to the end, however far the file grows. */
  length: number;
  /** The process that holds it, or −1 for a lock of an open file description. */
  pid: number;
}

function flockStruct(
  libc: Libc,
  type: number,
  start: number,
  length: number,
): StructMemory {
  const layout = libc.abi.flock;
  // l_pid stays 0, as it must for these locks.
  const struct = structMemory(layout.byteLength);
  const view = struct.view;
  view.setInt16(layout.type, type, true);
  view.setInt16(layout.whence, libc.abi.whence.SEEK_SET, true);
  writeU64(view, layout.start, start);
  writeU64(view, layout.length, length);
  return struct;
}

/**
 * Takes, changes or drops a lock, without waiting:
 * `fcntl(fd, F_OFD_SETLK, struct flock *)`.
 *
 * @param libc The C library.
 * @param fd File descriptor; open for reading for a read lock, for writing for
 * a write lock.
 * @param type Kind of lock: F_RDLCK, F_WRLCK or F_UNLCK of `abi.flock`.
 * @param start First byte.
 * @param length Number of bytes; 0 means up to the end.
 * @returns 0, or −errno: −EAGAIN (−EACCES on some systems) when another one
 * holds a lock in the way, −EBADF when the file is not open for that kind.
 */
export function setLock(
  libc: Libc,
  fd: number,
  type: number,
  start: number,
  length: number,
): number {
  const command = libc.abi.fcntl.F_OFD_SETLK;
  if (command === undefined) return -libc.abi.errno.ENOSYS;
  const { address } = flockStruct(libc, type, start, length);
  return libc.fcntl(fd, command, address);
}

/**
 * Asks who would be in the way of a lock:
 * `fcntl(fd, F_OFD_GETLK, struct flock *)`.
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @param type Kind of lock that is wanted: F_RDLCK or F_WRLCK of `abi.flock`.
 * @param start First byte.
 * @param length Number of bytes; 0 means up to the end.
 * @returns One lock that is in the way, null when there is none, or −errno.
 */
export function getLock(
  libc: Libc,
  fd: number,
  type: number,
  start: number,
  length: number,
): HeldLock | null | number {
  const { flock: layout, fcntl, errno } = libc.abi;
  const command = fcntl.F_OFD_GETLK;
  if (command === undefined) return -errno.ENOSYS;
  const { address, view } = flockStruct(libc, type, start, length);
  const result = libc.fcntl(fd, command, address);
  if (result < 0) return result;
  const found = view.getInt16(layout.type, true);
  if (found === layout.F_UNLCK) return null;
  return {
    type: found,
    start: readU64(view, layout.start),
    length: readU64(view, layout.length),
    pid: view.getInt32(layout.pid, true),
  };
}
