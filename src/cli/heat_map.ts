/**
 * Gathers from a trace where on a disk something was done, and when, in memory
 * that is bounded: time and disk are divided into cells, which get twice as long
 * whenever there are too many.
 *
 * @module
 */

import { SECTOR_BYTES } from "../geometry.ts";
import type { TraceEvent } from "../layers/trace.ts";

/** Moments that time is divided into at most; at least half as many are used. */
const MOST_TIMES = 256;

/** Places that are told apart at most. */
const MOST_PLACES = 2048;

/** Requests in flight whose answers are waited for. */
const MOST_IN_FLIGHT = 65_536;

/** Failures that are kept. */
const MOST_FAILURES = 500;

/** What a cell counts: zeroes and discards move no data, and are one kind. */
export type HeatKind = "read" | "write" | "clear";

/** Every kind. */
export const HEAT_KINDS: readonly HeatKind[] = ["clear", "read", "write"];

/** A request that failed. */
export interface HeatFailure {
  /** When, in µs. */
  readonly us: number;
  /** Its first sector; `null` if it has none, as a flush. */
  readonly sector: number | null;
}

/** What was done to a disk, by time and place. */
export class HeatMap {
  /** The disk's sectors; 0 until its line was seen. */
  sectors = 0;
  /** The image's path. */
  path: string | null = null;
  /** µs of a moment. */
  timeUs = 1;
  /** Sectors of a place. */
  placeSectors = 1;
  /** The end of the last event, in µs. */
  endUs = 0;
  /** What failed, the first of them. */
  readonly failures: HeatFailure[] = [];
  /** How many failed. */
  failed = 0;
  /** How many flushes came in each moment. */
  readonly flushes = new Map<number, number>();
  /** Requests and bytes of each kind. */
  readonly sums: Record<HeatKind, { requests: number; bytes: number }> = {
    read: { requests: 0, bytes: 0 },
    write: { requests: 0, bytes: 0 },
    clear: { requests: 0, bytes: 0 },
  };
  /** Bytes of each kind, by place and, within it, by moment. */
  readonly #cells: Map<number, Record<HeatKind, Map<number, number>>> =
    new Map();
  readonly #inFlight = new Map<number, HeatFailure>();

  /**
   * Takes an event of a trace.
   *
   * @param event The event.
   */
  add(event: TraceEvent): void {
    if (event.event === "disk") {
      this.sectors = event.sectors;
      this.path = event.path;
      return;
    }
    const { us, id } = event;
    this.endUs = Math.max(this.endUs, us);
    while (us / this.timeUs >= MOST_TIMES) this.#coarserTimes();
    if (event.event === "complete") {
      const request = this.#inFlight.get(id);
      this.#inFlight.delete(id);
      if (event.error === undefined) return;
      this.failed++;
      if (request !== undefined && this.failures.length < MOST_FAILURES) {
        this.failures.push(request);
      }
      return;
    }
    const { operation, sector, count } = event;
    if (this.#inFlight.size < MOST_IN_FLIGHT) {
      this.#inFlight.set(id, { us, sector: count === 0 ? null : sector });
    }
    const time = Math.floor(us / this.timeUs);
    if (operation === "flush") {
      this.flushes.set(time, (this.flushes.get(time) ?? 0) + 1);
    }
    const kind = kindOf(operation);
    if (kind === null || count === 0) return;
    this.sums[kind].requests++;
    this.sums[kind].bytes += count * SECTOR_BYTES;
    this.#spread(kind, time, sector, count);
  }

  /**
   * The places where data was moved; if none was, those that were cleared.
   *
   * @returns The first sector of each, in order.
   */
  places(): number[] {
    const all = [...this.#cells];
    const moved = all.filter(([, { read, write }]) =>
      read.size + write.size > 0
    );
    return (moved.length > 0 ? moved : all).map(([place]) =>
      place * this.placeSectors
    ).sort((a, b) => a - b);
  }

  /**
   * What was done, cell by cell.
   *
   * @returns Kind, moment, first sector of the place, and bytes.
   */
  *cells(): Generator<[HeatKind, number, number, number]> {
    for (const [place, kinds] of this.#cells) {
      for (const kind of HEAT_KINDS) {
        for (const [time, bytes] of kinds[kind]) {
          yield [kind, time, place * this.placeSectors, bytes];
        }
      }
    }
  }

  #spread(kind: HeatKind, time: number, sector: number, count: number): void {
    const end = sector + count;
    while (count / this.placeSectors > MOST_PLACES) this.#coarserPlaces();
    for (let at = sector; at < end;) {
      const place = Math.floor(at / this.placeSectors);
      const next = Math.min(end, (place + 1) * this.placeSectors);
      this.#put(kind, time, place, (next - at) * SECTOR_BYTES);
      at = next;
      // A place that was put may have been one too many.
      while (this.#cells.size > MOST_PLACES) this.#coarserPlaces();
    }
  }

  #put(kind: HeatKind, time: number, place: number, bytes: number): void {
    let kinds = this.#cells.get(place);
    if (kinds === undefined) {
      kinds = { read: new Map(), write: new Map(), clear: new Map() };
      this.#cells.set(place, kinds);
    }
    kinds[kind].set(time, (kinds[kind].get(time) ?? 0) + bytes);
  }

  #coarserTimes(): void {
    this.timeUs *= 2;
    halve(this.flushes);
    for (const kinds of this.#cells.values()) {
      for (const kind of HEAT_KINDS) halve(kinds[kind]);
    }
  }

  #coarserPlaces(): void {
    this.placeSectors *= 2;
    const old = [...this.#cells];
    this.#cells.clear();
    for (const [place, kinds] of old) {
      for (const kind of HEAT_KINDS) {
        for (const [time, bytes] of kinds[kind]) {
          this.#put(kind, time, Math.floor(place / 2), bytes);
        }
      }
    }
  }
}

/** Makes two moments one. */
function halve(times: Map<number, number>): void {
  const old = [...times];
  times.clear();
  for (const [time, value] of old) {
    const at = Math.floor(time / 2);
    times.set(at, (times.get(at) ?? 0) + value);
  }
}

function kindOf(operation: string): HeatKind | null {
  switch (operation) {
    case "read":
      return "read";
    case "write":
      return "write";
    case "write zeroes":
    case "discard":
    case "secure erase":
      return "clear";
    default:
      return null;
  }
}

/** A part of a disk that is drawn, with nothing in it left out. */
export interface Band {
  /** First sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
}

/** Bands that a disk is cut into at most. */
const MOST_BANDS = 6;

/**
 * Cuts a disk where wide parts of it were left alone, so that a picture has room
 * for the rest.
 *
 * @param places Where something was done, in order.
 * @param placeSectors Sectors of each.
 * @param sectors The disk's sectors.
 * @returns The parts to draw, in order; all of the disk if nothing was done.
 */
export function bandsOf(
  places: readonly number[],
  placeSectors: number,
  sectors: number,
): Band[] {
  if (places.length === 0) return [{ sector: 0, count: Math.max(1, sectors) }];
  const end = Math.max(sectors, places.at(-1)! + 1);
  const gaps: Band[] = [];
  let at = 0;
  for (const place of places) {
    if (place > at) gaps.push({ sector: at, count: place - at });
    at = place + placeSectors;
  }
  if (end > at) gaps.push({ sector: at, count: end - at });
  gaps.sort((a, b) => b.count - a.count);
  let drawn = end;
  const cuts: Band[] = [];
  for (const gap of gaps) {
    // A gap that is narrow beside what is drawn shows where things are.
    if (cuts.length === MOST_BANDS - 1 || gap.count < drawn / 8) break;
    cuts.push(gap);
    drawn -= gap.count;
  }
  cuts.sort((a, b) => a.sector - b.sector);
  const bands: Band[] = [];
  at = 0;
  for (const { sector, count } of cuts) {
    if (sector > at) bands.push({ sector: at, count: sector - at });
    at = sector + count;
  }
  if (end > at) bands.push({ sector: at, count: end - at });
  return bands;
}
