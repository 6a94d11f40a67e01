/**
 * Work that is done in the event loop, cut in pieces and taken in turns, so
 * that a client that asks for much of it does not starve the others.
 *
 * @module
 */

/** Work that is done at once, in ms. */
const BURST_MS = 4;

/** What one piece counts at most, in ms: it may have waited for something. */
const PIECE_MS = 10;

/** Pieces in flight at once, as each may wait for something. */
const MAX_ACTIVE = 4;

/**
 * Pieces of work, first come first served: a few milliseconds of it are done at
 * once, and from then on as much time is left to others as it takes.
 */
export class Turns {
  readonly #queue: (() => void)[] = [];
  #active = 0;
  /** Milliseconds worked that nothing was left to others for yet. */
  #debt = 0;
  /** When it was worked last. */
  #last = 0;
  #timer: ReturnType<typeof setTimeout> | null = null;

  /**
   * Does a piece of work when its turn comes, maybe at once.
   *
   * @param work The work.
   * @returns What it returned.
   * @throws What it threw.
   */
  take<T>(work: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#queue.push(() => {
        const start = performance.now();
        this.#active++;
        // Counted before anybody is told, as the client that is told asks for more.
        const count = () => {
          this.#active--;
          this.#last = performance.now();
          this.#debt += Math.min(this.#last - start, PIECE_MS);
        };
        work().finally(count).then(resolve, reject).then(() => {
          if (this.#timer === null) this.#run();
        });
      });
      if (this.#timer === null) this.#run();
    });
  }

  readonly #run = (): void => {
    this.#timer = null;
    const now = performance.now();
    this.#debt = Math.max(0, this.#debt - (now - this.#last));
    this.#last = now;
    while (this.#debt < BURST_MS && this.#active < MAX_ACTIVE) {
      const work = this.#queue.shift();
      if (work === undefined) return;
      work();
    }
    if (this.#debt >= BURST_MS && this.#queue.length > 0) {
      this.#timer = setTimeout(this.#run, this.#debt);
    }
  };
}
