/**
 * Readahead for sequential reads: small reads one after the other are answered
 * from pieces in memory, which are read in large requests, several in flight.
 *
 * Direct I/O bypasses the kernel's own readahead: without this, a program that
 * reads 4 KiB at a time waits for the disk each time.
 *
 * - A few sequential streams at once are recognized, each by the sector at which
 *   it is to go on. The second read in sequence starts one; each piece is twice
 *   as large as the one before, up to `pieceBytes`.
 * - A read that is not wholly in memory, and a read as large as a piece, passes
 *   through as it is.
 * - A write invalidates what it touches in every piece when it is submitted, and
 *   nothing is read ahead where a write is in flight: a read after a write that
 *   completed returns it.
 * - A piece that cannot be read is dropped, and the reads that wait for it go to
 *   the disk themselves, so that only sectors that have an error report one.
 * - What changes below it by another way than its own requests is not heard of:
 *   setting `enabled` to false, and to true again, forgets what was read ahead.
 * - Memory is bounded by `memoryBytes`, and is the disk's own (no copy inside a
 *   direct backend); what a stream has passed is used again.
 *
 * @module
 */

import type { Backend, Complete } from "../backend.ts";
import { scatter } from "../buffer.ts";
import type { DiskError } from "../errors.ts";
import { SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import { Request, RequestType } from "../request.ts";
import { abortedError } from "../request_error.ts";
import { Layer, type LayerOptions } from "./layer.ts";

/** How far to read ahead. */
export interface ReadaheadOptions extends LayerOptions {
  /**
   * Bytes that are read ahead of a reader, at most.
   *
   * @default {4_194_304}
   */
  windowBytes?: number | undefined;
  /**
   * Bytes of a piece, the largest read that is made: whole blocks, at most half
   * of the window.
   *
   * @default {1_048_576}
   */
  pieceBytes?: number | undefined;
  /**
   * Memory for all readers, in bytes; at least the window.
   *
   * @default {16_777_216}
   */
  memoryBytes?: number | undefined;
}

/** What was read ahead so far. */
export interface ReadaheadCounters {
  /** Reads that were answered from memory. */
  hits: number;
  /** Reads that went down. */
  misses: number;
  /** Pieces that were read ahead. */
  pieces: number;
}

/** Streams that are recognized at once. */
const STREAMS = 8;

/** Reads of others after which a stream is taken to have ended. */
const ACTIVE_READS = 256;

/** The first piece of a new stream, in bytes. */
const FIRST_BYTES = 131_072;

/** A sequence of reads, each of which goes on where the last one ended. */
interface Stream {
  /** First sector of the latest read. */
  from: number;
  /** The sector after the last one read. */
  next: number;
  /** Reads in sequence so far. */
  hits: number;
  /** The sector after the last one read ahead. */
  ahead: number;
  /** Sectors of the next piece. */
  pieceSectors: number;
  /** When the latest read was, counted in reads. */
  tick: number;
}

/** A run of sectors that is in memory, or is being read. */
interface Piece {
  /** The sector that its memory starts with. */
  readonly base: number;
  /** First valid sector: a write may have invalidated some before it. */
  sector: number;
  /** The sector after the last valid one. */
  end: number;
  readonly memory: Uint8Array;
  readonly stream: Stream;
  ready: boolean;
  /** Whether it is not to be used any more. */
  dropped: boolean;
  /** Reads that wait for it. */
  readonly waiting: Waiting[];
}

/** A read that waits for a piece, and its callback. */
interface Waiting {
  readonly request: Request;
  readonly complete: Complete;
}

/**
 * A disk that reads ahead; {@linkcode readahead} makes one.
 *
 * @example
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { readahead } from "@platter/disk/testing";
 * import { assert } from "@std/assert";
 *
 * const ahead = readahead(new MemoryBackend({ sectors: 65_536 }));
 * await using disk = VirtualDisk.over(ahead);
 * for (let sector = 0; sector < 8192; sector += 8) await disk.read(sector, 8);
 * assert(ahead.readaheadCounters.hits > 1000);
 * ```
 */
export class Readahead extends Layer {
  readonly #windowSectors: number;
  readonly #pieceSectors: number;
  readonly #maxPieces: number;
  readonly #counters: ReadaheadCounters = { hits: 0, misses: 0, pieces: 0 };
  #enabled = true;

  #ticks = 0;
  /** The latest to read comes first. */
  readonly #streams: Stream[] = [];
  readonly #pieces: Piece[] = [];
  /** The last piece that was hit. */
  #latest: Piece | null = null;
  /** Memory of pieces that were dropped, to be used again. */
  readonly #free: Uint8Array[] = [];
  /** Pieces that hold memory: valid, or dropped and still in flight. */
  #held = 0;
  readonly #loading = new Map<Request, Piece>();
  /** Ranges of writes in flight. */
  readonly #writes = new Set<SectorRange>();

  /**
   * Constructs a new instance.
   *
   * @param backend What it lies over.
   * @param options How far to read ahead.
   * @throws {RangeError} If the sizes do not fit together.
   */
  constructor(backend: Backend, options: ReadaheadOptions = {}) {
    super("readahead", backend, options);
    const {
      windowBytes = 4 << 20,
      pieceBytes = Math.min(1 << 20, windowBytes / 2),
      memoryBytes = Math.max(16 << 20, windowBytes),
    } = options;
    const { blockSize } = backend.geometry;
    if (
      !Number.isSafeInteger(windowBytes) ||
      !Number.isSafeInteger(memoryBytes) ||
      !(pieceBytes >= blockSize) || pieceBytes % blockSize !== 0 ||
      pieceBytes * 2 > windowBytes || windowBytes > memoryBytes
    ) {
      throw new RangeError(
        `Cannot read ahead as pieceBytes must be whole blocks of ${blockSize} bytes, windowBytes at least two pieces, and memoryBytes at least the window: current value is ${pieceBytes}, ${windowBytes}, ${memoryBytes}`,
      );
    }
    this.#pieceSectors = pieceBytes / SECTOR_BYTES;
    this.#windowSectors = Math.floor(windowBytes / SECTOR_BYTES);
    this.#maxPieces = Math.floor(memoryBytes / pieceBytes);
  }

  /** What was read ahead so far. */
  get readaheadCounters(): Readonly<ReadaheadCounters> {
    return this.#counters;
  }

  /**
   * Whether it reads ahead. Switched off, it gives its memory up: so what was
   * read ahead is forgotten, as it must be where a layer below changed the disk
   * by a method of its own.
   */
  get enabled(): boolean {
    return this.#enabled;
  }

  set enabled(enabled: boolean) {
    this.#enabled = enabled;
    if (enabled) return;
    for (const piece of [...this.#pieces]) this.#drop(piece);
    this.#streams.length = 0;
    this.#free.length = 0;
  }

  /** Pieces are read in the background, which nobody could wait for. */
  protected override get answersLate(): string {
    return "the layer readahead reads in the background";
  }

  /**
   * Changes the disk's size; what was read ahead is forgotten.
   *
   * @param sectors Sectors that the disk has afterwards.
   * @returns When it is done.
   * @throws {DiskError} If it cannot be; the disk is as it was then.
   */
  override async resize(sectors: number): Promise<void> {
    for (const piece of [...this.#pieces]) this.#drop(piece);
    this.#streams.length = 0;
    await super.resize(sectors);
  }

  /**
   * Carries out requests that have been checked.
   *
   * @param batch The requests; the array is valid during the call only.
   * @param complete Called once for each of them.
   */
  protected override carryOut(
    batch: readonly Request[],
    complete: Complete,
  ): void {
    // Most often all of it is in memory: nothing is made for what goes down.
    let below: Request[] = NOTHING;
    let writes: Map<Request, SectorRange> | null = null;
    for (let i = 0; i < batch.length; i++) {
      const request = batch[i]!;
      if (request.type === RequestType.In && this.#enabled) {
        const stream = request.count < this.#pieceSectors
          ? this.#follow(request)
          : null;
        // Submitted before the read completes, whose caller may then read more.
        if (stream !== null && stream.hits > 0) {
          below = this.#readAhead(stream, below);
        }
        below = this.#serve(request, complete, below);
        continue;
      }
      if (request.writes) {
        const { sector, count } = request;
        const write = { sector, count };
        this.#invalidate(write);
        this.#writes.add(write);
        (writes ??= new Map()).set(request, write);
      }
      below = push(below, request);
    }
    if (below.length === 0) return;
    this.#submit(
      below,
      writes === null ? complete : (request, error) => {
        const write = writes.get(request);
        if (write !== undefined) this.#writes.delete(write);
        complete(request, error);
      },
    );
  }

  /**
   * Tries to stop a submitted request early. One that waits for what is being
   * read ahead waits no longer.
   *
   * @param request The request.
   */
  override cancel(request: Request): void {
    for (const { waiting } of this.#loading.values()) {
      const at = waiting.findIndex((each) => each.request === request);
      if (at < 0) continue;
      const [{ complete }] = waiting.splice(at, 1) as [Waiting];
      const { path } = this.backend.info;
      complete(request, abortedError(request, { path }));
      return;
    }
    super.cancel(request);
  }

  /**
   * Gives up what the layer holds; everything has been answered.
   *
   * @returns When it is done.
   */
  protected override async release(): Promise<void> {
    await super.release();
    this.enabled = false;
  }

  #submit(below: readonly Request[], complete: Complete): void {
    if (below.length === 0) return;
    this.backend.submit(below, (request, error) => {
      const piece = this.#loading.get(request);
      if (piece !== undefined) {
        this.#loading.delete(request);
        this.#loaded(piece, error);
        return;
      }
      complete(request, error);
    });
  }

  /** Answers a read from memory, now or later, or passes it on. */
  #serve(
    request: Request,
    complete: Complete,
    below: Request[],
  ): Request[] {
    const { sector, count } = request;
    const end = sector + count;
    const latest = this.#latest;
    if (
      latest !== null && latest.ready && latest.sector <= sector &&
      end <= latest.end
    ) {
      this.#counters.hits++;
      copy(latest, request, sector, end);
      complete(request, null);
      return below;
    }
    const found: Piece[] = [];
    for (let at = sector; at < end;) {
      const piece = this.#pieces.find((each) =>
        each.sector <= at && at < each.end
      );
      if (piece === undefined) {
        this.#counters.misses++;
        return push(below, request);
      }
      if (!piece.ready) {
        piece.waiting.push({ request, complete });
        return below;
      }
      found.push(piece);
      at = piece.end;
    }
    this.#counters.hits++;
    for (const piece of found) {
      copy(
        piece,
        request,
        Math.max(sector, piece.sector),
        Math.min(end, piece.end),
      );
    }
    this.#latest = found.at(-1)!;
    complete(request, null);
    return below;
  }

  /** Finds the stream that a read goes on with, or starts a new one. */
  #follow(request: Request): Stream {
    const { sector, count } = request;
    const at = this.#streams[0]?.next === sector
      ? 0
      : this.#streams.findIndex(({ next }) => next === sector);
    let stream = this.#streams[at];
    if (stream === undefined) {
      stream = {
        from: 0,
        next: 0,
        hits: -1,
        ahead: 0,
        tick: 0,
        pieceSectors: Math.min(FIRST_BYTES / SECTOR_BYTES, this.#pieceSectors),
      };
      if (this.#streams.length === STREAMS) this.#forget(this.#streams.pop()!);
    } else if (at > 0) this.#streams.splice(at, 1);
    if (at !== 0) this.#streams.unshift(stream);
    stream.from = sector;
    stream.next = sector + count;
    stream.hits++;
    stream.tick = ++this.#ticks;
    return stream;
  }

  #forget(stream: Stream): void {
    for (const piece of this.#pieces.filter((each) => each.stream === stream)) {
      if (piece.waiting.length === 0) this.#drop(piece);
    }
  }

  /** Asks for pieces until the window is full. */
  #readAhead(stream: Stream, below: Request[]): Request[] {
    const { next } = stream;
    if (stream.ahead < next) stream.ahead = next;
    const limit = Math.min(
      next + this.#windowSectors,
      this.geometry.sectors,
    );
    while (stream.ahead < limit) {
      const count = Math.min(
        stream.pieceSectors,
        this.geometry.sectors - stream.ahead,
      );
      // A piece more only where all of it fits into the window.
      if (stream.ahead + count > limit) return below;
      if (this.#overlapsWrite(stream.ahead, count)) return below;
      const memory = this.#memory(stream);
      if (memory === null) return below;
      const data = memory.subarray(0, count * SECTOR_BYTES);
      const piece: Piece = {
        base: stream.ahead,
        sector: stream.ahead,
        end: stream.ahead + count,
        memory,
        stream,
        ready: false,
        dropped: false,
        waiting: [],
      };
      this.#pieces.push(piece);
      this.#counters.pieces++;
      const request = new Request(RequestType.In, piece.sector, count, 0, data);
      this.#loading.set(request, piece);
      below = push(below, request);
      stream.ahead += count;
      stream.pieceSectors = Math.min(
        stream.pieceSectors * 2,
        this.#pieceSectors,
      );
    }
    return below;
  }

  /** Memory for a piece; `null` if the stream has its share. */
  #memory(stream: Stream): Uint8Array | null {
    for (let i = this.#pieces.length - 1; i >= 0; i--) {
      const piece = this.#pieces[i]!;
      if (piece.stream === stream && piece.ready && piece.end <= stream.from) {
        this.#drop(piece);
      }
    }
    if (this.#held >= this.#maxPieces) {
      // Shares, or readers who take turns would take from each other what is
      // just about to be of use.
      const isActive = ({ hits, tick }: Stream) =>
        hits > 0 && this.#ticks - tick < ACTIVE_READS;
      const share = this.#maxPieces / this.#streams.filter(isActive).length;
      const holds = (each: Stream) =>
        this.#pieces.filter((piece) => piece.stream === each).length;
      if (holds(stream) + 1 > share) return null;
      const found = this.#pieces.findLast((piece) =>
        piece.ready && piece.stream !== stream &&
        (!isActive(piece.stream) || holds(piece.stream) > share)
      );
      if (found === undefined) return null;
      found.stream.ahead = Math.min(found.stream.ahead, found.base);
      this.#drop(found);
    }
    let memory = this.#free.pop();
    try {
      memory ??= this.backend.allocate(this.#pieceSectors * SECTOR_BYTES);
    } catch {
      // No memory: nothing is read ahead, and no request fails for it.
      return null;
    }
    this.#held++;
    return memory;
  }

  #loaded(piece: Piece, error: DiskError | null): void {
    if (error !== null) {
      piece.stream.hits = -1;
      this.#drop(piece);
    }
    piece.ready = true;
    // Only now, as the kernel wrote into it until now.
    if (piece.dropped) this.#recycle(piece);
    for (const { request, complete } of piece.waiting.splice(0)) {
      this.#submit(this.#serve(request, complete, NOTHING), complete);
    }
    // No read is left that could pass it.
    if (!this.#streams.includes(piece.stream)) this.#drop(piece);
  }

  #drop(piece: Piece): void {
    if (piece.dropped) return;
    piece.dropped = true;
    if (this.#latest === piece) this.#latest = null;
    this.#pieces.splice(this.#pieces.indexOf(piece), 1);
    if (piece.ready) this.#recycle(piece);
  }

  #recycle(piece: Piece): void {
    this.#held--;
    if (this.#enabled && this.#free.length < this.#maxPieces) {
      this.#free.push(piece.memory);
    }
  }

  /** Cuts off what a write touches: of what is left, the larger part stays. */
  #invalidate({ sector, count }: SectorRange): void {
    const end = sector + count;
    for (let i = this.#pieces.length - 1; i >= 0; i--) {
      const piece = this.#pieces[i]!;
      if (piece.sector >= end || sector >= piece.end) continue;
      if (sector - piece.sector > piece.end - end) piece.end = sector;
      else piece.sector = end;
      if (piece.sector >= piece.end) this.#drop(piece);
    }
  }

  #overlapsWrite(sector: number, count: number): boolean {
    for (const write of this.#writes) {
      if (
        write.sector < sector + count && sector < write.sector + write.count
      ) {
        return true;
      }
    }
    return false;
  }
}

/** No requests; never changed. */
const NOTHING: Request[] = [];

/** Adds a request to a list that is made with the first one. */
function push(below: Request[], request: Request): Request[] {
  if (below === NOTHING) return [request];
  below.push(request);
  return below;
}

/** Copies sectors of a piece into a read. */
function copy(
  piece: Piece,
  request: Request,
  from: number,
  to: number,
): void {
  scatter(
    request,
    (from - request.sector) * SECTOR_BYTES,
    piece.memory.subarray(
      (from - piece.base) * SECTOR_BYTES,
      (to - piece.base) * SECTOR_BYTES,
    ),
  );
}

/**
 * Makes a disk that reads ahead of sequential reads.
 *
 * @param backend What it lies over; closing the layer closes it, unless
 * `ownsBase` is false.
 * @param options How far.
 * @returns The layer.
 * @throws {RangeError} If the sizes do not fit together.
 */
export function readahead(
  backend: Backend,
  options?: ReadaheadOptions,
): Readahead {
  return new Readahead(backend, options);
}
