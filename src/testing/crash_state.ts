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
  refuseChanged,
} from "../backend.ts";
import { gather, offsetMemory, scatter } from "../buffer.ts";
import { DiskError } from "../errors.ts";
import { type Geometry, makeGeometry, SECTOR_BYTES } from "../geometry.ts";
import type { BackendInfo } from "../info.ts";
import { keepOnThread } from "../one_thread.ts";
import { type Request, RequestType } from "../request.ts";
import { closedError, requestError } from "../request_error.ts";
import { answerRequest } from "../throw_later.ts";
import { encodeId } from "../virtio.ts";
import type { BlockSource } from "./block_source.ts";
import { type BlockVersion, isSameContent } from "./block_version.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";
import { type CrashGuard, eventLoopTurn } from "./crash_watchdog.ts";
import { CRASH_ABILITIES, CRASH_ID, crashInfo } from "./recorded_backend.ts";
import type { InitialContents } from "./recording_log.ts";

/** What becomes durable of the blocks of a recording. */
export interface DurableContents {
  /** What each written block was before. */
  readonly initial: InitialContents;
  /**
   * The blocks that a request may have changed: of those of `initial`, which
   * has what was prepared as well, mostly few.
   *
   * @returns Their numbers, each once.
   */
  changed(): Iterable<number>;
  /**
   * What is durable of a block.
   *
   * @param block The block, one of those that were written.
   * @param point The crash point.
   * @returns The version.
   */
  durable(block: number, point: number): BlockVersion;
}

/** What an image shows of a block that was written. */
interface Cell {
  /** What it shows. */
  version: BlockVersion;
  /** Which visit of a point the version belongs to. */
  visit: number;
  /** Whether something chooses it in that visit, and it is not just durable. */
  chosen: boolean;
}

/** Blocks that an image keeps beside those that were chosen. */
const MOST_CELLS = 65_536;

/** An image that is changed from one state to another, block by block. */
export class CrashImage implements BlockSource {
  /** Half of a hash of the content. */
  high = 0;
  /** The other half. */
  low = 0;
  /** How often it has moved to a point. */
  #visit = 0;
  readonly #source: BlockSource;
  readonly #contents: DurableContents;
  readonly #mostCells: number;
  #cells = new Map<number, Cell>();
  #point = 0;

  /**
   * Constructs a new instance, which shows what was there before everything.
   *
   * @param source What is below.
   * @param contents What becomes durable of it.
   * @param mostCells Blocks that it keeps beside those that were chosen.
   */
  constructor(
    source: BlockSource,
    contents: DurableContents,
    mostCells = MOST_CELLS,
  ) {
    this.#source = source;
    this.#contents = contents;
    this.#mostCells = mostCells;
  }

  /** Blocks that may be anything but zeroes; `null` for all of them. */
  get stored(): Iterable<number> | null {
    return storedOf(this.#source, this.#contents);
  }

  /**
   * Shows what is durable at a crash point.
   *
   * @param point The crash point.
   * @param high Half of the hash of that.
   * @param low The other half.
   */
  moveTo(point: number, high: number, low: number): void {
    this.#point = point;
    this.#visit++;
    this.high = high;
    this.low = low;
  }

  /**
   * Changes a block, one of those that were written.
   *
   * @param version What it becomes.
   */
  set(version: BlockVersion): void {
    const cell = this.#cellOf(version.block)!;
    const old = cell.version;
    this.high ^= old.high ^ version.high;
    this.low ^= old.low ^ version.low;
    cell.version = version;
    cell.chosen = true;
  }

  /** A block, if it is at hand. */
  peek(block: number): Uint8Array | undefined {
    const cell = this.#cellOf(block);
    return cell === undefined ? this.#source.peek(block) : cell.version.bytes;
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
  freeze(): FrozenImage {
    // One below may change as well.
    const source = this.#source instanceof CrashImage
      ? this.#source.freeze()
      : this.#source;
    const chosen = new Map<number, BlockVersion>();
    for (const [block, cell] of this.#cells) {
      if (cell.chosen && cell.visit === this.#visit) {
        chosen.set(block, cell.version);
      }
    }
    return new FrozenImage(source, this.#contents, this.#point, chosen);
  }

  /** What it shows of a block; `undefined` if that was not written. */
  #cellOf(block: number): Cell | undefined {
    let cell = this.#cells.get(block);
    const visit = this.#visit;
    if (cell === undefined) {
      if (this.#contents.initial.content(block) < 0) return undefined;
      const version = this.#contents.durable(block, this.#point);
      cell = { version, visit, chosen: false };
      if (this.#cells.size >= this.#mostCells) this.#forget();
      this.#cells.set(block, cell);
    } else if (cell.visit !== visit) {
      cell.visit = visit;
      cell.version = this.#contents.durable(block, this.#point);
      cell.chosen = false;
    }
    return cell;
  }

  /** Keeps no more than what was chosen. */
  #forget(): void {
    const kept = new Map<number, Cell>();
    for (const [block, cell] of this.#cells) {
      if (cell.chosen && cell.visit === this.#visit) kept.set(block, cell);
    }
    this.#cells = kept;
  }
}

/** An image that does not change. */
export class FrozenImage implements BlockSource {
  readonly #source: BlockSource;
  readonly #contents: DurableContents;
  readonly #point: number;
  readonly #chosen: ReadonlyMap<number, BlockVersion>;

  /**
   * Constructs a new instance.
   *
   * @param source What is below.
   * @param contents What becomes durable of it.
   * @param point The crash point.
   * @param chosen What is found otherwise than as it is durable there.
   */
  constructor(
    source: BlockSource,
    contents: DurableContents,
    point: number,
    chosen: ReadonlyMap<number, BlockVersion>,
  ) {
    this.#source = source;
    this.#contents = contents;
    this.#point = point;
    this.#chosen = chosen;
  }

  /** Blocks that may be anything but zeroes; `null` for all of them. */
  get stored(): Iterable<number> | null {
    return storedOf(this.#source, this.#contents);
  }

  /** A block, if it is at hand. */
  peek(block: number): Uint8Array | undefined {
    return this.#version(block)?.bytes ?? this.#source.peek(block);
  }

  /** Any block. */
  async fetch(block: number): Promise<Uint8Array> {
    return this.peek(block) ?? await this.#source.fetch(block);
  }

  /**
   * What differs from what was there before anything was recorded, here or
   * below. What was changed below and changed back here is told as well.
   *
   * @returns Bytes by block number, not to be changed.
   */
  changes(): Map<number, Uint8Array> {
    const { initial } = this.#contents;
    const changes = this.#source instanceof FrozenImage
      ? this.#source.changes()
      : new Map<number, Uint8Array>();
    for (const block of this.#contents.changed()) {
      const version = this.#version(block)!;
      if (isSameContent(version, initial.version(block))) continue;
      changes.set(block, version.bytes);
    }
    return changes;
  }

  /**
   * Every block that was recorded, here or below.
   *
   * @returns Copies of their bytes, by block number.
   */
  contents(): Map<number, Uint8Array> {
    const contents = this.#source instanceof FrozenImage
      ? this.#source.contents()
      : new Map<number, Uint8Array>();
    for (const [block] of this.#contents.initial.entries()) {
      contents.set(block, this.#version(block)!.bytes.slice());
    }
    return contents;
  }

  #version(block: number): BlockVersion | undefined {
    const chosen = this.#chosen.get(block);
    if (chosen !== undefined) return chosen;
    return this.#contents.initial.content(block) < 0
      ? undefined
      : this.#contents.durable(block, this.#point);
  }
}

function storedOf(
  source: BlockSource,
  { initial }: DurableContents,
): Iterable<number> | null {
  const below = source.stored;
  if (below === null) return null;
  return [...below, ...Array.from(initial.entries(), ([block]) => block)];
}

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
  readonly abilities: Abilities = CRASH_ABILITIES;
  /** Requests stay as they are. */
  readonly limits: Limits = LIMITS;
  /** What it is. */
  readonly info: BackendInfo = INFO;
  /** What it counted: nothing. */
  readonly counters: Readonly<BackendCounters> = COUNTERS;
  readonly #image: BlockSource;
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
    image: BlockSource,
    device: CompleteCrashDevice,
    geometry: Geometry = crashGeometry(device),
    guard: CrashGuard | null = null,
  ) {
    keepOnThread(this, "a backend");
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
        answerRequest(request, closedError(request), complete);
        continue;
      }
      const refused = refuse(request, this.geometry, CRASH_ABILITIES);
      if (refused !== null) answerRequest(request, refused, complete);
      else if (waits || this.#fetching !== null || !this.#carryOut(request)) {
        this.#later(request, complete, waits);
        waits = false;
      } else answerRequest(request, null, complete);
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
        request.data!.set(encodeId(CRASH_ID));
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
        failure = refuseChanged(request);
        if (failure === null && !this.#carryOut(request, fetched)) {
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
      else answerRequest(request, failure, complete);
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
