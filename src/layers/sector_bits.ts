/**
 * A bit for each sector of a disk, in memory that is bounded: beyond
 * {@linkcode MAX_BITS} sectors a bit stands for several, a grain of them.
 *
 * @module
 */

/** Bits that there are at most: 8 MiB of them, sectors of 32 GiB. */
const MAX_BITS = 2 ** 26;

/** Sectors that were seen. */
export class SectorBits {
  /** Sectors of a grain, a power of two. */
  readonly grainSectors: number;
  readonly #sectors: number;
  readonly #grainBits: number;
  readonly #words: Int32Array;

  /** @param sectors Sectors of the disk. */
  constructor(sectors: number) {
    this.#sectors = sectors;
    this.#grainBits = grainBitsOf(sectors);
    this.grainSectors = 2 ** this.#grainBits;
    this.#words = new Int32Array(wordsOf(sectors));
  }

  /** Takes sectors in; what is beyond the disk is left out. */
  set(sector: number, count: number): void {
    const words = this.#words;
    const end = Math.min(sector + count, this.#sectors);
    if (!(sector >= 0 && sector < end)) return;
    let bit = grainAt(sector, this.#grainBits);
    const last = grainAt(end - 1, this.#grainBits) + 1;
    while (bit < last) {
      const next = Math.min(last, (bit | 31) + 1);
      words[bit >>> 5]! |= maskOf(bit & 31, next - bit);
      bit = next;
    }
  }

  /** How many of some sectors are in, in whole grains. */
  countIn(sector: number, count: number): number {
    const words = this.#words;
    if (count === 0) return 0;
    let bits = 0;
    let bit = grainAt(sector, this.#grainBits);
    const last = grainAt(sector + count - 1, this.#grainBits) + 1;
    while (bit < last) {
      const next = Math.min(last, (bit | 31) + 1);
      bits += bitsOf(words[bit >>> 5]! & maskOf(bit & 31, next - bit));
      bit = next;
    }
    return bits * this.grainSectors;
  }
}

/** What a flush has taken along: words by their index. */
type Taken = Map<number, number>;

/** Sectors that were written and that no flush has covered. */
export class UnflushedSectors {
  readonly #sectors: number;
  readonly #grainBits: number;
  readonly #words: Int32Array;
  /** Words that have a bit. */
  #used: number[] = [];
  /** What flushes in flight have taken, by the flush. */
  readonly #taken = new Map<object, Taken>();

  /** @param sectors Sectors of the disk. */
  constructor(sectors: number) {
    this.#sectors = sectors;
    this.#grainBits = grainBitsOf(sectors);
    this.#words = new Int32Array(wordsOf(sectors));
  }

  /** Takes in what was written; what is beyond the disk is left out. */
  add(sector: number, count: number): void {
    const words = this.#words;
    const end = Math.min(sector + count, this.#sectors);
    if (!(sector >= 0 && sector < end)) return;
    let bit = grainAt(sector, this.#grainBits);
    const last = grainAt(end - 1, this.#grainBits) + 1;
    while (bit < last) {
      const next = Math.min(last, (bit | 31) + 1);
      this.#put(bit >>> 5, words[bit >>> 5]!, maskOf(bit & 31, next - bit));
      bit = next;
    }
  }

  /** A flush begins, which covers all that there is. */
  take(flush: object): void {
    const taken: Taken = new Map();
    for (const index of this.#used) {
      taken.set(index, this.#words[index]!);
      this.#words[index] = 0;
    }
    this.#used = [];
    this.#taken.set(flush, taken);
  }

  /** A flush has ended; if it failed it has covered nothing. */
  flushed(flush: object, done: boolean): void {
    const taken = this.#taken.get(flush);
    this.#taken.delete(flush);
    if (done || taken === undefined) return;
    for (const [index, mask] of taken) {
      this.#put(index, this.#words[index]!, mask);
    }
  }

  /** How many of some sectors are in, in whole grains. */
  countIn(sector: number, count: number): number {
    const all = new Map<number, number>();
    for (const index of this.#used) all.set(index, this.#words[index]!);
    for (const taken of this.#taken.values()) {
      for (const [index, mask] of taken) {
        all.set(index, (all.get(index) ?? 0) | mask);
      }
    }
    const first = grainAt(sector, this.#grainBits);
    const end = count === 0
      ? first
      : grainAt(sector + count - 1, this.#grainBits) + 1;
    let bits = 0;
    for (const [index, word] of all) {
      const from = Math.max(0, first - index * 32);
      const to = Math.min(32, end - index * 32);
      if (from < to) bits += bitsOf(word & maskOf(from, to - from));
    }
    return bits * 2 ** this.#grainBits;
  }

  #put(index: number, word: number, mask: number): void {
    if (word === 0) this.#used.push(index);
    this.#words[index] = word | mask;
  }
}

/** The sectors of a grain, as a power of two. */
function grainBitsOf(sectors: number): number {
  let bits = 0;
  while (sectors / 2 ** bits > MAX_BITS) bits++;
  return bits;
}

function wordsOf(sectors: number): number {
  return Math.ceil(sectors / 2 ** grainBitsOf(sectors) / 32);
}

/** Which grain a sector is in: a shift, which costs little, where it can be one. */
function grainAt(sector: number, bits: number): number {
  return sector < 2 ** 31 ? sector >> bits : Math.floor(sector / 2 ** bits);
}

/** Some bits of a word from one on. */
function maskOf(from: number, count: number): number {
  return count === 32 ? -1 : ((1 << count) - 1) << from;
}

/** How many bits of a word are set (Hacker's Delight, 2nd edition, figure 5-2). */
function bitsOf(word: number): number {
  word -= (word >>> 1) & 0x5555_5555;
  word = (word & 0x3333_3333) + ((word >>> 2) & 0x3333_3333);
  word = (word + (word >>> 4)) & 0x0f0f_0f0f;
  return Math.imul(word, 0x0101_0101) >>> 24;
}
