/**
 * Progress of an exploration of crashes: one line on a terminal, or calls of a
 * function.
 *
 * @module
 */

import { stderr } from "../platform/terminal.ts";

/** How far an exploration is. */
export interface CrashProgress {
  /** States whose recovery was checked. */
  readonly states: number;
  /** States that there are, or that are to be visited at most. */
  readonly total: number;
  /** Milliseconds since the start. */
  readonly elapsedMs: number;
}

/** Milliseconds before a line is shown at all. */
const PATIENCE_MS = 1000;

/** Goes to the start of the line and clears it. */
const CLEAR_LINE = "\r\x1b[2K";

/** Reports how far an exploration is. */
export class Progress {
  /** States that there are, or that are to be visited at most. */
  total = 0;
  readonly #onProgress: ((progress: CrashProgress) => void) | null;
  readonly #terminal: boolean;
  readonly #start = performance.now();
  #shown = false;

  /** @param progress Whether to report, or what to call. */
  constructor(progress: boolean | ((progress: CrashProgress) => void)) {
    this.#onProgress = typeof progress === "function" ? progress : null;
    this.#terminal = progress === true && stderr.isTerminal();
  }

  /** Reports how many states were checked. */
  update(states: number): void {
    const elapsedMs = performance.now() - this.#start;
    this.#onProgress?.({ states, total: this.total, elapsedMs });
    if (!this.#terminal || elapsedMs < PATIENCE_MS) return;
    this.#shown = true;
    const percent = Math.floor(states / Math.max(1, this.total) * 100);
    const rate = Math.round(states / elapsedMs * 1000);
    this.#write(
      `${CLEAR_LINE}Crash states: ${states} of ${this.total} (${percent} %), ${rate}/s`,
    );
  }

  /** Leaves nothing on the terminal. */
  end(): void {
    if (this.#shown) this.#write(CLEAR_LINE);
  }

  #write(text: string): void {
    stderr.writeSync(new TextEncoder().encode(text));
  }
}
