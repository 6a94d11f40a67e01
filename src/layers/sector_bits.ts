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
  readonly #words: Uint32Array;

  /** @param sectors Sectors of the disk. */
  constructor(sectors: number) {
    this.#sectors = sectors;
    this.grainSectors = grainOf(sectors);
    this.#words = new Uint32Array(wordsOf(sectors));
  }

  /** Takes sectors in; what is beyond the disk is left out. */
  set(sector: number, count: number): void {
    const words = this.#words;
    const grain = this.grainSectors;
    const end = Math.min(sector + count, this.#sectors);
    if (!(sector >= 0 && sector < end)) return;
    // There are fewer than 2^31 grains: integers do.
    let bit = Math.floor(sector / grain) | 0;
    const last = Math.ceil(end / grain) | 0;
    while (bit < last) {
      const next = Math.min(last, (bit | 31) + 1);
      words[bit >>> 5]! |= maskOf(bit & 31, next - bit);
      bit = next;
    }
  }

  /** How many of some sectors are in, in whole grains. */
  countIn(sector: number, count: number): number {
    const words = this.#words;
    const grain = this.grainSectors;
    let bits = 0;
    let bit = Math.floor(sector / grain);
    const last = Math.ceil((sector + count) / grain);
    while (bit < last) {
      const next = Math.min(last, (bit | 31) + 1);
      bits += bitsOf(words[bit >>> 5]! & maskOf(bit & 31, next - bit));
      bit = next;
    }
    return bits * grain;
  }
}

/** What a flush has taken along: words by their index. */
type Taken = Map<number, number>;

/** Sectors that were written and that no flush has covered. */
export class UnflushedSectors {
  readonly #sectors: number;
  readonly #grainSectors: number;
  readonly #words: Uint32Array;
  /** Words that have a bit. */
  #used: number[] = [];
  /** What flushes in flight have taken, by the flush. */
  readonly #taken = new Map<object, Taken>();

  /** @param sectors Sectors of the disk. */
  constructor(sectors: number) {
    this.#sectors = sectors;
    this.#grainSectors = grainOf(sectors);
    this.#words = new Uint32Array(wordsOf(sectors));
  }

  /** Takes in what was written; what is beyond the disk is left out. */
  add(sector: number, count: number): void {
    const words = this.#words;
    const grain = this.#grainSectors;
    const end = Math.min(sector + count, this.#sectors);
    if (!(sector >= 0 && sector < end)) return;
    let bit = Math.floor(sector / grain) | 0;
    const last = Math.ceil(end / grain) | 0;
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
    const grain = this.#grainSectors;
    const first = Math.floor(sector / grain);
    const end = Math.ceil((sector + count) / grain);
    let bits = 0;
    for (const [index, word] of all) {
      const from = Math.max(0, first - index * 32);
      const to = Math.min(32, end - index * 32);
      if (from < to) bits += bitsOf(word & maskOf(from, to - from));
    }
    return bits * grain;
  }

  #put(index: number, word: number, mask: number): void {
    if (word === 0) this.#used.push(index);
    this.#words[index] = word | mask;
  }
}

function grainOf(sectors: number): number {
  let grain = 1;
  while (sectors / grain > MAX_BITS) grain *= 2;
  return grain;
}

function wordsOf(sectors: number): number {
  return Math.ceil(sectors / grainOf(sectors) / 32);
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
