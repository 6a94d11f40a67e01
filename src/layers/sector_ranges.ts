/**
 * A set of sectors as ranges in order: cheap for few ranges, however long.
 *
 * @module
 */

import type { SectorRange } from "../geometry.ts";

/** A set of sectors. */
export class SectorRanges {
  /** Where each range starts, and the sector after its last, in order. */
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];

  /** Whether there is none. */
  get empty(): boolean {
    return this.#starts.length === 0;
  }

  /** Takes sectors in. */
  add(sector: number, count: number): void {
    let start = sector;
    let end = sector + count;
    // Every range that overlaps or adjoins becomes part of the new one.
    const from = this.#after(start - 1);
    let to = from;
    while (to < this.#starts.length && this.#starts[to]! <= end) to++;
    if (to > from) {
      start = Math.min(start, this.#starts[from]!);
      end = Math.max(end, this.#ends[to - 1]!);
    }
    this.#starts.splice(from, to - from, start);
    this.#ends.splice(from, to - from, end);
  }

  /** Drops sectors. */
  remove(sector: number, count: number): void {
    const end = sector + count;
    const from = this.#after(sector);
    let to = from;
    while (to < this.#starts.length && this.#starts[to]! < end) to++;
    if (to === from) return;
    const starts: number[] = [];
    const ends: number[] = [];
    const first = this.#starts[from]!;
    const last = this.#ends[to - 1]!;
    if (first < sector) {
      starts.push(first);
      ends.push(sector);
    }
    if (last > end) {
      starts.push(end);
      ends.push(last);
    }
    this.#starts.splice(from, to - from, ...starts);
    this.#ends.splice(from, to - from, ...ends);
  }

  /** Drops all. */
  clear(): void {
    this.#starts.length = 0;
    this.#ends.length = 0;
  }

  /** The first sector of a range that is in the set; `undefined` if none is. */
  first(sector: number, count: number): number | undefined {
    const i = this.#after(sector);
    if (i === this.#starts.length || this.#starts[i]! >= sector + count) {
      return undefined;
    }
    return Math.max(sector, this.#starts[i]!);
  }

  /** A bit for each of up to 30 sectors, lowest first: whether it is in. */
  mask(sector: number, count: number): number {
    let mask = 0;
    for (
      let i = this.#after(sector);
      i < this.#starts.length && this.#starts[i]! < sector + count;
      i++
    ) {
      const from = Math.max(this.#starts[i]! - sector, 0);
      const to = Math.min(this.#ends[i]! - sector, count);
      mask |= ((1 << (to - from)) - 1) << from;
    }
    return mask;
  }

  /** The part of the set that lies in a range, in order; the first of it. */
  within(sector: number, count: number, most = Infinity): SectorRange[] {
    const found: SectorRange[] = [];
    const end = sector + count;
    for (
      let i = this.#after(sector);
      i < this.#starts.length && this.#starts[i]! < end && found.length < most;
      i++
    ) {
      const start = Math.max(sector, this.#starts[i]!);
      found.push({
        sector: start,
        count: Math.min(end, this.#ends[i]!) - start,
      });
    }
    return found;
  }

  /** The index of the first range that ends after a sector. */
  #after(sector: number): number {
    let low = 0;
    let high = this.#ends.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#ends[middle]! > sector) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
