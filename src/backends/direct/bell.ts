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

/** Brought back by the byte; what it waited for brings back 0. */
const RUNG = 1;

/** Rings once for each time that it is armed. */
export class Bell {
  readonly #ring: IoUring;
  readonly #pair: SocketPair;
  #armed = false;

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
    const flags = IORING_SETUP.SINGLE_ISSUER | IORING_SETUP.COOP_TASKRUN |
      IORING_SETUP.SUBMIT_ALL;
    const ring = IoUring.setup(libc, { entries: 2, flags });
    return typeof ring === "number" ? null : new Bell(ring, pair);
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
      ring.fill(IORING_OP.POLL_ADD, IOSQE.IO_LINK, fd, 0, 0, 0, POLLIN, 0);
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
    ring.enter(0, 0);
    this.#armed = ring.unsubmitted === 0;
    return this.#armed;
  }

  readonly #onCompletion = (userData: number): void => {
    if (userData === RUNG) this.#armed = false;
  };

  /** Takes it away. The pair must still be there. */
  close(): void {
    this.#ring.close();
  }
}
