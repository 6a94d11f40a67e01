/**
 * A report as a page for people: one HTML file that needs nothing else, no
 * network, no other file and no script. The shrunk failure comes first.
 *
 * @module
 */

import { nameRequest, tellFate } from "../../testing/crash_story.ts";
import {
  isDamage,
  type StoryCrash,
  type StoryData,
  type StoryEvent,
} from "../../testing/story_data.ts";
import { drawCloseup } from "./closeup.ts";
import type {
  CrashReportData,
  ReportDoubt,
  ReportGroup,
  ReportVerdict,
} from "./data.ts";
import { Markup, markup } from "./markup.ts";
import { drawOverview } from "./overview.ts";
import { PAGE_STYLE } from "./page_style.ts";
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

/** How every page begins, and nobody else's. */
export const PAGE_START = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="Platter">
`;

/** Lines of a story that are shown, the last ones. */
const MOST_ROWS = 120;

/** Runs of lost sectors that are listed. */
const MOST_LOST = 40;

/** Groups that are listed by their message. */
const MOST_GROUPS = 200;

/** How the whole recording is to be read. */
const TIME =
  "Time goes from left to right, in columns of as many events each; the stronger, the more. In the last lane, the grey columns are crash points that were tried, and the red part of each is the share of its states that fail.";

/** The same, of the failure in it. */
const MARKED =
  " The red line is where the power fails in the failure above; red cells are what it lost.";

/** What it is all about. */
const ABOUT =
  "Made by Platter, which records what a program writes to a disk and shows it every disk that a power cut may leave. A write that the device has not made durable is there or not, block by block; a flush makes durable what had completed before it.";

/** What may be loaded: nothing but the style that is in the page. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/**
 * Writes the page of a report.
 *
 * @param data The report.
 * @returns An HTML document.
 */
export function reportPage(data: CrashReportData): string {
  const { groups, unstable, unjudged } = data;
  const [first, ...others] = groups;
  return markup`${new Markup(
    PAGE_START,
  )}<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<title>${headline(data)} – crash report</title>
<link rel="icon" href="data:,">
<style>${new Markup(PAGE_STYLE)}</style>
</head>
<body>
<main class="${data.verdict}">
${writeHeader(data)}
${
    first && markup`<section>
<h2>The simplest failure</h2>
${writeGroup(first, "g0")}
</section>`
  }
${
    others.length > 0 && markup`<section>
<h2>All failures</h2>
${writeGroupTable(data)}
${others.map((group, i) => writeFolded(group, `g${i + 1}`))}
</section>`
  }
${writeDoubts("Not the same when tried again", "unstable", unstable)}
${writeDoubts("Not judged", "unjudged", unjudged)}
<section>
<h2>The whole recording</h2>
<p class="muted">${TIME}${first && MARKED}</p>
<figure>${drawOverview(data.timeline, first?.story ?? null)}</figure>
</section>
<footer>${ABOUT}</footer>
</main>
</body>
</html>
`.text;
}

const MARKS: Readonly<Record<ReportVerdict, Markup>> = {
  failed: markup`<path d="M16 16l16 16m0-16l-16 16"/>`,
  safe: markup`<path d="M14 25l7 7 13-16"/>`,
  unstable: markup`<path d="M12 20h22l-6-6M36 28H14l6 6"/>`,
  unfinished: markup`<path d="M14 14h20l-20 20h20z"/>`,
  unjudged: markup`<path d="M18 19a6 6 0 1 1 8 6c-2 1-2 2-2 4m0 6v.2"/>`,
};

function writeHeader(data: CrashReportData): Markup {
  const { explored, device, commands } = data;
  const { states, exhaustive, points, writes, flushes, seed } = explored;
  const facts: [string, string][] = [
    ["states checked", amount(states)],
    ["extent", exhaustive ? "all" : "a part"],
    ["crash points", amount(points)],
    ["writes", amount(writes)],
    ["flushes", amount(flushes)],
    ["promises", amount(explored.acknowledged)],
    ["seed", `${seed}`],
    ["time", duration(explored.durationMs)],
  ];
  if (explored.recoveryStates > 0) {
    facts.splice(2, 0, ["in recoveries", amount(explored.recoveryStates)]);
  }
  const rows: [string, Markup | string][] = [
    ...commands.map(({ role, text }): [string, Markup] => [
      role,
      markup`<code>${text}</code>`,
    ]),
    [
      "device",
      `${counted(device.sectors, "sector")}; ${device.promises}`,
    ],
  ];
  return markup`<header>
<p class="eyebrow">Platter crash report</p>
<div class="verdict"><svg viewBox="0 0 48 48" role="img" aria-label="${data.verdict}"><circle cx="24" cy="24" r="22"/>${
    MARKS[data.verdict]
  }</svg><div><h1>${headline(data)}</h1></div></div>
<p class="lede">${summary(data)}</p>
<dl class="facts">${
    facts.map(([name, value]) =>
      markup`<div><dt>${name}</dt><dd>${value}</dd></div>`
    )
  }</dl>
<dl class="rows">${
    rows.map(([name, value]) => markup`<dt>${name}</dt><dd>${value}</dd>`)
  }</dl>
</header>`;
}

function writeGroup(group: ReportGroup, id: string): Markup {
  const { story } = group;
  return markup`<p class="what">${group.message}</p>
${story && writeStory(story, id, group)}
${
    group.output !== "" && group.output !== story?.error.join("\n") &&
    markup`<h3>What the check printed</h3>
<div class="tail"><pre>${group.output}</pre></div>`
  }
<h3>See it again</h3>
${group.replay !== null && markup`<pre><code>${group.replay}</code></pre>`}
<p class="muted">The token of this state: <code class="token">${group.token}</code></p>`;
}

function writeStory(
  story: StoryData,
  id: string,
  group: ReportGroup,
): Markup {
  const { crashes, acknowledged, error } = story;
  const ranges = lostOf(group);
  const values = acknowledged.count > acknowledged.last.length
    ? [`… ${amount(acknowledged.count - acknowledged.last.length)} before`]
    : [];
  return markup`${
    crashes.map((crash, i) =>
      markup`${
        i > 0 &&
        markup`<h3>Then the recovery did this, and the power failed again</h3>`
      }<figure><div class="scroll">${
        drawCloseup(crash, `${id}-${i}`, ranges)
      }</div>${i === 0 && writeLegend(id)}</figure>
${i === crashes.length - 1 && writeLost(group)}
<h3>What was done</h3>
${writeEvents(crash)}
`
    )
  }<h3>What had been promised</h3>
<p>${
    acknowledged.count === 0
      ? "Nothing had been acknowledged."
      : markup`<span class="mono">${
        [...values, ...acknowledged.last].join(", ")
      }</span>`
  }</p>
<h3>What fails</h3>
<pre>${error.join("\n")}</pre>`;
}

function writeLegend(id: string): Markup {
  const box = (className: string, fill = "") =>
    markup`<svg viewBox="0 0 24 16" aria-hidden="true"><rect class="${className}" ${
      fill !== "" && markup`fill="url(#${fill})"`
    } x="3" y="2" width="18" height="12"/></svg>`;
  const items: [Markup, string][] = [
    [box("run-lost", `${id}-0`), "lost, or its torn half: not on the medium"],
    [box("run-reached"), "reached the medium without a promise"],
    [box("run-durable"), "durable"],
    [box("run-overwritten"), "overwritten or ignored"],
    [
      markup`<svg viewBox="0 0 24 16" aria-hidden="true"><path class="in-flight" d="M2 8H22"/></svg>`,
      "in flight",
    ],
    [
      markup`<svg viewBox="0 0 24 16" aria-hidden="true"><path class="flush-done" d="M7 3h10l-5 9z"/></svg>`,
      "flush that completed",
    ],
    [
      markup`<svg viewBox="0 0 24 16" aria-hidden="true"><circle class="promise" cx="12" cy="8" r="6"/><path class="promise-tick" d="M9 8l2.2 2.6 4-5"/></svg>`,
      "promise to the outside",
    ],
  ];
  return markup`<ul class="legend">${
    items.map(([mark, text]) => markup`<li>${mark}${text}</li>`)
  }</ul>`;
}

function writeEvents({ events }: StoryCrash): Markup {
  const shown = events.slice(-MOST_ROWS);
  const before = events.slice(0, events.length - shown.length);
  const lost = before.filter(isDamaged).length;
  const origins = shown.some((event) =>
    "origin" in event && event.origin !== ""
  );
  const columns = origins ? 3 : 2;
  return markup`<table class="story"><thead><tr><th>What was done</th><th>What became of it</th>${
    origins && markup`<th>Who did it</th>`
  }</tr></thead><tbody>
${
    before.length > 0 && writeQuiet(
      `… ${counted(before.length, "line")} before, ${
        amount(lost)
      } of them with losses`,
      columns,
    )
  }${
    shown.map((event) => writeEvent(event, columns))
  }<tr class="cut"><td colspan="${columns}">The power fails</td></tr>
</tbody></table>`;
}

function writeQuiet(text: string, columns: number): Markup {
  return markup`<tr class="quiet"><td colspan="${columns}">${text}</td></tr>
`;
}

function writeEvent(event: StoryEvent, columns: number): Markup {
  switch (event.kind) {
    case "skipped":
      return writeQuiet(
        `… ${counted(event.count, "line")}, all of it on the medium`,
        columns,
      );
    case "acknowledge":
      return markup`<tr class="promise"><td>promise</td><td class="mono" colspan="${
        columns - 1
      }">${event.value}</td></tr>
`;
    default:
      return markup`<tr${isDamaged(event) && markup` class="damage"`}><td>${
        nameRequest(event)
      }</td><td>${emphasize(tellFate(event))}</td>${
        columns > 2 && markup`<td><small>${event.origin}</small></td>`
      }</tr>
`;
  }
}

function isDamaged(event: StoryEvent): boolean {
  return event.kind === "write"
    ? event.runs.some(isDamage)
    : event.kind === "flush" && event.fate === "failed";
}

/** Words of a story that are bad news. */
function emphasize(fate: string): Markup {
  return markup`${
    fate.split(/(LOST|TORN|FAILED)/).map((part, i) =>
      i % 2 === 1 ? markup`<span class="bad">${part}</span>` : part
    )
  }`;
}

function writeLost(group: ReportGroup): Markup {
  const lost = lostOf(group);
  const notes = group.lost?.notes ?? [];
  const rest = lost.length - MOST_LOST;
  if (lost.length === 0) {
    return markup`<h3>What is lost</h3>
<p>${NOTHING_LOST}</p>`;
  }
  return markup`<h3>What is lost</h3>
<ul class="losses">${
    lost.slice(0, MOST_LOST).map(({ path, ...range }) =>
      markup`<li><span class="bad">lost</span> ${sectorsOf(range)}${
        path.length > 0 && markup`<br>${path.join(" › ")}`
      }</li>
`
    )
  }${rest > 0 && markup`<li>… ${counted(rest, "run")} more</li>`}</ul>
${notes.map((note) => markup`<p class="muted">${note}</p>`)}`;
}

function writeGroupTable({ groups, explored }: CrashReportData): Markup {
  const shown = groups.slice(0, MOST_GROUPS);
  const rest = groups.length - shown.length;
  return markup`<table><thead><tr><th class="number">states</th><th class="number">share</th><th>how they fail</th></tr></thead><tbody>
${
    shown.map((group) =>
      markup`<tr><td class="number">${
        amount(group.count)
      }</td><td class="number">${
        shareOf(group, explored)
      }</td><td>${group.kind}</td></tr>
`
    )
  }</tbody></table>
${rest > 0 && markup`<p class="muted">… and ${counted(rest, "way")} more</p>`}`;
}

function writeFolded(group: ReportGroup, id: string): Markup | null {
  if (group.story === null && group.output === "") return null;
  return markup`<details><summary><b>${group.message}</b> <span class="muted">${
    counted(group.count, "state")
  }</span></summary>
${writeGroup(group, id)}
</details>
`;
}

function writeDoubts(
  title: string,
  kind: "unstable" | "unjudged",
  doubts: readonly ReportDoubt[],
): Markup | null {
  if (doubts.length === 0) return null;
  return markup`<section class="${kind}">
<h2>${title}</h2>
${
    doubts.map(({ verdicts, count, token, replay, output }) =>
      markup`<p class="what">${verdicts.join(" – then ")}</p>
<p class="muted">${
        counted(count, "state")
      }; the first: <code class="token">${token}</code></p>
${replay !== null && markup`<pre><code>${replay}</code></pre>`}${
        output !== "" &&
        markup`<div class="tail"><pre>${output}</pre></div>`
      }
`
    )
  }</section>`;
}

function duration(ms: number): string {
  if (ms < 1000) return `${ms} ms`;
  const seconds = Math.round(ms / 1000);
  const rest = `${seconds % 60} s`;
  return seconds < 60 ? rest : `${Math.floor(seconds / 60)} min ${rest}`;
}
