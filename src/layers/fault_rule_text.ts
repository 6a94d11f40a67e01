/**
 * Rules of faults as text, for command lines and for tests.
 *
 * A rule in text is words apart by spaces: first the operations, joined by
 * commas (all that the effect applies to, if there are none), then conditions,
 * then one effect, in any order.
 *
 * | word | meaning |
 * | --- | --- |
 * | `read`, `write`, `flush`, `discard`, `write-zeroes`, `secure-erase`, `get-id` | the operation; `read,write` is either |
 * | `sector=100` | requests that touch this sector |
 * | `sector=100..200` | that touch any of these, the last one included |
 * | `sector=100..` | that touch this one or any after it |
 * | `sector=100+8` | that touch any of these eight |
 * | `nth=3` | the third request that the rule matches, and no other unless `times` says so |
 * | `times=2` | it happens at most twice, from `nth` on |
 * | `ratio=1/100` | it happens once in a hundred times, by the seed |
 * | `name=…` | what the rule is called |
 * | `off` | not enabled yet |
 * | `error=EIO` | the request fails with this error and does nothing |
 * | `delay=20ms` | the answer is held back; `us`, `ms` or `s` |
 * | `torn` | some of a write's blocks land, drawn by the seed, and it is acknowledged |
 * | `torn=3` | the first three blocks land |
 * | `torn=0,2,5` | these blocks land, counted from 0 in the request |
 * | `lost` | acknowledged, never done; for a flush: the disk lies |
 * | `misdirected` | done at another place, drawn by the seed |
 * | `misdirected=+8` | done that many sectors away |
 * | `corrupt` | one bit flips: in a read this time, in a write until it is rewritten |
 * | `corrupt=5` | so many bits flip |
 * | `bad` | the sectors cannot be read (EIO) until they are rewritten |
 * | `flush=kept` | the flush fails; what it was to write is lost, still reads as new, and the next flush succeeds |
 * | `flush=reverted` | the same, but it reads as old again |
 * | `flush=late` | as `kept`, but this flush succeeds and the next one reports the failure |
 *
 * @module
 */

import {
  checkFaultRule,
  errnoOf,
  type FaultEffect,
  type FaultRule,
} from "./fault_rule.ts";
import { type DiskOperation, OPERATIONS } from "./operations.ts";

/**
 * Reads a rule; the module's table has every word.
 *
 * @param text The rule.
 * @returns The rule.
 * @throws {TypeError} If a word is not known, or the effect does not apply.
 * @throws {RangeError} If a number is out of its range.
 *
 * @example
 * ```ts
 * import { parseFaultRule } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(parseFaultRule("write sector=100..200 nth=3 error=EIO"), {
 *   operation: "write",
 *   sector: 100,
 *   count: 101,
 *   nth: 3,
 *   effect: { kind: "error", code: "EIO" },
 * });
 * ```
 */
export function parseFaultRule(text: string): FaultRule {
  const fail = (reason: string, word: string): never => {
    throw new TypeError(
      `Cannot parse the fault rule ${
        JSON.stringify(text)
      } as ${reason}: current value is ${JSON.stringify(word)}`,
    );
  };
  const rule: Omit<FaultRule, "effect"> & { effect?: FaultEffect } = {};
  const seen = new Set<string>();
  for (const word of text.split(/\s+/).filter((each) => each !== "")) {
    const at = word.indexOf("=");
    const key = at < 0 ? word : word.slice(0, at);
    const value = at < 0 ? undefined : word.slice(at + 1);
    const operations = value === undefined ? operationsIn(word) : null;
    const slot = operations !== null
      ? "operation"
      : Object.hasOwn(EFFECTS, key)
      ? "effect"
      : key;
    if (seen.has(slot)) fail(`it must have one ${slot} only`, word);
    seen.add(slot);
    const number = (pattern: RegExp, form: string): RegExpExecArray =>
      pattern.exec(value ?? "") ?? fail(`${key} must be ${form}`, word);
    if (operations !== null) {
      rule.operation = operations.length === 1 ? operations[0]! : operations;
    } else if (Object.hasOwn(EFFECTS, key)) {
      rule.effect = EFFECTS[key]!(value) ??
        fail(`${key} must be ${EFFECT_FORMS[key]}`, word);
    } else if (key === "sector") {
      const [, first, to, plus] = number(
        /^(\d+)(?:\.\.(\d*)|\+(\d+))?$/,
        `as in "${key}=8", "${key}=8..15", "${key}=8.." or "${key}=8+8"`,
      );
      rule.sector = Number(first);
      if (plus !== undefined) rule.count = Number(plus);
      else if (to === undefined) rule.count = 1;
      else if (to !== "") {
        rule.count = Number(to) - rule.sector + 1;
        if (rule.count < 1) fail("sector must not end before it starts", word);
      }
    } else if (key === "nth" || key === "times") {
      rule[key] = Number(number(/^(\d+)$/, "an integer ≥ 1")[1]);
    } else if (key === "ratio") {
      const [, numerator, denominator] = number(
        /^(\d+)\/(\d+)$/,
        `two integers as in "1/100"`,
      );
      rule.ratio = {
        numerator: Number(numerator),
        denominator: Number(denominator),
      };
    } else if (key === "name" && value) {
      rule.name = value;
    } else if (word === "off") {
      rule.enabled = false;
    } else {
      fail(
        `a word must be one of ${
          [...OPERATION_WORDS.keys(), ...KEYS, ...Object.keys(EFFECTS)].join(
            ", ",
          )
        }`,
        word,
      );
    }
  }
  const { effect } = rule;
  if (effect === undefined) {
    return fail(
      `it must have an effect, one of ${Object.keys(EFFECTS).join(", ")}`,
      text,
    );
  }
  const whole: FaultRule = { ...rule, effect };
  checkFaultRule(whole);
  return whole;
}

const KEYS = ["sector=", "nth=", "times=", "ratio=", "name=", "off"];

/** Operations as rules write them. */
const OPERATION_WORDS: ReadonlyMap<string, DiskOperation> = new Map(
  OPERATIONS.map((operation) => [operation.replace(" ", "-"), operation]),
);

function operationsIn(word: string): DiskOperation[] | null {
  const found = word.split(",").map((part) => OPERATION_WORDS.get(part));
  return found.every((each) => each !== undefined) ? found : null;
}

const UNIT_MS: Readonly<Record<string, number>> = { us: 1e-3, ms: 1, s: 1e3 };

const EFFECT_FORMS: Readonly<Record<string, string>> = {
  error: `the name of an error number as in "error=EIO"`,
  delay: `a time as in "delay=20ms", in us, ms or s`,
  torn: `"torn", a number of blocks as in "torn=3" or blocks as in "torn=0,2"`,
  lost: `"lost"`,
  misdirected: `"misdirected" or a number of sectors as in "misdirected=+8"`,
  corrupt: `"corrupt" or a number of bits as in "corrupt=3"`,
  bad: `"bad"`,
  flush: `"flush=kept", "flush=reverted" or "flush=late"`,
};

/** Reads what stands behind an effect's name; `null` if it cannot be read. */
const EFFECTS: Readonly<
  Record<string, (value: string | undefined) => FaultEffect | null>
> = {
  error: (value) =>
    value === undefined || errnoOf(value) === undefined
      ? null
      : { kind: "error", code: value },
  delay: (value) => {
    const match = /^(\d+(?:\.\d+)?)(us|ms|s)$/.exec(value ?? "");
    return match === null
      ? null
      : { kind: "delay", ms: Number(match[1]) * UNIT_MS[match[2]!]! };
  },
  torn: (value) => {
    if (value === undefined) return { kind: "torn" };
    if (!/^(\d+(,\d+)*)?,?$/.test(value) || value === "") return null;
    const blocks = value.split(",").filter((each) => each !== "").map(Number);
    // "3," is the block 3 alone.
    return { kind: "torn", keep: value.includes(",") ? blocks : blocks[0]! };
  },
  lost: (value) => value === undefined ? { kind: "lost" } : null,
  misdirected: (value) => {
    if (value === undefined) return { kind: "misdirected" };
    return /^[+-]?[1-9]\d*$/.test(value)
      ? { kind: "misdirected", offset: Number(value) }
      : null;
  },
  corrupt: (value) => {
    if (value === undefined) return { kind: "corrupt" };
    return /^[1-9]\d*$/.test(value)
      ? { kind: "corrupt", bits: Number(value) }
      : null;
  },
  bad: (value) => value === undefined ? { kind: "bad" } : null,
  flush: (value) =>
    value === "kept" || value === "reverted" || value === "late"
      ? { kind: "flush", pages: value }
      : null,
};

/**
 * Prints a rule as {@linkcode parseFaultRule} reads it. What text cannot say is
 * left out: a condition of one's own, the error of a torn write or of a flush.
 *
 * @param rule The rule.
 * @returns For example `"write sector=100..200 nth=3 error=EIO"`.
 */
export function formatFaultRule(rule: FaultRule): string {
  const { operation, sector, count, nth, times, ratio, effect } = rule;
  const words: string[] = [];
  if (operation !== undefined) {
    words.push([operation].flat().map((o) => o.replace(" ", "-")).join(","));
  }
  if (sector !== undefined) {
    const last = count === undefined ? "" : sector + count - 1;
    words.push(count === 1 ? `sector=${sector}` : `sector=${sector}..${last}`);
  }
  if (nth !== undefined) words.push(`nth=${nth}`);
  if (times !== undefined) words.push(`times=${times}`);
  if (ratio !== undefined) {
    words.push(`ratio=${ratio.numerator}/${ratio.denominator}`);
  }
  if (rule.name !== undefined) {
    words.push(`name=${rule.name.replaceAll(/\s+/g, "_")}`);
  }
  if (rule.enabled === false) words.push("off");
  words.push(formatEffect(effect));
  return words.join(" ");
}

function formatEffect(effect: FaultEffect): string {
  const valued = (value: string | number | undefined) =>
    value === undefined ? effect.kind : `${effect.kind}=${value}`;
  switch (effect.kind) {
    case "error":
      return valued(effect.code);
    case "delay":
      return valued(
        effect.ms < 1
          ? `${Number((effect.ms * 1000).toPrecision(12))}us`
          : `${effect.ms}ms`,
      );
    case "torn":
      return valued(
        typeof effect.keep === "object"
          ? effect.keep.join(",") + (effect.keep.length > 1 ? "" : ",")
          : effect.keep,
      );
    case "misdirected":
      return valued(
        effect.offset !== undefined && effect.offset > 0
          ? `+${effect.offset}`
          : effect.offset,
      );
    case "corrupt":
      return valued(effect.bits);
    case "flush":
      return valued(effect.pages);
    case "lost":
    case "bad":
      return effect.kind;
  }
}
