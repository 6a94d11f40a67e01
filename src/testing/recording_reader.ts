/**
 * Reads the file of a recording (`recording_format.ts`). Whatever is in it is
 * taken for hostile: each length is held against what there is, each number
 * against what it counts, and what is not as the format says is an error. A file
 * that ends within a frame is what a killed recorder left, and is read up to it.
 *
 * Contents stay in the file; where they are is noted.
 *
 * @module
 */

import fs from "node:fs";
import { crc32 } from "node:zlib";
import { DiskError } from "../errors.ts";
import { RequestType } from "../request.ts";
import { CHUNK_SECTORS } from "./block_source.ts";
import { BlockTable } from "./block_table.ts";
import type { RecordedRequest } from "./block_version.ts";
import { ContentRuns } from "./content_runs.ts";
import { type ContentFile, ContentStore } from "./content_store.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";
import {
  FRAME_BYTES,
  FUA_FLAG,
  MAGIC,
  MOST_PAYLOAD_BYTES,
  PREFIX_BYTES,
  RecordKind,
  VERSION,
} from "./recording_format.ts";
import { readHeader, type RecordingHeader } from "./recording_header.ts";
import { RecordingLog } from "./recording_log.ts";
import { fileError } from "./recording_writer.ts";
import { readFullySync } from "../backends/read_fully_sync.ts";

/** What a file has. */
export interface RecordingFile {
  /** The device. */
  readonly device: CompleteCrashDevice;
  /** The shape of its base; `null` if it has none. */
  readonly base: RecordingHeader["base"];
  /** The content of blocks of the base, if the file has all of it. */
  readonly baseBlocks: BlockTable | null;
  /** CRC-32 of what was read of the base, by chunk. */
  readonly baseSums: ReadonlyMap<number, number>;
  /** What happened. */
  readonly log: RecordingLog;
  /** What was written. */
  readonly contents: ContentStore;
  /** Whether the recorder ended it. */
  readonly ended: boolean;
}

/**
 * Reads a file.
 *
 * @param path The file.
 * @returns What it has; its contents have the file open.
 * @throws {DiskError} If it cannot be read, is no recording, of another version
 * or damaged, or has nothing of its workload.
 */
export function readRecording(path: string): RecordingFile {
  let fd: number;
  try {
    // To open a pipe is to wait for somebody who writes to it.
    if (fs.statSync(path).isFIFO()) {
      throw new DiskError(
        "unsupported",
        `Cannot open the recording "${path}" as it is a pipe`,
        { operation: "open", path },
      );
    }
    fd = fs.openSync(path, "r");
  } catch (cause) {
    throw fileError("open", path, cause);
  }
  try {
    return new Reader(fd, path).read();
  } catch (cause) {
    fs.closeSync(fd);
    throw fileError("read", path, cause);
  }
}

const DECODER = new TextDecoder("utf-8", { fatal: true });

class Reader {
  readonly #fd: number;
  readonly #path: string;
  readonly #size: number;
  /** Where the present frame is. */
  #offset = PREFIX_BYTES;
  #payload = new Uint8Array(0);
  #view = new DataView(new ArrayBuffer(0));
  /** Where the next field is in the payload, and where the payload ends. */
  #at = 0;
  #end = 0;
  #state: State | null = null;
  #ended = false;

  constructor(fd: number, path: string) {
    this.#fd = fd;
    this.#path = path;
    this.#size = fs.fstatSync(fd).size;
  }

  read(): RecordingFile {
    const prefix = new Uint8Array(PREFIX_BYTES);
    const read = readFullySync(this.#fd, prefix, 0);
    if (
      read < PREFIX_BYTES || MAGIC.some((byte, i) => prefix[i] !== byte)
    ) {
      throw this.#error("unsupported", "it is none");
    }
    const version = new DataView(prefix.buffer).getUint32(MAGIC.length, true);
    if (version !== VERSION) {
      throw this.#error(
        "unsupported",
        `its version must be ${VERSION}: current value is ${version}`,
      );
    }
    while (this.#frame()) while (this.#at < this.#end) this.#record();
    const state = this.#state;
    if (state === null) throw this.#damaged("it has no header");
    if (state.starts && !state.log.started) {
      throw this.#error(
        "unsupported",
        "it has nothing of its workload: it was killed before that began",
      );
    }
    state.log.completeInitial(state.base !== null);
    state.contents.adopt(state.runs.count);
    return {
      device: state.device,
      base: state.base,
      baseBlocks: state.baseIsWhole ? state.baseBlocks : null,
      baseSums: state.baseSums,
      log: state.log,
      contents: state.contents,
      ended: this.#ended,
    };
  }

  /** Reads the next frame, if there is a whole one. */
  #frame(): boolean {
    const start = this.#offset + this.#end + (this.#end > 0 ? FRAME_BYTES : 0);
    const head = new Uint8Array(FRAME_BYTES);
    if (start + FRAME_BYTES > this.#size) return false;
    this.#offset = start;
    readFullySync(this.#fd, head, start);
    const view = new DataView(head.buffer);
    const length = view.getUint32(0, true);
    if (
      view.getUint32(8, true) !== crc32(head.subarray(0, 8)) || length === 0 ||
      length > MOST_PAYLOAD_BYTES
    ) throw this.#damaged("the head of a frame is not what was written");
    if (start + FRAME_BYTES + length > this.#size) return false;
    if (length > this.#payload.length) {
      this.#payload = new Uint8Array(length);
      this.#view = new DataView(this.#payload.buffer);
    }
    const payload = this.#payload.subarray(0, length);
    readFullySync(this.#fd, payload, start + FRAME_BYTES);
    if (view.getUint32(4, true) !== crc32(payload)) {
      throw this.#damaged("a frame is not what was written");
    }
    this.#at = 0;
    this.#end = length;
    return true;
  }

  #record(): void {
    const kind = this.#payload[this.#at++]!;
    if (this.#ended) throw this.#damaged("something follows its end");
    if (this.#state === null) {
      if (kind !== RecordKind.Header) {
        throw this.#damaged("its header does not come first");
      }
      this.#state = new State(
        this.#fd,
        this.#path,
        this.#json(),
        this.#invalid,
      );
      return;
    }
    const state = this.#state;
    const { log } = state;
    switch (kind) {
      case RecordKind.Contents: {
        const count = this.#uint32();
        const at = this.#take(count * state.device.blockSize);
        if (count > 0) state.runs.add(count, this.#offset + FRAME_BYTES + at);
        break;
      }
      case RecordKind.Initial:
        this.#blocks(log.initial);
        break;
      case RecordKind.BaseBlocks:
        this.#blocks(state.baseBlocks);
        break;
      case RecordKind.BaseWhole:
        state.baseIsWhole = true;
        break;
      case RecordKind.BaseSum: {
        const chunk = this.#uint64();
        if (state.base === null || chunk >= state.chunks) {
          throw this.#damaged("it knows what its base does not have");
        }
        state.baseSums.set(chunk, this.#uint32());
        break;
      }
      case RecordKind.Origin:
        state.origins.push(this.#text());
        break;
      case RecordKind.Submit:
        this.#submit(state);
        break;
      case RecordKind.Complete: {
        const number = this.#uint32();
        const request = state.inFlight.get(number);
        if (request === undefined) {
          throw this.#damaged(
            `request ${number} completes, and is not in flight`,
          );
        }
        state.inFlight.delete(number);
        log.complete(request);
        break;
      }
      case RecordKind.Acknowledge:
        log.acknowledge(this.#json());
        break;
      case RecordKind.Start:
        log.start();
        break;
      case RecordKind.End:
        this.#ended = true;
        break;
      default:
        throw this.#damaged(`there is no record of kind ${kind}`);
    }
  }

  #submit(state: State): void {
    const { device, log } = state;
    const at = this.#take(2);
    const [type, flags] = [this.#payload[at]!, this.#payload[at + 1]!];
    const [sector, count] = [this.#uint64(), this.#uint64()];
    const site = this.#uint32();
    const flush = type === RequestType.Flush;
    const known = flush || type === RequestType.Out ||
      type === RequestType.Discard || type === RequestType.WriteZeroes ||
      type === RequestType.SecureErase;
    const { sectors, blockSectors } = device;
    if (
      !known || flags > FUA_FLAG || site > state.origins.length ||
      (flush ? sector !== 0 || count !== 0 : count === 0 ||
        count > sectors || sector > sectors - count ||
        sector % blockSectors !== 0 || count % blockSectors !== 0)
    ) throw this.#damaged("there can be no such request on its device");
    const request = {
      type,
      sector,
      count,
      fua: (flags & FUA_FLAG) !== 0,
      writes: !flush,
    };
    const blocks = log.blocksOf(request);
    // A few bytes may say that they have the contents of very many.
    log.checkRoom(blocks);
    if (type === RequestType.Out) {
      let left = blocks;
      for (let runs = this.#uint32(); runs > 0; runs--) {
        const some = this.#uint32();
        const first = this.#uint32();
        const last = first === 0 ? 0 : first + some - 1;
        if (some === 0 || some > left || last > state.runs.count) {
          throw this.#damaged("a write has contents that there are not");
        }
        for (let i = 0; i < some; i++) {
          log.numbers.push(first === 0 ? 0 : first + i);
        }
        left -= some;
      }
      if (left > 0) throw this.#damaged("a write lacks contents");
    }
    const origin = site === 0 ? null : state.origins[site - 1]!;
    state.inFlight.set(++state.submitted, log.submit(request, origin));
  }

  #blocks(table: BlockTable): void {
    const { device, runs } = this.#state!;
    const first = this.#uint64();
    const count = this.#uint32();
    const end = device.sectors / device.blockSectors;
    if (first > end || count > end - first) {
      throw this.#damaged("it has blocks that its device does not have");
    }
    for (let i = 0; i < count; i++) {
      const content = this.#uint32();
      if (content > runs.count) {
        throw this.#damaged("a block has a content that there is not");
      }
      table.set(first + i, content);
    }
  }

  /** Passes by some bytes, and returns where they are in the payload. */
  #take(length: number): number {
    const at = this.#at;
    if (length > this.#end - at) {
      throw this.#damaged("a record is longer than its frame");
    }
    this.#at += length;
    return at;
  }

  #uint32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  #uint64(): number {
    const low = this.#uint32();
    const value = this.#uint32() * 2 ** 32 + low;
    if (!Number.isSafeInteger(value)) {
      throw this.#damaged("a number is larger than there is");
    }
    return value;
  }

  #text(): string {
    const length = this.#uint32();
    const at = this.#take(length);
    try {
      return DECODER.decode(this.#payload.subarray(at, at + length));
    } catch (cause) {
      throw this.#damaged("a text is none", cause);
    }
  }

  #json(): unknown {
    const text = this.#text();
    if (text === "") return undefined;
    try {
      return JSON.parse(text);
    } catch (cause) {
      throw this.#damaged("a value is no JSON", cause);
    }
  }

  readonly #invalid = (reason: string): DiskError => this.#damaged(reason);

  #damaged(reason: string, cause?: unknown): DiskError {
    const place = `in the frame at byte ${this.#offset}`;
    return this.#error("io", `it is damaged: ${reason}, ${place}`, cause);
  }

  #error(
    kind: "io" | "unsupported",
    reason: string,
    cause?: unknown,
  ): DiskError {
    return new DiskError(
      kind,
      `Cannot open the recording "${this.#path}" as ${reason}`,
      { operation: "open", path: this.#path, cause },
    );
  }
}

/** What was read so far. */
class State {
  readonly device: CompleteCrashDevice;
  readonly base: RecordingHeader["base"];
  readonly starts: boolean;
  /** Chunks of the base. */
  readonly chunks: number;
  readonly runs: ContentRuns;
  readonly contents: ContentStore;
  readonly log: RecordingLog;
  readonly baseBlocks = new BlockTable();
  readonly baseSums = new Map<number, number>();
  readonly origins: string[] = [];
  /** By number. */
  readonly inFlight = new Map<number, RecordedRequest>();
  submitted = 0;
  baseIsWhole = false;

  constructor(
    fd: number,
    path: string,
    header: unknown,
    invalid: (reason: string) => DiskError,
  ) {
    const { device, base, starts } = readHeader(header, invalid);
    this.device = device;
    this.base = base;
    this.starts = starts;
    this.chunks = base === null ? 0 : Math.ceil(base.sectors / CHUNK_SECTORS);
    const { blockSize } = device;
    this.runs = new ContentRuns(fd, path, blockSize);
    this.contents = new ContentStore(blockSize, new Kept(fd, this.runs), 0);
    this.log = new RecordingLog(device, this.contents);
  }
}

/** Contents that stay in the file that they were read from. */
class Kept implements ContentFile {
  readonly #fd: number;
  readonly #runs: ContentRuns;
  #closed = false;

  constructor(fd: number, runs: ContentRuns) {
    this.#fd = fd;
    this.#runs = runs;
  }

  add(): void {}

  keep(): boolean {
    return true;
  }

  load(first: number, target: Uint8Array): void {
    this.#runs.load(first, target);
  }

  close(): void {
    if (!this.#closed) fs.closeSync(this.#fd);
    this.#closed = true;
  }
}
