/**
 * A disk behind an NBD server: on another machine, or in an engine that speaks
 * NBD (qemu-nbd, nbdkit, and Ceph's rbd through them).
 *
 * Requests are pipelined over one connection and answered in whatever order the
 * server likes. It does not reconnect: whether a write that was in flight
 * happened, and whether what the server had not flushed is still there, nobody
 * can tell afterwards. So when the connection is lost, everything in flight
 * fails with an error of kind `io`, and so does everything after it; opening
 * the disk anew is for the program to decide.
 *
 * A server may never answer, and nothing waits for it for ever. A request that
 * is aborted is answered at once, whatever becomes of it at the server: its
 * reply goes nowhere when it comes, what overlaps a write that was left there
 * waits for that reply, and flushes wait for all of them, so that the order of
 * writes and the failure of a flush survive (`../abandoned.ts`). Only if the system
 * still has the request's memory, as the server takes or sends no more of its
 * data, the connection is dropped for it. Closing has a bound
 * (`silence_watch.ts`).
 *
 * One flush is in flight at a time, for all that ask for one at once: those of
 * durable writes to a server that has no FUA included. None follows one that
 * failed (`../shared_flush.ts`).
 *
 * A server may lie. A reply must give each byte of what was asked for exactly
 * once; anything else loses the connection, as nothing that follows can be
 * trusted.
 *
 * The life of the connection:
 *
 * | state | what is submitted | what ends it |
 * | --- | --- | --- |
 * | open | is carried out | the server says ESHUTDOWN: leaving; `close()`: closing; loss: broken |
 * | leaving | fails with ESHUTDOWN | nothing is in flight, after saying so: broken; `close()`: closing; loss: broken |
 * | closing | is refused as closed | nothing is in flight, after saying so: closed; loss: broken |
 * | broken | fails with why it is | `close()`, when nothing is in flight: closed |
 * | closed | is refused as closed | nothing |
 *
 * "Loss" is whatever ends it early: the server hangs up, lies or is silent for
 * too long. What is in flight is counted in one place, {@linkcode InFlight},
 * which also knows whether the disk was closed: with that, a broken connection
 * refuses as a closed one does.
 *
 * @module
 */

import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Limits,
  refuse,
  refuseChanged,
} from "../../backend.ts";
import { offsetMemory } from "../../buffer.ts";
import { DiskError } from "../../errors.ts";
import { type Geometry, SECTOR_BYTES } from "../../geometry.ts";
import { InFlight } from "../../in_flight.ts";
import type { BackendInfo } from "../../info.ts";
import { keepOnThread } from "../../one_thread.ts";
import { printable } from "../../printable.ts";
import type { ByteStream } from "../../platform/byte_stream.ts";
import { connectionFault } from "../../platform/sockets.ts";
import { writeU64 } from "../../protocol/nbd/big_endian.ts";
import {
  Command,
  CommandFlag,
  ExportFlag,
  Magic,
  REQUEST_BYTES,
  WireError,
} from "../../protocol/nbd/numbers.ts";
import { MessageReader } from "../../protocol/nbd/reader.ts";
import {
  type OutgoingMessage,
  StreamWriter,
} from "../../protocol/nbd/writer.ts";
import { type Request, RequestFlag, RequestType } from "../../request.ts";
import {
  abortedError,
  changedError,
  closedError,
  errnoError,
  latchedError,
  requestError,
  sharedFlushError,
} from "../../request_error.ts";
import { encodeId } from "../../virtio.ts";
import { Abandoned } from "../abandoned.ts";
import { SharedFlush } from "../shared_flush.ts";
import type { Negotiated } from "./client_handshake.ts";
import { DEFAULT_CLOSE_TIMEOUT_MS, type NbdOptions } from "./options.ts";
import type { Piece, Transfer } from "./piece.ts";
import { Replies } from "./replies.ts";
import { abilitiesOf, describe, geometryOf } from "./shape.ts";
import { SilenceWatch } from "./silence_watch.ts";
import { answerRequest } from "../../throw_later.ts";

/** Pieces of one request that are in flight at once. */
const MAX_PIECES = 8;

/** Bytes that adjacent requests are merged to. */
const MAX_MERGED_BYTES = 1_048_576;

/** Bytes of one piece of zeroes or of a discard. */
const MAX_RANGE_BYTES = 1 << 30;

/** Bytes of one piece of zeroes that have to be moved. */
const MAX_ZERO_BYTES = 1 << 20;

/**
 * How long the system may keep an aborted request's memory, in ms, before the
 * connection is dropped to get it back.
 */
const ABORT_GRACE_MS = 500;

/** Pieces of aborted requests that a server may leave unanswered. */
const MAX_ABANDONED = 4096;

/** The life of the connection, as the head of this file has it. */
type State = "open" | "leaving" | "closing" | "broken" | "closed";

/** Requests over an NBD connection. */
export class NbdBackend implements Backend {
  /** Why there are no blocking calls. */
  readonly asyncOnly =
    "an NBD server answers through a socket, which is read in turns of the event loop";
  readonly #stream: ByteStream & { ref?(): void; unref?(): void };
  readonly #writer: StreamWriter;
  readonly #maximum: number;
  readonly #exportFlags: number;
  readonly #uri: string;
  readonly #id: Uint8Array;
  readonly #pieces = new Map<number, Piece>();
  #cookie = 0;
  readonly #reader: MessageReader;
  readonly #replies: Replies;
  #state: State = "open";
  /** Whether NBD_CMD_DISC was sent. */
  #isLeft = false;
  /** Whether the disk is being closed, or the server shuts down. */
  #isClosing = false;
  readonly #inFlight = new InFlight();
  readonly #abandoned = new Abandoned<Transfer>();
  readonly #flushes = new SharedFlush<Transfer>((first) => {
    // A server that shuts down, or was left, is asked for nothing more.
    if (this.#isLeft) this.#flushed(closedError(first.request, this.#uri));
    else if (this.#shutdown === null) this.#ask(first, 0, 0, Command.Flush);
    else this.#flushed(this.#goneError(first.request));
  });
  /** Those that wait for a flush, as for a piece. */
  readonly #flushing = new Set<Transfer>();
  /** Looks on while the disk is being closed. */
  readonly #silence: SilenceWatch;
  /** Looks on from the beginning, if that was asked for. */
  readonly #patience: SilenceWatch | null;
  /** Why the connection is broken. */
  #lost: DiskError | null = null;
  /** What the server said when it was to shut down. */
  #shutdown: string | null = null;
  #zeroes: Uint8Array | null = null;
  /** Pieces that were answered. */
  #answers = 0;
  readonly #receiving: Promise<void>;
  /** The disk's shape. */
  readonly geometry: Geometry;
  /** What it can do. */
  readonly abilities: Abilities;
  /** How large requests may get. */
  readonly limits: Limits;
  /** What it is and why. */
  readonly info: BackendInfo;
  /** What it counted so far: nothing, as nothing it counts happens here. */
  readonly counters: Readonly<BackendCounters> = {
    systemCalls: 0,
    bounced: 0,
    readModifyWrites: 0,
  };

  /**
   * Constructs a new instance.
   *
   * @param stream The connection, after the handshake; the backend closes it.
   * @param negotiated What the server said.
   * @param uri What it is called.
   * @param id What the disk says of itself.
   * @param options How it is opened.
   * @throws {DiskError} If the export cannot be a disk.
   */
  constructor(
    stream: ByteStream & { ref?(): void; unref?(): void },
    negotiated: Negotiated,
    uri: string,
    id: string,
    options: NbdOptions,
  ) {
    keepOnThread(this, "a backend");
    this.#stream = stream;
    this.#reader = new MessageReader(stream);
    this.#uri = uri;
    this.#id = encodeId(id);
    this.#exportFlags = negotiated.flags;
    this.geometry = geometryOf(negotiated, uri, options);
    const { blockSize } = this.geometry;
    this.#maximum = negotiated.maximum - negotiated.maximum % blockSize;
    this.limits = {
      maxSegments: 256,
      maxBytes: Math.min(MAX_MERGED_BYTES, this.#maximum),
    };
    this.abilities = abilitiesOf(negotiated, options);
    this.info = describe(this.abilities, uri, id);
    this.#writer = new StreamWriter(
      stream,
      () => {},
      (error) => this.#lose(error),
    );
    const timeoutMs = options.closeTimeoutMs ?? DEFAULT_CLOSE_TIMEOUT_MS;
    const look = (waits: boolean) => ({
      answers: this.#answers,
      bytes: this.#reader.receivedBytes + this.#writer.writtenBytes,
      waits,
    });
    this.#silence = new SilenceWatch(
      timeoutMs,
      () => look(true),
      () =>
        this.#lose(
          `the server answered nothing for ${timeoutMs} ms while the disk was to be closed`,
        ),
    );
    const { requestTimeoutMs } = options;
    this.#patience = requestTimeoutMs === undefined ? null : new SilenceWatch(
      requestTimeoutMs,
      () => look(this.#inFlight.count > 0),
      () =>
        this.#lose(`the server answered nothing for ${requestTimeoutMs} ms`),
    );
    this.#patience?.start();
    stream.unref?.();
    this.#replies = new Replies(
      this.#reader,
      negotiated.structured,
      uri,
      {
        isLost: () => this.#ended,
        pieceOf: (cookie) => {
          const piece = this.#pieces.get(cookie);
          return piece?.isAnswered ? undefined : piece;
        },
        answered: (piece) => this.#answered(piece),
        serverError: (piece, number, text) =>
          this.#serverError(piece, number, text),
      },
    );
    this.#receiving = this.#replies.run().catch((error) => this.#lose(error));
  }

  /** Carries out a batch. */
  submit(batch: readonly Request[], complete: Complete): void {
    for (const request of batch) this.#start(request, complete);
  }

  /** Memory: any does as well as any other. */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return offsetMemory(byteLength);
  }

  /**
   * Answers a request early. What the server makes of it shows when it does.
   */
  cancel(request: Request): void {
    const held = this.#abandoned.withdraw(request);
    if (held !== undefined) {
      return this.#finish(held, this.#abortedError(held));
    }
    const pieces: Piece[] = [];
    for (const piece of this.#pieces.values()) {
      const { transfer } = piece;
      if (
        transfer.request === request && !transfer.answered && !transfer.aborted
      ) pieces.push(piece);
    }
    const transfer = pieces[0]?.transfer ?? this.#sharerOf(request);
    if (transfer === undefined) return;
    transfer.aborted = true;
    const waits: Promise<void>[] = [];
    for (const { message, cookie } of pieces) {
      if (message === null) continue;
      const wait = this.#writer.release(message);
      if (wait !== null) waits.push(wait);
      if (!message.dropped) continue;
      this.#pieces.delete(cookie);
      transfer.pieces--;
    }
    if (this.#replies.straight === transfer) {
      waits.push(this.#replies.straightEnd());
    }
    if (waits.length === 0) return this.#leave(transfer);
    const timer = setTimeout(() => {
      this.#lose("a request was aborted and its data did not move");
    }, ABORT_GRACE_MS);
    Promise.all(waits).then(() => {
      clearTimeout(timer);
      this.#leave(transfer);
    });
  }

  /** Hears that the disk is to be closed: from now on silence has a bound. */
  closing(): void {
    this.#isClosing = true;
    if (
      !this.#ended &&
      (this.#inFlight.count > 0 || this.#writer.pendingBytes > 0)
    ) this.#silence.start();
  }

  /**
   * Waits for everything submitted, says so, and hangs up. Silence of the
   * server ends it after `closeTimeoutMs`.
   */
  close(): Promise<void> {
    if (!this.#inFlight.closed) this.closing();
    if (!this.#ended) this.#state = "closing";
    return this.#inFlight.close(() => this.#release());
  }

  async #release(): Promise<void> {
    this.#stream.ref?.();
    if (this.#state === "closing") await this.#disconnect();
    this.#state = "closed";
    this.#hangUp();
    await this.#receiving;
    this.#silence.stop();
    this.#patience?.stop();
  }

  /** Whether replies are ignored from here on. */
  get #ended(): boolean {
    return this.#state === "broken" || this.#state === "closed";
  }

  /** Sends NBD_CMD_DISC, after which nothing may be sent. */
  async #disconnect(): Promise<void> {
    this.#isLeft = true;
    this.#send(Command.Disconnect, 0, 0, 0, 0);
    this.closing();
    await this.#writer.settled();
  }

  #hangUp(): void {
    try {
      this.#stream.close();
    } catch {
      // It is closed already.
    }
  }

  #start(request: Request, complete: Complete): void {
    const refused = this.#inFlight.closed
      ? closedError(request, this.#uri)
      : refuse(request, this.geometry, this.abilities, this.#uri) ??
        this.#refuseFua(request);
    if (refused !== null) return answerRequest(request, refused, complete);
    if (request.type === RequestType.GetId) {
      request.data!.set(this.#id);
      return answerRequest(request, null, complete);
    }
    if (this.#state !== "open") {
      return answerRequest(request, this.#goneError(request), complete);
    }
    if (this.#inFlight.count === 0) this.#stream.ref?.();
    this.#inFlight.enter(1);
    // The queue hands over what it still had, and whoever closes may flush.
    if (this.#isClosing) this.#silence.start();
    const transfer = this.#plan(request, complete);
    if (!this.#abandoned.holds(transfer)) this.#go(transfer);
  }

  #go(transfer: Transfer): void {
    const { request } = transfer;
    const flushes = request.type === RequestType.Flush ||
      request.writes && request.fua;
    const refused = flushes ? this.#refuseUnsafe(request) : null;
    if (refused !== null) this.#finish(transfer, refused);
    else if (transfer.command === Command.Flush) this.#flush(transfer);
    else this.#advance(transfer);
  }

  /** Answers an aborted request, of which pieces may be in flight. */
  #leave(transfer: Transfer): void {
    if (transfer.answered) return;
    this.#abandoned.add(transfer);
    this.#finish(transfer, transfer.error ?? this.#abortedError(transfer));
    if (this.#abandoned.pieces > MAX_ABANDONED) {
      this.#lose("the server answers nothing and many requests were aborted");
    }
  }

  /** A durable write to a server that makes nothing durable. */
  #refuseFua(request: Request): DiskError | null {
    return request.writes && request.fua && this.abilities.fua === "none"
      ? requestError(
        "unsupported",
        request,
        "the server makes nothing durable",
        { path: this.#uri },
      )
      : null;
  }

  #plan(request: Request, complete: Complete): Transfer {
    const fua = request.fua && request.writes;
    const native = (this.#exportFlags & ExportFlag.SendFua) !== 0;
    let flags = fua && native ? CommandFlag.Fua : 0;
    let command: number = Command.Flush;
    let pieceBytes = this.#maximum;
    switch (request.type) {
      case RequestType.In:
        command = Command.Read;
        break;
      case RequestType.Out:
        command = Command.Write;
        break;
      case RequestType.Discard:
        command = Command.Trim;
        pieceBytes = MAX_RANGE_BYTES;
        break;
      case RequestType.WriteZeroes:
        if (this.abilities.writeZeroes === "native") {
          command = Command.WriteZeroes;
          pieceBytes = MAX_RANGE_BYTES;
          if ((request.flags & RequestFlag.Unmap) === 0) {
            flags |= CommandFlag.NoHole;
          }
        } else {
          command = Command.Write;
          pieceBytes = Math.min(MAX_ZERO_BYTES, this.#maximum);
        }
        break;
    }
    return {
      request,
      complete,
      command,
      flags,
      pieceBytes,
      total: request.count * SECTOR_BYTES,
      asked: 0,
      pieces: 0,
      flush: fua && !native,
      error: null,
      aborted: false,
      answered: false,
    };
  }

  /** Asks for as much of a request as may be in flight. */
  #advance(transfer: Transfer): void {
    while (
      transfer.asked < transfer.total && transfer.pieces < MAX_PIECES &&
      transfer.error === null && !transfer.aborted
    ) {
      if (transfer.asked > 0) {
        transfer.error = this.#refusal(transfer.request);
        if (transfer.error !== null) return;
      }
      const from = transfer.asked;
      const length = Math.min(transfer.pieceBytes, transfer.total - from);
      transfer.asked += length;
      transfer.pieces++;
      this.#ask(transfer, from, length);
    }
  }

  /** Why nothing, or no more, of a request can be asked for by now. */
  #refusal(request: Request): DiskError | null {
    return this.#shutdown !== null
      ? this.#goneError(request)
      : refuseChanged(request, this.#uri);
  }

  #ask(
    transfer: Transfer,
    from: number,
    length: number,
    command: number = transfer.command,
  ): void {
    const { request } = transfer;
    do this.#cookie = (this.#cookie + 1) >>> 0; while (
      this.#pieces.has(this.#cookie)
    );
    const cookie = this.#cookie;
    const piece: Piece = {
      transfer,
      cookie,
      command,
      from,
      length,
      received: 0,
      covered: null,
      errorChunks: 0,
      message: null,
      isAnswered: false,
      error: null,
    };
    this.#pieces.set(cookie, piece);
    const offset = command === Command.Flush
      ? 0
      : request.sector * SECTOR_BYTES + from;
    const flags = command === Command.Flush ? 0 : transfer.flags;
    if (command !== Command.Write) {
      return this.#send(command, flags, offset, length, cookie);
    }
    this.#writer.begin(() => this.#dropped(piece));
    this.#send(command, flags, offset, length, cookie);
    if (request.type === RequestType.WriteZeroes) {
      this.#zeroes ??= new Uint8Array(MAX_ZERO_BYTES);
      this.#writer.push(this.#zeroes.subarray(0, length));
    } else this.#pushData(request, from, length);
    piece.message = this.#writer.end();
  }

  #pushData(request: Request, from: number, length: number): void {
    let base = 0;
    for (let i = 0; i < request.segmentCount; i++) {
      const segment = request.segment(i);
      const start = Math.max(from - base, 0);
      const end = Math.min(from + length - base, segment.length);
      if (start < end) this.#writer.push(segment.subarray(start, end));
      base += segment.length;
      if (base >= from + length) break;
    }
  }

  /**
   * The memory of a write has changed while it waited to be sent. Nothing of it
   * was, so that nothing will come back.
   */
  #dropped(piece: Piece): void {
    piece.error = changedError(piece.transfer.request, this.#uri);
    this.#end(piece);
  }

  #send(
    command: number,
    flags: number,
    offset: number,
    length: number,
    cookie: number,
  ): void {
    const at = this.#writer.reserve(REQUEST_BYTES);
    const { view } = this.#writer;
    view.setUint32(at, Magic.Request);
    view.setUint16(at + 4, flags);
    view.setUint16(at + 6, command);
    view.setUint32(at + 8, 0);
    view.setUint32(at + 12, cookie);
    writeU64(view, at + 16, offset);
    view.setUint32(at + 24, length);
  }

  /** The server has answered a piece, which is over unless its data is held. */
  #answered(piece: Piece): void {
    if (
      piece.command === Command.Read && piece.error === null &&
      piece.received !== piece.length
    ) throw new Error("a reply has less data than was asked for");
    const { message } = piece;
    if (message === null || !this.#writer.holds(message)) this.#end(piece);
    else this.#answeredEarly(piece, message);
  }

  /**
   * A write is answered before all of its data has gone out. A server may refuse
   * one at its header; then the caller has its memory back when the system does
   * not read it any more, and the rest is sent of a copy. Or the system has sent
   * it, and has not said so yet.
   */
  #answeredEarly(piece: Piece, message: OutgoingMessage): void {
    piece.isAnswered = true;
    const refused = piece.error !== null;
    const wait = refused
      ? this.#writer.release(message)
      : this.#writer.reads(message);
    const goOn = () => {
      if (this.#ended) return;
      if (message.dropped || !refused && this.#writer.holds(message)) {
        throw new Error("a write is answered before its data was sent");
      }
      this.#end(piece);
    };
    if (wait === null) goOn();
    else wait.then(goOn).catch((error) => this.#lose(error));
  }

  /** A piece is over: the server owes nothing of it, and nobody has its memory. */
  #end(piece: Piece): void {
    this.#pieces.delete(piece.cookie);
    this.#answers++;
    const { command, transfer, error } = piece;
    if (command === Command.Flush) this.#flushed(error);
    else {
      const isDurable = (transfer.flags & CommandFlag.Fua) !== 0;
      this.#over(transfer, error, isDurable ? error : null);
    }
    if (this.#state === "leaving" && this.#pieces.size === 0) this.#depart();
  }

  /** A piece of a request is over, or the flush that it waited for. */
  #over(
    transfer: Transfer,
    error: DiskError | null,
    flushFailure: DiskError | null,
  ): void {
    transfer.pieces--;
    if (!transfer.answered) return this.#goOn(transfer, error);
    this.#abandoned.returned(
      transfer,
      flushFailure,
      (waiting) => this.#resume(waiting),
    );
  }

  #goOn(transfer: Transfer, error: DiskError | null): void {
    transfer.error ??= error;
    this.#advance(transfer);
    if (transfer.pieces > 0) return;
    if (transfer.flush && transfer.error === null && !transfer.aborted) {
      transfer.flush = false;
      return this.#flush(transfer);
    }
    if (transfer.aborted) this.#leave(transfer);
    else this.#finish(transfer, transfer.error);
  }

  /** Asks for a flush, together with who else does. */
  #flush(transfer: Transfer): void {
    transfer.pieces++;
    this.#flushing.add(transfer);
    if (!this.#flushes.join(transfer)) this.#refuseFlush(transfer);
  }

  #refuseFlush(transfer: Transfer): void {
    this.#flushing.delete(transfer);
    this.#over(transfer, this.#latchedError(transfer.request), null);
  }

  /** Goes on with all who waited for the flush that is over. */
  #flushed(error: DiskError | null): void {
    const { group, refused } = this.#flushes.end(error);
    const [first] = group;
    for (const transfer of group) {
      const own = error === null || transfer === first
        ? error
        : sharedFlushError(transfer.request, error, this.#uri);
      this.#flushing.delete(transfer);
      this.#over(transfer, own, own);
    }
    for (const transfer of refused) this.#refuseFlush(transfer);
  }

  /** Whose request waits for a flush, if it is not answered. */
  #sharerOf(request: Request): Transfer | undefined {
    for (const transfer of this.#flushing) {
      if (
        transfer.request === request && !transfer.answered && !transfer.aborted
      ) return transfer;
    }
    return undefined;
  }

  /** Goes on with a request that has waited for an aborted one. */
  #resume(transfer: Transfer): void {
    // What was answered just now may have had it cancelled.
    if (transfer.answered) return;
    const refused = this.#refusal(transfer.request);
    if (refused === null) this.#go(transfer);
    else this.#finish(transfer, refused);
  }

  #finish(transfer: Transfer, error: DiskError | null): void {
    transfer.answered = true;
    if (this.#inFlight.count === 1) {
      this.#stream.unref?.();
      // A server that shuts down owes an end.
      if (this.#shutdown === null) this.#silence.stop();
    }
    this.#inFlight.answer(transfer.request, error, transfer.complete);
  }

  /** Leaves a server that shuts down, once it owes nothing any more. */
  async #depart(): Promise<void> {
    await this.#disconnect();
    this.#lose(this.#shutdown);
  }

  #serverError(piece: Piece, number: number, text = ""): DiskError {
    const code = Object.entries(WireError)
      .find(([, value]) => value === number)?.[0];
    const said = text === "" ? undefined : printable(text);
    if (number === WireError.ESHUTDOWN && this.#shutdown === null) {
      this.#shutdown = `the server is shutting down${said ? `: ${said}` : ""}`;
      if (this.#state === "open") this.#state = "leaving";
      // What it still owes comes in time, or not at all.
      this.closing();
    }
    return errnoError(
      piece.transfer.request,
      code ?? `error ${number}`,
      "the server",
      {
        path: this.#uri,
        text: said,
        // Numbers on the wire are its own: what has no name there has none here.
        errno: code === undefined ? number : undefined,
      },
    );
  }

  /** Why nothing can be asked for any more. */
  #goneError(request: Request): DiskError {
    return this.#lost !== null && this.#shutdown === null
      ? this.#lostError(request)
      : requestError(
        "io",
        request,
        `${this.#shutdown}: open the disk anew when it is back`,
        { path: this.#uri, code: "ESHUTDOWN" },
      );
  }

  /** Why nothing can be made durable any more, if a flush failed. */
  #refuseUnsafe(request: Request): DiskError | null {
    if (this.#abandoned.failure !== null) return this.#spoiledError(request);
    return this.#flushes.failure === null ? null : this.#latchedError(request);
  }

  #latchedError(request: Request): DiskError {
    return latchedError(request, this.#flushes.failure!, this.#uri);
  }

  /** The failure of an aborted flush, which its caller never got. */
  #spoiledError(request: Request): DiskError {
    const cause = this.#abandoned.failure!;
    const { kind, code = "EIO", errno, message } = cause;
    return requestError(
      kind,
      request,
      `an earlier flush, which was aborted, failed: ${message}`,
      { path: this.#uri, code, errno, cause },
    );
  }

  #abortedError({ request }: Transfer): DiskError {
    return abortedError(request, { path: this.#uri });
  }

  #lostError(request: Request): DiskError {
    const cause = this.#lost!;
    return requestError(
      "io",
      request,
      `the connection to the server is lost: ${cause.message}`,
      { path: this.#uri, code: "ENOTCONN", cause },
    );
  }

  /**
   * Fails everything in flight, once and for all: as soon as the system has let
   * go of its memory.
   */
  #lose(cause: unknown): void {
    if (this.#ended) return;
    this.#state = "broken";
    const text = connectionFault(cause);
    this.#lost = new DiskError("io", text, { path: this.#uri, cause });
    this.#silence.stop();
    this.#patience?.stop();
    this.#writer.abandon();
    this.#hangUp();
    const waits: Promise<void>[] = [];
    const stopped = this.#writer.stopped();
    if (stopped !== null) waits.push(stopped);
    if (this.#replies.straight !== null) {
      waits.push(this.#replies.straightEnd());
    }
    if (waits.length === 0) this.#failAll();
    else Promise.all(waits).then(() => this.#failAll());
  }

  #failAll(): void {
    const transfers = new Set<Transfer>();
    for (const { transfer, message } of this.#pieces.values()) {
      transfers.add(transfer);
      // What the connection was lost for is nobody else's fault.
      if (message !== null && message === this.#writer.changed) {
        transfer.error ??= changedError(transfer.request, this.#uri);
      }
    }
    for (const transfer of this.#abandoned.clear()) transfers.add(transfer);
    for (const transfer of this.#flushing) transfers.add(transfer);
    this.#pieces.clear();
    this.#flushing.clear();
    this.#replies.forget();
    for (const transfer of transfers) {
      if (transfer.answered) continue;
      const { error, request } = transfer;
      this.#finish(transfer, error ?? this.#lostError(request));
    }
  }
}
