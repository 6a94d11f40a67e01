/**
 * `platter crash`: pulls the plug on a program.
 *
 * @module
 */

import { realpath, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { identify, isSameFile } from "../backends/same_file.ts";
import { ProgramError } from "../crash/programs.ts";
import { CrashTestError } from "../crash/crash_test_error.ts";
import { replaceFile } from "../backends/replace_file.ts";
import { systemCode } from "../backends/system_error.ts";
import { runCrashTest } from "../crash/run_crash_test.ts";
import type { CrashTestOptions } from "../crash/crash_test_options.ts";
import type { CrashReportData } from "../crash/report/data.ts";
import { PAGE_START, reportPage } from "../crash/report/html.ts";
import { JUNIT_START, reportJunit } from "../crash/report/junit.ts";
import { reportText } from "../crash/report/terminal.ts";
import { STAGE_NAMES } from "../crash/stages/mod.ts";
import { plural } from "../plural.ts";
import { DiskError } from "../errors.ts";
import { checkBlockSize } from "../geometry.ts";
import type { JudgeProgress } from "../testing/crash_verdict.ts";
import { parseSize } from "../units.ts";
import { clock } from "./format.ts";
import {
  CliError,
  fileError,
  Interrupted,
  interruptible,
  lookAt,
} from "./images.ts";
import { refuseOwnOutput } from "./own_output.ts";
import { announce, type CliIo, print, printError } from "./io.ts";
import { formatJson } from "./json.ts";
import { QUIET_OPTION } from "./outcome.ts";
import { isOwnFile } from "./own_file.ts";
import { Progress } from "./progress.ts";
import {
  ExitCode,
  parseCount,
  UsageError,
  type Verb,
  type VerbArguments,
} from "./verb.ts";

/** The verb. */
export const crash: Verb = {
  name: "crash",
  summary: "Pull the plug on a program, at every moment: does it survive?",
  operands: "[IMAGE]",
  operandCount: [0, 1],
  description:
    "Runs a command once on a disk that records what is written and flushed, and\n" +
    "then a check on each disk that a power cut may have left, the most telling\n" +
    "first. IMAGE is only read; --size makes a new disk.\n" +
    "\n" +
    "Commands are lines for sh. They find the disk in PLATTER_DIR (mounted),\n" +
    "PLATTER_IMAGE (a file), PLATTER_DEVICE (a block device) or PLATTER_NBD (a\n" +
    "URI). What must survive from now on, --run says by a line to the descriptor\n" +
    "numbered in PLATTER_ACK, or by a line of output that begins with ACK; what\n" +
    "had been promised, --check finds as lines of the file in PLATTER_ACKED. A\n" +
    "check exits with 0 if the disk is sound, with 125 if it cannot judge, else\n" +
    "the disk has failed; failures are grouped by the last line that it prints.\n" +
    "What it writes is thrown away, unless --crash-during-recovery says that the\n" +
    "power may fail in that as well.\n" +
    "\n" +
    "A TIME is in seconds, or has a unit: 30, 500ms, 30s, 10m, 1h.\n" +
    "\n" +
    "Stages: raw gives programs a file, or an NBD server (--on nbd), without root;\n" +
    "host gives them a file system or block device of this kernel, as root; uml and\n" +
    "qemu those of a guest's kernel, without root.",
  options: [
    { name: "run", value: "COMMAND", summary: "What the power fails in" },
    {
      name: "check",
      value: "COMMAND",
      summary: "Judges a disk: exits with 0 if it is sound",
    },
    {
      name: "prepare",
      value: "COMMAND",
      summary: "Prepares the disk; no power fails there",
    },
    { name: "size", value: "SIZE", summary: "Make a new disk of this size" },
    {
      name: "fs",
      value: "TYPE",
      summary: "Make a file system on a new disk, and mount it (not in raw)",
    },
    {
      name: "mount",
      value: "OPTIONS",
      summary: "Options of the mount, such as data=journal",
    },
    {
      name: "in",
      value: "STAGE",
      summary: `Where commands run: ${STAGE_NAMES.join(", ")} (default: raw)`,
    },
    {
      name: "on",
      value: "WHAT",
      summary: "What they get: mount (default with --fs), image, device or nbd",
    },
    {
      name: "ack",
      value: "PATTERN",
      summary: "Lines of output that promise something (default: ACK …)",
    },
    {
      name: "block-size",
      value: "SIZE",
      summary:
        "What the disk writes wholly or not (default: 512; 4KiB with --fs)",
    },
    { name: "torn", summary: "The disk may tear even such a block" },
    {
      name: "in-order",
      summary: "The disk writes back in the order of writes",
    },
    {
      name: "states",
      value: "N",
      summary: "States to check at most",
    },
    {
      name: "crash-during-recovery",
      value: "N",
      summary:
        "The power may fail again in a check, N times in a row (default: 0)",
    },
    {
      name: "states-per-recovery",
      value: "N",
      summary: "States to check at most of each such check (default: 8)",
    },
    {
      name: "budget",
      value: "TIME",
      summary: "How long to check (default: 60s, without --states)",
    },
    {
      name: "jobs",
      value: "N",
      summary: "Checks side by side (default: as many as processors)",
    },
    {
      name: "seed",
      value: "N",
      summary: "What random states are drawn from (default: 0)",
    },
    {
      name: "check-timeout",
      value: "TIME",
      summary: "A check that takes longer has failed (default: 60s)",
    },
    {
      name: "run-timeout",
      value: "TIME",
      summary: "How long --prepare and --run may take (default: 10m)",
    },
    {
      name: "record",
      value: "FILE",
      summary: "Keep the recording in a new file, for --recording",
    },
    {
      name: "recording",
      value: "FILE",
      summary: "Check a recording, and run nothing but the check",
    },
    {
      name: "only",
      value: "TOKEN",
      summary: "Check one state again, of a recording",
    },
    {
      name: "dir",
      value: "PATH",
      summary:
        "Where images of states go (default: in memory if there is room)",
    },
    {
      name: "allow-no-proof",
      summary: "Go on although nothing was promised or flushed",
    },
    {
      name: "html",
      value: "FILE",
      summary: "Write a page about what was found, or over such a page",
    },
    {
      name: "junit",
      value: "FILE",
      summary: "Write a JUnit file, or over such a file",
    },
    { ...QUIET_OPTION, summary: "Say what was found, and show no progress" },
    { name: "json", summary: "Print all that was found as JSON" },
  ],
  examples: [
    [
      "platter crash --size 64MiB \\\n" +
      "    --prepare 'echo label: gpt | sfdisk -q $PLATTER_IMAGE' \\\n" +
      "    --run 'sgdisk -n 1:0:0 $PLATTER_IMAGE && echo ACK done' \\\n" +
      "    --check 'sfdisk --dump $PLATTER_IMAGE | grep -q gpt ||\n" +
      "      { echo no table; exit 1; }'",
      "Is there always a partition table?",
    ],
    [
      "sudo platter crash --in host --fs ext4 --size 64MiB --run ./workload.sh \\\n" +
      "    --check ./check.sh --record run.rec --html crash.html",
      "A program on ext4; the page tells what was lost",
    ],
    [
      "sudo platter crash --in host --fs ext4 --recording run.rec \\\n" +
      "    --check ./check.sh --only TOKEN",
      "The state of a failure again",
    ],
  ],
  exitCodes: [
    [ExitCode.Ok, "no state failed"],
    [ExitCode.Different, "a state failed"],
    [ExitCode.Trouble, "wrong usage, or the check is broken or unstable"],
    [ExitCode.Unfinished, "the budget was spent before enough was seen"],
    [ExitCode.Interrupted, "interrupted; nothing is left mounted or running"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const options = testOptions(args);
  const files = await outputs(args, io);
  const quiet = args.flag("quiet");
  const progress = new Progress(io, quiet);
  const say = async (text: string) => {
    await progress.clear();
    await printError(io, `${text}\n`);
  };
  let report: CrashReportData;
  try {
    report = await interruptible(io, (signal) =>
      runCrashTest({
        ...options,
        signal,
        onStep: (step) => {
          if (!quiet) void say(`${step[0]!.toUpperCase()}${step.slice(1)} …`);
        },
        onWarning: (text) => void say(`platter: ${text}`),
        onProgress: (done) => progress.show(progressLine(done)),
        onFailure: ({ message, token }) => {
          if (!quiet) void say(`Failed: ${message} (${token})`);
        },
      }));
  } catch (error) {
    if (
      error instanceof CrashTestError || error instanceof ProgramError ||
      error instanceof DiskError || error instanceof Interrupted
    ) throw error;
    // What only an argument can be the fault of.
    if (
      error instanceof TypeError || error instanceof RangeError ||
      error instanceof SyntaxError
    ) {
      throw new UsageError(error.message, { cause: error });
    }
    throw error;
  } finally {
    await progress.clear();
  }
  // What was found is told all the same.
  let unwritten: CliError | null = null;
  for (const file of files) {
    try {
      await writeReport(file, report);
    } catch (error) {
      unwritten ??= error instanceof CliError
        ? error
        : fileError("write", file.path, error);
    }
  }
  if (args.flag("json")) {
    await print(io.stdout, `${formatJson(report)}\n`);
  } else await announce(io, `${reportText(report)}\n`, report.verdict);
  if (unwritten !== null) throw unwritten;
  switch (report.verdict) {
    case "safe":
      return ExitCode.Ok;
    case "failed":
      return ExitCode.Different;
    case "unfinished":
      return ExitCode.Unfinished;
    default:
      return ExitCode.Trouble;
  }
}

/** A report that is wanted as a file. */
interface ReportFile {
  /** The option that it is wanted by. */
  readonly option: string;
  readonly path: string;
  readonly form: ReportForm;
}

/** A form of a report. */
interface ReportForm {
  /** How each of them begins. */
  readonly start: string;
  readonly write: (report: CrashReportData) => string;
}

const FORMS: Readonly<Record<string, ReportForm>> = {
  html: { start: PAGE_START, write: reportPage },
  junit: { start: JUNIT_START, write: reportJunit },
};

/** What the system says where there is only the old file to write to. */
const NO_NEW_FILE: readonly (string | undefined)[] = [
  "EACCES",
  "EPERM",
  "EROFS",
  "EBUSY",
];

/**
 * Writes a report: an older one is there until the new one is whole, unless its
 * folder takes no new file.
 */
async function writeReport(
  file: ReportFile,
  report: CrashReportData,
): Promise<void> {
  const { path, form } = file;
  const text = form.write(report);
  const there = await identify(path);
  if (there?.isStream) return await writeFile(path, text);
  // The test may have taken hours, and made files itself.
  if (there !== null) await refuseOther(file);
  try {
    await replaceFile(path, text);
  } catch (error) {
    const code = systemCode(error)?.code;
    if (there === null || !NO_NEW_FILE.includes(code)) throw error;
    await writeFile(path, text);
  }
}

/**
 * What is written where. That it can be is found out before anything runs, as
 * far as that goes, and that it overwrites nothing but a report.
 */
async function outputs(
  args: VerbArguments,
  io: CliIo,
): Promise<ReportFile[]> {
  const found: ReportFile[] = [];
  const used = [
    [args.operands[0], "what is tested"],
    [args.value("recording"), "what is tested"],
    [args.value("record"), "what --record makes"],
  ];
  for (const [name, form] of Object.entries(FORMS)) {
    const path = args.value(name);
    if (path === undefined) continue;
    const refuse = (reason: string) =>
      new CliError(`Cannot write --${name} to "${path}" as it is ${reason}`);
    const place = await placeOf(path).catch((error) => {
      throw fileError("write", path, error);
    });
    for (const [other, reason] of used) {
      if (other === undefined) continue;
      if (
        await isSameFile(path, other) ||
        // It may not be there yet.
        place === await placeOf(other).catch(() => null)
      ) throw refuse(reason!);
    }
    const there = await lookAt("write", path);
    if (there !== null && !there.isFile && !there.isStream) {
      throw refuse("no file");
    }
    if (there !== null) {
      refuseOwnOutput(io, [{ name: path, identity: there }], "written");
    }
    const file = { option: name, path, form };
    if (there?.isFile) await refuseOther(file);
    used.push([path, `that of --${name}`]);
    found.push(file);
  }
  return found;
}

/** Refuses a file that has something else in it, which would be lost. */
async function refuseOther(
  { option, path, form }: ReportFile,
): Promise<void> {
  const isOwn = await isOwnFile(path, form.start).catch((error) => {
    throw fileError("write", path, error);
  });
  if (isOwn) return;
  throw new CliError(
    `Cannot write --${option} to "${path}" as it has content that is no such ` +
      `report: name another file`,
  );
}

/** A name in its folder, which must be there. */
async function placeOf(path: string): Promise<string> {
  return join(await realpath(dirname(path)), basename(path));
}

function testOptions(args: VerbArguments): CrashTestOptions {
  const [image] = args.operands;
  const [recording, size] = [args.value("recording"), args.value("size")];
  const check = args.value("check");
  const command = args.value("run");
  if (check === undefined) {
    throw new UsageError("Cannot crash as it takes a --check");
  }
  if ((command === undefined) === (recording === undefined)) {
    throw new UsageError(
      "Cannot crash as it takes one of --run and --recording",
    );
  }
  if (recording !== undefined) {
    for (const name of ["size", "prepare", "record"]) {
      if (args.value(name) === undefined) continue;
      throw new UsageError(
        `Cannot use --${name} with --recording as nothing is run`,
      );
    }
  } else if ((image === undefined) === (size === undefined)) {
    throw new UsageError("Cannot crash as it takes one of IMAGE and --size");
  }
  const blockSize = args.parsed("block-size", parseSize);
  const fileSystem = args.value("fs");
  const bytes = args.parsed("size", parseDiskSize);
  if (blockSize !== undefined) checkBlockSize(blockSize);
  const block = blockSize ?? (fileSystem === undefined ? 512 : 4096);
  if (bytes !== undefined && bytes % block !== 0) {
    throw new UsageError(
      `Cannot use --size as it must be whole blocks of ${block} bytes: current ` +
        `value is "${size}"`,
    );
  }
  return {
    stage: args.choice("in", STAGE_NAMES),
    on: args.choice("on", ["mount", "image", "device", "nbd"]),
    ...{ image, check, recording, run: command },
    size: bytes,
    fileSystem,
    mountOptions: args.value("mount"),
    prepare: args.value("prepare"),
    record: args.value("record"),
    ackPattern: args.parsed("ack", (text) => new RegExp(text)),
    device: {
      ...(blockSize === undefined ? {} : { blockSize }),
      tornBlocks: args.flag("torn"),
      reorders: !args.flag("in-order"),
    },
    only: args.value("only"),
    maxStates: args.parsed("states", parseCount),
    crashDuringRecovery: args.parsed("crash-during-recovery", parseTimes),
    maxStatesPerRecovery: args.parsed("states-per-recovery", parseCount),
    budgetMs: args.parsed("budget", parseTime),
    jobs: args.parsed("jobs", parseCount),
    seed: args.parsed("seed", parseSeed),
    checkTimeoutMs: args.parsed("check-timeout", parseTime),
    runTimeoutMs: args.parsed("run-timeout", parseTime),
    directory: args.value("dir"),
    allowNoProof: args.flag("allow-no-proof"),
    replay: replayOf(args),
  };
}

function parseDiskSize(text: string): number {
  const bytes = parseSize(text);
  if (bytes > 0) return bytes;
  throw new RangeError(
    `Cannot parse a size as it must be above 0: current value is "${text}"`,
  );
}

/** The command line that checks a state again, if there is a recording. */
function replayOf(
  args: VerbArguments,
): ((token: string) => string) | undefined {
  const file = args.value("recording") ?? args.value("record");
  if (file === undefined) return undefined;
  const words = ["platter", "crash", ...args.operands];
  for (const name of ["in", "on", "fs", "mount", "check"]) {
    const value = args.value(name);
    if (value !== undefined) words.push(`--${name}`, value);
  }
  return (token) =>
    [...words, "--recording", file, "--only", token].map(quoted).join(" ");
}

/** A word as sh takes it. */
function quoted(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word)
    ? word
    : `'${word.replaceAll("'", "'\\''")}'`;
}

const UNIT_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** Reads a time; seconds if it has no unit. */
function parseTime(text: string): number {
  const [, number, unit = "s"] = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text) ??
    [];
  const ms = Math.round(Number(number) * UNIT_MS[unit]!);
  if (ms > 0 && ms < 2 ** 31) return ms;
  throw new RangeError(
    `Cannot parse a time as it must be a number and ms, s, m or h, and at most 24 days: current value is "${text}"`,
  );
}

function parseSeed(text: string): number {
  return parseWhole(text, "a seed");
}

function parseTimes(text: string): number {
  return parseWhole(text, "how often");
}

function parseWhole(text: string, what: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value;
  throw new RangeError(
    `Cannot parse ${what} as it must be a whole number: current value is "${text}"`,
  );
}

function progressLine(
  { states, recoveryStates, total, rate, failed, leftMs }: JudgeProgress,
): string {
  const of = (total === null ? "" : ` of ${total}`) +
    (recoveryStates === 0 ? "" : ` (and ${recoveryStates} of recoveries)`);
  const left = leftMs === null ? "" : `  ${clock(leftMs)} left`;
  return `Checked ${states}${of}  ${rate.toFixed(rate < 10 ? 1 : 0)}/s  ${
    failed === 0 ? "none failed" : `${plural(failed, "state")} failed`
  }${left}`;
}
