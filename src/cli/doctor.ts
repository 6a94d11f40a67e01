/**
 * `platter doctor`: what this machine, its permissions and a file system give,
 * and what would mend each lack.
 *
 * @module
 */

import type { Diagnosis, Finding, Subject, Tool } from "../doctor/mod.ts";
import { diagnose } from "../doctor/mod.ts";
import { printable } from "../printable.ts";
import { formatCount } from "../units.ts";
import { interruptible } from "./images.ts";
import { type CliIo, print } from "./io.ts";
import { formatJson } from "./json.ts";
import {
  ExitCode,
  linesOf as wordLines,
  listOf,
  type Verb,
  type VerbArguments,
} from "./verb.ts";

/** The verb. */
export const doctor: Verb = {
  name: "doctor",
  summary: "Find out what this machine and a file system give, by trials",
  operands: "[PATH]",
  operandCount: [0, 1],
  description:
    "Makes a scratch file of 2 MiB in the folder PATH, or beside the image PATH\n" +
    "(default: here), tries out what this machine, Deno's permissions and the\n" +
    "file system there give, and removes it. User Mode Linux, if it is\n" +
    "installed, is started for a moment. Nothing else is written, and no\n" +
    "permission is asked for: what may not be looked at is said to be unknown. A\n" +
    "device is only looked at. For each lack it says what would mend it.",
  options: [
    { name: "json", summary: "Print JSON: what a bug report should have" },
  ],
  examples: [
    ["platter doctor", "What are images in this folder worth?"],
    ["platter doctor /var/lib/images", "And in that one?"],
    [
      "platter doctor --json | jq .findings.direct.remedy",
      "For scripts: what would make I/O direct?",
    ],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const path = args.operands[0] ?? ".";
  const found = await interruptible(
    io,
    (signal) => diagnose(path, { signal }),
  );
  await print(
    io.stdout,
    args.flag("json") ? `${formatJson(found)}\n` : describe(found),
  );
  return ExitCode.Ok;
}

/** What each finding is called. */
const TITLES: Readonly<Record<Subject, string>> = {
  scratch: "scratch file",
  backend: "backend",
  engine: "engine",
  direct: "direct I/O",
  alignment: "alignment",
  flush: "flush",
  fua: "FUA write",
  lock: "lock",
  zero: "write zeroes",
  discard: "discard",
  tcp: "TCP sockets",
  unix: "Unix sockets",
};

/** Columns of the longest verdict. */
const VERDICT_COLUMNS = "limited  ".length;

/** Columns of the names of findings and of tools. */
const NAME_COLUMNS = "qemu-storage-daemon".length;

/** Columns of a line. */
const COLUMNS = 80;

/** Columns of what a reason or a remedy says in one line, beside the names. */
const TEXT_COLUMNS = COLUMNS - "  ".length * 2 - NAME_COLUMNS - VERDICT_COLUMNS;

function describe(found: Diagnosis): string {
  const { runtime, disk, findings, tools } = found;
  const { name, version, os, arch, kernel, processors } = runtime;
  const where = printable(found.path);
  const head = [
    `Platter ${found.platter} on ${name} ${version}, ${os} ${arch}, ` +
    `${kernel === null ? "" : `kernel ${kernel}, `}` +
    formatCount(processors, "processor"),
    permissionsLine(found),
    "",
    disk === null
      ? where
      : `${where}: ${found.of}${
        disk.fileSystem === null ? "" : ` on ${disk.fileSystem}`
      }`,
  ];
  return [
    ...head.flatMap((line) => wordLines(line, COLUMNS)),
    listOf(
      (Object.keys(TITLES) as Subject[]).flatMap((subject) => {
        const finding = findings[subject];
        return finding === undefined
          ? []
          : linesOf(TITLES[subject].padEnd(NAME_COLUMNS), finding);
      }),
    ).trimEnd(),
    "",
    toolLines(tools).trimEnd(),
    "",
  ].join("\n");
}

function permissionsLine({ permissions }: Diagnosis): string {
  const states = Object.entries(permissions);
  if (states.every(([, state]) => state === "granted")) {
    return "Permissions: all";
  }
  const of = (wanted: string): string =>
    states.filter(([, state]) => state === wanted).map(([name]) => name)
      .join(", ");
  const parts = [
    of("granted"),
    ...["partial", "prompt", "denied"].map((state) =>
      of(state) && `${state}: ${of(state)}`
    ),
  ];
  return `Permissions: ${parts.filter((part) => part !== "").join("; ")}`;
}

/** One finding: what there is, why it is not better, and what would mend it. */
function linesOf(name: string, finding: Finding): [string, string][] {
  const { verdict, answer, basis, reason, remedy } = finding;
  const detail = " ".repeat(VERDICT_COLUMNS);
  const linesFor = (text: string) => wordLines(printable(text), TEXT_COLUMNS);
  const below = (text: string | null) =>
    text === null ? [] : linesFor(text).map((line) => `${detail}${line}`);
  const [first, ...rest] = linesFor(
    basis === null ? answer : `${answer} (${basis})`,
  );
  return [
    [name, `${verdict.padEnd(VERDICT_COLUMNS)}${first}`],
    ...[
      ...rest.map((line) => `${detail}${line}`),
      ...below(reason),
      ...below(remedy && `Mend it: ${remedy}`),
    ].map((line): [string, string] => ["", line]),
  ];
}

function toolLines(tools: readonly Tool[] | null): string {
  if (tools === null) {
    return "Programs: not looked for\n  Mend it: --allow-env=PATH --allow-read\n";
  }
  return `Programs\n${
    listOf(tools.flatMap(({ name, verdict, purpose, reason, remedy }) =>
      linesOf(name.padEnd(NAME_COLUMNS), {
        ...{ verdict, answer: purpose, basis: null },
        ...{ reason, remedy },
      })
    ))
  }`;
}
