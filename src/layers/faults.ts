/**
 * A disk that goes wrong, by rules: which requests, how often, in what way. The
 * same seed and the same requests give the same faults.
 *
 * | effect | what it models | where it was seen |
 * | --- | --- | --- |
 * | `error` | a request that fails and does nothing | EIO of latent sector errors: 3.45 % of 1.53 million drives within 32 months (Bairavasundaram et al., SIGMETRICS 2007); ENOSPC of thin pools and quotas |
 * | `delay` | a slow answer | drives and SSDs that run at a fraction of their speed for hours (Gunawi et al., "Fail-Slow at Scale", FAST 2018) |
 * | `torn` | a write of which some blocks land | "shorn writes" of SSDs at power cuts (Zheng et al., FAST 2013); torn pages of every database |
 * | `lost` | a write that is acknowledged and never done | firmware (Krioukov et al., "Parity Lost and Parity Regained", FAST 2008) |
 * | `lost`, on a flush | a disk that lies about its cache | drives that acknowledge a flush without one (Rajimwale et al., DSN 2011); QEMU's `cache=unsafe` |
 * | `misdirected` | a write, or a read, of the wrong place | firmware and controllers (Krioukov et al.; Bairavasundaram et al., FAST 2008) |
 * | `corrupt`, on a write | bit flips that stay until rewritten | 400,000 checksum mismatches on 1.53 million drives in 41 months (Bairavasundaram et al., FAST 2008) |
 * | `corrupt`, on a read | bit flips on the way, gone the next time | cables, controllers, memory without ECC |
 * | `bad` | sectors that read EIO until they are rewritten | a weak write, found when it is read; the drive remaps on the next write |
 * | `flush`, pages `kept` | pages marked clean though they were not written; they read as new until the cache goes | ext4 and XFS (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020); PostgreSQL's fsyncgate, 2018 |
 * | `flush`, pages `reverted` | pages go back to what the disk has | btrfs (the same) |
 * | `flush`, pages `late` | the failure is told by the flush after the next one | ext4 with `data=journal` (the same) |
 *
 * What FreeBSD does, to keep the pages dirty and to try again, is `error` on a
 * flush.
 *
 * Rules are tried in order: delays add up, and the first other effect is the
 * one that happens. Rules may be added, removed, and switched on and off by
 * `enabled` at any time; what they did stays until it is rewritten, or until
 * {@linkcode Faults.heal}: what was written is below all the time, pristine, and
 * flips and bad sectors are kept apart from it.
 *
 * While there is a rule with the effect `flush`, in force or not, writes are
 * held in a cache until the next flush, as in an operating system: a failed
 * flush must be able to take them away. {@linkcode Faults.powerCut} empties the
 * cache. A write that is not of the cache any more (FUA, discard, or beyond
 * `cacheBytes`) goes to the disk.
 *
 * A torn write is torn by logical blocks, the unit that a disk promises to
 * write whole.
 *
 * @module
 */

import {
  type Backend,
  type Complete,
  type Extent,
  type Limits,
  refusal,
} from "../backend.ts";
import { describePlace, DiskError, kindOfCode } from "../errors.ts";
import { SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import { Random } from "../random.ts";
import { operationName, Request, RequestType } from "../request.ts";
import { DueQueue } from "./due_queue.ts";
import {
  checkFaultRule,
  errnoOf,
  type FaultEffect,
  type FaultRule,
  operationsOf,
} from "./fault_rule.ts";
import { formatFaultRule, parseFaultRule } from "./fault_rule_text.ts";
import { Layer, type LayerOptions } from "./layer.ts";
import type { DiskOperation } from "./operations.ts";
import { SectorRanges } from "./sector_ranges.ts";
import { coverage, extentsOver, SectorStore } from "./sector_store.ts";
import { sliceRequest } from "./slice_request.ts";
import { writeBack } from "./write_back.ts";

/** Something that went wrong on purpose. */
export interface FaultEvent {
  /** The rule that did it. */
  readonly rule: FaultRule;
  /** What was asked for. */
  readonly operation: DiskOperation;
  /** First sector of the request. */
  readonly sector: number;
  /** Sectors of the request. */
  readonly count: number;
}

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

/** What a rule counted. */
interface RuleState {
  matches: number;
  hits: number;
  readonly random: Random;
}

/** What the rules say of one request. */
interface Verdict {
  delayMs: number;
  effect: FaultEffect | null;
  rule: FaultRule | null;
  random: Random | null;
}

/** A bit to flip: the byte's offset, and the bit in it. */
interface Flip {
  readonly at: number;
  readonly mask: number;
}

type Answer = (error: DiskError | null) => void;

/** A request that waits for what goes before it. */
interface Waiting {
  readonly request: Request;
  readonly answer: Answer;
  readonly start: () => void;
}

const DEFAULT_CACHE_BYTES = 64 << 20;

/** Requests for the backend, and who answers each. */
class Down {
  readonly #backend: Backend;
  readonly #answers = new Map<Request, Answer>();

  constructor(backend: Backend) {
    this.#backend = backend;
  }

  add(request: Request, answer: Answer): void {
    this.#answers.set(request, answer);
  }

  submit(): void {
    if (this.#answers.size === 0) return;
    this.#backend.submit(
      [...this.#answers.keys()],
      (request, error) => this.#answers.get(request)!(error),
    );
  }
}

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
  readonly #cacheBytes: number;
  readonly #onFault: ((event: FaultEvent) => void) | undefined;
  readonly #rules = new Map<FaultRule, RuleState>();
  readonly #due = new DueQueue();
  /** Requests whose answers are held back: until when, and by what call. */
  readonly #delayed = new Map<
    Request,
    { dueMs: number; call: object | null }
  >();

  /** Sectors that cannot be read. */
  readonly #bad = new SectorRanges();
  /** Bits that read flipped, by their sector. */
  readonly #flips = new Map<number, Flip[]>();

  /** Whether writes are held until the next flush. */
  #caching = false;
  /** Written and not flushed. */
  #dirty = new SectorStore();
  /** On its way to the disk. */
  #writing: SectorStore | null = null;
  /** Taken for clean, and not on the disk. */
  #lost = new SectorStore();
  /** What the next flush is to report. */
  #late: DiskError | null = null;
  /** Writes on their way to the disk that are not of the cache. */
  #passing = 0;
  /** Power cuts so far. */
  #cuts = 0;
  /** What waits for the way to the disk to be free. */
  readonly #waiting: Waiting[] = [];

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
    this.#cacheBytes = options.cacheBytes ?? DEFAULT_CACHE_BYTES;
    this.#onFault = options.onFault;
    for (const rule of rules) this.add(rule);
  }

  /**
   * How large requests may get. While there are rules, a queue must not merge
   * requests: a rule counts those that were made, and one that fails must not be
   * taken for one that works as it is carried out again alone.
   */
  override get limits(): Limits {
    const { limits } = this.backend;
    return this.#rules.size === 0 ? limits : { ...limits, maxSegments: 1 };
  }

  /** The rules, in the order in which they are tried. */
  get rules(): FaultRule[] {
    return [...this.#rules.keys()];
  }

  /** Sectors that cannot be read until they are rewritten. */
  get badSectors(): SectorRange[] {
    return this.#bad.within(0, Infinity);
  }

  /** Sectors with flipped bits, in order. */
  get corruptSectors(): number[] {
    return [...this.#flips.keys()].sort((a, b) => a - b);
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
    const added = typeof rule === "string" ? parseFaultRule(rule) : rule;
    checkFaultRule(added);
    this.#rules.set(added, {
      matches: 0,
      hits: 0,
      random: this.#random.fork(),
    });
    if (added.effect.kind === "flush") this.#caching = true;
    return added;
  }

  /**
   * Removes a rule. What it did stays.
   *
   * @param rule The rule.
   * @returns Whether it was there.
   */
  remove(rule: FaultRule): boolean {
    const removed = this.#rules.delete(rule);
    this.#caching = this.rules.some(({ effect }) => effect.kind === "flush");
    return removed;
  }

  /** Removes every rule. What they did stays. */
  clear(): void {
    this.#rules.clear();
    this.#caching = false;
  }

  /**
   * How often a rule has acted.
   *
   * @param rule The rule.
   * @returns Times since it was added.
   */
  hits(rule: FaultRule): number {
    return this.#rules.get(rule)?.hits ?? 0;
  }

  /**
   * Makes sectors unreadable until they are rewritten.
   *
   * @param sector First sector.
   * @param count Sectors.
   */
  damage(sector: number, count = 1): void {
    this.#bad.add(sector, count);
  }

  /**
   * Flips bits of a sector until it is rewritten.
   *
   * @param sector The sector.
   * @param bits How many, at places drawn by the seed.
   */
  corrupt(sector: number, bits = 1): void {
    this.#keep(sector, this.#draw(this.#random, sector, 1, bits));
  }

  /** Makes every sector readable and right again, as it was written. */
  heal(): void {
    this.#bad.clear();
    this.#flips.clear();
  }

  /**
   * Empties the cache, as a power cut does: what was not flushed, or was lost
   * in a flush that failed, reads as what is on the disk. What a flush is just
   * writing may still get there.
   */
  powerCut(): void {
    this.#dirty = new SectorStore();
    this.#lost = new SectorStore();
    this.#late = null;
    this.#cuts++;
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
    const at = this.#waiting.findIndex((each) => each.request === request);
    if (at >= 0) {
      const [{ answer }] = this.#waiting.splice(at, 1) as [Waiting];
      return answer(refusal("aborted", request, "it was aborted"));
    }
    if (delayed?.call) this.#due.expedite(delayed.call);
    else super.cancel(request);
  }

  /**
   * Where data is stored and where holes are.
   *
   * @param sector First sector.
   * @param count Sectors, within the disk.
   * @returns Extents in order, adjoining, covering the range exactly.
   */
  override extents(sector: number, count: number): Extent[] {
    // A flipped bit in a hole is data.
    if (this.#flips.size > 0) return [{ sector, count, hole: false }];
    return extentsOver(
      this.#stores(),
      sector,
      count,
      (first, sectors) => super.extents(first, sectors),
    );
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
    if (this.#harmless()) {
      this.backend.submit(batch, complete);
      return;
    }
    const down = new Down(this.backend);
    for (const request of batch) {
      const verdict = this.#judge(request);
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
    const runs = this.#dirty.runs(0, this.geometry.sectors);
    const error = await writeBack([this.#dirty], runs, this.backend);
    await super.release();
    if (error !== null) throw error;
  }

  /** Whether there is nothing to do but to hand requests down. */
  #harmless(): boolean {
    return this.#rules.size === 0 && this.#dirty.empty && this.#lost.empty &&
      this.#writing === null && this.#late === null && this.#bad.empty &&
      this.#flips.size === 0;
  }

  /** What is held over the disk, the last one on top. */
  #stores(): SectorStore[] {
    return this.#writing === null
      ? [this.#lost, this.#dirty]
      : [this.#lost, this.#writing, this.#dirty];
  }

  #judge(request: Request): Verdict {
    const verdict: Verdict = {
      delayMs: 0,
      effect: null,
      rule: null,
      random: null,
    };
    const operation = operationName(request.type) as DiskOperation;
    for (const [rule, state] of this.#rules) {
      if (rule.enabled === false || !this.#matches(rule, request, operation)) {
        continue;
      }
      state.matches++;
      const { nth = 1, ratio } = rule;
      const times = rule.times ?? (rule.nth === undefined ? Infinity : 1);
      if (state.matches < nth || state.hits >= times) continue;
      if (
        ratio !== undefined &&
        !state.random.chance(ratio.numerator, ratio.denominator)
      ) continue;
      state.hits++;
      const { sector, count } = request;
      this.#onFault?.({ rule, operation, sector, count });
      if (rule.effect.kind === "delay") {
        verdict.delayMs += rule.effect.ms;
        continue;
      }
      verdict.effect = rule.effect;
      verdict.rule = rule;
      verdict.random = state.random;
      break;
    }
    return verdict;
  }

  #matches(
    rule: FaultRule,
    request: Request,
    operation: DiskOperation,
  ): boolean {
    if (!operationsOf(rule).includes(operation)) return false;
    if (rule.sector !== undefined) {
      const { sector, count } = rangeOf(rule, this.geometry.sectors);
      if (request.type === RequestType.Flush) {
        if (this.#dirty.runs(sector, count).length === 0) return false;
      } else if (
        request.sector >= sector + count ||
        request.sector + request.count <= sector
      ) return false;
    }
    return rule.when?.(request) ?? true;
  }

  /** The part of a request that a rule is about. */
  #part(request: Request, rule: FaultRule): SectorRange {
    const { sector, count } = rangeOf(rule, this.geometry.sectors);
    const start = Math.max(sector, request.sector);
    const end = Math.min(sector + count, request.sector + request.count);
    return { sector: start, count: end - start };
  }

  #read(
    request: Request,
    verdict: Verdict,
    answer: Answer,
    down: Down,
  ): void {
    const { effect, rule, random } = verdict;
    switch (effect?.kind) {
      case "error":
        return answer(this.#error(request, verdict));
      case "misdirected":
        return this.#fetch(
          this.#elsewhere(request, effect.offset, random!),
          answer,
          down,
        );
      case "bad": {
        const part = this.#part(request, rule!);
        this.#bad.add(part.sector, part.count);
        return this.#fetch(request, answer, down);
      }
      case "corrupt": {
        const { sector, count } = this.#part(request, rule!);
        // Drawn now: answers come in no order that a seed could repeat.
        const flips = this.#draw(random!, sector, count, effect.bits);
        return this.#fetch(request, (error) => {
          if (error === null) {
            const base = (sector - request.sector) * SECTOR_BYTES;
            for (const { at, mask } of flips) flip(request, base + at, mask);
          }
          answer(error);
        }, down);
      }
      default:
        return this.#fetch(request, answer, down);
    }
  }

  /** Reads what a cache, flips and bad sectors make of the disk. */
  #fetch(request: Request, answer: Answer, down: Down): void {
    const { sector, count } = request;
    const stores = this.#stores();
    const covered = coverage(stores, sector, count);
    const finish: Answer = (error) => {
      if (error === null) {
        if (covered !== "none") {
          for (const store of stores) store.patch(request);
        }
        this.#applyFlips(request);
      }
      answer(error);
    };
    if (covered === "all") return finish(null);
    const bad = this.#bad.first(sector, count);
    if (bad === undefined) return down.add(request, finish);
    answer(
      faultError(request, "EIO", `sector ${bad} is bad`, this.#path),
    );
  }

  #write(
    request: Request,
    verdict: Verdict,
    answer: Answer,
    down: Down,
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
        return this.#land(
          this.#elsewhere(request, effect.offset, random!),
          answer,
          down,
        );
      case "bad":
      case "corrupt": {
        const { sector, count } = this.#part(request, rule!);
        const flips = effect.kind === "bad"
          ? []
          : this.#draw(random!, sector, count, effect.bits);
        return this.#land(request, (error) => {
          if (error === null) {
            if (effect.kind === "bad") this.#bad.add(sector, count);
            this.#keep(sector, flips);
          }
          answer(error);
        }, down);
      }
      default:
        return this.#land(request, answer, down);
    }
  }

  /** Writes into the cache or to the disk, and so heals what is there. */
  #land(request: Request, answer: Answer, down: Down): void {
    const { type, sector, count } = request;
    if (
      this.#caching && !request.fua &&
      (type === RequestType.Out || type === RequestType.WriteZeroes) &&
      this.#dirty.storedBytes < this.#cacheBytes
    ) {
      if (type === RequestType.Out) this.#dirty.write(request);
      else this.#dirty.zero(sector, count);
      this.#healed(sector, count);
      return answer(null);
    }
    if (this.#writing !== null || this.#waiting.length > 0) {
      // Or what is older, of the cache, could come last.
      const start = () => this.#later(request, answer, this.#land);
      this.#waiting.push({ request, answer, start });
      return;
    }
    this.#passing++;
    down.add(request, (error) => {
      this.#passing--;
      if (error === null) {
        this.#healed(sector, count);
        this.#dirty.forget(sector, count);
        this.#lost.forget(sector, count);
      }
      answer(error);
      this.#resume();
    });
  }

  /** Goes on with what has waited, if the way to the disk is free. */
  #resume(): void {
    if (this.#writing !== null || this.#passing > 0) return;
    for (const { start } of this.#waiting.splice(0)) start();
  }

  #later(
    request: Request,
    answer: Answer,
    start: (request: Request, answer: Answer, down: Down) => void,
  ): void {
    const down = new Down(this.backend);
    start.call(this, request, answer, down);
    down.submit();
  }

  #tear(
    request: Request,
    verdict: Verdict,
    effect: FaultEffect & { kind: "torn" },
    answer: Answer,
    down: Down,
  ): void {
    const blockSectors = this.geometry.blockSize / SECTOR_BYTES;
    const blocks = request.count / blockSectors;
    const lands = landing(effect.keep, blocks, verdict.random!);
    // What lies beside the rule's sectors is none of its business.
    const part = this.#part(request, verdict.rule!);
    for (let i = 0; i < blocks; i++) {
      const first = request.sector + i * blockSectors;
      if (
        first + blockSectors <= part.sector ||
        first >= part.sector + part.count
      ) lands[i] = true;
    }
    const pieces: Request[] = [];
    for (let from = 0; from < blocks; from++) {
      if (!lands[from]) continue;
      let to = from + 1;
      while (to < blocks && lands[to]) to++;
      pieces.push(
        sliceRequest(
          request,
          from * blockSectors,
          (to - from) * blockSectors,
        ),
      );
      from = to;
    }
    const code = effect.code;
    let left = pieces.length + 1;
    let failed = code === undefined ? null : this.#error(request, verdict);
    const landed: Answer = (error) => {
      failed ??= error;
      if (--left === 0) answer(failed);
    };
    for (const piece of pieces) this.#land(piece, landed, down);
    landed(null);
  }

  #flush(
    request: Request,
    verdict: Verdict,
    answer: Answer,
    down: Down,
  ): void {
    const { effect, rule } = verdict;
    if (effect?.kind === "lost") return answer(null);
    if (effect?.kind === "error") return answer(this.#error(request, verdict));
    if (
      this.#writing !== null || this.#passing > 0 && !this.#dirty.empty
    ) {
      const start = () =>
        this.#later(
          request,
          answer,
          (_, __, later) => this.#flush(request, verdict, answer, later),
        );
      this.#waiting.push({ request, answer, start });
      return;
    }
    let report = this.#late;
    this.#late = null;
    const work = this.#dirty;
    this.#dirty = new SectorStore();
    if (effect?.kind === "flush") {
      const error = this.#error(request, verdict);
      this.#lose(work, rangeOf(rule!, this.geometry.sectors), effect.pages);
      if (effect.pages === "late") this.#late = error;
      else report ??= error;
    }
    if (work.empty) {
      return down.add(request, (error) => answer(error ?? report));
    }
    this.#writing = work;
    const cuts = this.#cuts;
    const runs = work.runs(0, this.geometry.sectors);
    const failed = (cause: unknown) =>
      new DiskError("io", `Cannot flush as writing failed: ${cause}`, {
        operation: "flush",
        cause,
      });
    writeBack([work], runs, this.backend).catch(failed).then((error) => {
      if (error === null) {
        for (const run of runs) this.#lost.forget(run.sector, run.count);
      } else if (cuts === this.#cuts) {
        // Nobody knows what was written: it stays dirty, for the next flush.
        work.merge(this.#dirty);
        this.#dirty = work;
      }
      this.#writing = null;
      if (error === null) {
        this.backend.submit(
          [request],
          (_, flushed) => answer(flushed ?? report),
        );
      } else answer(error);
      this.#resume();
    });
  }

  /** Takes from what is dirty the part that a failing flush loses. */
  #lose(
    work: SectorStore,
    { sector, count }: SectorRange,
    pages: "kept" | "reverted" | "late",
  ): void {
    const end = sector + count;
    if (pages === "reverted") {
      for (const run of work.runs(sector, count)) {
        this.#lost.forget(run.sector, run.count);
      }
    } else {
      const failed = new SectorStore();
      failed.merge(work);
      if (sector > 0) failed.forget(0, sector);
      failed.forget(end, this.geometry.sectors);
      this.#lost.merge(failed);
    }
    work.forget(sector, count);
  }

  /** The same request at another place. */
  #elsewhere(
    request: Request,
    offset: number | undefined,
    random: Random,
  ): Request {
    const { type, sector, count, flags, data, more } = request;
    const blockSectors = this.geometry.blockSize / SECTOR_BYTES;
    const places = (this.geometry.sectors - count) / blockSectors + 1;
    const home = sector / blockSectors;
    let place = home;
    if (offset !== undefined) {
      place = Math.round((sector + offset) / blockSectors);
      // On the disk, or there would be nothing to see.
      place = Math.min(Math.max(place, 0), places - 1);
    } else if (places > 1) {
      place = random.below(places - 1);
      if (place >= home) place++;
    }
    return new Request(type, place * blockSectors, count, flags, data, more);
  }

  #draw(random: Random, sector: number, count: number, bits = 1): Flip[] {
    if (count <= 0 || sector < 0) return [];
    return Array.from({ length: bits }, () => {
      const bit = random.below(count * SECTOR_BYTES * 8);
      return { at: Math.floor(bit / 8), mask: 1 << (bit % 8) };
    });
  }

  /** Makes flips stay; their offsets count from a sector. */
  #keep(sector: number, flips: readonly Flip[]): void {
    for (const { at, mask } of flips) {
      const on = sector + Math.floor(at / SECTOR_BYTES);
      const of = this.#flips.get(on) ?? [];
      of.push({ at: at % SECTOR_BYTES, mask });
      this.#flips.set(on, of);
    }
  }

  #applyFlips(request: Request): void {
    if (this.#flips.size === 0) return;
    for (let i = 0; i < request.count; i++) {
      for (const { at, mask } of this.#flips.get(request.sector + i) ?? []) {
        flip(request, i * SECTOR_BYTES + at, mask);
      }
    }
  }

  /** What is rewritten is well again. */
  #healed(sector: number, count: number): void {
    this.#bad.remove(sector, count);
    if (this.#flips.size === 0) return;
    for (const on of [...this.#flips.keys()]) {
      if (on >= sector && on < sector + count) this.#flips.delete(on);
    }
  }

  #delay(request: Request, ms: number, complete: Complete): Answer {
    const delayed: { dueMs: number; call: object | null } = {
      dueMs: performance.now() + ms,
      call: null,
    };
    this.#delayed.set(request, delayed);
    return (error) => {
      delayed.call = this.#due.add(delayed.dueMs, () => {
        this.#delayed.delete(request);
        complete(request, error);
      });
    };
  }

  #error(request: Request, { effect, rule }: Verdict): DiskError {
    const code = effect !== null && "code" in effect && effect.code || "EIO";
    const name = rule!.name ?? formatFaultRule(rule!);
    return faultError(
      request,
      code,
      `the fault rule "${name}" makes it fail`,
      this.#path,
    );
  }

  get #path(): string | undefined {
    return this.backend.info.path ?? undefined;
  }
}

function rangeOf(rule: FaultRule, sectors: number): SectorRange {
  const sector = rule.sector ?? 0;
  return { sector, count: rule.count ?? Math.max(sectors - sector, 0) };
}

/** Which blocks of a torn write land. */
function landing(
  keep: number | readonly number[] | undefined,
  blocks: number,
  random: Random,
): boolean[] {
  const lands = new Array<boolean>(blocks).fill(false);
  if (typeof keep === "number") return lands.fill(true, 0, keep);
  if (keep !== undefined) {
    for (const block of keep) if (block < blocks) lands[block] = true;
    return lands;
  }
  for (let i = 0; i < blocks; i++) lands[i] = random.chance(1, 2);
  if (blocks === 1) return lands;
  // All or nothing is not torn.
  const odd = random.below(blocks);
  if (lands.every((each) => each === lands[0])) lands[odd] = !lands[odd];
  return lands;
}

/** Flips a bit of a request's memory. */
function flip(request: Request, at: number, mask: number): void {
  for (let i = 0; i < request.segmentCount; i++) {
    const segment = request.segment(i);
    if (at < segment.length) {
      segment[at] = segment[at]! ^ mask;
      return;
    }
    at -= segment.length;
  }
}

function faultError(
  request: Request,
  code: string,
  reason: string,
  path: string | undefined,
): DiskError {
  const { type, sector, count } = request;
  const operation = operationName(type);
  const placed = type !== RequestType.Flush && type !== RequestType.GetId;
  const place = placed
    ? describePlace(operation, sector, count, path)
    : describePlace(operation, undefined, undefined, path);
  const errno = errnoOf(code);
  return new DiskError(
    kindOfCode(code),
    `Cannot ${place} as ${reason} (${code})`,
    {
      operation,
      code,
      ...(errno === undefined ? {} : { errno }),
      ...(path === undefined ? {} : { path }),
      ...(placed ? { sector, count } : {}),
    },
  );
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
