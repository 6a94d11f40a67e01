/**
 * Lines out of bytes that come in pieces.
 *
 * @module
 */

import { ByteList } from "./bounded_output.ts";

/** Bytes of a line that are kept; of a longer one, the beginning. */
const MOST_LINE_BYTES = 1 << 20;

const NEWLINE = 10;

/** A mark of byte order is for files; in a line it is a character. */
const DECODER = new TextDecoder(undefined, { ignoreBOM: true });

/** Cuts bytes into lines. */
export class Lines {
  readonly #onLine: (line: string, isWhole: boolean) => void;
  readonly #kept = new ByteList();
  #isWhole = true;

  /**
   * Constructs a new instance.
   *
   * @param onLine Told each line, without its end, and whether that is all of
   * it: no more than 1 MiB is kept of a line.
   */
  constructor(onLine: (line: string, isWhole: boolean) => void) {
    this.#onLine = onLine;
  }

  /**
   * Takes more bytes.
   *
   * @param chunk The bytes.
   */
  add(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length;) {
      const found = chunk.indexOf(NEWLINE, at);
      const end = found < 0 ? chunk.length : found;
      const part = chunk.subarray(at, end).subarray(
        0,
        MOST_LINE_BYTES - this.#kept.length,
      );
      this.#kept.add(part);
      if (part.length < end - at) this.#isWhole = false;
      at = end + 1;
      if (found >= 0) this.#end();
    }
  }

  /** Tells what comes after the last end of line, if that is anything. */
  end(): void {
    if (this.#kept.length > 0) this.#end();
  }

  #end(): void {
    const line = DECODER.decode(this.#kept.bytes);
    const isWhole = this.#isWhole;
    this.#kept.remove(0, this.#kept.length);
    this.#isWhole = true;
    this.#onLine(line, isWhole);
  }
}
