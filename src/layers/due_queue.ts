/**
 * A timer queue with a precision of microseconds: a call that is due in more than
 * a few milliseconds waits for a timer, the rest is polled for from turn to turn
 * of the event loop, as a timer is no better than a millisecond.
 *
 * @module
 */

import { clearImmediate, setImmediate } from "node:timers";
import { sleepSync } from "../sleep_sync.ts";
import { MOST_TIMER_MS } from "../timer_ms.ts";

/** The last stretch before a call, in ms, in which a timer would be too late. */
const POLL_MS = 2;

/**
 * Stops this thread until a moment: what a slow disk does to a caller that waits
 * for it.
 *
 * @param dueMs When, by `performance.now()`.
 */
export function sleepUntil(dueMs: number): void {
  for (;;) {
    const leftMs = dueMs - performance.now();
    if (leftMs <= 0) return;
    sleepSync(leftMs);
  }
}

interface Call {
  readonly dueMs: number;
  readonly run: () => void;
}

/** Deferred calls, run when they are due. */
export class DueQueue {
  /** In the order in which they are due; those due at once as they came. */
  readonly #calls: Call[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #immediate: ReturnType<typeof setImmediate> | undefined;
  #wakeMs = Infinity;

  /**
   * Defers a call.
   *
   * @param dueMs When, by `performance.now()`.
   * @param run The call.
   * @returns What {@linkcode expedite} takes.
   */
  add(dueMs: number, run: () => void): object {
    const call = { dueMs, run };
    let at = this.#calls.length;
    while (at > 0 && this.#calls[at - 1]!.dueMs > dueMs) at--;
    this.#calls.splice(at, 0, call);
    if (at === 0) this.#arm();
    return call;
  }

  /**
   * Runs a deferred call now.
   *
   * @param call What {@linkcode add} returned.
   */
  expedite(call: object): void {
    const at = this.#calls.indexOf(call as Call);
    if (at < 0) return;
    const [found] = this.#calls.splice(at, 1);
    if (this.#calls.length === 0) this.#disarm();
    found!.run();
  }

  #arm(): void {
    const dueMs = this.#calls[0]!.dueMs;
    const waitMs = dueMs - performance.now();
    if (waitMs <= POLL_MS) {
      this.#immediate ??= setImmediate(this.#wake);
    } else if (this.#immediate === undefined && dueMs < this.#wakeMs) {
      clearTimeout(this.#timer);
      this.#wakeMs = dueMs;
      // One that wakes up before its time goes on waiting.
      const ms = Math.min(Math.floor(waitMs - POLL_MS / 2), MOST_TIMER_MS);
      this.#timer = setTimeout(this.#wake, ms);
    }
  }

  #disarm(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
    this.#timer = undefined;
    this.#immediate = undefined;
    this.#wakeMs = Infinity;
  }

  readonly #wake = (): void => {
    this.#disarm();
    const now = performance.now();
    const due: Call[] = [];
    while (this.#calls.length > 0 && this.#calls[0]!.dueMs <= now) {
      due.push(this.#calls.shift()!);
    }
    if (this.#calls.length > 0) this.#arm();
    for (const call of due) call.run();
  };
}
