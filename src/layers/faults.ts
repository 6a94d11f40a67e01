/**
 * A disk that goes wrong, by rules: which requests, how often, in what way. The
 * same seed and the same requests give the same faults.
 *
 * | effect | what it models | modelled in, with its source |
 * | --- | --- | --- |
 * | `error` | a request that fails and does nothing: a latent sector error, ENOSPC of thin pools and quotas | `fault_rules.ts` |
 * | `delay` | a slow answer: drives that run at a fraction of their speed for hours | `fault_rules.ts` |
 * | `torn` | a write of which some blocks land | `firmware_errors.ts` |
 * | `lost` | a write that is acknowledged and never done | `firmware_errors.ts` |
 * | `lost`, on a flush | a disk that lies about its cache | `firmware_errors.ts` |
 * | `misdirected` | a write, or a read, of the wrong place | `firmware_errors.ts` |
 * | `corrupt`, on a write | bit flips that stay until rewritten | `medium_damage.ts` |
 * | `corrupt`, on a read | bit flips on the way, gone the next time | `medium_damage.ts` |
 * | `bad` | sectors that read EIO until they are rewritten | `medium_damage.ts` |
 * | `flush`, pages `kept` | pages marked clean though they were not written | `write_back_cache.ts` |
 * | `flush`, pages `reverted` | pages go back to what the disk has | `write_back_cache.ts` |
 * | `flush`, pages `late` | the failure is reported by the flush after the next one | `write_back_cache.ts` |
 *
 * This layer asks the rules about each request, and has the medium and the cache
 * do what they say. Rules may be added, removed, and switched on and off by
 * `enabled` at any time; what they did stays until it is rewritten, or until
 * {@linkcode Faults.heal}.
 *
 * While there is a rule with the effect `flush`, in force or not, writes are
 * held in a cache until the next flush, as in an operating system: a failed
 * flush must be able to take them away. {@linkcode Faults.powerCut} empties the
 * cache. A write that is not of the cache any more (FUA, discard, or beyond
 * `cacheBytes`) goes to the disk.
 *
 * @module
 */

import type { Backend, Complete, Extent, Limits } from "../backend.ts";
import type { DiskError } from "../errors.ts";
import { SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import { Random } from "../random.ts";
import { type Request, RequestType } from "../request.ts";
import { errnoError } from "../request_error.ts";
import { type Answer, Downward } from "./downward.ts";
import { DueQueue, sleepUntil } from "./due_queue.ts";
import { checkFlips, type FaultEffect, type FaultRule } from "./fault_rule.ts";
import { formatFaultRule } from "./fault_rule_text.ts";
import { type FaultEvent, FaultRules, type Verdict } from "./fault_rules.ts";
import { misdirected, tornPieces } from "./firmware_errors.ts";
import { Layer, type LayerOptions } from "./layer.ts";
import { drawFlips, flipBits, MediumDamage } from "./medium_damage.ts";
import { checkRanges } from "./named_range.ts";
import { coverage, extentsOver } from "./sector_store.ts";
import { type FlushFault, WriteBackCache } from "./write_back_cache.ts";

export type { FaultEvent } from "./fault_rules.ts";

/** How to make a {@linkcode Faults}. */
export interface FaultsOptions extends LayerOptions {
  /**
   * Seed of all that is drawn.
   *
   * @default {0}
   */
  seed?: number | undefined;
  /**
   * Memory for writes that are held until the next flush, in bytes.
   *
   * @default {67_108_864}
   */
  cacheBytes?: number | undefined;
  /** Called with each fault, before it happens. It must neither throw nor submit. */
  onFault?: ((event: FaultEvent) => void) | undefined;
}

const DEFAULT_CACHE_BYTES = 64 << 20;

/**
 * A disk that goes wrong; {@linkcode faults} makes one.
 *
 * @example A flush that fails, and takes the data with it
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { faults } from "@platter/disk/testing";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const faulty = faults(new MemoryBackend({ sectors: 8 }), ["flush=kept"]);
 * await using disk = VirtualDisk.over(faulty);
 * await disk.write(0, new Uint8Array(512).fill(1));
 * await assertRejects(() => disk.flush());
 * assertEquals((await disk.read(0, 1))[0], 1);
 * faulty.powerCut();
 * assertEquals((await disk.read(0, 1))[0], 0);
 * ```
 */
export class Faults extends Layer {
  readonly #random: Random;
  readonly #rules: FaultRules;
  readonly #damage = new MediumDamage();
  readonly #cache: WriteBackCache;
  readonly #due = new DueQueue();
  /** Requests whose answers are held back: until when, and by what call. */
  readonly #delayed = new Map<
    Request,
    { dueMs: number; call: object | null }
  >();

  /**
   * Constructs a new instance.
   *
   * @param backend What it lies over.
   * @param rules What goes wrong: rules, or their text.
   * @param options Seed and more.
   * @throws {TypeError} If a rule makes no sense.
   * @throws {RangeError} If a number is out of its range.
   */
  constructor(
    backend: Backend,
    rules: Iterable<FaultRule | string> = [],
    options: FaultsOptions = {},
  ) {
    super("faults", backend, options);
    this.#random = new Random(options.seed ?? 0);
    this.#cache = new WriteBackCache(
      backend,
      options.cacheBytes ?? DEFAULT_CACHE_BYTES,
      this.#damage,
    );
    this.#rules = new FaultRules(this.#random, {
      get sectors() {
        return backend.geometry.sectors;
      },
      dirty: (sector, count) => this.#cache.dirty(sector, count),
      onFault: options.onFault,
    });
    for (const rule of rules) this.add(rule);
  }

  /**
   * How large requests may get. While there are rules, a queue must not merge
   * requests: a rule counts those that were made, and one that fails must not be
   * taken for one that works as it is carried out again alone.
   */
  override get limits(): Limits {
    const { limits } = this.backend;
    return this.#rules.empty ? limits : { ...limits, maxSegments: 1 };
  }

  /** The rules, in the order in which they are tried. */
  get rules(): FaultRule[] {
    return this.#rules.all;
  }

  /** Sectors that cannot be read until they are rewritten. */
  get badSectors(): SectorRange[] {
    return this.#damage.badSectors;
  }

  /** Sectors with flipped bits, in order. */
  get corruptSectors(): number[] {
    return this.#damage.corruptSectors;
  }

  /**
   * Adds a rule, behind the others.
   *
   * @param rule The rule, or its text.
   * @returns The rule; set its `enabled` to switch it on and off.
   * @throws {TypeError} If it makes no sense.
   * @throws {RangeError} If a number is out of its range.
   */
  add(rule: FaultRule | string): FaultRule {
    const added = this.#rules.add(rule);
    if (added.effect.kind === "flush") this.#cache.caching = true;
    return added;
  }

  /**
   * Removes a rule. What it did stays.
   *
   * @param rule The rule.
   * @returns Whether it was there.
   */
  remove(rule: FaultRule): boolean {
    const removed = this.#rules.remove(rule);
    this.#cache.caching = this.rules.some(({ effect }) =>
      effect.kind === "flush"
    );
    return removed;
  }

  /** Removes every rule. What they did stays. */
  clear(): void {
    this.#rules.clear();
    this.#cache.caching = false;
  }

  /**
   * How often a rule has acted.
   *
   * @param rule The rule.
   * @returns Times since it was added.
   */
  hits(rule: FaultRule): number {
    return this.#rules.hits(rule);
  }

  /**
   * Makes sectors unreadable until they are rewritten.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @throws {RangeError} If there are none, or they do not lie on the disk.
   */
  damage(sector: number, count = 1): void {
    checkRanges([{ sector, count }], this.geometry.sectors, "damage");
    this.#damage.spoil(sector, count);
  }

  /**
   * Flips bits of a sector until it is rewritten.
   *
   * @param sector The sector.
   * @param bits How many different ones, at places drawn by the seed: up to the
   * 4,096 of a sector.
   * @throws {RangeError} If there are none, or more, or the sector does not lie
   * on the disk.
   */
  corrupt(sector: number, bits = 1): void {
    checkFlips(bits);
    checkRanges([{ sector, count: 1 }], this.geometry.sectors, "corrupt");
    this.#damage.flip(sector, drawFlips(this.#random, 1, bits));
  }

  /** Makes every sector readable and right again, as it was written. */
  heal(): void {
    this.#damage.heal();
  }

  /**
   * Empties the cache, as a power cut does: what was not flushed, or was lost
   * in a flush that failed, reads as what is on the disk. What a flush is just
   * writing may still get there.
   */
  powerCut(): void {
    this.#cache.powerCut();
  }

  /**
   * Changes the disk's size.
   *
   * @param sectors Sectors that the disk has afterwards.
   * @returns When it is done.
   * @throws {DiskError} If it cannot be; the disk is as it was then.
   */
  override async resize(sectors: number): Promise<void> {
    const before = this.geometry.sectors;
    await super.resize(sectors);
    if (sectors >= before) return;
    this.#cache.forget(sectors, before - sectors);
    // What comes there later is new, and well.
    this.#damage.rewritten(sectors, before - sectors);
  }

  /**
   * Tries to stop a submitted request early: it is not held back any longer,
   * and does not wait for what goes before it.
   *
   * @param request The request.
   */
  override cancel(request: Request): void {
    const delayed = this.#delayed.get(request);
    if (delayed !== undefined) delayed.dueMs = 0;
    if (this.#cache.cancel(request)) return;
    if (delayed?.call) this.#due.expedite(delayed.call);
    else super.cancel(request);
  }

  /**
   * Where data is stored and where holes are.
   *
   * @param sector First sector.
   * @param count Sectors, within the disk.
   * @returns Extents in order, adjoining; they may end before the range does.
   */
  override extents(sector: number, count: number): Extent[] {
    // A flipped bit in a hole is data.
    if (this.#damage.flipped) return [{ sector, count, hole: false }];
    return extentsOver(
      this.#cache.stores,
      sector,
      count,
      (first, sectors) => super.extents(first, sectors),
    );
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
    if (this.#rules.empty && this.#damage.empty && this.#cache.empty) {
      // Nothing to do but to hand them down.
      this.backend.submit(batch, complete);
      return;
    }
    const down = new Downward(this.backend);
    for (const request of batch) {
      const verdict = this.#rules.decide(request);
      const answer: Answer = verdict.delayMs > 0
        ? this.#delay(request, verdict.delayMs, complete)
        : (error) => complete(request, error);
      switch (request.type) {
        case RequestType.In:
          this.#read(request, verdict, answer, down);
          break;
        case RequestType.Flush:
          this.#flush(request, verdict, answer, down);
          break;
        case RequestType.GetId:
          if (verdict.effect === null) down.add(request, answer);
          else answer(this.#error(request, verdict));
          break;
        default:
          this.#write(request, verdict, answer, down);
      }
    }
    down.submit();
  }

  /**
   * Gives up what the layer holds; everything has been answered.
   *
   * @returns When it is done.
   */
  protected override async release(): Promise<void> {
    const error = await this.#cache.drain();
    await super.release();
    if (error !== null) throw error;
  }

  #read(
    request: Request,
    verdict: Verdict,
    answer: Answer,
    down: Downward,
  ): void {
    const { effect, rule, random } = verdict;
    switch (effect?.kind) {
      case "error":
        return answer(this.#error(request, verdict));
      case "misdirected":
        return this.#fetch(
          misdirected(request, effect.offset, this.geometry, random!),
          answer,
          down,
        );
      case "bad": {
        const { sector, count } = this.#rules.part(request, rule!);
        this.#damage.spoil(sector, count);
        return this.#fetch(request, answer, down);
      }
      case "corrupt": {
        const { sector, count } = this.#rules.part(request, rule!);
        // Drawn now: answers come in no order that a seed could repeat.
        const flips = drawFlips(random!, count, effect.bits);
        return this.#fetch(request, (error) => {
          if (error === null) {
            const base = (sector - request.sector) * SECTOR_BYTES;
            flipBits(request, base, flips);
          }
          answer(error);
        }, down);
      }
      default:
        return this.#fetch(request, answer, down);
    }
  }

  /** Reads what a cache, flips and bad sectors make of the disk. */
  #fetch(request: Request, answer: Answer, down: Downward): void {
    const { sector, count } = request;
    const { stores } = this.#cache;
    const covered = coverage(stores, sector, count);
    const finish: Answer = (error) => {
      if (error === null) {
        if (covered !== "none") {
          for (const store of stores) store.patch(request);
        }
        this.#damage.apply(request);
      }
      answer(error);
    };
    if (covered === "all") return finish(null);
    const bad = this.#damage.firstBad(sector, count);
    if (bad === undefined) return down.add(request, finish);
    answer(
      errnoError(request, "EIO", "the medium", {
        path: this.#path,
        text: `sector ${bad} is bad`,
      }),
    );
  }

  #write(
    request: Request,
    verdict: Verdict,
    answer: Answer,
    down: Downward,
  ): void {
    const { effect, rule, random } = verdict;
    switch (effect?.kind) {
      case "error":
        return answer(this.#error(request, verdict));
      case "lost":
        return answer(null);
      case "torn":
        return this.#tear(request, verdict, effect, answer, down);
      case "misdirected":
        return this.#cache.write(
          misdirected(request, effect.offset, this.geometry, random!),
          answer,
          down,
        );
      case "bad":
      case "corrupt": {
        const { sector, count } = this.#rules.part(request, rule!);
        const flips = effect.kind === "bad"
          ? []
          : drawFlips(random!, count, effect.bits);
        return this.#cache.write(request, (error) => {
          if (error === null) {
            if (effect.kind === "bad") this.#damage.spoil(sector, count);
            else this.#damage.flip(sector, flips);
          }
          answer(error);
        }, down);
      }
      default:
        return this.#cache.write(request, answer, down);
    }
  }

  #tear(
    request: Request,
    verdict: Verdict,
    effect: FaultEffect & { kind: "torn" },
    answer: Answer,
    down: Downward,
  ): void {
    const pieces = tornPieces(
      request,
      effect.keep,
      this.#rules.part(request, verdict.rule!),
      this.geometry,
      verdict.random!,
    );
    let left = pieces.length + 1;
    let failed = effect.code === undefined
      ? null
      : this.#error(request, verdict);
    const landed: Answer = (error) => {
      failed ??= error;
      if (--left === 0) answer(failed);
    };
    for (const piece of pieces) this.#cache.write(piece, landed, down);
    landed(null);
  }

  #flush(
    request: Request,
    verdict: Verdict,
    answer: Answer,
    down: Downward,
  ): void {
    const { effect, rule } = verdict;
    if (effect?.kind === "lost") return answer(null);
    if (effect?.kind === "error") return answer(this.#error(request, verdict));
    const fault: FlushFault | null = effect?.kind === "flush"
      ? {
        range: this.#rules.range(rule!),
        pages: effect.pages,
        error: this.#error(request, verdict),
      }
      : null;
    this.#cache.flush(request, fault, answer, down);
  }

  #delay(request: Request, ms: number, complete: Complete): Answer {
    const delayed: { dueMs: number; call: object | null } = {
      dueMs: performance.now() + ms,
      call: null,
    };
    this.#delayed.set(request, delayed);
    return (error) => {
      const answer = () => {
        this.#delayed.delete(request);
        complete(request, error);
      };
      if (this.blocking) {
        sleepUntil(delayed.dueMs);
        answer();
      } else delayed.call = this.#due.add(delayed.dueMs, answer);
    };
  }

  #error(request: Request, { effect, rule }: Verdict): DiskError {
    const code = effect !== null && "code" in effect && effect.code || "EIO";
    const name = rule!.name ?? formatFaultRule(rule!);
    return errnoError(request, code, `the fault rule "${name}"`, {
      path: this.#path,
    });
  }

  get #path(): string | null {
    return this.backend.info.path;
  }
}

/**
 * Makes a disk that goes wrong.
 *
 * @param backend What it lies over; closing the layer closes it, unless
 * `ownsBase` is false.
 * @param rules What goes wrong: rules, or their text.
 * @param options Seed and more.
 * @returns The layer; it takes rules while it runs.
 * @throws {TypeError} If a rule makes no sense.
 * @throws {RangeError} If a number is out of its range.
 *
 * @example A bad sector that is well again when it is rewritten
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { faults } from "@platter/disk/testing";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const faulty = faults(new MemoryBackend({ sectors: 64 }), [
 *   { operation: "read", sector: 5, count: 1, nth: 1, effect: { kind: "bad" } },
 *   "write ratio=1/1000 lost",
 * ], { seed: 7 });
 * await using disk = VirtualDisk.over(faulty);
 * await assertRejects(() => disk.read(0, 8));
 * await assertRejects(() => disk.read(5, 1));
 * await disk.write(5, new Uint8Array(512));
 * assertEquals((await disk.read(0, 8)).length, 4096);
 * ```
 */
export function faults(
  backend: Backend,
  rules?: Iterable<FaultRule | string>,
  options?: FaultsOptions,
): Faults {
  return new Faults(backend, rules, options);
}
