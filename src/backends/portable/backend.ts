/**
 * The backend without FFI: carries requests out on an open image through
 * `node:fs`. What `mod.ts` opened, it closes. Which piece of a request moves how
 * is planned by `../alignment_plan.ts`; flushes are shared by
 * `../shared_flush.ts`.
 *
 * Measured on Deno 2.9.6, Linux 6.18, two processors, a virtio disk; requests
 * of 4 KiB at random places, thousands a second and, at depth 1, the latency:
 *
 * | way | buffered, depth 1 | depth 32 | direct, depth 1 | depth 32 |
 * | --- | --- | --- | --- | --- |
 * | `fs.readSync` | 4–11 µs | | 130–180 µs | |
 * | `fs.read`, one descriptor | 16 (63 µs) | 17 | 7 (135 µs) | 8 |
 * | `fs.read`, 32 descriptors | | 94 | | 45–56 |
 * | `FsFile` seek and read, both async | | 55 | none | none |
 * | `FsFile.seekSync` and async read | 18 (55 µs) | 95 | none | none |
 * | `fs.writeSync` | 4 µs | | 90–150 µs | |
 * | `fs.write` | 68 (15 µs) | 98 | 11 (92 µs) | 10 |
 * | `FsFile.seekSync` and async write | 15 (67 µs) | 32 | none | none |
 *
 * So: reads through `fs.read`, which runs on another thread and carries out
 * one read per descriptor at a time, over many descriptors; writes through
 * `fs.write`. The latter calls the kernel on the thread that asked, whatever
 * its callback promises, so writes go in pieces of at most 1 MiB (some
 * 300 µs), and the event loop turns between any two. `Deno.FsFile` would write
 * elsewhere, but it cannot be opened for direct I/O and is a third as fast.
 * `fs.readv` and `fs.writev` copy to memory that is not aligned, so they are no
 * way to scatter and gather either.
 *
 * @module
 */

import fs from "node:fs";
import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Limits,
  refuse,
} from "../../backend.ts";
import { gather, offsetMemory, scatter } from "../../buffer.ts";
import type { DiskError } from "../../errors.ts";
import { type Geometry, SECTOR_BYTES } from "../../geometry.ts";
import { InFlight } from "../../in_flight.ts";
import type { BackendInfo } from "../../info.ts";
import { keepOnThread } from "../../one_thread.ts";
import type { SizedFile } from "../../platform/device_size.ts";
import {
  flushRequest,
  isIntact,
  type Request,
  RequestType,
} from "../../request.ts";
import {
  abortedError,
  changedError,
  closedError,
  cutError,
  errnoError,
  latchedError,
  requestError,
} from "../../request_error.ts";
import { DEVICES_KEEP } from "../../resize.ts";
import { encodeId } from "../../virtio.ts";
import {
  AlignmentPlanner,
  ANY_PAGE,
  type HostLimits,
  NO_ADDRESS,
  type Piece,
  roundDown,
  Way,
} from "../alignment_plan.ts";
import type { FileClaim } from "../file_claim.ts";
import type { SignalListener } from "../file_size_signal.ts";
import { closeParts } from "../close_parts.ts";
import { asDiskError } from "../image_options.ts";
import { RangeLock } from "../range_lock.ts";
import { SharedFlush } from "../shared_flush.ts";
import { systemCode } from "../system_error.ts";
import { truncateImage } from "../truncate_image.ts";
import {
  addressInPages,
  Arena,
  BOUNCE_BYTES,
  giveBounce,
  PAGE_BYTES,
  takeBounce,
  zeroes,
} from "./aligned_memory.ts";
import {
  dataSync,
  type DescriptorPool,
  readAt,
  readAtSync,
  ShrunkError,
  writeAt,
  writeAtSync,
} from "./descriptors.ts";
import { answerRequest } from "../../throw_later.ts";

/** Bytes of the largest read in one system call, if it needs no copy. */
const MAX_READ_BYTES = 64 << 20;

/** What was found out about an image, and opened of it. */
export interface PortableImage {
  /** The disk's shape. */
  readonly geometry: Geometry;
  /** What it is and why. */
  readonly info: BackendInfo;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Bytes of it. */
  readonly size: number;
  /** What positions and lengths must be multiples of; 1 if buffered. */
  readonly alignment: number;
  /** Open since before the first write: every failed write-back is reported. */
  readonly flushDescriptor: number;
  /** What tells the size of a device; `null` for a file. */
  readonly device: SizedFile | null;
  /** For everything but the tail. */
  readonly pool: DescriptorPool;
  /** For what is beyond the last whole host block; empty if nothing is. */
  readonly tail: DescriptorPool;
  /** Opens one that is not empty, for a file that is to have a tail. */
  readonly openTail: () => DescriptorPool;
  /** A lock that ends with the backend. */
  readonly claim: FileClaim | null;
  /** What keeps a limit on file sizes from ending the program. */
  readonly signal: SignalListener | null;
}

/** A disk on a raw image or a block device, without FFI. */
export class PortableBackend implements Backend {
  /** What it can do. */
  readonly abilities: Abilities;
  /** How large requests may get. */
  readonly limits: Limits = { maxSegments: 256, maxBytes: BOUNCE_BYTES };
  /** What it is and why. */
  readonly info: BackendInfo;
  /** What it counted so far; requests with several segments count as bounced. */
  readonly counters: BackendCounters = {
    systemCalls: 0,
    bounced: 0,
    readModifyWrites: 0,
  };
  readonly #path: string;
  readonly #id: Uint8Array;
  readonly #alignment: number;
  readonly #limits: HostLimits;
  readonly #reads: AlignmentPlanner;
  #writes: AlignmentPlanner;
  #geometry: Geometry;
  /** Bytes that the image must have. */
  #size: number;
  readonly #flushDescriptor: number;
  readonly #device: SizedFile | null;
  readonly #pool: DescriptorPool;
  #tail: DescriptorPool;
  readonly #openTail: () => DescriptorPool;
  readonly #claim: FileClaim | null;
  readonly #signal: SignalListener | null;
  readonly #arena: Arena | null;
  /** Used if blocks of the host are larger than those of the disk. */
  readonly #ranges: RangeLock | null;
  readonly #count = () => {
    this.counters.systemCalls++;
  };
  readonly #flushes = new SharedFlush<FlushWaiter>(() => {
    if (this.#blocking) this.#flushNowSync();
    else this.#flushNow();
  });
  /** Aborted by their callers. */
  readonly #withdrawn = new WeakSet<Request>();
  readonly #inFlight = new InFlight();
  /** Whether the caller waits: see {@linkcode PortableBackend.synchronously}. */
  #blocking = false;
  /** Aligned memory for that, made when it is needed. */
  #blockingBounce: Uint8Array | null = null;

  /**
   * Constructs a new instance.
   *
   * @param opened The open image; the backend closes its descriptors.
   */
  constructor(opened: PortableImage) {
    this.#geometry = opened.geometry;
    this.info = opened.info;
    this.abilities = {
      readOnly: opened.readOnly,
      flush: "native",
      fua: "emulated",
      discard: "none",
      writeZeroes: "emulated",
      secureErase: "none",
    };
    this.#path = opened.info.path!;
    this.#id = encodeId(opened.info.id);
    this.#alignment = opened.alignment;
    this.#limits = {
      writes: false,
      alignment: opened.alignment,
      // Whatever less the host would take.
      memoryAlignment: opened.alignment === 1 ? 1 : PAGE_BYTES,
      tailStart: Infinity,
      maxStraightBytes: MAX_READ_BYTES,
      maxBounceBytes: BOUNCE_BYTES,
      maxSegments: 1,
    };
    this.#reads = new AlignmentPlanner(this.#limits);
    this.#writes = this.#plannerOfWrites(opened.size);
    this.#size = opened.size;
    this.#flushDescriptor = opened.flushDescriptor;
    this.#device = opened.device;
    this.#pool = opened.pool;
    this.#tail = opened.tail;
    this.#openTail = opened.openTail;
    this.#claim = opened.claim;
    this.#signal = opened.signal;
    this.#arena = opened.alignment === 1 ? null : new Arena();
    this.#ranges = opened.alignment > opened.geometry.blockSize
      ? new RangeLock(opened.alignment)
      : null;
    keepOnThread(this, "a backend");
  }

  /** The disk's shape. */
  get geometry(): Geometry {
    return this.#geometry;
  }

  /**
   * Carries out a batch.
   *
   * @param batch The requests.
   * @param complete Called once for each of them.
   */
  submit(batch: readonly Request[], complete: Complete): void {
    for (const request of batch) {
      const error = this.#inFlight.closed
        ? closedError(request, this.#path)
        : refuse(request, this.geometry, this.abilities, this.#path) ??
          this.#refuseUnsafe(request);
      if (error !== null) {
        answerRequest(request, error, complete);
        continue;
      }
      this.#inFlight.enter(1);
      if (this.#blocking) {
        this.#inFlight.answer(request, this.#carryOutSync(request), complete);
        continue;
      }
      this.#withdrawn.delete(request);
      this.#carryOut(request).then(
        () => this.#inFlight.answer(request, null, complete),
        (error) =>
          this.#inFlight.answer(request, this.#wrap(request, error), complete),
      );
    }
  }

  /**
   * Runs a function during which requests are carried out by blocking calls, one
   * after the other, and answered before `submit` returns.
   *
   * @param run The function.
   * @returns Whether it was called: not while requests are in flight.
   */
  synchronously(run: () => void): boolean {
    if (!this.#inFlight.idle) return false;
    this.#blocking = true;
    try {
      run();
    } finally {
      this.#blocking = false;
    }
    return true;
  }

  /**
   * Tries to stop a submitted request early: between two pieces of it.
   *
   * @param request The request.
   */
  cancel(request: Request): void {
    this.#withdrawn.add(request);
  }

  /**
   * Memory that moves without a copy.
   *
   * @param byteLength Bytes.
   * @returns The memory, zeroed, and page-aligned if I/O is direct.
   */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return this.#arena?.allocate(byteLength) ?? offsetMemory(byteLength);
  }

  /** Why a device keeps its size. */
  get keepsSize(): string | null {
    return this.info.medium === "file" ? null : DEVICES_KEEP;
  }

  /**
   * Changes the size of a file.
   *
   * @param sectors Sectors that the disk has afterwards.
   * @returns When it is done.
   */
  async resize(sectors: number): Promise<void> {
    const path = this.#path;
    const size = sectors * SECTOR_BYTES;
    const needsTail = size % this.#alignment !== 0 && this.#tail.size === 0;
    let tail = this.#tail;
    try {
      if (needsTail) tail = this.#openTail();
      await truncateImage(this.#flushDescriptor, path, this.#size, size);
    } catch (error) {
      if (needsTail) await tail.close();
      throw asDiskError(error, path, "resize");
    }
    this.#tail = tail;
    this.#geometry = { ...this.#geometry, sectors };
    this.#size = size;
    this.#writes = this.#plannerOfWrites(size);
  }

  #plannerOfWrites(size: number): AlignmentPlanner {
    return new AlignmentPlanner({
      ...this.#limits,
      writes: true,
      tailStart: roundDown(size, this.#alignment),
      maxStraightBytes: BOUNCE_BYTES,
    });
  }

  /**
   * Waits for everything submitted, then closes every descriptor. Idempotent.
   *
   * @returns When it is done.
   */
  close(): Promise<void> {
    return this.#inFlight.close(() => this.#release());
  }

  async #release(): Promise<void> {
    await closeParts(this.info.path!, [
      () => this.#pool.close(),
      () => this.#tail.close(),
      () => fs.closeSync(this.#flushDescriptor),
      () => this.#device?.close(),
      () => this.#claim?.release(),
      () => this.#signal?.release(),
    ]);
  }

  async #carryOut(request: Request): Promise<void> {
    switch (request.type) {
      case RequestType.In:
        return await stillIntact(request, this.#move(request, this.#reads));
      case RequestType.Out:
        await stillIntact(request, this.#write(request, this.#writes));
        break;
      case RequestType.WriteZeroes:
        await this.#write(request, this.#writes);
        break;
      case RequestType.GetId:
        request.data!.set(this.#id);
        return;
      case RequestType.Flush:
        // Nothing was written, and Windows flushes for writers alone.
        if (this.abilities.readOnly) return;
        return await this.#flush();
    }
    if (request.fua) await this.#flush();
  }

  async #write(request: Request, planner: AlignmentPlanner): Promise<void> {
    const start = request.sector * SECTOR_BYTES;
    const end = start + request.count * SECTOR_BYTES;
    // The one write that could hide for good that the image was cut.
    if (end === this.#size) this.#refuseCut();
    // Writes of whole host blocks need the lock as well: a block that another
    // request read before and writes after would undo them.
    const release = await this.#lockBlocks(start, end);
    try {
      await this.#move(request, planner);
    } finally {
      release?.();
    }
  }

  async #move(request: Request, planner: AlignmentPlanner): Promise<void> {
    const start = request.sector * SECTOR_BYTES;
    const end = start + request.count * SECTOR_BYTES;
    let bounced = false;
    let modified = false;
    for (let position = start; position < end;) {
      if (this.#withdrawn.has(request)) throw new WithdrawnError();
      const from = position - start;
      // A copy, as others plan while this piece moves.
      const piece = {
        ...planner.plan(position, end, this.#addressOf(request, from)),
      };
      // Through the first one, a write there would make the file grow.
      const pool = piece.inTail ? this.#tail : this.#pool;
      const descriptor = await pool.take();
      try {
        await (piece.way === Way.Straight
          ? this.#moveStraight(request, from, piece, descriptor)
          : this.#moveCopy(request, from, piece, descriptor));
      } finally {
        pool.give(descriptor);
      }
      if (piece.way !== Way.Straight) bounced = true;
      if (piece.way === Way.Modify) modified = true;
      position += piece.length;
    }
    this.#countMoves(request, bounced, modified);
  }

  #countMoves(request: Request, bounced: boolean, modified: boolean): void {
    if (bounced && request.type !== RequestType.WriteZeroes) {
      this.counters.bounced++;
    }
    if (modified) this.counters.readModifyWrites++;
  }

  /** Moves a piece between the file and memory that the kernel can have. */
  #moveStraight(
    request: Request,
    from: number,
    piece: Piece,
    descriptor: number,
  ): Promise<void> {
    const { offset, length } = piece;
    const memory = this.#straightMemory(request, from, length);
    const block = this.#blockOf(piece);
    return request.type === RequestType.In
      ? readAt(descriptor, memory, offset, length, block, this.#count)
      : writeAt(descriptor, memory, offset, block, this.#count);
  }

  /** Moves a piece through aligned memory. */
  async #moveCopy(
    request: Request,
    from: number,
    piece: Piece,
    descriptor: number,
  ): Promise<void> {
    const { offset, span, skip, length, readsFirst, readsLast } = piece;
    const block = this.#blockOf(piece);
    const bounce = await takeBounce();
    try {
      const blocks = bounce.subarray(0, span);
      const wanted = blocks.subarray(skip, skip + length);
      const read = (at: number, bytes: number, need: number) =>
        readAt(
          descriptor,
          blocks.subarray(at, at + bytes),
          offset + at,
          need,
          block,
          this.#count,
        );
      if (request.type === RequestType.In) {
        // What follows may be beyond the file's end.
        await read(0, span, skip + length);
        if (!scatter(request, from, wanted)) throw new ChangedError();
        return;
      }
      if (readsFirst) await read(0, block, block);
      if (readsLast) await read(span - block, block, block);
      if (request.type === RequestType.WriteZeroes) wanted.fill(0);
      else if (!gather(request, from, wanted)) throw new ChangedError();
      await writeAt(descriptor, blocks, offset, block, this.#count);
    } finally {
      giveBounce(bounce);
    }
  }

  // ---- The same by blocking calls. Alone, so that nothing is waited for ----

  #carryOutSync(request: Request): DiskError | null {
    try {
      switch (request.type) {
        case RequestType.In:
          this.#moveSync(request, this.#reads);
          return null;
        case RequestType.GetId:
          request.data!.set(this.#id);
          return null;
        case RequestType.Flush:
          if (!this.abilities.readOnly) this.#flushSync();
          return null;
        default: {
          const end = request.sector + request.count;
          if (end * SECTOR_BYTES === this.#size) this.#refuseCut();
          this.#moveSync(request, this.#writes);
          if (request.fua) this.#flushSync();
          return null;
        }
      }
    } catch (error) {
      return this.#wrap(request, error);
    }
  }

  #moveSync(request: Request, planner: AlignmentPlanner): void {
    const start = request.sector * SECTOR_BYTES;
    const end = start + request.count * SECTOR_BYTES;
    let bounced = false;
    let modified = false;
    for (let position = start; position < end;) {
      const from = position - start;
      const piece = planner.plan(position, end, this.#addressOf(request, from));
      const descriptor = (piece.inTail ? this.#tail : this.#pool).any;
      if (piece.way === Way.Straight) {
        this.#moveStraightSync(request, from, piece, descriptor);
      } else this.#moveCopySync(request, from, piece, descriptor);
      if (piece.way !== Way.Straight) bounced = true;
      if (piece.way === Way.Modify) modified = true;
      position += piece.length;
    }
    this.#countMoves(request, bounced, modified);
  }

  #moveStraightSync(
    request: Request,
    from: number,
    piece: Piece,
    descriptor: number,
  ): void {
    const { offset, length } = piece;
    const memory = this.#straightMemory(request, from, length);
    const block = this.#blockOf(piece);
    if (request.type === RequestType.In) {
      readAtSync(descriptor, memory, offset, length, block, this.#count);
    } else writeAtSync(descriptor, memory, offset, block, this.#count);
  }

  #moveCopySync(
    request: Request,
    from: number,
    piece: Piece,
    descriptor: number,
  ): void {
    const { offset, span, skip, length, readsFirst, readsLast } = piece;
    const block = this.#blockOf(piece);
    this.#blockingBounce ??= this.allocate(BOUNCE_BYTES);
    const blocks = this.#blockingBounce.subarray(0, span);
    const wanted = blocks.subarray(skip, skip + length);
    const read = (at: number, bytes: number, need: number) =>
      readAtSync(
        descriptor,
        blocks.subarray(at, at + bytes),
        offset + at,
        need,
        block,
        this.#count,
      );
    if (request.type === RequestType.In) {
      read(0, span, skip + length);
      scatter(request, from, wanted);
      return;
    }
    if (readsFirst) read(0, block, block);
    if (readsLast) read(span - block, block, block);
    if (request.type === RequestType.WriteZeroes) wanted.fill(0);
    else gather(request, from, wanted);
    writeAtSync(descriptor, blocks, offset, block, this.#count);
  }

  #flushSync(): void {
    let failure: unknown = null;
    const waiter: FlushWaiter = {
      resolve: () => {},
      reject: (error) => failure = error,
    };
    // Nobody else shares it: it is over when this returns.
    if (!this.#flushes.join(waiter)) throw new LatchedError();
    if (failure !== null) throw failure;
  }

  // ---- Both ----

  /** The memory of a piece that the kernel can have as it is. */
  #straightMemory(request: Request, from: number, length: number): Uint8Array {
    return request.type === RequestType.WriteZeroes
      ? zeroes().subarray(0, length)
      : request.data!.subarray(from, from + length);
  }

  /** What a call must go on at multiples of, after it ended short. */
  #blockOf(piece: Piece): number {
    return piece.inTail ? 1 : this.#alignment;
  }

  /** Takes whole host blocks, if writes may share them. */
  #lockBlocks(start: number, end: number): Promise<(() => void) | null> {
    const ranges = this.#ranges;
    if (ranges === null) return NOTHING_HELD;
    return new Promise((resolve) => ranges.claim(start, end, resolve));
  }

  /** Where a request's memory lies, if the kernel can have it as it is. */
  #addressOf(request: Request, from: number): number {
    if (request.type === RequestType.WriteZeroes) return ANY_PAGE;
    const { data, more } = request;
    // What can be resized could give its pages back under the kernel.
    if (more.length > 0 || (data!.buffer as ArrayBuffer).resizable) {
      return NO_ADDRESS;
    }
    if (this.#alignment === 1) return from;
    const address = addressInPages(data!);
    return address === NO_ADDRESS ? NO_ADDRESS : address + from;
  }

  #flush(): Promise<void> {
    const waiter = Promise.withResolvers<void>();
    if (!this.#flushes.join(waiter)) waiter.reject(new LatchedError());
    return waiter.promise;
  }

  async #flushNow(): Promise<void> {
    try {
      this.#count();
      // The descriptor that has been open since before the first write, so that
      // every failed write-back is reported to it.
      await dataSync(this.#flushDescriptor);
      this.#refuseCut();
    } catch (error) {
      return this.#flushFailed(error);
    }
    for (const { resolve } of this.#flushes.end(null).group) resolve();
  }

  #flushNowSync(): void {
    try {
      this.#count();
      fs.fdatasyncSync(this.#flushDescriptor);
      this.#refuseCut();
    } catch (error) {
      return this.#flushFailed(error);
    }
    for (const { resolve } of this.#flushes.end(null).group) resolve();
  }

  #flushFailed(error: unknown): void {
    const failure = this.#wrap(flushRequest(), error);
    const { group, refused } = this.#flushes.end(failure);
    for (const { reject } of group) reject(error);
    for (const { reject } of refused) reject(new LatchedError());
  }

  /**
   * Throws if the image was cut while it was open. A write beyond its new
   * end makes a file longer again, and what lies between reads as zeroes; so a
   * flush looks, and before that a write of the last sector. A device that was
   * cut refuses writes beyond its end, and syncs as if nothing had been there.
   */
  #refuseCut(): void {
    const size = this.#device?.size() ??
      fs.fstatSync(this.#flushDescriptor).size;
    if (size < this.#size) throw new ShrunkError("The image shrank");
  }

  /** After a failed flush nothing can be made durable any more. */
  #refuseUnsafe(request: Request): DiskError | null {
    return this.#flushes.failure !== null &&
        (request.type === RequestType.Flush || request.writes && request.fua)
      ? this.#wrap(request, new LatchedError())
      : null;
  }

  /** Gives what was thrown its kind, its numbers and its place. */
  #wrap(request: Request, error: unknown): DiskError {
    const path = this.#path;
    if (error instanceof WithdrawnError) return abortedError(request, { path });
    if (error instanceof ChangedError) return changedError(request, path);
    if (error instanceof ShrunkError) return cutError(request, path);
    if (error instanceof LatchedError) {
      return latchedError(request, this.#flushes.failure!, path);
    }
    const found = systemCode(error);
    if (found !== null) {
      const { code, errno } = found;
      const options = { path, errno, cause: error };
      return errnoError(request, code, "the system", options);
    }
    const { message } = error as { message?: unknown };
    return requestError("io", request, String(message), { path, cause: error });
  }
}

/** Who waits for a flush. */
type FlushWaiter = Pick<PromiseWithResolvers<void>, "resolve" | "reject">;

/** The request was aborted by its caller. */
class WithdrawnError extends Error {}

/** The request's memory was detached or resized. */
class ChangedError extends Error {}

/** Thrown instead of a flush once one failed. */
class LatchedError extends Error {}

const NOTHING_HELD = Promise.resolve(null);

/**
 * Waits for I/O on a request's memory. What `node:fs` says of memory that was
 * detached or resized (that it moved nothing, or an argument is out of range)
 * is not the file's fault.
 */
async function stillIntact(request: Request, work: Promise<void>) {
  try {
    await work;
  } catch (error) {
    throw isIntact(request) ? error : new ChangedError();
  }
}
