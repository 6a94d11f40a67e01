/**
 * Damage of the medium: sectors that cannot be read, and bits that read flipped,
 * both until they are rewritten. What was written stays pristine below; damage
 * is kept apart from it, so that it can be healed.
 *
 * | damage | what it models | where it was seen |
 * | --- | --- | --- |
 * | bad sectors | latent sector errors: EIO until the drive remaps on the next write | 3.45 % of 1.53 million drives within 32 months (Bairavasundaram et al., "An Analysis of Latent Sector Errors in Disk Drives", SIGMETRICS 2007) |
 * | flips that stay | bits that rot, or are written wrongly | 400,000 checksum mismatches on 1.53 million drives in 41 months (Bairavasundaram et al., "An Analysis of Data Corruption in the Storage Stack", FAST 2008) |
 * | flips of one read | bits that flip on the way, gone the next time | cables, controllers, memory without ECC |
 *
 * @module
 */

import { SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import type { Random } from "../random.ts";
import type { Request } from "../request.ts";
import { SectorRanges } from "./sector_ranges.ts";

/** A bit to flip: the byte's offset, and the bit in it. */
export interface Flip {
  /** Offset of the byte, in bytes. */
  readonly at: number;
  /** The bit, as the only one that is set. */
  readonly mask: number;
}

/** Sectors that are damaged, and how. */
class DamagedSectors {
  /** Sectors that cannot be read. */
  readonly bad = new SectorRanges();
  /** Bits that read flipped, by their sector. */
  readonly flips = new Map<number, Flip[]>();

  get empty(): boolean {
    return this.bad.empty && this.flips.size === 0;
  }

  add(sector: number, flips: readonly Flip[]): void {
    const there = this.flips.get(sector);
    // One by one: a list of its own for each of many flips is slow to make.
    if (there === undefined) this.flips.set(sector, [...flips]);
    else for (const flip of flips) there.push(flip);
  }

  /** Drops what there is of a range, or gives it away. */
  remove(sector: number, count: number, to?: DamagedSectors): void {
    if (to !== undefined) {
      for (const bad of this.bad.within(sector, count)) {
        to.bad.add(bad.sector, bad.count);
      }
    }
    this.bad.remove(sector, count);
    for (const [on, flips] of this.flips) {
      if (on < sector || on >= sector + count) continue;
      to?.add(on, flips);
      this.flips.delete(on);
    }
  }

  clear(): void {
    this.bad.clear();
    this.flips.clear();
  }
}

/** What is damaged of a medium. */
export class MediumDamage {
  readonly #damaged = new DamagedSectors();
  /** What a cache has newer data of: it comes back if that is dropped. */
  readonly #covered = new DamagedSectors();

  /** Whether there is none. */
  get empty(): boolean {
    return this.#damaged.empty;
  }

  /** Whether any bit is flipped. */
  get flipped(): boolean {
    return this.#damaged.flips.size > 0;
  }

  /** Sectors that cannot be read. */
  get badSectors(): SectorRange[] {
    return this.#damaged.bad.within(0, Infinity);
  }

  /** Sectors with flipped bits, in order. */
  get corruptSectors(): number[] {
    return [...this.#damaged.flips.keys()].sort((a, b) => a - b);
  }

  /** The first sector of a range that cannot be read. */
  firstBad(sector: number, count: number): number | undefined {
    return this.#damaged.bad.first(sector, count);
  }

  /** Makes sectors unreadable. */
  spoil(sector: number, count: number): void {
    this.#damaged.bad.add(sector, count);
  }

  /** Makes flips stay; their offsets count from a sector. */
  flip(sector: number, flips: readonly Flip[]): void {
    for (const { at, mask } of flips) {
      const on = sector + Math.floor(at / SECTOR_BYTES);
      this.#damaged.add(on, [{ at: at % SECTOR_BYTES, mask }]);
    }
  }

  /** Flips what a read has read. */
  apply(request: Request): void {
    if (!this.flipped) return;
    for (let i = 0; i < request.count; i++) {
      const flips = this.#damaged.flips.get(request.sector + i);
      if (flips !== undefined) flipBits(request, i * SECTOR_BYTES, flips);
    }
  }

  /** What is rewritten is well again. */
  rewritten(sector: number, count: number): void {
    this.#damaged.remove(sector, count);
    this.#covered.remove(sector, count);
  }

  /** What is written into a cache reads well as long as that has it. */
  cover(sector: number, count: number): void {
    this.#damaged.remove(sector, count, this.#covered);
  }

  /** What a cache wrote back is well again, but for what was damaged since. */
  writtenBack(sector: number, count: number): void {
    this.#covered.remove(sector, count);
  }

  /** What a cache drops is as it was before. */
  uncover(sector: number, count: number): void {
    this.#covered.remove(sector, count, this.#damaged);
  }

  /** Makes everything well again. */
  heal(): void {
    this.#damaged.clear();
    this.#covered.clear();
  }
}

/** The most bits that one fault flips: any request has as many. */
export const MAX_FLIPS = SECTOR_BYTES * 8;

/**
 * Draws bits of some sectors, each of them once: two flips of one are none.
 *
 * @param random Where to draw from.
 * @param count Sectors.
 * @param bits How many bits, up to {@linkcode MAX_FLIPS}.
 * @returns The bits; their offsets count from the first of the sectors.
 */
export function drawFlips(random: Random, count: number, bits = 1): Flip[] {
  if (count <= 0) return [];
  const drawn = new Set<number>();
  while (drawn.size < bits) drawn.add(random.below(count * SECTOR_BYTES * 8));
  return Array.from(
    drawn,
    (bit) => ({ at: Math.floor(bit / 8), mask: 1 << (bit % 8) }),
  );
}

/**
 * Flips bits of a request's memory.
 *
 * @param request The request.
 * @param base Where the offsets count from, in bytes.
 * @param flips The bits.
 */
export function flipBits(
  request: Request,
  base: number,
  flips: readonly Flip[],
): void {
  for (const { at, mask } of flips) flipBit(request, base + at, mask);
}

/** Flips a bit of a request's memory. */
function flipBit(request: Request, at: number, mask: number): void {
  for (let i = 0; i < request.segmentCount; i++) {
    const segment = request.segment(i);
    if (at < segment.length) {
      segment[at] = segment[at]! ^ mask;
      return;
    }
    at -= segment.length;
  }
}
