/**
 * Draws the whole recording in lanes that share one axis of time, from the
 * first event to the last: promises, flushes, writes by region, and how many of
 * the states of each crash point fail. A lane is as wide as the page.
 *
 * @module
 */

import { isDamage, type StoryData } from "../../testing/story_data.ts";
import type { ReportTimeline } from "./data.ts";
import { type Markup, markup } from "./markup.ts";
import { columnOf } from "./timeline.ts";
import { amount, counted, sectorsOf, share } from "./words.ts";

/** Heights in a lane's own units. */
const LANE = 10;

/** How strong a cell is, of the most that any cell of its lane has. */
const STEPS = [0.08, 0.3, 0.65] as const;

/** What the full height of a share may stand for. */
const TOPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1] as const;

/**
 * Draws a recording.
 *
 * @param timeline The recording.
 * @param story The failure to mark in it; `null` for none.
 * @returns Markup.
 */
export function drawOverview(
  timeline: ReportTimeline,
  story: StoryData | null,
): Markup {
  const { events, columns, regions, flushes, failedFlushes } = timeline;
  const cut = story === null
    ? null
    : story.crashes[0]!.point * columns / Math.max(1, events);
  const lost = lostCells(timeline, story);
  const lane = (name: string, total: string, cells: Markup, className = "") =>
    markup`<div class="strip ${className}"><span class="strip-name">${name}</span><span class="strip-total">${total}</span><svg role="img" aria-label="${name}: ${total}" viewBox="0 0 ${columns} ${LANE}" preserveAspectRatio="none">${cells}${
      cut !== null &&
      markup`<path class="strip-cut" d="M${round(cut)} 0V${LANE}"/>`
    }</svg></div>
`;
  const count = (values: readonly number[]) =>
    values.reduce((sum, value) => sum + value, 0);
  const failing = count(failedFlushes);
  const shares = timeline.judged.map((judged, i) =>
    judged === 0 ? null : timeline.failed[i]! / judged
  );
  const top = topOf(shares);
  return markup`<div class="strips">
${
    lane(
      "promises",
      amount(count(timeline.acknowledged)),
      drawCells(timeline.acknowledged, "cell-promise"),
    )
  }${
    lane(
      "flushes",
      failing === 0
        ? amount(count(flushes))
        : `${amount(count(flushes))}, ${amount(failing)} failed`,
      markup`${drawCells(flushes, "cell-flush")}${
        drawCells(failedFlushes, "cell-lost")
      }`,
    )
  }${
    regions.map((region, i) =>
      lane(
        sectorsOf(region),
        `${amount(count(region.written))} written`,
        markup`${drawCells(region.written, "cell-write")}${
          drawCells(lost[i]!, "cell-lost")
        }`,
      )
    )
  }${
    lane(
      "share of states that fail",
      count(timeline.judged) === 0
        ? "none judged"
        : count(timeline.failed) === 0
        ? "none failed"
        : `full height: ${share(top, 1)}`,
      drawShares(shares, top),
      "tall",
    )
  }</div>
<p class="axis"><span>first event</span><span>${
    counted(events, "event")
  }, in the order in which the device saw them</span><span>last</span></p>`;
}

/** Neighbours that are equally strong are one rectangle. */
function drawCells(values: readonly number[], className: string): Markup {
  const most = values.reduce((a, b) => Math.max(a, b), 0);
  const stepOf = (value: number) =>
    value === 0 ? 0 : 1 + STEPS.filter((step) => value / most > step).length;
  const rects: Markup[] = [];
  for (let i = 0; i < values.length;) {
    const step = stepOf(values[i]!);
    let end = i + 1;
    while (end < values.length && stepOf(values[end]!) === step) end++;
    if (step > 0) {
      rects.push(
        markup`<rect class="${className} s${step}" x="${i}" width="${
          end - i
        }" height="${LANE}"/>`,
      );
    }
    i = end;
  }
  return markup`${rects}`;
}

/** Where the writes were submitted that the failure lost, by region. */
function lostCells(
  { events, columns, regions }: ReportTimeline,
  story: StoryData | null,
): number[][] {
  const cells = regions.map(() => new Array<number>(columns).fill(0));
  for (const event of story?.crashes[0]?.events ?? []) {
    if (event.kind !== "write") continue;
    const column = columnOf(event.at, events, columns);
    for (const run of event.runs.filter(isDamage)) {
      for (const [i, { sector, count }] of regions.entries()) {
        if (run.sector < sector + count && sector < run.sector + run.count) {
          cells[i]![column] = 1;
        }
      }
    }
  }
  return cells;
}

/**
 * A bar for each column: grey for a crash point of which states were judged, and
 * red as high as the share of them that failed.
 */
function drawShares(shares: readonly (number | null)[], top: number): Markup {
  return markup`${
    shares.map((failing, i) => {
      if (failing === null) return null;
      // What failed at all is to be seen.
      const height = failing === 0 ? 0 : Math.max(0.6, LANE * failing / top);
      return markup`<rect class="cell-judged" x="${i}" width="1" height="${LANE}"/>${
        height > 0 &&
        markup`<rect class="cell-lost" x="${i}" y="${
          round(LANE - height)
        }" width="1" height="${round(height)}"/>`
      }`;
    })
  }`;
}

/** The first round number that no share is above. */
function topOf(shares: readonly (number | null)[]): number {
  const most = shares.reduce<number>((a, b) => Math.max(a, b ?? 0), 0);
  return TOPS.find((top) => most <= top)!;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
