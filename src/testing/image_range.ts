/**
 * Ranges as assertions about images take them: sectors, or a partition as it was
 * read from its table.
 *
 * @module
 */

import { type NamedRange, nameOfRange } from "../layers/named_range.ts";
import { checkRanges } from "../layers/named_range.ts";
import { SectorRanges } from "../layers/sector_ranges.ts";

/** A run of sectors; a partition is one, too. */
export type ImageRange =
  | NamedRange
  | {
    /** First sector. */
    readonly start: number;
    /** Sectors. */
    readonly sectors: number;
    /** The partition's number, for messages. */
    readonly number?: number | undefined;
  };

/** Ranges as one set of sectors. */
export class ImageRanges {
  readonly #set = new SectorRanges();
  /** What they are called, together. */
  readonly name: string;

  /**
   * Constructs a new instance.
   *
   * @param ranges The ranges; they may overlap.
   * @param sectors The disk's sectors.
   * @param purpose What they are for, as a verb, for errors.
   * @throws {RangeError} If one is not on the disk.
   */
  constructor(
    ranges: readonly ImageRange[],
    sectors: number,
    purpose: string,
  ) {
    const named = ranges.map(toNamed);
    checkRanges(named, sectors, purpose);
    for (const { sector, count = sectors - sector } of named) {
      this.#set.add(sector, count);
    }
    this.name = named.length === 0
      ? "nothing"
      : named.map(nameOfRange).join(", ");
  }

  /** The parts of a range that are in the set, in order. */
  within(sector: number, count: number): { sector: number; count: number }[] {
    return this.#set.within(sector, count);
  }

  /** The parts of a range that are not in the set, in order. */
  outside(sector: number, count: number): { sector: number; count: number }[] {
    const rest = new SectorRanges();
    rest.add(sector, count);
    for (const range of this.within(sector, count)) {
      rest.remove(range.sector, range.count);
    }
    return rest.within(sector, count);
  }
}

function toNamed(range: ImageRange): NamedRange {
  if (!("start" in range)) return range;
  const { start, sectors, number } = range;
  const name = number === undefined ? undefined : `partition ${number}`;
  return { name, sector: start, count: sectors };
}
