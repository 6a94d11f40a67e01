/**
 * Which parts of a reply have come: chunks may come in any order, and must give
 * every byte exactly once.
 *
 * @module
 */

/** Runs that are kept apart; a server whose chunks leave more gaps is mad. */
const MAX_RUNS = 4096;

/** What has come, as runs of bytes in order that do not touch each other. */
export class CoveredRanges {
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];

  /**
   * Adds a run of bytes.
   *
   * @param start Its first byte.
   * @param end The byte after its last one.
   * @throws {Error} If some of it has come before, or there are too many gaps.
   */
  add(start: number, end: number): void {
    const starts = this.#starts;
    const ends = this.#ends;
    // Chunks mostly come in order.
    let at = ends.length;
    if (at > 0 && start < ends[at - 1]!) at = this.#runAfter(start);
    if (
      (at > 0 && ends[at - 1]! > start) ||
      (at < starts.length && starts[at]! < end)
    ) throw new Error("a reply has the same data twice");
    const joinsBefore = at > 0 && ends[at - 1] === start;
    const joinsAfter = at < starts.length && starts[at] === end;
    if (joinsBefore && joinsAfter) {
      ends[at - 1] = ends[at]!;
      starts.splice(at, 1);
      ends.splice(at, 1);
    } else if (joinsBefore) {
      ends[at - 1] = end;
    } else if (joinsAfter) {
      starts[at] = start;
    } else {
      if (starts.length === MAX_RUNS) {
        throw new Error("a reply comes in too many scattered pieces");
      }
      starts.splice(at, 0, start);
      ends.splice(at, 0, end);
    }
  }

  /** The first run that begins after a byte. */
  #runAfter(start: number): number {
    let low = 0;
    let high = this.#starts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#starts[middle]! > start) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
