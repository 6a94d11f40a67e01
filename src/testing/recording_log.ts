/**
 * What happened to a disk, as it is logged: by a recorder while it happens, and
 * by the reader of a recording's file once more.
 *
 * @module
 */

import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { type Request, RequestType } from "../request.ts";
import { BlockTable } from "./block_table.ts";
import {
  BlockVersion,
  RecordedRequest,
  type RequestContents,
} from "./block_version.ts";
import type { ContentStore } from "./content_store.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";
import { Int32List } from "./int32_list.ts";

/** Something that happened. A crash comes after so many of them. */
export type CrashEvent =
  | { readonly kind: "submit"; readonly request: RecordedRequest }
  | { readonly kind: "complete"; readonly request: RecordedRequest }
  | { readonly kind: "acknowledge" };

const ACKNOWLEDGE: CrashEvent = { kind: "acknowledge" };

/** What blocks were before anything was written to them. */
export class InitialContents {
  readonly #table: BlockTable;
  readonly #store: ContentStore;

  /**
   * Constructs a new instance.
   *
   * @param table The content of each block that was written.
   * @param store The contents.
   */
  constructor(table: BlockTable, store: ContentStore) {
    this.#table = table;
    this.#store = store;
  }

  /** How many blocks were written. */
  get size(): number {
    return this.#table.size;
  }

  /**
   * What a block was.
   *
   * @param block Its number, one of those that were written.
   * @returns Its version.
   */
  version(block: number): BlockVersion {
    return new BlockVersion(block, this.#store, this.#table.get(block), null);
  }

  /**
   * The number of what a block was.
   *
   * @param block Its number.
   * @returns The number in the recording's contents; -1 if it was not written.
   */
  content(block: number): number {
    return this.#table.get(block);
  }

  /**
   * The bytes of a block.
   *
   * @param block Its number.
   * @returns Its bytes, not to be changed; `undefined` if it was not written.
   */
  bytes(block: number): Uint8Array | undefined {
    const content = this.#table.get(block);
    return content < 0 ? undefined : this.#store.read(content);
  }

  /**
   * The blocks that were written, and the number of what each was before.
   *
   * @returns Pairs, in no order.
   */
  entries(): Iterable<[block: number, content: number]> {
    return this.#table.entries();
  }
}

/** The disk below a recording. */
export interface RecordedBase {
  /** Its shape. */
  readonly shape: { readonly sectors: number; readonly blockSize: number };
  /** CRC-32 of what was read of it, by chunk. */
  readonly sums: ReadonlyMap<number, number>;
}

/**
 * Blocks that all requests of a recording may change: 64 GiB of sectors. Each
 * takes some 20 ns and up to 8 bytes, also where a request of a few bytes erases
 * them all.
 */
const MOST_BLOCKS = 2 ** 27;

/**
 * Whether a device writes so many sectors there wholly or not at all.
 *
 * @param device The device.
 * @param sector The first sector.
 * @param count Sectors.
 * @returns Whether they are a power of two on a multiple of itself, and no more
 * than the device's atomic write unit.
 */
export function isAtomic(
  { atomicWriteBytes }: CompleteCrashDevice,
  sector: number,
  count: number,
): boolean {
  return count * SECTOR_BYTES <= atomicWriteBytes &&
    (count & (count - 1)) === 0 && sector % count === 0;
}

/** What there is to log of a request. */
export type LoggedRequest = Pick<
  Request,
  "type" | "sector" | "count" | "fua" | "writes"
>;

/** A log that is written. */
export class RecordingLog {
  /** What happened. */
  readonly events: CrashEvent[] = [];
  /** The writes and flushes, in the order of submission. */
  readonly requests: RecordedRequest[] = [];
  /** What was acknowledged, in order. */
  readonly acknowledged: unknown[] = [];
  /** The content of each written block now. */
  readonly latest: BlockTable = new BlockTable();
  /** What each written block was before. */
  readonly initial: BlockTable = new BlockTable();
  /** The content of each block of each write, in the order of submission. */
  readonly numbers: Int32List = new Int32List();
  readonly #device: CompleteCrashDevice;
  readonly #contents: RequestContents;
  /** Whether it was started. */
  started: boolean = false;
  #flushes = 0;
  #blocks = 0;

  /**
   * Constructs a new instance.
   *
   * @param device The device.
   * @param store The contents.
   */
  constructor(device: CompleteCrashDevice, store: ContentStore) {
    this.#device = device;
    this.#contents = { store, numbers: this.numbers };
  }

  /**
   * How many blocks a request changes.
   *
   * @param request The request.
   * @returns None if it is no write, or one that the device ignores.
   */
  blocksOf({ type, count, writes }: LoggedRequest): number {
    const ignored = type === RequestType.Discard &&
      this.#device.discarded === "old";
    return writes && !ignored ? count / this.#device.blockSectors : 0;
  }

  /**
   * Checks that a request may change so many blocks.
   *
   * @param blocks How many.
   * @throws {DiskError} If all requests together would change too many.
   */
  checkRoom(blocks: number): void {
    const all = this.#blocks + blocks;
    if (all <= MOST_BLOCKS) return;
    throw new DiskError(
      "unsupported",
      `Cannot record a request as all of them together may change ${MOST_BLOCKS} blocks at most: current value is ${all}`,
    );
  }

  /**
   * Logs a write or a flush as it is submitted. The contents of a write, unless
   * it makes zeroes, are the last of `numbers`.
   *
   * @param request The request.
   * @param origin Who made it.
   * @returns What was recorded.
   * @throws {DiskError} If there are too many blocks.
   */
  submit(
    request: LoggedRequest,
    origin: Error | string | null,
  ): RecordedRequest {
    const { type, sector, count, fua } = request;
    const { blockSectors } = this.#device;
    const blocks = this.blocksOf(request);
    this.checkRoom(blocks);
    this.#blocks += blocks;
    const first = sector / blockSectors;
    const at = type === RequestType.Out ? this.numbers.length - blocks : -1;
    const recorded = new RecordedRequest({
      number: this.requests.length + 1,
      type,
      sector,
      count,
      fua,
      // To discard or to erase is no write.
      atomic: (type === RequestType.Out || type === RequestType.WriteZeroes) &&
        isAtomic(this.#device, sector, count),
      submittedAt: this.events.length,
      firstBlock: first,
      blocks,
      origin,
      contents: this.#contents,
      at,
    });
    for (let i = 0; i < blocks; i++) {
      this.latest.set(first + i, at < 0 ? 0 : this.numbers.at(at + i));
    }
    this.requests.push(recorded);
    this.events.push({ kind: "submit", request: recorded });
    return recorded;
  }

  /**
   * Logs that a write or a flush completed.
   *
   * @param request What was recorded of it.
   * @returns The number of the flush, if it is one that the device is set to
   * fail; 0 if it did not fail.
   */
  complete(request: RecordedRequest): number {
    // It may have been submitted before the start.
    if (this.requests[request.number - 1] !== request) return 0;
    request.completedAt = this.events.length;
    this.events.push({ kind: "complete", request });
    if (request.type !== RequestType.Flush) return 0;
    this.#flushes++;
    if (!this.started || !this.#device.failFlushes.has(this.#flushes)) {
      return 0;
    }
    request.failed = true;
    for (const write of this.requests) {
      if (
        write.completedAt >= 0 && write.completedAt < request.submittedAt &&
        write.markedCleanAt < 0
      ) write.markedCleanAt = request.submittedAt;
    }
    return this.#flushes;
  }

  /**
   * Logs that something was promised to the outside.
   *
   * @param value What.
   */
  acknowledge(value: unknown): void {
    this.events.push(ACKNOWLEDGE);
    this.acknowledged.push(value);
  }

  /**
   * Forgets all events: what was written so far is what the disk has. Flushes
   * are counted, and fail, from here on.
   */
  start(): void {
    this.started = true;
    for (const [block, content] of this.latest.entries()) {
      this.initial.set(block, content);
    }
    this.events.length = 0;
    this.requests.length = 0;
    this.acknowledged.length = 0;
    this.#flushes = 0;
  }

  /**
   * Completes what is known of the beginning, after a file was read: blocks that
   * nothing was noted of were zeroes, if there is no base. Over a base, a killed
   * recorder may have logged a last write before it read what that overwrites:
   * then the log ends before that write.
   *
   * @param hasBase Whether there is a base.
   */
  completeInitial(hasBase: boolean): void {
    let end = this.events.length;
    for (const { firstBlock, blocks, submittedAt } of this.requests) {
      for (let block = firstBlock; block < firstBlock + blocks; block++) {
        if (this.initial.has(block)) continue;
        if (hasBase) end = Math.min(end, submittedAt);
        else this.initial.set(block, 0);
      }
    }
    if (end < this.events.length) this.#cut(end);
  }

  #cut(end: number): void {
    const kept = this.events.slice(0, end);
    const count = (kind: CrashEvent["kind"]) =>
      kept.filter((event) => event.kind === kind).length;
    this.requests.length = count("submit");
    this.acknowledged.length = count("acknowledge");
    this.events.length = end;
    for (const request of this.requests) {
      if (request.completedAt >= end) {
        request.completedAt = -1;
        request.failed = false;
      }
      if (request.markedCleanAt >= end) request.markedCleanAt = -1;
    }
  }
}
