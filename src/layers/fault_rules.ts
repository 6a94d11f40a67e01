/**
 * The rules that are in force: which of them acts on a request, counted and
 * drawn so that the same seed and the same requests give the same verdicts.
 *
 * Rules are tried in order: delays add up, as a slow drive is slow whatever else
 * happens (Gunawi et al., "Fail-Slow at Scale", FAST 2018), and the first other
 * effect is the one that happens. Each rule draws from a sequence of its own: one
 * more or less leaves the others as they were. What is counted, the nth request
 * and so many times, can say what is said of the blocks of a file system by the
 * sequences of Rebello et al. ("Can Applications Recover from fsync Failures?",
 * ATC 2020): fail once and then never, or from then on always.
 *
 * @module
 */

import type { SectorRange } from "../geometry.ts";
import type { Random } from "../random.ts";
import { operationName, type Request, RequestType } from "../request.ts";
import {
  checkFaultRule,
  type FaultEffect,
  type FaultRule,
  operationsOf,
} from "./fault_rule.ts";
import { parseFaultRule } from "./fault_rule_text.ts";
import type { DiskOperation } from "./operations.ts";
import { throwLater } from "../throw_later.ts";

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

/** What the rules say of one request. */
export interface Verdict {
  /** How long the answer is held back, in ms. */
  delayMs: number;
  /** What goes wrong; `null` for nothing. */
  effect: FaultEffect | null;
  /** The rule that says so. */
  rule: FaultRule | null;
  /** Where that rule draws from. */
  random: Random | null;
}

/** What a rule counted. */
interface RuleState {
  matches: number;
  hits: number;
  readonly random: Random;
}

/** What rules are about. */
export interface RuledDisk {
  /** Its capacity, in sectors. */
  readonly sectors: number;
  /** Whether a flush is to make any of these sectors durable. */
  dirty(sector: number, count: number): boolean;
  /** Called with each fault, before it happens. */
  readonly onFault: ((event: FaultEvent) => void) | undefined;
}

/** Rules, in the order in which they are tried. */
export class FaultRules {
  readonly #random: Random;
  readonly #disk: RuledDisk;
  readonly #states = new Map<FaultRule, RuleState>();

  /**
   * Constructs a new instance.
   *
   * @param random Where rules draw from.
   * @param disk What they are about.
   */
  constructor(random: Random, disk: RuledDisk) {
    this.#random = random;
    this.#disk = disk;
  }

  /** Whether there is none. */
  get empty(): boolean {
    return this.#states.size === 0;
  }

  /** The rules, in the order in which they are tried. */
  get all(): FaultRule[] {
    return [...this.#states.keys()];
  }

  /**
   * Adds a rule, behind the others.
   *
   * @param rule The rule, or its text.
   * @returns The rule.
   * @throws {TypeError} If it makes no sense.
   * @throws {RangeError} If a number is out of its range.
   */
  add(rule: FaultRule | string): FaultRule {
    const added = typeof rule === "string" ? parseFaultRule(rule) : rule;
    checkFaultRule(added);
    this.#states.set(added, {
      matches: 0,
      hits: 0,
      random: this.#random.fork(),
    });
    return added;
  }

  /** Removes a rule, and says whether it was there. */
  remove(rule: FaultRule): boolean {
    return this.#states.delete(rule);
  }

  /** Removes every rule. */
  clear(): void {
    this.#states.clear();
  }

  /** How often a rule has acted. */
  hits(rule: FaultRule): number {
    return this.#states.get(rule)?.hits ?? 0;
  }

  /** What they say of a request; it counts as seen. */
  decide(request: Request): Verdict {
    const verdict: Verdict = {
      delayMs: 0,
      effect: null,
      rule: null,
      random: null,
    };
    const operation = operationName(request.type) as DiskOperation;
    for (const [rule, state] of this.#states) {
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
      try {
        this.#disk.onFault?.({ rule, operation, sector, count });
      } catch (thrown) {
        throwLater(thrown);
      }
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

  /** The part of a request that a rule is about. */
  part(request: Request, rule: FaultRule): SectorRange {
    const { sector, count } = this.range(rule);
    const start = Math.max(sector, request.sector);
    const end = Math.min(sector + count, request.sector + request.count);
    return { sector: start, count: end - start };
  }

  /** The sectors that a rule is about. */
  range(rule: FaultRule): SectorRange {
    const sector = rule.sector ?? 0;
    const rest = Math.max(this.#disk.sectors - sector, 0);
    return { sector, count: rule.count ?? rest };
  }

  #matches(
    rule: FaultRule,
    request: Request,
    operation: DiskOperation,
  ): boolean {
    if (!operationsOf(rule).includes(operation)) return false;
    if (rule.sector !== undefined) {
      const { sector, count } = this.range(rule);
      if (request.type === RequestType.Flush) {
        if (!this.#disk.dirty(sector, count)) return false;
      } else if (
        request.sector >= sector + count ||
        request.sector + request.count <= sector
      ) return false;
    }
    return rule.when?.(request) ?? true;
  }
}
