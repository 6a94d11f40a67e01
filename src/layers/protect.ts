/**
 * Keeps ranges of a disk from being changed: what would change a sector there
 * fails as a whole and changes nothing, or is let through and noted.
 *
 * | request | what happens |
 * | --- | --- |
 * | a write, write of zeroes, discard or secure erasure that touches a range | fails with kind `protected`, or is noted |
 * | any other, reads above all | goes down as it came |
 *
 * The queue above takes a merged request that failed apart again, so that only
 * those fail, and are noted, that touch a range themselves.
 *
 * @module
 */

import type { Backend, Complete } from "../backend.ts";
import type { SectorRange } from "../geometry.ts";
import { MergedRequests, operationName, type Request } from "../request.ts";
import { requestError } from "../request_error.ts";
import { resizeError } from "../resize.ts";
import { Layer, type LayerOptions } from "./layer.ts";
import { checkRanges, type NamedRange, nameOfRange } from "./named_range.ts";
import type { DiskOperation } from "./operations.ts";
import { SectorRanges } from "./sector_ranges.ts";
import { throwLater } from "../throw_later.ts";

/** A request that would have changed what is protected, or did. */
export interface Violation {
  /** What it was. */
  readonly operation: DiskOperation;
  /** Its first sector. */
  readonly sector: number;
  /** Its sectors. */
  readonly count: number;
  /** The range that it touched; the first of them. */
  readonly range: NamedRange;
}

/** How to protect. */
export interface ProtectOptions extends LayerOptions {
  /**
   * What becomes of requests that touch a range: they are refused, or noted and
   * carried out.
   *
   * @default {"refuse"}
   */
  action?: "refuse" | "note" | undefined;
  /** Called for each of them. It must not throw, nor submit requests. */
  onViolation?: ((violation: Violation) => void) | undefined;
}

/** Violations that are kept; the others are counted. */
const KEPT = 1000;

/**
 * A disk that is protected in part; {@linkcode protect} makes one.
 *
 * @example The partition table stays as it is
 * ```ts
 * import { DiskError, MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { protect } from "@platter/disk/testing";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const guarded = protect(new MemoryBackend({ sectors: 4096 }), [
 *   { name: "the partition table", sector: 0, count: 34 },
 * ]);
 * await using disk = VirtualDisk.over(guarded);
 * await disk.write(2048, new Uint8Array(512));
 * const error = await assertRejects(
 *   () => disk.write(33, new Uint8Array(1024)),
 *   DiskError,
 *   "the partition table is protected",
 * );
 * assertEquals(error.kind, "protected");
 * assertEquals(guarded.violationCount, 1);
 * ```
 */
export class Protect extends Layer {
  /** Whether it protects; may be changed while running. */
  enabled = true;
  /** What touched a range, the first thousand of them. */
  readonly violations: readonly Violation[];
  /** How many requests touched a range. */
  violationCount = 0;
  readonly #violations: Violation[] = [];
  readonly #ranges: readonly NamedRange[];
  readonly #protected = new SectorRanges();
  readonly #refuses: boolean;
  readonly #onViolation: ((violation: Violation) => void) | undefined;
  /** Whose completions {@linkcode #answer} goes to: mostly it is one queue's. */
  #asked: Complete | null = null;
  #answer: Complete = () => {};

  /**
   * Constructs a new instance.
   *
   * @param backend What it lies over.
   * @param ranges What is protected; they may overlap.
   * @param options How.
   * @throws {RangeError} If a range is not on the disk.
   * @throws {TypeError} If there is no such action.
   */
  constructor(
    backend: Backend,
    ranges: readonly NamedRange[],
    options: ProtectOptions = {},
  ) {
    super("protect", backend, options);
    const { action = "refuse", onViolation } = options;
    if (action !== "refuse" && action !== "note") {
      throw new TypeError(
        `Cannot protect a disk as action must be "refuse" or "note": current value is ${
          JSON.stringify(action)
        }`,
      );
    }
    checkRanges(ranges, backend.geometry.sectors, "protect");
    // A copy: what is protected does not change with somebody's array.
    this.#ranges = ranges.map((range) => ({ ...range }));
    for (const { sector, count = Infinity } of ranges) {
      this.#protected.add(sector, count);
    }
    this.violations = this.#violations;
    this.#refuses = action === "refuse";
    this.#onViolation = onViolation;
  }

  /** What it protects. */
  get ranges(): readonly NamedRange[] {
    return this.#ranges;
  }

  /** Nothing is waited for but the base. */
  protected override get answersLate(): null {
    return null;
  }

  /**
   * Changes the disk's size, unless that cuts off what is protected.
   *
   * @param sectors Sectors that the disk has afterwards.
   * @returns When it is done.
   * @throws {DiskError} With kind `protected` if it does, or as the base fails.
   */
  override async resize(sectors: number): Promise<void> {
    const before = this.geometry.sectors;
    const cut = before - sectors;
    if (
      this.enabled && this.#refuses && cut > 0 &&
      this.#protected.first(sectors, cut) !== undefined
    ) {
      const { path } = this.backend.info;
      throw resizeError(
        "it would cut off what is protected",
        path,
        "protected",
      );
    }
    await super.resize(sectors);
  }

  /**
   * Passes a batch on, but for what touches a range. What else is wrong with a
   * request the base says.
   *
   * @param batch The requests.
   * @param complete Called once for each of them.
   */
  override submit(batch: readonly Request[], complete: Complete): void {
    if (this.closed) return super.submit(batch, complete);
    this.enter(batch.length);
    if (this.#asked !== complete) {
      this.#asked = complete;
      this.#answer = (request, error) => this.answer(request, error, complete);
    }
    this.carryOut(batch, this.#answer);
  }

  /**
   * Carries out a batch.
   *
   * @param batch The requests; the array is valid during the call only.
   * @param complete Called once for each of them.
   */
  protected override carryOut(
    batch: readonly Request[],
    complete: Complete,
  ): void {
    let refused: Map<Request, Violation> | null = null;
    if (this.enabled) {
      for (let i = 0; i < batch.length; i++) {
        const request = batch[i]!;
        if (!request.writes) continue;
        const violation = this.#violationOf(request);
        if (violation === null) continue;
        if (this.#refuses) (refused ??= new Map()).set(request, violation);
        // Noted once: the parts of a merged one come again.
        const comesAgain = this.#refuses && !request.fua &&
          request.owner instanceof MergedRequests;
        if (!comesAgain) this.#note(violation);
      }
    }
    if (refused === null) return this.backend.submit(batch, complete);
    const good = batch.filter((request) => !refused.has(request));
    for (const [request, { range }] of refused) {
      const reason = range.name === undefined
        ? `${nameOfRange(range)} ${range.count === 1 ? "is" : "are"} protected`
        : `${range.name} is protected`;
      const { path } = this.backend.info;
      // Without an error number: no system said anything, nothing was done, and
      // what is durable is as sure as before.
      complete(request, requestError("protected", request, reason, { path }));
    }
    if (good.length > 0) this.backend.submit(good, complete);
  }

  #violationOf(request: Request): Violation | null {
    const { sector, count } = request;
    // What is no place the base refuses.
    if (!Number.isSafeInteger(sector) || !Number.isSafeInteger(count)) {
      return null;
    }
    const at = this.#protected.first(sector, count);
    if (at === undefined) return null;
    const operation = operationName(request.type) as DiskOperation;
    const range = this.#ranges.find((range) =>
      at >= range.sector && at - range.sector < (range.count ?? Infinity)
    )!;
    return { operation, sector, count, range };
  }

  #note(violation: Violation): void {
    this.violationCount++;
    if (this.#violations.length < KEPT) this.#violations.push(violation);
    try {
      this.#onViolation?.(violation);
    } catch (thrown) {
      throwLater(thrown);
    }
  }
}

/**
 * Keeps ranges of a disk from being changed.
 *
 * @param backend What it lies over; closing the layer closes it, unless
 * `ownsBase` is false.
 * @param ranges What is protected; they may overlap.
 * @param options Whether to refuse what touches them, or to note it.
 * @returns The layer.
 * @throws {RangeError} If a range is not on the disk.
 * @throws {TypeError} If there is no such action.
 */
export function protect(
  backend: Backend,
  ranges: readonly NamedRange[],
  options?: ProtectOptions,
): Protect {
  return new Protect(backend, ranges, options);
}

/**
 * What is not in some ranges: to protect all but these.
 *
 * @param ranges The ranges.
 * @param sectors The disk's sectors.
 * @returns The rest, in order.
 *
 * @example Nothing but the second partition may be written
 * ```ts
 * import { MemoryBackend } from "@platter/disk";
 * import { outsideOf, protect } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const second = { sector: 2048, count: 4096 };
 * const guarded = protect(
 *   new MemoryBackend({ sectors: 8192 }),
 *   outsideOf([second], 8192),
 * );
 * assertEquals(guarded.ranges, [
 *   { sector: 0, count: 2048 },
 *   { sector: 6144, count: 2048 },
 * ]);
 * ```
 */
export function outsideOf(
  ranges: readonly NamedRange[],
  sectors: number,
): SectorRange[] {
  checkRanges(ranges, sectors, "leave out");
  const rest = new SectorRanges();
  if (sectors > 0) rest.add(0, sectors);
  for (const { sector, count = sectors - sector } of ranges) {
    rest.remove(sector, count);
  }
  return rest.within(0, sectors);
}
