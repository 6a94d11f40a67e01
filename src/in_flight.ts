/**
 * The life of whoever carries out requests: it counts what is in flight, takes
 * nothing more once it is closed, and lets go of what it holds when the last one
 * has been answered.
 *
 * @module
 */

import type { Complete } from "./backend.ts";
import type { DiskError } from "./errors.ts";
import type { Request } from "./request.ts";

/** What is in flight, until the end. */
export class InFlight {
  #count = 0;
  #closing: Promise<void> | null = null;
  #drained: (() => void) | null = null;

  /** How many requests are not answered yet. */
  get count(): number {
    return this.#count;
  }

  /** Whether it is closed or closing: nothing more may enter. */
  get closed(): boolean {
    return this.#closing !== null;
  }

  /** Counts requests that will be answered by {@linkcode InFlight.answer}. */
  enter(count: number): void {
    this.#count += count;
  }

  /**
   * Answers a request. It is not counted any more when that is heard, as whoever
   * is told may look, or close; and it may throw.
   *
   * @param request The request.
   * @param error Why it failed; `null` if it did not.
   * @param complete Who is told.
   */
  answer(request: Request, error: DiskError | null, complete: Complete): void {
    this.#count--;
    try {
      complete(request, error);
    } finally {
      if (this.#count === 0) this.#drained?.();
    }
  }

  /**
   * Waits for what is in flight, then lets go. The first call counts.
   *
   * @param release Lets go of what is held.
   * @returns When it is done.
   */
  close(release: () => Promise<void>): Promise<void> {
    return this.#closing ??= this.#close(release);
  }

  async #close(release: () => Promise<void>): Promise<void> {
    if (this.#count > 0) {
      await new Promise<void>((resolve) => this.#drained = resolve);
    }
    await release();
  }
}
