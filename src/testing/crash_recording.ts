/**
 * What a program did to a disk, in the order in which a device sees it: each
 * write and flush as it was submitted and as it completed, and what the program
 * acknowledged in between.
 *
 * A `CrashRecorder` makes it (`crash_recorder.ts`), or a file that one wrote
 * (`recording_file.ts`). It does not change; contents that memory had no room
 * for are read from a file when they are asked for.
 *
 * @module
 */

import type { BlockSource } from "./block_source.ts";
import type { RecordedRequest } from "./block_version.ts";
import type { ContentStore } from "./content_store.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";
import { scramble } from "./hash.ts";
import {
  type CrashEvent,
  InitialContents,
  type RecordingLog,
} from "./recording_log.ts";
import { RequestType } from "../request.ts";

export type { CrashEvent } from "./recording_log.ts";

/** What a recording is made of. */
export interface CrashRecordingParts {
  /** The device. */
  readonly device: CompleteCrashDevice;
  /** What happened. */
  readonly log: RecordingLog;
  /** What was written. */
  readonly contents: ContentStore;
  /** What is on the disk below. */
  readonly source: BlockSource;
}

/** What was recorded, over a disk that is only read. */
export class CrashRecording implements AsyncDisposable {
  /** The device. */
  readonly device: CompleteCrashDevice;
  /** What happened. */
  readonly events: readonly CrashEvent[];
  /** The writes and flushes, in the order of submission. */
  readonly requests: readonly RecordedRequest[];
  /** What was acknowledged, in order. */
  readonly acknowledged: readonly unknown[];
  /** What each written block was before. */
  readonly initial: InitialContents;
  /** What is on the disk below, where nothing was written. */
  readonly source: BlockSource;
  readonly #contents: ContentStore;
  #fingerprint: string | null = null;

  /**
   * Constructs a new instance.
   *
   * @param parts What it is made of.
   */
  constructor(parts: CrashRecordingParts) {
    const { device, log, contents, source } = parts;
    this.device = device;
    this.events = log.events;
    this.requests = log.requests;
    this.acknowledged = log.acknowledged;
    this.initial = new InitialContents(log.initial, contents);
    this.source = source;
    this.#contents = contents;
  }

  /** Whether anything was written. */
  get wrote(): boolean {
    return this.requests.some(({ blocks }) => blocks > 0);
  }

  /** Bytes that were written, each time counted. */
  get bytes(): number {
    let sum = 0;
    for (const { blocks } of this.requests) sum += blocks;
    return sum * this.device.blockSize;
  }

  /**
   * A hash of 40 bits that identifies this recording.
   *
   * @returns Ten hexadecimal digits.
   */
  fingerprint(): string {
    return this.#fingerprint ??= this.#hash();
  }

  /**
   * Closes the files that contents are in: no state of it can be shown any more.
   *
   * @returns When that is done.
   */
  close(): Promise<void> {
    this.#contents.close();
    return Promise.resolve();
  }

  /** Closes it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #hash(): string {
    let high = scramble(this.device.sectors, this.device.blockSize);
    let low = 0;
    const add = (value: number) => {
      high = scramble(high ^ low, value);
      low = scramble(low, value ^ high);
    };
    for (const event of this.events) {
      add(event.kind.length);
      if (event.kind === "acknowledge") continue;
      const { request } = event;
      const { number, type, sector, count, fua, blocks } = request;
      for (const value of [number, type, sector, count, fua ? 1 : 0]) {
        add(value);
      }
      if (event.kind === "complete" || type !== RequestType.Out) continue;
      for (let i = 0; i < blocks; i++) {
        const content = request.contentOf(i);
        add(this.#contents.high(content));
        add(this.#contents.low(content));
      }
    }
    const hex = (value: number) => (value >>> 0).toString(16).padStart(8, "0");
    return hex(high) + hex(low).slice(0, 2);
  }
}
