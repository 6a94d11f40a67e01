/**
 * Writes messages to a stream: small ones are joined, large ones go out from
 * where they are.
 *
 * @module
 */

import type { ByteStream } from "./byte_stream.ts";

/** Messages up to this are copied to travel together: a copy is cheaper than a call. */
const COPY_BYTES = 16_384;

/**
 * A caller's memory up to this is copied as well: what is not cannot be taken
 * back so easily.
 */
const LEND_BYTES = 32_768;

/** Bytes of a message that are held back until the rest is known to be right. */
const HELD_BACK_BYTES = 512;

/** Bytes of the memory that small messages are joined in. */
const JOIN_BYTES = 131_072;

/** Pieces of such memory that are kept while nobody needs them. */
const MAX_SPARE = 8;

/** Memory that small messages are joined in. */
interface Join {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;
}

const spare: Join[] = [];

/** In the place of memory that is written and not needed any more. */
const NOTHING = new Uint8Array();

/** Bytes to write and what to do then. */
interface Outgoing {
  /** The memory; that of a caller may become a copy. */
  bytes: Uint8Array;
  /** Bytes that it had when it was pushed: a caller's memory may shrink. */
  length: number;
  readonly done: (() => void) | null;
  /** The message that some of it belongs to, if that one lends memory. */
  readonly message: OutgoingMessage | null;
  /** Where that message begins in it; before are other ones. */
  readonly from: number;
  /** The message that ends in it, if that one lends memory. */
  readonly ends: OutgoingMessage | null;
  /** Where that message ends in it; behind are other ones. */
  readonly to: number;
}

/**
 * A message of several pieces, some of which are written from a caller's own
 * memory. Whoever else gets that memory meanwhile must not have its bytes sent:
 * if it changes before any of the message is on its way, none of it goes out;
 * and its end is a copy that goes out only if the memory has not changed while
 * the system had it, so that the other side never takes the message for whole.
 */
export interface OutgoingMessage {
  /** What is written from a caller's memory. */
  readonly lent: readonly Outgoing[];
  /** Whether some of it is on its way. */
  readonly begun: boolean;
  /** Whether it will not go out. */
  readonly dropped: boolean;
}

/** Why nothing more can be sent. */
const CHANGED =
  "the memory of a request was detached or resized while it was sent";

/** The same, for who makes it. */
interface OpenMessage extends OutgoingMessage {
  readonly lent: Outgoing[];
  readonly onDropped: () => void;
  begun: boolean;
  dropped: boolean;
}

/**
 * Writes messages in order. What is pushed in one turn of the event loop, and
 * while an earlier write is under way, goes out together.
 */
export class StreamWriter {
  readonly #stream: ByteStream;
  readonly #onProgress: () => void;
  readonly #onFailure: (error: unknown) => void;
  #queue: Outgoing[] = [];
  #current: Outgoing | null = null;
  #join: Join | null = null;
  #joined = 0;
  #message: OpenMessage | null = null;
  /** Where the open message begins in the memory for small ones. */
  #messageFrom = 0;
  /** The message that ends in that memory, and where. */
  #ends: OpenMessage | null = null;
  #endsAt = 0;
  #scheduled = false;
  #writing = false;
  #failed = false;
  #idle: (() => void)[] = [];
  #written: (() => void)[] = [];
  /** Bytes that were pushed and are not written yet. */
  pendingBytes = 0;
  /** Those of them that are here, as they were copied. */
  copiedBytes = 0;
  /** Bytes that were written. */
  writtenBytes = 0;

  /**
   * Constructs a new instance.
   *
   * @param stream Where to.
   * @param onProgress Called when bytes were written.
   * @param onFailure Called once if that fails; nothing is written from then
   * on.
   */
  constructor(
    stream: ByteStream,
    onProgress: () => void,
    onFailure: (error: unknown) => void,
  ) {
    this.#stream = stream;
    this.#onProgress = onProgress;
    this.#onFailure = onFailure;
  }

  /** Where {@linkcode reserve} made room. */
  get view(): DataView {
    return this.#join!.view;
  }

  /**
   * Makes room for a small message, to be filled in before anything else is
   * pushed.
   *
   * @param length Bytes, up to 16 KiB.
   * @returns Offset of the room in {@linkcode view}.
   */
  reserve(length: number): number {
    if (this.#join !== null && this.#joined + length > JOIN_BYTES) this.#seal();
    if (this.#join === null) this.#join = spare.pop() ?? makeJoin();
    const at = this.#joined;
    this.#joined += length;
    this.pendingBytes += length;
    this.copiedBytes += length;
    this.#schedule();
    return at;
  }

  /**
   * Pushes a message.
   *
   * @param bytes The message; it must stay as it is until it is done.
   * @param done Called when the memory is free again, maybe at once.
   */
  push(bytes: Uint8Array, done: (() => void) | null = null): void {
    const { length } = bytes;
    const message = this.#message;
    if (length <= (message === null ? COPY_BYTES : LEND_BYTES)) {
      const at = this.reserve(length);
      this.#join!.bytes.set(bytes, at);
      done?.();
      return;
    }
    this.#seal();
    this.pendingBytes += length;
    // Of the rest, copies go out.
    const lends = message === null || canLend(bytes);
    const outgoing = {
      bytes: lends ? bytes : bytes.slice(),
      length,
      done,
      message,
      from: 0,
      ends: null,
      to: 0,
    };
    if (lends) message?.lent.push(outgoing);
    this.#queue.push(outgoing);
    this.#schedule();
  }

  /**
   * Begins a message of several pieces from a caller's memory, which may be
   * detached or resized at any time: what is pushed until {@linkcode end} is
   * that message.
   *
   * @param onDropped Called if that memory has changed before any of the message
   * is on its way, so that none of it goes out. If it changes later the writer
   * fails, as what follows would be taken for the rest.
   */
  begin(onDropped: () => void): void {
    this.#message = { lent: [], onDropped, begun: false, dropped: false };
    this.#messageFrom = this.#join === null ? 0 : this.#joined;
  }

  /**
   * Ends what {@linkcode begin} began.
   *
   * @returns The message if some of it is still in a caller's memory; `null` if
   * that memory is not needed any more.
   */
  end(): OutgoingMessage | null {
    const message = this.#message!;
    const last = message.lent.at(-1);
    if (last === undefined) {
      this.#message = null;
      return null;
    }
    // Copies that follow a caller's memory are an end as good as this one.
    if (last === this.#queue.at(-1) && this.#join === null) {
      const { bytes } = last;
      const at = this.reserve(HELD_BACK_BYTES);
      last.length -= HELD_BACK_BYTES;
      last.bytes = bytes.subarray(0, last.length);
      this.#join!.bytes.set(bytes.subarray(last.length), at);
      this.pendingBytes -= HELD_BACK_BYTES;
    }
    this.#message = null;
    this.#ends = message;
    this.#endsAt = this.#joined;
    return message;
  }

  /**
   * Gives a message's memory back to its owner: what is not on its way goes out
   * from a copy, and a message of which nothing is on its way not at all.
   *
   * @param message The message.
   * @returns When nobody reads the memory any more; `null` if nobody does now.
   */
  release(message: OutgoingMessage): Promise<void> | null {
    const open = message as OpenMessage;
    const current = this.#current;
    if (!open.begun && current?.message !== open) {
      open.dropped = true;
      return null;
    }
    for (const outgoing of open.lent) {
      // Not what is written, and not what has changed: it cannot be sent anyway.
      if (!hasChanged(outgoing)) outgoing.bytes = outgoing.bytes.slice();
    }
    return current !== null && open.lent.includes(current)
      ? new Promise((resolve) => this.#written.push(resolve))
      : null;
  }

  /**
   * Waits until everything is written, or never will be.
   *
   * @returns When it is.
   */
  settled(): Promise<void> {
    if (this.pendingBytes === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  /**
   * Waits until nothing is being written, after {@linkcode abandon}: then
   * nobody reads a caller's memory any more.
   *
   * @returns When that is; `null` if it is now.
   */
  stopped(): Promise<void> | null {
    return this.#writing
      ? new Promise((resolve) => this.#idle.push(resolve))
      : null;
  }

  /** Lets go of everything; nothing is written from now on. */
  abandon(): void {
    this.#failed = true;
    if (!this.#writing) this.#drop();
  }

  #seal(): void {
    const join = this.#join;
    if (join === null) return;
    const length = this.#joined;
    this.#queue.push({
      bytes: join.bytes.subarray(0, length),
      length,
      done: () => {
        this.copiedBytes -= length;
        if (spare.length < MAX_SPARE) spare.push(join);
      },
      message: this.#message,
      from: this.#messageFrom,
      ends: this.#ends,
      to: this.#endsAt,
    });
    this.#ends = null;
    this.#join = null;
    this.#joined = 0;
    this.#messageFrom = 0;
  }

  #schedule(): void {
    if (this.#scheduled || this.#writing) return;
    this.#scheduled = true;
    queueMicrotask(this.#pump);
  }

  readonly #pump = async (): Promise<void> => {
    this.#scheduled = false;
    this.#writing = true;
    try {
      while (!this.#failed) {
        if (this.#queue.length === 0) this.#seal();
        const queue = this.#queue;
        if (queue.length === 0) break;
        this.#queue = [];
        for (let i = 0; i < queue.length && !this.#failed; i++) {
          await this.#write(queue[i]!);
          this.#onProgress();
        }
      }
    } catch (error) {
      if (!this.#failed) {
        this.#failed = true;
        this.#onFailure(error);
      }
    }
    this.#current = null;
    this.#writing = false;
    for (const resolve of this.#written.splice(0)) resolve();
    if (this.#failed) this.#drop();
    for (const resolve of this.#idle.splice(0)) resolve();
  };

  async #write(outgoing: Outgoing): Promise<void> {
    const { length, done, from, ends } = outgoing;
    const message = outgoing.message as OpenMessage | null;
    this.#current = outgoing;
    let at = ends?.dropped ? outgoing.to : 0;
    let end = length;
    this.pendingBytes -= at;
    for (; !this.#failed;) {
      if (message !== null && !message.begun && end === length) {
        if (!message.dropped && message.lent.some(hasChanged)) {
          message.dropped = true;
          message.onDropped();
        }
        if (message.dropped) {
          end = from;
          this.pendingBytes -= length - from;
        }
      }
      const { bytes } = outgoing;
      if (end > from && hasChanged(outgoing)) throw new Error(CHANGED);
      if (at >= end) break;
      const written = await this.#stream.write(
        at === 0 && end === length ? bytes : bytes.subarray(at, end),
      );
      // Also if it was released meanwhile: the rest is a copy, but what the system
      // had until now was the memory itself, and may have been anybody's by then.
      if (message !== null && end > from && bytes.length !== length) {
        throw new Error(CHANGED);
      }
      if (!(written > 0)) throw new Error("nothing more can be sent");
      at += written;
      this.pendingBytes -= written;
      this.writtenBytes += written;
      if (message !== null && at > from && end === length) message.begun = true;
      for (const resolve of this.#written.splice(0)) resolve();
    }
    this.#current = null;
    if (message !== null && !this.#failed) outgoing.bytes = NOTHING;
    done?.();
  }

  #drop(): void {
    this.#queue = [];
    this.#join = null;
    this.#joined = 0;
    this.pendingBytes = 0;
    this.copiedBytes = 0;
    for (const resolve of this.#idle.splice(0)) resolve();
  }
}

/**
 * Tells whether a system call may have memory for as long as it likes: what can
 * shrink would make the call fail, and what threads share Deno does not take.
 *
 * @param bytes The memory.
 * @returns Whether it may.
 */
export function canLend({ buffer }: Uint8Array): boolean {
  return buffer instanceof ArrayBuffer && !buffer.resizable;
}

function hasChanged({ bytes, length }: Outgoing): boolean {
  return bytes.length !== length;
}

function makeJoin(): Join {
  const bytes = new Uint8Array(JOIN_BYTES);
  return { bytes, view: new DataView(bytes.buffer) };
}
