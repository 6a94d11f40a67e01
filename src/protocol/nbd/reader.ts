/**
 * Reads messages from a stream. Whatever comes lands in one buffer, in which
 * messages are looked at where they are and taken when they are whole; the rest
 * of a large payload is read straight into the memory where it belongs, and a
 * payload that nobody wants is dropped as it comes.
 *
 * Nothing is read before somebody asks for it, which is all that backpressure
 * takes.
 *
 * @module
 */

import type { ByteStream } from "../../platform/byte_stream.ts";
import { viewOf } from "../../bytes.ts";

/** Bytes that are read from a socket at once, but for large payloads. */
export const RECEIVE_BYTES = 65_536;

/** From here on the rest of a payload is read to where it belongs. */
const STRAIGHT_BYTES = 8192;

/** What has come over a stream and was not taken yet. */
export class MessageReader {
  #stream: ByteStream;
  #head = 0;
  #tail = 0;
  /** Bytes that are dropped as they come. */
  #unwanted = 0;
  /** The memory that the bytes are in. */
  bytes: Uint8Array;
  /** The numbers in {@linkcode bytes}. */
  view: DataView;
  /** Bytes that came so far. */
  receivedBytes = 0;
  /** Why nothing more comes, if that is not the stream's end. */
  failure: unknown = null;

  /**
   * Constructs a new instance.
   *
   * @param stream Where from; its owner closes it.
   * @param capacity Bytes that have room: the longest message, at least.
   */
  constructor(stream: ByteStream, capacity: number = RECEIVE_BYTES) {
    this.#stream = stream;
    this.bytes = new Uint8Array(capacity);
    this.view = viewOf(this.bytes);
  }

  /** Where the next byte is in {@linkcode bytes}, until more is read. */
  get at(): number {
    return this.#head;
  }

  /** Bytes that have come and were not taken. */
  get available(): number {
    return this.#tail - this.#head;
  }

  /**
   * Looks at what has come.
   *
   * @returns The bytes, as they are until more is read.
   */
  peek(): Uint8Array {
    return this.bytes.subarray(this.#head, this.#tail);
  }

  /**
   * Takes bytes that have come.
   *
   * @param length How many; up to {@linkcode available}.
   * @returns Where they begin in {@linkcode bytes}, until more is read.
   */
  take(length: number): number {
    const at = this.#head;
    this.#head += length;
    return at;
  }

  /**
   * Drops bytes that nobody wants, have they come or not: what is available
   * next is what follows them.
   *
   * @param length How many.
   */
  drain(length: number): void {
    const dropped = Math.min(length, this.available);
    this.#head += dropped;
    this.#unwanted += length - dropped;
  }

  /**
   * Tells whether the rest of a payload is worth reading straight to where it
   * belongs.
   *
   * @param missing Bytes of the payload that were not taken yet.
   * @returns Whether it is, by {@linkcode fill} with a target.
   */
  canGoStraight(missing: number): boolean {
    return missing >= STRAIGHT_BYTES && this.#head === this.#tail;
  }

  /**
   * Reads what there is, once.
   *
   * @param target Where the next bytes go; behind what has come by default.
   * Only if {@linkcode canGoStraight} says so.
   * @returns Bytes that came; `null` at the end, or if the stream fails, as
   * {@linkcode failure} says then.
   */
  async fill(target: Uint8Array | null = null): Promise<number | null> {
    let count: number | null;
    try {
      count = await this.#stream.read(target ?? this.#room());
    } catch (error) {
      this.failure = error;
      return null;
    }
    if (count === null) return null;
    this.receivedBytes += count;
    if (target === null) {
      this.#tail += count;
      if (this.#unwanted > 0) {
        const unwanted = this.#unwanted;
        this.#unwanted = 0;
        this.drain(unwanted);
      }
    }
    return count;
  }

  /**
   * Makes room for longer messages.
   *
   * @param capacity Bytes, more than what has come.
   */
  resize(capacity: number): void {
    const rest = this.peek();
    this.bytes = new Uint8Array(capacity);
    this.view = viewOf(this.bytes);
    this.bytes.set(rest);
    this.#head = 0;
    this.#tail = rest.length;
  }

  /**
   * Goes on with another stream, as when TLS begins.
   *
   * @param stream The stream.
   */
  switchTo(stream: ByteStream): void {
    this.#stream = stream;
  }

  /** The room behind what has come, as large as it gets. */
  #room(): Uint8Array {
    if (this.#head > 0) {
      this.bytes.copyWithin(0, this.#head, this.#tail);
      this.#tail -= this.#head;
      this.#head = 0;
    }
    if (this.#tail === this.bytes.length) {
      throw new Error("a message is longer than the room for it");
    }
    return this.bytes.subarray(this.#tail);
  }
}
