/**
 * Waiting for descriptors that Deno's event loop cannot wait for, and telling by
 * them, without ever waiting in a call: what that takes, however it is done.
 *
 * @module
 */

import { isUnixSocket } from "../../ffi/foreign_descriptor.ts";
import type { Libc } from "../../ffi/libc.ts";
import { alignedMemory } from "../../ffi/memory.ts";
import { MessageSocket } from "../../ffi/unix_socket.ts";

/** One descriptor that is waited for. */
export interface Watched {
  /**
   * Asks to be told once, as soon as there is something. Takes effect with
   * {@linkcode Watcher.flush}.
   */
  arm(): void;
  /** Tells of nothing any more. The descriptor may be closed at once. */
  close(): void;
}

/** An event counter, or a socket, that is told by. */
export interface Signal {
  /**
   * Adds one to the counter, unless the kernel still has to do so from before.
   * Takes effect with {@linkcode Watcher.flush} at the latest.
   */
  raise(): void;
  /** Ends it. The descriptor may be closed at once. */
  close(): void;
}

/** Waits for descriptors, and tells by them. It keeps the program alive. */
export interface Watcher {
  /**
   * Waits for a socket.
   *
   * @param fd Its descriptor.
   * @param onReady Called, once for each time that it was armed, when there is
   * something to read, or it is over with the socket.
   * @returns What arms it.
   * @throws {RangeError} If there are too many.
   */
  socket(fd: number, onReady: () => void): Watched;
  /**
   * Waits for an event counter, and sets it back to 0.
   *
   * @param fd Its descriptor.
   * @param onReady Called, once for each time that it was armed, when it was not
   * 0: with `false` if it is no counter, which is not read then.
   * @returns What arms it.
   * @throws {RangeError} If there are too many.
   */
  counter(fd: number, onReady: (isCounter: boolean) => void): Watched;
  /**
   * Tells by an event counter or a Unix socket; by what is neither, nobody is
   * told.
   *
   * @param fd Its descriptor.
   * @returns What tells.
   * @throws {RangeError} If there are too many.
   */
  signal(fd: number): Signal;
  /** Hands over what was armed and raised. */
  flush(): void;
  /**
   * Waits for nothing any more, and gives everything back.
   *
   * @returns When it is done.
   */
  close(): Promise<void>;
}

/** Bytes of an event counter's value, eventfd(2). */
export const COUNTER_BYTES = 8;

/**
 * What watches a descriptor that turned out to be no counter.
 *
 * @param onReady Called when it is armed.
 * @returns What arms it.
 */
export function watchNothing(onReady: (isCounter: boolean) => void): Watched {
  let closed = false;
  return {
    arm() {
      // Not from inside of the call.
      queueMicrotask(() => {
        if (!closed) onReady(false);
      });
    },
    close() {
      closed = true;
    },
  };
}

/** What tells nobody, as it has no counter to tell by. */
const NO_SIGNAL: Signal = { raise() {}, close() {} };

/**
 * Tells by what is no event counter. User Mode Linux cannot wait for one and sends
 * one end of a pair of Unix sockets (`vu_setup_vq_call_fd` in
 * `arch/um/drivers/virtio_uml.c`), from whose other end it reads what a counter
 * would have.
 *
 * @param libc The C library.
 * @param fd The descriptor, which stays the caller's.
 * @returns What tells: nobody, if it is no Unix socket.
 */
export function socketSignal(libc: Libc, fd: number): Signal {
  if (!isUnixSocket(libc, fd)) return NO_SIGNAL;
  const socket = new MessageSocket(libc, fd);
  const value = alignedMemory(COUNTER_BYTES, 8);
  new DataView(value.buffer, value.byteOffset).setBigUint64(0, 1n, true);
  let closed = false;
  return {
    raise() {
      // One that takes no more holds enough to be seen.
      if (!closed) socket.send(value);
    },
    close() {
      closed = true;
    },
  };
}

/**
 * Sees to it that a descriptor is not waited for by reads and writes. Whoever
 * else has it can take that back.
 *
 * @param libc The C library.
 * @param fd The descriptor.
 */
export function stopBlocking(libc: Libc, fd: number): void {
  const { F_GETFL, F_SETFL } = libc.abi.fcntl;
  const flags = libc.fcntl(fd, F_GETFL);
  if (flags < 0) return;
  libc.fcntl(fd, F_SETFL, flags | libc.abi.open.O_NONBLOCK);
}
