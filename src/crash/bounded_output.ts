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

/** Takes bytes as they come, and gives the text of what was kept. */
export class BoundedOutput {
  readonly #head: Uint8Array[] = [];
  #headBytes = 0;
  #tail: Uint8Array[] = [];
  #tailBytes = 0;
  #dropped = 0;

  /**
   * Takes more of it.
   *
   * @param chunk The bytes; they are kept and must not change.
   */
  add(chunk: Uint8Array): void {
    const room = HEAD_BYTES - this.#headBytes;
    if (room > 0) {
      const part = chunk.subarray(0, room);
      this.#head.push(part);
      this.#headBytes += part.length;
      chunk = chunk.subarray(room);
    }
    if (chunk.length === 0) return;
    this.#tail.push(chunk);
    this.#tailBytes += chunk.length;
    if (this.#tailBytes <= 2 * TAIL_BYTES) return;
    const all = joined(this.#tail, this.#tailBytes);
    this.#dropped += all.length - TAIL_BYTES;
    // A copy, or all of it is kept.
    this.#tail = [all.slice(-TAIL_BYTES)];
    this.#tailBytes = TAIL_BYTES;
  }

  /**
   * What was kept.
   *
   * @returns The text; what is no UTF-8 is replaced.
   */
  text(): string {
    const tail = joined(this.#tail, this.#tailBytes);
    if (this.#dropped === 0) {
      return decode(
        joined([...this.#head, tail], this.#headBytes + tail.length),
      );
    }
    return `${decode(joined(this.#head, this.#headBytes))}\n… ` +
      `${this.#dropped} bytes are left out here …\n${decode(tail)}`;
  }
}

function joined(chunks: readonly Uint8Array[], length: number): Uint8Array {
  const all = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

function decode(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
