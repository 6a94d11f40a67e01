/**
 * The virtual disk: arguments and promises over one request queue.
 *
 * Each method checks its range, makes one `Request` over the caller's memory and
 * submits it to the `RequestQueue` (`src/queue.ts`), which returns the promise
 * that the caller gets. No data is copied here, and no state is kept of a
 * request: order, batching and errors are the queue's; what carries requests out
 * is the backend below it. A slice is a second `VirtualDisk` on the same queue,
 * which adds its start to every sector. What is larger than one request
 * (streams, copies) is built over these methods, beside this file.
 *
 * @module
 */

import type { Backend, Extent } from "../backend.ts";
import {
  MemoryBackend,
  type MemoryBackendOptions,
} from "../backends/memory.ts";
import { type DiskSize, sectorsOf } from "../disk_size.ts";
import { describeValue, DiskError } from "../errors.ts";
import { SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import { keepOnThread } from "../one_thread.ts";
import {
  createBackend,
  type CreateOptions,
  openBackend,
  type OpenOptions,
} from "./open.ts";
import { plural } from "../plural.ts";
import { Outcome, RequestQueue } from "../queue.ts";
import { checkQueueOptions, type QueueOptions } from "../queue_options.ts";
import {
  ID_BYTES,
  Request,
  RequestFlag,
  RequestType,
  Status,
} from "../request.ts";
import { requestError } from "../request_error.ts";
import { unless } from "../unless.ts";
import {
  readableStream,
  type StreamOptions,
  writableStream,
  type WritableStreamOptions,
} from "./streams.ts";
import { SyncDisk } from "./sync_disk.ts";
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
  restFrom,
  sectorsIn,
  shownOf,
  type View,
} from "./view.ts";

export type { DiskCounters, DiskInfo } from "./view.ts";

/** How long extents are looked for before others have their turn, in ms. */
const MAP_TURN_MS = 4;

/** Options of every operation. */
export interface RequestOptions {
  /**
   * Aborts the operation. Its promise rejects with the signal's reason, once its
   * memory is no longer in use; a write may or may not have happened.
   */
  signal?: AbortSignal | undefined;
}

/** Options of a write. */
export interface WriteOptions extends RequestOptions {
  /**
   * Force unit access: the write is durable when it completes.
   *
   * @default {false}
   */
  fua?: boolean | undefined;
}

/** Options of a write of zeroes. */
export interface WriteZeroesOptions extends WriteOptions {
  /**
   * Whether the sectors may be deallocated.
   *
   * @default {false}
   */
  unmap?: boolean | undefined;
}

/** How a disk may change its size. */
export interface ResizeOptions {
  /**
   * Whether it may become smaller.
   *
   * @default {false}
   */
  force?: boolean | undefined;
}

/**
 * A virtual disk. Every address and count is in sectors of 512 bytes.
 *
 * Overlapping requests take effect in the order in which they were made, others
 * may run in any order; `flush()` covers every write made before it, awaited or
 * not. After a failed flush, writes and flushes are refused until the disk is
 * opened anew.
 *
 * @example Ten lines
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * const path = await Deno.makeTempFile();
 * await using disk = await VirtualDisk.create(path, {
 *   sectors: 2048,
 *   overwrite: true,
 * });
 * const data = new Uint8Array(4096).fill(0xa5);
 * await disk.write(8, data);
 * await disk.flush();
 * assertEquals(await disk.read(8, 8), data);
 * ```
 */
export class VirtualDisk implements AsyncDisposable {
  readonly #queue: RequestQueue;
  readonly #start: number;
  readonly #owner: boolean;
  #closed = false;
  /**
   * Capacity in sectors of 512 bytes. It changes by
   * {@linkcode VirtualDisk.resize}, and that of an image in a Ceph cluster when
   * others resize it; that of a slice never does, whatever becomes of the disk.
   */
  readonly sectors: number;

  private constructor(view: View) {
    this.#queue = view.queue;
    this.#start = view.start;
    this.#owner = view.owner;
    this.sectors = view.sectors;
    if (this.#owner) {
      view.queue.onResized((sectors) => {
        // One of its own, as JSON shows it, and nobody else's to change.
        (this as { sectors: number }).sectors = sectors;
      });
    }
    keepOnThread(this, "a VirtualDisk");
  }

  /**
   * Opens a raw disk image or a block device.
   *
   * @param path Its path, or a `file:` URL.
   * @param options How to open it.
   * @returns The disk.
   * @throws {DiskError} If it cannot be opened as asked; the error's kind and
   * message say why.
   * @throws {RangeError} If an option is out of its range.
   *
   * @example Only ever direct
   * ```ts ignore
   * import { VirtualDisk } from "@platter/disk";
   *
   * await using disk = await VirtualDisk.open("disk.img", { direct: "require" });
   * console.log(disk.info.direct);
   * ```
   */
  static async open(
    path: string | URL,
    options: OpenOptions = {},
  ): Promise<VirtualDisk> {
    checkQueueOptions(options);
    return VirtualDisk.over(await openBackend(path, options), options);
  }

  /**
   * Makes a new image, which reads as zeroes, and opens it. Its name and size
   * are durable then: the folder is synced, unless it cannot be (Windows, a
   * folder that may not be read, and the portable backend without
   * `--allow-read` of the folder).
   *
   * @param path Its path, or a `file:` URL.
   * @param options Its size, and how to open it.
   * @returns The disk.
   * @throws {DiskError} With kind `exists` if there is a file and `overwrite`
   * was not given, or a device; or as {@linkcode VirtualDisk.open} does. Then
   * what was there is as it was, and what was not there is not.
   * @throws {RangeError} If an option is out of its range.
   */
  static async create(
    path: string | URL,
    options: CreateOptions,
  ): Promise<VirtualDisk> {
    checkQueueOptions(options);
    return VirtualDisk.over(await createBackend(path, options), options);
  }

  /**
   * Makes a disk in memory, which is never durable. It costs what is written.
   *
   * @param options Its size and more.
   * @returns The disk.
   * @throws {RangeError} If an option is out of its range.
   *
   * @example
   * ```ts
   * import { VirtualDisk } from "@platter/disk";
   * import { assertEquals } from "@std/assert";
   *
   * await using disk = VirtualDisk.memory({ sectors: 2 ** 31 });
   * assertEquals((await disk.read(2 ** 31 - 1, 1)).length, 512);
   * ```
   */
  static memory(options: MemoryBackendOptions & QueueOptions): VirtualDisk {
    return VirtualDisk.over(new MemoryBackend(options), options);
  }

  /**
   * Makes a disk over a backend of one's own: a stack of layers, a model.
   *
   * @param backend What carries out the requests; closing the disk closes it.
   * @param options How its queue is set up.
   * @returns The disk.
   * @throws {RangeError} If an option is out of its range.
   */
  static over(backend: Backend, options: QueueOptions = {}): VirtualDisk {
    return new VirtualDisk({
      queue: new RequestQueue(backend, options),
      start: 0,
      sectors: backend.geometry.sectors,
      owner: true,
    });
  }

  /**
   * The sector of the whole disk that this one begins at: 0 unless it is a
   * {@linkcode VirtualDisk.slice}.
   */
  get start(): number {
    return this.#start;
  }

  /**
   * What a disk and its slices have in common, and no other disk has.
   *
   * @param disk One of them.
   * @returns It, to be compared.
   * @internal
   */
  static identityOf(disk: VirtualDisk): object {
    return disk.#queue;
  }

  /**
   * Refuses what is no disk. What has no sectors, such as a backend, would be
   * equal to anything else that has none.
   *
   * @param task What the disks are for, as the error names it.
   * @param disks What was given as such.
   * @throws {TypeError} If one is none.
   * @internal
   */
  static check(task: string, ...disks: readonly unknown[]): void {
    for (const disk of disks) {
      if (disk instanceof VirtualDisk) continue;
      throw new TypeError(
        `Cannot ${task} as each must be a VirtualDisk: current value is ${
          describeValue(disk)
        }`,
      );
    }
  }

  /**
   * Refuses a disk that takes no requests any more.
   *
   * @param operation What it is for.
   * @param disk The disk, or a slice of one.
   * @throws {DiskError} With kind `closed` if it, or the disk that it is a slice
   * of, is closed or closing.
   * @internal
   */
  static refuseClosed(operation: string, disk: VirtualDisk): void {
    if (!disk.#closed && !disk.#queue.closed) return;
    throw new DiskError(
      "closed",
      `Cannot ${operation} the disk as it is closed`,
      { operation, path: disk.info.path ?? undefined },
    );
  }

  /**
   * Begins something of several requests where a request that was made now would
   * be: after every resize that was asked for before, and at once if there is
   * none.
   *
   * @param disk The disk, or a slice of one.
   * @param begin Begins it. The disk has the size that it is about.
   * @returns What that returns.
   * @internal
   */
  static afterResizes<T>(
    disk: VirtualDisk,
    begin: () => Promise<T>,
  ): Promise<T> {
    return disk.#queue.afterResizes(begin);
  }

  /**
   * Waits until disks have the sizes that a request would see which was made now.
   *
   * @param disks The disks, or slices of some.
   * @param signal Gives up waiting.
   * @returns When the resizes that were asked for before are over; `null` if there
   * are none: who does not wait then has its place before what comes later.
   * @internal
   */
  static resized(
    disks: readonly VirtualDisk[],
    signal?: AbortSignal,
  ): Promise<unknown> | null {
    const resizing = disks.filter((disk) => disk.#queue.resizing);
    if (resizing.length === 0) return null;
    const all = resizing.map((disk) =>
      VirtualDisk.afterResizes(disk, () => Promise.resolve())
    );
    return unless(signal, Promise.all(all));
  }

  /** Logical block size in bytes: operations start and end on it. */
  get blockSize(): number {
    return this.#queue.backend.geometry.blockSize;
  }

  /** Whether writes are refused. */
  get readOnly(): boolean {
    return this.#queue.backend.abilities.readOnly;
  }

  /** What the disk is and why, as plain data. */
  get info(): DiskInfo {
    return infoOf(this.#view);
  }

  /** What was counted since the disk was opened, as plain data. */
  get counters(): DiskCounters {
    return countersOf(this.#queue);
  }

  /**
   * The error of the flush that failed first, after which writes and flushes
   * are refused; `null` while none failed.
   */
  get failure(): DiskError | null {
    return this.#queue.failure;
  }

  /**
   * Settles as soon as the queue has room for another request. Await it before
   * each of many un-awaited operations to keep memory bounded.
   */
  get ready(): Promise<void> {
    return this.#queue.ready;
  }

  /**
   * Reads sectors into new memory.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @param options A signal.
   * @returns Their bytes.
   * @throws {DiskError} If it fails.
   */
  read(
    sector: number,
    count: number,
    options?: RequestOptions,
  ): Promise<Uint8Array<ArrayBuffer>> {
    // Checked before memory is made: the count may be absurd.
    const refused = this.#refuseRange("read", sector, count);
    if (refused !== null) return this.#queue.reject(refused);
    const data = memoryFor(sector, count);
    if (data instanceof DiskError) return this.#queue.reject(data);
    return this.#submit(
      new Request(RequestType.In, this.#start + sector, count, 0, data),
      Outcome.Data,
      options,
    ) as Promise<Uint8Array<ArrayBuffer>>;
  }

  /**
   * Reads sectors into memory that the caller has.
   *
   * @param sector First sector.
   * @param buffer Where to; its length says how many sectors. Memory from
   * {@linkcode VirtualDisk.allocate} needs no copy.
   * @param options A signal.
   * @returns When it is done. Until then the memory is the disk's: if it is
   * detached or resized, the read fails.
   * @throws {DiskError} If it fails, with kind `argument` if the memory is none
   * or has changed.
   */
  readInto(
    sector: number,
    buffer: Uint8Array,
    options?: RequestOptions,
  ): Promise<void> {
    const refused = this.#refuseRange("read", sector, sectorsIn(buffer));
    if (refused !== null) {
      return this.#queue.reject(refuseMemory("read", buffer, refused));
    }
    const count = buffer.length / SECTOR_BYTES;
    return this.#submit(
      new Request(RequestType.In, this.#start + sector, count, 0, buffer),
      Outcome.Void,
      options,
    ) as Promise<void>;
  }

  /**
   * Writes sectors.
   *
   * @param sector First sector.
   * @param data Their bytes: whole blocks. The memory must stay as it is until
   * the write completes: if it is detached or resized before it was taken, the
   * write fails.
   * @param options Whether it must be durable when it completes, and a signal.
   * @returns When it is done.
   * @throws {DiskError} If it fails, with kind `argument` if the memory is none
   * or has changed.
   */
  write(
    sector: number,
    data: Uint8Array,
    options?: WriteOptions,
  ): Promise<void> {
    const refused = this.#refuseRange("write", sector, sectorsIn(data));
    if (refused !== null) {
      return this.#queue.reject(refuseMemory("write", data, refused));
    }
    const count = data.length / SECTOR_BYTES;
    return this.#submit(
      new Request(
        RequestType.Out,
        this.#start + sector,
        count,
        options?.fua ? RequestFlag.Fua : 0,
        data,
      ),
      Outcome.Void,
      options,
    ) as Promise<void>;
  }

  /**
   * Makes every write that was made before it durable, awaited or not. What
   * that means on this disk is in `info.durability`.
   *
   * @param options A signal.
   * @returns When it is done.
   * @throws {DiskError} If it fails: from then on writes and flushes are
   * refused, as it is no longer known what is durable.
   */
  flush(options?: RequestOptions): Promise<void> {
    return this.#submit(
      new Request(RequestType.Flush, 0, 0),
      Outcome.Void,
      options,
    ) as Promise<void>;
  }

  /**
   * Gives up the content of sectors: they may read as anything afterwards.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @param options A signal.
   * @returns When it is done.
   * @throws {DiskError} With kind `unsupported` if the disk cannot do that, or
   * as it fails.
   */
  discard(
    sector: number,
    count: number,
    options?: RequestOptions,
  ): Promise<void> {
    return this.#range(
      RequestType.Discard,
      "discard",
      sector,
      count,
      0,
      options,
    );
  }

  /**
   * Makes sectors read as zeroes.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @param options Whether they may be deallocated, whether it must be durable
   * when it completes, and a signal.
   * @returns When it is done.
   * @throws {DiskError} If it fails.
   */
  writeZeroes(
    sector: number,
    count: number,
    options?: WriteZeroesOptions,
  ): Promise<void> {
    const flags = (options?.unmap ? RequestFlag.Unmap : 0) |
      (options?.fua ? RequestFlag.Fua : 0);
    return this.#range(
      RequestType.WriteZeroes,
      "write zeroes",
      sector,
      count,
      flags,
      options,
    );
  }

  /**
   * The disk's identity (virtio-blk's GET_ID).
   *
   * @returns Up to 20 ASCII characters.
   * @throws {DiskError} If it fails.
   */
  async id(): Promise<string> {
    const bytes = new Uint8Array(ID_BYTES);
    await this.#submit(
      new Request(RequestType.GetId, 0, 0, 0, bytes),
      Outcome.Void,
    );
    const end = bytes.indexOf(0);
    return String.fromCharCode(...bytes.subarray(0, end < 0 ? ID_BYTES : end));
  }

  /**
   * Puts a request into the queue: for several segments of memory, for request
   * types without a method, for statuses instead of exceptions.
   *
   * @param request The request; on a slice, its sectors count from the start of
   * the whole disk as the request is taken as it is.
   * @param options A signal.
   * @returns How it ended; `request.error` says why.
   * @throws {DiskError} If it is no request, or in flight already.
   */
  submit(request: Request, options?: RequestOptions): Promise<Status> {
    // The queue knows the whole disk, and that it is closed; not the slice.
    if (!this.#owner && request?.owner === null) {
      const end = this.#start + this.sectors;
      const { sector, count } = request;
      // What is no range, the queue refuses.
      const outside = isRange(sector, count) &&
        (sector < this.#start || sector + count > end);
      if (this.#closed || outside) {
        const error = request.error = this.#closed
          ? requestError("closed", request, "the slice is closed")
          : requestError(
            "range",
            request,
            `the slice spans sectors ${this.#start} to ${end}`,
          );
        request.status = Status.IoErr;
        return this.#queue.reject(error).catch(() => Status.IoErr);
      }
    }
    return this.#submit(request, Outcome.Status, options) as Promise<Status>;
  }

  /**
   * Hands what was submitted to the backend now, not at the end of this turn of
   * the event loop.
   */
  kick(): void {
    this.#queue.kick();
  }

  /**
   * A part of the disk as a disk: a partition. It shares the queue, so that
   * order, flush and failure are those of the whole disk, and sectors in its
   * errors count from the start of the whole disk. Closing it leaves the whole
   * disk open.
   *
   * @param start First sector, on a block.
   * @param count Sectors, whole blocks.
   * @returns The part.
   * @throws {DiskError} If it is not on the disk, or not whole blocks.
   *
   * @example
   * ```ts
   * import { VirtualDisk } from "@platter/disk";
   * import { assertEquals } from "@std/assert";
   *
   * await using disk = VirtualDisk.memory({ sectors: 4096 });
   * const partition = disk.slice(2048, 1024);
   * await partition.write(0, new Uint8Array(512).fill(1));
   * assertEquals((await disk.read(2048, 1))[0], 1);
   * ```
   */
  slice(start: number, count: number): VirtualDisk {
    const refused = this.#refuseRange("slice", start, count);
    if (refused !== null) throw refused;
    VirtualDisk.refuseClosed("slice", this);
    const blockSectors = this.blockSize / SECTOR_BYTES;
    if (start % blockSectors !== 0 || count % blockSectors !== 0) {
      throw new DiskError(
        "alignment",
        `Cannot slice ${
          plural(count, "sector")
        } at sector ${start} as a slice must start and end on blocks of ${this.blockSize} bytes`,
        { operation: "slice", sector: start, count },
      );
    }
    return new VirtualDisk({
      queue: this.#queue,
      start: this.#start + start,
      sectors: count,
      owner: false,
    });
  }

  /**
   * Changes the disk's size; what is new reads as zeroes. Only raw image files
   * and disks in memory can, and layers over them that are no overlays.
   *
   * It keeps its place among requests: all that were made before are answered
   * first, and all that are made later find the new size, awaited or not, copies
   * and comparisons among them. The new size is durable with the next flush. What
   * is made at once has the size of now, and keeps it:
   * {@linkcode VirtualDisk.slice}, {@linkcode VirtualDisk.readable} and
   * {@linkcode VirtualDisk.writable}. What of these lies beyond the disk's end is
   * refused with an error of kind `range`.
   *
   * @param size The new size: sectors, or an object as for
   * {@linkcode VirtualDisk.create}.
   * @param options Whether the disk may become smaller, which loses what lies
   * beyond its new end.
   * @returns When it is done.
   * @throws {DiskError} With kind `unsupported` if this disk keeps its size,
   * `geometry` if it would become smaller without `force`, or as the system says
   * no. The disk has its old size then.
   * @throws {RangeError} If no disk of these blocks has that size.
   *
   * @example
   * ```ts
   * import { VirtualDisk } from "@platter/disk";
   * import { assertEquals } from "@std/assert";
   *
   * await using disk = VirtualDisk.memory({ size: "1MiB" });
   * await disk.resize({ size: "2MiB" });
   * assertEquals(disk.sectors, 4096);
   * ```
   */
  async resize(
    size: number | DiskSize,
    options: ResizeOptions = {},
  ): Promise<void> {
    const sectors = typeof size === "number"
      ? size
      : sectorsOf(size, "resize a disk");
    if (!this.#owner) {
      throw new DiskError(
        "unsupported",
        "Cannot resize a slice as its size is its own: resize the whole disk",
        { operation: "resize" },
      );
    }
    await this.#queue.resize(sectors, options.force ?? false);
  }

  /**
   * Calls a function whenever the disk has got another size, for whoever shows
   * it to others.
   *
   * @param listener The function, given the sectors; it must not throw.
   * @returns A function that ends that.
   */
  onResized(listener: (sectors: number) => void): () => void {
    return this.#queue.onResized(listener);
  }

  /**
   * The disk, or the slice, by calls that return when they are done: for
   * WebAssembly programs and small scripts, which cannot wait for a promise. It
   * shares the queue; while asynchronous requests are in flight, synchronous
   * ones are refused with kind `busy`.
   *
   * @returns The same disk, which closing leaves open.
   * @throws {DiskError} With kind `unsupported` if the backend has no blocking
   * calls (a disk behind a server, a layer that waits by timers), with kind
   * `closed` if the disk is closed.
   *
   * @example
   * ```ts
   * import { VirtualDisk } from "@platter/disk";
   * import { assertEquals } from "@std/assert";
   *
   * await using disk = VirtualDisk.memory({ sectors: 64 });
   * const now = disk.sync();
   * now.write(8, new Uint8Array(512).fill(7));
   * assertEquals(now.read(8, 1)[0], 7);
   * ```
   */
  sync(): SyncDisk {
    return SyncDisk.of(this.#view, () => this.#closed);
  }

  /**
   * A web stream of sectors that reads ahead.
   *
   * @param options Where, and how far.
   * @returns The stream; every chunk is memory of its own.
   * @throws {DiskError} If the range is not on the disk.
   * @throws {RangeError} If a number is out of its range, or none.
   *
   * @example
   * ```ts
   * import { VirtualDisk } from "@platter/disk";
   * import { assertEquals } from "@std/assert";
   *
   * await using disk = VirtualDisk.memory({ sectors: 4096 });
   * let bytes = 0;
   * for await (const chunk of disk.readable()) bytes += chunk.length;
   * assertEquals(bytes, 4096 * 512);
   * ```
   */
  readable(options?: StreamOptions): ReadableStream<Uint8Array<ArrayBuffer>> {
    return readableStream(this, options);
  }

  /**
   * A web stream into sectors that writes behind; closing it waits for all of
   * them, and flushes a disk that can. A chunk that is detached or resized before
   * it was taken fails the stream.
   *
   * @param options Where, and how far.
   * @returns The stream; it takes chunks of any length, whole blocks together.
   * @throws {DiskError} If the range is not on the disk.
   * @throws {RangeError} If a number is out of its range, or none.
   */
  writable(options?: WritableStreamOptions): WritableStream<Uint8Array> {
    const canFlush = this.#queue.backend.abilities.flush !== "none";
    const { flush = canFlush } = options ?? {};
    return writableStream(this, { ...options, flush });
  }

  /**
   * Where data is stored and where there are holes, which read as zeroes. Like a
   * read of the range, it shows every write that was made before, awaited or
   * not; writes that are made meanwhile may show as well.
   *
   * @param sector First sector.
   * @param count Sectors; the rest of the disk by default. None have no runs.
   * @param options A signal.
   * @returns Runs in order that cover the range, data and holes in turn. Where
   * the backend does not know, everything counts as data.
   * @throws {DiskError} If the range is not on the disk or the disk is closed.
   *
   * @example
   * ```ts
   * import { VirtualDisk } from "@platter/disk";
   * import { assertEquals } from "@std/assert";
   *
   * await using disk = VirtualDisk.memory({ sectors: 1024 });
   * const write = disk.write(0, new Uint8Array(65_536).fill(1));
   * assertEquals(await disk.extents(), [
   *   { sector: 0, count: 128, hole: false },
   *   { sector: 128, count: 896, hole: true },
   * ]);
   * await write;
   * ```
   */
  async extents(
    sector = 0,
    count: number | undefined = undefined,
    options: RequestOptions = {},
  ): Promise<Extent[]> {
    const look = async (backend: Backend, range: SectorRange) => {
      const found = [...extentsFrom(backend, range)];
      let since = performance.now();
      while (endOf(found) < range.sector + range.count) {
        if (performance.now() - since >= MAP_TURN_MS) {
          await new Promise((resolve) => setTimeout(resolve, 0));
          options.signal?.throwIfAborted();
          since = performance.now();
        }
        const at = endOf(found);
        const rest = { sector: at, count: range.sector + range.count - at };
        for (const next of extentsFrom(backend, rest)) found.push(next);
      }
      return found;
    };
    return await this.#map(sector, count, options.signal, look);
  }

  /**
   * The first of the runs that {@linkcode extents} would tell, as many as are
   * found in a few milliseconds: for whoever goes through a disk of which nobody
   * knows how many runs it has.
   *
   * @param sector First sector.
   * @param count Sectors; the rest of the disk by default.
   * @param options A signal.
   * @returns Runs in order, from the first sector on, data and holes in turn; at
   * least one. If they end before the range does, there may be more from there
   * on, which may go on with the last one. None of a count of 0.
   * @throws {DiskError} If the range is not on the disk or the disk is closed.
   */
  async firstExtents(
    sector = 0,
    count: number | undefined = undefined,
    options: RequestOptions = {},
  ): Promise<Extent[]> {
    return await this.#map(sector, count, options.signal, extentsFrom);
  }

  async #map(
    sector: number,
    count: number | undefined,
    signal: AbortSignal | undefined,
    look: (
      backend: Backend,
      range: SectorRange,
    ) => Extent[] | Promise<Extent[]>,
  ): Promise<Extent[]> {
    if (this.#closed || this.#queue.closed) {
      return await this.#queue.reject(
        new DiskError("closed", "Cannot map the disk as it is closed", {
          operation: "map",
        }),
      );
    }
    const rangeOf = () => {
      const sectors = count === undefined
        ? restFrom(this.sectors, sector)
        : count;
      return this.#refuseRange("map", sector, sectors, 0) ??
        { sector: this.#start + sector, count: sectors };
    };
    const found = await this.#queue.query(
      rangeOf,
      (backend, range) => range.count === 0 ? [] : look(backend, range),
      signal,
    );
    const runs: { sector: number; count: number; hole: boolean }[] = [];
    for (const extent of found) {
      const last = runs.at(-1);
      if (last?.hole === extent.hole) last.count += extent.count;
      else runs.push({ ...extent, sector: extent.sector - this.#start });
    }
    return runs;
  }

  /**
   * Memory that this disk moves without a copy, as long as a request's memory
   * starts on a page (4,096 bytes) of it. In a Worker it is copied all the same,
   * as a Worker can be terminated while the device still writes.
   *
   * It begins inside of a larger buffer, on every disk: give `byteOffset` and
   * `byteLength` to whatever takes its `buffer`, as in
   * `new DataView(data.buffer, data.byteOffset, data.byteLength)`. It cannot be
   * transferred to another thread, as the kernel may be at it; send a copy.
   *
   * @param sectors Sectors.
   * @returns The memory, zeroed.
   * @throws {RangeError} If it is not a safe integer above zero.
   */
  allocate(sectors: number): Uint8Array<ArrayBuffer> {
    return allocateFor(this.#queue, sectors);
  }

  /**
   * Waits for everything that was submitted and closes the disk; idempotent. It
   * does not flush: what must be durable is flushed before. On a slice, it only
   * ends the slice.
   *
   * A Worker that is terminated closes nothing, but its locks, its claim on a
   * device and its descriptors end with it, though not on Bun. What stays until the
   * process ends is the memory that the kernel may still write to, and for a disk
   * with an engine one socket that woke the event loop: Deno closes no `Socket` of
   * a Worker.
   *
   * @returns When it is done.
   */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#owner) await this.#queue.close();
  }

  /**
   * What `console.log` shows of the disk.
   *
   * @param inspect Shows a value.
   * @param options How.
   * @returns For example `VirtualDisk { path: "disk.img", sectors: 2048, … }`.
   */
  [Symbol.for("Deno.customInspect")](
    inspect: (value: unknown, options: object) => string,
    options: object,
  ): string {
    const shown = shownOf(this.#view, this.#closed || this.#queue.closed);
    return `VirtualDisk ${inspect(shown, options)}`;
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
    const shown = shownOf(this.#view, this.#closed || this.#queue.closed);
    return `VirtualDisk ${inspect(shown, options)}`;
  }

  /** Closes the disk, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #range(
    type: RequestType,
    operation: string,
    sector: number,
    count: number,
    flags: number,
    options?: RequestOptions,
  ): Promise<void> {
    const refused = this.#refuseRange(operation, sector, count);
    if (refused !== null) return this.#queue.reject(refused);
    return this.#submit(
      new Request(type, this.#start + sector, count, flags),
      Outcome.Void,
      options,
    ) as Promise<void>;
  }

  #submit(
    request: Request,
    outcome: Outcome,
    options?: RequestOptions,
  ): Promise<unknown> {
    if (this.#closed && !this.#owner) {
      return this.#queue.reject(
        requestError("closed", request, "the slice is closed"),
      );
    }
    return this.#queue.submit(request, outcome, options?.signal);
  }

  #refuseRange(
    operation: string,
    sector: number,
    count: number,
    least = 1,
  ): DiskError | null {
    // Most are right, and a view costs something to make. Of a disk that is being
    // resized the new size is not known yet: the queue checks it when it is.
    if (
      isRange(sector, count, least) &&
      (sector + count <= this.sectors || this.#owner && this.#queue.resizing)
    ) return null;
    return refuseRange(this.#view, operation, sector, count, least);
  }

  get #view(): View {
    const sectors = () => this.sectors;
    return {
      queue: this.#queue,
      start: this.#start,
      // Whoever keeps the view sees a new size as well.
      get sectors() {
        return sectors();
      },
      owner: this.#owner,
    };
  }
}

/** Extents of a range, or of its beginning; of what nobody knows, it is data. */
function extentsFrom(backend: Backend, range: SectorRange): Extent[] {
  const found = backend.extents?.(range.sector, range.count) ?? [];
  return found.length > 0 && endOf(found) > range.sector
    ? found
    : [{ ...range, hole: false }];
}

function endOf(extents: readonly Extent[]): number {
  const { sector, count } = extents.at(-1)!;
  return sector + count;
}
