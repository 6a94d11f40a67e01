/**
 * The log of Linux's dm-log-writes target, which QEMU's `blklogwrites` driver
 * writes as well: read as a recording, and written from one.
 *
 * The format (Linux `drivers/md/dm-log-writes.c`, QEMU `block/blklogwrites.c`;
 * everything is little-endian, and a sector is one of the log's own, of a size
 * that its superblock says):
 *
 * | where | what |
 * | --- | --- |
 * | sector 0 | u64 magic, u64 version 1, u64 entries, u32 sector size |
 * | then, for each entry | one sector: u64 sector, u64 sectors, u64 flags, u64 length of the text of a mark, which follows |
 * | | its data, unless it is a discard |
 *
 * A log has writes in an order in which they may have reached the medium, not
 * in that in which they were submitted: what completed before a flush was
 * submitted is before the flush, what is durable by itself (FUA) is where it
 * completed, and all else is behind the next flush. So what is before a flush
 * is durable with it, and that is all that a recording needs. A flush with data
 * is a flush, and then a write. A durable discard has both flags: the target
 * writes such a pair, and players look at that of the discard.
 *
 * @module
 */

import { isSame, viewOf } from "../bytes.ts";
import fs from "node:fs";
import { fileURLToPath } from "node:url";
import type { Backend } from "../backend.ts";
import { refuseAmongDevices } from "../backends/new_name.ts";
import { isZero } from "../buffer.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { openBackend } from "../disk/open.ts";
import { DiskError } from "../errors.ts";
import { isPowerOfTwo, MAX_BLOCK_SIZE, SECTOR_BYTES } from "../geometry.ts";
import { Request, RequestFlag, RequestType, Status } from "../request.ts";
import { countUpTo } from "./block_history.ts";
import type { RecordedRequest } from "./block_version.ts";
import type { CrashDevice } from "./crash_device.ts";
import { CrashRecorder } from "./crash_recorder.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { isAtomic } from "./recording_log.ts";
import { fileError } from "./recording_writer.ts";

/** `WRITE_LOG_MAGIC`. */
const MAGIC = 0x6a736677736872n;
/** `WRITE_LOG_VERSION`. */
const VERSION = 1n;
/** `struct log_write_super`, `struct log_write_entry`. */
const SUPER_BYTES = 28;
const ENTRY_BYTES = 32;

/** `LOG_FLUSH_FLAG` and so on. */
const FLUSH = 1;
const FUA = 2;
const DISCARD = 4;
const MARK = 8;
const METADATA = 16;
const ALL_FLAGS = FLUSH | FUA | DISCARD | MARK | METADATA;

/**
 * The mark that the target itself writes when it is removed, as the last one. An
 * earlier one is a text that was acknowledged.
 */
const END_MARK = "dm-log-writes-end";

/**
 * The mark of `recorder.start()`: what is before the first one was there before.
 * A later one is a text that was acknowledged.
 */
const START_MARK = "platter-start";

/** Bytes of data that are looked at and copied at once. */
const PIECE_BYTES = 1 << 20;

/** Bytes of data of one write; zeroes may be more. */
const MOST_DATA_BYTES = 1 << 30;

/** How to read a log. */
export interface ReadWriteLogOptions {
  /**
   * The device that was logged, and what it promises; it fails no flushes. A log
   * does not say how long it is: without `sectors` and a base, it ends where the
   * last write does. Blocks are the log's sectors unless `blockSize` says otherwise.
   *
   * @default {{}}
   */
  device?: CrashDevice | undefined;
  /** What was on the device before: see `CrashRecorderOptions.base`. */
  base?: Backend | undefined;
  /** The file to record into: see `CrashRecorderOptions.path`. */
  path?: string | URL | undefined;
  /** Gives up. */
  signal?: AbortSignal | undefined;
}

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
 * Reads the log of Linux's dm-log-writes target or of QEMU's `blklogwrites`
 * driver. Marks become acknowledgements, of their text; the one that the target
 * itself leaves at the end does not. What a log has behind the entries that its
 * superblock counts is left out: QEMU counts them with each flush.
 *
 * @param log The log: a file, a device, or any backend, which stays open.
 * @param options The device.
 * @returns The recording. Close it in the end.
 * @throws {DiskError} Of kind `unsupported` if it is no such log, `io` if it is
 * damaged.
 * @throws {RangeError} If the device cannot have that shape, or is to fail
 * flushes, which a log cannot say.
 *
 * @example What QEMU's block layer does to a disk
 * ```ts ignore
 * // qemu-io --image-opts -c "write 0 4k" -c flush driver=blklogwrites,\
 * //   file.driver=file,file.filename=disk.img,log.driver=file,log.filename=log
 * import { exploreRecording, readWriteLog } from "@platter/disk/testing";
 *
 * await using recording = await readWriteLog("log", {
 *   device: { sectors: 2048 },
 * });
 * await exploreRecording(recording, { recover: async (disk) => {} });
 * ```
 */
export async function readWriteLog(
  log: string | URL | Backend,
  options: ReadWriteLogOptions = {},
): Promise<CrashRecording> {
  if (typeof log !== "string" && !(log instanceof URL)) {
    return await readLog(VirtualDisk.over(log), options);
  }
  const backend = await openBackend(log, {
    ...{ readOnly: true, direct: "never", format: "raw" },
  });
  await using disk = VirtualDisk.over(backend);
  return await readLog(disk, options);
}

async function readLog(
  disk: VirtualDisk,
  { device = {}, base, path, signal }: ReadWriteLogOptions,
): Promise<CrashRecording> {
  const { failFlushes = [] } = device;
  if (failFlushes.length > 0) {
    throw new RangeError(
      `Cannot read the write log as device.failFlushes must be empty, since a log has no failed flushes: current value is ${failFlushes}`,
    );
  }
  const log = await LogReader.open(disk);
  const sectors = device.sectors ?? base?.geometry.sectors ??
    await log.end(signal);
  await using recorder = await CrashRecorder.create({
    device: { blockSize: log.sectorSize, ...device, sectors },
    base,
    path,
  });
  {
    await using target = VirtualDisk.over(recorder.open());
    let started = false;
    for await (const entry of log.entries(signal)) {
      const { mark, last } = entry;
      if (mark === START_MARK && !started) {
        started = true;
        recorder.start();
        continue;
      }
      if (mark !== null) {
        if (mark !== END_MARK || !last) recorder.acknowledge(mark);
        continue;
      }
      try {
        await play(entry, log, target);
      } catch (cause) {
        if (!(cause instanceof DiskError)) throw cause;
        throw log.damaged(entry, cause.message, cause);
      }
    }
  }
  return await recorder.end();
}

/** Does to a disk what an entry says that is no mark. */
async function play(
  entry: Entry,
  log: LogReader,
  disk: VirtualDisk,
): Promise<void> {
  const { flags, bytes } = entry;
  if ((flags & FLUSH) !== 0) await disk.flush();
  if (bytes === 0) return;
  const discard = (flags & DISCARD) !== 0;
  const data = discard || await log.isZero(entry)
    ? null
    : await log.data(entry);
  const request = new Request(
    discard
      ? RequestType.Discard
      : data === null
      ? RequestType.WriteZeroes
      : RequestType.Out,
    entry.start / SECTOR_BYTES,
    bytes / SECTOR_BYTES,
    (flags & FUA) !== 0 ? RequestFlag.Fua : 0,
    data,
  );
  if (await disk.submit(request) !== Status.Ok) throw request.error;
}

/** One entry of a log. Offsets are in bytes. */
interface Entry {
  readonly index: number;
  /** Whether it is the last one. */
  readonly last: boolean;
  readonly flags: number;
  /** The text of a mark. */
  readonly mark: string | null;
  /** Where on the device. */
  readonly start: number;
  /** How much of it. */
  readonly bytes: number;
  /** Where its data is in the log. */
  readonly offset: number;
}

class LogReader {
  readonly sectorSize: number;
  readonly #disk: VirtualDisk;
  readonly #count: number;

  private constructor(disk: VirtualDisk, sectorSize: number, count: number) {
    this.#disk = disk;
    this.sectorSize = sectorSize;
    this.#count = count;
  }

  static async open(disk: VirtualDisk): Promise<LogReader> {
    const none = (reason: string) =>
      new DiskError("unsupported", `Cannot read the write log as ${reason}`, {
        operation: "read",
      });
    const blockSectors = disk.blockSize / SECTOR_BYTES;
    if (disk.sectors < blockSectors) throw none("it is empty");
    const view = viewOf(await disk.read(0, blockSectors));
    const magic = view.getBigUint64(0, true);
    if (magic === 0n) {
      throw none(
        "it has no superblock: it is written with the first flush, FUA or mark",
      );
    }
    if (magic !== MAGIC) throw none("it is none of dm-log-writes");
    const version = view.getBigUint64(8, true);
    if (version !== VERSION) {
      throw none(`its version must be 1: current value is ${version}`);
    }
    const size = view.getUint32(24, true);
    if (
      size < Math.max(SECTOR_BYTES, disk.blockSize) || size > MAX_BLOCK_SIZE ||
      !isPowerOfTwo(size)
    ) {
      throw none(
        `its sectors must be ${disk.blockSize} to ${MAX_BLOCK_SIZE} bytes, a power of two: current value is ${size}`,
      );
    }
    return new LogReader(disk, size, Number(view.getBigUint64(16, true)));
  }

  /** Where the last write ends, in sectors of 512 bytes. */
  async end(signal: AbortSignal | undefined): Promise<number> {
    let end = this.sectorSize;
    for await (const { start, bytes } of this.entries(signal)) {
      end = Math.max(end, start + bytes);
    }
    return end / SECTOR_BYTES;
  }

  /** The entries that the superblock counts. */
  async *entries(signal: AbortSignal | undefined): AsyncGenerator<Entry> {
    let offset = this.sectorSize;
    for (let index = 0; index < this.#count; index++) {
      signal?.throwIfAborted();
      const last = index === this.#count - 1;
      const at = { index, last };
      this.#checkInside(at, offset, this.sectorSize);
      const head = await this.#read(offset, this.sectorSize);
      offset += this.sectorSize;
      const entry = { ...at, ...this.#parse(at, head), offset };
      if ((entry.flags & (DISCARD | MARK)) === 0) {
        this.#checkInside(at, offset, entry.bytes);
        offset += entry.bytes;
      }
      yield entry;
    }
  }

  /** Whether the data is nothing but zeroes, and so much that one should know. */
  async isZero({ bytes, offset }: Entry): Promise<boolean> {
    if (bytes <= PIECE_BYTES) return false;
    for (let done = 0; done < bytes; done += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, bytes - done);
      if (!isZero(await this.#read(offset + done, length))) return false;
    }
    return true;
  }

  async data(entry: Entry): Promise<Uint8Array> {
    if (entry.bytes > MOST_DATA_BYTES) {
      throw this.damaged(entry, `it writes ${entry.bytes} bytes at once`);
    }
    return await this.#read(entry.offset, entry.bytes);
  }

  damaged(
    { index }: Pick<Entry, "index">,
    reason: string,
    cause?: unknown,
  ): DiskError {
    if (cause instanceof DiskError && cause.kind === "aborted") return cause;
    return new DiskError(
      "io",
      `Cannot read the write log as its entry ${index} is wrong: ${reason}`,
      { operation: "read", cause },
    );
  }

  #parse(
    at: Pick<Entry, "index">,
    head: Uint8Array,
  ): Pick<Entry, "flags" | "mark" | "start" | "bytes"> {
    const view = viewOf(head);
    const [sector, sectors, flags, length] = [0, 8, 16, 24].map((offset) =>
      Number(view.getBigUint64(offset, true))
    ) as [number, number, number, number];
    if (flags > ALL_FLAGS) {
      throw this.damaged(at, `there are no flags 0x${flags.toString(16)}`);
    }
    const [start, bytes] = [sector, sectors].map((n) =>
      n * this.sectorSize
    ) as [
      number,
      number,
    ];
    if (!Number.isSafeInteger(start + bytes)) {
      throw this.damaged(at, "no device is that long");
    }
    if ((flags & MARK) === 0) return { flags, mark: null, start, bytes };
    if (length > this.sectorSize - ENTRY_BYTES) {
      throw this.damaged(at, "its mark is longer than its sector");
    }
    const text = head.subarray(ENTRY_BYTES, ENTRY_BYTES + length);
    const mark = new TextDecoder().decode(text);
    return { flags, mark, start: 0, bytes: 0 };
  }

  #checkInside(
    at: Pick<Entry, "index">,
    offset: number,
    length: number,
  ): void {
    if (offset + length > this.#disk.sectors * SECTOR_BYTES) {
      throw this.damaged(at, "the log ends within it");
    }
  }

  async #read(offset: number, length: number): Promise<Uint8Array> {
    return await this.#disk.read(offset / SECTOR_BYTES, length / SECTOR_BYTES);
  }
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

/** A part of a request that is still to be written. */
interface Part {
  readonly request: RecordedRequest;
  readonly sector: number;
  readonly count: number;
}

/** An event that no recording has. */
const NEVER = Infinity;

/**
 * When writes become durable, and so where in a log they are to be: behind each
 * flush that does not cover them, and before the first that does.
 */
class LogOrder {
  readonly #recording: CrashRecording;
  /** Events with which a flush completes that does what it says. */
  readonly #flushed: number[] = [];
  /**
   * What makes writes durable that come before: by their number on a device that
   * keeps the order, else by the event with which they completed. Sorted by
   * that; the event is the first one of this and all behind it.
   */
  readonly #settling: { before: number; at: number }[] = [];

  constructor(recording: CrashRecording) {
    this.#recording = recording;
    const { events, device } = recording;
    // The last write that completed, also as each flush was submitted.
    let completed = 0;
    const reach = new Map<RecordedRequest, number>();
    for (const [at, event] of events.entries()) {
      if (event.kind === "acknowledge") continue;
      const { request } = event;
      const { type, number, blocks, submittedAt } = request;
      if (type === RequestType.Flush) {
        if (event.kind === "submit") reach.set(request, completed);
        else if (device.honorsFlush) {
          this.#flushed.push(at);
          const before = device.reorders ? submittedAt : reach.get(request)!;
          this.#settling.push({ before, at });
        }
      } else if (event.kind === "complete" && blocks > 0) {
        completed = Math.max(completed, number);
        if (!device.reorders && this.settlesItself(request)) {
          this.#settling.push({ before: number, at });
        }
      }
    }
    this.#settling.sort((a, b) => a.before - b.before);
    let first = NEVER;
    for (const settling of this.#settling.toReversed()) {
      first = settling.at = Math.min(first, settling.at);
    }
  }

  /** Whether a write is durable when it completes, which it does. */
  settlesItself({ blocks, fua, completedAt }: RecordedRequest): boolean {
    const { writeBack, honorsFua } = this.#recording.device;
    return blocks > 0 && completedAt >= 0 && (!writeBack || fua && honorsFua);
  }

  /**
   * The event behind which a write is to be written.
   *
   * @param request The write.
   * @param inFlight What is in flight as it is submitted, and settles itself.
   * @returns The event, as early as possible: what may be found between that and
   * the completion is in the log as well.
   */
  positionOf(
    request: RecordedRequest,
    inFlight: Iterable<RecordedRequest>,
  ): number {
    if (this.settlesItself(request)) return request.completedAt;
    const settled = this.#settledAt(request);
    const flushes = countUpTo(this.#flushed, settled - 1, (at) => at);
    let position = Math.max(
      request.submittedAt,
      flushes > 0 ? this.#flushed[flushes - 1]! : 0,
    );
    for (const older of inFlight) {
      // An older write must not seem to be the newer one.
      if (older.completedAt < settled && this.isBefore(older, request)) {
        position = Math.max(position, older.completedAt);
      }
    }
    return position;
  }

  /** Whether an older write, or a part of it, must come before another one. */
  isBefore(
    older: Omit<Part, "request">,
    { sector, count }: Omit<Part, "request">,
  ): boolean {
    return !this.#recording.device.reorders ||
      older.sector < sector + count && sector < older.sector + older.count;
  }

  #settledAt({ number, completedAt }: RecordedRequest): number {
    const { reorders } = this.#recording.device;
    if (reorders && completedAt < 0) return NEVER;
    const key = reorders ? completedAt : number;
    const index = countUpTo(
      this.#settling,
      key - 1,
      ({ before }) => before,
    );
    return this.#settling[index]?.at ?? NEVER;
  }
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
