/**
 * Tells the event loop of completions: a small ring of its own waits until
 * another ring has some and then sends a byte through a socket, all of it in the
 * kernel. So a thread that sleeps on sockets is woken by completions as well,
 * with no other thread in between.
 *
 * @module
 */

import { IORING_SETUP, IOSQE, IoUring } from "../../ffi/io_uring.ts";
import type { Libc } from "../../ffi/libc.ts";
import { POLLIN } from "../../ffi/poll.ts";
import type { SocketPair } from "../../ffi/socket_pair.ts";

// include/linux/socket.h.
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;

/** User data of the poll, of the byte, and of the cancellation. */
const POLLED = 0;
const SENT = 1;
const CANCELLED = 2;

/** Flags of newer kernels (6.0, 5.19) first; older ones refuse what they lack. */
const SETUPS = [
  IORING_SETUP.SINGLE_ISSUER | IORING_SETUP.COOP_TASKRUN,
  0,
];

/** Calls to hand over what is to be waited for. */
const ATTEMPTS = 3;

/** Waits for a poll to be cancelled, and how long each is, in µs. */
const CLOSE_WAITS = 10;
const CLOSE_WAIT_US = 1000;

/** Sends one byte each time that it is armed. */
export class Notifier {
  readonly #ring: IoUring;
  readonly #pair: SocketPair;
  #armed = false;
  #failed = false;

  private constructor(ring: IoUring, pair: SocketPair) {
    this.#ring = ring;
    this.#pair = pair;
  }

  /**
   * Makes a notifier.
   *
   * @param libc The C library.
   * @param pair What it sends its byte through.
   * @returns The notifier; `null` if the system has no ring left.
   */
  static make(libc: Libc, pair: SocketPair): Notifier | null {
    for (const flags of SETUPS) {
      const ring = IoUring.setup(libc, { entries: 2, flags });
      if (typeof ring !== "number") return new Notifier(ring, pair);
    }
    return null;
  }

  /** Calls into the kernel so far. */
  get systemCalls(): number {
    return this.#ring.systemCalls;
  }

  /**
   * Sends a byte when a ring has completions, or at once if it has.
   *
   * @param fd The other ring's descriptor.
   * @returns Whether it will.
   */
  arm(fd: number): boolean {
    const ring = this.#ring;
    ring.drain(this.#onCompletion);
    if (this.#armed) return true;
    if (ring.unsubmitted === 0) {
      const { fd: socket, byteAddress } = this.#pair;
      ring.preparePoll(fd, POLLIN, POLLED, IOSQE.IO_LINK);
      ring.prepareSend(socket, byteAddress, 1, SEND_FLAGS, SENT);
    }
    // The kernel may have no memory for the moment.
    for (let i = 0; i < ATTEMPTS && ring.unsubmitted > 0; i++) ring.enter(0, 0);
    this.#armed = ring.unsubmitted === 0;
    // What failed at once has completed by now.
    this.#failed = !this.#armed;
    ring.drain(this.#onCompletion);
    return !this.#failed;
  }

  readonly #onCompletion = (userData: number, result: number): void => {
    if (userData !== SENT) return;
    this.#armed = false;
    this.#failed = result < 0;
  };

  /**
   * Takes it away. No byte is sent from then on; the pair must still be there.
   */
  close(): void {
    const ring = this.#ring;
    ring.drain(this.#onCompletion);
    if (this.#armed) {
      ring.prepareCancel(POLLED, CANCELLED);
      for (let i = 0; i < CLOSE_WAITS && this.#armed; i++) {
        ring.enter(1, CLOSE_WAIT_US);
        ring.drain(this.#onCompletion);
      }
    }
    ring.close();
  }
}
