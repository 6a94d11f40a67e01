/**
 * The descriptor that a command writes acknowledgements to, as a named pipe: the
 * runtime cannot hand a descriptor of its own to a child, so the shell that
 * starts the command opens the pipe by its name.
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

/** The descriptor's number. One digit is all that every shell can redirect. */
export const ACKNOWLEDGE_DESCRIPTOR = 9;

/** End of transmission: closes a line that its writer did not end. */
const UNENDED = "\x04";

/** A named pipe that is read line by line. */
export class AcknowledgementPipe {
  /** Its path: a shell opens it for writing. */
  readonly path: string;
  readonly #file: Deno.FsFile;
  /** A line that ends it, which nobody else writes. */
  readonly #mark = `end ${crypto.randomUUID()}`;
  readonly #done: Promise<void>;
  #failure: { readonly error: unknown } | null = null;

  private constructor(
    path: string,
    file: Deno.FsFile,
    onLine: (line: string) => void,
  ) {
    this.path = path;
    this.#file = file;
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
    return new AcknowledgementPipe(path, file, onLine);
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
      // Opened once more: the runtime does one thing at a time with a file.
      using file = await Deno.open(this.path, { write: true });
      await file.write(new TextEncoder().encode(mark));
      await this.#done;
    } finally {
      this.#file.close();
      await Deno.remove(this.path);
    }
    if (this.#failure !== null) throw this.#failure.error;
  }

  async #read(onLine: (line: string) => void): Promise<void> {
    let ended = false;
    const lines = new Lines((line, isWhole) => {
      ended ||= line === this.#mark;
      if (ended || line.endsWith(UNENDED) || this.#failure !== null) return;
      try {
        if (!isWhole) {
          throw new RangeError(
            `Cannot take an acknowledgement as it must be at most 1 MiB long: it begins with "${
              printable(line, 80)
            }"`,
          );
        }
        onLine(line);
      } catch (error) {
        // The rest is read all the same: its writer must not wait for ever.
        this.#failure = { error };
      }
    });
    while (!ended) {
      const buffer = new Uint8Array(65_536);
      const count = await this.#file.read(buffer);
      if (count === null) break;
      lines.add(buffer.subarray(0, count));
    }
  }
}
