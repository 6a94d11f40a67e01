/**
 * A report for a terminal: the verdict, the simplest failure as a story, the
 * other ways to fail, and what replays them. Short enough to be read.
 *
 * @module
 */

import { tellStory } from "../../testing/crash_story.ts";
import type { CrashReportData, ReportDoubt, ReportGroup } from "./data.ts";
import {
  amount,
  counted,
  headline,
  lostOf,
  NOTHING_LOST,
  sectorsOf,
  shareOf,
  summary,
} from "./words.ts";

/** Ways to fail that are listed. */
const MOST_GROUPS = 10;

/** Lines of a check's output that are shown, the last ones. */
const MOST_OUTPUT = 12;

/** Runs of lost sectors that are listed. */
const MOST_LOST = 8;

/**
 * Writes a report for a terminal.
 *
 * @param data The report.
 * @returns Lines, without one at the end that is empty.
 */
export function reportText(data: CrashReportData): string {
  const { groups, unstable, unjudged, explored } = data;
  const lines = [`${headline(data)}.`, summary(data)];
  const [first] = groups;
  if (first !== undefined) {
    lines.push("", ...tellGroup(first));
  }
  if (groups.length > 1) {
    lines.push("", "All ways to fail:");
    for (const group of groups.slice(0, MOST_GROUPS)) {
      const { kind, count, token } = group;
      lines.push(
        `  ${counted(count, "state")} (${shareOf(group, explored)}): ${kind}`,
        `    ${token}`,
      );
    }
    const rest = groups.length - MOST_GROUPS;
    if (rest > 0) lines.push(`  … and ${counted(rest, "way")} more`);
  }
  lines.push(...tellDoubts("Not the same when tried again:", unstable));
  lines.push(...tellDoubts("Not judged:", unjudged));
  lines.push("", `Seed ${explored.seed}, ${amount(explored.durationMs)} ms`);
  return lines.join("\n");
}

function tellGroup(group: ReportGroup): string[] {
  const { message, story, output, token, replay, lost } = group;
  const lines = story === null ? [message] : tellStory(story).split("\n");
  const all = lostOf(group);
  if (story !== null && all.length === 0) lines.push("", NOTHING_LOST);
  const ranges = all.filter(({ path }) => path.length > 0);
  if (ranges.length > 0) {
    lines.push("", "What is lost:");
    for (const { path, ...range } of ranges.slice(0, MOST_LOST)) {
      lines.push(`  ${sectorsOf(range)}: ${path.join(" > ")}`);
    }
    const rest = ranges.length - MOST_LOST;
    if (rest > 0) lines.push(`  … and ${counted(rest, "run")} more`);
  }
  for (const note of lost?.notes ?? []) lines.push(note);
  if (output !== "" && output !== story?.error.join("\n")) {
    const printed = output.split("\n");
    lines.push(
      "",
      "The check printed:",
      ...printed.length > MOST_OUTPUT ? ["  …"] : [],
      ...printed.slice(-MOST_OUTPUT).map((line) => `  ${line}`),
    );
  }
  lines.push(
    "",
    replay === null
      ? `Its token, to see it again if the recording was kept: ${token}`
      : `See it again: ${replay}`,
  );
  return lines;
}

function tellDoubts(title: string, doubts: readonly ReportDoubt[]): string[] {
  if (doubts.length === 0) return [];
  const lines = ["", title];
  for (const { verdicts, count, token } of doubts.slice(0, MOST_GROUPS)) {
    lines.push(
      `  ${counted(count, "state")}: ${verdicts.join(", then ")}`,
      `    ${token}`,
    );
  }
  const rest = doubts.length - MOST_GROUPS;
  if (rest > 0) lines.push(`  … and ${counted(rest, "reason")} more`);
  return lines;
}
