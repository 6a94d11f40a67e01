/**
 * How a request queue is set up, and what it counts.
 *
 * @module
 */

import { isPowerOfTwo } from "./geometry.ts";
import type { Request } from "./request.ts";

/** The most requests that a queue can hold. */
const MAX_QUEUE_SIZE = 1024;

/** The queue size of a disk that is opened without one. */
export const DEFAULT_QUEUE_SIZE = 128;

/** How a queue is set up. */
export interface QueueOptions {
  /**
   * Requests that the backend may have at once, a power of two up to 1,024.
   *
   * @default {128}
   */
  queueSize?: number | undefined;
  /**
   * `"writethrough"` makes every write durable when it completes.
   *
   * @default {"writeback"}
   */
  writeCache?: "writeback" | "writethrough" | undefined;
  /**
   * Called with each request that is submitted, inside the caller's own call:
   * the place to learn who made it. It must neither throw nor submit.
   */
  onSubmit?: ((request: Request) => void) | undefined;
  /**
   * Called before the queue settles a promise without its backend having been
   * given a request: one that is refused, or a question after extents. The
   * promise settles at once if it returns `null`, else once the returned promise
   * settles; if that rejects, a question after extents rejects with the same
   * reason. So a caller that only ever asks for what is refused can be kept from
   * starving the event loop.
   */
  throttle?: (() => Promise<void> | null) | undefined;
}

/**
 * Checks how a queue is to be set up, before there is anything to close again.
 *
 * @param options How.
 * @throws {RangeError} If the queue size is no power of two up to 1,024.
 * @throws {TypeError} If the write cache is none that there is.
 */
export function checkQueueOptions(options: QueueOptions): void {
  const { queueSize = DEFAULT_QUEUE_SIZE, writeCache = "writeback" } = options;
  if (!isPowerOfTwo(queueSize) || queueSize > MAX_QUEUE_SIZE) {
    throw new RangeError(
      `Cannot make a queue as its size must be a power of two up to ${MAX_QUEUE_SIZE}: current value is ${queueSize}`,
    );
  }
  if (writeCache !== "writeback" && writeCache !== "writethrough") {
    throw new TypeError(
      `Cannot make a queue as writeCache must be one of "writeback", "writethrough": current value is ${
        JSON.stringify(writeCache)
      }`,
    );
  }
}

/** What a queue counted since it was made. */
export interface QueueCounters {
  /** Requests completed. */
  requests: number;
  /** Batches handed to the backend. */
  batches: number;
  /** Requests that travelled inside a merged one. */
  merged: number;
  /** Flushes that the backend carried out (several requests may share one). */
  flushes: number;
  /** Bytes that completed reads returned. */
  bytesRead: number;
  /** Bytes that completed writes took, zeroes without data not counted. */
  bytesWritten: number;
  /** Requests that failed. */
  errors: number;
}
