/**
 * What wakes the event loop when a ring has completions: an event counter of our
 * own, by which the kernel counts them, and a little ring that reads it and sends a
 * byte into a pair of sockets. The loop waits for the other one of these.
 *
 * @module
 */

import { IORING_SETUP, IOSQE, IoUring } from "../../ffi/io_uring.ts";
import type { Libc } from "../../ffi/libc.ts";
import { mapMemory, type MappedMemory } from "../../ffi/mapped_memory.ts";
import type { SocketPair } from "../../ffi/socket_pair.ts";
import { COUNTER_BYTES } from "./watcher.ts";

// include/linux/socket.h.
const SEND_FLAGS = 0x40 | 0x4000; // MSG_DONTWAIT | MSG_NOSIGNAL

// include/uapi/linux/eventfd.h.
const EFD_FLAGS = 0x80000 | 0x800; // EFD_CLOEXEC | EFD_NONBLOCK

const READ = 1;
const SENT = 2;
const CANCEL = 3;

/** Waits for the read to be taken back, and how long each is, in µs. */
const CLOSE_WAITS = 100;
const CLOSE_WAIT_US = 1000;

/** Wakes the loop. */
export class Bell {
  readonly #libc: Libc;
  readonly #ring: IoUring;
  readonly #memory: MappedMemory;
  readonly #pair: SocketPair;
  #armed = false;
  /** The counter. */
  readonly counter: number;

  private constructor(
    libc: Libc,
    ring: IoUring,
    counter: number,
    memory: MappedMemory,
    pair: SocketPair,
  ) {
    this.#libc = libc;
    this.#ring = ring;
    this.counter = counter;
    this.#memory = memory;
    this.#pair = pair;
  }

  /**
   * Makes one.
   *
   * @param libc The C library.
   * @param pair The pair of sockets.
   * @returns It; `null` if there are no descriptors or no memory for it.
   */
  static open(libc: Libc, pair: SocketPair): Bell | null {
    const { SINGLE_ISSUER } = IORING_SETUP;
    let ring = IoUring.setup(libc, { entries: 4, flags: SINGLE_ISSUER });
    // Linux before 6.0 does not know the flag.
    if (typeof ring === "number") {
      ring = IoUring.setup(libc, { entries: 4, flags: 0 });
    }
    if (typeof ring === "number") return null;
    const made = libc.syscall(libc.abi.syscalls!.eventfd2, 0, EFD_FLAGS);
    if (made >= 0) {
      const counter = libc.keep(made);
      try {
        const memory = mapMemory(libc, COUNTER_BYTES);
        return new Bell(libc, ring, counter, memory, pair);
      } catch {
        libc.closeKept(counter);
      }
    }
    ring.close();
    return null;
  }

  /** Sends a byte as soon as the counter is not 0, which sets it back. */
  arm(): void {
    const ring = this.#ring;
    ring.drain(this.#onCompletion);
    if (!this.#armed && ring.unsubmitted === 0) {
      this.#armed = true;
      const { address } = this.#memory;
      const { fd, byteAddress } = this.#pair;
      const link = IOSQE.IO_LINK;
      ring.prepareRead(this.counter, address, COUNTER_BYTES, 0, READ, link);
      ring.prepareSend(fd, byteAddress, 1, SEND_FLAGS, SENT);
    }
    // What the kernel has no memory for is tried again with the next call.
    if (ring.unsubmitted > 0) ring.enter(0, 0);
  }

  /** Whether the kernel has not taken what was armed. */
  get isRefused(): boolean {
    return this.#ring.unsubmitted > 0;
  }

  /** Gives everything back. No byte is sent from then on. */
  close(): void {
    const ring = this.#ring;
    ring.drain(this.#onCompletion);
    if (this.#armed) ring.prepareCancel(READ, CANCEL);
    for (let i = 0; i < CLOSE_WAITS && this.#armed; i++) {
      ring.enter(1, CLOSE_WAIT_US);
      ring.drain(this.#onCompletion);
    }
    // What the kernel may still read into is left to it.
    if (!this.#armed) this.#memory.release();
    ring.close();
    this.#libc.closeKept(this.counter);
  }

  readonly #onCompletion = (what: number): void => {
    if (what === SENT) this.#armed = false;
  };
}
