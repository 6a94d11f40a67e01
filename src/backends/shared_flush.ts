/**
 * One flush for all that ask at once, and none after one that failed.
 *
 * What asks while a flush is in flight shares the next one, as the one in flight
 * may have begun before its write ended. There is one at a time: the kernel
 * reports a failed write-back once (lib/errseq.c of Linux), so that of two flushes
 * at once one would get it. And once a flush failed, what is durable
 * is not known any more: the answer to another one may be a lie, so none is
 * asked for. One that is not to be had has cost nothing.
 *
 * @module
 */

import type { DiskError } from "../errors.ts";
import { costsDurability } from "../request_error.ts";

/** Who is to be answered after a flush. They are for the owner to answer. */
export interface FlushEnd<T> {
  /** Those who shared it. */
  readonly group: readonly T[];
  /** Those who waited for the next one, which there will not be. */
  readonly refused: readonly T[];
}

/** Flushes of one descriptor. `T` is what waits for one. */
export class SharedFlush<T> {
  readonly #start: (first: T) => void;
  /** Who shares the flush in flight. */
  #sharing: T[] | null = null;
  /** Who shares the next one. */
  #waiting: T[] = [];
  #failure: DiskError | null = null;

  /**
   * Constructs a new instance.
   *
   * @param start Starts a flush in the name of the first who shares it; its end
   * is reported by {@linkcode SharedFlush.end}.
   */
  constructor(start: (first: T) => void) {
    this.#start = start;
  }

  /** Why nothing is made durable any more; `null` if no flush failed. */
  get failure(): DiskError | null {
    return this.#failure;
  }

  /**
   * Asks for a flush.
   *
   * @param waiter Who asks.
   * @returns Whether it is waited for; not after a flush that failed.
   */
  join(waiter: T): boolean {
    if (this.#failure !== null) return false;
    this.#waiting.push(waiter);
    if (this.#sharing === null) this.#next();
    return true;
  }

  /**
   * Ends the flush in flight, and starts the next one.
   *
   * @param failure Why it failed; `null` if it did not.
   * @returns Who is to be answered.
   */
  end(failure: DiskError | null): FlushEnd<T> {
    const group = this.#sharing!;
    this.#sharing = null;
    if (failure !== null && costsDurability(failure)) this.#failure ??= failure;
    const refused = this.#failure === null ? [] : this.#waiting.splice(0);
    this.#next();
    return { group, refused };
  }

  #next(): void {
    const group = this.#waiting;
    if (group.length === 0) return;
    this.#waiting = [];
    this.#sharing = group;
    this.#start(group[0]!);
  }
}
