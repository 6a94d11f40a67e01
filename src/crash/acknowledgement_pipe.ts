/**
 * What a command acknowledges: lines that it prints, and lines that it writes to a
 * descriptor. That is a named pipe: the runtime cannot hand a descriptor of its
 * own to a child, so the shell that starts the command opens the pipe by its name.
 *
 * Late, never early: a program writes a line after the disk completed what the
 * line promises; the recorder logged that completion before the disk told of it,
 * and logs the line when it is read here, which is later still.
 *
 * @module
 */

import { printable } from "../printable.ts";
import { Lines } from "./lines.ts";
import { runProgram } from "./programs.ts";
import { removeIfThere } from "./scratch.ts";

/** The descriptor's number. One digit is all that every shell can redirect. */
export const ACKNOWLEDGE_DESCRIPTOR = 9;

/** What lines of standard output are acknowledgements, unless it is said. */
const ACKNOWLEDGEMENT = /^ACK(?: (.*))?$/;

/** UTF-8's mark of byte order, which some runtimes print before all else. */
const BYTE_ORDER_MARK = "\ufeff";

/**
 * Finds acknowledgements in standard output. A line above 1 MiB is none. Unless
 * a pattern is given, a mark of byte order at the start does not count.
 *
 * @param onAcknowledge Told each.
 * @param pattern What lines are some: what its first group has is acknowledged, or
 * the whole match.
 * @returns What takes the output.
 */
export function printedAcknowledgements(
  onAcknowledge: (line: string) => void,
  pattern?: RegExp,
): Lines {
  const { source, flags } = pattern ?? ACKNOWLEDGEMENT;
  // Without what would remember where the last one ended.
  const own = new RegExp(source, flags.replaceAll(/[gy]/g, ""));
  // Whoever gives a pattern says all of what a line is.
  let mayBeMarked = pattern === undefined;
  return new Lines((line, isWhole) => {
    if (mayBeMarked && line.startsWith(BYTE_ORDER_MARK)) line = line.slice(1);
    mayBeMarked = false;
    const found = isWhole ? own.exec(line) : null;
    if (found !== null) onAcknowledge(found[1] ?? found[0]);
  });
}

/**
 * Refuses a line of the descriptor that is cut off.
 *
 * @param line The line, or its beginning.
 * @param isWhole Whether it is all of it.
 * @throws {RangeError} If it is not: it is above 1 MiB.
 */
export function checkAcknowledgement(line: string, isWhole: boolean): void {
  if (isWhole) return;
  throw new RangeError(
    `Cannot take an acknowledgement as it must be at most 1 MiB long: it begins with "${
      printable(line, 80)
    }"`,
  );
}

/** End of transmission: closes a line that its writer did not end. */
const UNENDED = "\x04";

/** A named pipe that is read line by line. */
export class AcknowledgementPipe {
  /** Its path: a shell opens it for writing. */
  readonly path: string;
  readonly #file: Deno.FsFile;
  /** The same once more: the runtime does one thing at a time with a file. */
  readonly #own: Deno.FsFile;
  /** A line that ends it, which nobody else writes. */
  readonly #mark = `end ${crypto.randomUUID()}`;
  readonly #done: Promise<void>;
  #failure: { readonly error: unknown } | null = null;

  private constructor(
    path: string,
    file: Deno.FsFile,
    own: Deno.FsFile,
    onLine: (line: string) => void,
  ) {
    this.path = path;
    this.#file = file;
    this.#own = own;
    this.#done = this.#read(onLine);
  }

  /**
   * Makes one.
   *
   * @param path Where; nothing may be there.
   * @param onLine Told each line that was written wholly.
   * @returns The pipe.
   */
  static async create(
    path: string,
    onLine: (line: string) => void,
  ): Promise<AcknowledgementPipe> {
    await runProgram("mkfifo", ["-m", "600", path]);
    // Open for both, so that neither this open nor a read waits for a writer.
    const file = await Deno.open(path, { read: true, write: true });
    // Now: its writer may remove the name.
    const own = await Deno.open(path, { write: true });
    return new AcknowledgementPipe(path, file, own, onLine);
  }

  /**
   * Reads what is still in it, and removes it. No writer is waited for: what
   * has been written by now is what there is.
   *
   * @returns When each line has been told.
   * @throws What `onLine` threw, and RangeError for a line above 1 MiB.
   */
  async end(): Promise<void> {
    try {
      // A pipe keeps the order: what was written before it is read before it.
      // So short a write is not torn by others (pipe(7), PIPE_BUF).
      const mark = `${UNENDED}\n${this.#mark}\n`;
      await this.#own.write(new TextEncoder().encode(mark));
      await this.#done;
    } finally {
      this.#own.close();
      this.#file.close();
      await removeIfThere(this.path);
    }
    if (this.#failure !== null) throw this.#failure.error;
  }

  async #read(onLine: (line: string) => void): Promise<void> {
    let ended = false;
    const lines = new Lines((line, isWhole) => {
      ended ||= line === this.#mark;
      if (ended || line.endsWith(UNENDED) || this.#failure !== null) return;
      try {
        checkAcknowledgement(line, isWhole);
        onLine(line);
      } catch (error) {
        // The rest is read all the same: its writer must not wait for ever.
        this.#failure = { error };
      }
    });
    const buffer = new Uint8Array(65_536);
    while (!ended) {
      const count = await this.#file.read(buffer);
      if (count === null) break;
      lines.add(buffer.subarray(0, count));
    }
  }
}
