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
 * is a flush, and then a write.
 *
 * @module
 */

import { isSame, viewOf } from "../bytes.ts";
import fs from "node:fs";
import { fileURLToPath } from "node:url";
import type { Backend } from "../backend.ts";
import { isZero } from "../buffer.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { openBackend } from "../disk/open.ts";
import { DiskError } from "../errors.ts";
import { isPowerOfTwo, MAX_BLOCK_SIZE, SECTOR_BYTES } from "../geometry.ts";
import { RequestType } from "../request.ts";
import type { RecordedRequest } from "./block_version.ts";
import type { CrashDevice } from "./crash_device.ts";
import { CrashRecorder } from "./crash_recorder.ts";
import type { CrashRecording } from "./crash_recording.ts";
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
   * The device that was logged, and what it promises. A log does not say how
   * long it is: without `sectors` and a base, it ends where the last write does.
   * Blocks are the log's sectors unless `blockSize` says otherwise.
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
 * @throws {RangeError} If the device cannot have that shape.
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
  const sector = entry.start / SECTOR_BYTES;
  const count = bytes / SECTOR_BYTES;
  if ((flags & DISCARD) !== 0) return await disk.discard(sector, count);
  if (await log.isZero(entry)) return await disk.writeZeroes(sector, count);
  const data = await log.data(entry);
  await disk.write(sector, data, { fua: (flags & FUA) !== 0 });
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
  async isZero({ bytes, offset, flags }: Entry): Promise<boolean> {
    if (bytes <= PIECE_BYTES || (flags & FUA) !== 0) return false;
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
 * The log has what completed in an order that the device may have carried it out
 * in; what was in flight at the end comes last. Of a write whose blocks a durable
 * one replaces, these come before that. Blocks that were not as in the
 * base (or not zeroes) when the recording started come first, up to a flush and
 * the mark `platter-start`. A log cannot say how long requests were in flight.
 * Zeroes are written as data, as a hole of the file.
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

/** Writes requests in the order that a log has. */
function writeEvents(recording: CrashRecording, log: LogWriter): void {
  const { device, events, acknowledged } = recording;
  /** What completed, and no flush that was submitted since has taken. */
  let completed: Part[] = [];
  /** What each flush in flight has taken, in the order of submission. */
  const taken = new Map<RecordedRequest, Part[]>();
  const inFlight = new Map<RecordedRequest, Part[]>();
  let values = 0;
  const write = (parts: Part[]) => {
    for (const part of parts) {
      writePart(recording, part, log, part.request.fua ? FUA : 0);
    }
    parts.length = 0;
  };
  // What completed earlier comes earlier, unless that would be before a flush
  // that does not cover it.
  const writeCompleted = () => {
    const [first = completed] = taken.values();
    write(first);
  };
  // Nothing that a durable write has replaced is found any more: what is left of
  // that must not come behind it, even if a flush covers it early.
  const writeReplaced = (by: RecordedRequest) => {
    const end = by.sector + by.count;
    for (const parts of [...taken.values(), completed, ...inFlight.values()]) {
      for (let i = 0; i < parts.length; i++) {
        const { request, sector, count } = parts[i]!;
        const from = Math.max(sector, by.sector);
        const to = Math.min(sector + count, end);
        if (request.number > by.number || from >= to) continue;
        writePart(recording, { request, sector: from, count: to - from }, log);
        const rest = [
          { request, sector, count: from - sector },
          { request, sector: to, count: sector + count - to },
        ].filter(({ count }) => count > 0);
        parts.splice(i, 1, ...rest);
        i += rest.length - 1;
      }
    }
  };
  for (const event of events) {
    if (event.kind === "acknowledge") {
      writeCompleted();
      log.mark(textOf(acknowledged[values++]));
      continue;
    }
    const { request } = event;
    const { type, sector, count } = request;
    const flush = type === RequestType.Flush;
    if (event.kind === "submit") {
      if (flush) {
        taken.set(request, completed);
        completed = [];
      } else inFlight.set(request, [{ request, sector, count }]);
    } else if (flush) {
      // Flushes that were submitted before it cover no more than it does.
      for (const [other, covered] of taken) {
        write(covered);
        if (other === request) break;
      }
      taken.delete(request);
      log.entry(0, 0, FLUSH);
    } else {
      const parts = inFlight.get(request)!;
      inFlight.delete(request);
      if (device.writeBack && !(request.fua && device.honorsFua)) {
        for (const part of parts) completed.push(part);
        continue;
      }
      writeCompleted();
      // A discard may leave what it is to replace.
      if (type !== RequestType.Discard) writeReplaced(request);
      write(parts);
    }
  }
  for (const covered of taken.values()) write(covered);
  write(completed);
  for (const parts of inFlight.values()) {
    for (const part of parts) writePart(recording, part, log);
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
  flags = 0,
): void {
  const { type, firstBlock } = request;
  const discard = type === RequestType.Discard;
  const bytes = count * SECTOR_BYTES;
  log.entry(sector * SECTOR_BYTES, bytes, discard ? DISCARD : flags);
  if (discard) return;
  if (type === RequestType.Out) {
    const first = sector / device.blockSectors - firstBlock;
    for (let i = 0; i < count / device.blockSectors; i++) {
      log.data(request.version(first + i).bytes);
    }
  } else log.hole(bytes);
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
