/**
 * Exclusive locks on ranges of a file, first come first served: whoever reads a
 * host block, changes a part of it and writes it back must be alone on it.
 *
 * @module
 */

/** A range that is held or waited for. */
interface Claim {
  start: number;
  end: number;
  granted: (release: () => void) => void;
  held: boolean;
}

/** Exclusive locks on ranges. */
export class RangeLock {
  /** In the order in which they came. */
  readonly #claims: Claim[] = [];

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
    this.#claims.push({ start, end, granted, held: false });
    this.#grant();
  }

  #grant(): void {
    for (let i = 0; i < this.#claims.length; i++) {
      const claim = this.#claims[i]!;
      if (claim.held) continue;
      let free = true;
      for (let k = 0; k < i && free; k++) {
        const earlier = this.#claims[k]!;
        free = claim.end <= earlier.start || earlier.end <= claim.start;
      }
      if (!free) continue;
      claim.held = true;
      claim.granted(() => {
        this.#claims.splice(this.#claims.indexOf(claim), 1);
        this.#grant();
      });
      // What it started may have ended at once and changed the list.
      if (this.#claims[i] !== claim) i = -1;
    }
  }
}
