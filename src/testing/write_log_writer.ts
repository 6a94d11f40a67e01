/**
 * Writes a recording as a log of dm-log-writes (`write_log_format.ts`), in the
 * order that such a log has (`write_log_order.ts`).
 *
 * @module
 */

import { isSame, viewOf } from "../bytes.ts";
import fs from "node:fs";
import { fileURLToPath } from "node:url";
import { refuseAmongDevices } from "../backends/new_name.ts";
import { DiskError } from "../errors.ts";
import { isPowerOfTwo, SECTOR_BYTES } from "../geometry.ts";
import { RequestType } from "../request.ts";
import type { RecordedRequest } from "./block_version.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { isAtomic } from "./recording_log.ts";
import { fileError } from "./recording_writer.ts";
import {
  DISCARD,
  END_MARK,
  ENTRY_BYTES,
  FLUSH,
  FUA,
  MAGIC,
  MARK,
  PIECE_BYTES,
  START_MARK,
  SUPER_BYTES,
  VERSION,
} from "./write_log_format.ts";
import { LogOrder, type Part } from "./write_log_order.ts";

/** How to write a log. */
export interface WriteWriteLogOptions {
  /**
   * Bytes of a sector of the log, no more than of a block of the device. What
   * plays a log back takes the device's logical block size.
   *
   * @default {the device's block size}
   */
  sectorSize?: number | undefined;
}

/**
 * Writes a recording as a log of dm-log-writes, for tools that play such logs
 * back. Acknowledgements become marks: a text as it is, any other value as JSON.
 *
 * A write is where it was submitted, or behind the last flush that completed
 * without covering it; one that is durable by itself (FUA, or on a write-through
 * device) is where it completed. What overlaps is in the order of submission, on
 * a device that keeps the order all is: so a part of a write that a newer one
 * replaces may come early. Blocks that were not as in the base (or not zeroes)
 * when the recording started come first, up to a flush and the mark
 * `platter-start`. A log cannot say how long requests were in flight. Zeroes are
 * written as data, as a hole of the file; a secure erase is a write of zeroes,
 * block by block where else it would be an atomic one.
 *
 * @param recording The recording.
 * @param path Where; nothing may be there.
 * @param options How.
 * @returns When it is written.
 * @throws {DiskError} Of kind `unsupported` if a flush failed, which a log cannot
 * say; or if the file cannot be written.
 * @throws {RangeError} If sectors cannot be that long, or a mark is longer than
 * one.
 *
 * @example
 * ```ts
 * import { readWriteLog, recordWorkload, writeWriteLog } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const path = `${await Deno.makeTempDir()}/log`;
 * await using recording = await recordWorkload<string>({
 *   device: { sectors: 16 },
 *   async workload(disk, acknowledge) {
 *     await disk.write(1, new Uint8Array(512).fill(1));
 *     await disk.flush();
 *     acknowledge("one");
 *   },
 * });
 * await writeWriteLog(recording, path);
 *
 * await using again = await readWriteLog(path);
 * assertEquals(again.acknowledged, ["one"]);
 * ```
 */
export async function writeWriteLog(
  recording: CrashRecording,
  path: string | URL,
  options: WriteWriteLogOptions = {},
): Promise<void> {
  const { device, requests } = recording;
  const { sectorSize = device.blockSize } = options;
  if (
    !isPowerOfTwo(sectorSize) || sectorSize < SECTOR_BYTES ||
    sectorSize > device.blockSize
  ) {
    throw new RangeError(
      `Cannot write a write log as its sectors must be a power of two from 512 bytes to the block size, ${device.blockSize}: current value is ${sectorSize}`,
    );
  }
  const failed = requests.find(({ failed }) => failed);
  if (failed !== undefined) {
    throw new DiskError(
      "unsupported",
      `Cannot write a write log as it cannot say that a flush failed, and request ${failed.number} is one`,
    );
  }
  const name = path instanceof URL ? fileURLToPath(path) : path;
  const log = new LogWriter(name, sectorSize);
  try {
    await writeInitial(recording, log);
    writeEvents(recording, log);
    log.end();
  } catch (error) {
    log.remove();
    throw error instanceof RangeError ? error : fileError("write", name, error);
  }
}

/** Writes what was there when the recording started, and is not in the base. */
async function writeInitial(
  { initial, source, device, acknowledged }: CrashRecording,
  log: LogWriter,
): Promise<void> {
  let any = false;
  const blocks = Array.from(initial.entries(), ([block]) => block);
  for (const block of blocks.sort((a, b) => a - b)) {
    const bytes = initial.bytes(block)!;
    const below = source.peek(block) ?? await source.fetch(block);
    if (isSame(bytes, below)) continue;
    any = true;
    log.entry(block * device.blockSize, bytes.length, 0);
    log.data(bytes);
  }
  // The first such mark is the start, if a text that was acknowledged is the
  // same.
  if (!any && !acknowledged.includes(START_MARK)) return;
  log.entry(0, 0, FLUSH);
  log.mark(START_MARK);
}

/** Writes requests in the order that a log has. */
function writeEvents(recording: CrashRecording, log: LogWriter): void {
  const { device, events, acknowledged } = recording;
  const order = new LogOrder(recording);
  /** What was submitted and is still to be written, in the order of submission. */
  const waiting = new Map<RecordedRequest, Part[]>();
  /** What is to be written behind which event. */
  const behind = new Map<number, RecordedRequest[]>();
  const inFlight = new Set<RecordedRequest>();
  let values = 0;
  const write = (request: RecordedRequest) => {
    const parts = waiting.get(request) ?? [];
    waiting.delete(request);
    for (const part of parts) {
      writeOlder(part);
      writePart(recording, part, log);
    }
  };
  // What comes behind a write seems to be newer than that. So what is left of
  // older ones comes before it, even if a flush covers it early.
  const writeOlder = (by: Part) => {
    const end = by.sector + by.count;
    for (const [request, parts] of waiting) {
      if (request.number > by.request.number) break;
      if (!parts.some((part) => order.isBefore(part, by))) continue;
      if (!device.reorders || request.atomic) {
        write(request);
        continue;
      }
      const left = parts.flatMap(({ sector, count }) => {
        const from = Math.max(sector, by.sector);
        const to = Math.min(sector + count, end);
        if (from >= to) return [{ request, sector, count }];
        writePart(recording, { request, sector: from, count: to - from }, log);
        return [
          { request, sector, count: from - sector },
          { request, sector: to, count: sector + count - to },
        ].filter(({ count }) => count > 0);
      });
      waiting.set(request, left);
    }
  };
  for (const [at, event] of events.entries()) {
    if (event.kind === "acknowledge") log.mark(textOf(acknowledged[values++]));
    else if (event.request.type === RequestType.Flush) {
      if (event.kind === "complete") log.entry(0, 0, FLUSH);
    } else if (event.kind === "complete") inFlight.delete(event.request);
    else {
      const { request } = event;
      const { sector, count } = request;
      const position = order.positionOf(request, inFlight);
      waiting.set(request, [{ request, sector, count }]);
      const there = behind.get(position);
      if (there === undefined) behind.set(position, [request]);
      else there.push(request);
      if (order.settlesItself(request)) inFlight.add(request);
    }
    for (const request of behind.get(at) ?? []) write(request);
    behind.delete(at);
  }
  if (
    events.at(-1)?.kind === "acknowledge" && acknowledged.at(-1) === END_MARK
  ) {
    log.mark(END_MARK);
  }
}

function writePart(
  { device }: CrashRecording,
  { request, sector, count }: Part,
  log: LogWriter,
): void {
  const { type, firstBlock, fua, completedAt, atomic } = request;
  const { blockSectors } = device;
  const discard = type === RequestType.Discard;
  const flags = (discard ? DISCARD : 0) | (fua && completedAt >= 0 ? FUA : 0);
  // What is no atomic write, as to erase, or as a part of one, must not come back
  // as one.
  const each = !discard && !atomic && isAtomic(device, sector, count)
    ? blockSectors
    : count;
  for (let at = sector; at < sector + count; at += each) {
    const bytes = each * SECTOR_BYTES;
    log.entry(at * SECTOR_BYTES, bytes, flags);
    if (discard) continue;
    if (type === RequestType.Out) {
      const first = at / blockSectors - firstBlock;
      for (let i = 0; i < each / blockSectors; i++) {
        log.data(request.version(first + i).bytes);
      }
    } else log.hole(bytes);
  }
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value) ?? "";
}

class LogWriter {
  readonly #path: string;
  readonly #sectorSize: number;
  readonly #fd: number;
  #offset: number;
  #count = 0;
  #buffer = new Uint8Array(PIECE_BYTES);
  #used = 0;

  constructor(path: string, sectorSize: number) {
    this.#path = path;
    this.#sectorSize = sectorSize;
    // Behind the superblock, which comes last.
    this.#offset = sectorSize;
    refuseAmongDevices(path);
    try {
      this.#fd = fs.openSync(path, "wx+");
    } catch (cause) {
      throw fileError("create", path, cause);
    }
  }

  entry(start: number, bytes: number, flags: number, text = ""): void {
    const sector = new Uint8Array(this.#sectorSize);
    const encoded = new TextEncoder().encode(text);
    if (encoded.length > this.#sectorSize - ENTRY_BYTES) {
      throw new RangeError(
        `Cannot write a write log as a mark must have ${
          this.#sectorSize - ENTRY_BYTES
        } bytes at most: current value is ${encoded.length}`,
      );
    }
    const view = viewOf(sector);
    const fields = [
      start / this.#sectorSize,
      bytes / this.#sectorSize,
      flags,
      encoded.length,
    ];
    for (const [i, field] of fields.entries()) {
      view.setBigUint64(8 * i, BigInt(field), true);
    }
    sector.set(encoded, ENTRY_BYTES);
    this.#count++;
    this.data(sector);
  }

  mark(text: string): void {
    this.entry(0, 0, MARK, text);
  }

  data(bytes: Uint8Array): void {
    if (this.#used + bytes.length > this.#buffer.length) this.#flush();
    this.#buffer.set(bytes, this.#used);
    this.#used += bytes.length;
  }

  hole(bytes: number): void {
    this.#flush();
    this.#offset += bytes;
  }

  end(): void {
    this.#flush();
    fs.ftruncateSync(this.#fd, this.#offset);
    const sector = new Uint8Array(this.#sectorSize);
    const view = viewOf(sector);
    view.setBigUint64(0, MAGIC, true);
    view.setBigUint64(8, VERSION, true);
    view.setBigUint64(16, BigInt(this.#count), true);
    view.setUint32(SUPER_BYTES - 4, this.#sectorSize, true);
    this.#write(sector, 0);
    fs.fsyncSync(this.#fd);
    fs.closeSync(this.#fd);
  }

  /** Removes the file: it was created here. */
  remove(): void {
    fs.closeSync(this.#fd);
    fs.rmSync(this.#path);
  }

  #flush(): void {
    this.#write(this.#buffer.subarray(0, this.#used), this.#offset);
    this.#offset += this.#used;
    this.#used = 0;
  }

  #write(bytes: Uint8Array, offset: number): void {
    for (let done = 0; done < bytes.length;) {
      const left = bytes.length - done;
      done += fs.writeSync(this.#fd, bytes, done, left, offset + done);
    }
  }
}
