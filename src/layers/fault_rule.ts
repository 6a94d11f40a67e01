/**
 * Rules that say which requests go wrong and how.
 *
 * @module
 */

import { errnoOf } from "../errno.ts";
import type { Ratio } from "../random.ts";
import type { Request } from "../request.ts";
import { MAX_FLIPS } from "./medium_damage.ts";
import { checkRatio, type DiskOperation, OPERATIONS } from "./operations.ts";

/** What goes wrong; the table of the module `faults` explains each kind. */
export type FaultEffect =
  | {
    /** The request fails and does nothing. */
    readonly kind: "error";
    /** The error number's name, such as `"EIO"`. */
    readonly code: string;
  }
  | {
    /** The answer is held back. */
    readonly kind: "delay";
    /** How long, in ms. */
    readonly ms: number;
  }
  | {
    /** Some of a write's blocks land. */
    readonly kind: "torn";
    /**
     * How many from the first on, or which ones, counted in blocks of the disk
     * from 0; drawn by the seed if not given: some, but not all.
     */
    readonly keep?: number | readonly number[] | undefined;
    /** The error that it fails with; acknowledged if not given. */
    readonly code?: string | undefined;
  }
  | {
    /** Acknowledged, never done. */
    readonly kind: "lost";
  }
  | {
    /** Done at another place. */
    readonly kind: "misdirected";
    /** How many sectors away; drawn by the seed if not given. */
    readonly offset?: number | undefined;
  }
  | {
    /** Bits flip: of a read this time, of a write until it is rewritten. */
    readonly kind: "corrupt";
    /** How many different ones, up to the 4,096 of a sector; 1 if not given. */
    readonly bits?: number | undefined;
  }
  | {
    /** The sectors cannot be read until they are rewritten. */
    readonly kind: "bad";
  }
  | {
    /** A flush fails and takes with it what it was to make durable. */
    readonly kind: "flush";
    /** What becomes of it. */
    readonly pages: "kept" | "reverted" | "late";
    /** The error that it fails with; `"EIO"` if not given. */
    readonly code?: string | undefined;
  };

/** What kind of thing goes wrong. */
export type FaultKind = FaultEffect["kind"];

/** Which requests go wrong, and how. */
export interface FaultRule {
  /** What it is called, in errors. */
  name?: string | undefined;
  /** The operations; all that the effect applies to, if not given. */
  operation?: DiskOperation | readonly DiskOperation[] | undefined;
  /**
   * First sector of a range: only requests that touch it, and of those only
   * what lies in it tears, flips or goes bad. A flush touches what it is to make
   * durable.
   */
  sector?: number | undefined;
  /** Sectors of the range; the rest of the disk if not given. */
  count?: number | undefined;
  /** A condition of one's own. It must not throw. */
  when?: ((request: Request) => boolean) | undefined;
  /**
   * The first of the requests matched that the rule acts on, from 1.
   *
   * @default {1}
   */
  nth?: number | undefined;
  /** How often it acts at most: once if `nth` is given, else always. */
  times?: number | undefined;
  /** How many of those it acts on; all of them if not given. */
  ratio?: Ratio | undefined;
  /**
   * Whether it is in force; may be changed while running.
   *
   * @default {true}
   */
  enabled?: boolean | undefined;
  /** What goes wrong. */
  effect: FaultEffect;
}

const WRITES: readonly DiskOperation[] = [
  "write",
  "write zeroes",
  "discard",
  "secure erase",
];

/** The operations that each effect applies to. */
const APPLIES: Readonly<Record<FaultKind, readonly DiskOperation[]>> = {
  error: OPERATIONS,
  delay: OPERATIONS,
  torn: ["write", "write zeroes"],
  lost: [...WRITES, "flush"],
  misdirected: ["read", "write"],
  corrupt: ["read", "write"],
  bad: ["read", "write"],
  flush: ["flush"],
};

/**
 * The operations that a rule is about.
 *
 * @param rule The rule.
 * @returns Those it names, or all that its effect applies to.
 */
export function operationsOf(rule: FaultRule): readonly DiskOperation[] {
  const { operation, effect } = rule;
  if (operation === undefined) {
    // No error is an effect on the sectors of a flush, nor is a delay.
    return rule.sector !== undefined && effect.kind !== "flush"
      ? APPLIES[effect.kind].filter((each) => hasPlace(each))
      : effect.kind === "lost"
      ? WRITES
      : APPLIES[effect.kind];
  }
  return typeof operation === "string" ? [operation] : operation;
}

function hasPlace(operation: DiskOperation): boolean {
  return operation !== "flush" && operation !== "get id";
}

/**
 * Checks a rule.
 *
 * @param rule The rule.
 * @throws {TypeError} If its effect does not apply to its operations, or there
 * is no such thing.
 * @throws {RangeError} If a number is out of its range.
 */
export function checkFaultRule(rule: FaultRule): void {
  const { effect, sector, count, nth, times, ratio } = rule;
  const known = APPLIES[effect.kind];
  if (!Object.hasOwn(APPLIES, effect.kind)) {
    throw new TypeError(
      `Cannot use a fault rule as its effect must be one of ${
        Object.keys(APPLIES).map((kind) => `"${kind}"`).join(", ")
      }: current value is ${JSON.stringify(effect.kind)}`,
    );
  }
  for (const operation of operationsOf(rule)) {
    if (!known.includes(operation)) {
      throw new TypeError(
        `Cannot use a fault rule as the effect "${effect.kind}" must be on ${
          known.map((each) => `"${each}"`).join(", ")
        }: current value is ${JSON.stringify(operation)}`,
      );
    }
    if (
      sector !== undefined && effect.kind !== "flush" && !hasPlace(operation)
    ) {
      throw new TypeError(
        `Cannot use a fault rule as "${operation}" has no sectors and the effect "${effect.kind}" gives it none`,
      );
    }
  }
  checkInteger("sector", sector, 0);
  checkInteger("count", count, 1);
  checkInteger("nth", nth, 1);
  checkInteger("times", times, 1);
  if (count !== undefined && sector === undefined) {
    throw new TypeError("Cannot use a fault rule as count must be with sector");
  }
  if (ratio !== undefined) checkRatio(ratio);
  if ("code" in effect && effect.code !== undefined) checkCode(effect.code);
  switch (effect.kind) {
    case "delay":
      if (!(effect.ms >= 0 && effect.ms <= 2 ** 31 - 1)) {
        throw new RangeError(
          `Cannot use a fault rule as ms must be from 0 to 2^31 - 1: current value is ${effect.ms}`,
        );
      }
      break;
    case "torn":
      for (const each of [effect.keep ?? []].flat()) {
        checkInteger("keep", each, 0);
      }
      break;
    case "misdirected":
      if (effect.offset !== undefined) {
        checkInteger("offset", Math.abs(effect.offset), 1);
      }
      break;
    case "corrupt":
      checkFlips(effect.bits);
      break;
    case "flush":
      if (!PAGES.includes(effect.pages)) {
        throw new TypeError(
          `Cannot use a fault rule as pages must be one of "kept", "reverted", "late": current value is ${
            JSON.stringify(effect.pages)
          }`,
        );
      }
  }
}

const PAGES: readonly string[] = ["kept", "reverted", "late"];

/**
 * Checks how many bits are to flip.
 *
 * @param bits How many; 1 if not given.
 * @throws {RangeError} If that is none, or more than a sector has.
 */
export function checkFlips(bits: number | undefined): void {
  checkInteger("bits", bits, 1);
  if (bits === undefined || bits <= MAX_FLIPS) return;
  throw new RangeError(
    `Cannot use a fault rule as bits must be at most ${MAX_FLIPS}, those of a sector: current value is ${bits}`,
  );
}

function checkInteger(
  name: string,
  value: number | undefined,
  least: number,
): void {
  if (value === undefined || Number.isSafeInteger(value) && value >= least) {
    return;
  }
  throw new RangeError(
    `Cannot use a fault rule as ${name} must be a safe integer ≥ ${least}: current value is ${value}`,
  );
}

function checkCode(code: string): void {
  if (errnoOf(code) !== undefined) return;
  throw new TypeError(
    `Cannot use a fault rule as the error must be the name of an error number such as "EIO" or "ENOSPC": current value is ${
      JSON.stringify(code)
    }`,
  );
}
