/**
 * What a command prints, in bounded memory: the beginning, where it says what it
 * does, and the end, where it says why it stopped.
 *
 * @module
 */

/** Bytes of the beginning that are kept. */
const HEAD_BYTES = 16_384;

/** Bytes of the end that are kept, and as many again before some are dropped. */
const TAIL_BYTES = 49_152;

/** Bytes in memory that grows with them. */
export class ByteList {
  #bytes = new Uint8Array(0);
  #length = 0;

  /** How many there are. */
  get length(): number {
    return this.#length;
  }

  /** All of them: a view, until more are added. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  /**
   * Adds more.
   *
   * @param chunk The bytes. They are copied: a chunk of a stream, however small,
   * is a view of a large buffer, which would stay as long as the chunk.
   */
  add(chunk: Uint8Array): void {
    const length = this.#length + chunk.length;
    if (length > this.#bytes.length) {
      const bytes = new Uint8Array(Math.max(length, 2 * this.#bytes.length));
      bytes.set(this.bytes);
      this.#bytes = bytes;
    }
    this.#bytes.set(chunk, this.#length);
    this.#length = length;
  }

  /**
   * Takes some away.
   *
   * @param from The first one.
   * @param to The one after the last.
   */
  remove(from: number, to: number): void {
    this.#bytes.copyWithin(from, to, this.#length);
    this.#length -= to - from;
  }
}

/** Takes bytes as they come, and gives the text of what was kept. */
export class BoundedOutput {
  readonly #kept = new ByteList();
  #dropped = 0;

  /**
   * Takes more of it.
   *
   * @param chunk The bytes.
   */
  add(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length;) {
      const excess = this.#kept.length - HEAD_BYTES - TAIL_BYTES;
      if (excess === TAIL_BYTES) {
        this.#kept.remove(HEAD_BYTES, HEAD_BYTES + excess);
        this.#dropped += excess;
      }
      const room = HEAD_BYTES + 2 * TAIL_BYTES - this.#kept.length;
      const part = chunk.subarray(at, at + room);
      this.#kept.add(part);
      at += part.length;
    }
  }

  /**
   * What was kept.
   *
   * @returns The text; what is no UTF-8 is replaced.
   */
  text(): string {
    const kept = this.#kept.bytes;
    if (this.#dropped === 0) return decode(kept);
    return `${decode(kept.subarray(0, HEAD_BYTES))}\n… ` +
      `${this.#dropped} bytes are left out here …\n` +
      decode(kept.subarray(HEAD_BYTES));
  }
}

function decode(bytes: Uint8Array): string {
  return new TextDecoder(undefined, { ignoreBOM: true }).decode(bytes);
}
