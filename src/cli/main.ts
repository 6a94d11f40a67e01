/**
 * The command line: look at virtual disks, make, read, write, copy and compare
 * them.
 *
 * ```sh
 * deno run -A jsr:@platter/disk/cli --help
 * deno run -A jsr:@platter/disk/cli info disk.img
 * deno install --global -A --name platter jsr:@platter/disk/cli
 * platter copy disk.img backup.img --verify
 * ```
 *
 * Exit codes: 0 done or equal, 1 different, 2 wrong usage or failed, 3 a budget
 * was spent too early, 130 interrupted, 141 nobody reads what it prints. What was
 * done stays done if it cannot be printed; the message says so.
 *
 * @module
 */

import config from "../../deno.json" with { type: "json" };
import { bmap } from "./bmap.ts";
import { cat } from "./cat.ts";
import { commit } from "./commit.ts";
import { compare } from "./compare.ts";
import { completionsOf } from "./completions.ts";
import { copy } from "./copy.ts";
import { crash } from "./crash.ts";
import { create } from "./create.ts";
import { discard } from "./discard.ts";
import { doctor } from "./doctor.ts";
import { extract } from "./extract.ts";
import { fill } from "./fill.ts";
import { flush } from "./flush.ts";
import { heat } from "./heat.ts";
import { Interrupted } from "./images.ts";
import { info } from "./info.ts";
import {
  type CliIo,
  type CliOutput,
  OutputError,
  print,
  printError,
  processIo,
} from "./io.ts";
import { FAULT_HELP } from "./layered_disk.ts";
import { ls } from "./ls.ts";
import { map } from "./map.ts";
import { inOptionsOf } from "./option_words.ts";
import { partitions } from "./partitions.ts";
import { mount } from "./mount.ts";
import { read } from "./read.ts";
import { resize } from "./resize.ts";
import { serve } from "./serve.ts";
import { didYouMean } from "./suggestion.ts";
import {
  ExitCode,
  helpOf,
  listOf,
  readArguments,
  UsageError,
  type Verb,
  type VerbOption,
} from "./verb.ts";
import { write } from "./write.ts";
import { zero } from "./zero.ts";

export { type CliIo, type CliOutput, processIo };

const VERBS: readonly Verb[] = [
  info,
  partitions,
  create,
  read,
  write,
  copy,
  compare,
  map,
  resize,
  ls,
  cat,
  extract,
  fill,
  zero,
  discard,
  flush,
  bmap,
  serve,
  commit,
  mount,
  crash,
  heat,
  doctor,
  completionsOf(() => VERBS),
];

/**
 * Runs one command.
 *
 * @param args What was typed after the program's name.
 * @param io What to talk to.
 * @returns The code to exit with.
 *
 * @example What `platter --version` does
 * ```ts
 * import { main, processIo } from "@platter/disk/cli";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(await main(["--version"], processIo()), 0);
 * ```
 */
export async function main(
  args: readonly string[],
  io: CliIo,
): Promise<number> {
  try {
    return await dispatch(args, io);
  } catch (error) {
    return await report(error, io, []);
  }
}

async function dispatch(args: readonly string[], io: CliIo): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined) {
    await printError(io, help());
    return ExitCode.Trouble;
  }
  if (name === "--help" || name === "-h" || name === "help") {
    const text = rest[0] === undefined
      ? help()
      : rest[0] === "faults"
      ? FAULT_HELP
      : helpOf(verbOf(rest[0]));
    await print(io.stdout, text);
    return ExitCode.Ok;
  }
  if (name === "--version" || name === "-V") {
    await print(io.stdout, `platter ${config.version}\n`);
    return ExitCode.Ok;
  }
  const verb = verbOf(name);
  const parsed = readArguments(verb, rest);
  if (parsed.flag("help")) {
    await print(io.stdout, helpOf(verb));
    return ExitCode.Ok;
  }
  try {
    return await verb.run(parsed, io);
  } catch (error) {
    return await report(error, io, verb.options);
  }
}

function verbOf(name: string): Verb {
  const verb = VERBS.find((verb) => verb.name === name);
  if (verb !== undefined) return verb;
  const what = name.startsWith("-") ? "option" : "verb";
  const meant = didYouMean(name, [
    ...VERBS.map(({ name }) => name),
    ...["--help", "--version"],
  ]);
  throw new UsageError(
    `Cannot do that as there is no ${what} "${name}"${meant}: see ` +
      `"platter --help"`,
  );
}

/** Says in one line what went wrong. */
async function report(
  error: unknown,
  io: CliIo,
  options: readonly VerbOption[],
): Promise<number> {
  const unread = error instanceof OutputError && error.unread;
  // As with any program: who looked at the beginning has seen enough.
  if (unread && !error.matters) return ExitCode.BrokenPipe;
  const text = error instanceof Error
    ? (io.debug ? error.stack : undefined) ?? error.message
    : String(error);
  await printError(io, `platter: ${inOptionsOf(text, options)}\n`);
  if (unread) return ExitCode.BrokenPipe;
  return error instanceof Interrupted ? ExitCode.Interrupted : ExitCode.Trouble;
}

function help(): string {
  return [
    "Platter: virtual disks, sector by sector\n",
    "Usage: platter VERB [ARGUMENT…] [OPTION…]\n",
    `Verbs:\n${listOf(VERBS.map(({ name, summary }) => [name, summary]))}`,
    `Options:\n${
      listOf([
        ["-h, --help", 'Show this help; "platter VERB --help" that of a verb'],
        ["-V, --version", "Show the version"],
      ])
    }`,
    "An IMAGE is a raw disk image, a block device, a container such as a qcow2\n" +
    "(through qemu-nbd), or what an NBD server has: nbd://HOST/NAME,\n" +
    "nbds://HOST/NAME (by TLS), nbd+unix:///NAME?socket=PATH.\n" +
    "A SIZE is in bytes, or has a unit: 512, 4KiB, 64MiB, 1.5GiB, 10MB (powers\n" +
    "of 1,000), 2048s (sectors of 512 bytes). Options that count sectors take a\n" +
    "plain number as sectors. Numbers may be hexadecimal: 0x800.\n" +
    'The words of a fault RULE: "platter help faults".\n',
    `Exit codes:\n${
      listOf([
        ["0", "done, or equal"],
        [
          "1",
          'different ("compare"), a state failed ("crash"), bad sectors ("copy")',
        ],
        ["2", "wrong usage, or it failed"],
        ["3", 'the budget was spent before enough was seen ("crash")'],
        ["130", "interrupted"],
        ["141", "nobody reads what it prints"],
      ])
    }`,
  ].join("\n");
}

if (import.meta.main) {
  // Not exitCode: a read of standard input may be left that would never end.
  Deno.exit(await main(Deno.args, processIo()));
}
