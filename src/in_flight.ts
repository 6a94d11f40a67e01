/**
 * The life cycle of a backend: counts requests in flight, says whether more may
 * enter, and once it is closed waits for the last completion before its owner
 * releases what it holds.
 *
 * @module
 */

import type { Complete } from "./backend.ts";
import type { DiskError } from "./errors.ts";
import type { Request } from "./request.ts";
import { throwLater } from "./throw_later.ts";

/** The requests in flight of one backend, until it is closed. */
export class InFlight {
  #count = 0;
  /** Answers that are being given, one inside of the other. */
  #answering = 0;
  #closing: Promise<void> | null = null;
  #drained: (() => void) | null = null;

  /** How many requests are in flight. */
  get count(): number {
    return this.#count;
  }

  /** Whether nothing is in flight, nor being answered just now. */
  get idle(): boolean {
    return this.#count === 0 && this.#answering === 0;
  }

  /** Whether it is closed or closing: nothing more may enter. */
  get closed(): boolean {
    return this.#closing !== null;
  }

  /** Counts requests that {@linkcode InFlight.answer} will complete. */
  enter(count: number): void {
    this.#count += count;
  }

  /**
   * Completes a request; never throws. It is not counted any more when `complete`
   * is called, which may read the count, close, or throw.
   *
   * @param request The request.
   * @param error Why it failed; `null` if it did not.
   * @param complete The callback.
   */
  answer(request: Request, error: DiskError | null, complete: Complete): void {
    this.#count--;
    this.#answering++;
    // `answerRequest`, written out: V8 inlines what one place in the code always
    // calls, and that function is called for every backend and layer alike.
    try {
      complete(request, error);
    } catch (thrown) {
      throwLater(thrown);
    }
    this.#answering--;
    if (this.#count === 0) this.#drained?.();
  }

  /**
   * Drains what is in flight, then releases. Idempotent: later calls return the
   * promise of the first.
   *
   * @param release Releases what is held.
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
