/**
 * The measuring loop that every contender written in JavaScript runs in, ours
 * and its peers, in Deno and in Node. Plain JavaScript, so that Node takes it
 * as it is.
 *
 * @module
 */

import process from "node:process";

/** Sub-buckets of a power of two: values are kept to about 1.6%. */
const SUB_BUCKETS = 64;

/** Counts durations in a fixed amount of memory, as fio does. */
export class Histogram {
  #counts = new Float64Array(SUB_BUCKETS * 27);
  /** Durations recorded. */
  total = 0;

  /**
   * Records a duration.
   *
   * @param {number} nanoseconds The duration.
   */
  record(nanoseconds) {
    const value = Math.min(nanoseconds, 0x7fff_ffff) | 0;
    // Below two rows of sub-buckets every value has its own; above, each row
    // is a power of two.
    const shift = Math.max(0, 25 - Math.clz32(value | 1));
    this.#counts[shift * SUB_BUCKETS + (value >>> shift)]++;
    this.total++;
  }

  /**
   * Finds a percentile.
   *
   * @param {number} percent Which one.
   * @returns {number} The duration in nanoseconds, in the middle of its bucket.
   */
  percentile(percent) {
    const rank = Math.max(1, Math.ceil(this.total * percent / 100));
    let seen = 0;
    for (let i = 0; i < this.#counts.length; i++) {
      seen += this.#counts[i];
      if (seen >= rank) {
        const shift = Math.max(0, Math.floor(i / SUB_BUCKETS) - 1);
        return (i - shift * SUB_BUCKETS + 0.5) * 2 ** shift;
      }
    }
    return 0;
  }
}

/**
 * Where requests go: whole blocks of an image, at random or one after another.
 *
 * @param {{ order: string, bytes: number, blockBytes: number, seed: number }} work
 * @returns {() => number} The next block's number.
 */
export function placesOf({ order, bytes, blockBytes, seed }) {
  const blocks = Math.floor(bytes / blockBytes);
  if (order === "sequential") {
    let next = 0;
    return () => {
      if (next === blocks) next = 0;
      return next++;
    };
  }
  // xorshift32: its period is far beyond what a run needs.
  let state = seed | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return Math.floor((state >>> 0) / 0x1_0000_0000 * blocks);
  };
}

/**
 * Keeps operations in flight for a while and measures all but the warm-up.
 *
 * @param {{
 *   depth: number,
 *   seconds: number,
 *   warmUpSeconds: number,
 *   blockBytes: number,
 *   timed?: boolean,
 * }} work How many at once, and for how long. Without `timed`, the clock is
 * read at every 64th operation only, and there are no percentiles.
 * @param {(slot: number) => Promise<unknown>} one Carries out one operation.
 */
export async function runLoop(work, one) {
  const { depth, timed = true } = work;
  const histogram = new Histogram();
  const begin = performance.now();
  const warm = begin + work.warmUpSeconds * 1000;
  const deadline = warm + work.seconds * 1000;
  let operations = 0;
  let startedAt = 0;
  let endedAt = 0;
  let cpu = process.cpuUsage();
  /** @param {number} now */
  const start = (now) => {
    startedAt = now;
    cpu = process.cpuUsage();
  };
  /** @param {number} slot */
  const timedLoop = async (slot) => {
    let from = performance.now();
    while (from < deadline) {
      await one(slot);
      const to = performance.now();
      if (startedAt > 0) {
        operations++;
        endedAt = to;
        histogram.record((to - from) * 1e6);
      } else if (to >= warm) {
        start(to);
      }
      from = to;
    }
  };
  /** @param {number} slot */
  const untimedLoop = async (slot) => {
    for (let now = begin; now < deadline;) {
      for (let i = 0; i < 64; i++) await one(slot);
      now = performance.now();
      if (startedAt > 0) {
        operations += 64;
        endedAt = now;
      } else if (now >= warm) {
        start(now);
      }
    }
  };
  const loop = timed ? timedLoop : untimedLoop;
  await Promise.all(Array.from({ length: depth }, (_, slot) => loop(slot)));
  const { user, system } = process.cpuUsage(cpu);
  return {
    operations,
    bytes: operations * work.blockBytes,
    seconds: Math.max(endedAt - startedAt, 1e-6) / 1000,
    cpuSeconds: (user + system) / 1e6,
    latency: histogram.total === 0 ? null : {
      p50: histogram.percentile(50) / 1000,
      p99: histogram.percentile(99) / 1000,
      p999: histogram.percentile(99.9) / 1000,
    },
  };
}
