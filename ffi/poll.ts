/**
 * poll(2) off-thread, as a nonblocking FFI call: for waits that are too long to
 * block the event loop.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { mapMemory } from "./mapped_memory.ts";
import { openOffThread } from "./off_thread.ts";

/** There is something to read (include/uapi/asm-generic/poll.h). */
export const POLLIN = 1;
/** struct pollfd {i32 fd@0, i16 events@4, i16 revents@6}. */
const POLLFD_BYTES = 8;

/**
 * Waits until a descriptor is readable: `int poll(struct pollfd *fds, nfds_t
 * count, int timeout)`, on a thread of Deno's pool. The library is opened for
 * this one wait (some 50 µs beside milliseconds), as one that stays open counts
 * as a leak.
 *
 * The structure lies in mapped memory: Deno keeps a buffer for the start of a
 * nonblocking call only, and a Worker that is terminated leaves its heap to
 * others while the kernel still has to write into the structure.
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @param timeoutMs The longest wait, in ms.
 * @returns Once it is readable, or the time is over; the caller checks which.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 * @throws {Error} If the system does not wait, or has no memory for it.
 */
export async function waitReadable(
  libc: Libc,
  fd: number,
  timeoutMs: number,
): Promise<void> {
  const library = openOffThread(libc, {
    poll: {
      parameters: ["usize", "usize", "i32"],
      result: "i32",
      nonblocking: true,
    },
  });
  const { bytes, address, release } = mapMemory(libc, POLLFD_BYTES);
  try {
    const view = new DataView(bytes.buffer);
    view.setInt32(0, fd, true);
    view.setInt16(4, POLLIN, true);
    const count = await library.symbols.poll!(BigInt(address), 1n, timeoutMs);
    // errno belongs to the other thread, and is lost.
    if (count < 0) throw new Error(`Cannot wait for descriptor ${fd}`);
  } finally {
    release();
    library.close();
  }
}
