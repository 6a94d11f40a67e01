/**
 * The descriptor on which Deno's event loop sleeps, so that somebody who sleeps
 * elsewhere can be woken by what it sleeps for.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { addressOf, alignedMemory } from "./memory.ts";
import { POLLIN } from "./poll.ts";
import type { SocketPair } from "./socket_pair.ts";

// include/uapi/linux/eventpoll.h.
const EPOLL_CTL_DEL = 2;

/** Descriptors that are looked at; the loop's is among the first. */
const MOST_DESCRIPTORS = 1024;

/** struct pollfd {i32 fd@0, i16 events@4, i16 revents@6}, and a timespec of 0. */
const POLLFD_BYTES = 8;
const TIMESPEC_BYTES = 16;

/**
 * Finds the epoll that tells of a pair's other socket: among all those of this
 * process, the one that was not readable and is so once a byte was sent. The
 * byte stays for whoever reads from that socket.
 *
 * A descriptor is an epoll if it knows that a socket is not in it: epoll_ctl(2)
 * answers ENOENT, and EINVAL or EBADF for anything else.
 *
 * @param libc The C library.
 * @param pair A pair whose other socket Deno reads from. This thread's event
 * loop must not turn meanwhile, so this does not wait.
 * @returns The descriptor, never to be written to or closed; `null` if it
 * cannot be told.
 */
export function findReactor(libc: Libc, pair: SocketPair): number | null {
  const { syscalls, errno } = libc.abi;
  if (syscalls === undefined) return null;
  const memory = alignedMemory(TIMESPEC_BYTES + POLLFD_BYTES, 8);
  const view = new DataView(memory.buffer, memory.byteOffset, memory.length);
  const address = addressOf(memory);
  const isEpoll = (fd: number) =>
    libc.syscall(syscalls.epoll_ctl, fd, EPOLL_CTL_DEL, pair.fd, 0) ===
      -errno.ENOENT;
  const isReadable = (fd: number) => {
    view.setInt32(TIMESPEC_BYTES, fd, true);
    view.setInt32(TIMESPEC_BYTES + 4, POLLIN, true);
    // ppoll(fds, 1, no time, no mask, the size of a mask).
    return libc.syscall(
      syscalls.ppoll,
      address + TIMESPEC_BYTES,
      1,
      address,
      0,
      8,
    ) === 1;
  };
  const candidates: number[] = [];
  for (let fd = 0; fd < MOST_DESCRIPTORS; fd++) {
    if (isEpoll(fd) && !isReadable(fd)) candidates.push(fd);
  }
  if (!pair.send()) return null;
  return candidates.find(isReadable) ?? null;
}
