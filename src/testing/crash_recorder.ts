/**
 * Records what is done to a disk: a device that is written to, and that answers
 * like a disk in memory.
 *
 * A request goes one way. As it is submitted, the contents of a write are copied
 * into the `ContentStore`, and it is logged (`recording_log.ts`); a read is
 * answered from what was written last, or from the disk below, which is only
 * read. Then it completes, and that is logged as well. In the end the log becomes
 * a `CrashRecording`, which does not change any more. With a path, all of it goes
 * into a file as well, record by record (`recording_writer.ts`).
 *
 * @module
 */

import { setImmediate } from "node:timers";
import { fileURLToPath } from "node:url";
import { crc32 } from "node:zlib";
import { type Backend, type Complete, refuseChanged } from "../backend.ts";
import { gather, scatter } from "../buffer.ts";
import { captureStack } from "../call_site.ts";
import { DiskError } from "../errors.ts";
import type { Geometry } from "../geometry.ts";
import { type Request, RequestType } from "../request.ts";
import { closedError, errnoError, requestError } from "../request_error.ts";
import { answerRequest } from "../throw_later.ts";
import { encodeId } from "../virtio.ts";
import { BackendSource, type BlockSource, ZeroSource } from "./block_source.ts";
import type { RecordedRequest } from "./block_version.ts";
import { ContentStore } from "./content_store.ts";
import {
  type CompleteCrashDevice,
  completeCrashDevice,
  type CrashDevice,
} from "./crash_device.ts";
import { CrashRecording } from "./crash_recording.ts";
import {
  type CrashGuard,
  eventLoopTurn,
  RecoveryTimeout,
} from "./crash_watchdog.ts";
import { CRASH_ID, RecordedBackend } from "./recorded_backend.ts";
import { RecordKind } from "./recording_format.ts";
import { writeHeader } from "./recording_header.ts";
import { RecordingLog } from "./recording_log.ts";
import { RecordingWriter } from "./recording_writer.ts";
import { TemporaryContents } from "./temporary_contents.ts";

/** How to record. */
export interface CrashRecorderOptions {
  /** The device, and what it promises. */
  device: CrashDevice;
  /**
   * What is on the device before: any backend, which is only read, and stays
   * open. Zeroes if not given.
   */
  base?: Backend | undefined;
  /**
   * The file to record into; nothing may be there. What a killed recorder leaves
   * there is whole up to its last turn of the event loop. Without one, contents
   * of more than 128 MiB go to a private temporary file, if that is allowed.
   */
  path?: string | URL | undefined;
}

/** How a workload or a recovery of this process is recorded. */
export interface RecordingOptions {
  /** Whether to record who made each request. */
  readonly origins: boolean;
  /**
   * Whether to answer in a later turn of the event loop, so that the program
   * goes on in the same order over every base.
   */
  readonly turns: boolean;
  /** Whether it is surely started: until then nothing of the workload is there. */
  readonly starts?: boolean;
  /** Says when the time of the program is over. */
  readonly guard?: CrashGuard;
  /**
   * Bytes that the program may have kept of what it writes; then its time is
   * over. Without an end if not given.
   */
  readonly mostBytes?: number;
  /** The file to record into. */
  readonly writer?: RecordingWriter;
  /** The shape of the disk below, if there is one. */
  readonly base?: Geometry;
}

/** About what it takes to keep a request, beside its data. */
const REQUEST_BYTES = 1024;

/** Bytes of contents that stay in memory. */
const MEMORY_BYTES = 128 << 20;

/**
 * A device that records what is done to it.
 *
 * @example What an NBD client does to a disk
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { CrashRecorder } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using recorder = await CrashRecorder.create({ device: { sectors: 64 } });
 * {
 *   // Or `serve(VirtualDisk.over(recorder.open()))`, of "@platter/disk/nbd".
 *   await using disk = VirtualDisk.over(recorder.open());
 *   await disk.write(8, new Uint8Array(512).fill(1));
 *   await disk.flush();
 *   recorder.acknowledge("written");
 * }
 * const recording = await recorder.end();
 * assertEquals(recording.requests.length, 2);
 * assertEquals(recording.acknowledged, ["written"]);
 * ```
 */
export class CrashRecorder implements AsyncDisposable {
  /** The device. */
  readonly device: CompleteCrashDevice;
  /** Why it cannot go on; `null` while it can. */
  failure: DiskError | null = null;
  readonly #source: BlockSource;
  /** Whether that is zeroes: nothing of it need be looked at. */
  readonly #overZeroes: boolean;
  readonly #options: RecordingOptions;
  readonly #contents: ContentStore;
  readonly #log: RecordingLog;
  readonly #writer: RecordingWriter | null;
  /** CRC-32 of what was read of the base, by chunk. */
  readonly #baseSums = new Map<number, number>();
  /** Call sites of requests that the backend has not received yet. */
  readonly #origins = new WeakMap<Request, Error>();
  #lastOrigin: Error | null = null;
  #keptBytes = 0;
  #recording: CrashRecording | null = null;
  #ended = false;
  #turn: Promise<void> = Promise.resolve();
  #turnsInFlight = 0;

  /**
   * Constructs a new instance.
   *
   * @param device The device.
   * @param source What is on it before.
   * @param options How to record.
   * @internal
   */
  constructor(
    device: CompleteCrashDevice,
    source: BlockSource,
    options: RecordingOptions,
  ) {
    this.device = device;
    this.#source = source;
    this.#overZeroes = source instanceof ZeroSource;
    this.#options = options;
    const { writer = null } = options;
    this.#writer = writer;
    this.#contents = new ContentStore(
      device.blockSize,
      writer ?? new TemporaryContents(device.blockSize),
      MEMORY_BYTES,
    );
    this.#log = new RecordingLog(device, this.#contents);
    if (writer !== null) {
      writer.onFailure = (error) => this.#fail("write", error);
    }
    if (source instanceof BackendSource) {
      source.onRead = (chunk, bytes) => this.#noteBase(chunk, bytes);
    }
  }

  /**
   * Makes a recorder.
   *
   * @param options The device.
   * @returns The recorder.
   * @throws {RangeError} If the device cannot have that shape.
   * @throws {TypeError} If a promise of the device is none that there is.
   * @throws {DiskError} If the file cannot be created.
   */
  static create(options: CrashRecorderOptions): Promise<CrashRecorder> {
    return Promise.try(() =>
      CrashRecorder.make(options, { origins: false, turns: false })
    );
  }

  /**
   * Makes one for a program of this process.
   *
   * @param options The device.
   * @param how How to record.
   * @returns The recorder.
   * @internal
   */
  static make(
    options: CrashRecorderOptions,
    how: Pick<RecordingOptions, "origins" | "turns" | "starts" | "guard">,
  ): CrashRecorder {
    const { base, path } = options;
    const device = completeCrashDevice(options.device, base?.geometry);
    const source = base === undefined
      ? new ZeroSource(device.blockSize)
      : new BackendSource(base, device.blockSize);
    const shape = base?.geometry;
    return new CrashRecorder(device, source, {
      ...how,
      ...(shape === undefined ? {} : { base: shape }),
      ...(path === undefined ? {} : {
        writer: new RecordingWriter(
          path instanceof URL ? fileURLToPath(path) : path,
          writeHeader({
            device,
            base: shapeOf(shape),
            starts: how.starts ?? false,
          }),
          device.blockSize,
        ),
      }),
    });
  }

  /** How many writes and flushes were logged. */
  get requests(): number {
    return this.#log.requests.length;
  }

  /**
   * For a queue's `onSubmit`: keeps the call site of a request.
   *
   * @internal
   */
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
   * Opens the device. It may be open several times at once: all see the same
   * disk.
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
   * Forgets all that was logged: what was written so far is what the disk has.
   * Flushes are counted, and fail, from here on.
   *
   * @throws {Error} If the recording has ended.
   */
  start(): void {
    this.#refuseEnded("start");
    this.#writer?.start();
    this.#log.start();
  }

  /**
   * Records that something was promised to the outside.
   *
   * @param value What. It must not be changed later.
   * @throws {Error} If the recording has ended.
   * @throws {TypeError} If it goes to a file, and cannot be JSON.
   */
  acknowledge(value: unknown): void {
    this.#refuseEnded("acknowledge anything");
    this.#writer?.acknowledge(value);
    this.#log.acknowledge(value);
  }

  /**
   * Ends the recording, when what is in flight has completed. Later requests
   * fail: the device is closed.
   *
   * @returns What was recorded.
   * @throws {DiskError} If the disk below could not be read, or the file not be
   * written.
   */
  async end(): Promise<CrashRecording> {
    this.#ended = true;
    await this.#turn;
    if (this.failure !== null) throw this.failure;
    if (this.#recording === null) this.#writer?.end();
    return this.endNow();
  }

  /**
   * Ends the recording at once, for whoever knows that nothing is in flight.
   *
   * @returns What was recorded.
   * @internal
   */
  endNow(): CrashRecording {
    this.#ended = true;
    this.#contents.seal();
    const base = shapeOf(this.#options.base);
    return this.#recording ??= new CrashRecording({
      device: this.device,
      log: this.#log,
      contents: this.#contents,
      source: this.#source,
      base: base === null ? null : { shape: base, sums: this.#baseSums },
      ended: true,
    });
  }

  /**
   * Gives up what was recorded, whatever is in flight.
   *
   * @internal
   */
  giveUp(): void {
    this.#ended = true;
    this.#contents.close();
  }

  /**
   * The same, and removes the file, if there is one.
   *
   * @internal
   */
  remove(): void {
    this.#ended = true;
    this.#writer?.remove();
    this.#contents.close();
  }

  /** Gives up what was recorded, unless it has become a recording. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    await this.#turn;
    if (this.#recording === null) this.giveUp();
  }

  #refuseEnded(what: string): void {
    if (!this.#ended) return;
    throw new Error(
      `Cannot ${what} as the workload has ended: await everything in it`,
    );
  }

  #submit(batch: readonly Request[], complete: Complete): void {
    const { guard } = this.#options;
    if (guard?.over) {
      for (const request of batch) guard.refuse(request, complete);
      return;
    }
    const waits = guard !== undefined && guard.needsTurn();
    const requests: Request[] = [];
    const recorded: (RecordedRequest | null)[] = [];
    for (const request of batch) {
      const error = this.#refused(request);
      if (error !== null) {
        answerRequest(request, error, complete);
        continue;
      }
      const logged = request.writes || request.type === RequestType.Flush
        ? this.#begin(request)
        : null;
      if (logged instanceof DiskError) answerRequest(request, logged, complete);
      else {
        requests.push(request);
        recorded.push(logged);
      }
    }
    const carryOut = (fetched?: ReadonlyMap<number, Uint8Array>) => {
      for (const request of requests) this.#answer(request, fetched);
    };
    const end = () => {
      for (let i = 0; i < requests.length; i++) {
        this.#end(requests[i]!, recorded[i]!, complete);
      }
    };
    if (
      !this.#options.turns && !waits && this.#turnsInFlight === 0 &&
      this.#isAtHand(requests)
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
          fetched.set(block, await this.#source.fetch(block));
        }
      } catch (cause) {
        failure = this.#fail("read the disk below", cause);
      }
      if (guard?.over) {
        for (const request of requests) guard.refuse(request, complete);
      } else if (failure === null) {
        carryOut(fetched);
        if (this.#options.turns) await nextTurn();
        end();
      } else {
        for (const request of requests) {
          answerRequest(request, failure, complete);
        }
      }
      this.#turnsInFlight--;
    });
  }

  /** Notes why it cannot go on. */
  #fail(what: string, cause: unknown): DiskError {
    const error = cause instanceof DiskError ? cause : new DiskError(
      "io",
      `Cannot ${what} as that fails: ${
        cause instanceof Error ? cause.message : cause
      }`,
      { cause },
    );
    return this.failure ??= error;
  }

  #refused(request: Request): DiskError | null {
    if (this.#ended) return closedError(request);
    if (this.failure !== null) {
      const reason = `the recording has failed: ${this.failure.message}`;
      return requestError(this.failure.kind, request, reason, {
        cause: this.failure,
      });
    }
    return request.type === RequestType.Out ? refuseChanged(request) : null;
  }

  /** Whether all blocks that a batch needs from below are at hand. */
  #isAtHand(requests: readonly Request[]): boolean {
    if (this.#overZeroes) return true;
    for (const block of this.#below(requests)) {
      if (this.#source.peek(block) === undefined) return false;
    }
    return true;
  }

  /** Blocks that a batch needs from below. */
  *#below(requests: readonly Request[]): Generator<number> {
    const { blockSectors } = this.device;
    const { initial, latest } = this.#log;
    for (const { sector, count, writes } of requests) {
      const end = (sector + count) / blockSectors;
      for (let block = sector / blockSectors; block < end; block++) {
        if (initial.has(block)) continue;
        if (writes || !latest.has(block)) yield block;
      }
    }
  }

  /** Logs a write or a flush as it is submitted. */
  #begin(request: Request): RecordedRequest | DiskError {
    const log = this.#log;
    const blocks = log.blocksOf(request);
    if (request.type === RequestType.Out) {
      const copy = (from: number, target: Uint8Array) => {
        gather(request, from, target);
      };
      try {
        this.#contents.take(blocks, copy, log.numbers);
      } catch (cause) {
        return this.#fail("write", cause);
      }
    }
    const origin = this.#origins.get(request) ?? this.#lastOrigin;
    this.#keptBytes += REQUEST_BYTES + blocks * this.device.blockSize;
    const { guard, mostBytes = Infinity } = this.#options;
    if (this.#keptBytes > mostBytes) {
      guard?.end(new RecoveryTimeout(`${mostBytes} bytes of writes`));
    }
    try {
      const recorded = log.submit(request, origin);
      this.#writer?.submit(recorded, recorded.origin);
      return recorded;
    } catch (cause) {
      return this.#fail("log a request", cause);
    }
  }

  /** Carries out a read; for a write, keeps what it overwrites. */
  #answer(
    request: Request,
    fetched?: ReadonlyMap<number, Uint8Array>,
  ): void {
    const first = request.sector / this.device.blockSectors;
    const count = request.count / this.device.blockSectors;
    if (request.type === RequestType.In) {
      if (this.#options.guard !== undefined) this.#options.guard.read = true;
      this.#read(request, first, count, fetched);
    } else if (request.type === RequestType.GetId) {
      request.data!.set(encodeId(CRASH_ID));
    } else {
      this.#keepInitial(first, count, fetched);
    }
  }

  #keepInitial(
    first: number,
    count: number,
    fetched?: ReadonlyMap<number, Uint8Array>,
  ): void {
    const { initial } = this.#log;
    for (let block = first; block < first + count; block++) {
      if (initial.has(block)) continue;
      if (this.#overZeroes) {
        initial.set(block, 0);
        continue;
      }
      const bytes = fetched?.get(block) ?? this.#source.peek(block)!;
      const content = this.#contents.add(bytes);
      initial.set(block, content);
      this.#writer?.blocks(RecordKind.Initial, block, [content]);
    }
  }

  /** Notes what was read of the base, so that it is known again. */
  #noteBase(chunk: number, bytes: Uint8Array): void {
    if (this.#ended || this.#baseSums.has(chunk)) return;
    const sum = crc32(bytes);
    this.#baseSums.set(chunk, sum);
    this.#writer?.baseSum(chunk, sum);
  }

  #read(
    request: Request,
    first: number,
    count: number,
    fetched?: ReadonlyMap<number, Uint8Array>,
  ): void {
    const { blockSize } = this.device;
    for (let i = 0; i < count;) {
      const content = this.#contentOf(first + i);
      if (content <= 0) {
        const bytes = content === 0
          ? this.#contents.zeroes
          : fetched?.get(first + i) ?? this.#source.peek(first + i)!;
        scatter(request, i * blockSize, bytes);
        i++;
        continue;
      }
      // Contents that follow each other were written together, mostly.
      let run = 1;
      while (
        i + run < count && this.#contentOf(first + i + run) === content + run
      ) run++;
      const bytes = this.#contents.readSome(content, run);
      scatter(request, i * blockSize, bytes);
      i += bytes.length / blockSize;
    }
  }

  /** The present content of a block; -1 if that is what is below. */
  #contentOf(block: number): number {
    const content = this.#log.latest.get(block);
    return content >= 0 ? content : this.#log.initial.get(block);
  }

  #end(
    request: Request,
    recorded: RecordedRequest | null,
    complete: Complete,
  ): void {
    let flush = 0;
    if (recorded !== null) {
      flush = this.#log.complete(recorded);
      this.#writer?.complete(recorded);
    }
    answerRequest(
      request,
      flush === 0 ? null : errnoError(request, "EIO", "the device", {
        text: `it is set to fail flush ${flush}`,
      }),
      complete,
    );
  }
}

/** The shape of the disk below; `null` if there is none. */
function shapeOf(base: Geometry | undefined) {
  if (base === undefined) return null;
  return { sectors: base.sectors, blockSize: base.blockSize };
}

/** The next turn of the event loop: every microtask has run by then. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
