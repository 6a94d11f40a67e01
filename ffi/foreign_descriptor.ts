/**
 * Descriptors that somebody else has sent: what they are, and an end for them.
 * Linux only.
 *
 * Whoever sends a descriptor can make it one for which the system waits: a file
 * of a file system of his own (FUSE), whose poll, read, statfs and close are all
 * answered by him; a TCP socket, whose close waits for the other side (SO_LINGER)
 * and whose lock he may hold. So a descriptor is asked here by calls that reach
 * no driver and no file system, and used for what it is known to be. Closing one
 * may take for ever, even one of a Unix socket, in which others may be queued.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { addressOf, alignedMemory, structMemory } from "./memory.ts";
import { openOffThread } from "./off_thread.ts";

const AT_FDCWD = -100;
/** Longer than the names that are looked for. */
const NAME_BYTES = 64;
// fs/eventfd.c.
const EVENT_COUNTER = "anon_inode:[eventfd]";

// include/uapi/asm-generic/socket.h.
const SOL_SOCKET = 1;
const SO_DOMAIN = 39;
const AF_UNIX = 1;

/**
 * Tells whether a descriptor is an event counter, eventfd(2). Its reads, writes
 * and polls wait for nobody but for its value, and its close for nothing.
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns Whether it is; `false` also where there is no `/proc`.
 */
export function isEventCounter(libc: Libc, fd: number): boolean {
  const { syscalls } = libc.abi;
  if (syscalls === undefined) return false;
  // In one piece, so that what is read last keeps the other.
  const memory = alignedMemory(2 * NAME_BYTES, 8);
  const path = memory.subarray(0, NAME_BYTES);
  const name = memory.subarray(NAME_BYTES);
  new TextEncoder().encodeInto(`/proc/self/fd/${fd}`, path);
  // What it leads to is a name that the kernel made: a file's begins with a slash.
  const length = libc.syscall(
    syscalls.readlinkat,
    AT_FDCWD,
    addressOf(path),
    addressOf(name),
    NAME_BYTES,
  );
  return length > 0 &&
    new TextDecoder().decode(name.subarray(0, length)) === EVENT_COUNTER;
}

/**
 * Tells whether a descriptor is a Unix socket, which never waits for anybody when
 * it is told not to.
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @returns Whether it is.
 */
export function isUnixSocket(libc: Libc, fd: number): boolean {
  const { syscalls } = libc.abi;
  if (syscalls === undefined) return false;
  // int value@0, socklen_t length@4.
  const { address, view } = structMemory(8);
  view.setUint32(4, 4, true);
  const result = libc.syscall(
    syscalls.getsockopt,
    fd,
    SOL_SOCKET,
    SO_DOMAIN,
    address,
    address + 4,
  );
  return result === 0 && view.getInt32(0, true) === AF_UNIX;
}

/**
 * Closes descriptors one after the other, on another thread.
 *
 * @param libc The C library.
 * @param fds The descriptors.
 * @returns When they are closed, which may be never.
 */
export async function closeOffThread(
  libc: Libc,
  fds: readonly number[],
): Promise<void> {
  if (fds.length === 0) return;
  let library;
  try {
    library = openOffThread(libc, {
      close: { parameters: ["i32"], result: "i32", nonblocking: true },
    });
  } catch {
    // FFI was given up meanwhile.
    for (const fd of fds) libc.close(fd);
    return;
  }
  try {
    for (const fd of fds) await library.symbols.close!(fd);
  } finally {
    library.close();
  }
}
