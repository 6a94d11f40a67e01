/**
 * Ends a wait for a server that does nothing. A disk waits for what is in flight,
 * which may take long over a slow line, but not for a server that neither answers
 * nor moves bytes: while it is closed, and before that if a bound was asked for.
 *
 * It keeps no program from ending: the connection does that, while it is waited
 * for.
 *
 * @module
 */

import { stepTimeout } from "../../step_timeout.ts";

/** In so many steps is looked whether a server is silent. */
const STEPS = 4;

/**
 * What must move in a step if nothing is answered in it: at most so many bytes,
 * and no more than a slow line has time for. Anything less is a trickle that
 * could go on for ever.
 */
const SIGN_OF_LIFE_BYTES = 65_536;
const SIGN_OF_LIFE_BYTES_PER_MS = 8;

/** What is seen of a server. */
export interface SignsOfLife {
  /** Requests that it answered so far. */
  readonly answers: number;
  /** Bytes that moved so far, either way. */
  readonly bytes: number;
  /** Whether anything is waited for: who owes nothing may be silent. */
  readonly waits: boolean;
}

/** Looks for signs of life, while it is on. */
export class SilenceWatch {
  readonly #timeoutMs: number;
  readonly #look: () => SignsOfLife;
  readonly #onSilence: () => void;
  #stop: (() => void) | null = null;

  /**
   * Constructs a new instance, off.
   *
   * @param timeoutMs How long the server may be silent.
   * @param look Tells what was seen of it so far.
   * @param onSilence Called when it was silent for that long, and with every
   * further look until it is stopped.
   */
  constructor(
    timeoutMs: number,
    look: () => SignsOfLife,
    onSilence: () => void,
  ) {
    this.#timeoutMs = timeoutMs;
    this.#look = look;
    this.#onSilence = onSilence;
  }

  /** Begins to look, if it does not yet. */
  start(): void {
    if (this.#stop !== null) return;
    let seen = this.#look();
    const bytes = Math.min(
      SIGN_OF_LIFE_BYTES,
      this.#timeoutMs / STEPS * SIGN_OF_LIFE_BYTES_PER_MS,
    );
    const lives = () => {
      const before = seen;
      seen = this.#look();
      // A step that began before anybody waited is none.
      return !before.waits || !seen.waits || seen.answers !== before.answers ||
        seen.bytes - before.bytes >= bytes;
    };
    this.#stop = stepTimeout(this.#timeoutMs, this.#onSilence, {
      steps: STEPS,
      lives,
      keepsAlive: false,
    });
  }

  /** Looks no more. */
  stop(): void {
    this.#stop?.();
    this.#stop = null;
  }
}
