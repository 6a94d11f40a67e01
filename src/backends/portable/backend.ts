/**
 * The backend without FFI: raw images and block devices through `node:fs`,
 * direct where the system has O_DIRECT, buffered elsewhere. It needs
 * `--allow-read` and, for writing, `--allow-write`; it asks for nothing else.
 * (Deno wants `--allow-all` for paths under `/dev`.)
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
import { captureStack } from "../../call_site.ts";
import { DiskError } from "../../errors.ts";
import {
  checkBlockSize,
  type Geometry,
  makeGeometry,
  SECTOR_BYTES,
} from "../../geometry.ts";
import { InFlight } from "../../in_flight.ts";
import type { BackendInfo, DirectInfo, DurabilityInfo } from "../../info.ts";
import {
  flushRequest,
  ID_BYTES,
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
import { encodeId } from "../../virtio.ts";
import { RangeLock } from "../range_lock.ts";
import { claimFile, type FileClaim } from "../file_claim.ts";
import { type HeardSignal, hearFileSizeSignal } from "../file_size_signal.ts";
import { holdImage, notToBeMade, type TakenLock } from "../held_image.ts";
import { asDiskError, type ImageOptions } from "../image_options.ts";
import { NewContent } from "../new_content.ts";
import { checkImageSize } from "../image_size.ts";
import { keepName } from "../new_name.ts";
import {
  Arena,
  BOUNCE_BYTES,
  giveBounce,
  isPageAligned,
  PAGE_BYTES,
  roundDown,
  roundUp,
  takeBounce,
  zeroes,
} from "./aligned_memory.ts";
import {
  dataSync,
  DescriptorPool,
  readAt,
  ShrunkError,
  writeAt,
} from "./descriptors.ts";
import {
  deviceAttributes,
  directFlag,
  type FileSystem,
  fileSystemOf,
  isAlignment,
  tryAlignment,
} from "./host.ts";
import type { QueueAttributes } from "../sysfs.ts";
import { systemCode } from "../system_error.ts";
import { lookAt } from "../warnings.ts";
import { keepOnThread } from "../../one_thread.ts";

/** Descriptors by default: more gained nothing (see above). */
const DEFAULT_MAX_DESCRIPTORS = 32;

/** Bytes of the largest read in one system call, if it needs no copy. */
const MAX_READ_BYTES = 64 << 20;

/** How to open an image without FFI. */
export interface PortableOptions extends Partial<ImageOptions> {
  /**
   * How many descriptors may be open for requests, and so how many reads can
   * be under way at once.
   *
   * @default {32}
   */
  readonly maxDescriptors?: number;
}

/** What {@linkcode openPortable} found out and opened. */
interface Opened {
  readonly geometry: Geometry;
  readonly info: BackendInfo;
  readonly readOnly: boolean;
  readonly size: number;
  /** What positions and lengths must be multiples of; 1 if buffered. */
  readonly alignment: number;
  readonly flushDescriptor: number;
  readonly pool: DescriptorPool;
  /** For what is beyond the last whole host block; empty if nothing is. */
  readonly tail: DescriptorPool;
  readonly claim: FileClaim | null;
  readonly signal: HeardSignal | null;
}

/** Where written bytes come from. */
interface Source {
  /** Memory that can go to the kernel as it is, from there on, or `null`. */
  memory(from: number): Uint8Array | null;
  /** Copies from there on; tells whether the memory is still there. */
  copy(from: number, target: Uint8Array): boolean;
}

/** A disk on a raw image or a block device, without FFI. */
export class PortableBackend implements Backend {
  /** The disk's shape. */
  readonly geometry: Geometry;
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
  /** Where direct writes end: a file's last, partial host block starts there. */
  readonly #alignedEnd: number;
  /** Bytes that a file must have; 0 for a device, which nobody cuts. */
  readonly #fileSize: number;
  readonly #flushDescriptor: number;
  readonly #pool: DescriptorPool;
  /** The buffered descriptor for what is beyond `#alignedEnd`. */
  readonly #tail: DescriptorPool;
  readonly #claim: FileClaim | null;
  readonly #signal: HeardSignal | null;
  readonly #arena: Arena | null;
  /** Used if blocks of the host are larger than those of the disk. */
  readonly #ranges: RangeLock | null;
  readonly #count = () => {
    this.counters.systemCalls++;
  };
  #flushing: Promise<void> = Promise.resolve();
  #nextFlush: Promise<void> | null = null;
  #flushFailure: DiskError | null = null;
  /** Given up by whoever asked. */
  readonly #withdrawn = new WeakSet<Request>();
  readonly #inFlight = new InFlight();

  /**
   * Constructs a new instance. {@linkcode openPortable} does.
   *
   * @param opened What was found out and opened.
   */
  constructor(opened: Opened) {
    this.geometry = opened.geometry;
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
    this.#alignedEnd = roundDown(opened.size, opened.alignment);
    this.#fileSize = opened.info.medium === "file" ? opened.size : 0;
    this.#flushDescriptor = opened.flushDescriptor;
    this.#pool = opened.pool;
    this.#tail = opened.tail;
    this.#claim = opened.claim;
    this.#signal = opened.signal;
    this.#arena = opened.alignment === 1 ? null : new Arena();
    this.#ranges = opened.alignment > opened.geometry.blockSize
      ? new RangeLock()
      : null;
    keepOnThread(this, "a backend");
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
        complete(request, error);
        continue;
      }
      this.#inFlight.enter(1);
      this.#withdrawn.delete(request);
      this.#carryOut(request).then(
        () => this.#inFlight.answer(request, null, complete),
        (error) =>
          this.#inFlight.answer(request, this.#wrap(request, error), complete),
      );
    }
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

  /**
   * Waits for everything submitted, then closes every descriptor. Idempotent.
   *
   * @returns When it is done.
   */
  close(): Promise<void> {
    return this.#inFlight.close(() => this.#release());
  }

  async #release(): Promise<void> {
    this.#pool.close();
    this.#tail.close();
    fs.closeSync(this.#flushDescriptor);
    this.#claim?.release();
    await this.#signal?.release();
  }

  async #carryOut(request: Request): Promise<void> {
    switch (request.type) {
      case RequestType.In:
        return await stillIntact(request, this.#read(request));
      case RequestType.Out:
        await stillIntact(
          request,
          this.#write(request, this.#sourceOf(request)),
        );
        break;
      case RequestType.WriteZeroes:
        await this.#write(request, ZEROES);
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

  async #read(request: Request): Promise<void> {
    const alignment = this.#alignment;
    const start = request.sector * SECTOR_BYTES;
    const length = request.count * SECTOR_BYTES;
    const descriptor = await this.#pool.take();
    let bounced = false;
    try {
      for (let from = 0; from < length;) {
        if (this.#withdrawn.has(request)) throw new WithdrawnError();
        const position = start + from;
        const whole = roundDown(length - from, alignment);
        if (
          whole > 0 && position % alignment === 0 &&
          this.#isStraight(request, from)
        ) {
          const size = Math.min(whole, MAX_READ_BYTES);
          const memory = request.data!.subarray(from, from + size);
          await readAt(
            descriptor,
            memory,
            position,
            size,
            alignment,
            this.#count,
          );
          from += size;
          continue;
        }
        bounced = true;
        const first = roundDown(position, alignment);
        const last = Math.min(
          roundUp(start + length, alignment),
          first + BOUNCE_BYTES,
        );
        const end = Math.min(start + length, last);
        const bounce = await takeBounce();
        try {
          await readAt(
            descriptor,
            bounce.subarray(0, last - first),
            first,
            end - first,
            alignment,
            this.#count,
          );
          const found = bounce.subarray(position - first, end - first);
          if (!scatter(request, from, found)) throw new ChangedError();
        } finally {
          giveBounce(bounce);
        }
        from = end - start;
      }
    } finally {
      this.#pool.give(descriptor);
    }
    if (bounced) this.counters.bounced++;
  }

  async #write(request: Request, source: Source): Promise<void> {
    const start = request.sector * SECTOR_BYTES;
    const end = start + request.count * SECTOR_BYTES;
    // The one write that could hide for good that the image was cut.
    if (end === this.#fileSize) this.#refuseCut();
    // Writes of whole host blocks need the lock as well: a block that another
    // request read before and writes after would undo them.
    const release = await this.#lockBlocks(start, end);
    try {
      const middle = Math.min(end, Math.max(start, this.#alignedEnd));
      let bounced = false;
      if (start < middle) {
        bounced = await this.#writeTo(
          request,
          this.#pool,
          this.#alignment,
          start,
          start,
          middle,
          source,
        );
      }
      // Direct, this would make the file grow to whole host blocks.
      if (middle < end) {
        bounced = await this.#writeTo(
          request,
          this.#tail,
          1,
          start,
          middle,
          end,
          source,
        ) || bounced;
      }
      if (bounced && request.type === RequestType.Out) this.counters.bounced++;
    } finally {
      release?.();
    }
  }

  /**
   * Writes from one position to another, in pieces.
   *
   * @param base The position that the source begins at.
   * @returns Whether anything was copied.
   */
  async #writeTo(
    request: Request,
    pool: DescriptorPool,
    alignment: number,
    base: number,
    start: number,
    end: number,
    source: Source,
  ): Promise<boolean> {
    const descriptor = await pool.take();
    let bounced = false;
    let modified = false;
    try {
      for (let position = start; position < end;) {
        if (this.#withdrawn.has(request)) throw new WithdrawnError();
        const whole = Math.min(
          roundDown(end - position, alignment),
          BOUNCE_BYTES,
        );
        const straight = whole > 0 && position % alignment === 0
          ? source.memory(position - base)
          : null;
        if (straight !== null) {
          await writeAt(
            descriptor,
            straight.subarray(0, whole),
            position,
            alignment,
            this.#count,
          );
          position += whole;
          continue;
        }
        bounced = true;
        const first = roundDown(position, alignment);
        const last = Math.min(roundUp(end, alignment), first + BOUNCE_BYTES);
        const until = Math.min(end, last);
        const bounce = await takeBounce();
        try {
          const blocks = bounce.subarray(0, last - first);
          const read = (from: number) =>
            readAt(
              descriptor,
              blocks.subarray(from, from + alignment),
              first + from,
              alignment,
              alignment,
              this.#count,
            );
          const headless = position > first;
          const tailless = until < last;
          const single = last - first === alignment;
          if (headless || tailless) modified = true;
          if (headless) await read(0);
          if (tailless && !(headless && single)) {
            await read(last - first - alignment);
          }
          const piece = blocks.subarray(position - first, until - first);
          if (!source.copy(position - base, piece)) throw new ChangedError();
          await writeAt(descriptor, blocks, first, alignment, this.#count);
        } finally {
          giveBounce(bounce);
        }
        position = until;
      }
    } finally {
      pool.give(descriptor);
    }
    if (modified) this.counters.readModifyWrites++;
    return bounced;
  }

  /** Takes whole host blocks, if writes may share them. */
  #lockBlocks(start: number, end: number): Promise<(() => void) | null> {
    const ranges = this.#ranges;
    if (ranges === null) return NOTHING_HELD;
    return new Promise((resolve) => {
      ranges.claim(
        roundDown(start, this.#alignment),
        roundUp(end, this.#alignment),
        resolve,
      );
    });
  }

  /** Whether a request's memory can go to the kernel as it is, from there on. */
  #isStraight(request: Request, from: number): boolean {
    const { data, more } = request;
    // What can be resized could give its pages back under the kernel.
    return more.length === 0 && !(data!.buffer as ArrayBuffer).resizable &&
      (this.#alignment === 1 || isPageAligned(data!, from));
  }

  #sourceOf(request: Request): Source {
    return {
      memory: (from) =>
        this.#isStraight(request, from) ? request.data!.subarray(from) : null,
      copy: (from, target) => gather(request, from, target),
    };
  }

  /**
   * Flushes. Whoever asks while a flush is under way shares the next one, as
   * the one under way may have begun before their write ended.
   */
  #flush(): Promise<void> {
    return this.#nextFlush ??= this.#flushing.catch(() => {}).then(() => {
      this.#nextFlush = null;
      this.#flushing = this.#flushNow();
      return this.#flushing;
    });
  }

  async #flushNow(): Promise<void> {
    // Deno counts on one descriptor, and so does the kernel: it reports a
    // failed write-back once to each (Linux lib/errseq.c).
    if (this.#flushFailure !== null) throw new LatchedError();
    try {
      this.#count();
      await dataSync(this.#flushDescriptor);
      this.#refuseCut();
    } catch (error) {
      this.#flushFailure = this.#wrap(flushRequest(), error);
      throw error;
    }
  }

  /**
   * Throws if somebody cut the image while it was open. A write beyond its new
   * end makes it longer again, and what lies between reads as zeroes; so a flush
   * looks, and before that whatever writes the last sector.
   */
  #refuseCut(): void {
    if (this.#fileSize === 0) return;
    if (fs.fstatSync(this.#flushDescriptor).size < this.#fileSize) {
      throw new ShrunkError("The image shrank");
    }
  }

  /** After a failed flush nothing can be made durable any more. */
  #refuseUnsafe(request: Request): DiskError | null {
    return this.#flushFailure !== null &&
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
      return latchedError(request, this.#flushFailure!, path);
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

/** Whoever asked for the request gave it up. */
class WithdrawnError extends Error {}

/** The request's memory was detached or resized. */
class ChangedError extends Error {}

/** Thrown instead of a flush once one failed. */
class LatchedError extends Error {}

const NOTHING_HELD = Promise.resolve(null);

const ZEROES: Source = {
  memory: () => zeroes(),
  copy: (_from, target) => {
    target.fill(0);
    return true;
  },
};

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

/**
 * Opens a raw image or a block device without FFI.
 *
 * @param path The image's path.
 * @param options How to open it.
 * @returns The backend.
 * @throws {DiskError} If it cannot be opened: `not-found`, `permission`,
 * `read-only`, `locked`, `geometry` (not whole blocks, not a file or device),
 * `platform` (direct I/O was required and is not to be had), or `io`.
 * @throws {RangeError} If an option is out of range.
 */
export async function openPortable(
  path: string,
  options: PortableOptions = {},
): Promise<PortableBackend> {
  const { readOnly = false, maxDescriptors = DEFAULT_MAX_DESCRIPTORS } =
    options;
  const openedAt = captureStack();
  if (options.blockSize !== undefined) checkBlockSize(options.blockSize);
  if (options.id !== undefined) encodeId(options.id);
  if (!Number.isInteger(maxDescriptors) || maxDescriptors < 1) {
    throw new RangeError(
      `Cannot open "${path}" as maxDescriptors must be an integer ≥ 1: current value is ${maxDescriptors}`,
    );
  }
  // What to undo, last first, if something goes wrong.
  const undo: (() => void)[] = [];
  const signal = readOnly ? null : hearFileSizeSignal();
  try {
    const medium = mediumOf(path, options.create !== undefined);
    const isDevice = medium !== "file";
    const openWith = (flags: number) =>
      fs.openSync(
        path,
        (readOnly ? fs.constants.O_RDONLY : fs.constants.O_RDWR) | flags,
      );
    const wanted: ImageOptions = {
      readOnly,
      direct: "prefer",
      lock: "auto",
      openedAt,
      ...options,
    };
    const held = await holdImage(
      path,
      wanted,
      () => ({ fd: openWith(0) }),
      ({ fd }) => takeLock(path, fd, readOnly, options.lock),
    );
    undo.push(() => held.close(), () => held.takeBack());
    const { lock } = held;
    // First of all, so that it hears of every failed write-back.
    const flushDescriptor = held.image.fd;
    const content = options.create === undefined
      ? null
      : new NewContent(path, flushDescriptor, wanted);
    undo.push(() => content?.undo());
    await content?.makeRoom();
    const image = fs.fstatSync(flushDescriptor, { bigint: true });
    // It may be cut yet.
    const size = options.create?.sizeBytes ??
      (isDevice ? await deviceSize(path) : Number(image.size));
    // Only what is the very same file, whatever has its name by then.
    const openSame = (flags: number): number | null => {
      const descriptor = openWith(flags);
      const other = fs.fstatSync(descriptor, { bigint: true });
      if (other.dev === image.dev && other.ino === image.ino) return descriptor;
      fs.closeSync(descriptor);
      return null;
    };
    const openSure = (flags: number): number => {
      const descriptor = openSame(flags);
      if (descriptor !== null) return descriptor;
      throw new DiskError(
        "locked",
        `Cannot open "${path}" as it was replaced meanwhile`,
        { operation: "open", path },
      );
    };
    const device = deviceAttributes(isDevice ? image.rdev : image.dev);
    const fileSystem = isDevice ? null : fileSystemOf(path);
    const direct = probeDirect({
      path,
      want: options.direct ?? "prefer",
      isDevice,
      size,
      device,
      fileSystem,
      open: openSame,
    });
    // The first ones now, while the path still leads there.
    const first = direct.descriptor ?? openSure(0);
    undo.push(() => fs.closeSync(first));
    // A raw character device takes whole blocks, cached or not.
    const buffered = medium === "character device" ? direct.deviceBlockSize : 1;
    const alignment = direct.descriptor !== null
      ? direct.info.offsetAlignment
      : buffered;
    const tail = size % alignment === 0 ? null : openSure(0);
    if (tail !== null) undo.push(() => fs.closeSync(tail));
    // Such as /dev/null.
    if (medium === "character device" && size === 0) throw noDisk(path);
    const geometry = shapeOf(
      path,
      size,
      options.blockSize ?? (isDevice ? direct.deviceBlockSize : SECTOR_BYTES),
      isDevice ? device : {},
    );
    const seen = lookAt(
      first,
      options.create === undefined ? size : 0,
      scratchOf(Math.max(alignment, PAGE_BYTES)),
    );
    await content?.cut();
    if (content !== null) keepName(path, flushDescriptor);
    return new PortableBackend({
      geometry,
      readOnly,
      size,
      alignment,
      flushDescriptor,
      pool: new DescriptorPool(
        [first],
        maxDescriptors,
        () => mayOpen(path, readOnly) ? openSame(direct.flag) : null,
      ),
      tail: new DescriptorPool(tail === null ? [] : [tail], 1, () => null),
      claim: lock.claim,
      signal,
      info: {
        backend: "portable",
        path,
        medium,
        fileSystem: fileSystem?.name ?? null,
        engine: {
          name: "node:fs",
          reason:
            "without FFI: reads run on other threads, a descriptor each; writes occupy this one while the kernel takes them",
        },
        direct: direct.info,
        durability: durabilityOf(isDevice, fileSystem, device),
        lock: lock.info,
        ...seen,
        id: options.id ??
          `platter-${image.ino.toString(16)}`.slice(0, ID_BYTES),
      },
    });
  } catch (error) {
    for (const step of undo.reverse()) step();
    // Told before anything is waited for.
    const failure = options.signal?.aborted && error === options.signal.reason
      ? error
      : asDiskError(error, path);
    await signal?.release();
    throw failure;
  }
}

/** Whether Deno would open a file without asking the user in the midst of I/O. */
function mayOpen(path: string, readOnly: boolean): boolean {
  const names = readOnly ? ["read"] as const : ["read", "write"] as const;
  return names.every((name) =>
    Deno.permissions.querySync({ name, path }).state === "granted"
  );
}

/** Memory to look at an image with, which costs something to align. */
let scratch = new Uint8Array();

function scratchOf(byteLength: number): Uint8Array {
  if (scratch.length < byteLength) scratch = new Arena().allocate(byteLength);
  return scratch.subarray(0, byteLength);
}

/** `node:fs` cannot seek, and a device's size is where its end is. */
async function deviceSize(path: string): Promise<number> {
  const file = await Deno.open(path);
  try {
    return await file.seek(0, Deno.SeekMode.End);
  } finally {
    file.close();
  }
}

/** What a path leads to; what cannot be a disk is refused before it is opened. */
function mediumOf(path: string, create: boolean): string {
  // Before it is opened: opening a pipe waits for its other end.
  const stat = fs.statSync(path, { throwIfNoEntry: !create });
  if (stat === undefined || stat.isFile()) return "file";
  const block = stat.isBlockDevice();
  if (!block && !stat.isCharacterDevice()) throw noDisk(path);
  if (create) throw notToBeMade(path);
  return block ? "block device" : "character device";
}

function noDisk(path: string): DiskError {
  return new DiskError(
    "geometry",
    `Cannot open "${path}" as a disk as it is neither a file nor a device with a size`,
    { operation: "open", path },
  );
}

function takeLock(
  path: string,
  fd: number,
  readOnly: boolean,
  want: ImageOptions["lock"] = "auto",
): TakenLock {
  const none = (reason: string) => ({
    claim: null,
    info: { method: "none", reason },
  });
  if (want === "none") return none('not wanted: lock: "none"');
  if (readOnly && want === "auto") return none("a reader locks nobody out");
  if (Deno.build.os === "windows") {
    return none(
      "locks are mandatory on Windows and would keep out our own descriptors",
    );
  }
  const claim = claimFile(path, fd, readOnly);
  if (claim === null) return none("the file system has no flock");
  return {
    claim,
    info: {
      method: "flock",
      reason: "QEMU's lock bytes need FFI: QEMU's tools are not kept out",
    },
  };
}

/** What {@linkcode probeDirect} is to look at. */
interface DirectQuestion {
  readonly path: string;
  readonly want: "require" | "prefer" | "never";
  readonly isDevice: boolean;
  readonly size: number;
  readonly device: Partial<QueueAttributes>;
  readonly fileSystem: FileSystem | null;
  readonly open: (flags: number) => number | null;
}

/** What {@linkcode probeDirect} found. */
interface DirectAnswer {
  readonly info: DirectInfo;
  readonly flag: number;
  /** A descriptor for direct I/O, if that was taken. */
  readonly descriptor: number | null;
  /** Logical block size of a device, as far as it can be told. */
  readonly deviceBlockSize: number;
}

function probeDirect(question: DirectQuestion): DirectAnswer {
  const { path, want, isDevice, size, device, fileSystem } = question;
  const flag = directFlag();
  const known = isAlignment(device.logicalBlockSize) &&
      (isDevice || fileSystem?.alignedAsDevice)
    ? device.logicalBlockSize
    : null;
  const fallBack = (reason: string, blockSize: number): DirectAnswer => {
    if (want === "require") throw notDirect(path, reason);
    return {
      info: {
        active: false,
        method: null,
        reason,
        memoryAlignment: 1,
        offsetAlignment: 1,
        readOffsetAlignment: 1,
        alignmentSource: "none",
      },
      flag: 0,
      descriptor: null,
      deviceBlockSize: blockSize,
    };
  };
  // Even a buffered device has the blocks that direct reads show.
  if (want === "never" && (!isDevice || known !== null || flag === null)) {
    return fallBack("it was not asked for", known ?? PAGE_BYTES);
  }
  if (flag === null) {
    return fallBack(
      `${Deno.build.os} on ${Deno.build.arch} has none without FFI`,
      known ?? PAGE_BYTES,
    );
  }
  if (fileSystem?.ignoresDirect) {
    return fallBack(`${fileSystem.name} ${fileSystem.limit}`, PAGE_BYTES);
  }
  let descriptor: number | null;
  try {
    descriptor = question.open(flag);
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    return fallBack(
      `the file system refuses O_DIRECT (${String(code ?? error)})`,
      known ?? PAGE_BYTES,
    );
  }
  if (descriptor === null) {
    return fallBack("the image was replaced meanwhile", known ?? PAGE_BYTES);
  }
  const tried = known === null
    ? tryAlignment(descriptor, size, isDevice)
    : { bytes: known, source: "sysfs", takesAnything: false };
  if (want === "never") {
    fs.closeSync(descriptor);
    return fallBack("it was not asked for", tried.bytes);
  }
  const reasons: string[] = [];
  if (!isDevice && fileSystem?.limit) {
    reasons.push(`${fileSystem.name} ${fileSystem.limit}`);
  } else if (tried.takesAnything) {
    reasons.push("the file system takes unaligned reads, so it may buffer");
  } else if (fileSystem === null && !isDevice) {
    reasons.push(
      "which file system this is cannot be told without --allow-sys=statfs, so it may buffer",
    );
  }
  // Without a reason it is direct; with one it may be, or is not.
  if (want === "require" && reasons.length > 0) {
    fs.closeSync(descriptor);
    throw notDirect(path, reasons.join("; "));
  }
  if (tried.source === "assumed" && size > 0) {
    reasons.push(
      `what the host demands cannot be told without FFI: ${tried.bytes} bytes are assumed`,
    );
  }
  return {
    info: {
      active: fileSystem?.buffers !== true,
      method: "O_DIRECT",
      reason: reasons.length === 0 ? null : reasons.join("; "),
      // Always pages, whatever less the host would take.
      memoryAlignment: PAGE_BYTES,
      offsetAlignment: tried.bytes,
      readOffsetAlignment: tried.bytes,
      alignmentSource: tried.source,
    },
    flag,
    descriptor,
    deviceBlockSize: tried.bytes,
  };
}

function notDirect(path: string, reason: string): DiskError {
  return new DiskError(
    "platform",
    `Cannot open "${path}" for direct I/O as ${reason}`,
    { operation: "open", path },
  );
}

function shapeOf(
  path: string,
  size: number,
  blockSize: number,
  device: Partial<QueueAttributes>,
): Geometry {
  checkImageSize(path, size, blockSize);
  const { physicalBlockSize, minimumIoSize = 0, optimalIoSize = 0 } = device;
  return makeGeometry(size / SECTOR_BYTES, blockSize, {
    ...(physicalBlockSize === undefined ? {} : { physicalBlockSize }),
    minimumIoSize,
    optimalIoSize,
  });
}

/** What Rust's `File::sync_data` calls, which is what `fdatasync` is in Deno. */
function flushMethod(): string {
  switch (Deno.build.os) {
    case "darwin":
      return "F_FULLFSYNC";
    case "windows":
      return "FlushFileBuffers";
    case "linux":
    case "android":
    case "freebsd":
    case "netbsd":
      return "fdatasync";
    default:
      return "fsync";
  }
}

function durabilityOf(
  isDevice: boolean,
  fileSystem: FileSystem | null,
  device: Partial<QueueAttributes>,
): DurabilityInfo {
  const method = flushMethod();
  const known = {
    method,
    deviceCache: device.writeCache ?? "unknown",
    fua: `write + ${method}`,
  };
  if (Deno.build.os !== "linux") {
    // The other BSDs' fsync stops at the device, or not: it is not to be told.
    return method === "fdatasync" || method === "fsync"
      ? {
        ...known,
        flush: "unknown",
        reason: "whether this system's fsync reaches the medium is not known",
      }
      : { ...known, flush: "media", reason: null };
  }
  if (isDevice || fileSystem?.local) {
    return { ...known, flush: "media", reason: null };
  }
  if (fileSystem?.ignoresDirect) {
    return {
      ...known,
      flush: "page cache",
      reason: `${fileSystem.name} keeps its data in memory`,
    };
  }
  return {
    ...known,
    flush: "unknown",
    reason: fileSystem === null
      ? "which file system this is cannot be told without --allow-sys=statfs"
      : `what a flush reaches on ${fileSystem.name} is not to be told from here`,
  };
}
