/**
 * What a server answers. A reply must give each byte of what was asked for
 * exactly once; anything else ends it all, as nothing that follows can be
 * trusted.
 *
 * @module
 */

import { refuseChanged } from "../../backend.ts";
import { clear, scatter } from "../../buffer.ts";
import type { DiskError } from "../../errors.ts";
import { readU64 } from "../../protocol/nbd/big_endian.ts";
import {
  CHUNK_BYTES,
  CHUNK_DONE,
  CHUNK_ERROR,
  ChunkType,
  Command,
  Magic,
  SIMPLE_REPLY_BYTES,
} from "../../protocol/nbd/numbers.ts";
import type { MessageReader } from "../../protocol/nbd/reader.ts";
import { canLend } from "../../protocol/nbd/writer.ts";
import { CoveredRanges } from "./covered_ranges.ts";
import { type Piece, startOf, type Transfer } from "./piece.ts";

/** Bytes of a chunk that reports an error. */
const MAX_ERROR_BYTES = 8192;

/** Chunks that report errors in one reply. */
const MAX_ERROR_CHUNKS = 64;

/** Who asked, and gets the answers. */
export interface Asker {
  /**
   * Tells whether the connection is lost, so that nothing is taken any more.
   *
   * @returns Whether it is.
   */
  isLost(): boolean;
  /**
   * Finds what is in flight.
   *
   * @param cookie What the reply is known by.
   * @returns The piece; nothing if there is none.
   */
  pieceOf(cookie: number): Piece | undefined;
  /**
   * Hears that a piece is answered.
   *
   * @param piece The piece; its data has come, or it has an error.
   * @throws {Error} If the reply cannot be.
   */
  answered(piece: Piece): void;
  /**
   * Makes an error of what the server says.
   *
   * @param piece What it is about.
   * @param number The number on the wire.
   * @param text What is said about it.
   * @returns The error.
   */
  serverError(piece: Piece, number: number, text?: string): DiskError;
}

/** Takes replies, and puts their data where it belongs. */
export class Replies {
  readonly #reader: MessageReader;
  readonly #structured: boolean;
  readonly #uri: string;
  readonly #asker: Asker;
  /** The piece whose data is received, where it goes, and how much is left. */
  #filling: Piece | null = null;
  #fillAt = 0;
  #fillLeft = 0;
  /** Whether that completes the piece. */
  #fillEnds = false;
  #straightEnds: (() => void)[] = [];
  /** Whose memory the socket is being read into. */
  straight: Transfer | null = null;

  /**
   * Constructs a new instance.
   *
   * @param reader Where from.
   * @param structured Whether reads are answered in chunks.
   * @param uri What the disk is called.
   * @param asker Who asked.
   */
  constructor(
    reader: MessageReader,
    structured: boolean,
    uri: string,
    asker: Asker,
  ) {
    this.#reader = reader;
    this.#structured = structured;
    this.#uri = uri;
    this.#asker = asker;
  }

  /**
   * Takes replies until the connection is lost.
   *
   * @returns When it is.
   * @throws {Error} If it ends, fails, or the server does not answer as the
   * protocol wants.
   */
  async run(): Promise<void> {
    for (;;) {
      while (this.#takeNext());
      const target = this.#straightTarget();
      const count = await this.#reader.fill(target);
      if (target !== null) this.#endStraight();
      if (this.#asker.isLost()) return;
      if (count === null) {
        throw this.#reader.failure ?? new Error("the server hung up");
      }
      if (target !== null) {
        const piece = this.#filling!;
        piece.error ??= refuseChanged(piece.transfer.request, this.#uri);
        this.#filled(count);
      }
    }
  }

  /**
   * Waits until the system has let go of the memory that the socket is being
   * read into.
   *
   * @returns When it has.
   */
  straightEnd(): Promise<void> {
    return new Promise((resolve) => this.#straightEnds.push(resolve));
  }

  /** Lets go of what it was about. */
  forget(): void {
    this.#filling = null;
  }

  /** Where the rest of large data goes without a copy, if it can. */
  #straightTarget(): Uint8Array | null {
    if (!this.#reader.canGoStraight(this.#fillLeft)) return null;
    const { transfer, error } = this.#filling!;
    const { data, more } = transfer.request;
    if (
      error !== null || transfer.answered || transfer.aborted ||
      more.length > 0 || data!.length !== transfer.total || !canLend(data!)
    ) return null;
    this.straight = transfer;
    return data!.subarray(this.#fillAt, this.#fillAt + this.#fillLeft);
  }

  #endStraight(): void {
    this.straight = null;
    for (const resolve of this.#straightEnds.splice(0)) resolve();
  }

  /** Takes the next answer, or a part of it; tells whether there was one. */
  #takeNext(): boolean {
    if (this.#asker.isLost()) return false;
    const reader = this.#reader;
    const { available } = reader;
    if (this.#filling !== null) {
      const count = Math.min(this.#fillLeft, available);
      if (count > 0) {
        const at = reader.take(count);
        this.#store(this.#filling, reader.bytes.subarray(at, at + count));
        this.#filled(count);
      }
      return count > 0;
    }
    if (available < SIMPLE_REPLY_BYTES) return false;
    const magic = reader.view.getUint32(reader.at);
    if (magic === Magic.SimpleReply) return this.#takeSimple();
    if (magic === Magic.Chunk && this.#structured) {
      return available >= CHUNK_BYTES && this.#takeChunk(available);
    }
    throw new Error("a reply does not begin with its magic number");
  }

  #takeSimple(): boolean {
    const { at, view } = this.#reader;
    const piece = this.#pieceOf(at + 8);
    const code = view.getUint32(at + 4);
    if (piece.command === Command.Read && this.#structured) {
      throw new Error("a read is answered without chunks");
    }
    this.#reader.take(SIMPLE_REPLY_BYTES);
    if (code !== 0) {
      piece.error ??= this.#asker.serverError(piece, code);
    } else if (piece.command === Command.Read) {
      piece.received = piece.length;
      this.#fill(piece, piece.from, piece.length, true);
      return true;
    }
    this.#asker.answered(piece);
    return true;
  }

  #takeChunk(available: number): boolean {
    const { at, view } = this.#reader;
    const done = (view.getUint16(at + 4) & CHUNK_DONE) !== 0;
    const type = view.getUint16(at + 6);
    const length = view.getUint32(at + 16);
    const piece = this.#pieceOf(at + 8);
    const body = at + CHUNK_BYTES;
    if (type === ChunkType.OffsetData) {
      if (length < 8) throw new Error("a chunk is too short");
      if (available < CHUNK_BYTES + 8) return false;
      const to = this.#place(piece, readU64(view, body), length - 8);
      this.#reader.take(CHUNK_BYTES + 8);
      this.#fill(piece, to, length - 8, done);
      return true;
    }
    if (length > MAX_ERROR_BYTES) throw new Error("a chunk is too long");
    if (available < CHUNK_BYTES + length) return false;
    this.#reader.take(CHUNK_BYTES + length);
    if (type === ChunkType.OffsetHole) {
      if (length !== 12) throw new Error("a chunk has a wrong length");
      const size = view.getUint32(body + 8);
      const to = this.#place(piece, readU64(view, body), size);
      const { answered, aborted, request } = piece.transfer;
      if (!answered && !aborted && !clear(request, to, size)) {
        piece.error ??= refuseChanged(request, this.#uri);
      }
    } else if ((type & CHUNK_ERROR) !== 0) {
      this.#takeError(piece, type, body, length);
    } else if (type !== ChunkType.None || length !== 0 || !done) {
      throw new Error("a reply has a chunk that nobody asked for");
    }
    if (done) this.#asker.answered(piece);
    return true;
  }

  #takeError(piece: Piece, type: number, body: number, length: number): void {
    const { bytes, view } = this.#reader;
    const least = type === ChunkType.ErrorOffset ? 14 : 6;
    const textLength = length < least ? 0 : view.getUint16(body + 4);
    if (length < least + textLength) throw new Error("a chunk is too short");
    const number = view.getUint32(body);
    if (number === 0) throw new Error("a reply fails with no error");
    if (++piece.errorChunks > MAX_ERROR_CHUNKS) {
      throw new Error("a reply does not stop telling of errors");
    }
    if (type === ChunkType.ErrorOffset) {
      const offset = readU64(view, body + 6 + textLength) - startOf(piece);
      if (offset < 0 || offset >= Math.max(piece.length, 1)) {
        throw new Error("a reply fails where nothing was asked for");
      }
    }
    const text = new TextDecoder().decode(
      bytes.subarray(body + 6, body + 6 + textLength),
    );
    piece.error ??= this.#asker.serverError(piece, number, text);
  }

  /** Where data of a reply goes in the request, in bytes. */
  #place(piece: Piece, at: number, size: number): number {
    const offset = at - startOf(piece);
    if (
      piece.command !== Command.Read || size <= 0 || offset < 0 ||
      offset + size > piece.length
    ) throw new Error("a reply has data that nobody asked for");
    // Mostly it is one chunk.
    if (size < piece.length) {
      piece.covered ??= new CoveredRanges();
      piece.covered.add(offset, offset + size);
    } else if (piece.received > 0) {
      throw new Error("a reply has the same data twice");
    }
    piece.received += size;
    return piece.from + offset;
  }

  /** Puts received bytes where they belong, if that is still there. */
  #store(piece: Piece, source: Uint8Array): void {
    const { answered, aborted, request } = piece.transfer;
    if (answered || aborted || piece.error?.kind === "argument") return;
    if (!scatter(request, this.#fillAt, source)) {
      piece.error ??= refuseChanged(request, this.#uri);
    }
  }

  #pieceOf(at: number): Piece {
    const { view } = this.#reader;
    const piece = view.getUint32(at) === 0
      ? this.#asker.pieceOf(view.getUint32(at + 4))
      : undefined;
    if (piece === undefined) throw new Error("a reply is to no request");
    return piece;
  }

  #fill(piece: Piece, at: number, length: number, ends: boolean): void {
    this.#filling = piece;
    this.#fillAt = at;
    this.#fillLeft = length;
    this.#fillEnds = ends;
  }

  #filled(count: number): void {
    const piece = this.#filling!;
    this.#fillAt += count;
    this.#fillLeft -= count;
    if (this.#fillLeft > 0) return;
    this.#filling = null;
    if (this.#fillEnds) this.#asker.answered(piece);
  }
}
