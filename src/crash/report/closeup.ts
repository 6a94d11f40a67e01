/**
 * Draws a story: one column for each of its events, lanes for promises, flushes
 * and the regions of the disk that were written, and the cut at the end. Each
 * mark can be told by its shape and has its meaning as a title, so that no
 * colour is needed to read it.
 *
 * @module
 */

import { nameRequest, tellFate } from "../../testing/crash_story.ts";
import type {
  StoryCrash,
  StoryEvent,
  StoryFlush,
  StoryRun,
  StoryWrite,
} from "../../testing/story_data.ts";
import { printable } from "../../printable.ts";
import type { ReportLostRange } from "./data.ts";
import { type Markup, markup } from "./markup.ts";
import { regionsOf, type SectorRange } from "./regions.ts";
import { sectorsOf } from "./words.ts";

/** Events that are drawn, the last ones. */
const MOST_EVENTS = 64;

/** Lanes of writes at most. */
const MOST_LANES = 10;

/** Parts of a write that are drawn. */
const MOST_RUNS = 64;

/** Pixels of a column, by how many there are at most. */
const STEPS: readonly (readonly [most: number, width: number])[] = [
  [6, 76],
  [12, 56],
  [20, 36],
  [MOST_EVENTS, 14],
];

/** Pixels of a column from which on it has the number of its request. */
const NUMBERED = 36;

/** Further pixels. */
const NAME_HEIGHT = 17;
const LANE_HEIGHT = 26;
const GAP = 7;
const CUT_WIDTH = 10;
const CHARACTER_WIDTH = 7;

/** How much it may grow where there is room. */
const MOST_GROWTH = 1.4;

/** A lane: where it is, and what of the disk it shows. */
interface Lane extends SectorRange {
  readonly y: number;
}

/**
 * Draws what led to a crash.
 *
 * @param crash The crash.
 * @param id A name for what the drawing defines, its own on the page.
 * @param lost What is known of sectors: lanes are named by it.
 * @returns An SVG.
 */
export function drawCloseup(
  crash: StoryCrash,
  id: string,
  lost: readonly ReportLostRange[],
): Markup {
  const events = crash.events.slice(-MOST_EVENTS);
  const step = STEPS.find(([most]) => events.length <= most)![1];
  const regions = regionsOf(events.filter(isWrite), MOST_LANES);
  const laneY = (i: number) => i * (NAME_HEIGHT + LANE_HEIGHT + GAP);
  const lanes = regions.map((region, i) => ({
    ...region,
    y: laneY(i + 2) + NAME_HEIGHT,
  }));
  const end = Math.max(events.length * step, 228);
  const height = laneY(regions.length + 2) + 16;
  const width = end + CUT_WIDTH;
  const names = [
    "promises",
    "flushes",
    ...regions.map((region) =>
      printable(nameLane(region, lost), Math.floor(end / CHARACTER_WIDTH))
    ),
  ];
  return markup`<svg class="closeup" role="img" style="width:clamp(${width}px,100%,${
    Math.round(width * MOST_GROWTH)
  }px)" viewBox="0 0 ${width} ${height}" aria-label="The last events before the power fails, by lane">
<defs><pattern id="${id}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" class="lost-ground"/><rect width="2.4" height="6" class="lost-line"/></pattern></defs>
${
    names.map((_, i) =>
      markup`<rect class="lane" x="0" y="${
        laneY(i) + NAME_HEIGHT
      }" width="${end}" height="${LANE_HEIGHT}" rx="3"/>
`
    )
  }${
    events.map((event, i) =>
      drawEvent(event, { x: i * step, step, end, lanes, id, height })
    )
  }${
    step >= NUMBERED && events.map((event, i) =>
      "number" in event &&
      markup`<text class="column-name" x="${(i + 0.5) * step}" y="${
        height - 6
      }">#${event.number}</text>`
    )
  }${
    names.map((name, i) =>
      markup`<text class="lane-name" x="0" y="${laneY(i) + 11}">${name}</text>
`
    )
  }${drawCut(end, height)}</svg>`;
}

/** A lane's sectors, and what those are of them that were lost. */
function nameLane(
  region: SectorRange,
  lost: readonly ReportLostRange[],
): string {
  const names = new Set<string>();
  for (const { sector, count, path } of lost) {
    if (
      path.length > 0 && sector < region.sector + region.count &&
      region.sector < sector + count
    ) names.add(path.at(-1)!);
  }
  return [sectorsOf(region), ...names].join(" · ");
}

/** Where an event is drawn. */
interface Place {
  readonly x: number;
  readonly step: number;
  readonly end: number;
  readonly lanes: readonly Lane[];
  readonly id: string;
  readonly height: number;
}

function isWrite(event: StoryEvent): event is StoryWrite {
  return event.kind === "write";
}

function drawEvent(event: StoryEvent, place: Place): Markup {
  switch (event.kind) {
    case "skipped":
      return drawSkipped(event.count, place);
    case "acknowledge":
      return drawPromise(event.value, place);
    case "flush":
      return drawFlush(event, place);
    case "write":
      return drawWrite(event, place);
  }
}

function drawSkipped(count: number, { x, step, height }: Place): Markup {
  const middle = x + step / 2;
  return markup`<g><title>${count} events that are not shown</title><path class="skipped" d="M${middle} ${NAME_HEIGHT}V${
    height - 16 - GAP
  }"/></g>
`;
}

function drawPromise(value: string, { x, step }: Place): Markup {
  const [cx, cy] = [x + step / 2, NAME_HEIGHT + LANE_HEIGHT / 2];
  return markup`<g><title>acknowledge ${value}</title><circle class="promise" cx="${cx}" cy="${cy}" r="6.5"/><path class="promise-tick" d="M${
    cx - 3
  } ${cy}l2.2 2.6 4-5"/></g>
`;
}

function drawFlush(event: StoryFlush, { x, step, end, height }: Place): Markup {
  const top = 2 * NAME_HEIGHT + LANE_HEIGHT + GAP;
  const middle = x + step / 2;
  const open = event.completed
    ? ""
    : markup`<path class="in-flight" d="M${middle + 5} ${
      top + LANE_HEIGHT / 2
    }H${end}"/>`;
  const mark = event.fate === "failed" || event.fate === "ignored"
    ? markup`<path class="flush-failed" d="M${middle - 5} ${
      top + 8
    }l10 10m0-10l-10 10"/>`
    : markup`<path class="flush-${event.fate}" d="M${middle - 5} ${
      top + 5
    }h10l-5 9z"/>`;
  const wall = event.fate === "done"
    ? markup`<path class="flush-wall" d="M${middle} ${top + 14}V${
      height - 16 - GAP
    }"/>`
    : "";
  return markup`<g><title>${nameRequest(event)}: ${
    tellFate(event)
  }</title>${open}${wall}${mark}</g>
`;
}

function drawWrite(event: StoryWrite, place: Place): Markup {
  const { x, step, end, lanes } = place;
  const width = step - 3;
  const tails = event.completed ? [] : lanes.flatMap((lane) => {
    const part = within(event, lane);
    return part === null ? [] : [
      markup`<path class="in-flight" d="M${x + 1 + width} ${
        part.y + part.height / 2
      }H${end}"/>`,
    ];
  });
  return markup`<g><title>${nameRequest(event)}: ${tellFate(event)}</title>${
    event.runs.slice(0, MOST_RUNS).flatMap((run) =>
      lanes.map((lane) => {
        const part = within(run, lane);
        return part && drawRun(run, { x: x + 1, width, ...part }, place.id);
      })
    )
  }${tails}</g>
`;
}

/** Where in a lane some sectors are, if they are. */
function within(
  { sector, count }: SectorRange,
  lane: Lane,
): { y: number; height: number } | null {
  const first = Math.max(sector, lane.sector);
  const last = Math.min(sector + count, lane.sector + lane.count);
  if (last <= first) return null;
  const height = Math.max(4, LANE_HEIGHT * (last - first) / lane.count);
  const y = LANE_HEIGHT * (first - lane.sector) / lane.count;
  return { y: lane.y + Math.min(y, LANE_HEIGHT - height), height };
}

function drawRun(
  run: StoryRun,
  { x, width, y, height }: {
    x: number;
    width: number;
    y: number;
    height: number;
  },
  id: string,
): Markup {
  const box = (className: string, from = 0, part = 1) =>
    markup`<rect class="${className}" x="${round(x + from * width)}" y="${
      round(y)
    }" width="${round(part * width)}" height="${round(height)}"/>`;
  if (run.fate === "lost") {
    return markup`<rect class="run-lost" fill="url(#${id})" x="${
      round(x)
    }" y="${round(y)}" width="${round(width)}" height="${round(height)}"/>`;
  }
  if (run.fate === "torn") {
    const first = run.kept!.part === "first";
    return markup`${
      box("run-reached")
    }<rect class="run-lost" fill="url(#${id})" x="${
      round(x + (first ? width / 2 : 0))
    }" y="${round(y)}" width="${round(width / 2)}" height="${round(height)}"/>`;
  }
  return box(`run-${run.fate}`);
}

/** The power cut: a line that nothing goes beyond. */
function drawCut(x: number, height: number): Markup {
  let zigzag = `M${x + 4} 0`;
  for (let y = 8; y < height - 4; y += 8) {
    zigzag += `L${x + (y % 16 === 0 ? 1 : 7)} ${y}`;
  }
  return markup`<path class="cut" d="${zigzag}"/><text class="cut-name" x="${
    x - 4
  }" y="12">power fails</text>`;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
