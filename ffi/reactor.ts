/**
 * The epoll descriptor of Deno's event loop (mio's reactor), so that a wait
 * elsewhere, in io_uring_enter, can also end when the event loop has work.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { addressOf, alignedMemory } from "./memory.ts";

// include/uapi/linux/eventpoll.h.
const EPOLL_CTL_DEL = 2;

/** Descriptors that are looked at; the main loop's is among the first ten. */
const MOST_DESCRIPTORS = 1024;

const CHUNK_BYTES = 4096;

/**
 * Finds the epoll that waits for a socket, among all those of this process:
 * every thread with an event loop has one. Linux only.
 *
 * @param libc The C library.
 * @param socketFd A socket that Deno waits for.
 * @param strangerFd A descriptor that can be waited for and that no epoll knows.
 * @returns The epoll's descriptor, to be looked at and no more; `null` if none
 * of them waits for that socket, or `/proc` does not say.
 */
export function findReactor(
  libc: Libc,
  socketFd: number,
  strangerFd: number,
): number | null {
  const { syscalls, errno } = libc.abi;
  if (syscalls === undefined) return null;
  // Each descriptor that is waited for has a line (fs/eventpoll.c,
  // ep_show_fdinfo).
  const target = new RegExp(`^tfd:\\s+${socketFd}\\s`, "m");
  for (let fd = 0; fd < MOST_DESCRIPTORS; fd++) {
    // An epoll answers that it does not know the stranger; whatever is no
    // epoll, or no descriptor, answers something else, and nothing changes.
    const answer = libc.syscall(
      syscalls.epoll_ctl,
      fd,
      EPOLL_CTL_DEL,
      strangerFd,
      0,
    );
    if (answer !== -errno.ENOENT) continue;
    if (target.test(readText(libc, `/proc/self/fdinfo/${fd}`))) return fd;
  }
  return null;
}

/** Reads a small file; what cannot be read is empty. */
function readText(libc: Libc, path: string): string {
  const { O_RDONLY, O_CLOEXEC } = libc.abi.open;
  const memory = alignedMemory(CHUNK_BYTES);
  const fd = libc.open(path, O_RDONLY | (O_CLOEXEC ?? 0));
  if (fd < 0) return "";
  const decoder = new TextDecoder();
  let text = "";
  for (let at = 0;;) {
    const count = libc.pread(fd, addressOf(memory), CHUNK_BYTES, at);
    if (count <= 0) break;
    text += decoder.decode(memory.subarray(0, count), { stream: true });
    at += count;
  }
  libc.close(fd);
  return text;
}
