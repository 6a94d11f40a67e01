/**
 * Makes the data of a report: of what an exploration found, and of the
 * recording that it went through.
 *
 * @module
 */

import { printable } from "../../printable.ts";
import { describeCrashDevice } from "../../testing/crash_device.ts";
import type { CrashRecording } from "../../testing/crash_recording.ts";
import type {
  CrashFindings,
  DoubtfulState,
  FailureGroup,
} from "../../testing/crash_verdict.ts";
import {
  type CrashReportData,
  REPORT_FORMAT,
  REPORT_VERSION,
  type ReportCommand,
  type ReportDoubt,
  type ReportGroup,
  type ReportLost,
  type ReportVerdict,
} from "./data.ts";
import { explainLost } from "./explain/explain.ts";
import { makeTimeline } from "./timeline.ts";

/** Characters of a check's output that are kept, from the end. */
const MOST_OUTPUT = 16_384;

/** Lines of a check's output that are kept, from the end. */
const MOST_LINES = 400;

/** Characters of a line that are kept. */
const MOST_LINE = 1000;

/** Groups of which the story and the output are told. */
const MOST_TOLD = 24;

/** Groups of which is told what was lost. */
const MOST_EXPLAINED = 8;

/** Milliseconds after which no other group is asked about. */
const EXPLAIN_MS = 15_000;

/** What a report tells that an exploration does not know. */
export interface MakeReportOptions {
  /** What was run. */
  commands?: readonly ReportCommand[] | undefined;
  /** Whether it was about one state that was asked for. */
  only?: boolean | undefined;
  /** The command line that replays a token. */
  replay?: ((token: string) => string) | undefined;
  /**
   * Whether to find out what lost sectors are, which takes programs of the system
   * and up to a few seconds.
   *
   * @default {true}
   */
  explain?: boolean | undefined;
}

/**
 * Makes the data of a report.
 *
 * @param found What was found.
 * @param recording What was explored; it must still be open.
 * @param options What else is known.
 * @returns The report.
 * @throws {DiskError} If the disk below the recording cannot be read.
 */
export async function makeReport(
  found: CrashFindings,
  recording: CrashRecording,
  options: MakeReportOptions = {},
): Promise<CrashReportData> {
  const { report, counts, recoveryCounts } = found;
  const { device } = recording;
  const { commands = [], replay, explain = true } = options;
  const groups: ReportGroup[] = [];
  const startedAt = performance.now();
  const explains = () =>
    explain && groups.length < MOST_EXPLAINED &&
    performance.now() - startedAt < EXPLAIN_MS;
  for (const group of found.groups.toSorted((a, b) => b.count - a.count)) {
    const whole = groups.length < MOST_TOLD;
    const { kind, message, count, crashes, token, story, output } = group;
    groups.push({
      kind: printable(kind, MOST_LINE),
      message: cleanOutput(message),
      count,
      crashes,
      token,
      replay: replay?.(token) ?? null,
      output: whole ? cleanOutput(output) : "",
      story: whole ? story : null,
      lost: explains() ? await explainGroup(group) : null,
    });
  }
  return {
    format: REPORT_FORMAT,
    version: REPORT_VERSION,
    verdict: verdictOf(found, options.only ?? false),
    commands: commands.map(({ role, text }) => ({
      role,
      text: printable(text, 10 * MOST_LINE),
    })),
    device: {
      promises: describeCrashDevice(device),
      sectors: device.sectors,
      blockSize: device.blockSize,
    },
    explored: {
      states: report.states,
      failed: counts.failed,
      unstable: counts.unstable,
      unjudged: counts.unjudged,
      recoveryStates: report.recoveryStates,
      recoveryFailed: recoveryCounts.failed,
      recoveryUnstable: recoveryCounts.unstable,
      recoveryUnjudged: recoveryCounts.unjudged,
      exhaustive: report.exhaustive,
      ended: found.ended,
      seenEachGroup: found.seenEachGroup,
      seed: report.seed,
      points: report.points,
      writes: report.writes,
      flushes: report.flushes,
      acknowledged: report.acknowledged,
      durationMs: Math.round(report.durationMs),
    },
    groups,
    unstable: doubtsOf(found.unstable, replay),
    unjudged: doubtsOf(found.unjudged, replay),
    timeline: makeTimeline(recording, found.points),
  };
}

/** What the sectors are that a group's state lost. */
async function explainGroup(
  { story, state, whole }: FailureGroup,
): Promise<ReportLost> {
  await using nothingLost = whole.open();
  await using failed = state.open();
  return await explainLost(story, [nothingLost, failed]);
}

function verdictOf(
  { report, counts, recoveryCounts, seenEachGroup }: CrashFindings,
  only: boolean,
): ReportVerdict {
  if (counts.failed + recoveryCounts.failed > 0) return "failed";
  if (counts.unstable + recoveryCounts.unstable > 0) return "unstable";
  if (counts.unjudged === report.states) return "unjudged";
  return only || seenEachGroup ? "safe" : "unfinished";
}

/** States for each reason; those with the same are told once. */
function doubtsOf(
  states: readonly DoubtfulState[],
  replay?: (token: string) => string,
): ReportDoubt[] {
  const doubts = new Map<
    string,
    { -readonly [K in keyof ReportDoubt]: ReportDoubt[K] }
  >();
  for (const { token, verdicts } of states) {
    const said = verdicts.map((verdict) =>
      verdict.outcome === "sound"
        ? verdict.outcome
        : `${verdict.outcome}: ${printable(verdict.message)}`
    );
    const known = doubts.get(said.join("\n"));
    if (known !== undefined) known.count++;
    else {
      doubts.set(said.join("\n"), {
        verdicts: said,
        count: 1,
        token,
        replay: replay?.(token) ?? null,
        output: cleanOutput(
          verdicts.map((verdict) =>
            verdict.outcome === "sound" ? "" : verdict.output ?? ""
          ).find((output) => output !== "") ?? "",
        ),
      });
    }
  }
  return [...doubts.values()];
}

/**
 * The end of what a program printed, fit for any page or terminal: sequences
 * that colour a terminal are gone, and bells; what else cannot be seen has its
 * number.
 */
function cleanOutput(output: string): string {
  const end = output.slice(-MOST_OUTPUT);
  const all = end
    // deno-lint-ignore no-control-regex
    .replace(/\x1b\[[0-9;?]*[ -/]*[@-~]|\x07/g, "")
    .replaceAll("\r\n", "\n").replaceAll("\t", "    ").trimEnd().split("\n")
    // Of a line that is written again and again, as progress is, the last.
    .map((line) => line.slice(line.lastIndexOf("\r") + 1));
  const lines = all.slice(-MOST_LINES).map((line) =>
    printable(line, MOST_LINE)
  );
  if (output.length > end.length || all.length > lines.length) {
    lines.unshift("… what came before is left out");
  }
  return lines.join("\n");
}
