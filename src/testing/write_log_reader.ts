/**
 * Reads a log of dm-log-writes (`write_log_format.ts`) as a recording: what it
 * says is done to a recorder, entry by entry.
 *
 * @module
 */

import { viewOf } from "../bytes.ts";
import type { Backend } from "../backend.ts";
import { isZero } from "../buffer.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { openBackend } from "../disk/open.ts";
import { DiskError } from "../errors.ts";
import { isPowerOfTwo, MAX_BLOCK_SIZE, SECTOR_BYTES } from "../geometry.ts";
import { Request, RequestFlag, RequestType, Status } from "../request.ts";
import type { CrashDevice } from "./crash_device.ts";
import { CrashRecorder } from "./crash_recorder.ts";
import type { CrashRecording } from "./crash_recording.ts";
import {
  ALL_FLAGS,
  DISCARD,
  END_MARK,
  ENTRY_BYTES,
  FLUSH,
  FUA,
  MAGIC,
  MARK,
  PIECE_BYTES,
  START_MARK,
  VERSION,
} from "./write_log_format.ts";

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
