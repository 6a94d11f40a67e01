/**
 * Makes a fast disk slow: every answer takes at least a time, some take much
 * longer.
 *
 * Requests go down at once and as the batches that they came in; it is the
 * answer that is held back until the time since submission has passed. Answers
 * held back for different times overtake each other, as on a real disk.
 *
 * | option | what it models |
 * | --- | --- |
 * | `fixedMs: 0.1` | an SSD: about 100 µs for anything |
 * | `fixedMs: 8` | a spinning disk: seek and half a turn |
 * | `operationMs: { flush: 20 }` | a disk whose flush empties a cache |
 * | `spikes` | garbage collection in an SSD, a drive that retries a weak sector, a noisy neighbour in a cloud |
 *
 * Less than about two milliseconds is waited for by polling, which keeps a core
 * busy: timers are no better than a millisecond.
 *
 * @module
 */

import type { Backend, Complete } from "../backend.ts";
import { Random, type Ratio } from "../random.ts";
import { operationName, type Request } from "../request.ts";
import { DueQueue, sleepUntil } from "./due_queue.ts";
import { Layer, type LayerOptions } from "./layer.ts";
import { checkRatio, type DiskOperation } from "./operations.ts";

/** Some requests take this much longer. */
export interface LatencySpike {
  /** How many. */
  readonly ratio: Ratio;
  /** How much longer, in ms. */
  readonly ms: number;
  /** Which ones; all of them if not given. */
  readonly operation?: DiskOperation;
}

/** How slow a disk is. */
export interface LatencyOptions extends LayerOptions {
  /**
   * The least that a request takes, in ms; fractions count.
   *
   * @default {0}
   */
  fixedMs?: number | undefined;
  /** The least that requests of a kind take, in ms, in place of `fixedMs`. */
  operationMs?: Partial<Record<DiskOperation, number>> | undefined;
  /** Requests that take longer; where several come together they add up. */
  spikes?: readonly LatencySpike[] | undefined;
  /**
   * Seed of the spikes.
   *
   * @default {0}
   */
  seed?: number | undefined;
}

/**
 * A disk made slow; {@linkcode latency} makes one.
 *
 * @example A spinning disk that gets well again
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { latency } from "@platter/disk/testing";
 * import { assert } from "@std/assert";
 *
 * const slow = latency(new MemoryBackend({ sectors: 8 }), { fixedMs: 8 });
 * await using disk = VirtualDisk.over(slow);
 * const start = performance.now();
 * await disk.read(0, 1);
 * assert(performance.now() - start >= 7.9);
 * slow.enabled = false;
 * ```
 */
export class Latency extends Layer {
  /** Whether requests submitted from now on are slow. */
  enabled = true;
  readonly #due = new DueQueue();
  /** Requests whose completions are held back, to be found by `cancel`. */
  readonly #held = new Map<Request, Held>();
  readonly #random: Random;
  #options: LatencyOptions = {};

  /**
   * Constructs a new instance.
   *
   * @param backend What it lies over.
   * @param options How slow.
   * @throws {RangeError} If a time or a ratio is none.
   */
  constructor(backend: Backend, options: LatencyOptions = {}) {
    super("latency", backend, options);
    this.#random = new Random(options.seed ?? 0);
    this.options = options;
  }

  /** How slow it is; may be set anew while running, but for the seed. */
  get options(): LatencyOptions {
    return this.#options;
  }

  set options(options: LatencyOptions) {
    checkMs("fixedMs", options.fixedMs);
    for (const [operation, ms] of Object.entries(options.operationMs ?? {})) {
      checkMs(`operationMs.${operation}`, ms);
    }
    for (const { ratio, ms } of options.spikes ?? []) {
      checkMs("the ms of a spike", ms);
      checkRatio(ratio);
    }
    this.#options = options;
  }

  /**
   * Tries to stop a submitted request early: it is not held back any longer.
   *
   * @param request The request.
   */
  override cancel(request: Request): void {
    const held = this.#held.get(request);
    if (held !== undefined) held.dueMs = 0;
    if (held?.call) this.#due.expedite(held.call);
    else super.cancel(request);
  }

  /** A caller that waits is held up by an answer that is held back. */
  protected override get answersLate(): null {
    return null;
  }

  /**
   * Carries out requests that have been checked.
   *
   * @param batch The requests; the array is valid during the call only.
   * @param complete Called once for each of them.
   */
  protected override carryOut(
    batch: readonly Request[],
    complete: Complete,
  ): void {
    if (!this.enabled) {
      this.backend.submit(batch, complete);
      return;
    }
    const start = performance.now();
    const all = new Map<Request, Held>();
    for (const request of batch) {
      const held = { dueMs: start + this.#timeOf(request), call: null };
      all.set(request, held);
      this.#held.set(request, held);
    }
    this.backend.submit(batch, (request, error) => {
      const held = all.get(request)!;
      const answer = () => {
        if (this.#held.get(request) === held) this.#held.delete(request);
        complete(request, error);
      };
      if (this.blocking) sleepUntil(held.dueMs);
      if (held.dueMs <= performance.now()) answer();
      else held.call = this.#due.add(held.dueMs, answer);
    });
  }

  #timeOf(request: Request): number {
    const { fixedMs = 0, operationMs, spikes } = this.#options;
    const operation = operationName(request.type) as DiskOperation;
    let ms = operationMs?.[operation] ?? fixedMs;
    for (const spike of spikes ?? []) {
      if (spike.operation !== undefined && spike.operation !== operation) {
        continue;
      }
      const { numerator, denominator } = spike.ratio;
      if (this.#random.chance(numerator, denominator)) ms += spike.ms;
    }
    return ms;
  }
}

/** An answer that is held back: until when, and once it is there, by what. */
interface Held {
  dueMs: number;
  call: object | null;
}

function checkMs(name: string, ms: number | undefined): void {
  if (ms === undefined || (ms >= 0 && ms <= 2 ** 31 - 1)) return;
  throw new RangeError(
    `Cannot make a disk slow as ${name} must be a number of ms from 0 to 2^31 - 1: current value is ${ms}`,
  );
}

/**
 * Makes a disk slow.
 *
 * @param backend What it lies over; closing the layer closes it, unless
 * `ownsBase` is false.
 * @param options How slow.
 * @returns The layer.
 * @throws {RangeError} If a time or a ratio is none.
 */
export function latency(backend: Backend, options?: LatencyOptions): Latency {
  return new Latency(backend, options);
}
