/**
 * Waiting for descriptors where there is no ring (a filter of system calls, an
 * old kernel): by an epoll on which another thread sleeps, which costs a hand-off
 * for each wait. Reads and writes of counters are calls of this thread here, so
 * that a front end that takes O_NONBLOCK back can hold it up.
 *
 * @module
 */

import { Epoll } from "../../ffi/epoll.ts";
import type { Libc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory } from "../../ffi/memory.ts";
import { waitReadable } from "../../ffi/poll.ts";
import { SocketPair } from "../../ffi/socket_pair.ts";
import {
  COUNTER_BYTES,
  type Signal,
  stopBlocking,
  type Watched,
  type Watcher,
} from "./watcher.ts";

/** The number of the socket that ends a wait. */
const WAKE = 0;

/** The longest wait on the other thread, in ms. */
const WAIT_MS = 60_000;

/** Until the other thread is tried again when it cannot wait, in ms. */
const RETRY_MS = 10;

/** One that is armed: called when it is readable. */
interface Armed {
  readonly fd: number;
  readonly onReadable: () => void;
}

/** Waits for descriptors by another thread. */
export class PollWatcher implements Watcher {
  readonly #libc: Libc;
  readonly #epoll: Epoll;
  readonly #pair: SocketPair;
  readonly #armed = new Map<number, Armed>();
  #last = WAKE;
  readonly #value = alignedMemory(COUNTER_BYTES, 8);
  readonly #one = alignedMemory(COUNTER_BYTES, 8);
  readonly #waiting: Promise<void>;
  #closed = false;

  private constructor(libc: Libc, epoll: Epoll, pair: SocketPair) {
    this.#libc = libc;
    this.#epoll = epoll;
    this.#pair = pair;
    this.#one[0] = 1;
    epoll.add(pair.otherFd, WAKE);
    this.#waiting = this.#wait();
  }

  /**
   * Makes a watcher.
   *
   * @param libc The C library.
   * @returns The watcher; `null` if there are no descriptors for it.
   */
  static open(libc: Libc): PollWatcher | null {
    const epoll = Epoll.open(libc);
    if (typeof epoll === "number") return null;
    const pair = SocketPair.open(libc);
    if (typeof pair !== "number") return new PollWatcher(libc, epoll, pair);
    epoll.close();
    return null;
  }

  /** Waits for a socket. */
  socket(fd: number, onReady: () => void): Watched {
    return this.#watch(fd, onReady);
  }

  /** Waits for an event counter, and sets it back to 0. */
  counter(fd: number, onReady: (isCounter: boolean) => void): Watched {
    stopBlocking(this.#libc, fd);
    const watched = this.#watch(fd, () => {
      const { read } = this.#libc.abi.syscalls!;
      const count = this.#libc.syscall(
        read,
        fd,
        addressOf(this.#value),
        COUNTER_BYTES,
      );
      if (count === -this.#libc.abi.errno.EAGAIN) watched.arm();
      else onReady(count === COUNTER_BYTES);
    }, () => onReady(false));
    return watched;
  }

  /** Tells by an event counter. */
  signal(fd: number): Signal {
    stopBlocking(this.#libc, fd);
    let closed = false;
    return {
      raise: () => {
        if (closed) return;
        const { write } = this.#libc.abi.syscalls!;
        this.#libc.syscall(write, fd, addressOf(this.#one), COUNTER_BYTES);
      },
      close: () => {
        closed = true;
      },
    };
  }

  /** There is nothing to hand over. */
  flush(): void {}

  /** Waits for nothing any more, and gives everything back. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#pair.send();
    await this.#waiting;
    this.#epoll.close();
    this.#pair.close();
    this.#libc.close(this.#pair.otherFd);
  }

  #watch(
    fd: number,
    onReadable: () => void,
    onRefused: () => void = onReadable,
  ): Watched {
    let number = WAKE;
    let closed = false;
    const disarm = () => {
      if (number === WAKE) return;
      this.#armed.delete(number);
      this.#epoll.remove(fd);
      number = WAKE;
    };
    return {
      arm: () => {
        if (closed || number !== WAKE || this.#closed) return;
        number = ++this.#last;
        this.#armed.set(number, {
          fd,
          onReadable: () => {
            disarm();
            onReadable();
          },
        });
        if (this.#epoll.add(fd, number) >= 0) return;
        // Not from inside of the call.
        queueMicrotask(() => {
          disarm();
          if (!closed) onRefused();
        });
      },
      close: () => {
        closed = true;
        disarm();
      },
    };
  }

  async #wait(): Promise<void> {
    while (!this.#closed) {
      try {
        await waitReadable(this.#libc, this.#epoll.fd, WAIT_MS);
      } catch {
        // FFI was given up, or there is no memory left for the moment.
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
      if (this.#closed) return;
      for (const number of this.#epoll.readable()) {
        this.#armed.get(number)?.onReadable();
      }
    }
  }
}
