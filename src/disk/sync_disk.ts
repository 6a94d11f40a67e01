/**
 * The virtual disk by calls that return when they are done: arguments and
 * exceptions over one request queue, as `disk.ts` is arguments and promises.
 *
 * A WebAssembly program (a file system, a database, an emulator) calls out for a
 * sector and cannot wait for a promise. Here each method makes one `Request` over
 * the caller's memory and has the queue carry it out before it returns
 * (`RequestQueue.submitSync`), by blocking calls of the backend. Nothing else of
 * the program runs meanwhile, however slow the medium is.
 *
 * | | |
 * | --- | --- |
 * | order | there is none to keep: a request is alone on its disk, or refused with kind `busy` |
 * | checks, words of errors, counters | those of the queue: they are the same code |
 * | a failed flush | latches, for this disk and for the asynchronous one on the same queue |
 * | which backends | memory, direct, portable, and the layers that wait for nothing but them |
 *
 * @module
 */

import { type Backend, checkBackend, whyAsyncOnly } from "../backend.ts";
import {
  MemoryBackend,
  type MemoryBackendOptions,
} from "../backends/memory.ts";
import { DiskError } from "../errors.ts";
import { type Geometry, SECTOR_BYTES } from "../geometry.ts";
import { keepOnThread } from "../one_thread.ts";
import { RequestQueue } from "../queue.ts";
import { checkQueueOptions, type QueueOptions } from "../queue_options.ts";
import {
  ID_BYTES,
  Request,
  RequestFlag,
  RequestType,
  Status,
} from "../request.ts";
import { closedError, notSubmitted, requestError } from "../request_error.ts";
import {
  createBackend,
  type CreateOptions,
  openBlocking,
  type OpenOptions,
} from "./open.ts";
import { decodeId } from "../virtio.ts";
import {
  allocateFor,
  countersOf,
  type DiskCounters,
  type DiskInfo,
  infoOf,
  isRange,
  memoryFor,
  refuseMemory,
  refuseRange,
  sectorsIn,
  shownOf,
  type View,
} from "./view.ts";

/** Options of a synchronous write. */
export interface SyncWriteOptions {
  /**
   * Force unit access: the write is durable when the call returns.
   *
   * @default {false}
   */
  fua?: boolean | undefined;
}

/** Options of a synchronous write of zeroes. */
export interface SyncZeroOptions extends SyncWriteOptions {
  /**
   * Whether the sectors may be deallocated.
   *
   * @default {false}
   */
  unmap?: boolean | undefined;
}

/**
 * A virtual disk whose calls return when they are done. Every address and count
 * is in sectors of 512 bytes. {@linkcode SyncDisk.open} opens one, and
 * `VirtualDisk.sync()` makes one of a disk that is open.
 *
 * Opening and closing are asynchronous all the same: locks are waited for, and
 * what the operating system keeps for a disk is released in turns of the event
 * loop.
 *
 * @example Ten lines
 * ```ts
 * import { SyncDisk } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * const path = await Deno.makeTempDir() + "/disk.img";
 * await using disk = await SyncDisk.create(path, { sectors: 2048 });
 * const data = new Uint8Array(4096).fill(0xa5);
 * disk.write(8, data);
 * disk.flush();
 * assertEquals(disk.read(8, 8), data);
 * ```
 */
export class SyncDisk implements AsyncDisposable {
  readonly #view: View;
  /** Whether the disk that it is a view of has been closed. */
  readonly #isGone: () => boolean;
  /** Whether it has a disk of its own, and not that of a `VirtualDisk`. */
  readonly #ownsQueue: boolean;
  #closed = false;

  private constructor(view: View, isGone: () => boolean, ownsQueue: boolean) {
    this.#view = view;
    this.#isGone = isGone;
    this.#ownsQueue = ownsQueue;
    keepOnThread(this, "a SyncDisk");
  }

  /**
   * Opens a raw disk image or a block device.
   *
   * @param path Its path, or a `file:` URL.
   * @param options How to open it. No engine is needed: `"auto"` is `"sync"`.
   * @returns The disk.
   * @throws {DiskError} As `VirtualDisk.open` does; with kind `unsupported` if
   * it is a disk behind a server.
   * @throws {RangeError} If an option is out of its range.
   */
  static async open(
    path: string | URL,
    options: OpenOptions = {},
  ): Promise<SyncDisk> {
    checkQueueOptions(options);
    const backend = await openBlocking(path, options);
    return await SyncDisk.#overOrClose(backend, options);
  }

  /**
   * Makes a new image, which reads as zeroes, and opens it.
   *
   * @param path Its path, or a `file:` URL.
   * @param options Its size, and how to open it.
   * @returns The disk.
   * @throws {DiskError} As `VirtualDisk.create` does.
   * @throws {RangeError} If an option is out of its range.
   */
  static async create(
    path: string | URL,
    options: CreateOptions,
  ): Promise<SyncDisk> {
    checkQueueOptions(options);
    const backend = await createBackend(path, options, true);
    return await SyncDisk.#overOrClose(backend, options);
  }

  /**
   * Makes a disk in memory, which is never durable.
   *
   * @param options Its size and more.
   * @returns The disk.
   * @throws {RangeError} If an option is out of its range.
   */
  static memory(options: MemoryBackendOptions & QueueOptions): SyncDisk {
    return SyncDisk.over(new MemoryBackend(options), options);
  }

  /**
   * Makes a disk over a backend of one's own: a stack of layers, a model.
   *
   * @param backend What carries out the requests; closing the disk closes it.
   * @param options How its queue is set up.
   * @returns The disk.
   * @throws {DiskError} With kind `unsupported` if the backend has no blocking
   * calls; it is left open then.
   * @throws {RangeError} If an option is out of its range.
   */
  static over(backend: Backend, options: QueueOptions = {}): SyncDisk {
    checkBackend("make a disk", backend);
    refuseAsyncOnly(backend);
    const view: View = {
      queue: new RequestQueue(backend, options),
      start: 0,
      owner: true,
      get sectors() {
        return backend.geometry.sectors;
      },
    };
    return new SyncDisk(view, () => false, true);
  }

  /**
   * Makes a disk of a view of an asynchronous one.
   *
   * @param view The view.
   * @param isGone Says whether it has been closed.
   * @returns The disk, which closing leaves open.
   * @throws {DiskError} If it is closed, or its backend has no blocking calls.
   * @internal
   */
  static of(view: View, isGone: () => boolean): SyncDisk {
    const disk = new SyncDisk(view, isGone, false);
    if (disk.closed) {
      throw new DiskError(
        "closed",
        "Cannot make a synchronous disk as the disk is closed",
        { operation: "sync" },
      );
    }
    refuseAsyncOnly(view.queue.backend);
    return disk;
  }

  static async #overOrClose(
    backend: Backend,
    options: QueueOptions,
  ): Promise<SyncDisk> {
    try {
      return SyncDisk.over(backend, options);
    } catch (error) {
      await backend.close();
      throw error;
    }
  }

  /** Capacity in sectors of 512 bytes. */
  get sectors(): number {
    return this.#view.sectors;
  }

  /** The disk's shape. */
  get geometry(): Geometry {
    const { queue, sectors } = this.#view;
    return { ...queue.backend.geometry, sectors };
  }

  /** Whether writes are refused. */
  get readOnly(): boolean {
    return this.#view.queue.backend.abilities.readOnly;
  }

  /** What the disk is and why, as plain data. */
  get info(): DiskInfo {
    return infoOf(this.#view);
  }

  /** What was counted since the disk was opened, as plain data. */
  get counters(): DiskCounters {
    return countersOf(this.#view.queue);
  }

  /**
   * The error of the flush that failed first, after which writes and flushes
   * are refused; `null` while none failed.
   */
  get failure(): DiskError | null {
    return this.#view.queue.failure;
  }

  /** Whether it is closed, or the disk that it is a view of. */
  get closed(): boolean {
    return this.#closed || this.#isGone() || this.#view.queue.closed;
  }

  /**
   * Reads sectors into new memory.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @returns Their bytes.
   * @throws {DiskError} If it fails; with kind `busy` while asynchronous
   * requests are in flight, as every method here.
   */
  read(sector: number, count: number): Uint8Array<ArrayBuffer> {
    // Checked before memory is made: the count may be absurd.
    this.#checkRange("read", sector, count);
    const data = memoryFor(sector, count);
    if (data instanceof DiskError) throw data;
    this.#carryOut(RequestType.In, sector, count, 0, data);
    return data;
  }

  /**
   * Reads sectors into memory that the caller has.
   *
   * @param sector First sector.
   * @param memory Where to; its length says how many sectors. Memory from
   * {@linkcode SyncDisk.allocate} needs no copy.
   * @throws {DiskError} If it fails, with kind `argument` if the memory is none.
   */
  readInto(sector: number, memory: Uint8Array): void {
    const count = this.#checkMemory("read", sector, memory);
    this.#carryOut(RequestType.In, sector, count, 0, memory);
  }

  /**
   * Writes sectors.
   *
   * @param sector First sector.
   * @param data Their bytes: whole blocks.
   * @param options Whether it must be durable when the call returns.
   * @throws {DiskError} If it fails, with kind `argument` if the memory is none.
   */
  write(sector: number, data: Uint8Array, options?: SyncWriteOptions): void {
    const count = this.#checkMemory("write", sector, data);
    const flags = options?.fua ? RequestFlag.Fua : 0;
    this.#carryOut(RequestType.Out, sector, count, flags, data);
  }

  /**
   * Makes every write that was made before it durable. What that means on this
   * disk is in `info.durability`.
   *
   * @throws {DiskError} If it fails: from then on writes and flushes are
   * refused, as it is no longer known what is durable.
   */
  flush(): void {
    this.#submit(new Request(RequestType.Flush, 0, 0));
  }

  /**
   * Makes sectors read as zeroes.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @param options Whether they may be deallocated, and whether it must be
   * durable when the call returns.
   * @throws {DiskError} If it fails.
   */
  zero(sector: number, count: number, options?: SyncZeroOptions): void {
    this.#checkRange("write zeroes", sector, count);
    const flags = (options?.unmap ? RequestFlag.Unmap : 0) |
      (options?.fua ? RequestFlag.Fua : 0);
    this.#carryOut(RequestType.WriteZeroes, sector, count, flags);
  }

  /**
   * Gives up the content of sectors: they may read as anything afterwards.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @throws {DiskError} With kind `unsupported` if the disk cannot do that, or
   * as it fails.
   */
  discard(sector: number, count: number): void {
    this.#checkRange("discard", sector, count);
    this.#carryOut(RequestType.Discard, sector, count, 0);
  }

  /**
   * The disk's identity (virtio-blk's GET_ID).
   *
   * @returns Up to 20 ASCII characters.
   * @throws {DiskError} If it fails.
   */
  id(): string {
    const bytes = new Uint8Array(ID_BYTES);
    this.#submit(new Request(RequestType.GetId, 0, 0, 0, bytes));
    return decodeId(bytes);
  }

  /**
   * Carries out a request: for several segments of memory, for request types
   * without a method, for statuses instead of exceptions.
   *
   * @param request The request; on a slice, its sectors count from the start of
   * the whole disk as the request is taken as it is.
   * @returns How it ended; `request.error` says why.
   * @throws {DiskError} If it is no request, or in flight already.
   *
   * @example Two segments, one request
   * ```ts
   * import { readRequest, Status, SyncDisk } from "@platter/disk";
   * import { assertEquals } from "@std/assert";
   *
   * await using disk = SyncDisk.memory({ sectors: 8 });
   * const request = readRequest(7, new Uint8Array(512), new Uint8Array(512));
   * assertEquals(disk.submit(request), Status.IoErr);
   * assertEquals(request.error?.kind, "range");
   * ```
   */
  submit(request: Request): Status {
    if (request?.owner !== null) throw notSubmitted(request);
    const error = this.#refuseOutside(request);
    if (error === null) this.#view.queue.submitSync(request);
    else {
      request.error = error;
      request.status = Status.IoErr;
    }
    return request.status!;
  }

  /**
   * Memory that this disk moves without a copy, as long as a request's memory
   * starts on a page (4,096 bytes) of it: see `VirtualDisk.allocate`.
   *
   * @param sectors Sectors.
   * @returns The memory, zeroed.
   * @throws {RangeError} If it is not a safe integer above zero.
   */
  allocate(sectors: number): Uint8Array<ArrayBuffer> {
    return allocateFor(this.#view.queue, sectors);
  }

  /**
   * Closes the disk; idempotent. It does not flush. A disk made by
   * `VirtualDisk.sync()` ends, and leaves that one open. Calls are refused from
   * now on, whatever the promise does.
   *
   * @returns When what the disk held is released.
   */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#ownsQueue) await this.#view.queue.close();
  }

  /**
   * What `console.log` shows of the disk.
   *
   * @param inspect Shows a value.
   * @param options How.
   * @returns For example `SyncDisk { path: "disk.img", sectors: 2048, … }`.
   */
  [Symbol.for("Deno.customInspect")](
    inspect: (value: unknown, options: object) => string,
    options: object,
  ): string {
    const shown = shownOf(this.#view, this.closed);
    return `SyncDisk ${inspect(shown, options)}`;
  }

  /**
   * The same for Node.js and Bun.
   *
   * @param _depth How deep it is shown; all of it is.
   * @param options How.
   * @param inspect Shows a value.
   * @returns As above.
   */
  [Symbol.for("nodejs.util.inspect.custom")](
    _depth: number,
    options: object,
    inspect: (value: unknown, options: object) => string,
  ): string {
    const shown = shownOf(this.#view, this.closed);
    return `SyncDisk ${inspect(shown, options)}`;
  }

  /** Closes the disk, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #checkRange(operation: string, sector: number, count: number): void {
    const refused = this.#refuseRange(operation, sector, count);
    if (refused !== null) throw refused;
  }

  #refuseRange(
    operation: string,
    sector: number,
    count: number,
  ): DiskError | null {
    const { queue, owner } = this.#view;
    // While the whole disk is being resized, the queue says that it is busy.
    if (owner && queue.resizing && isRange(sector, count)) return null;
    return refuseRange(this.#view, operation, sector, count);
  }

  /** The sectors of memory; parts of one, the queue refuses. */
  #checkMemory(operation: string, sector: number, memory: Uint8Array): number {
    const count = sectorsIn(memory);
    const refused = this.#refuseRange(operation, sector, count);
    if (refused === null) return memory.length / SECTOR_BYTES;
    throw refuseMemory(operation, memory, refused);
  }

  #carryOut(
    type: RequestType,
    sector: number,
    count: number,
    flags: number,
    data: Uint8Array | null = null,
  ): void {
    const { start } = this.#view;
    this.#submit(new Request(type, start + sector, count, flags, data));
  }

  #submit(request: Request): void {
    const error = this.#refuseOutside(request) ??
      this.#view.queue.submitSync(request);
    if (error !== null) throw error;
  }

  /** Refuses what the queue would not: it knows the whole disk, and that only. */
  #refuseOutside(request: Request): DiskError | null {
    const { queue, start, sectors, owner } = this.#view;
    if (this.#closed || this.#isGone()) {
      return owner
        ? closedError(request, queue.backend.info.path)
        : requestError("closed", request, "the slice is closed");
    }
    const end = start + sectors;
    const { sector, count } = request;
    // What is no range, the queue refuses.
    const outside = !owner && isRange(sector, count) &&
      (sector < start || sector + count > end);
    return outside
      ? requestError(
        "range",
        request,
        `the slice spans sectors ${start} to ${end}`,
      )
      : null;
  }
}

function refuseAsyncOnly(backend: Backend): void {
  const why = whyAsyncOnly(backend);
  if (why === null) return;
  throw new DiskError(
    "unsupported",
    `Cannot make a synchronous disk as ${why}`,
    { operation: "sync", path: backend.info.path ?? undefined },
  );
}
