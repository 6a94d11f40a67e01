/**
 * Exclusive locks on ranges of a file, first come first served: a
 * read-modify-write of a host block must be alone on it.
 *
 * @module
 */

import { roundDown, roundUp } from "./alignment_plan.ts";

/** A range that is held or waited for. */
interface Claim {
  readonly start: number;
  readonly end: number;
  readonly granted: (release: () => void) => void;
  /** Earlier claims of the same bytes that are not given back yet. */
  before: number;
}

/** Exclusive locks on ranges. */
export class RangeLock {
  /**
   * In the order in which they came. Each is compared with all others twice,
   * once when it comes and once when it goes: some thousand are no burden.
   */
  readonly #claims = new Set<Claim>();
  readonly #alignment: number;

  /**
   * Constructs a new instance.
   *
   * @param alignment What is locked at once, in bytes: the host's block. Ranges
   * are widened to multiples of it.
   */
  constructor(alignment = 1) {
    this.#alignment = alignment;
  }

  /**
   * Claims a range.
   *
   * @param start First byte.
   * @param end The byte after the last.
   * @param granted Called once the range is held, maybe at once, with what
   * gives it back.
   */
  claim(
    start: number,
    end: number,
    granted: (release: () => void) => void,
  ): void {
    const claim: Claim = {
      start: roundDown(start, this.#alignment),
      end: roundUp(end, this.#alignment),
      granted,
      before: 0,
    };
    for (const other of this.#claims) {
      if (overlap(claim, other)) claim.before++;
    }
    this.#claims.add(claim);
    if (claim.before === 0) this.#grant(claim);
  }

  #grant(claim: Claim): void {
    claim.granted(() => {
      // All that overlap are later: it would not be held otherwise.
      if (!this.#claims.delete(claim)) return;
      const free: Claim[] = [];
      for (const other of this.#claims) {
        if (overlap(claim, other) && --other.before === 0) free.push(other);
      }
      for (const next of free) this.#grant(next);
    });
  }
}

function overlap(one: Claim, other: Claim): boolean {
  return one.start < other.end && other.start < one.end;
}
