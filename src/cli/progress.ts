/**
 * Progress of a long command: one line, on a terminal only.
 *
 * @module
 */

import { formatSize } from "../units.ts";
import { clock, rate } from "./format.ts";
import { type CliIo, printError } from "./io.ts";

/** Milliseconds before a line is shown at all: short work needs none. */
const PATIENCE_MS = 300;

/** Milliseconds between two lines. */
const INTERVAL_MS = 100;

/** Goes to the start of the line and clears it. */
const CLEAR_LINE = "\r\x1b[2K";

/** The progress line of a long command. */
export class Progress {
  readonly #io: CliIo;
  readonly #shows: boolean;
  #label = "";
  #start = 0;
  #shown = 0;
  #visible = false;
  #writing: Promise<void> | undefined;

  /**
   * Constructs a new instance.
   *
   * @param io What to talk to: standard error, if it is a terminal.
   * @param quiet Whether to show nothing all the same.
   */
  constructor(io: CliIo, quiet = false) {
    this.#io = io;
    this.#shows = io.stderr.isTerminal && !quiet;
  }

  /**
   * Reports how far the work is; cheap enough to call for every chunk.
   *
   * @param label What is being done; another one starts another clock.
   * @param done Bytes done.
   * @param total Bytes in all; without it, there is no end in sight.
   */
  update(label: string, done: number, total?: number): void {
    if (!this.#shows) return;
    const now = this.#io.now();
    if (label !== this.#label) {
      this.#label = label;
      this.#start = now;
      this.#shown = now + PATIENCE_MS - INTERVAL_MS;
    }
    if (now - this.#shown < INTERVAL_MS) return;
    this.show(progressLine(label, done, total, now - this.#start));
  }

  /**
   * Shows another line, if it is time for one.
   *
   * @param line What it says.
   */
  show(line: string): void {
    if (!this.#shows) return;
    const now = this.#io.now();
    // A slow terminal must not slow the work down.
    if (now - this.#shown < INTERVAL_MS || this.#writing !== undefined) return;
    this.#shown = now;
    this.#visible = true;
    const text = line.slice(0, this.#io.stderr.columns - 1);
    this.#writing = printError(this.#io, `${CLEAR_LINE}${text}`)
      .finally(() => this.#writing = undefined);
  }

  /**
   * Takes the line away.
   *
   * @returns When it is gone.
   */
  async clear(): Promise<void> {
    await this.#writing;
    if (!this.#visible) return;
    this.#visible = false;
    await printError(this.#io, CLEAR_LINE);
  }
}

/**
 * What the line says.
 *
 * @param label What is being done.
 * @param done Bytes done.
 * @param total Bytes in all; nothing if that is not known.
 * @param ms Milliseconds since it began.
 * @returns For example `"Copying   45%  461 MiB of 1 GiB  920 MiB/s  0:01 left"`.
 */
export function progressLine(
  label: string,
  done: number,
  total: number | undefined,
  ms: number,
): string {
  if (total === undefined) {
    return `${label}  ${formatSize(done)}  ${rate(done, ms)}`;
  }
  // Never 100% while there is something left.
  const percent = total === 0 ? 100 : Math.floor(done / total * 100);
  const left = done === 0 ? "" : `  ${clock((total - done) / done * ms)} left`;
  return `${label}  ${String(percent).padStart(3)}%  ${formatSize(done)} of ` +
    `${formatSize(total)}  ${rate(done, ms)}${left}`;
}
