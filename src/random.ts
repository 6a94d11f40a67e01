/**
 * Random numbers that a seed repeats, on every platform and for ever: faults,
 * crashes and fuzzers draw from these, so that a printed seed is all that it
 * takes to see a failure again.
 *
 * The algorithm is sfc32 (Chris Doty-Humphrey, PractRand): 128 bits of state, a
 * counter in it so that no state repeats within 2^32 steps. It starts with
 * `a = 0`, `b` = the seed's low 32 bits, `c` = the rest, `counter = 1`, and 16
 * steps whose results are dropped; `tests/random_test.ts` holds it to reference
 * vectors. It is not for secrets.
 *
 * Probabilities are ratios of integers, as 0.1 is none that a float can hold.
 *
 * @module
 */

/** A probability: `numerator` times out of `denominator`. */
export interface Ratio {
  /** An integer from 0 to the denominator. */
  readonly numerator: number;
  /** An integer from 1 to 2^32. */
  readonly denominator: number;
}

/** Steps until the seed has reached every bit. */
const MIXING_STEPS = 16;

/**
 * A sequence of random numbers that its seed repeats.
 *
 * @example
 * ```ts
 * import { Random } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const random = new Random(7);
 * const again = new Random(random.seed);
 * assertEquals(random.below(1000), again.below(1000));
 * assertEquals(random.fork().bytes(4), again.fork().bytes(4));
 * ```
 */
export class Random {
  /** The seed, to print when something fails. */
  readonly seed: number;
  #a = 0;
  #b: number;
  #c: number;
  #counter = 1;

  /**
   * Constructs a new instance.
   *
   * @param seed A safe integer ≥ 0.
   * @throws {RangeError} If it is not.
   */
  constructor(seed: number) {
    if (!Number.isSafeInteger(seed) || seed < 0) {
      throw new RangeError(
        `Cannot use a seed as it must be a safe integer ≥ 0: current value is ${seed}`,
      );
    }
    this.seed = seed;
    this.#b = seed | 0;
    this.#c = (seed / 2 ** 32) | 0;
    for (let i = 0; i < MIXING_STEPS; i++) this.next();
  }

  /**
   * The next number.
   *
   * @returns An integer from 0 to 2^32 - 1.
   */
  next(): number {
    const b = this.#b;
    const c = this.#c;
    const result = (this.#a + b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = b ^ (b >>> 9);
    this.#b = (c + (c << 3)) | 0;
    this.#c = (((c << 21) | (c >>> 11)) + result) | 0;
    return result >>> 0;
  }

  /**
   * An integer below another one, each as likely as the others.
   *
   * @param end An integer from 1 to 2^53.
   * @returns An integer from 0 to `end - 1`.
   * @throws {RangeError} If `end` is out of its range.
   */
  below(end: number): number {
    if (!Number.isInteger(end) || end < 1 || end > 2 ** 53) {
      throw new RangeError(
        `Cannot draw a number as the end must be an integer from 1 to 2^53: current value is ${end}`,
      );
    }
    if (end <= 2 ** 30 && (end & (end - 1)) === 0) {
      // Powers of two divide 2^32: integers of 32 bits are all that it takes.
      return this.next() & (end - 1);
    }
    if (end <= 2 ** 32) {
      for (;;) {
        const value = this.next();
        // What lies beyond the last multiple of `end` would favour the small
        // ones. It is less than `end`: the multiple is rarely looked for.
        if (value <= 2 ** 32 - end || value < 2 ** 32 - 2 ** 32 % end) {
          return value % end;
        }
      }
    }
    const limit = 2 ** 53 - 2 ** 53 % end;
    for (;;) {
      const value = (this.next() >>> 11) * 2 ** 32 + this.next();
      if (value < limit) return value % end;
    }
  }

  /**
   * An integer of a range.
   *
   * @param first The smallest, an integer.
   * @param last The largest, an integer.
   * @returns An integer from `first` to `last`.
   * @throws {RangeError} If the range is empty.
   */
  between(first: number, last: number): number {
    return first + this.below(last - first + 1);
  }

  /**
   * Whether something happens that does so in some cases out of some.
   *
   * @param numerator How many cases: an integer ≥ 0.
   * @param denominator Out of how many: an integer from 1 to 2^32.
   * @returns Whether it happens.
   * @throws {RangeError} If the denominator is out of its range.
   */
  chance(numerator: number, denominator: number): boolean {
    return this.below(denominator) < numerator;
  }

  /**
   * One of some values.
   *
   * @param values At least one.
   * @returns One of them.
   * @throws {RangeError} If there are none.
   */
  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!;
  }

  /**
   * Puts values into another order, in place.
   *
   * @param values The values.
   * @returns The same array.
   */
  shuffle<T>(values: T[]): T[] {
    for (let i = values.length - 1; i > 0; i--) {
      const k = this.below(i + 1);
      [values[i], values[k]] = [values[k]!, values[i]!];
    }
    return values;
  }

  /**
   * Fills memory with random bytes.
   *
   * @param target The memory.
   * @returns The same memory.
   */
  fill<T extends Uint8Array>(target: T): T {
    let i = 0;
    for (; i + 4 <= target.length; i += 4) {
      const value = this.next();
      target[i] = value;
      target[i + 1] = value >>> 8;
      target[i + 2] = value >>> 16;
      target[i + 3] = value >>> 24;
    }
    if (i < target.length) {
      for (let rest = this.next(); i < target.length; i++, rest >>>= 8) {
        target[i] = rest;
      }
    }
    return target;
  }

  /**
   * New memory of random bytes.
   *
   * @param byteLength Bytes.
   * @returns The memory.
   */
  bytes(byteLength: number): Uint8Array<ArrayBuffer> {
    return this.fill(new Uint8Array(byteLength));
  }

  /**
   * Starts another sequence, which has nothing to do with the rest of this one:
   * give each part of a program its own, and a change to one of them leaves the
   * others as they were.
   *
   * @returns The sequence; its own seed repeats it.
   */
  fork(): Random {
    return new Random((this.next() >>> 11) * 2 ** 32 + this.next());
  }
}
