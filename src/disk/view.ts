/**
 * A disk, or a part of one, over a request queue: what its two faces share, the
 * one with promises (`disk.ts`) and the one without (`sync_disk.ts`). Here a
 * range is checked that leaves the view, which the queue cannot know.
 *
 * @module
 */

import type { Abilities, BackendCounters } from "../backend.ts";
import { describeRange, describeValue, DiskError } from "../errors.ts";
import { type Geometry, SECTOR_BYTES } from "../geometry.ts";
import type { BackendInfo } from "../info.ts";
import { plural } from "../plural.ts";
import type { RequestQueue } from "../queue.ts";
import type { QueueCounters } from "../queue_options.ts";
import { isBytes } from "../request.ts";
import { formatSize } from "../units.ts";

/** What a disk is and why, as plain data. */
export interface DiskInfo extends BackendInfo, Geometry {
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Requests that the backend may have at once. */
  readonly queueSize: number;
  /** Whether a write is durable only after a flush, or when it completes. */
  readonly writeCache: "writeback" | "writethrough";
  /** What the disk can do beyond reading and writing. */
  readonly abilities: Abilities;
}

/** What a disk counted since it was opened. */
export interface DiskCounters extends QueueCounters, BackendCounters {}

/** Which part of a queue's disk is shown. */
export interface View {
  /** The queue. */
  readonly queue: RequestQueue;
  /** The sector of the whole disk that it begins at. */
  readonly start: number;
  /** Its sectors. */
  readonly sectors: number;
  /** Whether it is the whole disk, and closing it closes the queue. */
  readonly owner: boolean;
}

/**
 * What a view's disk is and why.
 *
 * @param view The view.
 * @returns The same as plain data.
 */
export function infoOf({ queue, sectors }: View): DiskInfo {
  const { backend, size, writeThrough } = queue;
  return {
    ...backend.info,
    ...backend.geometry,
    sectors,
    readOnly: backend.abilities.readOnly,
    queueSize: size,
    writeCache: writeThrough ? "writethrough" : "writeback",
    abilities: backend.abilities,
  };
}

/**
 * What a queue and its backend counted.
 *
 * @param queue The queue.
 * @returns The same as plain data.
 */
export function countersOf(queue: RequestQueue): DiskCounters {
  return { ...queue.counters, ...queue.backend.counters };
}

/**
 * What `console.log` shows of a view.
 *
 * @param view The view.
 * @param closed Whether it is closed.
 * @returns The same as plain data.
 */
export function shownOf(view: View, closed: boolean): Record<string, unknown> {
  const { path, backend, engine, direct, readOnly, blockSize } = infoOf(view);
  const { queue, start, sectors, owner } = view;
  return {
    ...(path === null ? {} : { path }),
    ...(owner ? {} : { start }),
    sectors,
    size: formatSize(sectors * SECTOR_BYTES),
    blockSize,
    backend,
    engine: engine.name,
    direct: direct.active,
    readOnly,
    ...(closed ? { closed: true } : {}),
    ...(queue.failure === null ? {} : { failure: queue.failure.message }),
  };
}

/**
 * Memory that moves without a copy.
 *
 * @param queue The disk's queue.
 * @param sectors Sectors.
 * @returns The memory, zeroed.
 * @throws {RangeError} If it is not a safe integer above zero.
 */
export function allocateFor(
  queue: RequestQueue,
  sectors: number,
): Uint8Array<ArrayBuffer> {
  if (!Number.isSafeInteger(sectors) || sectors <= 0) {
    throw new RangeError(
      `Cannot allocate memory as sectors must be a safe integer above 0: current value is ${sectors}`,
    );
  }
  return queue.backend.allocate(sectors * SECTOR_BYTES);
}

/**
 * Whether two numbers are a range of sectors. It is asked before anything is
 * added to them: `start + null` is a number, and would be somebody's sector.
 *
 * @param sector First sector.
 * @param count Sectors.
 * @param least The fewest sectors that it may have.
 * @returns Whether both are safe integers, from 0 and from `least` on.
 */
export function isRange(sector: number, count: number, least = 1): boolean {
  return Number.isSafeInteger(sector) && Number.isSafeInteger(count) &&
    sector >= 0 && count >= least;
}

/**
 * How many sectors there are from one on: the count of a range that was given
 * none.
 *
 * @param sectors Sectors of the disk.
 * @param sector The first of the range; what is no sector has none after it.
 * @returns Sectors, 0 or more.
 */
export function restFrom(sectors: number, sector: number): number {
  return isRange(sector, 0, 0) ? Math.max(0, sectors - sector) : 0;
}

/**
 * The sectors that memory fills, a part of one as a whole: the queue refuses that
 * in words of its own.
 *
 * @param memory The memory.
 * @returns Sectors; `NaN` if it is no memory, whose length counts something else.
 */
export function sectorsIn(memory: Uint8Array): number {
  return isBytes(memory) ? Math.ceil(memory.length / SECTOR_BYTES) : NaN;
}

/**
 * What the queue cannot check: a range that leaves the view, and what becomes a
 * number only by adding the view's start to it.
 *
 * @param view The view.
 * @param operation What is asked for.
 * @param sector First sector, counted in the view.
 * @param count Sectors.
 * @param least The fewest sectors that the operation takes.
 * @returns Why it must be refused; `null` if it need not.
 */
export function refuseRange(
  view: Pick<View, "start" | "sectors" | "owner">,
  operation: string,
  sector: number,
  count: number,
  least = 1,
): DiskError | null {
  const { start, sectors, owner } = view;
  const isArgument = !isRange(sector, count, least);
  if (!isArgument && sector + count <= sectors) return null;
  const what = owner ? "disk" : "slice";
  const place = `${describeRange(sector, count)}${
    owner ? "" : " of the slice"
  }`;
  return new DiskError(
    isArgument ? "argument" : "range",
    isArgument
      ? `Cannot ${operation} ${place} as both must be safe integers${
        least > 0 ? ", with at least one sector" : " of at least 0"
      }`
      : `Cannot ${operation} ${place} as the ${what} has ${
        plural(sectors, "sector")
      }`,
    {
      operation,
      sector: typeof sector === "number" ? start + sector : undefined,
      count: typeof count === "number" ? count : undefined,
    },
  );
}

/**
 * Refuses what is no memory, or else what was found wrong with the range.
 *
 * @param operation What is asked for.
 * @param value What was given as memory.
 * @param range What is wrong with the range.
 * @returns Why it must be refused.
 */
export function refuseMemory(
  operation: string,
  value: unknown,
  range: DiskError,
): DiskError {
  return isBytes(value) ? range : new DiskError(
    "argument",
    `Cannot ${operation} as its memory must be bytes in a Uint8Array: current value is ${
      describeValue(value)
    }`,
    { operation, sector: range.sector },
  );
}

/**
 * Makes the memory of a read whose range has been checked.
 *
 * @param sector First sector, counted in the view.
 * @param count Sectors.
 * @returns The memory; the error to refuse the read with if there is none.
 */
export function memoryFor(
  sector: number,
  count: number,
): Uint8Array<ArrayBuffer> | DiskError {
  try {
    return new Uint8Array(count * SECTOR_BYTES);
  } catch (cause) {
    return new DiskError(
      "argument",
      `Cannot read ${
        plural(count, "sector")
      } at sector ${sector} as there is no memory for them`,
      { operation: "read", sector, count, cause },
    );
  }
}
