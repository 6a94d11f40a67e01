/**
 * What a program did to a disk, in the order in which a device sees it: each
 * write and flush as it was submitted and as it completed, and what the program
 * acknowledged in between.
 *
 * @module
 */

import { setImmediate } from "node:timers";
import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Limits,
  refuse,
} from "../backend.ts";
import { gather, isZero, offsetMemory, scatter } from "../buffer.ts";
import { DiskError } from "../errors.ts";
import { type Geometry, makeGeometry, SECTOR_BYTES } from "../geometry.ts";
import type { BackendInfo } from "../info.ts";
import { ID_BYTES, type Request, RequestType } from "../request.ts";
import { closedError, errnoError } from "../request_error.ts";
import { encodeId } from "../virtio.ts";
import type { BlockSource } from "./block_source.ts";
import {
  BlockVersion,
  type RecordedRequest,
  scramble,
} from "./block_version.ts";
import { captureStack } from "../call_site.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";
import {
  type CrashGuard,
  eventLoopTurn,
  RecoveryTimeout,
} from "./crash_watchdog.ts";

/** Something that happened. A crash comes after so many of them. */
export type CrashEvent =
  | { readonly kind: "submit"; readonly request: RecordedRequest }
  | { readonly kind: "complete"; readonly request: RecordedRequest }
  | { readonly kind: "acknowledge" };

/** How to record. */
export interface RecordingOptions {
  /** Whether to record who made each request. */
  readonly origins: boolean;
  /**
   * Whether to answer in a later turn of the event loop, so that the program
   * goes on in the same order over every base.
   */
  readonly turns: boolean;
  /** Says when the time of the program is over. */
  readonly guard?: CrashGuard;
  /**
   * Bytes that the program may have kept of what it writes; then its time is
   * over. Without an end if not given.
   */
  readonly mostBytes?: number;
}

/** About what it takes to keep a request, beside its data. */
const REQUEST_BYTES = 1024;

const ABILITIES: Abilities = {
  readOnly: false,
  flush: "native",
  fua: "native",
  discard: "native",
  writeZeroes: "native",
  secureErase: "native",
};

/** Requests stay as they are: each one is one line of a story. */
const LIMITS: Limits = { maxSegments: 1, maxBytes: 1 << 30 };

/**
 * What such a backend says of itself.
 *
 * @param name What it is.
 * @returns The information.
 */
export function crashInfo(name: string): BackendInfo {
  return {
    backend: name,
    path: null,
    medium: "memory",
    fileSystem: null,
    engine: { name: "memory", reason: null },
    direct: {
      active: false,
      method: null,
      reason: "the disk is in memory",
      memoryAlignment: 1,
      offsetAlignment: 1,
      readOffsetAlignment: 1,
      alignmentSource: "none",
    },
    durability: {
      flush: "memory",
      method: "none",
      deviceCache: "unknown",
      fua: "none",
      reason: "the disk is part of a crash exploration",
    },
    lock: { method: "none", reason: "nothing else can reach the disk" },
    id: name.slice(0, ID_BYTES),
  };
}

/** What was recorded, over a disk that is only read. */
export class CrashRecording {
  /** The device. */
  readonly device: CompleteCrashDevice;
  /** What is on it before. */
  readonly source: BlockSource;
  /** What happened. */
  readonly events: CrashEvent[] = [];
  /** The writes and flushes, in the order of submission. */
  readonly requests: RecordedRequest[] = [];
  /** What was acknowledged, in order. */
  readonly acknowledged: unknown[] = [];
  /** What each written block was before. */
  readonly initial = new Map<number, BlockVersion>();
  /** Why the disk below could not be read; `null` if it could. */
  failure: DiskError | null = null;
  readonly #options: RecordingOptions;
  readonly #latest = new Map<number, Uint8Array>();
  /** One block of zeroes, shared by all blocks that are zero. */
  readonly #zeroes: Uint8Array;
  /** Call sites of requests that the backend has not received yet. */
  readonly #origins = new WeakMap<Request, Error>();
  #lastOrigin: Error | null = null;
  #flushes = 0;
  #keptBytes = 0;
  #started = false;
  #recording = true;
  #turn: Promise<void> = Promise.resolve();
  #turnsInFlight = 0;

  /**
   * Constructs a new instance.
   *
   * @param device The device.
   * @param source What is on it before.
   * @param options How to record.
   */
  constructor(
    device: CompleteCrashDevice,
    source: BlockSource,
    options: RecordingOptions,
  ) {
    this.device = device;
    this.source = source;
    this.#options = options;
    this.#zeroes = new Uint8Array(device.blockSize);
  }

  /** Whether anything was written. */
  get wrote(): boolean {
    return this.requests.some(({ versions }) => versions.length > 0);
  }

  /** Bytes that were written, each time counted. */
  get bytes(): number {
    let blocks = 0;
    for (const { versions } of this.requests) blocks += versions.length;
    return blocks * this.device.blockSize;
  }

  /** For a queue's `onSubmit`: keeps the call site of a request. */
  readonly onSubmit = (request: Request): void => {
    if (
      !this.#options.origins ||
      !request.writes && request.type !== RequestType.Flush
    ) return;
    const stack = captureStack();
    this.#origins.set(request, stack);
    this.#lastOrigin = stack;
  };

  /**
   * Records that something was promised to the outside.
   *
   * @param value What.
   */
  acknowledge(value: unknown): void {
    if (!this.#recording) {
      throw new Error(
        "Cannot acknowledge anything as the workload has ended: await everything in it",
      );
    }
    this.events.push({ kind: "acknowledge" });
    this.acknowledged.push(value);
  }

  /**
   * Forgets all events: what was written so far is what the disk has. Flushes
   * are counted, and fail, from here on.
   */
  start(): void {
    this.#started = true;
    for (const [block, bytes] of this.#latest) {
      this.initial.set(block, new BlockVersion(block, bytes, null));
    }
    this.events.length = 0;
    this.requests.length = 0;
    this.acknowledged.length = 0;
    this.#flushes = 0;
  }

  /** Ends the recording. */
  end(): void {
    this.#recording = false;
  }

  /**
   * A disk over the device, as a program opens it.
   *
   * @returns Its backend; closing it ends nothing but itself.
   */
  open(): Backend {
    return new RecordedBackend(this.device, {
      submit: (batch, complete) => this.#submit(batch, complete),
      drain: () => this.#turn,
    });
  }

  /**
   * A hash of 40 bits that identifies this recording.
   *
   * @returns Ten hexadecimal digits.
   */
  fingerprint(): string {
    let high = scramble(this.device.sectors, this.device.blockSize);
    let low = 0;
    const add = (value: number) => {
      high = scramble(high ^ low, value);
      low = scramble(low, value ^ high);
    };
    for (const event of this.events) {
      add(event.kind.length);
      if (event.kind === "acknowledge") continue;
      const { number, type, sector, count, fua, versions } = event.request;
      for (const value of [number, type, sector, count, fua ? 1 : 0]) {
        add(value);
      }
      if (event.kind === "complete") continue;
      for (const version of versions) add(version.high ^ version.low);
    }
    const hex = (value: number) => (value >>> 0).toString(16).padStart(8, "0");
    return hex(high) + hex(low).slice(0, 2);
  }

  #submit(batch: readonly Request[], complete: Complete): void {
    const { guard } = this.#options;
    if (guard?.over) {
      for (const request of batch) guard.refuse(request, complete);
      return;
    }
    const waits = guard !== undefined && guard.needsTurn();
    const requests = [...batch];
    const recorded = requests.map((request) =>
      request.writes || request.type === RequestType.Flush
        ? this.#begin(request)
        : null
    );
    const carryOut = (fetched?: ReadonlyMap<number, Uint8Array>) => {
      for (const request of requests) this.#answer(request, fetched);
    };
    const end = () => {
      for (const [i, request] of requests.entries()) {
        this.#end(request, recorded[i]!, complete);
      }
    };
    if (
      !this.#options.turns && !waits && this.#turnsInFlight === 0 &&
      this.#below(requests).every((block) =>
        this.source.peek(block) !== undefined
      )
    ) {
      carryOut();
      end();
      return;
    }
    this.#turnsInFlight++;
    this.#turn = this.#turn.then(async () => {
      const fetched = new Map<number, Uint8Array>();
      let failure: DiskError | null = null;
      try {
        if (waits) await eventLoopTurn();
        for (const block of this.#below(requests)) {
          fetched.set(block, await this.source.fetch(block));
        }
      } catch (cause) {
        failure = cause instanceof DiskError ? cause : new DiskError(
          "io",
          `Cannot read the disk below as it fails: ${cause}`,
          { cause },
        );
      }
      this.failure ??= failure;
      if (guard?.over) {
        for (const request of requests) guard.refuse(request, complete);
      } else if (failure === null) {
        carryOut(fetched);
        if (this.#options.turns) await nextTurn();
        end();
      } else for (const request of requests) complete(request, failure);
      this.#turnsInFlight--;
    });
  }

  /** Blocks that a batch needs from below. */
  #below(requests: readonly Request[]): number[] {
    const blocks: number[] = [];
    const { blockSectors } = this.device;
    for (const { sector, count, writes } of requests) {
      const end = (sector + count) / blockSectors;
      for (let block = sector / blockSectors; block < end; block++) {
        if (this.initial.has(block)) continue;
        if (writes || !this.#latest.has(block)) blocks.push(block);
      }
    }
    return blocks;
  }

  /** Logs a write or a flush as it is submitted. */
  #begin(request: Request): RecordedRequest {
    const { blockSize, blockSectors } = this.device;
    const versions: BlockVersion[] = [];
    const length = request.count * SECTOR_BYTES;
    const recorded: RecordedRequest = {
      number: this.requests.length + 1,
      type: request.type,
      sector: request.sector,
      count: request.count,
      fua: request.fua,
      // A power of two on a multiple of itself; to discard or to erase is no
      // write.
      atomic: (request.type === RequestType.Out ||
        request.type === RequestType.WriteZeroes) &&
        length <= this.device.atomicWriteBytes &&
        (request.count & (request.count - 1)) === 0 &&
        request.sector % request.count === 0,
      origin: this.#origins.get(request) ?? this.#lastOrigin,
      versions,
      submittedAt: this.events.length,
      completedAt: -1,
      failed: false,
      markedCleanAt: -1,
    };
    const ignored = request.type === RequestType.Discard &&
      this.device.discarded === "old";
    if (request.writes && !ignored) {
      const data = new Uint8Array(
        request.type === RequestType.Out ? length : blockSize,
      );
      if (request.type === RequestType.Out) gather(request, 0, data);
      const first = request.sector / blockSectors;
      for (let i = 0; i < request.count / blockSectors; i++) {
        const at = i * blockSize % data.length;
        const bytes = data.subarray(at, at + blockSize);
        this.#latest.set(first + i, bytes);
        versions.push(new BlockVersion(first + i, bytes, recorded));
      }
    }
    this.#keptBytes += REQUEST_BYTES + versions.length * blockSize;
    const { guard, mostBytes = Infinity } = this.#options;
    if (this.#keptBytes > mostBytes) {
      guard?.end(new RecoveryTimeout(`${mostBytes} bytes of writes`));
    }
    this.requests.push(recorded);
    this.events.push({ kind: "submit", request: recorded });
    return recorded;
  }

  /** Carries out a read; for a write, keeps what it overwrites. */
  #answer(
    request: Request,
    fetched?: ReadonlyMap<number, Uint8Array>,
  ): void {
    const { blockSize, blockSectors } = this.device;
    const first = request.sector / blockSectors;
    const count = request.count / blockSectors;
    const below = (block: number) =>
      fetched?.get(block) ?? this.source.peek(block)!;
    if (request.type === RequestType.GetId) {
      request.data!.set(encodeId("crash"));
    } else if (request.type === RequestType.In) {
      if (this.#options.guard !== undefined) this.#options.guard.read = true;
      for (let i = 0; i < count; i++) {
        const bytes = this.#latest.get(first + i) ??
          this.initial.get(first + i)?.bytes ?? below(first + i);
        scatter(request, i * blockSize, bytes);
      }
    } else {
      for (let block = first; block < first + count; block++) {
        if (this.initial.has(block)) continue;
        const found = below(block);
        const bytes = isZero(found) ? this.#zeroes : found.slice();
        this.initial.set(block, new BlockVersion(block, bytes, null));
      }
    }
  }

  #end(
    request: Request,
    recorded: RecordedRequest | null,
    complete: Complete,
  ): void {
    let error: DiskError | null = null;
    if (recorded !== null) {
      recorded.completedAt = this.events.length;
      this.events.push({ kind: "complete", request: recorded });
      if (recorded.type === RequestType.Flush) {
        this.#flushes++;
        if (this.#started && this.device.failFlushes.has(this.#flushes)) {
          recorded.failed = true;
          for (const write of this.requests) {
            if (
              write.completedAt >= 0 &&
              write.completedAt < recorded.submittedAt &&
              write.markedCleanAt < 0
            ) write.markedCleanAt = recorded.submittedAt;
          }
          error = errnoError(request, "EIO", "the device", {
            text: `it is set to fail flush ${this.#flushes}`,
          });
        }
      }
    }
    complete(request, error);
  }
}

/** The device that is recorded, as one opening of it sees it. */
class RecordedBackend implements Backend {
  readonly geometry: Geometry;
  readonly abilities = ABILITIES;
  readonly limits = LIMITS;
  readonly info = crashInfo("crash recording");
  readonly counters: Readonly<BackendCounters> = {
    systemCalls: 0,
    bounced: 0,
    readModifyWrites: 0,
  };
  readonly #core: {
    submit(batch: readonly Request[], complete: Complete): void;
    drain(): Promise<void>;
  };
  #closed = false;

  constructor(
    device: CompleteCrashDevice,
    core: {
      submit(batch: readonly Request[], complete: Complete): void;
      drain(): Promise<void>;
    },
  ) {
    this.geometry = makeGeometry(device.sectors, device.blockSize);
    this.#core = core;
  }

  submit(batch: readonly Request[], complete: Complete): void {
    const accepted: Request[] = [];
    for (const request of batch) {
      const error = this.#closed
        ? closedError(request)
        : refuse(request, this.geometry, this.abilities);
      if (error === null) accepted.push(request);
      else complete(request, error);
    }
    if (accepted.length > 0) this.#core.submit(accepted, complete);
  }

  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return offsetMemory(byteLength);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#core.drain();
  }
}

/** The next turn of the event loop: every microtask has run by then. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
