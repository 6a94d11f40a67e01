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
 * Not to be bundled: in a bundle it would run in the place of the program that
 * imports it.
 *
 * Exit codes: 0 done or equal, 1 different, 2 wrong usage or failed, 3 a budget
 * was spent too early, 130 interrupted, 141 nobody reads what it prints. What was
 * done stays done if it cannot be printed; the message says so.
 *
 * @module
 */

import process from "node:process";
import type { FileIdentity } from "../backends/same_file.ts";
import { isNotCapable } from "../platform/permissions.ts";
import { assertRuntime } from "../platform/system.ts";
import { isProgram, programArguments } from "../platform/terminal.ts";
import config from "../../deno.json" with { type: "json" };
import { Interrupted } from "./images.ts";
import {
  type CliIo,
  type CliOutput,
  OutputError,
  print,
  printError,
  processIo,
} from "./io.ts";
import { inOptionsOf } from "./option_words.ts";
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

export { type CliIo, type CliOutput, type FileIdentity, processIo };

/**
 * The verbs by name, in the order of the help. Each is a module of its own, loaded
 * when it is used: to load them all takes longer than most of them run.
 */
const VERBS: Readonly<Record<string, () => Promise<Verb>>> = {
  info: async () => (await import("./info.ts")).info,
  partitions: async () => (await import("./partitions.ts")).partitions,
  create: async () => (await import("./create.ts")).create,
  read: async () => (await import("./read.ts")).read,
  write: async () => (await import("./write.ts")).write,
  copy: async () => (await import("./copy.ts")).copy,
  compare: async () => (await import("./compare.ts")).compare,
  map: async () => (await import("./map.ts")).map,
  resize: async () => (await import("./resize.ts")).resize,
  ls: async () => (await import("./ls.ts")).ls,
  cat: async () => (await import("./cat.ts")).cat,
  extract: async () => (await import("./extract.ts")).extract,
  fill: async () => (await import("./fill.ts")).fill,
  zero: async () => (await import("./zero.ts")).zero,
  discard: async () => (await import("./discard.ts")).discard,
  flush: async () => (await import("./flush.ts")).flush,
  bmap: async () => (await import("./bmap.ts")).bmap,
  serve: async () => (await import("./serve.ts")).serve,
  commit: async () => (await import("./commit.ts")).commit,
  mount: async () => (await import("./mount.ts")).mount,
  crash: async () => (await import("./crash.ts")).crash,
  heat: async () => (await import("./heat.ts")).heat,
  doctor: async () => (await import("./doctor.ts")).doctor,
  completions: async () =>
    (await import("./completions.ts")).completionsOf(loadAll),
};

function loadAll(): Promise<Verb[]> {
  return Promise.all(Object.values(VERBS).map((load) => load()));
}

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
    assertRuntime();
    return await dispatch(args, io);
  } catch (error) {
    return await report(error, io, "platter", []);
  }
}

async function dispatch(args: readonly string[], io: CliIo): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined) {
    await printError(io, await help());
    return ExitCode.Trouble;
  }
  if (name === "--help" || name === "-h" || name === "help") {
    const text = rest[0] === undefined
      ? await help()
      : rest[0] === "faults"
      ? (await import("./layered_disk.ts")).FAULT_HELP
      : helpOf(await verbOf(rest[0]));
    await print(io.stdout, text);
    return ExitCode.Ok;
  }
  if (name === "--version" || name === "-V") {
    await print(io.stdout, `platter ${config.version}\n`);
    return ExitCode.Ok;
  }
  const verb = await verbOf(name);
  const parsed = readArguments(verb, rest);
  if (parsed.flag("help")) {
    await print(io.stdout, helpOf(verb));
    return ExitCode.Ok;
  }
  try {
    return await verb.run(parsed, io);
  } catch (error) {
    return await report(error, io, verb.name, verb.options);
  }
}

async function verbOf(name: string): Promise<Verb> {
  if (Object.hasOwn(VERBS, name)) return await VERBS[name]!();
  const what = name.startsWith("-") ? "option" : "verb";
  const meant = didYouMean(name, [
    ...Object.keys(VERBS),
    ...["--help", "--version"],
  ]);
  throw new UsageError(
    `Cannot do that as there is no ${what} "${name}"${meant}: see ` +
      `"platter --help"`,
  );
}

/** Says in one line what went wrong, and what did after it. */
async function report(
  thrown: unknown,
  io: CliIo,
  name: string,
  options: readonly VerbOption[],
): Promise<number> {
  const [error, ...later] = errorsOf(thrown);
  const unread = error instanceof OutputError && error.unread;
  // As with any program: who looked at the beginning has seen enough.
  if (unread && !error.matters) return ExitCode.BrokenPipe;
  const texts = new Set(
    [error, ...later].map((it) => textOf(it, name, io.debug)),
  );
  const text = [...texts].join("; and then: ");
  await printError(io, `platter: ${inOptionsOf(text, options)}\n`);
  if (unread) return ExitCode.BrokenPipe;
  return error instanceof Interrupted ? ExitCode.Interrupted : ExitCode.Trouble;
}

/**
 * The errors in one, the first of them first: what fails while something is
 * disposed of comes with what had failed before it.
 */
function errorsOf(error: unknown): unknown[] {
  return error instanceof Error && error.name === "SuppressedError"
    ? [(error as SuppressedError).suppressed, (error as SuppressedError).error]
      .flatMap(errorsOf)
    : [error];
}

function textOf(error: unknown, name: string, withStack: boolean): string {
  if (isNotCapable(error) && !withStack) {
    // Deno's own: "Requires env access to …, run again with the … flag".
    const reason = error.message.replace(/^Requires/, "it requires");
    return `Cannot run "${name}" as ${reason}`;
  }
  return error instanceof Error
    ? (withStack ? error.stack : undefined) ?? error.message
    : String(error);
}

async function help(): Promise<string> {
  const verbs = await loadAll();
  return [
    "Platter: virtual disks, sector by sector\n",
    "Usage: platter VERB [ARGUMENT…] [OPTION…]\n",
    `Verbs:\n${listOf(verbs.map(({ name, summary }) => [name, summary]))}`,
    `Options:\n${
      listOf([
        ["-h, --help", 'Show this help; "platter VERB --help" that of a verb'],
        ["-V, --version", "Show the version"],
      ])
    }`,
    "An IMAGE is a raw disk image, a block device, a container such as a qcow2\n" +
    "(through qemu-nbd), what an NBD server has: nbd://HOST/NAME,\n" +
    "nbds://HOST/NAME (by TLS), nbd+unix:///NAME?socket=PATH, or an image in a Ceph\n" +
    "cluster: rbd:POOL/IMAGE.\n" +
    "A SIZE is in bytes, or has a unit: 512, 4KiB, 64MiB, 1.5GiB, 512MB (powers\n" +
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

if (import.meta.main ?? isProgram(import.meta.url)) {
  // Not exitCode: a read of standard input may be left that would never end.
  process.exit(await main(programArguments(), processIo()));
}
