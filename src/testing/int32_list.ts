/**
 * A list of integers of 32 bits, 4 bytes each: what there is millions of in a
 * recording is kept in these, not in objects.
 *
 * @module
 */

const FIRST_CAPACITY = 16;

/** Integers of a page: a power of two. Only the first page grows to it. */
const PAGE_BITS = 16;
const PAGE = 1 << PAGE_BITS;

/** A list that grows. */
export class Int32List {
  /** How many there are. */
  length = 0;
  readonly #pages: Int32Array<ArrayBuffer>[] = [new Int32Array(FIRST_CAPACITY)];
  #last: Int32Array<ArrayBuffer> = this.#pages[0]!;

  /**
   * Appends one.
   *
   * @param value The integer.
   */
  push(value: number): void {
    const at = this.length++ & (PAGE - 1);
    if (at === 0 && this.length > 1) {
      this.#last = new Int32Array(PAGE);
      this.#pages.push(this.#last);
    } else if (at === this.#last.length) {
      const grown = new Int32Array(at * 2);
      grown.set(this.#last);
      this.#last = this.#pages[0] = grown;
    }
    this.#last[at] = value;
  }

  /**
   * Gets one.
   *
   * @param index Its index, below `length`.
   * @returns The integer.
   */
  at(index: number): number {
    return this.#pages[index >>> PAGE_BITS]![index & (PAGE - 1)]!;
  }

  /**
   * Changes one.
   *
   * @param index Its index, below `length`.
   * @param value The integer.
   */
  set(index: number, value: number): void {
    this.#pages[index >>> PAGE_BITS]![index & (PAGE - 1)] = value;
  }
}
