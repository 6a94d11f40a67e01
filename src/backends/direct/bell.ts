/**
 * A bell for a ring: a small ring of its own that waits until the other one has
 * completions and then sends a byte through a socket, all of it in the kernel.
 * So whoever sleeps on sockets hears of completions as well, with no thread in
 * between.
 *
 * @module
 */

import {
  IORING_OP,
  IORING_SETUP,
  IOSQE,
  IoUring,
} from "../../../ffi/io_uring.ts";
import type { Libc } from "../../../ffi/libc.ts";
import { POLLIN } from "../../../ffi/poll.ts";
import type { SocketPair } from "../../../ffi/socket_pair.ts";

// include/linux/socket.h.
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

/** Brought back by the wait, by the byte, and by taking the wait back. */
const WAITED = 0;
const RUNG = 1;
const CANCELLED = 2;

/** Flags of newer kernels (6.0, 5.19) first; older ones refuse what they lack. */
const SETUPS = [
  IORING_SETUP.SINGLE_ISSUER | IORING_SETUP.COOP_TASKRUN,
  0,
];

/** Calls to hand over what is to be waited for. */
const ATTEMPTS = 3;

/** Waits for a wait to be taken back, and how long each is, in µs. */
const CLOSE_WAITS = 10;
const CLOSE_WAIT_US = 1000;

/** Rings once for each time that it is armed. */
export class Bell {
  readonly #ring: IoUring;
  readonly #pair: SocketPair;
  #armed = false;
  #failed = false;

  private constructor(ring: IoUring, pair: SocketPair) {
    this.#ring = ring;
    this.#pair = pair;
  }

  /**
   * Makes a bell.
   *
   * @param libc The C library.
   * @param pair What it sends its byte through.
   * @returns The bell; `null` if the system has no ring left.
   */
  static make(libc: Libc, pair: SocketPair): Bell | null {
    for (const flags of SETUPS) {
      const ring = IoUring.setup(libc, { entries: 2, flags });
      if (typeof ring !== "number") return new Bell(ring, pair);
    }
    return null;
  }

  /**
   * Lets it ring when a ring has completions, or has them already.
   *
   * @param fd The other ring's descriptor.
   * @returns Whether it will.
   */
  arm(fd: number): boolean {
    const ring = this.#ring;
    ring.reap(this.#onCompletion);
    if (this.#armed) return true;
    if (ring.unsubmitted === 0) {
      ring.fill(IORING_OP.POLL_ADD, IOSQE.IO_LINK, fd, 0, 0, 0, POLLIN, WAITED);
      ring.fill(
        IORING_OP.SEND,
        0,
        this.#pair.fd,
        0,
        this.#pair.byteAddress,
        1,
        MSG_DONTWAIT | MSG_NOSIGNAL,
        RUNG,
      );
    }
    // The kernel may have no memory for the moment.
    for (let i = 0; i < ATTEMPTS && ring.unsubmitted > 0; i++) ring.enter(0, 0);
    this.#armed = ring.unsubmitted === 0;
    // What failed at once has completed by now.
    this.#failed = !this.#armed;
    ring.reap(this.#onCompletion);
    return !this.#failed;
  }

  readonly #onCompletion = (userData: number, result: number): void => {
    if (userData !== RUNG) return;
    this.#armed = false;
    this.#failed = result < 0;
  };

  /**
   * Takes it away. No byte is sent from then on; the pair must still be there.
   */
  close(): void {
    const ring = this.#ring;
    ring.reap(this.#onCompletion);
    if (this.#armed) {
      ring.fill(IORING_OP.ASYNC_CANCEL, 0, -1, 0, WAITED, 0, 0, CANCELLED);
      for (let i = 0; i < CLOSE_WAITS && this.#armed; i++) {
        ring.enter(1, CLOSE_WAIT_US);
        ring.reap(this.#onCompletion);
      }
    }
    ring.close();
  }
}
