/**
 * The model: a disk in this process' memory. It is sparse, answers before
 * `submit` returns, and does each thing in the plainest way, as the other
 * backends are compared to it.
 *
 * @module
 */

import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Extent,
  type Limits,
  MAX_EXTENTS,
  refuse,
} from "../backend.ts";
import { clear, gather, offsetMemory, scatter } from "../buffer.ts";
import { type DiskSize, sectorsOf } from "../disk_size.ts";
import { type Geometry, makeGeometry, SECTOR_BYTES } from "../geometry.ts";
import type { BackendInfo } from "../info.ts";
import { memoryInfo } from "./memory_info.ts";
import { type Request, RequestFlag, RequestType } from "../request.ts";
import { closedError, requestError } from "../request_error.ts";
import { encodeId } from "../virtio.ts";
import { keepOnThread } from "../one_thread.ts";
import { allStored, someStored } from "../stored_chunks.ts";
import { answerRequest } from "../throw_later.ts";

/** Bytes of a chunk, the unit of storage: the largest block size. */
const CHUNK_BYTES = 65_536;

/**
 * How to make a {@linkcode MemoryBackend}; how large, by `sectors` or by `size`.
 */
export interface MemoryBackendOptions extends DiskSize {
  /**
   * Logical block size in bytes.
   *
   * @default {512}
   */
  blockSize?: number | undefined;
  /** Physical block size in bytes; the logical one if not given. */
  physicalBlockSize?: number | undefined;
  /**
   * Whether writes are refused.
   *
   * @default {false}
   */
  readOnly?: boolean | undefined;
  /**
   * Identity, up to 20 ASCII characters.
   *
   * @default {"memory"}
   */
  id?: string | undefined;
}

/** A disk in memory. What was never written costs nothing. */
export class MemoryBackend implements Backend {
  /** The disk's shape. */
  get geometry(): Geometry {
    return this.#geometry;
  }
  /** What it can do. */
  readonly abilities: Abilities;
  /** How large requests may get. */
  readonly limits: Limits = { maxSegments: 1024, maxBytes: 16 << 20 };
  /** What it is and why. */
  readonly info: BackendInfo;
  /** What it counted so far: nothing, as nothing it counts happens here. */
  readonly counters: Readonly<BackendCounters> = {
    systemCalls: 0,
    bounced: 0,
    readModifyWrites: 0,
  };
  #geometry: Geometry;
  readonly #id: Uint8Array;
  /** What was written, by the index of its chunk; the rest are zeroes. */
  readonly #chunks = new Map<number, Uint8Array>();
  #closed = false;

  /**
   * Constructs a new instance.
   *
   * @param options Its shape.
   * @throws {RangeError} If it cannot have that shape or identity.
   * @throws {TypeError} If there are both or neither of `sectors` and `size`.
   */
  constructor(options: MemoryBackendOptions) {
    const { blockSize, physicalBlockSize, id = "memory" } = options;
    this.#geometry = makeGeometry(
      sectorsOf(options, "make a disk in memory"),
      blockSize,
      physicalBlockSize === undefined ? {} : { physicalBlockSize },
    );
    this.#id = encodeId(id);
    this.abilities = {
      readOnly: options.readOnly ?? false,
      flush: "native",
      fua: "native",
      discard: "native",
      writeZeroes: "native",
      secureErase: "native",
    };
    this.info = memoryInfo(
      "memory",
      id,
      "the disk ends with this process",
      "nobody else can reach the disk",
    );
    keepOnThread(this, "a MemoryBackend");
  }

  /** Bytes of memory in use for the disk's content. */
  get storedBytes(): number {
    return this.#chunks.size * CHUNK_BYTES;
  }

  /**
   * Carries out a batch, in its order and before it returns.
   *
   * @param batch The requests.
   * @param complete Called once for each of them.
   */
  submit(batch: readonly Request[], complete: Complete): void {
    for (const request of batch) {
      if (this.#closed) {
        answerRequest(request, closedError(request), complete);
        continue;
      }
      let error = refuse(request, this.geometry, this.abilities);
      try {
        if (error === null) this.#carryOut(request);
      } catch (cause) {
        // Under a limit on memory, or where there is none left.
        const reason = `there is no memory for it: ${cause}`;
        error = requestError("no-space", request, reason, { cause });
      }
      answerRequest(request, error, complete);
    }
  }

  /**
   * Runs a function during which requests are answered before `submit` returns,
   * as they always are.
   *
   * @param run The function.
   * @returns `true`.
   */
  synchronously(run: () => void): boolean {
    run();
    return true;
  }

  /**
   * Where data is stored and where holes are.
   *
   * @param sector First sector.
   * @param count Sectors, within the disk.
   * @returns Extents in order, adjoining; they may end before the range does.
   */
  extents(sector: number, count: number): Extent[] {
    if (count === 0) return [];
    const chunkSectors = CHUNK_BYTES / SECTOR_BYTES;
    const { indexes, last: seen } = someStored(
      this.#chunks,
      ...chunksOf(sector, count),
    );
    const end = Math.min(sector + count, (seen + 1) * chunkSectors);
    const extents: Extent[] = [];
    const add = (from: number, to: number, hole: boolean) => {
      if (from >= to) return;
      const last = extents.at(-1);
      if (last !== undefined && last.hole === hole) {
        extents.pop();
        extents.push({ ...last, count: to - last.sector });
      } else {
        extents.push({ sector: from, count: to - from, hole });
      }
    };
    let at = sector;
    for (const index of indexes) {
      if (extents.length + 2 > MAX_EXTENTS) return extents;
      const from = Math.max(sector, index * chunkSectors);
      const to = Math.min(end, (index + 1) * chunkSectors);
      add(at, from, true);
      add(from, to, false);
      at = to;
    }
    add(at, end, true);
    return extents;
  }

  /**
   * Changes the disk's size.
   *
   * @param sectors Sectors that the disk has afterwards.
   * @returns When it is done.
   */
  resize(sectors: number): Promise<void> {
    const end = sectors * SECTOR_BYTES;
    for (const [index, chunk] of this.#chunks) {
      const start = index * CHUNK_BYTES;
      if (start >= end) this.#chunks.delete(index);
      else if (start + CHUNK_BYTES > end) chunk.fill(0, end - start);
    }
    this.#geometry = { ...this.#geometry, sectors };
    return Promise.resolve();
  }

  /**
   * Memory that moves without a copy: any does as well as any other.
   *
   * @param byteLength Bytes.
   * @returns The memory, zeroed.
   */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return offsetMemory(byteLength);
  }

  /**
   * Gives the disk's content up. Idempotent.
   *
   * @returns When it is done.
   */
  close(): Promise<void> {
    this.#closed = true;
    this.#chunks.clear();
    return Promise.resolve();
  }

  #carryOut(request: Request): void {
    switch (request.type) {
      case RequestType.In:
        return this.#read(request);
      case RequestType.Out:
        return this.#write(request);
      case RequestType.GetId:
        return request.data!.set(this.#id);
      case RequestType.WriteZeroes:
        return this.#zero(
          request,
          (request.flags & RequestFlag.Unmap) !== 0,
        );
      case RequestType.Discard:
      case RequestType.SecureErase:
        return this.#zero(request, true);
      case RequestType.Flush:
        return;
    }
  }

  #read(request: Request): void {
    walkChunks(request, (index, start, end, at) => {
      const chunk = this.#chunks.get(index);
      if (chunk === undefined) clear(request, at, end - start);
      else scatter(request, at, chunk.subarray(start, end));
    });
  }

  #write(request: Request): void {
    walkChunks(request, (index, start, end, at) => {
      let chunk = this.#chunks.get(index);
      if (chunk === undefined) {
        chunk = new Uint8Array(CHUNK_BYTES);
        this.#chunks.set(index, chunk);
      }
      gather(request, at, chunk.subarray(start, end));
    });
  }

  /** Makes sectors zero; drops the chunks that they fill if that is allowed. */
  #zero(request: Request, drop: boolean): void {
    const first = request.sector * SECTOR_BYTES;
    const last = first + request.count * SECTOR_BYTES;
    const [head, tail] = chunksOf(request.sector, request.count);
    for (const index of allStored(this.#chunks, head, tail)) {
      const base = index * CHUNK_BYTES;
      const start = Math.max(first - base, 0);
      const end = Math.min(last - base, CHUNK_BYTES);
      this.#chunks.get(index)!.fill(0, start, end);
      if (drop && end - start === CHUNK_BYTES) this.#chunks.delete(index);
    }
  }
}

/** The first and the last chunk of a range. */
function chunksOf(sector: number, count: number): [number, number] {
  const chunkSectors = CHUNK_BYTES / SECTOR_BYTES;
  return [
    Math.floor(sector / chunkSectors),
    Math.floor((sector + count - 1) / chunkSectors),
  ];
}

/** Visits the part of each chunk that a request covers; `at` is in its data. */
function walkChunks(
  request: Request,
  visit: (index: number, start: number, end: number, at: number) => void,
): void {
  const first = request.sector * SECTOR_BYTES;
  const last = first + request.count * SECTOR_BYTES;
  for (let from = first; from < last;) {
    const index = Math.floor(from / CHUNK_BYTES);
    const base = index * CHUNK_BYTES;
    const to = Math.min(last, base + CHUNK_BYTES);
    visit(index, from - base, to - base, from - first);
    from = to;
  }
}
