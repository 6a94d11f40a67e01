/**
 * Waiting for descriptors that Deno's event loop cannot wait for, and telling by
 * them, without ever waiting in a call: what that takes, however it is done.
 *
 * @module
 */

import type { Libc } from "../../ffi/libc.ts";

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

/** An event counter that is told by. */
export interface Signal {
  /**
   * Adds one to the counter, unless the kernel still has to do so from before.
   * Takes effect with {@linkcode Watcher.flush}.
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
   * Tells by an event counter; by what is none, nobody is told.
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
export const NO_SIGNAL: Signal = { raise() {}, close() {} };

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
