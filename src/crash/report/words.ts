/**
 * The sentences of a report: they are the same on a page and on a terminal.
 *
 * @module
 */

import { plural } from "../../plural.ts";
import type { StoryData, StoryWrite } from "../../testing/story_data.ts";
import { isDamage } from "../../testing/story_data.ts";
import type {
  CrashReportData,
  ReportExplored,
  ReportGroup,
  ReportLostRange,
} from "./data.ts";
import { joined, type SectorRange } from "./regions.ts";

/**
 * The verdict in a few words.
 *
 * @param data The report.
 * @returns A headline.
 */
export function headline({ verdict, explored }: CrashReportData): string {
  switch (verdict) {
    case "failed":
      return "A power cut breaks it";
    case "unstable":
      return "The check does not say the same twice";
    case "unjudged":
      return "The check could judge nothing";
    case "unfinished":
      return "Not finished: no failure so far";
    case "safe":
      return explored.exhaustive
        ? "Safe: it survives every power cut"
        : "No power cut was found that breaks it";
  }
}

/**
 * What the verdict rests on.
 *
 * @param data The report.
 * @returns One or two sentences.
 */
export function summary(
  { verdict, explored, groups }: CrashReportData,
): string {
  const { states, failed, recoveryStates, recoveryFailed } = explored;
  const unstable = explored.unstable + explored.recoveryUnstable;
  const unjudged = explored.unjudged + explored.recoveryUnjudged;
  const checked = recoveryStates === 0
    ? counted(states, "state")
    : `${counted(states, "state")} and ${
      amount(recoveryStates)
    } of interrupted recoveries`;
  const one = states + recoveryStates === 1;
  const parts: string[] = [];
  if (verdict === "failed") {
    const ways = counted(groups.length, "way");
    const afterAnother = recoveryStates === 0
      ? `, in ${ways}`
      : `, and ${amount(recoveryFailed)} of ${
        counted(recoveryStates, "state")
      } that another one during recovery may leave (${
        share(recoveryFailed, recoveryStates)
      }), in ${ways}`;
    parts.push(
      `${amount(failed)} of ${
        counted(states, "state")
      } that a power cut may leave ${failed === 1 ? "fails" : "fail"} (${
        share(failed, states)
      })${afterAnother}`,
    );
  } else if (unstable === 0 && unjudged === 0) {
    parts.push(
      one
        ? "The one state that was checked is sound"
        : `None of ${checked} that were checked fails`,
    );
  } else parts.push(`${checked} ${one ? "was" : "were"} checked`);
  if (unstable > 0) {
    parts.push(
      `${counted(unstable, "state")} failed once and not when tried again`,
    );
  }
  if (unjudged > 0) {
    parts.push(`the check could not judge ${counted(unjudged, "state")}`);
  }
  return `${parts.join("; ")}. ${extent(explored)}.`;
}

/** How much of all that there is was explored, in a sentence. */
function extent({ exhaustive, ended, seenEachGroup }: ReportExplored): string {
  if (exhaustive) return "These are all states that such a device can leave";
  const why = {
    all: "",
    states: " than were to be checked",
    time: " than there was time for",
    aborted: ", but it was stopped",
  }[ended];
  return `There are more states${why}; ${
    seenEachGroup
      ? "at least one of each kind of crash point was checked"
      : "some kinds of crash points were not checked at all"
  }`;
}

/**
 * A number for people.
 *
 * @param value The number.
 * @returns For example `12,345`.
 */
export function amount(value: number): string {
  return value.toLocaleString("en-US");
}

/**
 * A count for people, and what is counted.
 *
 * @param count The count.
 * @param noun What, in the singular.
 * @returns For example `1 state`, `12,345 states`.
 */
export function counted(count: number, noun: string): string {
  return plural(count, noun).replace(/^\d+/, amount(count));
}

/**
 * A part of a whole in percent; it says 0 % and 100 % of nothing and all only.
 *
 * @param part The part.
 * @param whole The whole.
 * @returns For example `3.4 %`.
 */
export function share(part: number, whole: number): string {
  if (part === 0 || whole === 0) return "0 %";
  const percent = 100 * part / whole;
  if (part === whole) return "100 %";
  if (percent < 0.1) return "< 0.1 %";
  if (percent > 99.9) return "> 99.9 %";
  return `${percent.toFixed(percent < 10 ? 1 : 0)} %`;
}

/**
 * How many of the states that were checked are in a group.
 *
 * @param group The group.
 * @param explored How many there are.
 * @returns In percent: of the states after as many crashes, one or several.
 */
export function shareOf(
  { count, crashes }: ReportGroup,
  { states, recoveryStates }: ReportExplored,
): string {
  return share(count, crashes === 1 ? states : recoveryStates);
}

/**
 * Sectors in words.
 *
 * @param range Which.
 * @returns For example `sector 7`, `sectors 2,048–2,063`.
 */
export function sectorsOf({ sector, count }: SectorRange): string {
  return count === 1
    ? `sector ${amount(sector)}`
    : `sectors ${amount(sector)}–${amount(sector + count - 1)}`;
}

/** What is said of a failure in which no write is missing. */
export const NOTHING_LOST =
  "Nothing that was written is lost: what is missing had not been written when the power failed.";

/**
 * The sectors that a story's last crash lost or tore.
 *
 * @param story The story.
 * @returns Runs of sectors, in the order of the disk.
 */
export function damageOf(story: StoryData): SectorRange[] {
  return joined(
    (story.crashes.at(-1)?.events ?? [])
      .filter((event): event is StoryWrite => event.kind === "write")
      .flatMap(({ runs }) => runs.filter(isDamage)),
  );
}

/**
 * What was lost, each run of sectors with what it is, where that is known.
 *
 * @param group The group.
 * @returns Runs, in the order of the disk.
 */
export function lostOf(group: ReportGroup): readonly ReportLostRange[] {
  if (group.lost !== null) return group.lost.ranges;
  if (group.story === null) return [];
  return damageOf(group.story).map((range) => ({ ...range, path: [] }));
}
