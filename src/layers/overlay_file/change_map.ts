/**
 * Which sectors an overlay's file has: a bit for each, in pages that are read
 * when they are needed and written when the file is flushed.
 *
 * Memory is bounded: {@linkcode MAX_PAGES} pages, each a little more than 4 KiB,
 * and a bit for each page that the file may have (66 KiB for a disk of 8 TiB).
 * What is in use or not written yet stays, so that whoever changes the map asks
 * {@linkcode ChangeMap.crowded} first, and writes it.
 *
 * A page in memory is always newer than the one in the file. One that is neither
 * in memory nor in the file is empty.
 *
 * @module
 */

import type { Backend } from "../../backend.ts";
import { isZero } from "../../buffer.ts";
import { DiskError } from "../../errors.ts";
import { SECTOR_BYTES } from "../../geometry.ts";
import { Request, RequestType } from "../../request.ts";
import { submitAll } from "../layer.ts";
import { unless } from "../../unless.ts";
import { anyError } from "./any_error.ts";
import {
  decodePage,
  encodePage,
  MAP_SECTOR,
  OverlayFormatError,
  type OverlayLayout,
  PAGE_BIT_BYTES,
  PAGE_BITS,
  PAGE_BYTES,
  PAGE_SECTORS,
} from "./format.ts";

/** Pages that stay in memory: 16 MiB, and 62 GiB of the disk. */
export const MAX_PAGES = 4096;

/** Pages that wait to be written, at most. */
const MAX_DIRTY = 512;

/** Pages that are written at once. */
const BATCH_PAGES = 64;

/** Times that the file is asked for holes in a row. */
const LOOKS = 4;

/** A page in memory. */
export class MapPage {
  /** Which page it is. */
  readonly index: number;
  /** Its bits. */
  readonly bits: Uint8Array<ArrayBuffer>;
  /** How often it was changed. */
  version = 0;
  /** Who uses it: it stays as long. */
  pins = 0;
  /** Whether it was used since somebody looked for one to drop. */
  used = true;

  /** @param index Which one. @param bits Its bits. */
  constructor(index: number, bits: Uint8Array<ArrayBuffer>) {
    this.index = index;
    this.bits = bits;
  }
}

/** Pages as they were at one moment, to be written. */
export interface MapSnapshot {
  /** How many there are. */
  readonly count: number;
  /** Writes them; does not flush. */
  write(): Promise<DiskError | null>;
  /** Says that they are durable. */
  settle(): void;
}

/** A map of changes. */
export class ChangeMap {
  readonly #file: Backend;
  readonly #sectors: number;
  readonly #layout: OverlayLayout;
  readonly #pages = new Map<number, MapPage>();
  readonly #dirty = new Set<MapPage>();
  readonly #loading = new Map<number, Promise<void>>();
  /** A bit for each page that the file may have. */
  readonly #stored: Uint8Array;
  #epoch = 0;

  /**
   * Constructs a new instance, which is empty.
   *
   * @param file The file.
   * @param sectors Sectors of the disk.
   * @param layout Where things are in the file.
   */
  constructor(file: Backend, sectors: number, layout: OverlayLayout) {
    this.#file = file;
    this.#sectors = sectors;
    this.#layout = layout;
    this.#stored = new Uint8Array(Math.ceil(layout.pages / 8));
  }

  /** Whether nothing was changed. */
  get empty(): boolean {
    return this.#dirty.size === 0 && isZero(this.#stored);
  }

  /** Whether so much waits to be written that it must be, before more is. */
  get crowded(): boolean {
    return this.#dirty.size >= MAX_DIRTY;
  }

  /** Whether something waits to be written. */
  get dirty(): boolean {
    return this.#dirty.size > 0;
  }

  /**
   * Begins anew, with nothing changed.
   *
   * @param epoch The epoch.
   */
  reset(epoch: number): void {
    this.#epoch = epoch;
    this.#pages.clear();
    this.#dirty.clear();
    this.#stored.fill(0);
  }

  /**
   * Begins with what the file has.
   *
   * @param epoch The epoch.
   * @returns When it is known which pages that may be.
   */
  async resume(epoch: number): Promise<void> {
    this.reset(epoch);
    const end = MAP_SECTOR + this.#layout.pages * PAGE_SECTORS;
    let looks = 0;
    for (let at = MAP_SECTOR; at < end;) {
      // A large map may have many holes, and others have their turn.
      if (++looks % LOOKS === 0) {
        await new Promise((done) => setTimeout(done, 0));
      }
      const found = this.#file.extents?.(at, end - at) ??
        [{ sector: at, count: end - at, hole: false }];
      for (const { sector, count, hole } of found) {
        if (!hole) this.#mayHave(sector, count);
      }
      const last = found.at(-1);
      // Whoever tells nothing leaves it open.
      if (last === undefined || last.sector + last.count <= at) {
        this.#mayHave(at, end - at);
        return;
      }
      at = last.sector + last.count;
    }
  }

  /**
   * Whether the pages of a range are at hand, so that nothing must be waited for.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @returns Whether they are.
   */
  has(sector: number, count: number): boolean {
    const last = pageOf(sector + count - 1);
    for (let index = pageOf(sector); index <= last; index++) {
      if (!this.#pages.has(index) && this.#isStored(index)) return false;
    }
    return true;
  }

  /**
   * Takes the pages of a range that are at hand: see {@linkcode ChangeMap.has}.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @returns The pages, to be released.
   * @throws {DiskError} If there is no memory for one that is new.
   */
  take(sector: number, count: number): MapPage[] {
    const pages: MapPage[] = [];
    const last = pageOf(sector + count - 1);
    try {
      for (let index = pageOf(sector); index <= last; index++) {
        pages.push(this.#take(index));
      }
    } catch (error) {
      throw this.#giveBack(pages, error);
    }
    return pages;
  }

  /**
   * Takes the pages of a range, read if they must be.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @param signal Waits for them no more; they are read on, as others may wait,
   * too.
   * @returns The pages, to be released.
   * @throws {DiskError} If one cannot be read or is damaged, or there is no
   * memory for it. If the signal fired, its reason.
   */
  async hold(
    sector: number,
    count: number,
    signal?: AbortSignal,
  ): Promise<MapPage[]> {
    const pages: MapPage[] = [];
    const last = pageOf(sector + count - 1);
    try {
      for (let index = pageOf(sector); index <= last; index++) {
        while (!this.#pages.has(index) && this.#isStored(index)) {
          await unless(signal, this.#load(index));
        }
        pages.push(this.#take(index));
      }
    } catch (error) {
      const failure = this.#giveBack(pages, error);
      throw signal?.aborted ? signal.reason : failure;
    }
    return pages;
  }

  /** Gives back the pages before one that failed. */
  #giveBack(pages: readonly MapPage[], thrown: unknown): DiskError {
    this.release(pages);
    return anyError(thrown, "read", this.#file.info.path);
  }

  /** Gives pages back. */
  release(pages: readonly MapPage[]): void {
    for (const page of pages) page.pins--;
  }

  /**
   * Whether a sector is changed; its page is at hand.
   *
   * @param sector The sector.
   * @returns Whether it is.
   */
  isChanged(sector: number): boolean {
    const page = this.#pages.get(pageOf(sector));
    if (page === undefined) return false;
    page.used = true;
    const bit = sector % PAGE_BITS;
    return ((page.bits[bit >> 3]! >> (bit & 7)) & 1) === 1;
  }

  /**
   * Whether a page is at hand that has all that the file should have.
   *
   * @param sector First sector of a range.
   * @param count Sectors.
   * @returns Whether nothing of the range waits to be written.
   */
  isSettled(sector: number, count: number): boolean {
    const last = pageOf(sector + count - 1);
    for (let index = pageOf(sector); index <= last; index++) {
      const page = this.#pages.get(index);
      if (page === undefined || this.#dirty.has(page)) return false;
    }
    return true;
  }

  /**
   * Where a run of sectors ends that are all changed, or all not; their pages
   * are at hand.
   *
   * @param sector Its first sector.
   * @param end Where to stop.
   * @returns The sector after its last.
   */
  runEnd(sector: number, end: number): number {
    const changed = this.isChanged(sector);
    for (let at = sector; at < end;) {
      const index = pageOf(at);
      const first = index * PAGE_BITS;
      const stop = Math.min(end, first + PAGE_BITS);
      const page = this.#pages.get(index);
      if (page === undefined) {
        if (changed) return at;
        at = stop;
        continue;
      }
      const found = first +
        bitEnd(page.bits, at - first, stop - first, changed);
      if (found < stop) return found;
      at = stop;
    }
    return end;
  }

  /**
   * Marks sectors as changed.
   *
   * @param pages Their pages, held.
   * @param sector First sector.
   * @param count Sectors.
   */
  mark(pages: readonly MapPage[], sector: number, count: number): void {
    for (const page of pages) {
      const first = page.index * PAGE_BITS;
      const from = Math.max(sector - first, 0);
      const to = Math.min(sector + count - first, PAGE_BITS);
      if (from >= to || bitEnd(page.bits, from, to, true) === to) continue;
      setBits(page.bits, from, to);
      page.version++;
      this.#dirty.add(page);
    }
  }

  /**
   * What must be written, as it is now.
   *
   * @returns Pages to write once the data that they tell of is durable.
   */
  snapshot(): MapSnapshot {
    const epoch = this.#epoch;
    const pages = [...this.#dirty].map((page) => {
      const { index, version } = page;
      const bytes = this.#file.allocate(PAGE_BYTES);
      encodePage(index, epoch, page.bits, bytes);
      return { page, version, index, bytes };
    });
    return {
      count: pages.length,
      write: async () => {
        for (const { index } of pages) this.#store(index);
        for (let i = 0; i < pages.length; i += BATCH_PAGES) {
          const error = await submitAll(
            this.#file,
            pages.slice(i, i + BATCH_PAGES).map(({ index, bytes }) =>
              pageRequest(RequestType.Out, index, bytes)
            ),
          );
          if (error !== null) return error;
        }
        return null;
      },
      settle: () => {
        for (const { page, version } of pages) {
          if (page.version === version) this.#dirty.delete(page);
        }
        this.#trim();
      },
    };
  }

  /**
   * Visits the runs of changed sectors in a range, in order.
   *
   * @param sector First sector of the range.
   * @param count Its sectors.
   * @param visit Called for each run; it ends with a page at the latest.
   * @param after Called after the runs of each page, which is at hand.
   * @param signal Waits no more for a page to be read.
   * @throws {DiskError} If a page cannot be read or is damaged. If the signal
   * fired, its reason.
   */
  async eachRun(
    sector: number,
    count: number,
    visit: (run: { sector: number; count: number }) => Promise<void> | void,
    after?: (part: { sector: number; count: number }) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<void> {
    for (const part of this.parts(sector, count)) {
      const pages = await this.hold(part.sector, part.count, signal);
      try {
        const end = part.sector + part.count;
        for (let at = part.sector; at < end;) {
          const runEnd = this.runEnd(at, end);
          if (this.isChanged(at)) {
            await visit({ sector: at, count: runEnd - at });
          }
          at = runEnd;
        }
        await after?.(part);
      } finally {
        this.release(pages);
      }
    }
  }

  /**
   * The parts of the disk in which there may be changes, in order.
   *
   * @param sector First sector of a range.
   * @param count Sectors.
   * @returns Ranges of at most a page each.
   */
  *parts(
    sector: number,
    count: number,
  ): Generator<{ sector: number; count: number }, void> {
    const end = sector + count;
    for (let at = sector; at < end;) {
      const index = pageOf(at);
      const stop = Math.min(end, (index + 1) * PAGE_BITS);
      if (this.#pages.has(index) || this.#isStored(index)) {
        yield { sector: at, count: stop - at };
      }
      at = stop;
    }
  }

  #take(index: number): MapPage {
    let page = this.#pages.get(index);
    if (page === undefined) {
      page = new MapPage(index, new Uint8Array(PAGE_BIT_BYTES));
      this.#pages.set(index, page);
      page.pins++;
      this.#trim();
    } else page.pins++;
    page.used = true;
    return page;
  }

  #load(index: number): Promise<void> {
    let loading = this.#loading.get(index);
    if (loading === undefined) {
      loading = this.#read(index).finally(() => this.#loading.delete(index));
      this.#loading.set(index, loading);
    }
    return loading;
  }

  async #read(index: number): Promise<void> {
    const bytes = this.#file.allocate(PAGE_BYTES);
    const request = pageRequest(RequestType.In, index, bytes);
    const epoch = this.#epoch;
    const error = await submitAll(this.#file, [request]);
    // The map has begun anew meanwhile: whatever came is not of this one.
    if (epoch !== this.#epoch) return;
    if (error !== null) throw error;
    const end = Math.min(PAGE_BITS, this.#sectors - index * PAGE_BITS);
    try {
      const bits = decodePage(index, this.#epoch, bytes, end);
      const page = new MapPage(index, bits);
      this.#pages.set(index, page);
      this.#trim(page);
    } catch (cause) {
      if (!(cause instanceof OverlayFormatError)) throw cause;
      const path = this.#file.info.path ?? undefined;
      throw new DiskError(
        "io",
        `Cannot read the map of an overlay${
          path === undefined ? "" : ` in "${path}"`
        } as ${cause.message}: it is damaged`,
        { operation: "read", path, cause },
      );
    }
  }

  /** Drops pages that nobody uses, if there are too many; the oldest first. */
  #trim(keep?: MapPage): void {
    let looks = 2 * this.#pages.size;
    while (this.#pages.size > MAX_PAGES && looks-- > 0) {
      const [index, page] = this.#pages.entries().next().value!;
      // To the end of the row, if it stays.
      this.#pages.delete(index);
      const isFree = page.pins === 0 && !page.used && page !== keep;
      if (isFree && !this.#dirty.has(page)) continue;
      page.used = false;
      this.#pages.set(index, page);
    }
  }

  #isStored(index: number): boolean {
    return ((this.#stored[index >> 3]! >> (index & 7)) & 1) === 1;
  }

  #store(index: number): void {
    this.#stored[index >> 3]! |= 1 << (index & 7);
  }

  /** Takes in that some sectors of the file may have pages. */
  #mayHave(sector: number, count: number): void {
    const first = Math.floor((sector - MAP_SECTOR) / PAGE_SECTORS);
    const last = Math.min(
      this.#layout.pages - 1,
      Math.floor((sector + count - 1 - MAP_SECTOR) / PAGE_SECTORS),
    );
    for (let index = first; index <= last; index++) this.#store(index);
  }
}

function pageOf(sector: number): number {
  return Math.floor(sector / PAGE_BITS);
}

function pageRequest(
  type: RequestType,
  index: number,
  bytes: Uint8Array,
): Request {
  const sector = MAP_SECTOR + index * PAGE_SECTORS;
  return new Request(type, sector, PAGE_BYTES / SECTOR_BYTES, 0, bytes);
}

/** The first bit from `from` on, before `to`, that is not as it should be. */
function bitEnd(
  bits: Uint8Array,
  from: number,
  to: number,
  set: boolean,
): number {
  const whole = set ? 0xff : 0;
  const wanted = set ? 1 : 0;
  let at = from;
  while (at < to) {
    if ((at & 7) === 0 && to - at >= 8 && bits[at >> 3] === whole) {
      at += 8;
    } else if (((bits[at >> 3]! >> (at & 7)) & 1) === wanted) at++;
    else return at;
  }
  return to;
}

function setBits(bits: Uint8Array, from: number, to: number): void {
  let at = from;
  while (at < to && (at & 7) !== 0) bits[at >> 3]! |= 1 << (at++ & 7);
  const whole = (to - at) >> 3;
  if (whole > 0) {
    bits.fill(0xff, at >> 3, (at >> 3) + whole);
    at += whole * 8;
  }
  while (at < to) bits[at >> 3]! |= 1 << (at++ & 7);
}
