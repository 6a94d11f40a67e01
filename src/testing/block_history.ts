/**
 * What becomes durable of each block of a recording, and when: 12 bytes for each
 * time, as there may be millions.
 *
 * @module
 */

import { BlockTable } from "./block_table.ts";
import { Int32List } from "./int32_list.ts";

/** The versions of blocks that become durable, each after the one before. */
export class BlockHistory {
  /** Blocks by number of their own, in the order of becoming durable. */
  readonly #numbers = new BlockTable();
  readonly #counts = new Int32List();
  /** What became durable: of which block, and which version. */
  readonly #blocks = new Int32List();
  readonly #ids = new Int32List();
  /** By block: the last version that is durable. */
  readonly #last = new Int32List();
  /** Versions in the order of blocks, and where those of a block begin. */
  #sorted: { readonly ids: Int32Array; readonly starts: Int32Array } | null =
    null;

  /**
   * Adds what becomes durable.
   *
   * @param block The block.
   * @param id The version.
   */
  add(block: number, id: number): void {
    let number = this.#numbers.get(block);
    if (number < 0) {
      number = this.#counts.length;
      this.#numbers.set(block, number);
      this.#counts.push(0);
      this.#last.push(0);
    }
    this.#counts.set(number, this.#counts.at(number) + 1);
    this.#last.set(number, id);
    this.#blocks.push(number);
    this.#ids.push(id);
  }

  /**
   * What was added last of a block.
   *
   * @param block The block.
   * @returns The version; -1 if there is none.
   */
  last(block: number): number {
    const number = this.#numbers.get(block);
    return number < 0 ? -1 : this.#last.at(number);
  }

  /**
   * What is durable of a block, when nothing is added any more.
   *
   * @param block The block.
   * @param isDurable Whether a version is durable: none after one that is not.
   * @returns The version; -1 if none of what was added is.
   */
  find(block: number, isDurable: (id: number) => boolean): number {
    const number = this.#numbers.get(block);
    if (number < 0) return -1;
    const { ids, starts } = this.#sorted ??= this.#sort();
    let [low, high] = [starts[number]!, starts[number + 1]!];
    const start = low;
    while (low < high) {
      const middle = low + high >>> 1;
      if (isDurable(ids[middle]!)) low = middle + 1;
      else high = middle;
    }
    return low === start ? -1 : ids[low - 1]!;
  }

  #sort(): { ids: Int32Array; starts: Int32Array } {
    const count = this.#counts.length;
    const starts = new Int32Array(count + 1);
    for (let i = 0; i < count; i++) {
      starts[i + 1] = starts[i]! + this.#counts.at(i);
    }
    const next = starts.slice();
    const ids = new Int32Array(this.#ids.length);
    for (let i = 0; i < ids.length; i++) {
      ids[next[this.#blocks.at(i)]!++] = this.#ids.at(i);
    }
    return { ids, starts };
  }
}

/**
 * How many of a sorted list are up to a number.
 *
 * @param list The list.
 * @param most The number.
 * @param valueOf The number of one of the list.
 * @returns How many.
 */
export function countUpTo<T>(
  list: readonly T[],
  most: number,
  valueOf: (one: T) => number,
): number {
  let [low, high] = [0, list.length];
  // What is asked for is often the last one.
  if (high > 0 && valueOf(list[high - 1]!) <= most) return high;
  while (low < high) {
    const middle = low + high >>> 1;
    if (valueOf(list[middle]!) <= most) low = middle + 1;
    else high = middle;
  }
  return low;
}
