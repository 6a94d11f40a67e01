/**
 * Lines out of bytes that come in pieces.
 *
 * @module
 */

/** Bytes of a line that are kept; of a longer one, the beginning. */
const MOST_LINE_BYTES = 1 << 20;

const NEWLINE = 10;

/** Cuts bytes into lines. */
export class Lines {
  readonly #onLine: (line: string, isWhole: boolean) => void;
  #parts: Uint8Array[] = [];
  #bytes = 0;
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
   * @param chunk The bytes; they are kept and must not change.
   */
  add(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length;) {
      const found = chunk.indexOf(NEWLINE, at);
      const end = found < 0 ? chunk.length : found;
      const part = chunk.subarray(at, end).subarray(
        0,
        MOST_LINE_BYTES - this.#bytes,
      );
      if (part.length > 0) this.#parts.push(part);
      this.#bytes += part.length;
      if (part.length < end - at) this.#isWhole = false;
      at = end + 1;
      if (found >= 0) this.#end();
    }
  }

  /** Tells what comes after the last end of line, if that is anything. */
  end(): void {
    if (this.#bytes > 0) this.#end();
  }

  #end(): void {
    const line = new Uint8Array(this.#bytes);
    let filled = 0;
    for (const part of this.#parts) {
      line.set(part, filled);
      filled += part.length;
    }
    const isWhole = this.#isWhole;
    this.#parts = [];
    this.#bytes = 0;
    this.#isWhole = true;
    this.#onLine(new TextDecoder().decode(line), isWhole);
  }
}
