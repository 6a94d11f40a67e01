/**
 * Web streams over a range of a disk, with several chunks in flight, so that a
 * sequential copy is bound by the disk's bandwidth and not by its latency.
 *
 * @module
 */

import { describeValue, DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { plural } from "../plural.ts";
import { restFrom } from "./view.ts";

/** How a stream moves over a disk. */
export interface StreamOptions {
  /**
   * First sector.
   *
   * @default {0}
   */
  sector?: number | undefined;
  /** Sectors; the rest of the disk by default. */
  count?: number | undefined;
  /**
   * Sectors of one chunk, rounded up to whole blocks.
   *
   * @default {2048}
   */
  chunkSectors?: number | undefined;
  /**
   * Chunks in flight at once.
   *
   * @default {4}
   */
  depth?: number | undefined;
  /**
   * Ends the stream with the signal's reason, also once all was asked for: after
   * the chunk that it has ready, if it is read; at its next chunk or at its close,
   * if it is written. What was written by then stays written.
   */
  signal?: AbortSignal | undefined;
}

/** How a stream writes to a disk. */
export interface WritableStreamOptions extends StreamOptions {
  /**
   * Whether closing the stream flushes the disk.
   *
   * @default {true, for a disk that can flush}
   */
  flush?: boolean | undefined;
}

/** What streams need of a disk. */
export interface StreamableDisk {
  /** Capacity in sectors. */
  readonly sectors: number;
  /** Logical block size in bytes. */
  readonly blockSize: number;
  /** Memory that moves without a copy. */
  allocate(sectors: number): Uint8Array<ArrayBuffer>;
  /** Reads sectors into memory. */
  readInto(
    sector: number,
    buffer: Uint8Array,
    options?: { signal?: AbortSignal },
  ): Promise<void>;
  /** Writes memory to sectors. */
  write(
    sector: number,
    data: Uint8Array,
    options?: { signal?: AbortSignal },
  ): Promise<void>;
  /** Makes every write before it durable. */
  flush(): Promise<void>;
}

const DEFAULT_CHUNK_SECTORS = 2048;
const DEFAULT_DEPTH = 4;

interface Range {
  start: number;
  end: number;
  chunk: number;
  depth: number;
}

function rangeOf(disk: StreamableDisk, options: StreamOptions): Range {
  const blockSectors = disk.blockSize / SECTOR_BYTES;
  const {
    sector: start = 0,
    count = restFrom(disk.sectors, start),
    chunkSectors: chunk = DEFAULT_CHUNK_SECTORS,
    depth = DEFAULT_DEPTH,
  } = options;
  for (
    const [name, value, least] of [
      ["sector", start, 0],
      ["count", count, 0],
      ["chunkSectors", chunk, 1],
      ["depth", depth, 1],
    ] as const
  ) {
    if (!Number.isSafeInteger(value) || value < least) {
      throw new RangeError(
        `Cannot make a stream as ${name} must be a safe integer ≥ ${least}: current value is ${
          typeof value === "number" ? value : describeValue(value)
        }`,
      );
    }
  }
  if (start + count > disk.sectors) {
    throw new DiskError(
      "range",
      `Cannot make a stream of ${
        plural(count, "sector")
      } at sector ${start} as the disk has ${plural(disk.sectors, "sector")}`,
      { operation: "stream", sector: start, count },
    );
  }
  if (start % blockSectors !== 0 || count % blockSectors !== 0) {
    throw new DiskError(
      "alignment",
      `Cannot make a stream of ${
        plural(count, "sector")
      } at sector ${start} as it must start and end on blocks of ${disk.blockSize} bytes`,
      { operation: "stream", sector: start, count },
    );
  }
  return {
    start,
    end: start + count,
    chunk: Math.ceil(chunk / blockSectors) * blockSectors,
    depth,
  };
}

/**
 * A stream of a disk's sectors. Every chunk is memory of its own.
 *
 * @param disk The disk.
 * @param options Where, and how far to read ahead.
 * @returns The stream.
 * @throws {DiskError} If the range is not on the disk.
 * @throws {RangeError} If a number is out of its range, or none.
 */
export function readableStream(
  disk: StreamableDisk,
  options: StreamOptions = {},
): ReadableStream<Uint8Array<ArrayBuffer>> {
  const { start, end, chunk, depth } = rangeOf(disk, options);
  const signal = options.signal;
  interface Ahead {
    data: Uint8Array<ArrayBuffer>;
    done: Promise<void>;
  }
  const ahead: Ahead[] = [];
  let next = start;
  const fill = () => {
    while (ahead.length < depth && next < end) {
      const sectors = Math.min(chunk, end - next);
      const data = disk.allocate(sectors);
      const done = disk.readInto(next, data, signal ? { signal } : {});
      // It is awaited when its turn comes; until then a failure waits too.
      done.catch(() => {});
      ahead.push({ data, done });
      next += sectors;
    }
  };
  return new ReadableStream({
    async pull(controller) {
      signal?.throwIfAborted();
      fill();
      const first = ahead[0];
      // Not with the last chunk, which may lie there until the signal fires.
      if (first === undefined) return controller.close();
      await first.done;
      // Cancelled meanwhile.
      if (ahead.shift() === undefined) return;
      signal?.throwIfAborted();
      controller.enqueue(first.data);
      fill();
    },
    async cancel() {
      next = end;
      await Promise.allSettled(ahead.splice(0).map(({ done }) => done));
    },
  }, { highWaterMark: 1 });
}

/**
 * A stream into a disk's sectors. Chunks of any length are packed into whole
 * ones; their memory is free again as soon as the stream has taken them.
 *
 * A failed write ends the stream at the next chunk or at its close. What was
 * written by then stays written.
 *
 * @param disk The disk.
 * @param options Where, and how many chunks to have in flight.
 * @returns The stream.
 * @throws {DiskError} If the range is not on the disk.
 * @throws {RangeError} If a number is out of its range, or none.
 */
export function writableStream(
  disk: StreamableDisk,
  options: WritableStreamOptions = {},
): WritableStream<Uint8Array> {
  const { start, end, chunk, depth } = rangeOf(disk, options);
  const { flush = true, signal } = options;
  const free: Uint8Array<ArrayBuffer>[] = [];
  const inFlight = new Set<Promise<void>>();
  let made = 0;
  let failed: { error: unknown } | null = null;
  let next = start;
  let current: Uint8Array<ArrayBuffer> | null = null;
  let filled = 0;
  /** Bytes of each chunk that waits, as it was when it was given. */
  const lengths: number[] = [];

  const send = (data: Uint8Array<ArrayBuffer>, bytes: number) => {
    const done = disk.write(
      next,
      bytes === data.length ? data : data.subarray(0, bytes),
      signal ? { signal } : {},
    ).catch((error) => {
      failed ??= { error };
    }).finally(() => {
      inFlight.delete(done);
      free.push(data);
    });
    inFlight.add(done);
    next += bytes / SECTOR_BYTES;
  };
  const buffer = async (): Promise<Uint8Array<ArrayBuffer>> => {
    if (free.length === 0 && made < depth) {
      made++;
      // No chunk after one that is shorter: its range ends with it.
      return disk.allocate(Math.min(chunk, end - next));
    }
    while (free.length === 0) await Promise.race(inFlight);
    return free.pop()!;
  };
  const settle = async () => {
    await Promise.all(inFlight);
    signal?.throwIfAborted();
    if (failed !== null) throw failed.error;
  };

  return new WritableStream<Uint8Array>({
    async write(bytes) {
      // An ArrayBuffer has no length: it would be taken for nothing.
      if (!(bytes instanceof Uint8Array)) {
        throw new TypeError(
          "Cannot write to the stream as its chunks must be Uint8Arrays",
        );
      }
      const { length } = bytes;
      const given = lengths.shift()!;
      // Detached or resized, it would be taken for less, and what comes after it
      // lie where it belongs.
      const check = async () => {
        if (bytes.length === given) return;
        await settle();
        throw new DiskError(
          "argument",
          `Cannot write ${
            plural(given, "byte")
          } to the stream as their memory was detached or resized`,
          { operation: "stream", sector: next },
        );
      };
      await check();
      const left = (end - next) * SECTOR_BYTES - filled;
      if (bytes.length > left) {
        await settle();
        throw new DiskError(
          "range",
          `Cannot write ${
            plural(bytes.length, "byte")
          } to the stream as there is room for ${left} in its range`,
          { operation: "stream", sector: next },
        );
      }
      for (let from = 0; from < length;) {
        if (failed !== null || signal?.aborted) await settle();
        current ??= await buffer();
        await check();
        const size = Math.min(current.length - filled, length - from);
        current.set(bytes.subarray(from, from + size), filled);
        filled += size;
        from += size;
        if (filled === current.length) {
          send(current, filled);
          current = null;
          filled = 0;
        }
      }
    },
    async close() {
      if (current !== null && filled > 0) {
        if (filled % disk.blockSize !== 0) {
          await settle();
          throw new DiskError(
            "alignment",
            `Cannot end the stream as its data must be whole blocks of ${disk.blockSize} bytes: the last one has ${
              filled % disk.blockSize
            }`,
            { operation: "stream", sector: next },
          );
        }
        send(current, filled);
      }
      await settle();
      if (flush) await disk.flush();
    },
    async abort() {
      await Promise.allSettled(inFlight);
    },
  }, {
    highWaterMark: 1,
    size(bytes) {
      lengths.push(bytes?.byteLength);
      return 1;
    },
  });
}
