/**
 * The direct backend: turns requests into operations on a descriptor and has
 * an engine carry them out.
 *
 * What it takes care of:
 *
 * - Memory that the host does not take as it is, blocks of the disk that are
 *   smaller than what the host writes at once, and the end of a file inside of a
 *   host block: `../alignment_plan.ts` says which piece moves how, and this moves
 *   it. A request goes from piece to piece until all of it is done.
 * - Short transfers go on; what was interrupted or is not supported is tried
 *   again in another way.
 * - Flushes are shared, and none follows one that failed: `../shared_flush.ts`.
 *
 * @module
 */

import { addressOf, alignedMemory, IoVector } from "../../../ffi/memory.ts";
import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Extent,
  type Limits,
  refuse,
} from "../../backend.ts";
import { gather, offsetMemory, scatter } from "../../buffer.ts";
import {
  AllocateMode,
  type Engine,
  type MakeEngine,
  OperationCode,
  SyncEngine,
} from "../../engines/mod.ts";
import type { DiskError } from "../../errors.ts";
import { type Geometry, SECTOR_BYTES } from "../../geometry.ts";
import { InFlight } from "../../in_flight.ts";
import type { BackendInfo } from "../../info.ts";
import { keepOnThread } from "../../one_thread.ts";
import { inWorker } from "../../platform/system.ts";
import { type Request, RequestFlag, RequestType } from "../../request.ts";
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
  type AlignmentPlanner,
  ANY_PAGE,
  NO_ADDRESS,
  Way,
} from "../alignment_plan.ts";
import { expectFileSizeSignal } from "../file_size_signal.ts";
import { closeParts } from "../close_parts.ts";
import { asDiskError } from "../image_options.ts";
import { RangeLock } from "../range_lock.ts";
import { SharedFlush } from "../shared_flush.ts";
import { type Bounce, BouncePool, LARGE_BOUNCE_BYTES } from "./bounce.ts";
import type { FileHost } from "./file_host.ts";
import {
  type DirectImage,
  MAX_SEGMENTS,
  MEMORY_ALIGNMENT,
  type Planners,
  plannersOf,
} from "./image.ts";
import { Recovery, recoveryOf } from "./recovery.ts";
import { Stage, Transfer } from "./transfer.ts";
import { isNotCapable } from "../../platform/permissions.ts";
import { answerRequest } from "../../throw_later.ts";

/** How operations are carried out while a caller waits. */
const BLOCKING_CALLS = {
  info: { name: "sync", reason: "the caller waits" },
  stallMs: Infinity,
};

/** Bytes that adjacent requests are merged to. */
const MAX_MERGED_BYTES = 1_048_576;

/**
 * Bytes of a file system's block, of ext4 and mostly of XFS: what begins or ends
 * within one is zeroed in the cache.
 */
const CACHED_BELOW = 4096;

/** Requests over a descriptor. */
export class DirectBackend implements Backend {
  readonly #host: FileHost;
  #image: DirectImage;
  /** What operations go to: the engine, or blocking calls meanwhile. */
  #engine: Engine<Transfer>;
  readonly #asyncEngine: Engine<Transfer>;
  readonly #blockingCalls: SyncEngine<Transfer>;
  readonly #bounces: BouncePool;
  readonly #transfers: Transfer[] = [];
  /** Those in flight that may take several operations. */
  readonly #long = new Set<Transfer>();
  #planners: Planners;
  /** Present when a block of the disk can be less than what the host writes. */
  readonly #rangeLock: RangeLock | null;
  readonly #writeZeroesModes: { punch: boolean; zero: boolean };
  /**
   * Whether the kernel may have the caller's memory while this thread goes on.
   * A Worker can be terminated at any time, and its memory goes to others while
   * the device still writes: there, the kernel gets mapped memory only, but for
   * calls that block.
   */
  #lendsCallerMemory: boolean;
  /** The address of memory that it may have. */
  readonly #addressOf = (memory: Uint8Array): number =>
    this.#lendsCallerMemory && addressOf(memory) || NO_ADDRESS;
  readonly #id: Uint8Array;
  /** Whether a seek finds its end: of some systems' devices it does not. */
  readonly #hasEnd: boolean;
  readonly #flushes = new SharedFlush<Transfer>((first) => {
    first.fd = this.#image.fd;
    first.length = 0;
    this.#push(first);
  });
  #zeroes: Bounce | null = null;
  /** Operations in flight that make their write durable by themselves. */
  #durable = 0;
  /** What goes to the kernel's cache, until there are none of these. */
  #afterDurable: Transfer[] = [];
  readonly #inFlight = new InFlight();
  #bounced = 0;
  #readModifyWrites = 0;
  /** How large requests may get. */
  readonly limits: Limits = {
    maxSegments: MAX_SEGMENTS,
    maxBytes: MAX_MERGED_BYTES,
  };

  /**
   * Constructs a new instance.
   *
   * @param host The operating system.
   * @param image The open image; the backend closes its descriptors.
   * @param makeEngine Makes the engine.
   */
  constructor(
    host: FileHost,
    image: DirectImage,
    makeEngine: MakeEngine<Transfer>,
  ) {
    this.#host = host;
    this.#image = image;
    this.#bounces = new BouncePool(host);
    this.#id = encodeId(image.info.id);
    this.#writeZeroesModes = {
      punch: image.zeroesRanges,
      zero: image.zeroesInPlace ?? image.zeroesRanges,
    };
    this.#planners = plannersOf(image);
    this.#hasEnd = !image.blockDevice || host.fileSize(image.fd) >= this.#size;
    this.#rangeLock = image.geometry.blockSize % image.writeAlignment === 0
      ? null
      : new RangeLock(image.writeAlignment);
    const complete = (transfer: Transfer, result: number) =>
      this.#completed(transfer, result);
    this.#engine = this.#asyncEngine = makeEngine(complete);
    this.#blockingCalls = new SyncEngine(host, complete, BLOCKING_CALLS);
    this.#lendsCallerMemory = !inWorker || this.#engine.info.name === "sync";
    keepOnThread(this, "a backend");
  }

  /** The disk's shape. */
  get geometry(): Geometry {
    return this.#image.geometry;
  }

  /** What it can do. */
  get abilities(): Abilities {
    return this.#image.abilities;
  }

  /** What it is and why, as plain data. */
  get info(): BackendInfo {
    const { info } = this.#image;
    const { durability } = info;
    return {
      ...info,
      durability: this.#writesDurably
        ? { ...durability, fua: "RWF_DSYNC" }
        : durability,
      engine: this.#asyncEngine.info,
    };
  }

  /** What it counted so far. */
  get counters(): BackendCounters {
    return {
      systemCalls: this.#asyncEngine.systemCalls +
        this.#blockingCalls.systemCalls,
      bounced: this.#bounced,
      readModifyWrites: this.#readModifyWrites,
    };
  }

  /** Carries out a batch. */
  submit(batch: readonly Request[], complete: Complete): void {
    for (let i = 0; i < batch.length; i++) this.#start(batch[i]!, complete);
    this.#engine.kick();
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
    const lends = this.#lendsCallerMemory;
    this.#engine = this.#blockingCalls;
    this.#lendsCallerMemory = true;
    try {
      run();
    } finally {
      this.#engine = this.#asyncEngine;
      this.#lendsCallerMemory = lends;
    }
    return true;
  }

  /** Tries to stop a request early, at the latest after its next piece. */
  cancel(request: Request): void {
    for (const transfer of this.#long) {
      if (transfer.request === request) transfer.cancelled = true;
    }
    this.#engine.cancel?.((transfer) => {
      // A sync goes on: others may share it, and one that the kernel interrupted
      // (FUSE hands that on) has made who knows what durable.
      if (transfer.request !== request || transfer.stage === Stage.Sync) {
        return false;
      }
      transfer.cancelled = true;
      return true;
    });
  }

  /** Page-aligned memory; any memory once FFI has been given up. */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    try {
      return alignedMemory(byteLength);
    } catch (error) {
      if (!(isNotCapable(error))) throw error;
      return offsetMemory(byteLength);
    }
  }

  /** Where data is stored and where holes are. */
  extents(sector: number, count: number): Extent[] {
    return this.#image.blockDevice
      ? [{ sector, count, hole: false }]
      : this.#host.extents(this.#image.fd, sector, count);
  }

  /** Why a device keeps its size. */
  get keepsSize(): string | null {
    return this.#image.blockDevice ? DEVICES_KEEP : null;
  }

  /** Changes the size of a file. */
  async resize(sectors: number): Promise<void> {
    const image = this.#image;
    const { fd, writeAlignment, info } = image;
    const before = this.#size;
    const sizeBytes = sectors * SECTOR_BYTES;
    let { tailFd } = image;
    const needsTail = sizeBytes % writeAlignment !== 0 && tailFd < 0;
    try {
      if (needsTail) tailFd = image.openTail();
      await this.#host.resize(fd, info.path!, this.#size, sizeBytes);
    } catch (error) {
      if (needsTail && tailFd >= 0) this.#host.close(tailFd);
      throw asDiskError(error, info.path!, "resize");
    }
    const geometry = { ...image.geometry, sectors };
    this.#image = { ...this.#image, tailFd, geometry };
    this.#planners = plannersOf(this.#image);
    // The tail is buffered, as are zeroes in parts of blocks, and their failures
    // are reported to the next sync.
    if (needsTail || (before | sizeBytes) % CACHED_BELOW !== 0) {
      this.#emulateDurableWrites();
    }
  }

  /** Waits for everything submitted, then closes the descriptors. */
  close(): Promise<void> {
    return this.#inFlight.close(() => this.#release());
  }

  async #release(): Promise<void> {
    const engine = this.#asyncEngine.close();
    await engine.catch(() => {});
    const { claim, tailFd, fd, signal, info } = this.#image;
    await closeParts(info.path!, [
      // Memory stays if that failed, as it is the engine's word that the kernel
      // has none of it. Of a file it has what it needs, and all is answered: its
      // descriptors go, and with them the lock.
      async () => {
        await engine;
        this.#bounces.close();
        this.#zeroes?.release();
      },
      () => claim?.release(),
      () => tailFd >= 0 ? this.#host.close(tailFd) : undefined,
      () => this.#host.close(fd),
      () => signal?.release(),
    ]);
  }

  #start(request: Request, complete: Complete): void {
    const path = this.#path;
    const refused = this.#inFlight.closed
      ? closedError(request, path)
      : refuse(request, this.geometry, this.abilities, path ?? undefined) ??
        this.#refuseUnsafe(request);
    if (refused !== null) return answerRequest(request, refused, complete);
    if (request.type === RequestType.GetId) {
      request.data!.set(this.#id);
      return answerRequest(request, null, complete);
    }
    const transfer = this.#transfers.pop() ?? new Transfer();
    transfer.request = request;
    transfer.complete = complete;
    transfer.total = request.count * SECTOR_BYTES;
    this.#inFlight.enter(1);
    if (transfer.total > LARGE_BOUNCE_BYTES) this.#long.add(transfer);
    if (this.#rangeLock !== null && request.writes) {
      const start = request.sector * SECTOR_BYTES;
      this.#rangeLock.claim(start, start + transfer.total, (release) => {
        transfer.release = release;
        this.#begin(transfer);
      });
    } else {
      this.#begin(transfer);
    }
  }

  #begin(transfer: Transfer): void {
    const request = transfer.request!;
    if (
      request.sector + request.count === this.geometry.sectors &&
      request.writes && this.#endsBefore(this.#size)
    ) return this.#cut(transfer);
    switch (request.type) {
      case RequestType.In:
      case RequestType.Out:
        transfer.vectored = request.more.length > 0 &&
          this.#plannerOf(request).takesSegments(request, this.#addressOf);
        return this.#next(transfer);
      case RequestType.Flush:
        return this.#sync(transfer);
      case RequestType.WriteZeroes:
        return this.#zero(transfer);
      default:
        transfer.code = request.type === RequestType.SecureErase
          ? OperationCode.SecureErase
          : this.#image.blockDevice
          ? OperationCode.Discard
          : OperationCode.Allocate;
        transfer.mode = AllocateMode.Punch;
        return this.#whole(transfer);
    }
  }

  /** Hands the whole range to the kernel in one operation without memory. */
  #whole(transfer: Transfer): void {
    transfer.stage = Stage.Plain;
    transfer.fd = this.#image.fd;
    transfer.offset = transfer.request!.sector * SECTOR_BYTES;
    transfer.length = transfer.total;
    transfer.pieceBytes = transfer.total;
    if (this.#image.blockDevice) {
      // Only whole blocks of the device: a discard is rounded inward, as its
      // sectors may read as anything; zeroes that do not fit are written.
      const align = this.#image.writeAlignment;
      const start = Math.ceil(transfer.offset / align) * align;
      const end = transfer.offset + transfer.length;
      const fits = start === transfer.offset && end % align === 0;
      if (!fits && transfer.code === OperationCode.Allocate) {
        return this.#next(transfer);
      }
      transfer.offset = start;
      transfer.length = end - end % align - start;
      if (transfer.length <= 0) {
        return this.#finish(transfer, null);
      }
    } else if ((transfer.offset | transfer.length) % CACHED_BELOW !== 0) {
      // What is less than a block of the file system it zeroes in its cache, and
      // a failure to write that back is reported to one sync alone: ours must be
      // the only ones (`durable_write.ts`), those in flight included.
      this.#emulateDurableWrites();
      if (this.#durable > 0) {
        this.#afterDurable.push(transfer);
        return;
      }
    }
    this.#push(transfer);
  }

  /**
   * Zeroes without moving them where the file system can, by writing them where
   * it cannot.
   */
  #zero(transfer: Transfer): void {
    const modes = this.#writeZeroesModes;
    const unmap = (transfer.request!.flags & RequestFlag.Unmap) !== 0;
    transfer.code = OperationCode.Allocate;
    if (unmap && modes.punch) transfer.mode = AllocateMode.Punch;
    else if (modes.zero) transfer.mode = AllocateMode.Zero;
    else return this.#next(transfer);
    this.#whole(transfer);
  }

  #sync(transfer: Transfer): void {
    transfer.stage = Stage.Sync;
    transfer.code = OperationCode.Sync;
    if (!this.#flushes.join(transfer)) this.#refuse(transfer);
  }

  /** Goes on after a sync, for all who share it. */
  #synced(first: Transfer, result: number): void {
    const cut = result >= 0 && this.#endsBefore(this.#size);
    const { group, refused } = this.#flushes.end(
      result < 0 ? this.#error(first.request!, -result) : null,
    );
    for (const transfer of group) {
      if (result < 0) this.#failed(transfer, -result);
      else if (cut) this.#cut(transfer);
      else this.#finish(transfer, null);
    }
    for (const transfer of refused) this.#refuse(transfer);
    this.#engine.kick();
  }

  #refuse(transfer: Transfer): void {
    this.#finish(transfer, this.#latched(transfer.request!));
  }

  /** Why nothing is made durable any more, if a sync failed. */
  #refuseUnsafe(request: Request): DiskError | null {
    return this.#flushes.failure !== null &&
        (request.type === RequestType.Flush || request.fua && request.writes)
      ? this.#latched(request)
      : null;
  }

  #latched(request: Request): DiskError {
    return latchedError(request, this.#flushes.failure!, this.#path);
  }

  #plannerOf(request: Request): AlignmentPlanner {
    switch (request.type) {
      case RequestType.In:
        return this.#planners.reads;
      case RequestType.Out:
        return this.#planners.writes;
      default:
        return this.#planners.zeroWrites;
    }
  }

  /** Sets up and starts the next piece of a request that moves data. */
  #next(transfer: Transfer): void {
    const request = transfer.request!;
    const { done, total } = transfer;
    const position = request.sector * SECTOR_BYTES + done;
    const address = this.#addressFor(transfer);
    const piece = this.#plannerOf(request)
      .plan(position, position + total - done, address);
    transfer.pieceBytes = piece.length;
    transfer.fd = piece.inTail ? this.#image.tailFd : this.#image.fd;
    // One call makes a whole write durable; pieces are synced together.
    transfer.durable = request.fua && request.writes && this.#writesDurably &&
      piece.length === total && piece.way !== Way.Modify;
    if (piece.way !== Way.Straight) {
      transfer.start = piece.offset;
      transfer.span = piece.span;
      transfer.skip = piece.skip;
      transfer.readsFirst = piece.readsFirst;
      transfer.readsLast = piece.readsLast;
      return this.#withBounce(transfer);
    }
    transfer.offset = position;
    transfer.stage = Stage.Plain;
    transfer.code = request.type === RequestType.In
      ? OperationCode.Read
      : OperationCode.Write;
    // Segments that can go straight are whole host blocks, and no more than one
    // call takes: all of them are in this piece.
    if (request.type === RequestType.WriteZeroes) this.#writeZeroes(transfer);
    else if (transfer.vectored) this.#vector(transfer);
    else this.#single(transfer, address, piece.length);
  }

  /** Where the memory of a request's next byte is, for its plan. */
  #addressFor(transfer: Transfer): number {
    const { request, vectored, done } = transfer;
    const { type, data, more } = request!;
    if (type === RequestType.WriteZeroes) return ANY_PAGE;
    if (more.length > 0) {
      // What one call did not move is copied.
      return vectored && done === 0 ? ANY_PAGE : NO_ADDRESS;
    }
    const address = this.#addressOf(data!);
    return address === NO_ADDRESS ? NO_ADDRESS : address + done;
  }

  /** Moves a piece through aligned memory, once that is there. */
  #copy(transfer: Transfer): void {
    const request = transfer.request!;
    // It may have waited for memory since that was decided.
    transfer.durable &&= this.#writesDurably;
    const { start, span, skip, pieceBytes } = transfer;
    const bounce = transfer.bounce!;
    if (transfer.readsFirst || transfer.readsLast) {
      const block = this.#planners.writes.alignment;
      // Where the last one is no page in memory, all before it is read as well.
      const isPage = (span - block) % MEMORY_ALIGNMENT === 0;
      const last = isPage ? span - block : 0;
      const at = transfer.readsFirst ? 0 : last;
      transfer.stage = Stage.ReadEdge;
      transfer.code = OperationCode.Read;
      transfer.offset = start + at;
      const length = transfer.readsFirst ? block : span - at;
      if (transfer.readsFirst) transfer.readsFirst = false;
      else transfer.readsLast = false;
      return this.#single(transfer, bounce.address + at, length);
    }
    transfer.stage = Stage.Bounce;
    transfer.code = OperationCode.Write;
    transfer.offset = start;
    if (request.type === RequestType.In) {
      transfer.code = OperationCode.Read;
    } else {
      const target = bounce.bytes.subarray(skip, skip + pieceBytes);
      if (request.type === RequestType.WriteZeroes) target.fill(0);
      else if (!gather(request, transfer.done, target)) {
        return this.#changed(transfer);
      }
    }
    transfer.bounced = request.type !== RequestType.WriteZeroes;
    this.#single(transfer, bounce.address, span);
  }

  #withBounce(transfer: Transfer): void {
    const { bounce, span } = transfer;
    if (bounce !== null && bounce.bytes.length >= span) {
      return this.#copy(transfer);
    }
    transfer.bounce = null;
    if (bounce !== null) this.#bounces.give(bounce);
    let given = false;
    let waited = false;
    try {
      this.#bounces.take(span, (bounce) => {
        given = true;
        transfer.bounce = bounce;
        this.#copy(transfer);
        if (waited) this.#engine.kick();
      });
    } catch (cause) {
      if (given) throw cause;
      this.#noMemory(transfer, cause);
    }
    waited = true;
  }

  /** Memory of the kernel's own is not to be had: none left, or not allowed. */
  #noMemory(transfer: Transfer, cause: unknown): void {
    const reason = `there is no memory for it: ${cause}`;
    const options = { path: this.#path, cause };
    this.#finish(
      transfer,
      requestError("io", transfer.request!, reason, options),
    );
  }

  /** Writes aligned zeroes from memory that all such writes share. */
  #writeZeroes(transfer: Transfer): void {
    try {
      this.#zeroes ??= this.#host.mapMemory(LARGE_BOUNCE_BYTES);
    } catch (cause) {
      return this.#noMemory(transfer, cause);
    }
    this.#single(transfer, this.#zeroes.address, transfer.pieceBytes);
  }

  #single(transfer: Transfer, address: number, length: number): void {
    transfer.address = address;
    transfer.length = length;
    if (transfer.durable) {
      // pwritev2 is the call that takes RWF_DSYNC.
      const vector = this.#vectorFor(transfer, 1);
      if (vector === null) return;
      vector.set(0, address, length);
      transfer.code = OperationCode.WriteVector;
      transfer.vectorCount = 1;
      transfer.address = vector.address;
    }
    this.#push(transfer);
  }

  #vector(transfer: Transfer): void {
    const request = transfer.request!;
    const count = request.segmentCount;
    const vector = this.#vectorFor(transfer, count);
    if (vector === null) return;
    for (let i = 0; i < count; i++) {
      const segment = request.segment(i);
      vector.set(i, addressOf(segment), segment.length);
    }
    transfer.code = request.type === RequestType.In
      ? OperationCode.ReadVector
      : OperationCode.WriteVector;
    transfer.address = vector.address;
    transfer.vectorCount = count;
    transfer.length = transfer.total;
    this.#push(transfer);
  }

  /** An iovec array for a transfer, which has ended if there is no memory. */
  #vectorFor(transfer: Transfer, count: number): IoVector | null {
    const { vector } = transfer;
    if (vector !== null && vector.capacity >= count) return vector;
    try {
      return transfer.vector = new IoVector(Math.max(count, 16));
    } catch (cause) {
      this.#noMemory(transfer, cause);
      return null;
    }
  }

  #push(transfer: Transfer): void {
    if (transfer.durable) this.#durable++;
    this.#engine.push(transfer);
  }

  #completed(transfer: Transfer, result: number): void {
    if (transfer.durable && --this.#durable === 0) this.#cacheZeroes();
    if (transfer.stage === Stage.Sync) return this.#synced(transfer, result);
    if (result < 0) return this.#failed(transfer, -result);
    transfer.retries = 0;
    transfer.tried = false;
    const request = transfer.request!;
    switch (transfer.stage) {
      case Stage.ReadEdge:
        // The image ends before the block does: it was cut.
        if (result === 0) return this.#cut(transfer);
        if (result < transfer.length) {
          transfer.offset += result;
          transfer.address += result;
          transfer.length -= result;
          return this.#again(this.#push, transfer);
        }
        transfer.modified = true;
        return this.#again(this.#copy, transfer);
      case Stage.Plain:
        if (transfer.code >= OperationCode.Allocate) {
          // Beyond a file's end this succeeds, and does nothing.
          if (
            this.#endsBefore((request.sector + request.count) * SECTOR_BYTES)
          ) return this.#cut(transfer);
          return request.fua
            ? this.#again(this.#sync, transfer)
            : this.#finish(transfer, null);
        }
        break;
      case Stage.Bounce:
        result = Math.min(
          Math.max(0, result - transfer.skip),
          transfer.pieceBytes,
        );
        if (request.type === RequestType.In && result > 0) {
          const { skip, bounce, done } = transfer;
          const source = bounce!.bytes.subarray(skip, skip + result);
          if (!scatter(request, done, source)) return this.#changed(transfer);
        }
        break;
    }
    if (result === 0) return this.#cut(transfer);
    transfer.done += result;
    if (transfer.done < transfer.total) {
      return transfer.cancelled
        ? this.#aborted(transfer)
        : this.#again(this.#next, transfer);
    }
    if (request.fua && request.writes) {
      // One that moved all of it at once; what follows a short one is not durable.
      if (!transfer.durable) return this.#again(this.#sync, transfer);
      if (this.#endsBefore(this.#size)) return this.#cut(transfer);
    }
    this.#finish(transfer, null);
  }

  /** Goes on with what waited for the last durable write. */
  #cacheZeroes(): void {
    if (this.#afterDurable.length === 0) return;
    for (const transfer of this.#afterDurable.splice(0)) this.#push(transfer);
    this.#engine.kick();
  }

  /** Ends a request whose memory was detached or resized meanwhile. */
  #changed(transfer: Transfer): void {
    this.#finish(transfer, changedError(transfer.request!, this.#path));
  }

  /** Starts another operation of a request, from inside a completion. */
  #again(step: (transfer: Transfer) => void, transfer: Transfer): void {
    step.call(this, transfer);
    this.#engine.kick();
  }

  #failed(transfer: Transfer, errno: number): void {
    const { errno: numbers } = this.#host;
    const { blockDevice } = this.#image;
    switch (recoveryOf(transfer, errno, numbers, blockDevice)) {
      case Recovery.Abort:
        return this.#aborted(transfer);
      case Recovery.Perform:
        transfer.tried = true;
        return this.#completed(transfer, this.#host.perform(transfer));
      case Recovery.Repeat:
        transfer.retries++;
        return this.#again(this.#push, transfer);
      case Recovery.SyncInstead:
        this.#emulateDurableWrites();
        return this.#again(this.#next, transfer);
      case Recovery.ZeroOtherwise:
        if (transfer.mode === AllocateMode.Punch) {
          this.#writeZeroesModes.punch = false;
        } else this.#writeZeroesModes.zero = false;
        return this.#again(this.#zero, transfer);
      case Recovery.WriteZeroes:
        return this.#again(this.#next, transfer);
      case Recovery.Succeed:
        return this.#completed(transfer, 0);
      case Recovery.Fail:
        this.#finish(transfer, this.#error(transfer.request!, errno));
    }
  }

  get #path(): string | null {
    return this.#image.info.path;
  }

  /** Whether one call makes a write durable. */
  get #writesDurably(): boolean {
    return this.#image.abilities.fua === "native";
  }

  /** No call does any more. */
  #emulateDurableWrites(): void {
    if (!this.#writesDurably) return;
    const { abilities } = this.#image;
    this.#image = {
      ...this.#image,
      abilities: { ...abilities, fua: "emulated" },
    };
  }

  get #size(): number {
    return this.geometry.sectors * SECTOR_BYTES;
  }

  /**
   * Whether the image ends before that byte: it was cut while it was open.
   *
   * A write beyond the new end makes a file longer again, and what lies
   * between reads as zeroes. To look before each write would cost too much; but
   * only a write of the disk's last sector can hide a cut for good. So that one
   * looks before, and what promises durability looks after. A device that was
   * cut refuses writes beyond its end, and syncs as if nothing had been there.
   */
  #endsBefore(byte: number): boolean {
    if (!this.#hasEnd) return false;
    const size = this.#host.fileSize(this.#image.fd);
    return size >= 0 && size < byte;
  }

  #aborted(transfer: Transfer): void {
    const path = this.#path;
    this.#finish(transfer, abortedError(transfer.request!, { path }));
  }

  /** Ends a request that found the image shorter than the disk. */
  #cut(transfer: Transfer): void {
    this.#finish(transfer, cutError(transfer.request!, this.#path));
  }

  #error(request: Request, errno: number): DiskError {
    const code = this.#host.errnoName(errno);
    if (code === "EFBIG") expectFileSizeSignal();
    return errnoError(request, code, "the system", { path: this.#path, errno });
  }

  #finish(transfer: Transfer, error: DiskError | null): void {
    const request = transfer.request!;
    const complete = transfer.complete!;
    if (transfer.bounced) this.#bounced++;
    if (transfer.modified) this.#readModifyWrites++;
    const { bounce, release } = transfer;
    if (transfer.total > LARGE_BOUNCE_BYTES) this.#long.delete(transfer);
    transfer.bounce = null;
    transfer.reset();
    this.#transfers.push(transfer);
    // Each of these goes on with other requests.
    this.#inFlight.answer(request, error, complete);
    if (bounce !== null) this.#bounces.give(bounce);
    release?.();
  }
}
