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
import { resizeError } from "../resize.ts";
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
   * Cells that the heat map of each range has at most.
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
  /** Sectors of a cell; the last one may be shorter. */
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
    this.#written = new SectorBits(sectors);
    this.#unflushed = new UnflushedSectors(sectors);
    this.reset();
  }

  /** Forgets what was counted: a new phase begins. */
  reset(): void {
    const { sectors } = this.backend.geometry;
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

  /**
   * What is counted sector by sector keeps its size.
   *
   * @returns Never.
   * @throws {DiskError} Always, of kind `unsupported`.
   */
  override resize(): Promise<void> {
    const reason = "it is observed, sector by sector";
    return Promise.reject(resizeError(reason, this.backend.info.path));
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
    const { sectors } = this.backend.geometry;
    for (let i = 0; i < batch.length; i++) {
      const request = batch[i]!;
      const { type, sector, count } = request;
      if (type === RequestType.Flush) {
        this.#flushes++;
        this.#unflushed.take(request);
        continue;
      }
      if (!isPlace(sector, count, sectors)) continue;
      if (type === RequestType.Out || type === RequestType.WriteZeroes) {
        this.#written.set(sector, count);
      }
      for (let j = 0; j < areas.length; j++) {
        const area = areas[j]!;
        if (sector < area.end && sector + count > area.sector) {
          area.add(type, sector, count);
        }
      }
    }
    if (this.#asked !== complete) {
      this.#asked = complete;
      this.#answer = (request, error) => {
        if (error !== null || request.type !== RequestType.In) {
          this.#ended(request, error);
        }
        this.answer(request, error, complete);
      };
    }
    this.backend.submit(batch, this.#answer);
  }

  #ended(request: Request, error: DiskError | null): void {
    const { type, sector, count } = request;
    if (type === RequestType.Flush) {
      this.#unflushed.flushed(request, error === null);
      if (error !== null) this.#failedFlushes++;
      return;
    }
    if (!isPlace(sector, count, this.backend.geometry.sectors)) return;
    // What failed may be there in part.
    if (
      (type === RequestType.Out || type === RequestType.WriteZeroes) &&
      !(request.fua && error === null)
    ) this.#unflushed.add(sector, count);
    if (error === null) return;
    for (const area of this.#areas) {
      if (sector < area.end && sector + count > area.sector) {
        const tally = area.tally(type);
        if (tally !== null) tally.failed++;
      }
    }
  }
}

/** Whether a request has a place on the disk; the base refuses one without. */
function isPlace(sector: number, count: number, sectors: number): boolean {
  return Number.isSafeInteger(sector) && Number.isSafeInteger(count) &&
    sector >= 0 && count > 0 && sector <= sectors - count;
}

/** What one kind of request came to, so far. */
class Tally {
  requests = 0;
  sectors = 0;
  sequential = 0;
  unaligned = 0;
  failed = 0;
  /** By the logarithm of the size in sectors. */
  readonly sizes = new Float64Array(SIZES);
  /** Where the last one ended. */
  next = -1;

  stats(): OperationStats {
    const { requests, sectors, sequential, unaligned, failed } = this;
    const sizes: Record<string, number> = {};
    this.sizes.forEach((count, i) => {
      if (count > 0) sizes[2 ** i * SECTOR_BYTES] = count;
    });
    const bytes = sectors * SECTOR_BYTES;
    return { requests, bytes, sequential, unaligned, failed, sizes };
  }
}

/** A range that is counted by itself. */
class Area {
  readonly name: string;
  readonly sector: number;
  readonly end: number;
  readonly #cellSectors: number;
  readonly #reads = new Tally();
  readonly #writes = new Tally();
  readonly #zeroes = new Tally();
  readonly #discards = new Tally();
  /** Sectors of whole blocks of 4 KiB that writes of data touched. */
  #touched = 0;
  readonly #readHeat: Float64Array;
  readonly #writeHeat: Float64Array;
  readonly #discardHeat: Float64Array;

  constructor(name: string, sector: number, count: number, cells: number) {
    this.name = name;
    this.sector = sector;
    this.end = sector + count;
    this.#cellSectors = Math.max(1, Math.ceil(count / cells));
    const length = Math.ceil(count / this.#cellSectors);
    this.#readHeat = new Float64Array(length);
    this.#writeHeat = new Float64Array(length);
    this.#discardHeat = new Float64Array(length);
  }

  /** Counts a request that touches it. */
  add(type: RequestType, sector: number, count: number): void {
    const tally = this.tally(type);
    if (tally === null) return;
    const end = sector + count;
    tally.requests++;
    if (sector === tally.next) tally.sequential++;
    tally.next = end;
    if (sector % BLOCK_SECTORS !== 0 || end % BLOCK_SECTORS !== 0) {
      tally.unaligned++;
    }
    tally.sizes[
      count < 2 ** 31 ? 31 - Math.clz32(count) : Math.floor(Math.log2(count))
    ]!++;
    const from = sector < this.sector ? this.sector : sector;
    const to = end > this.end ? this.end : end;
    tally.sectors += to - from;
    if (type === RequestType.Out) {
      const tails = to % BLOCK_SECTORS;
      this.#touched += to - from + from % BLOCK_SECTORS +
        (tails === 0 ? 0 : BLOCK_SECTORS - tails);
    }
    const heat = type === RequestType.In
      ? this.#readHeat
      : type === RequestType.Out || type === RequestType.WriteZeroes
      ? this.#writeHeat
      : this.#discardHeat;
    const cellSectors = this.#cellSectors;
    const first = from - this.sector;
    const last = to - this.sector;
    let cell = Math.floor(first / cellSectors);
    let start = first;
    for (let stop = (cell + 1) * cellSectors; stop < last; cell++) {
      heat[cell]! += stop - start;
      start = stop;
      stop += cellSectors;
    }
    heat[cell]! += last - start;
  }

  /** The tally of a type; `null` if it has no place. */
  tally(type: RequestType): Tally | null {
    switch (type) {
      case RequestType.In:
        return this.#reads;
      case RequestType.Out:
        return this.#writes;
      case RequestType.WriteZeroes:
        return this.#zeroes;
      case RequestType.Discard:
      case RequestType.SecureErase:
        return this.#discards;
      default:
        return null;
    }
  }

  /** What it comes to. */
  stats(written: SectorBits, unflushed: UnflushedSectors): RangeStats {
    const { name, sector } = this;
    const count = this.end - sector;
    const distinct = written.countIn(sector, count);
    const writes = this.#writes.sectors;
    const all = writes + this.#zeroes.sectors;
    return {
      name,
      sector,
      count,
      reads: this.#reads.stats(),
      writes: this.#writes.stats(),
      zeroes: this.#zeroes.stats(),
      discards: this.#discards.stats(),
      distinctBytes: distinct * SECTOR_BYTES,
      rewrittenBytes: Math.max(0, all - distinct) * SECTOR_BYTES,
      unflushedBytes: unflushed.countIn(sector, count) * SECTOR_BYTES,
      writeAmplification: writes === 0
        ? null
        : Math.round(this.#touched / writes * 1000) / 1000,
      heat: {
        cellSectors: this.#cellSectors,
        readBytes: bytesOf(this.#readHeat),
        writtenBytes: bytesOf(this.#writeHeat),
        discardedBytes: bytesOf(this.#discardHeat),
      },
    };
  }
}

function bytesOf(sectors: Float64Array): number[] {
  return Array.from(sectors, (count) => count * SECTOR_BYTES);
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
