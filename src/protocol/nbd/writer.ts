/**
 * Writes messages to a stream: small ones are joined, large ones go out from
 * where they are.
 *
 * What is to be written is a list of pieces. A piece belongs to one message, or
 * to none that anybody could take back, so that dropping a message is skipping
 * its pieces; neighbours that lie side by side in the memory for small ones go
 * out in one write.
 *
 * @module
 */

import type { ByteStream } from "../../platform/byte_stream.ts";

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
  /** Bytes that are taken. */
  used: number;
  /** Pieces in it that are not written yet. */
  pieces: number;
}

const spare: Join[] = [];

/** In the place of memory that is written and not needed any more. */
const NOTHING = new Uint8Array();

/** Bytes to write. */
interface Piece {
  /** The memory they are in; that of a caller may become a copy. */
  bytes: Uint8Array;
  /** Bytes of that memory when it was pushed: a caller's may shrink. */
  length: number;
  /** What of it is not written yet. */
  from: number;
  to: number;
  /** The memory for small messages that they are in; `null` if they are not. */
  readonly join: Join | null;
  readonly message: OpenMessage | null;
  /** Called when the memory is free again. */
  readonly done: (() => void) | null;
  next: Piece | null;
}

/**
 * A message of several pieces, some of which are written from a caller's own
 * memory. What others put in that memory meanwhile must not be sent:
 * if it changes before any of the message is on its way, none of it goes out;
 * and its end is a copy that goes out only if the memory has not changed while
 * the system had it, so that the other side never takes the message for whole.
 */
export interface OutgoingMessage {
  /** Whether it will not go out. */
  readonly dropped: boolean;
}

/** Why nothing more can be sent. */
const CHANGED =
  "the memory of a request was detached or resized while it was sent";

/** The same, for who makes it. */
interface OpenMessage extends OutgoingMessage {
  /** What is written from a caller's memory. */
  readonly lent: Piece[];
  readonly onDropped: () => void;
  /** Whether some of it was written. */
  begun: boolean;
  dropped: boolean;
}

/**
 * Writes messages in order. What is pushed in one turn of the event loop, and
 * while an earlier write is in flight, goes out together.
 */
export class StreamWriter {
  readonly #stream: ByteStream;
  readonly #onProgress: () => void;
  readonly #onFailure: (error: unknown) => void;
  /** What is not written yet, in order. */
  #first: Piece | null = null;
  #last: Piece | null = null;
  /** The last of the pieces that the system has, which begin with the first. */
  #sending: Piece | null = null;
  #join: Join | null = null;
  /** The message that is being pushed. */
  #message: OpenMessage | null = null;
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
  /** The message that nothing more can be sent for, as its memory has changed. */
  changed: OutgoingMessage | null = null;

  /**
   * Constructs a new instance.
   *
   * @param stream Where to.
   * @param onProgress Called when bytes were written, or let go of.
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
   * @param length Bytes, up to 32 KiB.
   * @returns Offset of the room in {@linkcode view}.
   */
  reserve(length: number): number {
    let join = this.#join;
    if (join === null || join.used + length > JOIN_BYTES) {
      join = this.#join = spare.pop() ?? makeJoin();
    }
    const at = join.used;
    // It goes nowhere, and the next one is written over it.
    if (this.#failed) return at;
    join.used += length;
    const last = this.#last;
    if (last?.join === join && last.message === this.#message) {
      last.to = join.used;
    } else {
      join.pieces++;
      this.#add(join.bytes, at, join.used, join, null);
    }
    this.pendingBytes += length;
    this.copiedBytes += length;
    this.#schedule();
    return at;
  }

  /**
   * Pushes a message.
   *
   * @param bytes The message; it must stay as it is until it is done.
   * @param done Called when the memory is free again, maybe at once: also if the
   * message will never go out.
   */
  push(bytes: Uint8Array, done: (() => void) | null = null): void {
    if (this.#failed) return done?.();
    const { length } = bytes;
    const message = this.#message;
    if (length <= (message === null ? COPY_BYTES : LEND_BYTES)) {
      const at = this.reserve(length);
      this.#join!.bytes.set(bytes, at);
      done?.();
      return;
    }
    this.pendingBytes += length;
    if (message === null) this.#add(bytes, 0, length, null, done);
    else if (canLend(bytes)) {
      message.lent.push(this.#add(bytes, 0, length, null, done));
    } else this.#add(bytes.slice(), 0, length, null, done);
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
    // Copies that follow a caller's memory are an end as good as this one.
    if (last !== undefined && last === this.#last) {
      const { bytes } = last;
      last.length = last.to -= HELD_BACK_BYTES;
      last.bytes = bytes.subarray(0, last.to);
      this.pendingBytes -= HELD_BACK_BYTES;
      const at = this.reserve(HELD_BACK_BYTES);
      this.#join!.bytes.set(bytes.subarray(last.to), at);
    }
    this.#message = null;
    return last === undefined ? null : message;
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
    let sent = false;
    for (const piece of this.#inSystem()) sent ||= piece.message === open;
    if (!open.begun && !sent) {
      open.dropped = true;
      return null;
    }
    for (const piece of open.lent) {
      // Not what is written, and not what has changed: it cannot be sent anyway.
      if (!hasChanged(piece)) piece.bytes = piece.bytes.slice();
    }
    return this.reads(message);
  }

  /**
   * Waits until the system does not read a message's memory any more, or has it
   * no longer for now.
   *
   * @param message The message.
   * @returns When that is; `null` if it does not now.
   */
  reads(message: OutgoingMessage): Promise<void> | null {
    const { lent } = message as OpenMessage;
    for (const piece of this.#inSystem()) {
      if (!lent.includes(piece)) continue;
      return new Promise((resolve) => this.#written.push(resolve));
    }
    return null;
  }

  /**
   * Tells whether some of a message's memory has not been written.
   *
   * @param message The message.
   * @returns Whether it has not.
   */
  holds(message: OutgoingMessage): boolean {
    return (message as OpenMessage).lent.some(({ from, to }) => from < to);
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

  /**
   * Lets go of everything; nothing is written from now on. What is pushed later
   * takes no memory and counts as nothing.
   */
  abandon(): void {
    this.#failed = true;
    if (!this.#writing) this.#forget();
  }

  #add(
    bytes: Uint8Array,
    from: number,
    to: number,
    join: Join | null,
    done: (() => void) | null,
  ): Piece {
    const piece: Piece = {
      bytes,
      length: bytes.length,
      from,
      to,
      join,
      message: this.#message,
      done,
      next: null,
    };
    if (this.#last === null) this.#first = piece;
    else this.#last.next = piece;
    this.#last = piece;
    return piece;
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
        this.#skipDropped();
        const piece = this.#first;
        if (piece === null) break;
        const to = this.#gather(piece);
        if (this.#failed) break;
        const { bytes } = piece;
        if (hasChanged(piece)) this.#refuseChanged(piece);
        const written = await this.#stream.write(
          piece.from === 0 && to === bytes.length
            ? bytes
            : bytes.subarray(piece.from, to),
        );
        // Also if it was released meanwhile: the rest is a copy, but what the
        // system had until now was the memory itself, and may have been
        // anybody's by then.
        if (bytes.length !== piece.length) this.#refuseChanged(piece);
        if (!(written > 0)) throw new Error("nothing more can be sent");
        this.#sending = null;
        this.#account(written);
        for (const resolve of this.#written.splice(0)) resolve();
        if (this.#first !== piece) this.#onProgress();
      }
    } catch (error) {
      if (!this.#failed) {
        this.#failed = true;
        this.#onFailure(error);
      }
    }
    this.#sending = null;
    this.#writing = false;
    for (const resolve of this.#written.splice(0)) resolve();
    if (this.#failed) this.#forget();
    for (const resolve of this.#idle.splice(0)) resolve();
  };

  /** Ends the stream: what follows would be taken for the rest of a message. */
  #refuseChanged(piece: Piece): never {
    this.changed = piece.message;
    throw new Error(CHANGED);
  }

  /** Takes out what comes next and is not to go out. */
  #skipDropped(): void {
    while (this.#first !== null && isDropped(this.#first)) {
      this.#passed(this.#first, this.#first.to - this.#first.from);
    }
  }

  /**
   * Finds how far the memory of a piece goes on with the ones that follow. They
   * count as sent from here on, as the callback of a message that is dropped may
   * release another one.
   */
  #gather(piece: Piece): number {
    this.#sending = piece;
    for (let { next } = piece; next !== null; next = next.next) {
      if (next.join === null || next.join !== piece.join || isDropped(next)) {
        break;
      }
      this.#sending = next;
    }
    return this.#sending.to;
  }

  /** What the system has at the moment. */
  *#inSystem(): Generator<Piece> {
    if (this.#sending === null) return;
    for (let piece = this.#first; piece !== null; piece = piece.next) {
      yield piece;
      if (piece === this.#sending) return;
    }
  }

  /** Counts what was written. */
  #account(written: number): void {
    this.writtenBytes += written;
    for (let left = written; left > 0;) {
      const piece = this.#first!;
      const part = Math.min(left, piece.to - piece.from);
      left -= part;
      if (piece.message !== null) piece.message.begun = true;
      this.#passed(piece, part);
    }
  }

  /** Bytes of the first piece went out or will not; its memory may be free. */
  #passed(piece: Piece, length: number): void {
    const { join } = piece;
    piece.from += length;
    this.pendingBytes -= length;
    if (join !== null) this.copiedBytes -= length;
    if (piece.from < piece.to) return;
    this.#first = piece.next;
    if (this.#first === null) this.#last = null;
    if (join !== null && --join.pieces === 0) {
      join.used = 0;
      if (join !== this.#join && spare.length < MAX_SPARE) spare.push(join);
    }
    // Who has the message may have it for longer than its data.
    if (piece.message !== null) piece.bytes = NOTHING;
    piece.done?.();
  }

  #forget(): void {
    let piece = this.#first;
    this.#first = null;
    this.#last = null;
    this.#join = null;
    this.pendingBytes = 0;
    this.copiedBytes = 0;
    for (; piece !== null; piece = piece.next) piece.done?.();
    this.#onProgress();
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

function hasChanged({ bytes, length }: Piece): boolean {
  return bytes.length !== length;
}

/**
 * Whether a piece is not to go out, as its message is dropped: at the latest now
 * if memory that it needs has changed and none of it was written.
 */
function isDropped({ message }: Piece): boolean {
  if (message === null) return false;
  if (!message.begun && !message.dropped && message.lent.some(hasChanged)) {
    message.dropped = true;
    message.onDropped();
  }
  return message.dropped;
}

function makeJoin(): Join {
  const bytes = new Uint8Array(JOIN_BYTES);
  return { bytes, view: new DataView(bytes.buffer), used: 0, pieces: 0 };
}
