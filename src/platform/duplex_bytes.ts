/**
 * A duplex stream of Node.js' (a socket, TLS) that is read into memory of the
 * reader's and written to piece by piece, as Deno's connections are. No more is
 * read ahead than the stream itself does.
 *
 * @module
 */

import type { Duplex } from "node:stream";
import type { ByteStream } from "./byte_stream.ts";

/** Bytes that are written at once. */
const PIECE_BYTES = 1 << 20;

/** A stream of bytes. */
export class DuplexBytes implements ByteStream {
  readonly #duplex: Duplex;
  readonly #onEnd: (error: Error | null) => void;
  /** What came and nobody took yet. */
  #rest: Uint8Array = new Uint8Array();
  /** Nothing comes any more. */
  #ended = false;
  /** Nothing goes any more either. */
  #closed = false;
  #failure: Error | null = null;
  #wake: (() => void) | null = null;
  /** Ends the write that is waited for. */
  #writing: ((error: Error) => void) | null = null;

  /**
   * Constructs a new instance.
   *
   * @param duplex The stream, of which nobody else reads.
   * @param onEnd Called once nothing more comes, with the error of the stream
   * if it has one.
   */
  constructor(duplex: Duplex, onEnd: (error: Error | null) => void = () => {}) {
    this.#duplex = duplex;
    this.#onEnd = onEnd;
    duplex.on("readable", () => this.#resume());
    duplex.on("end", () => this.#end(null));
    duplex.on("error", (error: Error) => this.#close(error));
    duplex.on("close", () => this.#close(null));
  }

  /**
   * Reads what there is.
   *
   * @param target Where to.
   * @returns Bytes read; `null` at the end.
   * @throws {Error} As the stream fails.
   */
  async read(target: Uint8Array): Promise<number | null> {
    while (this.#rest.length === 0) {
      const found: Uint8Array | null = this.#duplex.read();
      if (found !== null) this.#rest = found;
      else if (this.#failure !== null) throw this.#failure;
      else if (this.#ended) return null;
      else await new Promise<void>((resolve) => this.#wake = resolve);
    }
    const count = Math.min(target.length, this.#rest.length);
    // Memory that was detached meanwhile takes nothing, and says so by throwing.
    if (count > 0) target.set(this.#rest.subarray(0, count));
    this.#rest = this.#rest.subarray(count);
    return count;
  }

  /**
   * Writes what fits.
   *
   * @param source The bytes, which must stay as they are until that is done.
   * @returns Bytes written.
   * @throws {Error} If the stream is closed, or as it fails.
   */
  write(source: Uint8Array): Promise<number> {
    const piece = source.subarray(0, PIECE_BYTES);
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(brokenPipe());
      this.#writing = reject;
      this.#duplex.write(piece, (error) => {
        this.#writing = null;
        if (error) reject(error);
        else resolve(piece.length);
      });
    });
  }

  /** Gives it up, with whatever is in flight. */
  close(): void {
    this.#close(null);
    this.#duplex.destroy();
  }

  #end(error: Error | null): void {
    if (!this.#ended) {
      this.#ended = true;
      this.#failure = error;
      this.#onEnd(error);
    }
    this.#resume();
  }

  #close(error: Error | null): void {
    this.#closed = true;
    this.#end(error);
    this.#writing?.(error ?? brokenPipe());
    this.#writing = null;
  }

  #resume(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }
}

function brokenPipe(): Error {
  return Object.assign(
    new Error("Cannot write to a stream as it is closed"),
    { code: "EPIPE" },
  );
}
