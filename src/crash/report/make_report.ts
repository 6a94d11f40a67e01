/**
 * Makes the data of a report: of what an exploration found, and of the
 * recording that it went through.
 *
 * @module
 */

import { printable } from "../../printable.ts";
import { describeCrashDevice } from "../../testing/crash_device.ts";
import type { CrashRecording } from "../../testing/crash_recording.ts";
import type { CrashReport } from "../../testing/crash_report.ts";
import type { StoryData } from "../../testing/story_data.ts";
import {
  type CrashReportData,
  REPORT_FORMAT,
  REPORT_VERSION,
  type ReportCommand,
  type ReportDoubt,
  type ReportExplored,
  type ReportGroup,
  type ReportLost,
  type ReportVerdict,
} from "./data.ts";
import { type JudgedPoint, makeTimeline } from "./timeline.ts";

/** Characters of a check's output that are kept, from the end. */
const MOST_OUTPUT = 16_384;

/** Lines of a check's output that are kept, from the end. */
const MOST_LINES = 400;

/** Characters of a line that are kept. */
const MOST_LINE = 1000;

/** Groups of which the story, the output and the meaning are told. */
const MOST_TOLD = 24;

/** States that fail in the same way, as an exploration finds them. */
export interface FoundGroup {
  /** What they have in common. */
  readonly kind: string;
  /** How the simplest one fails. */
  readonly message: string;
  /** How many there are. */
  readonly count: number;
  /** What names the simplest one. */
  readonly token: string;
  /** What happened there. */
  readonly story: StoryData;
  /** What its check printed. */
  readonly output: string;
}

/** A state on which verdicts differ, or there is none. */
export interface FoundDoubt {
  /** What names it. */
  readonly token: string;
  /** The verdicts, in order. */
  readonly verdicts: readonly {
    readonly outcome: string;
    readonly message?: string;
    readonly output?: string | undefined;
  }[];
}

/** What an exploration found. */
export interface Found<Group extends FoundGroup> {
  /** How much was explored. */
  readonly report: CrashReport;
  /** What ended it. */
  readonly ended: ReportExplored["ended"];
  /** Failures by their message. */
  readonly groups: readonly Group[];
  /** States on which verdicts differ. */
  readonly unstable: readonly FoundDoubt[];
  /** States that could not be judged. */
  readonly unjudged: readonly FoundDoubt[];
  /** How many of each there are. */
  readonly counts: Pick<ReportExplored, "failed" | "unstable" | "unjudged">;
  /** What was judged, by crash point. */
  readonly points: readonly JudgedPoint[];
  /** Whether a state of each group of alike points was judged. */
  readonly seenEachGroup: boolean;
}

/** What a report tells that an exploration does not know. */
export interface MakeReportOptions<Group extends FoundGroup = FoundGroup> {
  /** What was run. */
  commands?: readonly ReportCommand[] | undefined;
  /** Whether it was about one state that was asked for. */
  only?: boolean | undefined;
  /** The command line that replays a token. */
  replay?: ((token: string) => string) | undefined;
  /** Finds out what the sectors are that a group's state lost. */
  explain?: ((group: Group) => Promise<ReportLost>) | undefined;
}

/**
 * Makes the data of a report.
 *
 * @param found What was found.
 * @param recording What was explored.
 * @param options What else is known.
 * @returns The report.
 * @throws Whatever `explain` throws.
 */
export async function makeReport<Group extends FoundGroup>(
  found: Found<Group>,
  recording: Pick<CrashRecording, "device" | "events" | "requests">,
  options: MakeReportOptions<Group> = {},
): Promise<CrashReportData> {
  const { report, counts } = found;
  const { device } = recording;
  const { commands = [], replay, explain } = options;
  const groups: ReportGroup[] = [];
  for (const group of found.groups.toSorted((a, b) => b.count - a.count)) {
    const whole = groups.length < MOST_TOLD;
    const { kind, message, count, token, story, output } = group;
    groups.push({
      kind: printable(kind, MOST_LINE),
      message: cleanOutput(message),
      count,
      token,
      replay: replay?.(token) ?? null,
      output: whole ? cleanOutput(output) : "",
      story: whole ? story : null,
      lost: whole ? await explain?.(group) ?? null : null,
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

function verdictOf(
  { report, counts, seenEachGroup }: Found<FoundGroup>,
  only: boolean,
): ReportVerdict {
  if (counts.failed > 0) return "failed";
  if (counts.unstable > 0) return "unstable";
  if (counts.unjudged === report.states) return "unjudged";
  return only || seenEachGroup ? "safe" : "unfinished";
}

/** States for each reason; those with the same are told once. */
function doubtsOf(
  states: readonly FoundDoubt[],
  replay?: (token: string) => string,
): ReportDoubt[] {
  const doubts = new Map<
    string,
    { -readonly [K in keyof ReportDoubt]: ReportDoubt[K] }
  >();
  for (const { token, verdicts } of states) {
    const said = verdicts.map(({ outcome, message }) =>
      message === undefined ? outcome : `${outcome}: ${printable(message)}`
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
          verdicts.map(({ output = "" }) => output)
            .find((output) => output !== "") ?? "",
        ),
      });
    }
  }
  return [...doubts.values()];
}

/**
 * The end of what a program printed, fit for any page or terminal: sequences
 * that colour a terminal are gone, what else cannot be seen has its number.
 */
function cleanOutput(output: string): string {
  const end = output.slice(-MOST_OUTPUT);
  const all = end
    // deno-lint-ignore no-control-regex
    .replace(/\x1b\[[0-9;?]*[ -/]*[@-~]/g, "")
    .replaceAll("\r\n", "\n").replaceAll("\t", "    ").trimEnd().split("\n");
  const lines = all.slice(-MOST_LINES).map((line) =>
    printable(line, MOST_LINE)
  );
  if (output.length > end.length || all.length > lines.length) {
    lines.unshift("… what came before is left out");
  }
  return lines.join("\n");
}
