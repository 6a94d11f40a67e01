/**
 * A disk that is an image in a Ceph cluster, by librbd.
 *
 * A request is cut into pieces, each of which is one call of librbd, which takes
 * it and returns. When a piece is over, one of librbd's threads writes a byte to a
 * socket; the event loop wakes, and takes all completions that there are. No
 * function of ours is called by such a thread, and none of ours waits for one.
 *
 * Data goes through memory that librbd may keep (`bounce.ts`), so that nothing
 * has to wait for it: a request that is aborted is answered at once, one that the
 * cluster does not answer within `requestTimeoutMs` is answered with ETIMEDOUT.
 * What librbd still has of them, what overlaps waits for, as do flushes
 * (`../abandoned.ts`): it may be carried out late, and never after what came
 * later. So a cluster that comes back goes on where it was.
 *
 * When the disk is closed, what is left at a cluster that does not answer is left
 * to librbd, with the memory that it needs, after `closeTimeoutMs`: the close fails
 * and says so, and all is given back when the cluster answers.
 *
 * @module
 */

import type { Socket } from "node:net";
import { clearTimeout, setTimeout } from "node:timers";
import type { MappedMemory } from "../../../ffi/mapped_memory.ts";
import { SocketPair } from "../../../ffi/socket_pair.ts";
import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Extent,
  type Limits,
  refuse,
  refuseChanged,
} from "../../backend.ts";
import { gather, offsetMemory, scatter } from "../../buffer.ts";
import { DiskError } from "../../errors.ts";
import { type Geometry, SECTOR_BYTES } from "../../geometry.ts";
import { InFlight } from "../../in_flight.ts";
import type { BackendInfo } from "../../info.ts";
import { keepOnThread } from "../../one_thread.ts";
import { socketOf } from "../../platform/descriptor_socket.ts";
import { isNotCapable } from "../../platform/permissions.ts";
import { type Request, RequestFlag, RequestType } from "../../request.ts";
import {
  abortedError,
  changedError,
  closedError,
  cutError,
  latchedError,
  requestError,
  sharedFlushError,
} from "../../request_error.ts";
import { encodeId } from "../../virtio.ts";
import { Abandoned } from "../abandoned.ts";
import { SharedFlush } from "../shared_flush.ts";
import { Bounce, MAX_BOUNCE_BYTES } from "./bounce.ts";
import {
  codeOf,
  failedError,
  librarySays,
  NO_FFI,
  timeoutError,
} from "./errors.ts";
import { type ImageParts, ImageState, REFRESH } from "./image_state.ts";
import type { Session } from "./session.ts";
import { answerRequest } from "../../throw_later.ts";

/** Pieces of one request that are in flight at once. */
const MAX_PIECES = 8;

/** Bytes of one piece that moves no data. */
const MAX_RANGE_BYTES = 1 << 28;

/** Calls for completions until others have their turn. */
const MAX_ROUNDS = 16;

/** What a disk is made of. */
export interface RbdParts extends ImageParts {
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** The longest that a request may take, in ms. */
  readonly requestTimeoutMs: number;
  /** The longest that closing may take, in ms. */
  readonly closeTimeoutMs: number;
}

/** A request in flight. */
interface Transfer {
  readonly request: Request;
  readonly complete: Complete;
  /** Bytes of it, and of its largest piece. */
  readonly total: number;
  readonly pieceBytes: number;
  /** When it came, and when its time is over, in ms. */
  readonly since: number;
  deadline: number;
  /** Bytes that were asked for. */
  asked: number;
  /** Pieces in flight, or waiting for memory. */
  pieces: number;
  /** Whether a flush must follow. */
  flush: boolean;
  error: DiskError | null;
  /** Whether it has been answered; pieces may still be in flight. */
  answered: boolean;
}

/** A piece of a request: one call of librbd. */
interface Piece {
  readonly transfer: Transfer;
  /** Where it begins in the request, in bytes. */
  readonly from: number;
  readonly length: number;
  /** Whether it is a flush. */
  readonly flushes: boolean;
  /** What its data is in meanwhile. */
  memory: MappedMemory | null;
}

/** Requests to an image in a Ceph cluster. */
export class RbdBackend implements Backend {
  /** Why there are no blocking calls. */
  readonly asyncOnly =
    "a cluster answers through a socket, which is read in turns of the event loop";
  readonly #parts: RbdParts;
  readonly #session: Session;
  readonly #uri: string;
  readonly #id: Uint8Array;
  readonly #bounce: Bounce;
  readonly #pair: SocketPair;
  readonly #socket: Socket;
  readonly #image: ImageState;
  readonly #inFlight = new InFlight();
  readonly #abandoned = new Abandoned<Transfer>();
  /** One flush at a time, for all that ask at once; none after one that failed. */
  readonly #flushes = new SharedFlush<Transfer>((transfer) =>
    this.#hand({ transfer, from: 0, length: 0, flushes: true, memory: null })
  );
  /** Transfers that are not answered, the oldest first. */
  readonly #waiting = new Set<Transfer>();
  /** Pieces at librbd, by what their completions are known by. */
  readonly #pieces: (Piece | null)[] = [];
  readonly #freeTags: number[] = [];
  /** The longest that a request may take from now on, in ms. */
  #timeoutMs: number;
  #timer: ReturnType<typeof setTimeout> | null = null;
  /** Whether completions are taken: not once the image is being closed. */
  #isPolled = true;
  /** What it can do. */
  readonly abilities: Abilities;
  /** How large requests may get. */
  readonly limits: Limits = { maxSegments: 1024, maxBytes: MAX_BOUNCE_BYTES };
  /** What it counted so far. */
  readonly counters: BackendCounters = {
    systemCalls: 0,
    bounced: 0,
    readModifyWrites: 0,
  };

  /**
   * Constructs a new instance.
   *
   * @param parts What it is made of; it closes all of it.
   * @throws {DiskError} If the system has no sockets left.
   */
  constructor(parts: RbdParts) {
    keepOnThread(this, "a disk");
    const { session, uri, readOnly, info } = parts;
    this.#parts = parts;
    this.#session = session;
    this.#uri = uri;
    this.#timeoutMs = parts.requestTimeoutMs;
    this.#image = new ImageState(parts);
    this.#id = encodeId(info.id);
    const ability = readOnly ? "none" : "native";
    this.abilities = {
      readOnly,
      flush: "native",
      fua: readOnly ? "none" : "emulated",
      discard: ability,
      writeZeroes: ability,
      secureErase: "none",
    };
    this.#bounce = new Bounce(session.libc);
    const pair = SocketPair.open(session.libc, true);
    if (typeof pair === "number") {
      throw new DiskError("io", `Cannot open "${uri}" as there is no socket`, {
        operation: "open",
        path: uri,
        code: codeOf(pair),
      });
    }
    this.#pair = pair;
    this.#socket = socketOf(pair.otherFd, this.#onBytes);
    this.#socket.on("error", () => {});
    this.#socket.unref();
    const told = session.image.notifyBy(pair.fd);
    if (told < 0) {
      this.#socket.destroy();
      this.#pair.close();
      const reason = `librbd announces nothing: ${librarySays(told)}`;
      const options = { operation: "open", path: uri, code: codeOf(told) };
      throw new DiskError("io", `Cannot open "${uri}" as ${reason}`, options);
    }
    this.#image.begin();
  }

  /** What it is and why; the lock may get lost. */
  get info(): BackendInfo {
    return this.#image.info;
  }

  /** The disk's shape, which others may change. */
  get geometry(): Geometry {
    return this.#image.geometry;
  }

  /** Carries out a batch. */
  submit(batch: readonly Request[], complete: Complete): void {
    for (const request of batch) this.#start(request, complete);
  }

  /** Memory: any does as well as any other. */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return offsetMemory(byteLength);
  }

  /** Where objects are, if that is known: else everything counts as data. */
  extents(sector: number, count: number): Extent[] {
    return this.#image.extents(sector, count);
  }

  /** Answers a request early. What librbd makes of it shows when it does. */
  cancel(request: Request): void {
    const held = this.#abandoned.withdraw(request);
    if (held !== undefined) return this.#finish(held, this.#aborted(request));
    for (const transfer of this.#waiting) {
      if (transfer.request !== request) continue;
      return this.#leave(transfer, this.#aborted(request));
    }
  }

  /** Hears that the disk is to be closed: from now on there is less time. */
  closing(): void {
    const { closeTimeoutMs } = this.#parts;
    const latest = performance.now() + closeTimeoutMs;
    // The queue may still have some.
    this.#timeoutMs = Math.min(this.#timeoutMs, closeTimeoutMs);
    for (const transfer of this.#waiting) {
      transfer.deadline = Math.min(transfer.deadline, latest);
    }
    this.#arm();
  }

  /** Waits for everything submitted, and closes the image. */
  close(): Promise<void> {
    if (!this.#inFlight.closed) this.closing();
    this.#image.stop();
    return this.#inFlight.close(() => this.#release());
  }

  /** Changes the size of the image. */
  resize(sectors: number): Promise<void> {
    return this.#image.resize(sectors);
  }

  /** Has somebody hear when others have changed the size. */
  onResized(listener: (sectors: number) => void): void {
    this.#image.onResized(listener);
  }

  // ---- Requests ----

  #start(request: Request, complete: Complete): void {
    const refused = this.#inFlight.closed
      ? closedError(request, this.#uri)
      : this.#image.refuse(request) ??
        refuse(request, this.#image.geometry, this.abilities, this.#uri);
    if (refused !== null) return answerRequest(request, refused, complete);
    if (request.type === RequestType.GetId) {
      request.data!.set(this.#id);
      return answerRequest(request, null, complete);
    }
    if (this.#inFlight.count === 0) this.#socket.ref();
    this.#inFlight.enter(1);
    const since = performance.now();
    const isFlush = request.type === RequestType.Flush;
    const moves = request.type === RequestType.In ||
      request.type === RequestType.Out;
    if (moves) this.counters.bounced++;
    if (request.writes) this.#image.touch(request);
    const transfer: Transfer = {
      request,
      complete,
      total: isFlush ? 0 : request.count * SECTOR_BYTES,
      pieceBytes: moves ? MAX_BOUNCE_BYTES : MAX_RANGE_BYTES,
      since,
      deadline: since + this.#timeoutMs,
      asked: 0,
      pieces: 0,
      flush: isFlush || request.writes && request.fua,
      error: null,
      answered: false,
    };
    this.#waiting.add(transfer);
    if (this.#timer === null) this.#arm();
    if (!this.#abandoned.holds(transfer)) this.#go(transfer);
  }

  #go(transfer: Transfer): void {
    const { request, flush } = transfer;
    const refused = flush ? this.#refuseUnsafe(request) : null;
    if (refused === null) this.#goOn(transfer);
    else this.#finish(transfer, refused);
  }

  /** Goes on with a request that has waited for an abandoned one. */
  #resume(transfer: Transfer): void {
    // What was answered just now may have had it cancelled.
    if (transfer.answered) return;
    const refused = refuseChanged(transfer.request, this.#uri);
    if (refused === null) this.#go(transfer);
    else this.#finish(transfer, refused);
  }

  /** Asks for as much as may be in flight; answers when nothing is. */
  #goOn(transfer: Transfer): void {
    while (
      transfer.asked < transfer.total && transfer.pieces < MAX_PIECES &&
      transfer.error === null && !transfer.answered
    ) {
      const from = transfer.asked;
      const length = Math.min(transfer.pieceBytes, transfer.total - from);
      transfer.asked += length;
      transfer.pieces++;
      this.#begin(transfer, from, length);
    }
    if (transfer.answered || transfer.pieces > 0) return;
    if (transfer.flush && transfer.error === null) {
      transfer.flush = false;
      this.#flush(transfer);
    } else this.#finish(transfer, transfer.error);
  }

  #begin(transfer: Transfer, from: number, length: number): void {
    const { request } = transfer;
    const piece: Piece = {
      transfer,
      from,
      length,
      flushes: false,
      memory: null,
    };
    if (request.data === null) return this.#hand(piece);
    let isGranted = false;
    try {
      this.#bounce.take(length, (memory) => {
        isGranted = true;
        this.#granted(piece, memory);
      });
    } catch (cause) {
      // That would be a mistake of ours, when the piece is over already.
      if (isGranted) throw cause;
      this.#over(piece, this.#memoryError(request, cause));
    }
  }

  #memoryError(request: Request, cause: unknown): DiskError {
    const path = this.#uri;
    if (isNotCapable(cause)) {
      const options = { path, code: "EPERM", cause };
      return requestError("permission", request, NO_FFI, options);
    }
    const reason = "the system has no memory for it";
    return requestError("io", request, reason, { path, code: "ENOMEM", cause });
  }

  /** There is memory for the data of a piece. */
  #granted(piece: Piece, memory: MappedMemory): void {
    const { transfer: { request, answered }, from, length } = piece;
    piece.memory = memory;
    if (answered) return this.#over(piece, null);
    const data = memory.bytes.subarray(0, length);
    if (request.type === RequestType.Out && !gather(request, from, data)) {
      return this.#over(piece, changedError(request, this.#uri));
    }
    this.#hand(piece);
  }

  /** Hands a piece to librbd. */
  #hand(piece: Piece): void {
    const { transfer: { request }, from, length, flushes, memory } = piece;
    const { image } = this.#session;
    const tag = this.#freeTags.pop() ?? this.#pieces.length;
    this.#pieces[tag] = piece;
    const offset = request.sector * SECTOR_BYTES + from;
    let result: number;
    if (flushes) {
      this.#image.flushBegins();
      result = image.flush(tag);
    } else {
      switch (request.type) {
        case RequestType.In:
          result = image.read(offset, length, memory!.address, tag);
          break;
        case RequestType.Out:
          result = image.write(offset, length, memory!.address, tag);
          break;
        case RequestType.Discard:
          result = image.discard(offset, length, tag);
          break;
        default: {
          const keeps = (request.flags & RequestFlag.Unmap) === 0;
          result = image.zero(offset, length, keeps, tag);
        }
      }
    }
    if (result < 0) this.#completed(tag, result);
  }

  readonly #onBytes = (): void => {
    const { image } = this.#session;
    this.counters.systemCalls++;
    for (let round = 0; this.#isPolled; round++) {
      if (round === MAX_ROUNDS) {
        // Others have their turn first.
        this.#pair.send();
        break;
      }
      const count = image.poll();
      if (count === 0) break;
      for (let i = 0; i < count; i++) {
        this.#completed(image.tags[i]!, image.results[i]!);
      }
    }
  };

  /** A piece is over. */
  #completed(tag: number, result: number): void {
    if (tag === REFRESH) return this.#image.refreshed(result);
    const piece = this.#pieces[tag]!;
    this.#pieces[tag] = null;
    this.#freeTags.push(tag);
    const { transfer: { request, answered }, from, length, memory } = piece;
    let error: DiskError | null = null;
    if (result < 0) {
      error = failedError(request, result, this.#uri);
      this.#image.failed(result);
    } else if (piece.flushes) {
      const failure = this.#image.flushEnds(request);
      if (failure instanceof Promise) {
        failure.then((known) => this.#over(piece, known));
        return;
      }
      error = failure;
    } else if (request.writes) {
      this.#image.wrote(request.sector * SECTOR_BYTES + from + length);
    } else if (request.type === RequestType.In && !answered) {
      if (result !== length) error = cutError(request, this.#uri);
      else if (!scatter(request, from, memory!.bytes.subarray(0, length))) {
        error = changedError(request, this.#uri);
      }
    }
    this.#over(piece, error);
  }

  #over(piece: Piece, error: DiskError | null): void {
    const { transfer, flushes, memory } = piece;
    if (flushes) return this.#flushed(error);
    transfer.pieces--;
    transfer.error ??= error;
    if (memory !== null) this.#bounce.give(memory);
    this.#proceed(transfer, null);
  }

  /** Goes on with a request of which something is over. */
  #proceed(transfer: Transfer, flushFailure: DiskError | null): void {
    if (!transfer.answered) return this.#goOn(transfer);
    this.#abandoned.returned(
      transfer,
      flushFailure,
      (waiting) => this.#resume(waiting),
    );
  }

  /** Asks for a flush, together with who else does. */
  #flush(transfer: Transfer): void {
    transfer.pieces++;
    if (!this.#flushes.join(transfer)) this.#refuseFlush(transfer);
  }

  #refuseFlush(transfer: Transfer): void {
    transfer.pieces--;
    transfer.error ??= this.#latched(transfer.request);
    this.#proceed(transfer, null);
  }

  /** Goes on with all who waited for the flush that is over. */
  #flushed(error: DiskError | null): void {
    const { group, refused } = this.#flushes.end(error);
    const [first] = group;
    for (const transfer of group) {
      const own = error === null || transfer === first
        ? error
        : sharedFlushError(transfer.request, error, this.#uri);
      transfer.pieces--;
      transfer.error ??= own;
      this.#proceed(transfer, own);
    }
    for (const transfer of refused) this.#refuseFlush(transfer);
  }

  /** Why nothing can be made durable any more, if a flush failed. */
  #refuseUnsafe(request: Request): DiskError | null {
    const { failure } = this.#abandoned;
    if (failure !== null) return this.#spoiled(request, failure);
    return this.#flushes.failure === null ? null : this.#latched(request);
  }

  #latched(request: Request): DiskError {
    return latchedError(request, this.#flushes.failure!, this.#uri);
  }

  /** Answers a request of which pieces are in flight. */
  #leave(transfer: Transfer, error: DiskError): void {
    this.#abandoned.add(transfer);
    this.#finish(transfer, error);
  }

  #finish(transfer: Transfer, error: DiskError | null): void {
    transfer.answered = true;
    this.#waiting.delete(transfer);
    if (this.#inFlight.count === 1) this.#socket.unref();
    this.#inFlight.answer(transfer.request, error, transfer.complete);
  }

  #aborted(request: Request): DiskError {
    return abortedError(request, { path: this.#uri });
  }

  /** The failure of a flush that was abandoned, which its caller never got. */
  #spoiled(request: Request, cause: DiskError): DiskError {
    const { kind, code = "EIO", errno, message } = cause;
    const reason = `an earlier flush, which was given up, failed: ${message}`;
    const path = this.#uri;
    return requestError(kind, request, reason, { path, code, errno, cause });
  }

  // ---- Time ----

  /** Sets the timer to the end of the oldest request's time. */
  #arm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const [oldest] = this.#waiting;
    if (oldest === undefined) return;
    const leftMs = Math.max(oldest.deadline - performance.now(), 0);
    this.#timer = setTimeout(this.#onTime, Math.ceil(leftMs));
    // What is in flight keeps the program alive by itself.
    this.#timer.unref();
  }

  readonly #onTime = (): void => {
    this.#timer = null;
    const now = performance.now();
    const late: Transfer[] = [];
    // In the order of their deadlines.
    for (const transfer of this.#waiting) {
      if (transfer.deadline > now) break;
      late.push(transfer);
    }
    for (const transfer of late) {
      const { request, since } = transfer;
      const error = timeoutError(request, Math.round(now - since), this.#uri);
      if (this.#abandoned.withdraw(request) !== undefined) {
        this.#finish(transfer, error);
      } else this.#leave(transfer, error);
    }
    if (this.#timer === null) this.#arm();
  };

  // ---- The end ----

  async #release(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    const { closeTimeoutMs } = this.#parts;
    const late = Promise.withResolvers<null>();
    const timer = setTimeout(() => late.resolve(null), closeTimeoutMs);
    let result: number | null;
    try {
      result = await Promise.race([this.#closeImage(), late.promise]);
    } finally {
      clearTimeout(timer);
    }
    if (result !== null && result >= 0) return;
    const reason = result === null
      ? `the cluster has not answered for ${closeTimeoutMs} ms: what was not flushed may be lost, and the exclusive lock is held until it does or this program ends`
      : librarySays(result);
    throw new DiskError(
      "io",
      `Cannot close "${this.#uri}" in good order as ${reason}`,
      {
        operation: "close",
        path: this.#uri,
        code: result === null ? "ETIMEDOUT" : codeOf(result),
      },
    );
  }

  async #closeImage(): Promise<number> {
    await this.#image.close();
    try {
      this.#session.bound(this.#parts.closeTimeoutMs);
    } catch {
      // FFI is not allowed any more: it is closed all the same.
    }
    this.#isPolled = false;
    try {
      return await this.#session.close();
    } finally {
      this.#bounce.release();
      const gone = new Promise((resolve) =>
        this.#socket.once("close", resolve)
      );
      this.#socket.destroy();
      await gone;
      this.#pair.close();
    }
  }
}
