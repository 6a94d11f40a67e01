/**
 * Copying and comparing whole disks, several chunks at a time.
 *
 * @module
 */

import type { Extent } from "../backend.ts";
import { VirtualDisk } from "./disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { plural } from "../plural.ts";
import { settleAll } from "../settle_all.ts";
import { refuseShared } from "./shared_sectors.ts";
import { GRANULE_SECTORS, type Run, runsOf, Zeroes } from "./sparse.ts";

/** Sectors of one transfer unless said otherwise: 1 MiB. */
const DEFAULT_CHUNK_SECTORS = 2048;

/** Transfers in flight unless said otherwise. */
const DEFAULT_DEPTH = 4;

/** Sectors whose extents are asked for at once: 1 GiB. */
const WINDOW_SECTORS = 2 ** 21;

/** Which part of a copy a progress report is about. */
export type CopyPhase = "copy" | "verify";

/** Options for {@linkcode compareDisks}, and a part of {@linkcode CopyOptions}. */
export interface CompareOptions {
  /**
   * Sectors of one transfer, rounded up to whole 64 KiB.
   *
   * @default {2048}
   */
  chunkSectors?: number | undefined;
  /**
   * Transfers in flight. Memory is bounded by this many chunks (twice
   * as many for a comparison).
   *
   * @default {4}
   */
  depth?: number | undefined;
  /**
   * Called as work goes on; with 0 and `"verify"` once a copy is complete and
   * flushed, if it is to be verified.
   *
   * @param doneSectors Sectors dealt with, holes included.
   * @param totalSectors Sectors in all.
   * @param phase What is being done; a comparison is always `"verify"`.
   */
  onProgress?:
    | ((
      doneSectors: number,
      totalSectors: number,
      phase: CopyPhase,
    ) => void)
    | undefined;
  /** Stops the work, which then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Options for {@linkcode copyDisk}. */
export interface CopyOptions extends CompareOptions {
  /**
   * Whether holes of the source are left out, and runs of zeroes become holes
   * where the target can have them.
   *
   * @default {true}
   */
  sparse?: boolean | undefined;
  /**
   * Whether the target is known to read as zeroes, as a fresh image does, so
   * that zeroes need no writing at all.
   *
   * @default {false}
   */
  targetIsZero?: boolean | undefined;
  /**
   * Whether to read the target again after the flush and compare it with the
   * source. With direct I/O that reads what the device has, without it maybe
   * only what the operating system keeps in memory.
   *
   * @default {false}
   */
  verify?: boolean | undefined;
}

/** What a copy did; `written`, `zeroed` and `skipped` add up to `sectors`. */
export interface CopyResult {
  /** Sectors of the source. */
  readonly sectors: number;
  /** Sectors written with the source's data. */
  readonly written: number;
  /** Sectors of the target that were made zeroes. */
  readonly zeroed: number;
  /** Sectors that had nothing to be done, as the target read zeroes. */
  readonly skipped: number;
  /** Whether the target was read again and compared. */
  readonly verified: boolean;
}

/** Where two disks first differ. */
export interface DiskDifference {
  /** The first sector that differs. */
  readonly sector: number;
  /** The first byte of it that does, from 0 to 511. */
  readonly offset: number;
  /** Whether one disk ends here, and all before is equal. */
  readonly end: boolean;
}

/**
 * Copies a disk onto another that is at least as large, and flushes it. What
 * the target has beyond the source's size stays as it is.
 *
 * Holes of the source are not read, and zeroes found in its data are not
 * written as data: they stay holes, become holes, or are written as zeroes if
 * the target knows nothing better. If it fails, the target's content is
 * somewhere between before and after.
 *
 * @example Copying one disk to another
 * ```ts
 * import { copyDisk, VirtualDisk } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * await using source = VirtualDisk.memory({ sectors: 2048 });
 * await using target = VirtualDisk.memory({ sectors: 2048 });
 * await source.write(8, new Uint8Array(512).fill(1));
 *
 * const { sectors, verified } = await copyDisk(source, target, {
 *   verify: true,
 * });
 * assertEquals(sectors, 2048);
 * assertEquals(verified, true);
 * assertEquals(await target.read(8, 1), new Uint8Array(512).fill(1));
 * ```
 *
 * @param source Where from.
 * @param target Where to.
 * @param options How.
 * @returns What was done.
 * @throws {DiskError} Kind `"range"` if the target is too small, `"geometry"`
 * if the source is not whole blocks of the target, `"read-only"` if the target
 * is that, `"argument"` if both are the same disk, or slices of one that share
 * sectors, `"io"` if the comparison found a difference, and whatever a request
 * of either disk failed with. If the signal fired, its reason.
 * @throws {TypeError} If one of both is no disk.
 */
export async function copyDisk(
  source: VirtualDisk,
  target: VirtualDisk,
  options: CopyOptions = {},
): Promise<CopyResult> {
  VirtualDisk.check("copy disks", source, target);
  const resized = VirtualDisk.resized([source, target], options.signal);
  if (resized !== null) await resized;
  const total = source.sectors;
  checkTarget(source, target);
  const { sparse = true, targetIsZero = false, verify = false, signal } =
    options;
  const chunk = chunkOf(options);
  const depth = depthOf(options, total, chunk);
  // Memory of the disk with direct I/O needs no bounce on either.
  const memory = target.info.direct.active ? target : source;
  const zeroes = new Zeroes(target, signal);
  let done = 0;
  let written = 0;
  let zeroed = 0;
  let skipped = 0;

  async function clear(sector: number, count: number): Promise<void> {
    if (targetIsZero) {
      skipped += count;
      return;
    }
    await zeroes.write(sector, count);
    zeroed += count;
  }

  async function move(piece: Run, buffer: Uint8Array): Promise<void> {
    const data = buffer.subarray(0, piece.count * SECTOR_BYTES);
    await source.readInto(piece.sector, data, withSignal(signal));
    if (!sparse) {
      await target.write(piece.sector, data, withSignal(signal));
      written += piece.count;
      return;
    }
    // All are waited for, even if one fails: they share the buffer.
    await settleAll(
      runsOf(data).map(async (run) => {
        const sector = piece.sector + run.sector;
        if (run.hole) return await clear(sector, run.count);
        const from = run.sector * SECTOR_BYTES;
        const bytes = data.subarray(from, from + run.count * SECTOR_BYTES);
        await target.write(sector, bytes, withSignal(signal));
        written += run.count;
      }),
    );
  }

  const pieces = piecesOf(sparse ? [source] : [], total, chunk, signal);
  await inParallel(pieces, depth, signal, () => {
    let buffer: Uint8Array | undefined;
    return async (piece) => {
      if (piece.hole) {
        await clear(piece.sector, piece.count);
      } else {
        buffer ??= memory.allocate(chunk);
        await move(piece, buffer);
      }
      done += piece.count;
      options.onProgress?.(done, total, "copy");
    };
  });
  if (target.info.abilities.flush !== "none") {
    await target.flush(withSignal(signal));
  }
  if (verify) {
    options.onProgress?.(0, total, "verify");
    const difference = await firstDifference(source, target, total, options);
    if (difference !== null) {
      throw new DiskError(
        "io",
        `Cannot confirm the copy as byte ${difference.offset} of sector ` +
          `${difference.sector} does not read back as it was written`,
        { operation: "verify", sector: difference.sector, count: 1 },
      );
    }
  }
  return { sectors: total, written, zeroed, skipped, verified: verify };
}

/**
 * Finds the first byte in which two disks differ. Where both have holes
 * nothing is read.
 *
 * @example Comparing two disks
 * ```ts
 * import { compareDisks, VirtualDisk } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * await using a = VirtualDisk.memory({ sectors: 64 });
 * await using b = VirtualDisk.memory({ sectors: 64 });
 * assertEquals(await compareDisks(a, b), null);
 *
 * const sector = new Uint8Array(512);
 * sector[7] = 1;
 * await b.write(9, sector);
 * assertEquals(await compareDisks(a, b), { sector: 9, offset: 7, end: false });
 * ```
 *
 * @param a One disk.
 * @param b The other.
 * @param options How.
 * @returns Where they first differ, or `null` if they are equal in content and
 * size.
 * @throws {DiskError} Whatever a read of either disk failed with before any
 * difference. If the signal fired, its reason.
 * @throws {TypeError} If one of both is no disk.
 */
export async function compareDisks(
  a: VirtualDisk,
  b: VirtualDisk,
  options: CompareOptions = {},
): Promise<DiskDifference | null> {
  VirtualDisk.check("compare disks", a, b);
  const resized = VirtualDisk.resized([a, b], options.signal);
  if (resized !== null) await resized;
  const isSameSize = a.sectors === b.sectors;
  const common = Math.min(a.sectors, b.sectors);
  const difference = await firstDifference(a, b, common, options);
  if (difference !== null || isSameSize) return difference;
  return { sector: common, offset: 0, end: true };
}

async function firstDifference(
  a: VirtualDisk,
  b: VirtualDisk,
  total: number,
  options: CompareOptions,
): Promise<DiskDifference | null> {
  const { signal } = options;
  const chunk = chunkOf(options);
  let done = 0;
  let first: DiskDifference | null = null;
  const pieces = piecesOf([a, b], total, chunk, signal);
  await inParallel(pieces, depthOf(options, total, chunk), signal, () => {
    let left: Uint8Array | undefined;
    let right: Uint8Array | undefined;
    return async (piece) => {
      if (!piece.hole) {
        left ??= a.allocate(chunk);
        right ??= b.allocate(chunk);
        const bytes = piece.count * SECTOR_BYTES;
        await settleAll([
          readBlocks(a, piece, left),
          readBlocks(b, piece, right),
        ]);
        const at = mismatch(left.subarray(0, bytes), right.subarray(0, bytes));
        if (at >= 0) {
          const sector = piece.sector + Math.floor(at / SECTOR_BYTES);
          if (first === null || sector < first.sector) {
            first = { sector, offset: at % SECTOR_BYTES, end: false };
          }
          return "stop";
        }
      }
      done += piece.count;
      options.onProgress?.(done, total, "verify");
      return undefined;
    };
  });
  return first;

  /** Reads a piece that may end within the disk's last block. */
  async function readBlocks(
    disk: VirtualDisk,
    piece: Run,
    buffer: Uint8Array,
  ): Promise<void> {
    const blockSectors = disk.blockSize / SECTOR_BYTES;
    const count = Math.ceil(piece.count / blockSectors) * blockSectors;
    const data = buffer.subarray(0, count * SECTOR_BYTES);
    await disk.readInto(piece.sector, data, withSignal(signal));
  }
}

/**
 * Cuts a disk into pieces: data of at most `chunk` sectors, and runs in which
 * every one of `disks` has a hole. All begin on a granule, and all but the
 * last end on one.
 */
async function* piecesOf(
  disks: readonly VirtualDisk[],
  total: number,
  chunk: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<Run, void> {
  for (let start = 0; start < total; start += WINDOW_SECTORS) {
    const end = Math.min(start + WINDOW_SECTORS, total);
    let at = start;
    for (const { sector, count } of await dataOf(disks, start, end, signal)) {
      const from = Math.max(at, floorToGranule(sector));
      const to = Math.min(
        end,
        floorToGranule(sector + count - 1) +
          GRANULE_SECTORS,
      );
      if (from > at) yield { sector: at, count: from - at, hole: true };
      for (at = Math.max(at, from); at < to;) {
        const length = Math.min(chunk, to - at);
        yield { sector: at, count: length, hole: false };
        at += length;
      }
    }
    if (at < end) yield { sector: at, count: end - at, hole: true };
  }
}

/** The extents that are data on any of the disks, by their first sector. */
async function dataOf(
  disks: readonly VirtualDisk[],
  start: number,
  end: number,
  signal: AbortSignal | undefined,
): Promise<Extent[]> {
  if (disks.length === 0) {
    return [{ sector: start, count: end - start, hole: false }];
  }
  const found = await Promise.all(disks.map((disk) => {
    // A range may end within the last block of the larger disk.
    const blockSectors = disk.blockSize / SECTOR_BYTES;
    const to = Math.ceil(end / blockSectors) * blockSectors;
    return disk.extents(start, to - start, withSignal(signal));
  }));
  return found.flat()
    .filter((extent) => !extent.hole && extent.sector < end)
    .sort((a, b) => a.sector - b.sector);
}

/**
 * Deals with pieces, `depth` at a time, until they end, one fails, or one says
 * `"stop"`. Pieces are begun in order and every begun one is finished, so that
 * of several failures and stops the one first on the disk is the answer.
 */
async function inParallel(
  pieces: AsyncGenerator<Run, void>,
  depth: number,
  signal: AbortSignal | undefined,
  worker: () => (piece: Run) => Promise<"stop" | void>,
): Promise<void> {
  let ending: { sector: number; failed: boolean; error: unknown } | undefined;
  function end(sector: number, failed: boolean, error?: unknown): void {
    if (ending === undefined || sector < ending.sector) {
      ending = { sector, failed, error };
    }
  }
  async function run(): Promise<void> {
    const deal = worker();
    while (ending === undefined) {
      let sector = 0;
      try {
        signal?.throwIfAborted();
        const next = await pieces.next();
        if (next.done) return;
        sector = next.value.sector;
        if (await deal(next.value) === "stop") end(sector, false);
      } catch (error) {
        end(sector, true, error);
      }
    }
  }
  await Promise.all(Array.from({ length: depth }, run));
  if (ending?.failed) throw ending.error;
}

/** The position of the first byte that differs, or −1; both are as long. */
function mismatch(a: Uint8Array, b: Uint8Array): number {
  let at = 0;
  if (a.byteOffset % 4 === 0 && b.byteOffset % 4 === 0) {
    const length = a.length >> 2;
    const left = new Int32Array(a.buffer, a.byteOffset, length);
    const right = new Int32Array(b.buffer, b.byteOffset, length);
    let word = 0;
    while (word < length && left[word] === right[word]) word++;
    at = word * 4;
  }
  while (at < a.length && a[at] === b[at]) at++;
  return at < a.length ? at : -1;
}

function checkTarget(source: VirtualDisk, target: VirtualDisk): void {
  const count = source.sectors;
  if (count > target.sectors) {
    throw new DiskError(
      "range",
      `Cannot copy ${plural(count, "sector")} as the target has only ` +
        target.sectors,
      { operation: "copy", sector: 0, count },
    );
  }
  if (count * SECTOR_BYTES % target.blockSize !== 0) {
    throw new DiskError(
      "geometry",
      `Cannot copy ${plural(count, "sector")} as the target takes whole ` +
        `blocks of ` +
        `${target.blockSize} bytes`,
      { operation: "copy", sector: 0, count },
    );
  }
  if (target.readOnly) {
    throw new DiskError(
      "read-only",
      "Cannot copy as the target is read-only",
      { operation: "copy", sector: 0, count },
    );
  }
  refuseShared(source, target, "copy");
}

function chunkOf(options: CompareOptions): number {
  const chunk = options.chunkSectors ?? DEFAULT_CHUNK_SECTORS;
  checkPositive(chunk, "chunkSectors");
  return Math.ceil(chunk / GRANULE_SECTORS) * GRANULE_SECTORS;
}

/**
 * Transfers in flight: no more than there are chunks, but what holes cut them
 * into may take as many as usual.
 */
function depthOf(
  options: CompareOptions,
  total: number,
  chunk: number,
): number {
  const depth = options.depth ?? DEFAULT_DEPTH;
  checkPositive(depth, "depth");
  return Math.min(depth, Math.max(DEFAULT_DEPTH, Math.ceil(total / chunk)));
}

function checkPositive(value: number, name: string): void {
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new DiskError(
      "argument",
      `Cannot work as ${name} must be an integer from 1: current value is ` +
        `${value}`,
    );
  }
}

function floorToGranule(sector: number): number {
  return Math.floor(sector / GRANULE_SECTORS) * GRANULE_SECTORS;
}

function withSignal(
  signal: AbortSignal | undefined,
): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}
