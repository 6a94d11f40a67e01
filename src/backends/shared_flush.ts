/**
 * One flush for all who ask at once, and none after one that failed.
 *
 * Whoever asks while a flush is under way shares the next one, as the one under
 * way may have begun before their write ended. There is one at a time: the kernel
 * tells of a failed write-back once (lib/errseq.c of Linux), so that of two
 * flushes at once one would hear of it. And once a flush failed, what is durable
 * is not known any more: the answer to another one may be a lie, so none is
 * asked for.
 *
 * @module
 */

import type { DiskError } from "../errors.ts";

/** Flushes of one descriptor. `T` is whoever waits for one. */
export class SharedFlush<T> {
  readonly #start: (first: T) => void;
  readonly #refuse: (waiter: T) => void;
  /** Who shares the flush that is under way. */
  #sharing: T[] | null = null;
  /** Who shares the next one. */
  #waiting: T[] = [];
  #failure: DiskError | null = null;

  /**
   * Constructs a new instance.
   *
   * @param start Starts a flush in the name of the first who shares it; its end
   * is told by {@linkcode SharedFlush.end}.
   * @param refuse Answers who waited while an earlier flush failed.
   */
  constructor(start: (first: T) => void, refuse: (waiter: T) => void) {
    this.#start = start;
    this.#refuse = refuse;
  }

  /** Why nothing is made durable any more; `null` if no flush failed. */
  get failure(): DiskError | null {
    return this.#failure;
  }

  /**
   * Whether others would lose the flush that is under way in somebody's name.
   *
   * @param first Who that is.
   * @returns Whether others share it.
   */
  isShared(first: T): boolean {
    return this.#sharing?.[0] === first && this.#sharing.length > 1;
  }

  /**
   * Asks for a flush.
   *
   * @param waiter Who asks.
   */
  join(waiter: T): void {
    this.#waiting.push(waiter);
    if (this.#sharing === null) this.#next();
  }

  /**
   * Ends the flush that is under way, and starts the next one.
   *
   * @param failure Why it failed; `null` if it did not.
   * @returns Who shared it, to be answered.
   */
  end(failure: DiskError | null): readonly T[] {
    const group = this.#sharing!;
    this.#sharing = null;
    this.#failure ??= failure;
    this.#next();
    return group;
  }

  /**
   * Ends a flush that never ran, as its first was given up. The others share the
   * next one.
   *
   * @returns The first, to be answered.
   */
  giveUp(): readonly T[] {
    const others = this.#sharing!;
    const first = others.splice(0, 1);
    this.#sharing = null;
    this.#waiting.unshift(...others);
    this.#next();
    return first;
  }

  #next(): void {
    const group = this.#waiting;
    if (group.length === 0) return;
    this.#waiting = [];
    if (this.#failure !== null) {
      for (const waiter of group) this.#refuse(waiter);
      return;
    }
    this.#sharing = group;
    this.#start(group[0]!);
  }
}
