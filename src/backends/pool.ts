/**
 * Things that are made as they are needed, each used by one at a time, and kept
 * for the next: bounce buffers, descriptors. Takers that find none wait in turn.
 *
 * @module
 */

/** Things of one kind. */
export class Pool<T> {
  readonly #make: (index: number) => T | null;
  readonly #free: T[];
  readonly #waiting: ((item: T) => void)[] = [];
  #made: number;
  #max: number;

  /**
   * Constructs a new instance.
   *
   * @param make Makes another one, told how many there are; `null` if there can
   * be no more. What it throws costs none.
   * @param max How many there may be.
   * @param first Those that there are.
   */
  constructor(
    make: (index: number) => T | null,
    max: number,
    first: readonly T[] = [],
  ) {
    this.#make = make;
    this.#max = max;
    this.#free = [...first];
    this.#made = first.length;
  }

  /**
   * Lends one.
   *
   * @param granted Called with it, maybe at once.
   * @throws What making one threw; then it was not called, and never will be.
   */
  take(granted: (item: T) => void): void {
    // Last in, first out: what the processor's cache still has.
    const item = this.#free.pop() ?? this.#makeOne();
    if (item === null) this.#waiting.push(granted);
    else granted(item);
  }

  /**
   * Takes one back.
   *
   * @param item The one.
   */
  give(item: T): void {
    if (this.#waiting.length === 0) this.#free.push(item);
    else this.#waiting.shift()!(item);
  }

  /** Lends nothing any more: who asks waits. */
  close(): void {
    this.#free.length = 0;
    this.#max = 0;
  }

  #makeOne(): T | null {
    if (this.#made >= this.#max) return null;
    const item = this.#make(this.#made);
    if (item === null) this.#max = this.#made;
    else this.#made++;
    return item;
  }
}
