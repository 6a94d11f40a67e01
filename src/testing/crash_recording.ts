/**
 * What a program did to a disk, in the order in which a device sees it: each
 * write and flush as it was submitted and as it completed, and what the program
 * acknowledged in between.
 *
 * A `CrashRecorder` makes it (`crash_recorder.ts`), or it is read from a file
 * that one wrote (`recording_reader.ts`, `save_recording.ts`). It does not change; contents that memory had no room
 * for are read from a file when they are asked for.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { crc32 } from "node:zlib";
import type { Backend } from "../backend.ts";
import { DiskError } from "../errors.ts";
import { RequestType } from "../request.ts";
import {
  BackendSource,
  type BlockSource,
  CHUNK_SECTORS,
  StoredSource,
  ZeroSource,
} from "./block_source.ts";
import type { RecordedRequest } from "./block_version.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";
import { scramble } from "./hash.ts";
import { type CrashEvent, InitialContents } from "./recording_log.ts";
import { readRecording, type RecordingFile } from "./recording_reader.ts";
import { type CrashRecordingParts, saveRecording } from "./save_recording.ts";

export type { CrashEvent } from "./recording_log.ts";

/** How to open a recording. */
export interface OpenRecordingOptions {
  /**
   * The disk that the recorded one was over: any backend, which is only read,
   * and stays open.
   */
  base?: Backend | undefined;
}

/** How to save a recording. */
export interface SaveRecordingOptions {
  /**
   * Whether the file gets all of the base that is not zeroes, so that it is
   * opened without one.
   *
   * @default {false}
   */
  withBase?: boolean | undefined;
  /** Gives up, and leaves no file. */
  signal?: AbortSignal | undefined;
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
  /**
   * Whether the recorder ended it. If not, it was killed, and the recording is
   * what it had written until then.
   */
  readonly ended: boolean;
  readonly #parts: CrashRecordingParts;
  #fingerprint: string | null = null;
  /** As many of the values as were asked for last. */
  #first: readonly unknown[] = Object.freeze([]);
  /** Recordings over states of this one. */
  readonly #over: CrashRecording[] = [];

  /**
   * Constructs a new instance.
   *
   * @param parts What it is made of.
   * @internal
   */
  constructor(parts: CrashRecordingParts) {
    const { device, log, contents, source, ended } = parts;
    this.device = device;
    this.events = log.events;
    this.requests = log.requests;
    this.acknowledged = log.acknowledged;
    this.initial = new InitialContents(log.initial, contents);
    this.source = source;
    this.ended = ended;
    this.#parts = parts;
  }

  /**
   * Opens the file of a recording. It must not be changed while it is open.
   *
   * A recording over a base has what was overwritten of it, and checksums of the
   * chunks of 64 KiB that anything was read or overwritten of. So it is opened
   * with that base again, which is compared with them, or without one if it was
   * saved with all of it.
   *
   * @param path The file.
   * @param options What it is over.
   * @returns The recording. Close it in the end.
   * @throws {DiskError} Of kind `unsupported` if the file is no recording or of
   * another version, `io` if it is damaged or cannot be read, `argument` if the
   * base is missing, or not what the recorder read. What the operating system
   * says has the kind that goes with it, such as `not-found`.
   */
  static async open(
    path: string | URL,
    options: OpenRecordingOptions = {},
  ): Promise<CrashRecording> {
    const name = path instanceof URL ? fileURLToPath(path) : path;
    const file = readRecording(name);
    const { device, base, log, contents, ended } = file;
    try {
      return new CrashRecording({
        device,
        log,
        contents,
        source: await sourceOf(file, name, options.base),
        base: base === null ? null : { shape: base, sums: file.baseSums },
        ended,
      });
    } catch (error) {
      contents.close();
      throw error;
    }
  }

  /**
   * Saves it as a file.
   *
   * @param path Where; nothing may be there.
   * @param options What goes into it.
   * @returns When it is written.
   * @throws {DiskError} If it cannot be.
   * @throws {TypeError} If something that was acknowledged cannot be JSON.
   */
  async save(
    path: string | URL,
    options: SaveRecordingOptions = {},
  ): Promise<void> {
    const name = path instanceof URL ? fileURLToPath(path) : path;
    await saveRecording(this.#parts, name, options);
  }

  /**
   * What was acknowledged first, frozen: one check is not to change what the next
   * one gets. Those that follow each other with as much share it, as a copy of
   * many values takes longer than many a check.
   *
   * @param count How many values.
   * @returns The values.
   * @internal
   */
  firstAcknowledged(count: number): readonly unknown[] {
    if (this.#first.length !== count) {
      this.#first = Object.freeze(this.acknowledged.slice(0, count));
    }
    return this.#first;
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
  async close(): Promise<void> {
    for (const recording of this.#over.splice(0)) await recording.close();
    this.#parts.contents.close();
  }

  /**
   * Closes another recording as soon as this one is closed.
   *
   * @param recording One over a state of this one, that states are told of.
   * @internal
   */
  closeWith(recording: CrashRecording): void {
    this.#over.push(recording);
  }

  /** Closes it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #hash(): string {
    const { contents } = this.#parts;
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
        add(contents.high(content));
        add(contents.low(content));
      }
    }
    const hex = (value: number) => (value >>> 0).toString(16).padStart(8, "0");
    return hex(high) + hex(low).slice(0, 2);
  }
}

/** What is below a recording: what its file has, or the base that was given. */
async function sourceOf(
  { device, base, baseBlocks, baseSums, contents }: RecordingFile,
  path: string,
  given: Backend | undefined,
): Promise<BlockSource> {
  const refuse = (reason: string) =>
    new DiskError(
      "argument",
      `Cannot open the recording "${path}" as ${reason}`,
      { operation: "open", path },
    );
  if (base === null) {
    if (given === undefined) return new ZeroSource(device.blockSize);
    throw refuse("it was made over zeroes, and not over a base");
  }
  if (given === undefined) {
    if (baseBlocks !== null) return new StoredSource(baseBlocks, contents);
    throw refuse("it was made over a base, which must be given");
  }
  const { sectors, blockSize } = given.geometry;
  if (sectors !== base.sectors || blockSize !== base.blockSize) {
    throw refuse("the base has not the shape of the one that was recorded");
  }
  const source = new BackendSource(given, device.blockSize);
  for (const [chunk, sum] of baseSums) {
    if (crc32(await source.readChunk(chunk)) === sum) continue;
    throw refuse(
      `the base is not the one that was recorded: sectors from ${
        chunk * CHUNK_SECTORS
      } on are others`,
    );
  }
  return source;
}
