/**
 * What a verb of the command line is, how its arguments are read, and how its
 * help is written.
 *
 * @module
 */

import type { CliIo } from "./io.ts";
import { didYouMean } from "./suggestion.ts";

/** The codes that a command exits with. */
export const ExitCode = {
  /** Done, or equal. */
  Ok: 0,
  /** The answer is "different". */
  Different: 1,
  /** Wrong usage, or it failed. */
  Trouble: 2,
  /** The budget was spent before enough was seen to say anything. */
  Unfinished: 3,
  /** Stopped by Ctrl-C: 128 + SIGINT, as shells report it. */
  Interrupted: 130,
  /** The reader of the output is gone: 128 + SIGPIPE. */
  BrokenPipe: 141,
} as const;

/** One option of a verb. */
export interface VerbOption {
  /** Its name, without the dashes. */
  readonly name: string;
  /** A letter that stands for it. */
  readonly letter?: string;
  /** What its value is called in the help; without one it is a switch. */
  readonly value?: string;
  /** Whether it may do without its value; with it, it is `--name=VALUE`. */
  readonly optional?: boolean;
  /** The words that its value may be, if they are few. */
  readonly words?: readonly string[];
  /** Whether it may be given several times. */
  readonly repeats?: boolean;
  /** What it does, in one line. */
  readonly summary: string;
}

/** One verb of the command line. */
export interface Verb {
  /** What is typed. */
  readonly name: string;
  /** What it does, in one line. */
  readonly summary: string;
  /** Its operands, such as `"IMAGE SIZE"`. */
  readonly operands: string;
  /** How many operands there must be, and may be. */
  readonly operandCount: readonly [least: number, most: number];
  /** The words that its operand may be, if it is no image and they are few. */
  readonly operandWords?: readonly string[];
  /** What it does, in paragraphs. */
  readonly description: string;
  /** Its options. */
  readonly options: readonly VerbOption[];
  /** What to do where an image is given as `-`; nothing by default. */
  readonly instead?: string;
  /** Command lines and what they do. */
  readonly examples: readonly (readonly [line: string, purpose: string])[];
  /** What its exit codes mean, where that is more than for every verb. */
  readonly exitCodes?: readonly (readonly [code: number, meaning: string])[];
  /**
   * Carries it out.
   *
   * @param args What was typed after the verb.
   * @param io What to talk to.
   * @returns The exit code.
   */
  run(args: VerbArguments, io: CliIo): Promise<number>;
}

/** A command line that cannot be understood. */
export class UsageError extends Error {
  /** Always `"UsageError"`. */
  override readonly name = "UsageError";
}

/** What was typed after a verb. */
export class VerbArguments {
  /** What is not an option. */
  readonly operands: readonly string[];
  readonly #values: ReadonlyMap<string, string | true | string[]>;

  /**
   * Constructs a new instance.
   *
   * @param operands What is not an option.
   * @param values The options by name.
   */
  constructor(
    operands: readonly string[],
    values: ReadonlyMap<string, string | true | string[]>,
  ) {
    this.operands = operands;
    this.#values = values;
  }

  /**
   * An operand that must be there.
   *
   * @param index From 0.
   * @returns The operand.
   */
  operand(index: number): string {
    return this.operands[index]!;
  }

  /**
   * A switch.
   *
   * @param name Its name.
   * @returns Whether it was given.
   */
  flag(name: string): boolean {
    return this.#values.get(name) === true;
  }

  /**
   * An option with a value.
   *
   * @param name Its name.
   * @returns Its value, if it was given.
   */
  value(name: string): string | undefined {
    const value = this.#values.get(name);
    return typeof value === "string" ? value : undefined;
  }

  /**
   * An option that may be given several times.
   *
   * @param name Its name.
   * @returns Its values, in order.
   */
  all(name: string): readonly string[] {
    const values = this.#values.get(name);
    return Array.isArray(values) ? values : [];
  }

  /**
   * An option with a value that is read by a function.
   *
   * @param name Its name.
   * @param parse Reads it; throws if it cannot.
   * @returns What it means, if it was given.
   * @throws {UsageError} If it cannot be read.
   */
  parsed<T>(name: string, parse: (text: string) => T): T | undefined {
    const text = this.value(name);
    return text === undefined ? undefined : parseAs(`--${name}`, text, parse);
  }

  /**
   * An option whose value is one of a few words.
   *
   * @param name Its name.
   * @param words The words.
   * @returns Its value, if it was given.
   * @throws {UsageError} If it is none of the words.
   */
  choice<T extends string>(name: string, words: readonly T[]): T | undefined {
    const text = this.value(name);
    const word = words.find((word) => word === text);
    if (text !== undefined && word === undefined) {
      throw new UsageError(
        `Cannot use --${name} as it must be ${orList(words)}: current value ` +
          `is "${text}"`,
      );
    }
    return word;
  }
}

/**
 * Reads a value that was typed.
 *
 * @param what What it is called in the error.
 * @param text What was typed.
 * @param parse Reads it; throws if it cannot.
 * @returns What it means.
 * @throws {UsageError} If it cannot be read.
 */
export function parseAs<T>(
  what: string,
  text: string,
  parse: (text: string) => T,
): T {
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    // What it was read as matters less than where it stands.
    const reason = error.message.replace(/^Cannot .*? as /, "");
    throw new UsageError(`Cannot use ${what} as ${reason}`, { cause: error });
  }
}

/**
 * Reads a whole number above zero.
 *
 * @param text What was typed.
 * @returns The number.
 * @throws {RangeError} If it is none.
 */
export function parseCount(text: string): number {
  const count = Number(text);
  if (
    !/^(\d+|0x[\da-f]+)$/i.test(text) || !Number.isSafeInteger(count) ||
    count < 1
  ) {
    throw new RangeError(
      `Cannot parse a count as it must be a whole number above 0: current ` +
        `value is "${text}"`,
    );
  }
  return count;
}

/** The option that every verb has. */
export const HELP: VerbOption = {
  name: "help",
  letter: "h",
  summary: "Show this help",
};

/**
 * Reads what was typed after a verb.
 *
 * @param verb The verb.
 * @param args What was typed.
 * @returns Its options and operands; `--help` makes every other fault go by.
 * @throws {UsageError} If the verb does not take that.
 */
export function readArguments(
  verb: Verb,
  args: readonly string[],
): VerbArguments {
  const options = [...verb.options, HELP];
  const see = `see "platter ${verb.name} --help"`;
  const { operands, typed } = takeApart(args, options);
  const values = new Map<string, string | true | string[]>();
  const isHelp = typed.some(({ option, value }) =>
    option === HELP && value === undefined
  );
  if (isHelp) return new VerbArguments(operands, new Map([["help", true]]));
  for (const { option, name, value } of typed) {
    const refuse = (reason: string): never => {
      throw new UsageError(`Cannot run "${verb.name}" as ${reason}: ${see}`);
    };
    if (option === undefined) {
      if (NEGATIVE.test(name) && /\bSIZE\b/.test(verb.operands)) {
        throw negativeError("SIZE", name);
      }
      const meant = didYouMean(name, options.map(({ name }) => `--${name}`));
      return refuse(`there is no option "${name}"${meant}`);
    }
    // Above all "--force=no", which somebody might take for a no.
    if (option.value === undefined && value !== undefined) {
      refuse(`${name} takes no value: current value is "${value}"`);
    }
    if (value === "") refuse(`--${option.name} needs its ${option.value}`);
    if (takesNumber(option) && NEGATIVE.test(value!)) {
      throw negativeError(`--${option.name}`, value!);
    }
    if (value === "-" && /^(FILE|PATH|DIR)$/.test(option.value ?? "")) {
      throw dashError(verb, `--${option.name}`);
    }
    const given = value ?? true;
    const before = values.get(option.name);
    if (option.repeats) {
      values.set(option.name, [...(before as string[] ?? []), value!]);
    } else if (before === undefined || before === given) {
      values.set(option.name, given);
    } else {
      refuse(`--${option.name} must not be given twice with different values`);
    }
  }
  const [least, most] = verb.operandCount;
  if (operands.length < least || operands.length > most) {
    const count = operands.length < least ? "few" : "many";
    throw new UsageError(
      `Cannot run "${verb.name}" as there are too ${count} arguments for ` +
        `"${usageOf(verb)}": ${see}`,
    );
  }
  const names = verb.operands.split(" ");
  for (const [index, text] of operands.entries()) {
    // The last one may stand for several.
    const name = names[index] ?? names.at(-1)!;
    if (text === "-" && name !== "SIZE" && !/\|-\]?$/.test(name)) {
      throw dashError(verb, name.replace(/[[\]…]/g, ""));
    }
  }
  return new VerbArguments(operands, values);
}

/**
 * Writes the help of a verb.
 *
 * @param verb The verb.
 * @returns Some lines.
 */
export function helpOf(verb: Verb): string {
  const options = [...verb.options, HELP].map((option) => {
    const letter = option.letter === undefined ? "    " : `-${option.letter}, `;
    const value = option.value === undefined
      ? ""
      : option.optional
      ? `[=${option.value}]`
      : ` ${option.value}`;
    return [`${letter}--${option.name}${value}`, option.summary] as const;
  });
  const codes = verb.exitCodes ?? [
    [ExitCode.Ok, "done"],
    [ExitCode.Trouble, "wrong usage, or it failed"],
  ];
  return [
    `${verb.summary}\n`,
    `Usage: ${usageOf(verb)} [OPTION…]\n`,
    `${verb.description}\n`,
    `Options:\n${listOf(options, HELP_COLUMNS)}`,
    `Examples:\n${
      verb.examples
        .map(([line, purpose]) => `  # ${purpose}\n  ${line}\n`)
        .join("")
    }`,
    `Exit codes:\n${listOf(codes.map(([code, it]) => [String(code), it]))}`,
  ].join("\n");
}

/** Columns of a line of help: a terminal that is 80 wide breaks none. */
const HELP_COLUMNS = 79;

/**
 * Lays out names and what is said of them in two columns.
 *
 * @param rows The rows.
 * @param columns Where lines are broken, between words; nowhere by default.
 * @returns Some lines, indented.
 */
export function listOf(
  rows: readonly (readonly [name: string, text: string])[],
  columns = Infinity,
): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.flatMap(([name, text]) =>
    linesOf(text, columns - width - 4).map((line, i) =>
      `  ${(i === 0 ? name : "").padEnd(width)}  ${line}\n`
    )
  ).join("");
}

/**
 * Breaks a text between words.
 *
 * @param text The text, in one line.
 * @param columns Its width; words that are longer stay whole.
 * @returns Its lines, at least one.
 */
export function linesOf(text: string, columns: number): string[] {
  const lines: string[] = [];
  let rest = text;
  while (rest.length > columns) {
    const within = rest.lastIndexOf(" ", columns);
    const at = within > 0 ? within : rest.indexOf(" ");
    if (at < 0) break;
    lines.push(rest.slice(0, at));
    rest = rest.slice(at + 1);
  }
  return [...lines, rest];
}

/** An option as it was typed. */
interface TypedOption {
  /** What it is; `undefined` if there is none of that name. */
  readonly option: VerbOption | undefined;
  /** Its name with the dashes, as it was typed. */
  readonly name: string;
  /** Its value; empty if the one that it needs is missing. */
  readonly value: string | undefined;
}

/**
 * Tells options and operands apart. What they mean is not looked at.
 *
 * `parseArgs` of `@std/cli` would do it, but takes `--force=no` for a yes, lets
 * `--force` swallow an operand called `false`, and makes `--no-lock` of a name
 * that is none: where a word decides over somebody's data, that is too much.
 */
function takeApart(
  args: readonly string[],
  options: readonly VerbOption[],
): { operands: string[]; typed: TypedOption[] } {
  const operands: string[] = [];
  const typed: TypedOption[] = [];
  const rest = [...args];
  const next = (option: VerbOption | undefined) => {
    const [arg = "--"] = rest;
    const isValue = !isOption(arg) || takesNumber(option) && NEGATIVE.test(arg);
    return isValue ? rest.shift() : "";
  };
  for (let arg; (arg = rest.shift()) !== undefined;) {
    if (arg === "--") {
      operands.push(...rest);
      break;
    }
    if (!isOption(arg)) {
      operands.push(arg);
    } else if (NEGATIVE.test(arg)) {
      // No option is a digit; it is told of as it was typed.
      typed.push({ option: undefined, name: arg, value: undefined });
    } else if (arg.startsWith("--")) {
      const name = arg.replace(/=.*/s, "");
      const option = options.find((it) => name === `--${it.name}`);
      const value = name !== arg
        ? arg.slice(name.length + 1)
        : needsValue(option)
        ? next(option)
        : undefined;
      typed.push({ option, name, value });
    } else {
      for (let at = 1; at < arg.length; at++) {
        const name = `-${arg[at]}`;
        const option = options.find((it) => name === `-${it.letter}`);
        const more = arg.slice(at + 1);
        if (more.startsWith("=") || needsValue(option)) {
          // `-o=FILE`, `-oFILE` and `-o FILE`.
          const value = more === "" ? next(option) : more.replace("=", "");
          typed.push({ option, name, value });
          break;
        }
        typed.push({ option, name, value: undefined });
      }
    }
  }
  return { operands, typed };
}

/** Whether it begins as an option does; "-" is a stream. */
function isOption(arg: string): boolean {
  return arg.length > 1 && arg.startsWith("-");
}

/** A number below zero, which begins as an option does. */
const NEGATIVE = /^-\.?\d/;

/** Whether its value is a number, of which none is below zero. */
function takesNumber(option: VerbOption | undefined): boolean {
  return /^(N|NUMBER|SIZE|TIME|BYTES)$/.test(option?.value ?? "");
}

function negativeError(what: string, text: string): UsageError {
  return new UsageError(
    `Cannot use ${what} as it must not be negative: current value is "${text}"`,
  );
}

function needsValue(option: VerbOption | undefined): boolean {
  return option?.value !== undefined && option.optional !== true;
}

/** A stream where only something with a name will do. */
function dashError(verb: Verb, name: string): UsageError {
  const isDisk = /^(IMAGE|A|B|OVERLAY|BASE)$/.test(name);
  const what = isDisk ? "the name of a disk" : "a name";
  const instead = isDisk && verb.instead !== undefined
    ? `${verb.instead}, or `
    : "";
  return new UsageError(
    `Cannot run "${verb.name}" as ${name} must be ${what} and no stream: ` +
      `current value is "-" (use ${instead}"./-" for a file of that name)`,
  );
}

function usageOf(verb: Verb): string {
  return `platter ${verb.name} ${verb.operands}`;
}

/**
 * Words as a choice: `"a", "b" or "c"`.
 *
 * @param words The words.
 * @returns The text.
 */
export function orList(words: readonly string[]): string {
  const quoted = words.map((word) => `"${word}"`);
  return quoted.join(", ").replace(/, ("[^"]*")$/, " or $1");
}
