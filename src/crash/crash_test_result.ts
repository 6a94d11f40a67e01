/**
 * What came of a test, for programs and for people.
 *
 * @module
 */

import { plural } from "../plural.ts";
import { tellStory } from "../testing/crash_story.ts";
import type { CrashFindings } from "../testing/crash_verdict.ts";

/**
 * What can be said: every state that was checked is sound, and one of each group
 * of alike crash points was; some states fail; some fail sometimes and only
 * sometimes; or the time was over before each group had been seen once.
 */
export type CrashTestOutcome = "safe" | "failed" | "unstable" | "unfinished";

/** What came of a test. */
export interface CrashTestResult {
  /** What can be said. */
  readonly outcome: CrashTestOutcome;
  /** All that was found. */
  readonly findings: CrashFindings;
  /** The same for people: some lines, the stories among them. */
  readonly text: string;
}

/** Lines of a check's output that are shown. */
const SHOWN_LINES = 20;

/**
 * Says what came of a test.
 *
 * @param findings What was found.
 * @param only Whether one state was asked for.
 * @returns The same, with what can be said of it.
 */
export function resultOf(
  findings: CrashFindings,
  only: boolean,
): CrashTestResult {
  const { counts, seenEachGroup, groups } = findings;
  const outcome = groups.length > 0 || counts.failed > 0
    ? "failed"
    : counts.unstable > 0
    ? "unstable"
    : only || seenEachGroup
    ? "safe"
    : "unfinished";
  return { outcome, findings, text: textOf(findings, outcome) };
}

function textOf(findings: CrashFindings, outcome: CrashTestOutcome): string {
  const { groups, counts, report, unstable, unjudged } = findings;
  const parts = groups.map((group, i) => {
    const title = groups.length === 1
      ? "Failure"
      : `Failure ${i + 1} of ${groups.length}`;
    const said = lastLines(group.output);
    return [
      `${title}, in ${plural(group.count, "state")}: ${group.message}\n`,
      tellStory(group.story),
      ...said === "" ? [] : ["", "What the check printed:", "", said],
      "",
    ].join("\n");
  });
  if (unstable.length > 0) {
    parts.push(
      `Unstable: ${
        plural(counts.unstable, "state")
      } failed and, checked again, did not always: ${
        unstable.slice(0, 5).map(({ token }) => token).join(", ")
      }\n`,
    );
  }
  if (unjudged.length > 0) {
    const why = unjudged[0]!.verdicts.at(-1);
    parts.push(
      `Not judged: ${plural(counts.unjudged, "state")}, such as ${
        unjudged[0]!.token
      }${why !== undefined && "message" in why ? ` (${why.message})` : ""}\n`,
    );
  }
  parts.push(`${WORDS[outcome]}: ${report.summary}`);
  return parts.join("\n");
}

const WORDS: Readonly<Record<CrashTestOutcome, string>> = {
  safe: "Safe",
  failed: "Failed",
  unstable: "Unstable",
  unfinished: "Unfinished, as there are groups of alike crash points of " +
    "which none was checked",
};

function lastLines(text: string): string {
  const lines = text.trimEnd().split("\n");
  const shown = lines.slice(-SHOWN_LINES);
  if (shown.length < lines.length) shown.unshift("…");
  return shown.map((line) => line === "" ? "" : `  ${line}`).join("\n");
}
