/**
 * A turn of the event loop, as an engine needs it: soon, and so that timers and
 * sockets have theirs.
 *
 * `setImmediate` alone starves sockets. Deno's loop is a task that tokio runs
 * again as long as it is ready, and tokio asks the system about sockets only
 * when nothing is ready, or every 61st time. So now and then nothing is to be
 * ready, and the turn is made by a byte through a pair of sockets: for that, the
 * loop has to ask. Measured: 9 to 14 µs for such a turn, 5 to 10 for an immediate
 * one. Where somebody can announce the turn, the loop may also sleep until that
 * byte comes, or anything else that it sleeps for.
 *
 * @module
 */

import { Socket } from "node:net";
import { clearImmediate, setImmediate } from "node:timers";
import type { Libc } from "../../../ffi/libc.ts";
import { findReactor } from "../../../ffi/reactor.ts";
import { SocketPair } from "../../../ffi/socket_pair.ts";

/** After so many ms of immediate turns, one asks about sockets. */
const REACTOR_MS = 0.1;

/**
 * The same where the loop is woken for sockets, in case that fails: a turn that
 * is made by a byte costs some 0.2 ms where it is rare.
 */
const WATCHED_MS = 50;

/**
 * Immediate turns between two bytes: in the turn after a byte, Deno tries
 * whether there is another one, and would find it without asking.
 */
const SETTLED = 2;

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
  readonly #callback: (asked: boolean) => void;
  #announce: ((pair: SocketPair) => boolean) | null;
  #immediate: ReturnType<typeof setImmediate> | null = null;
  #pair: SocketPair | null = null;
  #socket: Socket | null = null;
  /** Whether a byte is on its way. */
  #sent = false;
  #asleep = false;
  /** Whether there is nothing to make such a pair with. */
  #unavailable = false;
  #lastReactor = 0;
  /** Immediate turns since the last one by a byte. */
  #immediates = 0;
  #sought = false;
  #reactor: number | null = null;

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   * @param callback Called in each turn that was asked for, with whether sockets
   * were asked about before it.
   * @param announce Sees to it that a byte is sent when there is something to
   * do, and tells whether that will be so.
   */
  constructor(
    libc: Libc,
    callback: (asked: boolean) => void,
    announce: ((pair: SocketPair) => boolean) | null = null,
  ) {
    this.#libc = libc;
    this.#callback = callback;
    this.#announce = announce;
  }

  /** Whether a turn has been asked for and has not come yet. */
  get armed(): boolean {
    return this.#immediate !== null || this.#sent || this.#asleep;
  }

  /** Whether the loop is left to sleep until the turn is announced. */
  get asleep(): boolean {
    return this.#asleep;
  }

  /**
   * The descriptor that is readable when the loop has something to do; `null`
   * if it is not known.
   */
  get reactor(): number | null {
    return this.#reactor;
  }

  /** Whether the loop may be left to sleep at all. */
  get canSleep(): boolean {
    return this.#announce !== null;
  }

  /** Whether the turn that comes asks about sockets first. */
  get asks(): boolean {
    return this.#sent || this.#asleep;
  }

  /** Asks for a turn, if none is asked for yet. */
  arm(): void {
    if (this.armed) return;
    const now = performance.now();
    const watched = this.canSleep && this.#reactor !== null;
    const pause = watched ? WATCHED_MS : REACTOR_MS;
    if (this.#settled && now - this.#lastReactor >= pause && this.#send()) {
      this.#lastReactor = now;
    } else this.#immediate = setImmediate(this.#onImmediate);
  }

  /**
   * Lets the loop sleep until the turn is announced, in place of a turn that was
   * asked for.
   *
   * @returns Whether it does; if not, maybe after another turn.
   */
  sleep(): boolean {
    if (this.#asleep) return true;
    if (!this.canSleep || !this.#settled || !this.#hasSocket()) return false;
    if (!this.#willHear()) {
      this.#announce = null;
      return false;
    }
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#immediate = null;
    this.#asleep = true;
    this.#lastReactor = performance.now();
    // Only while a byte is on its way does the socket keep the program alive.
    this.#socket!.ref();
    return true;
  }

  /** Takes it back that the loop sleeps for an announced turn. */
  wake(): void {
    if (!this.#asleep) return;
    this.#asleep = false;
    this.#socket?.unref();
  }

  /** No turn comes from here on. */
  stop(): void {
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#immediate = null;
    this.#sent = false;
    this.#asleep = false;
    this.#announce = null;
  }

  /** Gives everything back. */
  async close(): Promise<void> {
    this.stop();
    this.#unavailable = true;
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

  #willHear(): boolean {
    try {
      return this.#announce!(this.#pair!);
    } catch {
      // FFI was given up with the disk open.
      return false;
    }
  }

  #seek(): void {
    const { fd, otherFd } = this.#pair!;
    try {
      this.#reactor = findReactor(this.#libc, otherFd, fd);
    } catch {
      // As above: it stays unknown.
    }
  }

  /** Whether Deno would wait for a byte, and not just find it. */
  get #settled(): boolean {
    return this.#immediates >= SETTLED;
  }

  #send(): boolean {
    if (!this.#hasSocket() || !this.#pair!.send()) return false;
    this.#sent = true;
    this.#socket!.ref();
    return true;
  }

  #hasSocket(): boolean {
    if (this.#socket !== null) return true;
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
      this.#announce = null;
      this.#socket = null;
      this.#onData();
    });
    socket.unref();
    this.#pair = pair;
    this.#socket = socket;
    return true;
  }

  readonly #onImmediate = (): void => {
    this.#immediate = null;
    this.#immediates++;
    this.#callback(false);
  };

  readonly #onData = (): void => {
    this.#immediates = 0;
    if (!this.#sent && !this.#asleep) return;
    this.#sent = false;
    this.#asleep = false;
    this.#socket?.unref();
    // Once a byte has come, the loop is known to wait for the next one.
    if (this.canSleep && !this.#sought) {
      this.#sought = true;
      this.#seek();
    }
    this.#callback(true);
  };
}
