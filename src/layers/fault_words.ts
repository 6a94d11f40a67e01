/**
 * The words that rules of faults are written in: one table, by which they are
 * read, explained and listed.
 *
 * @module
 */

import { SECTOR_BYTES } from "../geometry.ts";
import { parseSize } from "../units.ts";
import { codeOfErrno, errnoOf } from "../errno.ts";
import type { FaultEffect } from "./fault_rule.ts";
import type { FaultRule } from "./fault_rule.ts";
import { type DiskOperation, OPERATIONS } from "./operations.ts";

/** A word that rules of faults are written in. */
export interface FaultWord {
  /** The word, or what stands before its `=`. */
  readonly name: string;
  /** What it says: which operation, under which condition, to what effect. */
  readonly group: "operation" | "condition" | "effect";
  /** Other names that are taken for it. */
  readonly also: readonly string[];
  /** Each way to write it and what that means. */
  readonly forms: readonly (readonly [text: string, meaning: string])[];
}

/** A rule that is being read. */
export type FaultDraft = Omit<FaultRule, "effect"> & { effect?: FaultEffect };

/** A word and how it is read. */
interface ReadableWord extends FaultWord {
  /** What no rule may say twice. */
  readonly slot: string;
  /** What it must be, in the words of an error. */
  readonly expects: string;
  /**
   * Puts what stands behind the `=` into a rule.
   *
   * @returns Whether it can be read, or what is wrong with it.
   */
  read(value: string | undefined, rule: FaultDraft): boolean | string;
}

const BACKWARDS = "must not end before it starts";

function operationWord(
  operation: DiskOperation,
  meaning: string,
  ...also: string[]
): ReadableWord {
  const name = operation.replace(" ", "-");
  return {
    name,
    group: "operation",
    also: [...new Set([name.replace("-", "_"), `${name}s`, ...also])]
      .filter((other) => other !== name),
    forms: [[name, meaning]],
    slot: "operation",
    expects: `"${name}"`,
    read(_, rule) {
      rule.operation = operation;
      return true;
    },
  };
}

function countWord(
  name: "nth" | "times",
  meaning: string,
): ReadableWord {
  return {
    name,
    group: "condition",
    also: [],
    forms: [[`${name}=3`, meaning]],
    slot: name,
    expects: "an integer ≥ 1",
    read(value, rule) {
      if (!/^\d+$/.test(value ?? "")) return false;
      rule[name] = Number(value);
      return true;
    },
  };
}

function effectWord(
  name: FaultEffect["kind"],
  expects: string,
  forms: FaultWord["forms"],
  read: (value: string | undefined) => FaultEffect | null,
  also: readonly string[] = [],
): ReadableWord {
  return {
    name,
    group: "effect",
    also,
    forms,
    slot: "effect",
    expects,
    read(value, rule) {
      const effect = read(value);
      if (effect === null) return false;
      rule.effect = effect;
      return true;
    },
  };
}

/** Sets the sectors from one to before another; the rest if there is none. */
function setSectors(
  rule: FaultDraft,
  first: number,
  end: number | null,
): boolean | string {
  rule.sector = first;
  if (end === null) return true;
  rule.count = end - first;
  return rule.count >= 1 ? true : BACKWARDS;
}

const UNIT_MS: ReadonlyMap<string, number> = new Map([
  ["us", 1e-3],
  ["µs", 1e-3],
  ["ms", 1],
  ["s", 1e3],
  ["min", 6e4],
]);

const WORDS: readonly ReadableWord[] = [
  ...OPERATIONS.map((operation) => {
    switch (operation) {
      case "read":
        return operationWord(operation, 'reads; "read,write" is either');
      case "write":
        return operationWord(operation, "writes of data");
      case "flush":
        return operationWord(operation, "flushes", "flushes", "fsync", "sync");
      case "discard":
        return operationWord(operation, "discards", "trim");
      case "write zeroes":
        return operationWord(operation, "writes of zeroes", "writezeroes");
      case "secure erase":
        return operationWord(operation, "secure erasures");
      case "get id":
        return operationWord(operation, "questions for the disk's identity");
    }
  }),
  {
    name: "sector",
    group: "condition",
    also: ["sectors"],
    forms: [
      ["sector=100", "requests that touch this sector"],
      ["sector=100..200", "any of these, the last one included"],
      ["sector=100-200", "the same"],
      ["sector=100..", "this one or any after it"],
      ["sector=100+8", "any of these eight"],
    ],
    slot: "sector",
    expects: `as in "sector=8", "sector=8..15", "sector=8-15", "sector=8.." ` +
      `or "sector=8+8"`,
    read(value, rule) {
      const match = /^(\d+)(?:(\.\.|-)(\d*)|\+(\d+))?$/.exec(value ?? "");
      if (match === null) return false;
      const [, first, separator, last, count] = match;
      if (separator === "-" && last === "") return false;
      rule.sector = Number(first);
      if (count !== undefined) {
        rule.count = Number(count);
        return true;
      }
      const end = separator === undefined
        ? rule.sector + 1
        : last === ""
        ? null
        : Number(last) + 1;
      return setSectors(rule, rule.sector, end);
    },
  },
  {
    name: "offset",
    group: "condition",
    also: [],
    forms: [
      ["offset=1MiB", "requests that touch the sector at this byte"],
      ["offset=1MiB..2MiB", "any of the bytes before the second one"],
      ["offset=1MiB-2MiB", "the same"],
      ["offset=1MiB..", "this byte or any after it"],
      ["offset=1MiB+64KiB", "any of these 64 KiB"],
    ],
    slot: "sector",
    expects:
      `sizes as in "offset=1MiB", "offset=1MiB..2MiB", "offset=1MiB.." ` +
      `or "offset=1MiB+64KiB"`,
    read(value, rule) {
      const match = /^(.+?)(?:(\.\.|-|\+)(.*))?$/.exec(value ?? "");
      if (match === null) return false;
      const [, first, separator, second] = match;
      let start: number;
      let end: number | null;
      try {
        start = parseSize(first!);
        end = separator === undefined
          ? start + 1
          : separator === ".." && second === ""
          ? null
          : parseSize(second!) + (separator === "+" ? start : 0);
      } catch {
        return false;
      }
      if (end !== null && end <= start) return BACKWARDS;
      return setSectors(
        rule,
        Math.floor(start / SECTOR_BYTES),
        end === null ? null : Math.ceil(end / SECTOR_BYTES),
      );
    },
  },
  countWord("nth", "from the third match on, once unless times says more"),
  countWord("times", "at most three times, from nth on"),
  {
    name: "once",
    group: "condition",
    also: [],
    forms: [["once", "the same as times=1"]],
    slot: "times",
    expects: `"once"`,
    read(value, rule) {
      if (value !== undefined) return false;
      rule.times = 1;
      return true;
    },
  },
  {
    name: "ratio",
    group: "condition",
    also: ["probability"],
    forms: [
      ["ratio=1/100", "once in a hundred times, by the seed"],
      ["ratio=10%", "ten times in a hundred, by the seed"],
    ],
    slot: "ratio",
    expects: `two integers as in "1/100", or a percentage as in "10%"`,
    read(value, rule) {
      const ratio = /^(\d+)\/(\d+)$/.exec(value ?? "");
      if (ratio !== null) {
        const [numerator, denominator] = [Number(ratio[1]), Number(ratio[2])];
        rule.ratio = { numerator, denominator };
        return true;
      }
      const percent = /^(\d+)(?:\.(\d{1,6}))?%$/.exec(value ?? "");
      if (percent === null) return false;
      const [, whole, fraction = ""] = percent;
      if (Number(`${whole}.${fraction}`) > 100) return "must be 100% at most";
      // Two integers, as a run with the same seed must draw the same.
      rule.ratio = {
        numerator: Number(whole + fraction),
        denominator: 100 * 10 ** fraction.length,
      };
      return true;
    },
  },
  {
    name: "name",
    group: "condition",
    also: [],
    forms: [["name=liar", "what the rule is called in errors"]],
    slot: "name",
    expects: `a word as in "name=liar"`,
    read(value, rule) {
      if (!value) return false;
      rule.name = value;
      return true;
    },
  },
  {
    name: "off",
    group: "condition",
    also: ["disabled"],
    forms: [["off", "not in force yet"]],
    slot: "off",
    expects: `"off"`,
    read(value, rule) {
      if (value !== undefined) return false;
      rule.enabled = false;
      return true;
    },
  },
  effectWord(
    "error",
    `the name of an error number as in "error=EIO"`,
    [["error=EIO", 'it fails with this error and does nothing; also "EIO"']],
    (value) => {
      const code = codeOf(value ?? "");
      return code === undefined ? null : { kind: "error", code };
    },
    ["errno"],
  ),
  effectWord(
    "delay",
    `a time as in "delay=20ms", in us, ms, s or min`,
    [["delay=20ms", "the answer is held back; us, ms, s or min"]],
    (value) => {
      const match = /^(\d+(?:\.\d+)?)(\D+)$/.exec(value ?? "");
      const unitMs = UNIT_MS.get((match?.[2] ?? "").toLowerCase());
      return match === null || unitMs === undefined
        ? null
        : { kind: "delay", ms: Number(match[1]) * unitMs };
    },
  ),
  effectWord(
    "torn",
    `"torn", a number of blocks as in "torn=3" or blocks as in "torn=0,2"`,
    [
      ["torn", "some of a write's blocks land, drawn by the seed"],
      ["torn=3", "the first three blocks land"],
      ["torn=0,2,5", "these blocks land, counted from 0"],
    ],
    (value) => {
      if (value === undefined) return { kind: "torn" };
      if (!/^(\d+(,\d+)*)?,?$/.test(value) || value === "") return null;
      const blocks = value.split(",").filter((each) => each !== "")
        .map(Number);
      // "3," is the block 3 alone.
      return { kind: "torn", keep: value.includes(",") ? blocks : blocks[0]! };
    },
  ),
  effectWord(
    "lost",
    `"lost"`,
    [["lost", "acknowledged, never done; of a flush: the disk lies"]],
    (value) => value === undefined ? { kind: "lost" } : null,
  ),
  effectWord(
    "misdirected",
    `"misdirected" or a number of sectors as in "misdirected=+8"`,
    [
      ["misdirected", "done at another place, drawn by the seed"],
      ["misdirected=+8", "done that many sectors away"],
    ],
    (value) => {
      if (value === undefined) return { kind: "misdirected" };
      return /^[+-]?[1-9]\d*$/.test(value)
        ? { kind: "misdirected", offset: Number(value) }
        : null;
    },
  ),
  effectWord(
    "corrupt",
    `"corrupt" or a number of bits as in "corrupt=3"`,
    [
      ["corrupt", "a bit flips: read, this time; written, until rewritten"],
      ["corrupt=5", "so many bits flip, up to the 4,096 of a sector"],
    ],
    (value) => {
      if (value === undefined) return { kind: "corrupt" };
      return /^[1-9]\d*$/.test(value)
        ? { kind: "corrupt", bits: Number(value) }
        : null;
    },
  ),
  effectWord(
    "bad",
    `"bad"`,
    [["bad", "the sectors cannot be read (EIO) until rewritten"]],
    (value) => value === undefined ? { kind: "bad" } : null,
  ),
  effectWord(
    "flush",
    `"flush=kept", "flush=reverted" or "flush=late"`,
    [
      ["flush=kept", "fails, what it was to write is lost but reads as new"],
      ["flush=reverted", "the same, but it reads as old again"],
      ["flush=late", "as kept, but the next flush reports it"],
    ],
    (value) =>
      value === "kept" || value === "reverted" || value === "late"
        ? { kind: "flush", pages: value }
        : null,
  ),
];

/**
 * Every word that a rule of faults may be written in, and what it means.
 *
 * @example What may follow "sector"?
 * ```ts
 * import { FAULT_WORDS } from "@platter/disk/testing";
 *
 * const { forms } = FAULT_WORDS.find(({ name }) => name === "sector")!;
 * for (const [text, meaning] of forms) console.log(text, meaning);
 * ```
 */
export const FAULT_WORDS: readonly FaultWord[] = WORDS.map(
  ({ name, group, also, forms }) => ({ name, group, also, forms }),
);

/** By every name; a flush is an operation, and `flush=` an effect. */
const OPERATION_WORDS = namesOf(({ group }) => group === "operation");
const VALUE_WORDS = namesOf(({ group }) => group !== "operation");

function namesOf(
  filter: (word: ReadableWord) => boolean,
): ReadonlyMap<string, ReadableWord> {
  return new Map(
    WORDS.filter(filter).flatMap((word) =>
      [word.name, ...word.also].map((name) => [name, word] as const)
    ),
  );
}

/**
 * Reads one word into a rule.
 *
 * @param text The word.
 * @param rule The rule; the word is put into it.
 * @param seen What the rule says already; what the word says is added.
 * @returns What is wrong with it; `null` if nothing is.
 */
export function readFaultWord(
  text: string,
  rule: FaultDraft,
  seen: Set<string>,
): string | null {
  const at = text.indexOf("=");
  const key = (at < 0 ? text : text.slice(0, at)).toLowerCase();
  const value = at < 0 ? undefined : text.slice(at + 1);
  const operations = at < 0
    ? operationsIn(key)
    : key === "op" || key === "operation"
    ? operationsIn(value!.toLowerCase())
    : null;
  const isCode = at < 0 && /^e[a-z0-9]+$/.test(key) && codeOf(key);
  const word = isCode ? VALUE_WORDS.get("error") : VALUE_WORDS.get(key);
  const slot = operations !== null ? "operation" : word?.slot;
  if (slot === undefined || (word?.name === "name" && !value)) {
    return `a word must be one of ${ALL_WORDS}`;
  }
  if (seen.has(slot)) return `it must have one ${slot} only`;
  seen.add(slot);
  if (operations !== null) {
    rule.operation = operations.length === 1 ? operations[0]! : operations;
    return null;
  }
  const fault = word!.read(isCode ? key : value, rule);
  if (fault === true) return null;
  return `${word!.name} ${
    fault === false ? `must be ${word!.expects}` : fault
  }`;
}

/** The names of all effects, for errors. */
export const EFFECT_NAMES: string = WORDS
  .filter(({ group }) => group === "effect").map(({ name }) => name)
  .join(", ");

/** Every word, in the first of its forms. */
const ALL_WORDS = WORDS.map(({ forms }) => forms[0]![0]).join(", ");

function operationsIn(text: string): DiskOperation[] | null {
  const found: DiskOperation[] = [];
  for (const part of text.split(/[,|]/)) {
    const word = OPERATION_WORDS.get(part);
    if (word === undefined) return null;
    const rule: FaultDraft = {};
    word.read(undefined, rule);
    found.push(rule.operation as DiskOperation);
  }
  return found;
}

/** The name of an error by its name in any case or by its number. */
function codeOf(text: string): string | undefined {
  if (/^\d+$/.test(text)) return codeOfErrno(Number(text));
  const code = text.toUpperCase();
  return errnoOf(code) === undefined ? undefined : code;
}
