/**
 * Writes the file of a recording, record by record (`recording_format.ts`).
 * Records gather in memory until the turn of the event loop ends, or until there
 * are 256 KiB of them, and are then written as one frame: what a killed recorder
 * leaves is whole up to its last turn.
 *
 * It is the `ContentFile` of the recorder's contents, too: memory may forget
 * what is in the file.
 *
 * @module
 */

import fs from "node:fs";
import { clearImmediate, setImmediate } from "node:timers";
import { crc32 } from "node:zlib";
import { isNotCapable } from "../platform/permissions.ts";
import { inspected } from "../platform/inspect.ts";
import { refuseAmongDevices } from "../backends/new_name.ts";
import { systemCode, systemReason } from "../backends/system_error.ts";
import { DiskError, kindOfCode } from "../errors.ts";
import { RequestType } from "../request.ts";
import type { RecordedRequest } from "./block_version.ts";
import { ContentRuns } from "./content_runs.ts";
import type { ContentFile } from "./content_store.ts";
import {
  FRAME_BYTES,
  FUA_FLAG,
  MAGIC,
  MOST_PAYLOAD_BYTES,
  PREFIX_BYTES,
  RecordKind,
  VERSION,
} from "./recording_format.ts";

/** Bytes of a payload at which it is written. */
const PAYLOAD_BYTES = 256 << 10;

const ENCODER = new TextEncoder();

/** The file of a recording, while it is written. */
export class RecordingWriter implements ContentFile {
  /** Called if the file cannot be written; nothing more is written then. */
  onFailure: (error: DiskError) => void = () => {};
  readonly #path: string;
  readonly #blockSize: number;
  readonly #fd: number;
  readonly #runs: ContentRuns;
  /** The frame that gathers: room for its head, then its payload. */
  #frame = new Uint8Array(FRAME_BYTES + PAYLOAD_BYTES);
  #view = new DataView(this.#frame.buffer);
  #used = FRAME_BYTES;
  /** Where that frame will be in the file. */
  #offset = PREFIX_BYTES;
  #submitted = 0;
  /** The numbers of those that have not completed. */
  readonly #inFlight = new Map<RecordedRequest, number>();
  readonly #origins = new Map<string, number>();
  #timer: ReturnType<typeof setImmediate> | null = null;
  #failure: DiskError | null = null;
  #closed = false;

  /**
   * Creates the file.
   *
   * @param path Where. Nothing may be there.
   * @param header The first record, which becomes JSON.
   * @param blockSize Bytes of a block.
   * @throws {DiskError} If it cannot be created.
   */
  constructor(path: string, header: unknown, blockSize: number) {
    this.#path = path;
    this.#blockSize = blockSize;
    refuseAmongDevices(path);
    try {
      this.#fd = fs.openSync(path, "wx+");
    } catch (cause) {
      throw fileError("create", path, cause);
    }
    this.#runs = new ContentRuns(this.#fd, path, blockSize);
    const prefix = new Uint8Array(PREFIX_BYTES);
    prefix.set(MAGIC);
    new DataView(prefix.buffer).setUint32(MAGIC.length, VERSION, true);
    try {
      this.#write(prefix, 0);
      this.#text(RecordKind.Header, JSON.stringify(header));
      this.flush();
    } catch (error) {
      this.remove();
      throw error;
    }
  }

  /** Writes new contents. */
  add(bytes: Uint8Array): void {
    const count = bytes.length / this.#blockSize;
    const at = this.#record(RecordKind.Contents, 4 + bytes.length);
    this.#view.setUint32(at, count, true);
    this.#frame.set(bytes, at + 4);
    // Where it will be, as the frame is written as it is.
    this.#runs.add(count, this.#offset + at + 4);
  }

  /** Nothing: they are written with the rest, at the latest to be loaded. */
  keep(): boolean {
    return true;
  }

  /** Reads contents back. */
  load(first: number, target: Uint8Array): void {
    if (this.#used > FRAME_BYTES) this.flush();
    this.#runs.load(first, target);
  }

  /**
   * Writes what blocks were.
   *
   * @param kind Whether that is before all writes, or in the base.
   * @param first The first block.
   * @param contents The number of the content of each.
   */
  blocks(
    kind: typeof RecordKind.Initial | typeof RecordKind.BaseBlocks,
    first: number,
    contents: readonly number[],
  ): void {
    const at = this.#record(kind, 12 + 4 * contents.length);
    this.#setUint64(at, first);
    this.#view.setUint32(at + 8, contents.length, true);
    for (const [i, content] of contents.entries()) {
      this.#view.setUint32(at + 12 + 4 * i, content, true);
    }
  }

  /** Writes that the base has zeroes in all other blocks. */
  baseIsWhole(): void {
    this.#record(RecordKind.BaseWhole, 0);
  }

  /**
   * Writes what was read of the base.
   *
   * @param chunk Which chunk.
   * @param sum Its CRC-32.
   */
  baseSum(chunk: number, sum: number): void {
    const at = this.#record(RecordKind.BaseSum, 12);
    this.#setUint64(at, chunk);
    this.#view.setUint32(at + 8, sum, true);
  }

  /**
   * Writes that a request was submitted. Its contents are there already.
   *
   * @param request What was recorded of it.
   * @param origin Who made it; empty if that is not known.
   * @param contentOf The number that the content of a block has in the file.
   */
  submit(
    request: RecordedRequest,
    origin: string,
    contentOf: (index: number) => number = (index) => request.contentOf(index),
  ): void {
    const site = origin === "" ? 0 : this.#origin(origin);
    const data = request.type === RequestType.Out;
    /** How many contents follow each other, and the first of them, in turn. */
    const runs: number[] = [];
    let next = -1;
    for (let i = 0; data && i < request.blocks; i++) {
      const content = contentOf(i);
      if (content === next) runs[runs.length - 2]!++;
      else runs.push(1, content);
      next = content === 0 ? 0 : content + 1;
    }
    const at = this.#record(
      RecordKind.Submit,
      22 + (data ? 4 + 4 * runs.length : 0),
    );
    this.#frame[at] = request.type;
    this.#frame[at + 1] = request.fua ? FUA_FLAG : 0;
    this.#setUint64(at + 2, request.sector);
    this.#setUint64(at + 10, request.count);
    this.#view.setUint32(at + 18, site, true);
    if (data) {
      this.#view.setUint32(at + 22, runs.length / 2, true);
      for (let i = 0; i < runs.length; i++) {
        this.#view.setUint32(at + 26 + 4 * i, runs[i]!, true);
      }
    }
    this.#inFlight.set(request, ++this.#submitted);
  }

  /**
   * Writes that a request completed.
   *
   * @param request What was recorded of it.
   */
  complete(request: RecordedRequest): void {
    const at = this.#record(RecordKind.Complete, 4);
    this.#view.setUint32(at, this.#inFlight.get(request)!, true);
    this.#inFlight.delete(request);
  }

  /**
   * Writes what was acknowledged.
   *
   * @param value The value.
   * @throws {TypeError} If it cannot be JSON.
   */
  acknowledge(value: unknown): void {
    this.#text(RecordKind.Acknowledge, jsonOf(value));
  }

  /** Writes that the recording starts. */
  start(): void {
    this.#record(RecordKind.Start, 0);
  }

  /**
   * Writes that the recording has ended, and makes all of it durable. It is not
   * tried again if it fails: a second fsync may say that nothing is left to write
   * of what the first one lost.
   *
   * @throws {DiskError} If that fails, or something failed before.
   */
  end(): void {
    if (this.#failure !== null) throw this.#failure;
    this.#record(RecordKind.End, 0);
    this.flush();
    try {
      fs.fsyncSync(this.#fd);
    } catch (cause) {
      throw this.#failed(cause);
    }
  }

  /** Writes what has gathered. */
  flush(): void {
    if (this.#timer !== null) clearImmediate(this.#timer);
    this.#timer = null;
    if (this.#used === FRAME_BYTES || this.#failure !== null || this.#closed) {
      return;
    }
    const frame = this.#frame.subarray(0, this.#used);
    this.#view.setUint32(0, frame.length - FRAME_BYTES, true);
    this.#view.setUint32(4, crc32(frame.subarray(FRAME_BYTES)), true);
    this.#view.setUint32(8, crc32(frame.subarray(0, 8)), true);
    this.#write(frame, this.#offset);
    this.#offset += this.#used;
    this.#used = FRAME_BYTES;
  }

  /** Writes what has gathered, and closes the file. */
  close(): void {
    if (this.#closed) return;
    try {
      this.flush();
    } catch {
      // Whoever wants to know has ended the recording first.
    }
    this.#closed = true;
    fs.closeSync(this.#fd);
  }

  /**
   * Closes the file and removes it: it was created here. If something else has
   * its name by now, that stays.
   */
  remove(): void {
    this.#failure ??= new DiskError("closed", "The recording was given up");
    const isThere = !this.#closed && this.#hasItsName();
    this.close();
    if (isThere) fs.unlinkSync(this.#path);
  }

  #hasItsName(): boolean {
    const own = fs.fstatSync(this.#fd);
    const named = fs.lstatSync(this.#path, { throwIfNoEntry: false });
    return named !== undefined && named.dev === own.dev &&
      named.ino === own.ino;
  }

  #origin(text: string): number {
    let number = this.#origins.get(text);
    if (number === undefined) {
      this.#text(RecordKind.Origin, text);
      this.#origins.set(text, number = this.#origins.size + 1);
    }
    return number;
  }

  #text(kind: number, text: string): void {
    const bytes = ENCODER.encode(text);
    const at = this.#record(kind, 4 + bytes.length);
    this.#view.setUint32(at, bytes.length, true);
    this.#frame.set(bytes, at + 4);
  }

  #setUint64(at: number, value: number): void {
    this.#view.setUint32(at, value % 2 ** 32, true);
    this.#view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
  }

  /** Begins a record, and returns where its fields go. */
  #record(kind: number, length: number): number {
    if (length >= MOST_PAYLOAD_BYTES) {
      throw new DiskError(
        "unsupported",
        `Cannot record as a record must have less than ${MOST_PAYLOAD_BYTES} bytes: current value is ${length}`,
      );
    }
    if (this.#used + 1 + length > FRAME_BYTES + PAYLOAD_BYTES) this.flush();
    if (this.#used + 1 + length > this.#frame.length) {
      const frame = new Uint8Array(this.#used + 1 + length);
      frame.set(this.#frame.subarray(0, this.#used));
      this.#frame = frame;
      this.#view = new DataView(frame.buffer);
    }
    this.#timer ??= setImmediate(() => {
      this.#timer = null;
      try {
        this.flush();
      } catch {
        // Whoever records was told.
      }
    });
    this.#frame[this.#used] = kind;
    const at = this.#used + 1;
    this.#used = at + length;
    return at;
  }

  #write(bytes: Uint8Array, offset: number): void {
    try {
      for (let done = 0; done < bytes.length;) {
        const left = bytes.length - done;
        done += fs.writeSync(this.#fd, bytes, done, left, offset + done);
      }
    } catch (cause) {
      throw this.#failed(cause);
    }
  }

  /** Notes why nothing more is written. */
  #failed(cause: unknown): DiskError {
    this.#failure = fileError("write", this.#path, cause);
    this.onFailure(this.#failure);
    return this.#failure;
  }
}

/**
 * A value as JSON.
 *
 * @param value The value.
 * @returns The text; empty for `undefined`.
 * @throws {TypeError} If it cannot be JSON.
 */
function jsonOf(value: unknown): string {
  if (value === undefined) return "";
  let text: string | undefined;
  let cause: unknown;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    cause = error;
  }
  if (text !== undefined) return text;
  throw new TypeError(
    `Cannot acknowledge into a file as the value must be one for JSON: current value is ${
      inspected(value)
    }`,
    { cause },
  );
}

/**
 * The error of a recording's file.
 *
 * @param what What was tried.
 * @param path The file.
 * @param cause What was thrown.
 * @returns The error.
 */
export function fileError(
  what: string,
  path: string,
  cause: unknown,
): DiskError {
  if (cause instanceof DiskError) return cause;
  const { code, errno } = systemCode(cause) ?? {};
  const denied = isNotCapable(cause);
  const text = cause instanceof Error ? cause.message : `${cause}`;
  return new DiskError(
    denied ? "permission" : kindOfCode(code ?? ""),
    `Cannot ${what} the recording "${path}" as ${
      code === "EEXIST"
        ? "there is something of that name, which is not overwritten"
        : systemReason(cause) ?? `that fails: ${text}`
    }`,
    { operation: what, path, code, errno, cause },
  );
}
