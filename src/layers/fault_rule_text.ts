/**
 * Rules of faults as text, for command lines and for tests.
 *
 * A rule in text is words apart by spaces: first the operations, joined by
 * commas (all that the effect applies to, if there are none), then conditions,
 * then one effect, in any order.
 *
 * {@linkcode FAULT_WORDS} has every word and what it means;
 * `platter serve --help` lists them.
 *
 * @module
 */

import { printable } from "../printable.ts";
import {
  checkFaultRule,
  type FaultEffect,
  type FaultRule,
} from "./fault_rule.ts";
import { EFFECT_NAMES, type FaultDraft, readFaultWord } from "./fault_words.ts";

/**
 * Reads a rule; {@linkcode FAULT_WORDS} has every word. Case does not matter.
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
      `Cannot parse the fault rule "${
        printable(text)
      }" as ${reason}: current value is "${printable(word)}"`,
    );
  };
  const rule: FaultDraft = {};
  const seen = new Set<string>();
  for (const word of text.split(/\s+/).filter((each) => each !== "")) {
    const fault = readFaultWord(word, rule, seen);
    if (fault !== null) fail(fault, word);
  }
  const { effect } = rule;
  if (effect === undefined) {
    return fail(
      `it must have an effect, one of ${EFFECT_NAMES}`,
      text,
    );
  }
  const whole: FaultRule = { ...rule, effect };
  checkFaultRule(whole);
  return whole;
}

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
