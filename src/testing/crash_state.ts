/**
 * A disk as a power cut left it, without a copy of it: blocks that the workload
 * wrote come from a map of versions, all others from the disk below. One image
 * is changed in place from state to state; a backend over it shows the present
 * state, and keeps what the recovery writes to itself.
 *
 * @module
 */

import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Extent,
  type Limits,
  refuse,
} from "../backend.ts";
import { gather, offsetMemory, scatter } from "../buffer.ts";
import { DiskError } from "../errors.ts";
import { type Geometry, makeGeometry, SECTOR_BYTES } from "../geometry.ts";
import type { BackendInfo } from "../info.ts";
import { type Request, RequestType } from "../request.ts";
import { closedError, requestError } from "../request_error.ts";
import { encodeId } from "../virtio.ts";
import type { BlockSource } from "./block_source.ts";
import type { BlockVersion } from "./block_version.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";
import { crashInfo } from "./crash_recorder.ts";
import { type CrashGuard, eventLoopTurn } from "./crash_watchdog.ts";
import type { InitialContents } from "./recording_log.ts";

/** An image that is changed from one state to another, block by block. */
export class CrashImage implements BlockSource {
  /** Half of a hash of the content; 0 where nothing differs from below. */
  high = 0;
  /** The other half. */
  low = 0;
  readonly #source: BlockSource;
  readonly #initial: InitialContents;
  /** What has been decided; what a block was before is made when it is needed. */
  readonly #content = new Map<number, BlockVersion>();

  /**
   * Constructs a new instance.
   *
   * @param source What is below.
   * @param initial Those blocks of it that will change.
   */
  constructor(
    source: BlockSource,
    initial: InitialContents,
  ) {
    this.#source = source;
    this.#initial = initial;
  }

  /** Blocks that may be anything but zeroes; `null` for all of them. */
  get stored(): Iterable<number> | null {
    const below = this.#source.stored;
    if (below === null) return null;
    const written = Array.from(this.#initial.entries(), ([block]) => block);
    return [...below, ...written];
  }

  /**
   * What a block is now.
   *
   * @param block Its number, one of those that will change.
   * @returns Its version.
   */
  version(block: number): BlockVersion {
    let version = this.#content.get(block);
    if (version === undefined) {
      version = this.#initial.version(block);
      this.#content.set(block, version);
    }
    return version;
  }

  /**
   * Changes a block.
   *
   * @param version What it becomes.
   */
  set(version: BlockVersion): void {
    const old = this.version(version.block);
    this.high ^= old.high ^ version.high;
    this.low ^= old.low ^ version.low;
    this.#content.set(version.block, version);
  }

  /** A block, if it is at hand. */
  peek(block: number): Uint8Array | undefined {
    return this.#content.get(block)?.bytes ?? this.#initial.bytes(block) ??
      this.#source.peek(block);
  }

  /** Any block. */
  async fetch(block: number): Promise<Uint8Array> {
    return this.peek(block) ?? await this.#source.fetch(block);
  }

  /**
   * The image as it is now, whatever becomes of this one.
   *
   * @returns An image that does not change any more.
   */
  freeze(): CrashImage {
    // One below may change as well.
    const source = this.#source instanceof CrashImage
      ? this.#source.freeze()
      : this.#source;
    const copy = new CrashImage(source, this.#initial);
    for (const version of this.#content.values()) copy.set(version);
    return copy;
  }
}

const ABILITIES: Abilities = {
  readOnly: false,
  flush: "native",
  fua: "native",
  discard: "native",
  writeZeroes: "native",
  secureErase: "native",
};
// Joining requests costs more than it saves where a request is a copy.
const LIMITS: Limits = { maxSegments: 1, maxBytes: 1 << 30 };
const COUNTERS: Readonly<BackendCounters> = {
  systemCalls: 0,
  bounced: 0,
  readModifyWrites: 0,
};
const INFO: BackendInfo = crashInfo("crash state");

/** One state as a backend. What is written to it goes with it. */
export class CrashStateBackend implements Backend {
  /** The disk's shape. */
  readonly geometry: Geometry;
  /** What it can do: everything. */
  readonly abilities: Abilities = ABILITIES;
  /** Requests stay as they are. */
  readonly limits: Limits = LIMITS;
  /** What it is. */
  readonly info: BackendInfo = INFO;
  /** What it counted: nothing. */
  readonly counters: Readonly<BackendCounters> = COUNTERS;
  readonly #image: CrashImage;
  readonly #blockSectors: number;
  readonly #blockSize: number;
  readonly #ignoresDiscards: boolean;
  readonly #guard: CrashGuard | null;
  #written: Map<number, Uint8Array> | null = null;
  #fetching: Promise<void> | null = null;
  #closed = false;

  /**
   * Constructs a new instance.
   *
   * @param image The state. It must not change before this is closed.
   * @param device The device.
   * @param geometry Its shape, if it is at hand.
   * @param guard Says when the time of its user is over; `null` for never.
   */
  constructor(
    image: CrashImage,
    device: CompleteCrashDevice,
    geometry: Geometry = crashGeometry(device),
    guard: CrashGuard | null = null,
  ) {
    this.#image = image;
    this.geometry = geometry;
    this.#blockSize = device.blockSize;
    this.#blockSectors = device.blockSectors;
    this.#guard = guard;
    this.#ignoresDiscards = device.discarded === "old";
  }

  /** Carries out a batch; before it returns unless a block must be fetched. */
  submit(batch: readonly Request[], complete: Complete): void {
    const guard = this.#guard;
    let waits = guard !== null && guard.needsTurn();
    for (let i = 0; i < batch.length; i++) {
      const request = batch[i]!;
      if (guard !== null && guard.over) {
        guard.refuse(request, complete);
        continue;
      }
      if (this.#closed) {
        complete(request, closedError(request));
        continue;
      }
      const refused = refuse(request, this.geometry, ABILITIES);
      if (refused !== null) complete(request, refused);
      else if (waits || this.#fetching !== null || !this.#carryOut(request)) {
        this.#later(request, complete, waits);
        waits = false;
      } else complete(request, null);
    }
  }

  /** Where data may be: what was written, and all that is below if it is. */
  extents(sector: number, count: number): Extent[] {
    const { stored } = this.#image;
    if (stored === null) return [{ sector, count, hole: false }];
    const end = sector + count;
    const starts = [...new Set([...stored, ...this.#written?.keys() ?? []])]
      .map((block) => block * this.#blockSectors)
      .filter((start) => start + this.#blockSectors > sector && start < end)
      .sort((a, b) => a - b);
    const extents: Extent[] = [];
    let at = sector;
    const add = (to: number, hole: boolean) => {
      if (to > at) extents.push({ sector: at, count: to - at, hole });
      at = Math.max(at, to);
    };
    for (const start of starts) {
      add(start, true);
      add(Math.min(start + this.#blockSectors, end), false);
    }
    add(end, true);
    return extents;
  }

  /** Any memory does; it begins inside of its buffer, as a real disk's does. */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return offsetMemory(byteLength);
  }

  /** Gives up what was written. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#fetching !== null) await this.#fetching;
    this.#written = null;
  }

  /** Carries out a request, unless a block is not at hand. */
  #carryOut(
    request: Request,
    fetched?: ReadonlyMap<number, Uint8Array>,
  ): boolean {
    const first = request.sector / this.#blockSectors;
    const count = request.count / this.#blockSectors;
    switch (request.type) {
      case RequestType.In:
        if (this.#guard !== null) this.#guard.read = true;
        for (let i = 0; i < count; i++) {
          const bytes = this.#written?.get(first + i) ??
            fetched?.get(first + i) ?? this.#image.peek(first + i);
          if (bytes === undefined) return false;
          scatter(request, i * this.#blockSize, bytes);
        }
        return true;
      case RequestType.Out: {
        const data = new Uint8Array(request.count * SECTOR_BYTES);
        gather(request, 0, data);
        const written = this.#written ??= new Map();
        for (let i = 0; i < count; i++) {
          const at = i * this.#blockSize;
          written.set(first + i, data.subarray(at, at + this.#blockSize));
        }
        return true;
      }
      case RequestType.Discard:
        if (this.#ignoresDiscards) return true;
        return this.#zero(first, count);
      case RequestType.WriteZeroes:
      case RequestType.SecureErase:
        return this.#zero(first, count);
      case RequestType.GetId:
        request.data!.set(encodeId("crash"));
        return true;
      default:
        return true;
    }
  }

  #zero(first: number, count: number): true {
    const zeroes = new Uint8Array(this.#blockSize);
    const written = this.#written ??= new Map();
    for (let i = 0; i < count; i++) written.set(first + i, zeroes);
    return true;
  }

  /** Carries out a request when its blocks have been fetched, in turn. */
  #later(request: Request, complete: Complete, waits: boolean): void {
    const turn = (this.#fetching ?? Promise.resolve()).then(async () => {
      let failure: DiskError | null = null;
      try {
        if (waits) await eventLoopTurn();
        const fetched = new Map<number, Uint8Array>();
        const first = request.sector / this.#blockSectors;
        const count = request.type === RequestType.In
          ? request.count / this.#blockSectors
          : 0;
        for (let block = first; block < first + count; block++) {
          // Also what is at hand: fetching another block may push it out.
          fetched.set(block, await this.#image.fetch(block));
        }
        if (!this.#carryOut(request, fetched)) {
          throw new Error("a block that was fetched is not there");
        }
      } catch (cause) {
        failure = cause instanceof DiskError
          ? cause
          : requestError("io", request, `the disk below fails: ${cause}`, {
            cause,
          });
      }
      if (this.#fetching === turn) this.#fetching = null;
      if (this.#guard?.over) this.#guard.refuse(request, complete);
      else complete(request, failure);
    });
    this.#fetching = turn;
  }
}

/**
 * The shape of a device's disks.
 *
 * @param device The device.
 * @returns The shape.
 */
export function crashGeometry(device: CompleteCrashDevice): Geometry {
  return makeGeometry(device.sectors, device.blockSize);
}
