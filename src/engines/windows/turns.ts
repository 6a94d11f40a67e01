/**
 * Turns of the event loop on Windows, where no byte can be sent to it: immediate
 * ones, and after a ms of these one by a hand-off to another thread and back.
 * `setImmediate` alone starves sockets (`../loop_turn.ts`); while a call on
 * another thread is all that is pending, the loop asks about them.
 *
 * @module
 */

import { clearImmediate, setImmediate } from "node:timers";
import type { Windows } from "../../../ffi/windows.ts";
import type { OffThreadFunctions } from "../../../ffi/windows_library.ts";
import type { LoopDescriptor, Turns } from "../loop_turn.ts";

/** After so many ms of immediate turns, one is made by a hand-off. */
const HAND_OFF_AFTER_MS = 1;

/** Turns of the event loop, by `setImmediate` and by another thread. */
export class WindowsTurns implements Turns {
  readonly #windows: Windows;
  readonly #callback: (asked: boolean) => void;
  #pending: "none" | "immediate" | "hand-off" = "none";
  #immediate: ReturnType<typeof setImmediate> | null = null;
  #offThread: OffThreadFunctions | null = null;
  #handOff: Promise<void> | null = null;
  #lastAsked = 0;
  #stopped = false;
  /** Calls into the kernel so far. */
  systemCalls = 0;
  /** None: the loop is not made to sleep. */
  readonly canPark = false;

  /**
   * Constructs a new instance.
   *
   * @param windows Windows.
   * @param callback Called in each turn, with whether sockets were asked about
   * before it.
   */
  constructor(windows: Windows, callback: (asked: boolean) => void) {
    this.#windows = windows;
    this.#callback = callback;
  }

  /** Whether the turn that is pending asks about sockets first. */
  get asks(): boolean {
    return this.#pending === "hand-off";
  }

  /** Asks for a turn, if none is pending. */
  request(): void {
    if (this.#pending !== "none" || this.#stopped) return;
    const isDue = performance.now() - this.#lastAsked >= HAND_OFF_AFTER_MS;
    if (isDue && this.#handOver()) return;
    this.#pending = "immediate";
    this.#immediate = setImmediate(() => {
      this.#immediate = null;
      this.#turn(false);
    });
  }

  #handOver(): boolean {
    if (this.#handOff !== null) return false;
    try {
      this.#offThread ??= this.#windows.openOffThread();
      this.systemCalls++;
      this.#handOff = this.#offThread.NtYieldExecution().then(() => {
        this.#handOff = null;
        this.#lastAsked = performance.now();
        if (this.#pending === "hand-off") this.#turn(true);
      });
    } catch {
      // FFI was given up with the disk open.
      return false;
    }
    this.#pending = "hand-off";
    return true;
  }

  #turn(asked: boolean): void {
    this.#pending = "none";
    if (!this.#stopped) this.#callback(asked);
  }

  /** Never called, as the loop cannot be parked. */
  park(): void {}

  /** Nothing is parked. */
  unpark(): void {}

  /** The loop is nowhere to be found. */
  findLoop(): LoopDescriptor | null {
    return null;
  }

  /** No turn comes from here on. */
  stop(): void {
    this.#stopped = true;
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#immediate = null;
    this.#pending = "none";
  }

  /** Gives everything back. */
  async close(): Promise<void> {
    this.stop();
    await this.#handOff;
    this.#offThread?.close();
    this.#offThread = null;
  }
}
