/**
 * A turn of the event loop, as an engine needs it: soon, and so that timers and
 * sockets have theirs.
 *
 * `setImmediate` alone starves sockets. Deno's loop is a task that tokio runs
 * again as long as it is ready, and tokio asks the system about sockets only
 * when nothing is ready, or every 61st time. So when {@linkcode REACTOR_MS} have
 * passed, the turn is made by a byte through a pair of sockets: for that, the
 * loop has to ask. Measured: 9 to 14 µs for such a turn, 5 to 10 for an
 * immediate one.
 *
 * @module
 */

import { Socket } from "node:net";
import { clearImmediate, setImmediate } from "node:timers";
import type { Libc } from "../../../ffi/libc.ts";
import { SocketPair } from "../../../ffi/socket_pair.ts";

/** After so many ms of immediate turns, one asks about sockets. */
const REACTOR_MS = 0.1;

/** A pair of sockets, if the system and Deno's permissions allow one now. */
function openPair(libc: Libc): SocketPair | null {
  try {
    const pair = SocketPair.open(libc);
    return typeof pair === "number" ? null : pair;
  } catch {
    // FFI was given up with the disk open.
    return null;
  }
}

/** Turns of the event loop, one at a time. */
export class LoopTurn {
  readonly #libc: Libc;
  readonly #callback: () => void;
  #immediate: ReturnType<typeof setImmediate> | null = null;
  #pair: SocketPair | null = null;
  #socket: Socket | null = null;
  /** Whether a byte is on its way. */
  #sent = false;
  /** Whether there is nothing to make such a pair with. */
  #unavailable = false;
  #lastReactor = 0;

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   * @param callback Called in each turn that was asked for.
   */
  constructor(libc: Libc, callback: () => void) {
    this.#libc = libc;
    this.#callback = callback;
  }

  /** Whether a turn has been asked for and has not come yet. */
  get armed(): boolean {
    return this.#immediate !== null || this.#sent;
  }

  /** Asks for a turn, if none is asked for yet. */
  arm(): void {
    if (this.armed) return;
    const now = performance.now();
    if (now - this.#lastReactor < REACTOR_MS || !this.#send()) {
      this.#immediate = setImmediate(this.#onImmediate);
    } else this.#lastReactor = now;
  }

  /** Gives everything back; a turn that was asked for does not come. */
  async close(): Promise<void> {
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#immediate = null;
    this.#sent = false;
    const socket = this.#socket;
    this.#socket = null;
    if (socket !== null) {
      const closed = new Promise((resolve) => socket.once("close", resolve));
      socket.destroy();
      await closed;
    }
    this.#pair?.close();
    this.#pair = null;
  }

  #send(): boolean {
    if (this.#socket === null && !this.#open()) return false;
    if (!this.#pair!.send()) return false;
    this.#sent = true;
    // Only while a byte is on its way does the socket keep the program alive.
    this.#socket!.ref();
    return true;
  }

  #open(): boolean {
    if (this.#unavailable) return false;
    const pair = openPair(this.#libc);
    if (pair === null) {
      this.#unavailable = true;
      return false;
    }
    const socket = new Socket({ fd: pair.otherFd, readable: true });
    socket.on("data", this.#onData);
    // Whatever happens to it, immediate turns go on.
    socket.on("error", () => {
      this.#unavailable = true;
      this.#socket = null;
      if (this.#sent) this.#onData();
    });
    socket.unref();
    this.#pair = pair;
    this.#socket = socket;
    return true;
  }

  readonly #onImmediate = (): void => {
    this.#immediate = null;
    this.#callback();
  };

  readonly #onData = (): void => {
    if (!this.#sent) return;
    this.#sent = false;
    this.#socket?.unref();
    this.#callback();
  };
}
