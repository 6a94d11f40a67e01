/**
 * A list of integers of 32 bits, 4 bytes each: what there is millions of in a
 * recording is kept in these, not in objects.
 *
 * @module
 */

const FIRST_CAPACITY = 16;

/** A list that grows. */
export class Int32List {
  /** How many there are. */
  length = 0;
  #values = new Int32Array(FIRST_CAPACITY);

  /**
   * Appends one.
   *
   * @param value The integer.
   */
  push(value: number): void {
    if (this.length === this.#values.length) {
      const values = new Int32Array(this.length * 3 / 2);
      values.set(this.#values);
      this.#values = values;
    }
    this.#values[this.length++] = value;
  }

  /**
   * Changes one.
   *
   * @param index Its index, below `length`.
   * @param value The integer.
   */
  set(index: number, value: number): void {
    this.#values[index] = value;
  }

  /**
   * Gets one.
   *
   * @param index Its index, below `length`.
   * @returns The integer.
   */
  at(index: number): number {
    return this.#values[index]!;
  }
}
