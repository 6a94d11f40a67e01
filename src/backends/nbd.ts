/**
 * A disk behind an NBD server: on another machine, or in an engine that speaks
 * NBD (qemu-nbd, nbdkit, and Ceph's rbd through them).
 *
 * Requests are pipelined over one connection and answered in whatever order the
 * server likes. It does not reconnect: whether a write that was under way
 * happened, and whether what the server had not flushed is still there, nobody
 * can tell afterwards. So when the connection is lost, everything under way
 * fails with an error of kind `io`, and so does everything after it; opening
 * the disk anew is for the program to decide.
 *
 * @module
 */

import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Limits,
  refusal,
  refuse,
} from "../backend.ts";
import { clear, offsetMemory, scatter } from "../buffer.ts";
import { describePlace, DiskError, kindOfCode } from "../errors.ts";
import {
  type Geometry,
  isPowerOfTwo,
  makeGeometry,
  MAX_BLOCK_SIZE,
  SECTOR_BYTES,
} from "../geometry.ts";
import type { BackendInfo } from "../info.ts";
import { parseNbdUri } from "../nbd_uri.ts";
import {
  CHUNK_BYTES,
  CHUNK_DONE,
  CHUNK_ERROR,
  ChunkType,
  Command,
  CommandFlag,
  ExportFlag,
  Magic,
  readU64,
  REQUEST_BYTES,
  SIMPLE_REPLY_BYTES,
  viewOf,
  WireError,
  writeU64,
} from "../nbd_wire.ts";
import {
  operationName,
  type Request,
  RequestFlag,
  RequestType,
} from "../request.ts";
import { encodeId } from "../virtio.ts";
import { asDiskError } from "./image_options.ts";
import { type ByteStream, StreamWriter } from "./nbd/byte_stream.ts";
import { type Negotiated, shakeHands } from "./nbd/client_handshake.ts";

/** How to open a disk behind an NBD server. */
export interface NbdOptions {
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Logical block size in bytes; the server's own by default. */
  readonly blockSize?: number;
  /** What the disk says of itself; the export's name by default. */
  readonly id?: string;
  /** Gives up opening. */
  readonly signal?: AbortSignal;
}

/** Bytes that are read from the socket at once, but for large data. */
const RECEIVE_BYTES = 65_536;

/** From here on the rest of some data is read to where it belongs. */
const STRAIGHT_BYTES = 8192;

/** Pieces of one request that are under way at once. */
const MAX_PIECES = 8;

/** Bytes that adjacent requests are merged to. */
const MAX_MERGED_BYTES = 1_048_576;

/** Bytes of one piece of zeroes or of a discard. */
const MAX_RANGE_BYTES = 1 << 30;

/** Bytes of one piece of zeroes that have to be moved. */
const MAX_ZERO_BYTES = 1 << 20;

/** Bytes of a chunk that tells of an error. */
const MAX_ERROR_BYTES = 8192;

/** A request on its way. */
interface Journey {
  readonly request: Request;
  readonly complete: Complete;
  readonly command: number;
  readonly flags: number;
  /** Bytes of the largest piece. */
  readonly pieceBytes: number;
  /** Bytes of the request. */
  readonly total: number;
  /** Bytes that were asked for. */
  asked: number;
  /** Pieces under way. */
  pieces: number;
  /** Whether a flush must follow. */
  flush: boolean;
  error: DiskError | null;
}

/** A piece of a request: one request of NBD. */
interface Piece {
  readonly journey: Journey;
  /** What the reply brings back. */
  readonly cookie: number;
  readonly command: number;
  /** Where it begins in the request, in bytes. */
  readonly from: number;
  readonly length: number;
  /** Bytes of data that have come. */
  received: number;
  error: DiskError | null;
}

/** Requests over an NBD connection. */
export class NbdBackend implements Backend {
  readonly #stream: ByteStream & { ref?(): void; unref?(): void };
  readonly #writer: StreamWriter;
  readonly #structured: boolean;
  readonly #maximum: number;
  readonly #exportFlags: number;
  readonly #uri: string;
  readonly #id: Uint8Array;
  readonly #pieces = new Map<number, Piece>();
  #cookie = 0;
  #journeys = 0;
  readonly #receive = new Uint8Array(RECEIVE_BYTES);
  readonly #view = viewOf(this.#receive);
  #head = 0;
  #tail = 0;
  /** The piece whose data is coming, where it goes, and how much is to come. */
  #filling: Piece | null = null;
  #fillAt = 0;
  #fillLeft = 0;
  /** Whether the piece is answered with that. */
  #fillEnds = false;
  #lost: DiskError | null = null;
  #closing: Promise<void> | null = null;
  #drained: (() => void) | null = null;
  #zeroes: Uint8Array | null = null;
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
    this.#stream = stream;
    this.#uri = uri;
    this.#id = encodeId(id);
    this.#structured = negotiated.structured;
    this.#exportFlags = negotiated.flags;
    this.geometry = geometryOf(negotiated, uri, options);
    const { blockSize } = this.geometry;
    this.#maximum = Math.max(
      blockSize,
      negotiated.maximum - negotiated.maximum % blockSize,
    );
    this.limits = {
      maxSegments: 256,
      maxBytes: Math.min(MAX_MERGED_BYTES, this.#maximum),
    };
    const has = (flag: number) => (negotiated.flags & flag) !== 0;
    const flush = has(ExportFlag.SendFlush);
    const readOnly = options.readOnly || has(ExportFlag.ReadOnly);
    this.abilities = {
      readOnly,
      flush: flush ? "native" : "none",
      fua: has(ExportFlag.SendFua) ? "native" : flush ? "emulated" : "none",
      discard: has(ExportFlag.SendTrim) ? "native" : "none",
      writeZeroes: has(ExportFlag.SendWriteZeroes) ? "native" : "emulated",
      secureErase: "none",
    };
    this.info = describe(this.abilities, uri, id);
    this.#writer = new StreamWriter(
      stream,
      () => {},
      (error) => this.#lose(error),
    );
    stream.unref?.();
    this.#receiving = this.#run();
  }

  /** Carries out a batch. */
  submit(batch: readonly Request[], complete: Complete): void {
    for (const request of batch) this.#start(request, complete);
  }

  /** Memory: any does as well as any other. */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return offsetMemory(byteLength);
  }

  /** Waits for everything submitted, takes leave, and hangs up. */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  async #close(): Promise<void> {
    if (this.#journeys > 0) {
      await new Promise<void>((resolve) => this.#drained = resolve);
    }
    this.#stream.ref?.();
    if (this.#lost === null) {
      this.#send(Command.Disconnect, 0, 0, 0, 0);
      await this.#writer.settled();
    }
    this.#hangUp();
    await this.#receiving;
  }

  #hangUp(): void {
    try {
      this.#stream.close();
    } catch {
      // It is closed already.
    }
  }

  #start(request: Request, complete: Complete): void {
    const refused = this.#closing !== null
      ? refusal("closed", request, "the disk is closed", this.#uri)
      : refuse(request, this.geometry, this.abilities, this.#uri) ??
        this.#refuseFua(request);
    if (refused !== null) return complete(request, refused);
    if (request.type === RequestType.GetId) {
      request.data!.set(this.#id);
      return complete(request, null);
    }
    if (this.#lost !== null) {
      return complete(request, this.#lostError(request));
    }
    if (this.#journeys++ === 0) this.#stream.ref?.();
    const journey = this.#plan(request, complete);
    if (journey.command === Command.Flush) this.#ask(journey, 0, 0);
    else this.#advance(journey);
  }

  /** A durable write to a server that makes nothing durable. */
  #refuseFua(request: Request): DiskError | null {
    return request.writes && request.fua && this.abilities.fua === "none"
      ? refusal(
        "unsupported",
        request,
        "the server makes nothing durable",
        this.#uri,
      )
      : null;
  }

  #plan(request: Request, complete: Complete): Journey {
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
    };
  }

  /** Asks for as much of a request as may be under way. */
  #advance(journey: Journey): void {
    while (
      journey.asked < journey.total && journey.pieces < MAX_PIECES &&
      journey.error === null
    ) {
      const from = journey.asked;
      const length = Math.min(journey.pieceBytes, journey.total - from);
      journey.asked += length;
      this.#ask(journey, from, length);
    }
  }

  #ask(
    journey: Journey,
    from: number,
    length: number,
    command: number = journey.command,
  ): void {
    const { request } = journey;
    journey.pieces++;
    do this.#cookie = (this.#cookie + 1) >>> 0; while (
      this.#pieces.has(this.#cookie)
    );
    const cookie = this.#cookie;
    this.#pieces.set(cookie, {
      journey,
      cookie,
      command,
      from,
      length,
      received: 0,
      error: null,
    });
    const offset = command === Command.Flush
      ? 0
      : request.sector * SECTOR_BYTES + from;
    const flags = command === Command.Flush ? 0 : journey.flags;
    this.#send(command, flags, offset, length, cookie);
    if (command !== Command.Write) return;
    if (request.type === RequestType.WriteZeroes) {
      this.#zeroes ??= new Uint8Array(MAX_ZERO_BYTES);
      this.#writer.push(this.#zeroes.subarray(0, length));
      return;
    }
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

  /** Takes answers until the connection ends. */
  async #run(): Promise<void> {
    try {
      for (;;) {
        while (this.#takeNext());
        const straight = this.#fillLeft >= STRAIGHT_BYTES &&
          this.#head === this.#tail &&
          this.#filling!.journey.request.more.length === 0;
        if (!straight && this.#head > 0) {
          this.#receive.copyWithin(0, this.#head, this.#tail);
          this.#tail -= this.#head;
          this.#head = 0;
        }
        const count = await this.#stream.read(
          straight
            ? this.#filling!.journey.request.data!.subarray(
              this.#fillAt,
              this.#fillAt + this.#fillLeft,
            )
            : this.#receive.subarray(this.#tail),
        );
        if (this.#lost !== null) return;
        if (count === null) throw new Error("the server hung up");
        if (straight) this.#filled(count);
        else this.#tail += count;
      }
    } catch (error) {
      this.#lose(error);
    }
  }

  /** Takes the next answer, or a part of it; tells whether there was one. */
  #takeNext(): boolean {
    if (this.#lost !== null) return false;
    const available = this.#tail - this.#head;
    if (this.#filling !== null) {
      const count = Math.min(this.#fillLeft, available);
      if (count > 0) {
        scatter(
          this.#filling.journey.request,
          this.#fillAt,
          this.#receive.subarray(this.#head, this.#head + count),
        );
        this.#head += count;
        this.#filled(count);
      }
      return count > 0;
    }
    if (available < SIMPLE_REPLY_BYTES) return false;
    const magic = this.#view.getUint32(this.#head);
    if (magic === Magic.SimpleReply) return this.#takeSimple();
    if (magic === Magic.Chunk && this.#structured) {
      return available >= CHUNK_BYTES && this.#takeChunk(available);
    }
    throw new Error("a reply does not begin with its magic number");
  }

  #takeSimple(): boolean {
    const at = this.#head;
    const piece = this.#pieceOf(at + 8);
    const code = this.#view.getUint32(at + 4);
    if (piece.command === Command.Read && this.#structured) {
      throw new Error("a read is answered without chunks");
    }
    this.#head += SIMPLE_REPLY_BYTES;
    if (code !== 0) {
      piece.error = this.#serverError(piece, code);
    } else if (piece.command === Command.Read) {
      this.#fill(piece, piece.from, piece.length, true);
      return true;
    }
    this.#answered(piece);
    return true;
  }

  #takeChunk(available: number): boolean {
    const view = this.#view;
    const at = this.#head;
    const done = (view.getUint16(at + 4) & CHUNK_DONE) !== 0;
    const type = view.getUint16(at + 6);
    const length = view.getUint32(at + 16);
    const piece = this.#pieceOf(at + 8);
    const body = at + CHUNK_BYTES;
    const start = piece.journey.request.sector * SECTOR_BYTES + piece.from;
    const place = (size: number): number => {
      const offset = readU64(view, body) - start;
      if (
        piece.command !== Command.Read || size <= 0 || offset < 0 ||
        offset + size > piece.length
      ) throw new Error("a reply has data that nobody asked for");
      return piece.from + offset;
    };
    if (type === ChunkType.OffsetData) {
      if (length < 8) throw new Error("a chunk is too short");
      if (available < CHUNK_BYTES + 8) return false;
      const to = place(length - 8);
      this.#head += CHUNK_BYTES + 8;
      this.#fill(piece, to, length - 8, done);
      return true;
    }
    if (length > MAX_ERROR_BYTES) throw new Error("a chunk is too long");
    if (available < CHUNK_BYTES + length) return false;
    this.#head += CHUNK_BYTES + length;
    if (type === ChunkType.OffsetHole) {
      if (length !== 12) throw new Error("a chunk has a wrong length");
      const size = view.getUint32(body + 8);
      clear(piece.journey.request, place(size), size);
      piece.received += size;
    } else if ((type & CHUNK_ERROR) !== 0) {
      if (length < 6) throw new Error("a chunk is too short");
      const textLength = view.getUint16(body + 4);
      if (textLength > length - 6) throw new Error("a chunk is too short");
      const text = new TextDecoder().decode(
        this.#receive.subarray(body + 6, body + 6 + textLength),
      );
      piece.error ??= this.#serverError(piece, view.getUint32(body), text);
    } else if (type !== ChunkType.None || length !== 0) {
      throw new Error("a reply has a chunk that nobody asked for");
    }
    if (done) this.#answered(piece);
    return true;
  }

  #pieceOf(at: number): Piece {
    const piece = this.#view.getUint32(at) === 0
      ? this.#pieces.get(this.#view.getUint32(at + 4))
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
    piece.received += count;
    if (this.#fillLeft > 0) return;
    this.#filling = null;
    if (this.#fillEnds) this.#answered(piece);
  }

  #answered(piece: Piece): void {
    if (
      piece.command === Command.Read && piece.error === null &&
      piece.received !== piece.length
    ) throw new Error("a reply has less data than was asked for");
    this.#pieces.delete(piece.cookie);
    const { journey } = piece;
    journey.pieces--;
    journey.error ??= piece.error;
    this.#advance(journey);
    if (journey.pieces > 0) return;
    if (journey.flush && journey.error === null) {
      journey.flush = false;
      return this.#ask(journey, 0, 0, Command.Flush);
    }
    this.#finish(journey, journey.error);
  }

  #finish(journey: Journey, error: DiskError | null): void {
    if (--this.#journeys === 0) this.#stream.unref?.();
    journey.complete(journey.request, error);
    if (this.#journeys === 0) this.#drained?.();
  }

  #serverError(piece: Piece, number: number, text = ""): DiskError {
    const { request } = piece.journey;
    const code = Object.entries(WireError)
      .find(([, value]) => value === number)?.[0] ?? `error ${number}`;
    return this.#error(
      request,
      kindOfCode(code),
      code,
      `the server says ${code}${text === "" ? "" : `: ${text}`}`,
      number,
    );
  }

  #lostError(request: Request): DiskError {
    const error = this.#error(
      request,
      "io",
      "ENOTCONN",
      `the connection to the server is lost: ${this.#lost!.message}`,
    );
    error.cause = this.#lost;
    return error;
  }

  #error(
    request: Request,
    kind: DiskError["kind"],
    code: string,
    reason: string,
    errno?: number,
  ): DiskError {
    const operation = operationName(request.type);
    const placed = request.type !== RequestType.Flush;
    const { sector, count } = request;
    const place = placed
      ? describePlace(operation, sector, count, this.#uri)
      : describePlace(operation, undefined, undefined, this.#uri);
    return new DiskError(kind, `Cannot ${place} as ${reason}`, {
      operation,
      path: this.#uri,
      code,
      ...(errno === undefined ? {} : { errno }),
      ...(placed ? { sector, count } : {}),
    });
  }

  /** Fails everything under way, once and for all. */
  #lose(cause: unknown): void {
    if (this.#lost !== null) return;
    const text = cause instanceof Error ? cause.message : String(cause);
    this.#lost = new DiskError("io", text, { path: this.#uri, cause });
    this.#writer.abandon();
    this.#hangUp();
    const journeys = new Set(
      [...this.#pieces.values()].map(({ journey }) => journey),
    );
    this.#pieces.clear();
    this.#filling = null;
    for (const journey of journeys) {
      this.#finish(journey, this.#lostError(journey.request));
    }
  }
}

function geometryOf(
  negotiated: Negotiated,
  uri: string,
  options: NbdOptions,
): Geometry {
  const { size, minimum, preferred } = negotiated;
  const least = Math.max(minimum, SECTOR_BYTES);
  const blockSize = options.blockSize ?? least;
  const fail = (reason: string): never => {
    throw new DiskError("geometry", `Cannot open "${uri}" as ${reason}`, {
      operation: "open",
      path: uri,
    });
  };
  if (!isPowerOfTwo(least) || least > MAX_BLOCK_SIZE) {
    return fail(`the server wants blocks of ${minimum} bytes`);
  }
  if (blockSize < least) {
    return fail(
      `its blocks must be ${least} bytes at least: current value is ${blockSize}`,
    );
  }
  if (!Number.isSafeInteger(size) || size % blockSize !== 0) {
    return fail(
      `it must be whole blocks of ${blockSize} bytes: current value is ${size} bytes`,
    );
  }
  return makeGeometry(size / SECTOR_BYTES, blockSize, {
    physicalBlockSize: isPowerOfTwo(preferred) && preferred <= MAX_BLOCK_SIZE
      ? Math.max(preferred, blockSize)
      : blockSize,
  });
}

function describe(abilities: Abilities, uri: string, id: string): BackendInfo {
  return {
    backend: "nbd",
    path: uri,
    medium: "network",
    fileSystem: null,
    engine: { name: "nbd", reason: null },
    direct: {
      active: false,
      method: null,
      reason: "the server has the disk, and its own ways",
      memoryAlignment: 1,
      offsetAlignment: 1,
      readOffsetAlignment: 1,
      alignmentSource: "none",
    },
    durability: {
      flush: "unknown",
      method: abilities.flush === "none" ? "none" : "NBD_CMD_FLUSH",
      deviceCache: "unknown",
      fua: abilities.fua === "native"
        ? "NBD_CMD_FLAG_FUA"
        : abilities.fua === "none"
        ? "none"
        : "write + NBD_CMD_FLUSH",
      reason: abilities.flush === "none"
        ? "the server takes no flush"
        : "what a flush reaches is for the server to say",
    },
    lock: {
      method: "none",
      reason: "NBD has no locks: the server decides who may write",
    },
    id,
  };
}

/**
 * Opens a disk behind an NBD server.
 *
 * @param uri `nbd://host[:port]/[export]` or `nbd+unix:///[export]?socket=PATH`.
 * @param options How to open it.
 * @returns Its backend.
 * @throws {DiskError} If the server cannot be reached, or has no such disk.
 * @throws {TypeError} If the URI cannot be read.
 */
export async function openNbd(
  uri: string,
  options: NbdOptions,
): Promise<NbdBackend> {
  const { address, exportName } = parseNbdUri(uri);
  const { signal } = options;
  let stream: Deno.Conn;
  try {
    if (address.transport === "unix") {
      stream = await Deno.connect({ transport: "unix", path: address.path });
    } else {
      const { hostname, port } = address;
      const tcp = await Deno.connect({
        hostname,
        port,
        ...(signal === undefined ? {} : { signal }),
      });
      tcp.setNoDelay();
      tcp.setKeepAlive();
      stream = tcp;
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw connectError(error, uri);
  }
  const abort = () => {
    try {
      stream.close();
    } catch {
      // Once is enough.
    }
  };
  try {
    signal?.throwIfAborted();
    signal?.addEventListener("abort", abort, { once: true });
    const negotiated = await shakeHands(stream, exportName, uri);
    signal?.removeEventListener("abort", abort);
    const id = options.id ??
      (exportName.replace(/[^\x20-\x7e]/g, "_").slice(0, 20) || "nbd");
    return new NbdBackend(stream, negotiated, uri, id, options);
  } catch (error) {
    signal?.removeEventListener("abort", abort);
    abort();
    signal?.throwIfAborted();
    throw connectError(error, uri);
  }
}

function connectError(error: unknown, uri: string): DiskError {
  if (error instanceof Deno.errors.NotFound) {
    return new DiskError(
      "not-found",
      `Cannot open "${uri}" as there is no such socket`,
      { operation: "open", path: uri, code: "ENOENT", cause: error },
    );
  }
  return asDiskError(error, uri);
}
