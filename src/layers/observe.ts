/**
 * Counts what is asked of a disk: how much, where, in what sizes, in sequence or
 * not, and what of it is written again or is not flushed yet; for the whole disk
 * and for ranges of it, such as partitions.
 *
 * A request goes down as it came, in its batch. What it asks for is counted when
 * it is submitted, and what became of it when it completes: a write is unflushed
 * from its completion on, as that is what a flush covers. Under a disk the layer
 * sees what the queue makes of requests, neighbours merged.
 *
 * It is built to cost little: each request adds to some numbers and sets some
 * bits. What takes time is done by {@linkcode Observe.stats}.
 *
 * @module
 */

import type { Backend, Complete } from "../backend.ts";
import type { DiskError } from "../errors.ts";
import { SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import { type Request, RequestType } from "../request.ts";
import { checkRanges, type NamedRange, nameOfRange } from "./named_range.ts";
import { Layer, type LayerOptions } from "./layer.ts";
import { SectorBits, UnflushedSectors } from "./sector_bits.ts";

/** What to count apart. */
export interface ObserveOptions extends LayerOptions {
  /**
   * Ranges that are counted by themselves as well, in any order; they may
   * overlap. Each costs every request a comparison.
   */
  ranges?: readonly NamedRange[] | undefined;
  /**
   * Cells that the heat map of each range has at most; there are at least half
   * as many.
   *
   * @default {128}
   */
  cells?: number | undefined;
}

/** What one kind of request came to. */
export interface OperationStats {
  /** Requests. */
  readonly requests: number;
  /** Bytes that they asked for. */
  readonly bytes: number;
  /** Requests that began where the last one of their kind ended. */
  readonly sequential: number;
  /** Requests that did not start and end on 4 KiB. */
  readonly unaligned: number;
  /** Requests that failed. */
  readonly failed: number;
  /**
   * Requests by their size: under `"4096"` are those from 4,096 bytes to less
   * than 8,192. Powers of two; sizes that did not come are not there.
   */
  readonly sizes: Readonly<Record<string, number>>;
}

/** Where reads and writes were, in cells of one length from the first sector on. */
export interface HeatMap {
  /** Sectors of a cell, a power of two; the last one may be shorter. */
  readonly cellSectors: number;
  /** Bytes read in each cell. */
  readonly readBytes: readonly number[];
  /** Bytes written in each cell, zeroes included. */
  readonly writtenBytes: readonly number[];
  /** Bytes discarded in each cell. */
  readonly discardedBytes: readonly number[];
}

/** What was done to a range of a disk. */
export interface RangeStats extends SectorRange {
  /** What it is called. */
  readonly name: string;
  /** Reads. */
  readonly reads: OperationStats;
  /** Writes of data. */
  readonly writes: OperationStats;
  /** Writes of zeroes. */
  readonly zeroes: OperationStats;
  /** Discards, secure erasures among them. */
  readonly discards: OperationStats;
  /** Bytes that were written, data or zeroes, each place counted once. */
  readonly distinctBytes: number;
  /** Bytes that were written to where something had been written before. */
  readonly rewrittenBytes: number;
  /** Bytes that were written and that no flush has covered yet. */
  readonly unflushedBytes: number;
  /**
   * Bytes of the whole blocks of 4 KiB that writes of data touched, for each
   * byte that they wrote: what a medium of such blocks writes at least. 1 is
   * the best; `null` if nothing was written.
   */
  readonly writeAmplification: number | null;
  /** Where it was. */
  readonly heat: HeatMap;
}

/** What was done to a disk; plain data, which survives `JSON.stringify`. */
export interface DiskStats {
  /** The format's version. */
  readonly version: 1;
  /** Seconds that it was counted for. */
  readonly seconds: number;
  /**
   * Sectors that are told apart in what was written before and what is unflushed:
   * 1, unless the disk is larger than 32 GiB.
   */
  readonly grainSectors: number;
  /** Flushes, and how many of them failed. */
  readonly flushes: { readonly requests: number; readonly failed: number };
  /** The whole disk. */
  readonly disk: RangeStats;
  /** The ranges that were asked for, in the order of the options. */
  readonly ranges: readonly RangeStats[];
}

/** Sectors of the blocks that alignment and amplification are told for. */
const BLOCK_SECTORS = 4096 / SECTOR_BYTES;

/** A size for each power of two that is a safe integer. */
const SIZES = 54;

/**
 * A disk whose requests are counted; {@linkcode observe} makes one.
 *
 * @example What did the program do to the disk?
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { observe } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const observed = observe(new MemoryBackend({ sectors: 4096 }), {
 *   ranges: [{ name: "header", sector: 0, count: 8 }],
 * });
 * await using disk = VirtualDisk.over(observed);
 * await disk.write(0, new Uint8Array(512));
 * await disk.write(0, new Uint8Array(512));
 * const { disk: all, ranges: [header] } = observed.stats();
 * assertEquals(all.writes.requests, 2);
 * assertEquals(header!.rewrittenBytes, 512);
 * assertEquals(header!.unflushedBytes, 512);
 * assertEquals(all.writeAmplification, 8); // 4 KiB of the medium for 512 bytes
 * ```
 */
export class Observe extends Layer {
  readonly #ranges: readonly NamedRange[];
  readonly #cells: number;
  /** Those of the base, which keeps them under this layer. */
  readonly #sectors: number;
  #areas: Area[] = [];
  #written: SectorBits;
  #unflushed: UnflushedSectors;
  #flushes = 0;
  #failedFlushes = 0;
  #startMs = 0;
  /** Whose completions {@linkcode #answer} goes to: mostly it is one queue's. */
  #asked: Complete | null = null;
  #answer: Complete = () => {};

  /**
   * Constructs a new instance.
   *
   * @param backend What it lies over.
   * @param options What to count apart.
   * @throws {RangeError} If a range is not on the disk, or cells are none.
   */
  constructor(backend: Backend, options: ObserveOptions = {}) {
    super("observe", backend, options);
    const { ranges = [], cells = 128 } = options;
    const { sectors } = backend.geometry;
    checkRanges(ranges, sectors, "count");
    if (!Number.isInteger(cells) || cells < 1 || cells > 65_536) {
      throw new RangeError(
        `Cannot count requests as cells must be an integer from 1 to 65536: current value is ${cells}`,
      );
    }
    this.#ranges = ranges;
    this.#cells = cells;
    this.#sectors = sectors;
    this.#written = new SectorBits(sectors);
    this.#unflushed = new UnflushedSectors(sectors);
    this.reset();
  }

  /** Forgets what was counted: a new phase begins. */
  reset(): void {
    const sectors = this.#sectors;
    this.#areas = [
      new Area("disk", 0, sectors, this.#cells),
      ...this.#ranges.map((range) => {
        const { sector, count = sectors - sector } = range;
        return new Area(nameOfRange(range), sector, count, this.#cells);
      }),
    ];
    this.#written = new SectorBits(sectors);
    this.#unflushed = new UnflushedSectors(sectors);
    this.#flushes = this.#failedFlushes = 0;
    this.#startMs = performance.now();
  }

  /**
   * What was counted so far. It takes up to some milliseconds for a large disk.
   *
   * @returns The numbers.
   */
  stats(): DiskStats {
    const [disk, ...ranges] = this.#areas.map((area) =>
      area.stats(this.#written, this.#unflushed)
    );
    return {
      version: 1,
      seconds: Math.round(performance.now() - this.#startMs) / 1000,
      grainSectors: this.#written.grainSectors,
      flushes: { requests: this.#flushes, failed: this.#failedFlushes },
      disk: disk!,
      ranges,
    };
  }

  /** Nothing is waited for but the base. */
  protected override get answersLate(): null {
    return null;
  }

  /** Why what is counted keeps its size. */
  override get keepsSize(): string {
    return "it is observed, sector by sector";
  }

  /**
   * Counts a batch and passes it on. What is wrong with a request the base says.
   *
   * @param batch The requests.
   * @param complete Called once for each of them.
   */
  override submit(batch: readonly Request[], complete: Complete): void {
    if (this.closed) return super.submit(batch, complete);
    this.enter(batch.length);
    this.carryOut(batch, complete);
  }

  /**
   * Carries out a batch.
   *
   * @param batch The requests; the array is valid during the call only.
   * @param complete Called once for each of them.
   */
  protected override carryOut(
    batch: readonly Request[],
    complete: Complete,
  ): void {
    const areas = this.#areas;
    const sectors = this.#sectors;
    for (let i = 0; i < batch.length; i++) {
      const request = batch[i]!;
      const { type, sector, count } = request;
      if (type === RequestType.Flush) {
        this.#flushes++;
        this.#unflushed.take(request);
        continue;
      }
      const kind = kindOf(type);
      if (kind < 0 || !isPlace(sector, count, sectors)) continue;
      if (isWrite(type)) {
        this.#written.set(sector, count);
      }
      for (let j = 0; j < areas.length; j++) {
        const area = areas[j]!;
        if (sector < area.end && sector + count > area.sector) {
          area.add(kind, sector, count);
        }
      }
    }
    if (this.#asked !== complete) {
      this.#asked = complete;
      this.#answer = (request, error) => {
        const { type } = request;
        if (error !== null || type === RequestType.Flush) {
          this.#ended(request, error);
        } else if (isWrite(type) && !request.fua) {
          this.#unflushed.add(request.sector, request.count);
        }
        this.answer(request, error, complete);
      };
    }
    this.backend.submit(batch, this.#answer);
  }

  /** A flush has ended, or something has failed. */
  #ended(request: Request, error: DiskError | null): void {
    const { type, sector, count } = request;
    if (type === RequestType.Flush) {
      this.#unflushed.flushed(request, error === null);
      if (error !== null) this.#failedFlushes++;
      return;
    }
    const kind = kindOf(type);
    if (kind < 0 || !isPlace(sector, count, this.#sectors)) return;
    // What failed may be there in part.
    if (isWrite(type)) this.#unflushed.add(sector, count);
    for (const area of this.#areas) {
      if (sector < area.end && sector + count > area.sector) {
        area.fail(kind);
      }
    }
  }
}

/** Whether a request leaves something at its place. */
function isWrite(type: RequestType): boolean {
  return type === RequestType.Out || type === RequestType.WriteZeroes;
}

/** Whether a request has a place on the disk; the base refuses one without. */
function isPlace(sector: number, count: number, sectors: number): boolean {
  return sector >= 0 && count > 0 && sector <= sectors - count &&
    Number.isInteger(sector) && Number.isInteger(count);
}

/** The logarithm of a size. */
function sizeOf(count: number): number {
  return count < 2 ** 31
    ? 31 - Math.clz32(count | 0)
    : Math.floor(Math.log2(count));
}

/**
 * How far a sector lies behind the start of its block of 4 KiB. Bits of a number
 * are its last 32 in two's complement (ECMA-262, ToInt32), whatever its size and
 * sign, and much cheaper than a remainder.
 */
function lowBits(sector: number): number {
  return sector & BLOCK_SECTORS - 1;
}

/** What is counted by itself: reads, writes, writes of zeroes, discards. */
const KINDS = 4;
const WRITES = 1;

/** The kind of a request type; -1 if it has no place. */
function kindOf(type: RequestType): number {
  switch (type) {
    case RequestType.In:
      return 0;
    case RequestType.Out:
      return WRITES;
    case RequestType.WriteZeroes:
      return 2;
    case RequestType.Discard:
    case RequestType.SecureErase:
      return 3;
    default:
      return -1;
  }
}

/**
 * A range that is counted by itself. A request adds one to a number that stands
 * for its kind, size and alignment together, and its sectors to a cell of its
 * heat map: all other sums come from these.
 */
class Area {
  readonly name: string;
  readonly sector: number;
  readonly end: number;
  /** The cells' length as a power of two, so that they are found by a shift. */
  readonly #cellBits: number;
  readonly #cells: number;
  /** Requests by kind, size (its logarithm), and whether they are unaligned. */
  readonly #requests = new Float64Array(KINDS * SIZES * 2);
  /** Sectors by kind and cell. */
  readonly #heat: Float64Array;
  /** By kind. */
  readonly #sequential = new Float64Array(KINDS);
  readonly #failed = new Float64Array(KINDS);
  /** Where the last one of each kind ended. */
  readonly #next = new Float64Array(KINDS).fill(-1);
  /** Sectors that unaligned writes of data touched beside their own. */
  #beside = 0;

  constructor(name: string, sector: number, count: number, cells: number) {
    this.name = name;
    this.sector = sector;
    this.end = sector + count;
    let bits = 0;
    while (Math.ceil(count / 2 ** bits) > cells) bits++;
    this.#cellBits = bits;
    this.#cells = Math.ceil(count / 2 ** bits);
    this.#heat = new Float64Array(KINDS * this.#cells);
  }

  /** Counts a request that touches it. */
  add(kind: number, sector: number, count: number): void {
    const end = sector + count;
    const next = this.#next;
    if (next[kind] === sector) this.#sequential[kind]!++;
    next[kind] = end;
    const from = sector < this.sector ? this.sector : sector;
    const to = end > this.end ? this.end : end;
    const odd = lowBits(sector) | lowBits(end);
    this.#requests[(kind * SIZES + sizeOf(count)) * 2 + (odd === 0 ? 0 : 1)]!++;
    if (kind === WRITES) {
      this.#beside += lowBits(from) + lowBits(-to);
    }
    const base = kind * this.#cells;
    if (to < 2 ** 31) {
      // Most disks are below 1 TiB, where integers do.
      const first = (from | 0) - this.sector | 0;
      const last = (to | 0) - this.sector | 0;
      const cell = first >> this.#cellBits;
      if (cell === last - 1 >> this.#cellBits) {
        this.#heat[base + cell]! += last - first;
        return;
      }
    }
    this.#spread(base, from - this.sector, to - this.sector);
  }

  /** A request of this kind failed. */
  fail(kind: number): void {
    this.#failed[kind]!++;
  }

  /** What it comes to. */
  stats(written: SectorBits, unflushed: UnflushedSectors): RangeStats {
    const { name, sector } = this;
    const count = this.end - sector;
    const distinct = written.countIn(sector, count);
    const [reads, writes, zeroes, discards] = Array.from(
      { length: KINDS },
      (_, kind) => this.#operation(kind),
    ) as [OperationStats, OperationStats, OperationStats, OperationStats];
    const all = (writes.bytes + zeroes.bytes) / SECTOR_BYTES;
    const [read, put, cleared, given] = Array.from(
      { length: KINDS },
      (_, kind) => this.#heatOf(kind),
    ) as [number[], number[], number[], number[]];
    return {
      name,
      sector,
      count,
      reads,
      writes,
      zeroes,
      discards,
      distinctBytes: distinct * SECTOR_BYTES,
      rewrittenBytes: Math.max(0, all - distinct) * SECTOR_BYTES,
      unflushedBytes: unflushed.countIn(sector, count) * SECTOR_BYTES,
      writeAmplification: writes.bytes === 0 ? null : Math.round(
        (1 + this.#beside * SECTOR_BYTES / writes.bytes) * 1000,
      ) / 1000,
      heat: {
        cellSectors: 2 ** this.#cellBits,
        readBytes: read,
        writtenBytes: put.map((bytes, cell) => bytes + cleared[cell]!),
        discardedBytes: given,
      },
    };
  }

  /** Adds sectors to more than one cell, counted from the first of the range. */
  #spread(base: number, first: number, last: number): void {
    const length = 2 ** this.#cellBits;
    let cell = Math.floor(first / length);
    for (let start = first; start < last; cell++) {
      const stop = Math.min(last, (cell + 1) * length);
      this.#heat[base + cell]! += stop - start;
      start = stop;
    }
  }

  #heatOf(kind: number): number[] {
    const start = kind * this.#cells;
    return Array.from(
      this.#heat.subarray(start, start + this.#cells),
      (sectors) => sectors * SECTOR_BYTES,
    );
  }

  #operation(kind: number): OperationStats {
    let requests = 0;
    let unaligned = 0;
    const sizes: Record<string, number> = {};
    for (let size = 0; size < SIZES; size++) {
      const at = (kind * SIZES + size) * 2;
      const [even, odd] = [this.#requests[at]!, this.#requests[at + 1]!];
      if (even + odd === 0) continue;
      sizes[2 ** size * SECTOR_BYTES] = even + odd;
      requests += even + odd;
      unaligned += odd;
    }
    return {
      requests,
      bytes: this.#heatOf(kind).reduce((a, b) => a + b, 0),
      sequential: this.#sequential[kind]!,
      unaligned,
      failed: this.#failed[kind]!,
      sizes,
    };
  }
}

/**
 * Counts what is asked of a disk.
 *
 * @param backend What it lies over; closing the layer closes it, unless
 * `ownsBase` is false.
 * @param options What to count apart.
 * @returns The layer.
 * @throws {RangeError} If a range is not on the disk, or cells are none.
 */
export function observe(backend: Backend, options?: ObserveOptions): Observe {
  return new Observe(backend, options);
}
