/**
 * How long the asynchronous engines of a thread may hold its event loop together:
 * the wait of each is short, and a hundred of them would follow each other in one
 * turn.
 *
 * Every engine has one turn of its own in each turn of the loop. So when one has
 * its next, the loop has been round, and the time of all begins anew. An engine
 * waits in its turns, and where its callers ask for something; the two are
 * counted apart, so that one disk has the whole of either.
 *
 * An engine that had no turn for long cannot tell. So what was spent is also
 * forgotten after ten times as long: that adds a tenth at most.
 *
 * @module
 */

/** After so many times what was spent it no longer counts. */
const FORGOTTEN_AFTER = 10;

/** Time spent waiting since the event loop was last round. */
export class StallBudget {
  #round = 0;
  /** Spent by callers and in turns, in µs. */
  #calledUs = 0;
  #turnedUs = 0;
  /** When all of it is forgotten, in ms. */
  #until = 0;

  /**
   * Begins a turn of an engine.
   *
   * @param last What this returned for the engine's last turn; −1 for none.
   * @returns The round that the turn is in.
   */
  begin(last: number): number {
    if (last === this.#round) {
      this.#round++;
      this.#forget();
    }
    return this.#round;
  }

  #forget(): void {
    this.#calledUs = 0;
    this.#turnedUs = 0;
  }

  /**
   * How long an engine may wait now.
   *
   * @param inTurn Whether it does so in its turn.
   * @param stallUs The longest that all of them may, by its own options, in µs.
   * @param now The time, in ms.
   * @returns The time in µs; 0 or less for none.
   */
  left(inTurn: boolean, stallUs: number, now: number): number {
    if (now >= this.#until) this.#forget();
    return stallUs - (inTurn ? this.#turnedUs : this.#calledUs);
  }

  /**
   * Takes note of a wait.
   *
   * @param inTurn Whether it was in an engine's turn.
   * @param us How long it was, in µs.
   * @param now The time, in ms.
   */
  spend(inTurn: boolean, us: number, now: number): void {
    this.#until = Math.max(this.#until, now + us * FORGOTTEN_AFTER / 1000);
    if (inTurn) this.#turnedUs += us;
    else this.#calledUs += us;
  }
}

/** The one of this thread. */
export const sharedBudget: StallBudget = new StallBudget();
