/**
 * Which states were visited, by hashes of 64 bits, in bounded memory: beyond
 * a million of them, new ones replace old ones, and a state may be visited
 * twice.
 *
 * @module
 */

import { scramble } from "./hash.ts";

const FIRST_SLOTS = 1 << 10;
const MOST_SLOTS = 1 << 21;

/** A set of hashes. */
export class Visited {
  /** Two words by slot; both 0 where it is free. */
  #slots = new Int32Array(FIRST_SLOTS * 2);
  #size = 0;

  /** How many were added and are new, as far as it is known. */
  get size(): number {
    return this.#size;
  }

  /**
   * Whether a hash was added, as far as it is known.
   *
   * @param high One half.
   * @param low The other half.
   * @returns Whether it was; if it is not known any more, it was not.
   */
  has(high: number, low: number): boolean {
    if (high === 0 && low === 0) low = 1;
    const slots = this.#slots;
    const mask = slots.length / 2 - 1;
    let slot = scramble(high | 0, low | 0) & mask;
    for (let tries = 0; tries < 64; tries++) {
      const at = slot * 2;
      if (slots[at] === (high | 0) && slots[at + 1] === (low | 0)) return true;
      if (slots[at] === 0 && slots[at + 1] === 0) return false;
      slot = (slot + 1) & mask;
    }
    return false;
  }

  /**
   * Adds a hash.
   *
   * @param high One half.
   * @param low The other half.
   * @returns Whether it is new.
   */
  add(high: number, low: number): boolean {
    if (high === 0 && low === 0) low = 1;
    const count = this.#slots.length / 2;
    if (this.#size * 2 >= count && count < MOST_SLOTS) this.#grow();
    const added = this.#insert(high | 0, low | 0);
    if (added) this.#size++;
    return added;
  }

  #insert(high: number, low: number): boolean {
    const slots = this.#slots;
    const mask = slots.length / 2 - 1;
    let slot = scramble(high, low) & mask;
    for (let tries = 0; tries < 64; tries++) {
      const at = slot * 2;
      if (slots[at] === high && slots[at + 1] === low) return false;
      if (slots[at] === 0 && slots[at + 1] === 0) {
        slots[at] = high;
        slots[at + 1] = low;
        return true;
      }
      slot = (slot + 1) & mask;
    }
    const at = (scramble(high, low) & mask) * 2;
    slots[at] = high;
    slots[at + 1] = low;
    return true;
  }

  #grow(): void {
    const old = this.#slots;
    this.#slots = new Int32Array(old.length * 2);
    for (let at = 0; at < old.length; at += 2) {
      if (old[at] !== 0 || old[at + 1] !== 0) {
        this.#insert(old[at]!, old[at + 1]!);
      }
    }
  }
}
