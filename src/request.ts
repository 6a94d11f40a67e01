/**
 * One request to a disk, with virtio-blk's numbers. It is made once and goes
 * by reference through queue, layers and backend; it is never copied on the way.
 *
 * Numbers: OASIS virtio 1.3 §5.2.6 "Device Operation", `virtio_blk_req`.
 *
 * @module
 */

import type { DiskError } from "./errors.ts";
import { SECTOR_BYTES } from "./geometry.ts";

/** What a request asks for (virtio-blk's `VIRTIO_BLK_T_*`). */
export const RequestType = {
  /** Read sectors. */
  In: 0,
  /** Write sectors. */
  Out: 1,
  /** Make every write that completed before durable. */
  Flush: 4,
  /** Read the 20 bytes of the disk's identity. */
  GetId: 8,
  /** The content of the sectors is not needed any more. */
  Discard: 11,
  /** Make the sectors read as zeroes. */
  WriteZeroes: 13,
  /** Make the content of the sectors unrecoverable. */
  SecureErase: 14,
} as const;

/** What a request asks for. */
export type RequestType = typeof RequestType[keyof typeof RequestType];

/** How a request ended (virtio-blk's `VIRTIO_BLK_S_*`). */
export const Status = {
  /** Done, wholly. */
  Ok: 0,
  /** Failed; what it was to write may or may not be there. */
  IoErr: 1,
  /** The disk cannot do that; nothing happened. */
  Unsupp: 2,
} as const;

/** How a request ended. */
export type Status = typeof Status[keyof typeof Status];

/** Bits of {@linkcode Request.flags}. */
export const RequestFlag = {
  /** Force unit access: durable when it completes. */
  Fua: 1,
  /** A write of zeroes may deallocate (virtio-blk's `unmap`). */
  Unmap: 2,
} as const;

/** Bytes of a disk's identity (virtio-blk's `VIRTIO_BLK_ID_BYTES`). */
export const ID_BYTES = 20;

const NO_SEGMENTS: readonly Uint8Array[] = [];

/**
 * The owner of a request that a queue has merged of several. If it fails they come
 * again, each by itself; unless it has FUA, which fails them all.
 */
export class MergedRequests {
  /** The queue's entries. */
  readonly parts: readonly object[];

  /**
   * Constructs a new instance.
   *
   * @param parts The queue's entries.
   */
  constructor(parts: readonly object[]) {
    this.parts = parts;
  }
}

/** One request: what, where, and whose memory. */
export class Request {
  /** What it asks for. */
  readonly type: RequestType;
  /** First sector. */
  readonly sector: number;
  /** Sectors; 0 for a flush and for the identity. */
  readonly count: number;
  /**
   * Bits of {@linkcode RequestFlag}. A write-through disk sets
   * {@linkcode RequestFlag.Fua} on writes that it is given.
   */
  flags: number;
  /** First segment of memory, for requests that move data. */
  readonly data: Uint8Array | null;
  /** Further segments (scatter-gather), in the order of the sectors. */
  readonly more: readonly Uint8Array[];
  /** How it ended; `undefined` until then. */
  status: Status | undefined = undefined;
  #error: DiskError | (() => DiskError) | null = null;
  /**
   * User data of its submitter, by which the completion finds its state: a
   * queue's, or a layer's for requests that it makes. `null` while the request is
   * not in flight; one that has an owner cannot be submitted again.
   */
  owner: object | null = null;

  /**
   * Constructs a new instance. {@linkcode readRequest} and its siblings are
   * the short way.
   *
   * @param type What it asks for.
   * @param sector First sector.
   * @param count Sectors.
   * @param flags Bits of {@linkcode RequestFlag}.
   * @param data First segment.
   * @param more Further segments.
   */
  constructor(
    type: RequestType,
    sector: number,
    count: number,
    flags: number = 0,
    data: Uint8Array | null = null,
    more: readonly Uint8Array[] = NO_SEGMENTS,
  ) {
    this.type = type;
    this.sector = sector;
    this.count = count;
    this.flags = flags;
    this.data = data;
    this.more = more;
  }

  /**
   * Why it failed; `null` if it did not. It may be set to a function that makes
   * the error, which costs more than the rest of a completion: the first read
   * calls it.
   */
  get error(): DiskError | null {
    if (typeof this.#error === "function") this.#error = this.#error();
    return this.#error;
  }

  set error(error: DiskError | (() => DiskError) | null) {
    this.#error = error;
  }

  /** Number of segments. */
  get segmentCount(): number {
    return this.data === null ? 0 : 1 + this.more.length;
  }

  /**
   * One segment.
   *
   * @param index From 0 to `segmentCount - 1`.
   * @returns Its memory.
   */
  segment(index: number): Uint8Array {
    return index === 0 ? this.data! : this.more[index - 1]!;
  }

  /** Whether it changes the disk's content. */
  get writes(): boolean {
    return this.type === RequestType.Out ||
      this.type === RequestType.WriteZeroes ||
      this.type === RequestType.Discard ||
      this.type === RequestType.SecureErase;
  }

  /** Whether it must be durable when it completes. */
  get fua(): boolean {
    return (this.flags & RequestFlag.Fua) !== 0;
  }
}

/**
 * Tells whether a request's memory still is what it was made with: memory can
 * be detached (`structuredClone`, `postMessage`, `transfer()`) or resized while
 * the request waits. It is checked right before each copy from or to it.
 *
 * @param request The request.
 * @returns Whether all of its bytes are there.
 */
export function isIntact(request: Request): boolean {
  const { type, data, more } = request;
  if (data === null) return type !== RequestType.In && type !== RequestType.Out;
  let bytes = data.length;
  for (let i = 0; i < more.length; i++) bytes += more[i]!.length;
  return bytes === request.count * SECTOR_BYTES ||
    type === RequestType.GetId && bytes >= ID_BYTES;
}

/**
 * Tells whether something is memory that a request can have: bytes, and not
 * wider elements, an array of numbers or a string, whose `length` would be
 * taken for bytes.
 *
 * @param value Anything.
 * @returns Whether it is.
 */
export function isBytes(value: unknown): value is Uint8Array {
  // Not `instanceof`, which does not know those of other realms. A DataView has
  // no elements, and signed bytes are bytes all the same.
  return ArrayBuffer.isView(value) &&
    (value as Uint8Array).BYTES_PER_ELEMENT === 1;
}

/**
 * A request to read sectors into memory.
 *
 * @param sector First sector.
 * @param segments Memory, whole blocks together.
 * @returns The request.
 *
 * @example Two segments, one request
 * ```ts
 * import { readRequest, Status, VirtualDisk } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * await using disk = VirtualDisk.memory({ sectors: 8 });
 * const header = new Uint8Array(512);
 * const body = new Uint8Array(1024);
 * assertEquals(await disk.submit(readRequest(0, header, body)), Status.Ok);
 * ```
 */
export function readRequest(
  sector: number,
  ...segments: Uint8Array[]
): Request {
  return transfer(RequestType.In, sector, 0, segments);
}

/**
 * A request to write memory to sectors.
 *
 * @param sector First sector.
 * @param segments Memory, whole blocks together.
 * @returns The request.
 */
export function writeRequest(
  sector: number,
  ...segments: Uint8Array[]
): Request {
  return transfer(RequestType.Out, sector, 0, segments);
}

/**
 * A request to write memory to sectors, durable when it completes (FUA).
 *
 * @param sector First sector.
 * @param segments Memory, whole blocks together.
 * @returns The request.
 */
export function writeFuaRequest(
  sector: number,
  ...segments: Uint8Array[]
): Request {
  return transfer(RequestType.Out, sector, RequestFlag.Fua, segments);
}

/**
 * A request to make everything durable that was submitted before.
 *
 * @returns The request.
 */
export function flushRequest(): Request {
  return new Request(RequestType.Flush, 0, 0);
}

/**
 * A request to give up the content of sectors.
 *
 * @param sector First sector.
 * @param count Sectors.
 * @returns The request.
 */
export function discardRequest(sector: number, count: number): Request {
  return new Request(RequestType.Discard, sector, count);
}

/**
 * A request to make sectors read as zeroes.
 *
 * @param sector First sector.
 * @param count Sectors.
 * @param flags Bits of {@linkcode RequestFlag}.
 * @returns The request.
 */
export function writeZeroesRequest(
  sector: number,
  count: number,
  flags: number = 0,
): Request {
  return new Request(RequestType.WriteZeroes, sector, count, flags);
}

function transfer(
  type: RequestType,
  sector: number,
  flags: number,
  segments: Uint8Array[],
): Request {
  let bytes = 0;
  // What is no memory is refused when it is submitted, and makes no number here.
  for (const segment of segments) {
    bytes += isBytes(segment) ? segment.length : NaN;
  }
  return new Request(
    type,
    sector,
    bytes / SECTOR_BYTES,
    flags,
    segments[0] ?? null,
    segments.length > 1 ? segments.slice(1) : NO_SEGMENTS,
  );
}

/**
 * The verb for a request type, as errors and traces name it.
 *
 * @param type The type.
 * @returns For example `"write"`.
 */
export function operationName(type: RequestType): string {
  switch (type) {
    case RequestType.In:
      return "read";
    case RequestType.Out:
      return "write";
    case RequestType.Flush:
      return "flush";
    case RequestType.GetId:
      return "get id";
    case RequestType.Discard:
      return "discard";
    case RequestType.WriteZeroes:
      return "write zeroes";
    case RequestType.SecureErase:
      return "secure erase";
  }
}
