/**
 * Sectors kept in memory over a disk: what was written lies in chunks of 4 KiB
 * with a bit per sector, what was zeroed is a list of ranges, the rest is not
 * here. An empty one allocates next to nothing, so that overlays can be made by
 * the thousand.
 *
 * @module
 */

import { type Extent, MAX_EXTENTS } from "../backend.ts";
import { clear, gather, scatter } from "../buffer.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { isIntact, Request, RequestType } from "../request.ts";
import { allStored, someStored } from "../stored_chunks.ts";
import { SectorRanges } from "./sector_ranges.ts";

/** Sectors of a chunk: a page, the unit in which most programs write. */
const CHUNK_SECTORS = 8;
const CHUNK_BYTES = CHUNK_SECTORS * SECTOR_BYTES;

/** Bits of all sectors of a chunk. */
const ALL = (1 << CHUNK_SECTORS) - 1;

/** A chunk: the bits say which of its sectors are here. */
interface Chunk {
  mask: number;
  readonly data: Uint8Array;
}

/** How much of a range some stores have together. */
export type Coverage = "none" | "some" | "all";

/** Sectors kept in memory. */
export class SectorStore {
  readonly #chunks = new Map<number, Chunk>();
  /** Sectors that read as zeroes unless a chunk has them. */
  #zeroes: SectorRanges | null = null;

  /** Whether it has no sector. */
  get empty(): boolean {
    return this.#chunks.size === 0 && (this.#zeroes?.empty ?? true);
  }

  /** Bytes of memory in use for content. */
  get storedBytes(): number {
    return this.#chunks.size * CHUNK_BYTES;
  }

  /**
   * Takes in what a request writes.
   *
   * @param request The request.
   * @returns Whether it did; if not, the memory has changed and nothing was
   * taken.
   */
  write(request: Request): boolean {
    if (!isIntact(request)) return false;
    for (let done = 0; done < request.count;) {
      const { index, from, length } = chunkPart(request, done);
      const at = done * SECTOR_BYTES;
      const chunk = this.#chunk(index);
      gather(
        request,
        at,
        chunk.data.subarray(
          from * SECTOR_BYTES,
          (from + length) * SECTOR_BYTES,
        ),
      );
      chunk.mask |= ((1 << length) - 1) << from;
      done += length;
    }
    return true;
  }

  /** Makes sectors zero. */
  zero(sector: number, count: number): void {
    this.#drop(sector, count);
    (this.#zeroes ??= new SectorRanges()).add(sector, count);
  }

  /** Drops sectors: the disk below shows through again. */
  forget(sector: number, count: number): void {
    this.#drop(sector, count);
    this.#zeroes?.remove(sector, count);
  }

  /** Takes in all that another store has. */
  merge(other: SectorStore): void {
    if (other.#zeroes !== null) {
      for (const run of other.#zeroes.within(0, Infinity)) {
        this.zero(run.sector, run.count);
      }
    }
    for (const [index, { mask, data }] of other.#chunks) {
      const chunk = this.#chunk(index);
      for (const [from, length] of bitRuns(mask)) {
        const start = from * SECTOR_BYTES;
        const end = start + length * SECTOR_BYTES;
        chunk.data.set(data.subarray(start, end), start);
      }
      chunk.mask |= mask;
    }
  }

  /** Copies what it has of a read's sectors into the read's memory. */
  patch(request: Request): void {
    for (let done = 0; done < request.count;) {
      const { index, from, length } = chunkPart(request, done);
      const wanted = ((1 << length) - 1) << from;
      const chunk = this.#chunks.get(index);
      const written = chunk === undefined ? 0 : chunk.mask & wanted;
      // Offset in the request's data of the chunk's own first sector.
      const base = (done - from) * SECTOR_BYTES;
      const put = (first: number, sectors: number) => {
        const start = first * SECTOR_BYTES;
        const end = start + sectors * SECTOR_BYTES;
        scatter(request, base + start, chunk!.data.subarray(start, end));
      };
      if (written === wanted) put(from, length);
      else {
        const zeroed = this.#zeroMask(index) & wanted & ~written;
        for (const [first, sectors] of bitRuns(zeroed)) {
          clear(request, base + first * SECTOR_BYTES, sectors * SECTOR_BYTES);
        }
        for (const [first, sectors] of bitRuns(written)) put(first, sectors);
      }
      done += length;
    }
  }

  /** The runs that lie in a range, in order; adjoining ones may be of a kind. */
  runs(sector: number, count: number): Extent[] {
    return runsOf([this], sector, count);
  }

  /** Adds what it has to sets of written and of zeroed sectors. */
  collect(
    sector: number,
    count: number,
    written: SectorRanges,
    zeroed: SectorRanges,
  ): void {
    for (const run of this.#zeroes?.within(sector, count) ?? []) {
      written.remove(run.sector, run.count);
      zeroed.add(run.sector, run.count);
    }
    for (const index of this.#indexes(sector, count)) {
      for (const [from, length] of bitRuns(this.#chunks.get(index)!.mask)) {
        const start = Math.max(sector, index * CHUNK_SECTORS + from);
        const end = Math.min(
          sector + count,
          index * CHUNK_SECTORS + from + length,
        );
        if (start >= end) continue;
        written.add(start, end - start);
        zeroed.remove(start, end - start);
      }
    }
  }

  /**
   * How much of a range can be told of at once.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @returns Sectors from the first on, at least one.
   */
  reach(sector: number, count: number): number {
    let end = sector + count;
    if (this.#chunks.size > 0) {
      const { last } = someStored(this.#chunks, ...chunksOf(sector, count));
      end = Math.min(end, (last + 1) * CHUNK_SECTORS);
    }
    const zeroes = this.#zeroes?.within(sector, end - sector, MAX_EXTENTS);
    if (zeroes?.length === MAX_EXTENTS) {
      const { sector: start, count: sectors } = zeroes.at(-1)!;
      end = start + sectors;
    }
    return end - sector;
  }

  /** Bits of the sectors of a chunk that it has. */
  mask(index: number): number {
    const written = this.#chunks.get(index)?.mask ?? 0;
    return written === ALL ? ALL : written | this.#zeroMask(index);
  }

  #zeroMask(index: number): number {
    return this.#zeroes === null || this.#zeroes.empty
      ? 0
      : this.#zeroes.mask(index * CHUNK_SECTORS, CHUNK_SECTORS);
  }

  #chunk(index: number): Chunk {
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      chunk = { mask: 0, data: new Uint8Array(CHUNK_BYTES) };
      this.#chunks.set(index, chunk);
    }
    return chunk;
  }

  #drop(sector: number, count: number): void {
    for (const index of this.#indexes(sector, count)) {
      const base = index * CHUNK_SECTORS;
      const from = Math.max(sector - base, 0);
      const to = Math.min(sector + count - base, CHUNK_SECTORS);
      const chunk = this.#chunks.get(index)!;
      chunk.mask &= ~(((1 << (to - from)) - 1) << from);
      if (chunk.mask === 0) this.#chunks.delete(index);
    }
  }

  /** Indexes of the chunks in a range, in order. */
  #indexes(sector: number, count: number): number[] {
    if (this.#chunks.size === 0) return [];
    return allStored(this.#chunks, ...chunksOf(sector, count));
  }
}

/** The first and the last chunk of a range. */
function chunksOf(sector: number, count: number): [number, number] {
  return [
    Math.floor(sector / CHUNK_SECTORS),
    Math.floor((sector + count - 1) / CHUNK_SECTORS),
  ];
}

/**
 * How much of a range some stores have together.
 *
 * @param stores The stores.
 * @param sector First sector.
 * @param count Sectors.
 * @returns How much.
 */
export function coverage(
  stores: readonly SectorStore[],
  sector: number,
  count: number,
): Coverage {
  if (stores.every((store) => store.empty)) return "none";
  let any = false;
  let all = true;
  const end = sector + count;
  for (let at = sector; at < end;) {
    const index = Math.floor(at / CHUNK_SECTORS);
    const base = index * CHUNK_SECTORS;
    const next = Math.min(end, base + CHUNK_SECTORS);
    const wanted = ((1 << (next - at)) - 1) << (at - base);
    let have = 0;
    for (const store of stores) have |= store.mask(index);
    have &= wanted;
    if (have !== 0) any = true;
    if (have !== wanted) all = false;
    if (any && !all) return "some";
    at = next;
  }
  return all ? "all" : "none";
}

/**
 * What some stores have of a range.
 *
 * @param stores The stores, the last one on top.
 * @param sector First sector.
 * @param count Sectors.
 * @returns Runs in order; neighbours differ in kind or do not adjoin.
 */
export function runsOf(
  stores: readonly SectorStore[],
  sector: number,
  count: number,
): Extent[] {
  const written = new SectorRanges();
  const zeroed = new SectorRanges();
  for (const store of stores) store.collect(sector, count, written, zeroed);
  return [
    ...written.within(sector, count).map((run) => ({ ...run, hole: false })),
    ...zeroed.within(sector, count).map((run) => ({ ...run, hole: true })),
  ].sort((a, b) => a.sector - b.sector);
}

/**
 * Extents of a disk that some stores lie over.
 *
 * @param stores The stores, the last one on top.
 * @param sector First sector.
 * @param count Sectors.
 * @param below Extents of the disk below.
 * @returns Extents in order, adjoining; they may end before the range does.
 */
export function extentsOver(
  stores: readonly SectorStore[],
  sector: number,
  count: number,
  below: (sector: number, count: number) => Extent[],
): Extent[] {
  const under = below(sector, count);
  const last = under.at(-1);
  if (last === undefined) return [];
  let covered = last.sector + last.count - sector;
  for (const store of stores) covered = store.reach(sector, covered);
  const extents: Extent[] = [];
  let at = sector;
  let i = 0;
  const showThrough = (to: number) => {
    while (at < to) {
      const { sector: start, count: sectors, hole } = under[i]!;
      const end = Math.min(to, start + sectors);
      if (at < end) extents.push({ sector: at, count: end - at, hole });
      at = Math.max(at, end);
      if (at < to) i++;
    }
  };
  for (const run of runsOf(stores, sector, covered)) {
    showThrough(run.sector);
    extents.push(run);
    at = run.sector + run.count;
  }
  showThrough(sector + covered);
  return extents;
}

/**
 * Bytes that some stores have, all of them.
 *
 * @param stores The stores, the last one on top.
 * @param sector First sector.
 * @param target Where to.
 */
export function copyOut(
  stores: readonly SectorStore[],
  sector: number,
  target: Uint8Array,
): void {
  const count = target.length / SECTOR_BYTES;
  const request = new Request(RequestType.In, sector, count, 0, target);
  for (const store of stores) store.patch(request);
}

/** The chunk that the request's sector `done` lies in, and how far. */
function chunkPart(
  request: Request,
  done: number,
): { index: number; from: number; length: number } {
  const at = request.sector + done;
  const index = Math.floor(at / CHUNK_SECTORS);
  const from = at - index * CHUNK_SECTORS;
  return {
    index,
    from,
    length: Math.min(CHUNK_SECTORS - from, request.count - done),
  };
}

/** The runs of bits that are set, as first bit and length. */
function bitRuns(mask: number): readonly (readonly [number, number])[] {
  return RUNS[mask]!;
}

const RUNS: readonly (readonly (readonly [number, number])[])[] = Array.from(
  { length: ALL + 1 },
  (_, mask) => {
    const runs: [number, number][] = [];
    for (let bit = 0; bit < CHUNK_SECTORS; bit++) {
      if ((mask & (1 << bit)) === 0) continue;
      const last = runs.at(-1);
      if (last !== undefined && last[0] + last[1] === bit) last[1]++;
      else runs.push([bit, 1]);
    }
    return runs;
  },
);
