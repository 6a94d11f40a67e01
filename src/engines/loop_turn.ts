/**
 * Turns of the event loop, as an engine needs them: soon, and so that timers and
 * sockets have theirs. One is pending at a time, in one of three ways:
 *
 * | pending   | how it comes                  | what it costs                |
 * | --------- | ----------------------------- | ---------------------------- |
 * | immediate | `setImmediate`                | 5 to 10 µs; asks no sockets  |
 * | byte      | a byte through a socket pair  | 9 to 14 µs; sockets first    |
 * | parked    | such a byte, sent by the `Notifier` when there are completions | the same, and the loop sleeps until then |
 *
 * `setImmediate` alone starves sockets. Deno's loop is a task that tokio runs
 * again as long as it is ready, and tokio asks the system about sockets only
 * when nothing is ready, or every 61st time. So now and then nothing is to be
 * ready: for a byte, the loop has to ask.
 *
 * @module
 */

import type { Socket } from "node:net";
import { clearImmediate, setImmediate } from "node:timers";
import type { Libc } from "../../ffi/libc.ts";
import { findReactor } from "../../ffi/reactor.ts";
import { SocketPair } from "../../ffi/socket_pair.ts";
import { socketOf } from "../platform/descriptor_socket.ts";

/**
 * After so many ms of immediate turns, one is made by a byte. Measured: with 0.5
 * ms, NBD reads of 256 KiB were held up.
 */
const BYTE_AFTER_MS = 0.1;

/**
 * The same where the loop's descriptor is watched and the loop is not wanted, so
 * that only a watch that fails needs this: a turn by a byte costs some 0.2 ms
 * where it is rare.
 */
const BYTE_AFTER_WATCHED_MS = 50;

/**
 * Immediate turns between two bytes: in the turn after a byte, Deno tries
 * whether there is another one, and would find it without asking.
 */
const IMMEDIATES_BETWEEN = 2;

/** A descriptor on which the event loop sleeps, and where a byte wakes it. */
export interface LoopDescriptor {
  /** The epoll of the loop. */
  readonly fd: number;
  /** What to send the byte through. */
  readonly pair: SocketPair;
}

/** What turns are made of; {@linkcode LoopTurn} is the one that is not a fake. */
export interface Turns {
  /** Calls into the kernel so far. */
  readonly systemCalls: number;
  /** Whether the turn that is pending asks about sockets first. */
  readonly asks: boolean;
  /**
   * Asks for a turn, if none is pending. A parked one stays parked.
   *
   * @param isUnwanted Whether the loop is known not to be wanted.
   */
  request(isUnwanted: boolean): void;
  /** Whether {@linkcode park} may be called now. */
  readonly canPark: boolean;
  /** Lets the loop sleep until a byte comes, in place of a pending turn. */
  park(): void;
  /** Takes it back: no turn is pending any more. */
  unpark(): void;
  /** Where the loop sleeps; `null` if that cannot be found out. */
  findLoop(): LoopDescriptor | null;
  /** No turn comes from here on. */
  stop(): void;
  /** Gives everything back. */
  close(): Promise<void>;
}

/** Turns of Deno's event loop. */
export class LoopTurn implements Turns {
  readonly #libc: Libc;
  readonly #callback: (asked: boolean) => void;
  #pending: "none" | "immediate" | "byte" | "parked" = "none";
  #immediate: ReturnType<typeof setImmediate> | null = null;
  #pair: SocketPair | null = null;
  #socket: Socket | null = null;
  /** Whether sockets are not to be had, or not any more. */
  #unavailable = false;
  #lastByte = 0;
  /** Immediate turns since the last one by a byte. */
  #immediates = 0;
  /** Calls into the kernel so far. */
  systemCalls = 0;

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   * @param callback Called in each turn, with whether sockets were asked about
   * before it.
   */
  constructor(libc: Libc, callback: (asked: boolean) => void) {
    this.#libc = libc;
    this.#callback = callback;
  }

  /** Whether the turn that is pending asks about sockets first. */
  get asks(): boolean {
    return this.#pending === "byte" || this.#pending === "parked";
  }

  /** Asks for a turn, if none is pending. */
  request(isUnwanted: boolean): void {
    if (this.#pending !== "none") return;
    const pause = isUnwanted ? BYTE_AFTER_WATCHED_MS : BYTE_AFTER_MS;
    if (
      this.#isSettled && performance.now() - this.#lastByte >= pause &&
      this.#send()
    ) return;
    this.#pending = "immediate";
    this.#immediate = setImmediate(this.#onImmediate);
  }

  /** Whether the loop would sleep for a byte. */
  get canPark(): boolean {
    return this.#isSettled && this.#hasSocket();
  }

  /** Lets the loop sleep until a byte comes. */
  park(): void {
    this.#clearImmediate();
    this.#pending = "parked";
    this.#lastByte = performance.now();
    // Only while a byte is in flight does the socket keep the program alive.
    this.#socket!.ref();
  }

  /** Takes it back that the loop sleeps for a byte. */
  unpark(): void {
    if (this.#pending !== "parked") return;
    this.#pending = "none";
    this.#socket?.unref();
  }

  /** Where the loop sleeps: known once a byte has come. */
  findLoop(): LoopDescriptor | null {
    if (this.#socket === null) return null;
    const pair = this.#pair!;
    try {
      const fd = findReactor(this.#libc, pair.otherFd, pair.fd);
      return fd === null ? null : { fd, pair };
    } catch {
      // FFI was given up with the disk open.
      return null;
    }
  }

  /** No turn comes from here on. */
  stop(): void {
    this.#clearImmediate();
    this.#pending = "none";
    this.#unavailable = true;
    this.#socket?.unref();
  }

  /** Gives everything back. */
  async close(): Promise<void> {
    this.stop();
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

  #clearImmediate(): void {
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#immediate = null;
  }

  /** Whether Deno would wait for a byte, and not just find it. */
  get #isSettled(): boolean {
    return this.#immediates >= IMMEDIATES_BETWEEN;
  }

  #send(): boolean {
    if (!this.#hasSocket()) return false;
    this.systemCalls++;
    if (!this.#pair!.send()) return false;
    this.#lastByte = performance.now();
    this.#pending = "byte";
    this.#socket!.ref();
    return true;
  }

  #hasSocket(): boolean {
    if (this.#socket !== null) return true;
    if (this.#unavailable) return false;
    const pair = this.#openPair();
    if (pair === null) {
      this.#unavailable = true;
      return false;
    }
    const socket = socketOf(pair.otherFd);
    socket.on("data", this.#onData);
    // Whatever happens to it, immediate turns go on.
    socket.on("error", () => {
      this.#unavailable = true;
      this.#socket = null;
      this.#onData();
    });
    socket.unref();
    this.#pair = pair;
    this.#socket = socket;
    return true;
  }

  #openPair(): SocketPair | null {
    try {
      const pair = SocketPair.open(this.#libc);
      return typeof pair === "number" ? null : pair;
    } catch {
      // FFI was given up with the disk open.
      return null;
    }
  }

  readonly #onImmediate = (): void => {
    this.#immediate = null;
    this.#immediates++;
    this.#pending = "none";
    this.#callback(false);
  };

  readonly #onData = (): void => {
    this.#immediates = 0;
    if (!this.asks) return;
    this.#pending = "none";
    this.#socket?.unref();
    this.#callback(true);
  };
}
