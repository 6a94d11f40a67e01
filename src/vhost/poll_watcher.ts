/**
 * Waiting for descriptors where there is no ring (a filter of system calls, an
 * old kernel): by an epoll on which another thread sleeps, which costs a hand-off
 * for each wait. Whoever else has a counter can take O_NONBLOCK back: so it is
 * read by a call that does not wait whatever the flag says (RWF_NOWAIT; before
 * Linux 5.8 there is none for counters), and told by AIO, whose completions are
 * counted without waiting.
 *
 * @module
 */

import { RWF } from "../../ffi/abi.ts";
import { AioContext } from "../../ffi/aio.ts";
import { Epoll } from "../../ffi/epoll.ts";
import { isEventCounter } from "../../ffi/foreign_descriptor.ts";
import type { Libc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory, IoVector } from "../../ffi/memory.ts";
import { waitReadable } from "../../ffi/poll.ts";
import { SocketPair } from "../../ffi/socket_pair.ts";
import {
  COUNTER_BYTES,
  type Signal,
  socketSignal,
  stopBlocking,
  type Watched,
  type Watcher,
  watchNothing,
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
  readonly #aio: AioContext;
  readonly #pair: SocketPair;
  readonly #armed = new Map<number, Armed>();
  #last = WAKE;
  readonly #value = alignedMemory(COUNTER_BYTES, 8);
  readonly #vector = new IoVector(1);
  readonly #waiting: Promise<void>;
  #closed = false;

  private constructor(
    libc: Libc,
    epoll: Epoll,
    aio: AioContext,
    pair: SocketPair,
  ) {
    this.#libc = libc;
    this.#epoll = epoll;
    this.#aio = aio;
    this.#pair = pair;
    this.#vector.set(0, addressOf(this.#value), COUNTER_BYTES);
    epoll.add(pair.otherFd, WAKE);
    this.#waiting = this.#wait();
  }

  /**
   * Makes a watcher.
   *
   * @param libc The C library.
   * @returns The watcher; `null` if there are no descriptors for it, or there is
   * no AIO.
   */
  static open(libc: Libc): PollWatcher | null {
    const epoll = Epoll.open(libc);
    if (typeof epoll === "number") return null;
    const aio = AioContext.setup(libc, 1);
    if (typeof aio !== "number") {
      const pair = SocketPair.open(libc);
      if (typeof pair !== "number") {
        return new PollWatcher(libc, epoll, aio, pair);
      }
      aio.close();
    }
    epoll.close();
    return null;
  }

  /** Waits for a socket. */
  socket(fd: number, onReady: () => void): Watched {
    return this.#watch(fd, onReady);
  }

  /** Waits for an event counter, and sets it back to 0. */
  counter(fd: number, onReady: (isCounter: boolean) => void): Watched {
    if (!isEventCounter(this.#libc, fd)) return watchNothing(onReady);
    stopBlocking(this.#libc, fd);
    const watched = this.#watch(fd, () => {
      const count = this.#read(fd);
      if (count === -this.#libc.abi.errno.EAGAIN) watched.arm();
      else onReady(count === COUNTER_BYTES);
    }, () => onReady(false));
    return watched;
  }

  /** Tells by an event counter, or a Unix socket. */
  signal(fd: number): Signal {
    if (!isEventCounter(this.#libc, fd)) return socketSignal(this.#libc, fd);
    let closed = false;
    return {
      raise: () => {
        if (closed) return;
        const aio = this.#aio;
        aio.prepareSignal(fd, 0);
        if (aio.submit() < 0) aio.dropFirst();
        else if (aio.isDrainable) aio.drain(() => {});
        else aio.getEvents(0, 0, () => {});
      },
      close: () => {
        closed = true;
      },
    };
  }

  #read(fd: number): number {
    const { errno, syscalls } = this.#libc.abi;
    const { address } = this.#vector;
    const count = this.#libc.preadv2(fd, address, 1, -1, RWF.NOWAIT);
    if (count !== -errno.EOPNOTSUPP) return count;
    return this.#libc.syscall(
      syscalls!.read,
      fd,
      addressOf(this.#value),
      COUNTER_BYTES,
    );
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
    this.#aio.close();
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
