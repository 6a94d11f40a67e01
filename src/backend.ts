/**
 * What carries out requests: the contract between the queue and everything
 * below it. A layer is a backend over another backend.
 *
 * The contract, each line a test that every backend passes:
 *
 * 1. It answers every request exactly once, with the bytes of whole blocks or
 *    an error; never a short count as success.
 * 2. A read after a completed write of the same sectors returns it.
 *    Never-written sectors of a fresh image read as zeroes.
 * 3. A completed flush means that every write completed before it was
 *    submitted is durable. A FUA write is durable when it completes.
 * 4. Discard leaves unspecified but stable content; write zeroes leaves
 *    zeroes. What it cannot do is `unsupported`, never a silent success.
 * 5. Out of range, misaligned, read-only, closed: a typed error before
 *    anything reaches the kernel.
 * 6. It keeps no reference to a buffer after completion, and every reference
 *    until then.
 * 7. `close()` drains, releases everything, is idempotent.
 *
 * Requests of one batch, and of batches not yet answered, may be carried out
 * in any order and at once: the queue holds back what must come later.
 *
 * A backend whose calls can block may let a caller wait for them, with
 * {@linkcode Backend.synchronously}: then everything above holds before `submit`
 * returns.
 *
 * @module
 */

import { describeValue, type DiskError } from "./errors.ts";
import { type Geometry, SECTOR_BYTES } from "./geometry.ts";
import type { BackendInfo } from "./info.ts";
import {
  ID_BYTES,
  isBytes,
  isIntact,
  type Request,
  RequestType,
} from "./request.ts";
import { plural } from "./plural.ts";
import { changedError, requestError } from "./request_error.ts";
import { KEEPS_ITS_SIZE } from "./resize.ts";

/** How well a backend can do something. */
export type Ability = "none" | "emulated" | "native";

/** What a backend can do beyond reading and writing. */
export interface Abilities {
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Making writes durable. */
  readonly flush: Ability;
  /** Single durable writes: native in one call, emulated by a flush after. */
  readonly fua: Ability;
  /** Giving up content: native when the medium is told (TRIM, UNMAP). */
  readonly discard: Ability;
  /** Zeroes: native without moving them, emulated by writing them. */
  readonly writeZeroes: Ability;
  /** Erasing beyond recovery. */
  readonly secureErase: Ability;
}

/** How large a request may get by merging, and what memory needs no copy. */
export interface Limits {
  /** Segments that one merged request may have; 1 turns merging off. */
  readonly maxSegments: number;
  /** Bytes that one merged request may have. */
  readonly maxBytes: number;
}

/** What a backend counted. */
export interface BackendCounters {
  /** Calls into the kernel for requests, and to wait for them. */
  systemCalls: number;
  /** Requests whose data was copied as their memory could not go as it is. */
  bounced: number;
  /** Writes that had to read a host block first. */
  readModifyWrites: number;
}

/**
 * Extents after which a backend ends an answer that could go on: to find each
 * may take a system call, of some 1 µs.
 */
export const MAX_EXTENTS = 256;

/** A run of sectors that is either stored or a hole that reads as zeroes. */
export interface Extent {
  /** First sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
  /** Whether nothing is stored there: it reads as zeroes. */
  readonly hole: boolean;
}

/**
 * Completes one request.
 *
 * @param request The request.
 * @param error Why it failed; `null` if it did not.
 */
export type Complete = (request: Request, error: DiskError | null) => void;

/** Something that carries out batches of requests. */
export interface Backend {
  /** The disk's shape. */
  readonly geometry: Geometry;
  /** What it can do. */
  readonly abilities: Abilities;
  /** How large requests may get. */
  readonly limits: Limits;
  /** What it is and why, as plain data. */
  readonly info: BackendInfo;
  /** What it counted so far. */
  readonly counters: Readonly<BackendCounters>;
  /**
   * Carries out a batch. Never throws, also if a callback does: that is thrown
   * again by itself, as an uncaught error, and the other requests go on. A request
   * may be answered before this returns.
   *
   * @param batch The requests; the array is the caller's and valid during the
   * call only.
   * @param complete Called once for each of them.
   */
  submit(batch: readonly Request[], complete: Complete): void;
  /**
   * Tries to stop a submitted request early. It is answered all the same.
   *
   * @param request The request.
   */
  cancel?(request: Request): void;
  /**
   * Where data is stored and where holes are. Without this method, or where it
   * cannot know, everything counts as data, which is always a safe answer. It
   * covers writes that have completed; the queue asks when that is enough.
   *
   * An answer may end before the range does, so that it takes no longer than
   * others can wait, which is about a millisecond: a disk can have a hole on
   * every other page. The caller asks for the rest from there. A backend
   * that has found {@linkcode MAX_EXTENTS} stops.
   *
   * @param sector First sector.
   * @param count Sectors, within the disk.
   * @returns Extents in order, adjoining, from the first sector on and within
   * the range; at least one, if the range is not empty. Holes and data may
   * follow their like.
   */
  extents?(sector: number, count: number): Extent[];
  /**
   * Runs a function during which everything that is submitted is carried out by
   * blocking calls, and answered before `submit` returns. Without this method a
   * disk has no synchronous view, and {@linkcode Backend.asyncOnly} may say why.
   *
   * Requests of both kinds never meet: while any is in flight, or is just being
   * answered, the function is not called. A layer whose own answers need
   * nothing but those of its base runs it inside of its base's method.
   *
   * @param run The function; it submits, and waits for nothing.
   * @returns Whether it was called: not while requests are in flight.
   */
  readonly synchronously?: ((run: () => void) => boolean) | undefined;
  /**
   * Why there is no {@linkcode Backend.synchronously}, as the second half of
   * "Cannot … as …".
   */
  readonly asyncOnly?: string | null;
  /**
   * Memory that moves without a copy.
   *
   * @param byteLength Bytes.
   * @returns The memory, zeroed.
   */
  allocate(byteLength: number): Uint8Array<ArrayBuffer>;
  /**
   * Changes the disk's size; what is new reads as zeroes, what is cut is gone. It
   * is called while no request is in flight, with whole blocks, and not on a disk
   * that is read-only or has {@linkcode Backend.keepsSize}. Without this method,
   * the disk keeps its size.
   *
   * @param sectors Sectors that the disk has afterwards: `geometry` says so, once
   * this is done.
   * @returns When it is done; durable with the next flush.
   * @throws {DiskError} If it cannot be; the disk is as it was then.
   */
  resize?(sectors: number): Promise<void>;
  /**
   * Why the disk keeps its size though there is {@linkcode Backend.resize}, as the
   * second half of "Cannot … as …"; `null` or nothing if it does not.
   */
  readonly keepsSize?: string | null;
  /**
   * Calls a function from then on whenever others have changed the disk's size,
   * which `geometry` says by then. Without this method, nobody else does.
   *
   * @param listener The function, given the sectors; it must not throw.
   */
  onResized?(listener: (sectors: number) => void): void;
  /**
   * Called when the disk begins to close: only requests that the queue has
   * taken already will still be submitted. A backend whose completions may never
   * come bounds the wait for them from now on.
   */
  closing?(): void;
  /**
   * Waits for everything submitted, then releases everything. Idempotent.
   *
   * @returns When it is done.
   */
  close(): Promise<void>;
}

/**
 * Checks a request against a disk: the fifth line of the contract, in the one
 * place that queue, layers and backends share.
 *
 * @param request The request.
 * @param geometry The disk's shape.
 * @param abilities What the disk can do.
 * @param path The image's path, for the error.
 * @returns Why it must be refused, or `null` if it need not.
 */
export function refuse(
  request: Request,
  geometry: Geometry,
  abilities: Abilities,
  path?: string,
): DiskError | null {
  const { type, sector, count } = request;
  switch (type) {
    case RequestType.Flush:
      return abilities.flush === "none"
        ? requestError("unsupported", request, "the disk cannot flush", {
          path,
        })
        : null;
    case RequestType.GetId:
      return !isBytes(request.data) || request.data.length < ID_BYTES
        ? requestError(
          "argument",
          request,
          `the identity needs a buffer of ${ID_BYTES} bytes`,
          { path },
        )
        : null;
    case RequestType.In:
    case RequestType.Out: {
      const refused = refuseMemory(request, path);
      if (refused !== null) return refused;
      break;
    }
    case RequestType.Discard:
    case RequestType.WriteZeroes:
    case RequestType.SecureErase:
      break;
    default:
      return requestError(
        "unsupported",
        request,
        `there is no request type ${type as number}`,
        { path },
      );
  }
  if (
    !Number.isSafeInteger(sector) || !Number.isSafeInteger(count) ||
    sector < 0 || count <= 0
  ) {
    // A count that is no integer comes from memory that is no whole sectors.
    const kind = Number.isSafeInteger(sector) && sector >= 0 &&
        Number.isFinite(count) && count > 0 && !Number.isInteger(count) &&
        Number.isInteger(count * SECTOR_BYTES)
      ? "alignment"
      : "argument";
    return requestError(
      kind,
      request,
      kind === "alignment"
        ? `data must be whole sectors of ${SECTOR_BYTES} bytes: current value is ${
          count * SECTOR_BYTES
        } bytes`
        : "sector and count must be safe integers, with at least one sector",
      { path },
    );
  }
  const blockSectors = geometry.blockSize / SECTOR_BYTES;
  if (sector % blockSectors !== 0 || count % blockSectors !== 0) {
    return requestError(
      "alignment",
      request,
      `it must start and end on blocks of ${geometry.blockSize} bytes (${
        plural(blockSectors, "sector")
      })`,
      { path },
    );
  }
  if (count > geometry.sectors || sector > geometry.sectors - count) {
    return requestError(
      "range",
      request,
      `the disk has ${plural(geometry.sectors, "sector")}`,
      { path },
    );
  }
  // Most requests have one segment, and are right.
  if (
    (type === RequestType.In || type === RequestType.Out) &&
    (request.more.length > 0 || !isIntact(request))
  ) {
    const refused = refuseLengths(request, path);
    if (refused !== null) return refused;
  }
  if (type !== RequestType.In && abilities.readOnly) {
    return requestError("read-only", request, "the disk is read-only", {
      path,
    });
  }
  const ability = type === RequestType.Discard
    ? abilities.discard
    : type === RequestType.WriteZeroes
    ? abilities.writeZeroes
    : type === RequestType.SecureErase
    ? abilities.secureErase
    : "native";
  if (ability === "none") {
    return requestError("unsupported", request, "the disk cannot do that", {
      path,
    });
  }
  return null;
}

/**
 * Refuses what is no backend, such as the disk over one, before any of it is
 * looked at.
 *
 * @param task What it is for, as the error names it.
 * @param value What was given as a backend.
 * @throws {TypeError} If it is none.
 */
export function checkBackend(task: string, value: unknown): void {
  // Of what a backend must have, these are what no disk has.
  const { abilities, limits } = Object(value) as Partial<Backend>;
  if (abilities !== undefined && limits !== undefined) return;
  throw new TypeError(
    `Cannot ${task} as what it lies over must be a Backend: current value is ${
      describeValue(value)
    }`,
  );
}

/** Memory that is none: its `length`, if it has one, counts something else. */
function refuseMemory(request: Request, path?: string): DiskError | null {
  const { data, more } = request;
  if (isBytes(data) && Array.isArray(more)) {
    for (let i = 0; i < more.length; i++) {
      if (isBytes(more[i])) continue;
      return refuseValue(request, `segment ${i + 1}`, more[i], path);
    }
    return null;
  }
  return isBytes(data)
    ? refuseValue(request, "its further segments", more, path)
    : refuseValue(request, "its memory", data, path);
}

/** Segments that are not as many bytes as there should be, or no whole sectors. */
function refuseLengths(request: Request, path?: string): DiskError | null {
  let bytes = 0;
  let torn: number | null = null;
  for (let i = 0; i < request.segmentCount; i++) {
    const { length } = request.segment(i);
    if (length % SECTOR_BYTES !== 0) torn ??= length;
    bytes += length;
  }
  const wanted = request.count * SECTOR_BYTES;
  if (bytes !== wanted) {
    const detached = bytes === 0 ? " (was it detached?)" : "";
    const is = `current value is ${bytes}${detached}`;
    const reason = `its memory must be ${wanted} bytes: ${is}`;
    return requestError("argument", request, reason, { path });
  }
  return torn === null ? null : requestError(
    "alignment",
    request,
    `every segment must be whole sectors of ${SECTOR_BYTES} bytes: current value is ${
      plural(torn, "byte")
    }`,
    { path },
  );
}

function refuseValue(
  request: Request,
  what: string,
  value: unknown,
  path?: string,
): DiskError {
  return requestError(
    "argument",
    request,
    `${what} must be bytes in a Uint8Array: current value is ${
      describeValue(value)
    }`,
    { path },
  );
}

/**
 * The error for a request whose memory was detached or resized after it was
 * submitted: nothing is copied from or to it from then on. What defers a
 * request beyond the call of `submit` checks this right before it goes on.
 *
 * @param request The request.
 * @param path The image's path.
 * @returns The error; `null` if the memory is as it was.
 */
export function refuseChanged(
  request: Request,
  path?: string,
): DiskError | null {
  return isIntact(request) ? null : changedError(request, path);
}

/**
 * Why a backend has no synchronous view.
 *
 * @param backend The backend.
 * @returns The second half of "Cannot … as …"; `null` if it has one.
 */
export function whyAsyncOnly(backend: Backend): string | null {
  if (backend.synchronously !== undefined) return null;
  return backend.asyncOnly ??
    `the backend "${backend.info.backend}" has no blocking calls`;
}

/**
 * Why a backend keeps its size.
 *
 * @param backend The backend.
 * @returns The second half of "Cannot … as …"; `null` if it does not.
 */
export function whyKeepsSize(backend: Backend): string | null {
  return backend.keepsSize ??
    (backend.resize === undefined ? KEEPS_ITS_SIZE : null);
}
