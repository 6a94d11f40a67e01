/**
 * Draws a heat map as SVG: time from left to right, the disk from top to bottom,
 * reads and writes in two colours, fuller where more was moved; above it how much
 * at each moment, beside it how much at each place. Where wide parts of the disk
 * were left alone they are cut out, and the cut is marked.
 *
 * The picture follows the reader's choice of light or dark, needs no font, no
 * script and nothing from elsewhere.
 *
 * @module
 */

import { basename } from "node:path";
import { type Markup, markup } from "../crash/report/markup.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { printable } from "../printable.ts";
import { formatCount, formatSize } from "../units.ts";
import { duration } from "./format.ts";
import {
  type Band,
  bandsOf,
  HEAT_KINDS,
  type HeatKind,
  type HeatMap,
} from "./heat_map.ts";

const WIDTH = 960;
const HEIGHT = 600;
/** The map itself. */
const LEFT = 96;
const RIGHT = 812;
const TOP = 176;
const BOTTOM = 552;
/** The height of a row, at least. */
const ROW = 4;
/** Between two bands. */
const CUT = 18;
/** How much at each moment, above the map. */
const STRIP_TOP = 100;
const STRIP_BOTTOM = 160;
/** How much at each place, beside the map. */
const SIDE_LEFT = 824;
const SIDE_RIGHT = 936;

/** Kinds that move data. */
const MOVED: readonly HeatKind[] = ["read", "write"];

/** Shades of a colour. */
const SHADES = 6;

const STYLE = `
svg { --paper: #fff; --ink: #1f2328; --pale: #59636e; --line: #d8dee4;
  --field: #f6f8fa; --read: #0969da; --write: #d1460b; --clear: #6e40aa;
  --bad: #b80f2e; --mix: multiply; color-scheme: light dark }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #e6edf3; --pale: #9198a1; --line: #30363d;
    --field: #151b23; --read: #58a6ff; --write: #ff8c42; --clear: #bc8cff;
    --bad: #ff6b81; --mix: screen }
}
text { font: 12px system-ui, sans-serif; fill: var(--pale) }
.title { font-size: 19px; font-weight: 600; fill: var(--ink) }
.note { font-size: 13px }
.strong { fill: var(--ink) }
.end { text-anchor: end } .middle { text-anchor: middle }
.paper { fill: var(--paper) } .field { fill: var(--field) }
.line { stroke: var(--line); fill: none }
.cut { stroke: var(--pale); fill: none; stroke-dasharray: 2 3; opacity: .7 }
.read { fill: var(--read) } .write { fill: var(--write) }
.clear { fill: var(--clear); opacity: .45 }
.map { mix-blend-mode: var(--mix); shape-rendering: crispEdges }
.flush { stroke: var(--ink); stroke-width: 1; opacity: .45 }
.bad { stroke: var(--bad); stroke-width: 2; fill: none }
`;

/** A band and where it is drawn. */
interface Lane extends Band {
  readonly top: number;
  readonly rows: number;
}

/**
 * Draws what a trace came to.
 *
 * @param heat What it came to.
 * @returns The text of an SVG file.
 */
export function drawHeat(heat: HeatMap): string {
  const times = Math.floor(heat.endUs / heat.timeUs) + 1;
  const lanes = lanesOf(
    bandsOf(heat.places(), heat.placeSectors, heat.sectors),
  );
  const x = (us: number) => LEFT + us / heat.timeUs / times * (RIGHT - LEFT);
  const grid = gridOf(heat, lanes, times);
  const name = heat.path === null ? "disk" : basename(heat.path);
  const title = `What was done to ${printable(name, 60)}, where and when`;
  const { read, write, clear } = heat.sums;
  const flushed = sum([...heat.flushes.values()]);
  const facts = [
    sizeOf(heat.sectors * SECTOR_BYTES),
    duration(heat.endUs / 1000),
    `${formatCount(read.requests, "read")} of ${sizeOf(read.bytes)}`,
    `${formatCount(write.requests, "write")} of ${sizeOf(write.bytes)}`,
    ...(clear.requests === 0 ? [] : [
      `${sizeOf(clear.bytes)} zeroed or discarded`,
    ]),
    `${formatCount(flushed)} ${flushed === 1 ? "flush" : "flushes"}`,
    ...(heat.failed === 0 ? [] : [`${heat.failed} failed`]),
  ].join(" · ");
  return markup`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" aria-labelledby="title facts">
<title id="title">${title}</title>
<desc id="facts">${facts}</desc>
<style>${STYLE}</style>
<rect class="paper" width="${WIDTH}" height="${HEIGHT}"/>
<text class="title" x="24" y="36">${title}</text>
<text class="note" x="24" y="58">${facts}</text>
${legend(heat, grid)}
${strip(heat, grid, times)}
${lanes.map((lane, i) => place(lane, lanes[i + 1]))}
${HEAT_KINDS.map((kind) => cells(grid, kind, lanes, times))}
${side(grid, lanes)}
${flushes(heat, x)}
${failures(heat, lanes, x)}
${timeAxis(heat.timeUs * times, x)}
</svg>
`.text;
}

/** Divides the height of the map among bands. */
function lanesOf(bands: readonly Band[]): Lane[] {
  const room = BOTTOM - TOP - CUT * (bands.length - 1);
  const rows = Math.floor(room / ROW);
  const all = sum(bands.map(({ count }) => count));
  // Each has room for its labels.
  const least = Math.min(7, Math.floor(rows / bands.length));
  let left = rows - least * bands.length;
  let top = TOP;
  return bands.map((band, i) => {
    const more = i === bands.length - 1 ? left : Math.round(
      (rows - least * bands.length) * band.count / all,
    );
    left -= more;
    const lane = { ...band, top, rows: least + more };
    top += lane.rows * ROW + CUT;
    return lane;
  });
}

/** Bytes in each row of each lane at each moment. */
type Grid = Record<HeatKind, Map<number, Float64Array>>;

/** Rows are numbered through all lanes. */
function gridOf(heat: HeatMap, lanes: readonly Lane[], times: number): Grid {
  const grid: Grid = { read: new Map(), write: new Map(), clear: new Map() };
  for (const [kind, time, sector, bytes] of heat.cells()) {
    let before = 0;
    for (const lane of lanes) {
      const scale = lane.rows / lane.count;
      const first = (sector - lane.sector) * scale;
      const last = (sector + heat.placeSectors - lane.sector) * scale;
      if (first < lane.rows && last > 0) {
        // A place may be of several rows, or end a little after its lane.
        const from = Math.max(0, Math.floor(first));
        const to = Math.min(lane.rows, Math.max(from + 1, Math.ceil(last)));
        for (let row = from; row < to; row++) {
          let values = grid[kind].get(before + row);
          if (values === undefined) {
            values = new Float64Array(times);
            grid[kind].set(before + row, values);
          }
          values[Math.min(time, times - 1)]! += bytes / (to - from);
        }
        break;
      }
      before += lane.rows;
    }
  }
  return grid;
}

/** The cells of one kind, those alike in a row as one. */
function cells(
  grid: Grid,
  kind: HeatKind,
  lanes: readonly Lane[],
  times: number,
): Markup {
  const most = Math.max(
    ...MOVED.flatMap((each) =>
      [...grid[each].values()].map((values) =>
        values.reduce((a, b) => a > b ? a : b, 0)
      )
    ),
    1,
  );
  // Each shade is some times as much as the one before it.
  const shadeOf = (bytes: number) =>
    bytes === 0 ? 0 : kind === "clear" ? SHADES : Math.max(
      1,
      Math.ceil(SHADES * (1 - Math.log(most / bytes) / Math.log(4096))),
    );
  const shades = new Map<number, string[]>();
  const width = (RIGHT - LEFT) / times;
  for (const [row, values] of grid[kind]) {
    const y = topOf(row, lanes);
    for (let from = 0; from < times;) {
      const shade = shadeOf(values[from]!);
      let to = from + 1;
      while (to < times && shadeOf(values[to]!) === shade) to++;
      if (shade > 0) {
        const paths = shades.get(shade) ?? [];
        shades.set(shade, paths);
        // Never less than can be seen.
        const span = Math.max((to - from) * width, 2);
        paths.push(
          `M${round(LEFT + from * width)} ${y}h${round(span)}v${ROW}h${
            round(-span)
          }z`,
        );
      }
      from = to;
    }
  }
  return markup`<g class="map ${kind}">${
    [...shades].sort(([a], [b]) => a - b).map(([shade, paths]) =>
      markup`<path opacity="${round(0.2 + 0.8 * shade / SHADES)}" d="${
        paths.join("")
      }"/>`
    )
  }</g>`;
}

function topOf(row: number, lanes: readonly Lane[]): number {
  let left = row;
  for (const lane of lanes) {
    if (left < lane.rows) return lane.top + left * ROW;
    left -= lane.rows;
  }
  return BOTTOM;
}

/** The ground of a band, its labels, and the cut after it. */
function place(lane: Lane, next: Lane | undefined): Markup {
  const height = lane.rows * ROW;
  const end = lane.sector + lane.count;
  return markup`<rect class="field" x="${LEFT}" y="${lane.top}" width="${
    RIGHT - LEFT
  }" height="${height}"/>
<text class="end" x="${LEFT - 8}" y="${lane.top + 10}">${at(lane.sector)}</text>
<text class="end" x="${LEFT - 8}" y="${lane.top + height - 1}">${at(end)}</text>
${
    next !== undefined &&
    markup`<path class="cut" d="M${LEFT} ${
      lane.top + height + CUT / 2
    }H${SIDE_RIGHT}"/><text class="middle" style="paint-order:stroke;stroke:var(--paper);stroke-width:6px;stroke-linejoin:round" x="${
      (LEFT + RIGHT) / 2
    }" y="${lane.top + height + CUT / 2 + 4}">${
      sizeOf((next.sector - end) * SECTOR_BYTES)
    } neither read nor written</text>`
  }`;
}

function at(sector: number): string {
  return sector === 0 ? "0" : sizeOf(sector * SECTOR_BYTES);
}

/** How much was moved at each moment. */
function strip(heat: HeatMap, grid: Grid, times: number): Markup {
  const series = MOVED.map((kind) => {
    const values = new Float64Array(times);
    for (const row of grid[kind].values()) {
      for (let i = 0; i < times; i++) values[i]! += row[i]!;
    }
    return { kind, values };
  });
  const totals = Array.from(
    { length: times },
    (_, i) => sum(series.map(({ values }) => values[i]!)),
  );
  const most = totals.reduce((a, b) => a > b ? a : b, 0);
  const height = STRIP_BOTTOM - STRIP_TOP;
  const width = (RIGHT - LEFT) / times;
  const base = new Float64Array(times);
  const bars = series.map(({ kind, values }) => {
    let path = "";
    for (let i = 0; i < times; i++) {
      if (values[i] === 0) continue;
      const from = base[i]! / most * height;
      base[i]! += values[i]!;
      const tall = Math.max(base[i]! / most * height - from, 0.75);
      path += `M${round(LEFT + i * width)} ${round(STRIP_BOTTOM - from)}h${
        round(width)
      }v${round(-tall)}h${round(-width)}z`;
    }
    return markup`<path class="${kind}" d="${path}"/>`;
  });
  const peak = most / heat.timeUs * 1e6;
  return markup`<path class="line" d="M${LEFT} ${STRIP_BOTTOM + 0.5}H${RIGHT}"/>
<text class="end" x="${LEFT - 8}" y="${STRIP_TOP + 10}">${sizeOf(peak)}/s</text>
<g>${most > 0 && bars}</g>`;
}

/** How much was moved at each place. */
function side(grid: Grid, lanes: readonly Lane[]): Markup {
  const rows = sum(lanes.map(({ rows }) => rows));
  const kinds = MOVED;
  const totals = kinds.map((kind) =>
    Array.from({ length: rows }, (_, row) => {
      const values = grid[kind].get(row);
      return values === undefined ? 0 : values.reduce((a, b) => a + b, 0);
    })
  );
  const most = Math.max(
    ...totals[0]!.map((each, row) => each + totals[1]![row]!),
  );
  if (!(most > 0)) return markup``;
  const scale = (SIDE_RIGHT - SIDE_LEFT) / most;
  const bars = kinds.map((kind, i) => {
    let path = "";
    for (let row = 0; row < rows; row++) {
      const value = totals[i]![row]! * scale;
      if (value === 0) continue;
      const from = i === 0 ? 0 : totals[0]![row]! * scale;
      path += `M${round(SIDE_LEFT + from)} ${topOf(row, lanes)}h${
        round(Math.max(value, 0.75))
      }v${ROW - 1}h${round(-Math.max(value, 0.75))}z`;
    }
    return markup`<path class="${kind}" d="${path}"/>`;
  });
  return markup`<g>${bars}</g><text class="end" x="${SIDE_RIGHT}" y="${
    BOTTOM + 22
  }">up to ${sizeOf(most)} a row</text>`;
}

/** Flushes as lines through the map. */
function flushes(heat: HeatMap, x: (us: number) => number): Markup {
  let path = "";
  for (const time of heat.flushes.keys()) {
    path += `M${round(x((time + 0.5) * heat.timeUs))} ${STRIP_BOTTOM + 3}v9`;
  }
  return markup`<path class="flush" d="${path}"/>`;
}

/** What failed, as rings. */
function failures(
  heat: HeatMap,
  lanes: readonly Lane[],
  x: (us: number) => number,
): Markup {
  const rings = heat.failures.map(({ us, sector }) => {
    const lane = lanes.find((lane) =>
      sector !== null && sector >= lane.sector &&
      sector < lane.sector + lane.count
    );
    const y = lane === undefined
      ? STRIP_BOTTOM + 8
      : lane.top + (sector! - lane.sector) / lane.count * lane.rows * ROW;
    return markup`<circle class="bad" cx="${round(x(us))}" cy="${
      round(y)
    }" r="4.5"/>`;
  });
  return markup`<g>${rings}</g>`;
}

function timeAxis(lastUs: number, x: (us: number) => number): Markup {
  const step = niceStep(lastUs / 7);
  const ticks: Markup[] = [];
  for (let us = 0; us <= lastUs; us += step) {
    ticks.push(
      markup`<path class="line" d="M${
        round(x(us))
      } ${BOTTOM}v5"/><text class="middle" x="${round(x(us))}" y="${
        BOTTOM + 22
      }">${timeName(us, step)}</text>`,
    );
  }
  return markup`<path class="line" d="M${LEFT} ${BOTTOM + 0.5}H${RIGHT}"/>
<g>${ticks}</g>`;
}

/** 1, 2 or 5 times a power of ten, at least so much. */
function niceStep(us: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(us, 1)));
  return [1, 2, 5, 10].map((it) => it * power).find((it) => it >= us) ??
    10 * power;
}

function timeName(us: number, step: number): string {
  if (us === 0) return "0";
  if (step >= 1e6) return `${us / 1e6} s`;
  return step >= 1000
    ? `${Number((us / 1000).toFixed(3))} ms`
    : `${Number(us.toFixed(0))} µs`;
}

function legend(heat: HeatMap, grid: Grid): Markup {
  const words: [string, Markup][] = [
    ["read", swatch("read")],
    ["written", swatch("write")],
  ];
  if (isBoth(grid)) {
    // On the map's ground, and mixed as there.
    words.push([
      "both",
      markup`<g style="isolation:isolate">${swatch("field")}${
        MOVED.map((kind) => swatch(`map ${kind}`))
      }</g>`,
    ]);
  }
  if (heat.sums.clear.requests > 0) {
    words.push(["zeroed or discarded", swatch("clear")]);
  }
  if (heat.flushes.size > 0) {
    words.push(["flush", markup`<path class="flush" d="M8 -10v11"/>`]);
  }
  if (heat.failed > 0) {
    words.push([
      "failed",
      markup`<circle class="bad" cx="8" cy="-4.5" r="4.5"/>`,
    ]);
  }
  let left = LEFT;
  return markup`<g>${
    words.map(([word, sign]) => {
      const x = left;
      left += 34 + word.length * 7;
      return markup`<g transform="translate(${x} 84)">${sign}<text class="strong" x="20">${word}</text></g>`;
    })
  }</g>`;
}

/** Whether something was read and written at the same place and moment. */
function isBoth({ read, write }: Grid): boolean {
  return [...read].some(([row, values]) => {
    const written = write.get(row);
    return written !== undefined &&
      values.some((bytes, i) => bytes > 0 && written[i]! > 0);
  });
}

function swatch(className: string): Markup {
  return markup`<rect class="${className}" width="14" height="9" y="-9" rx="2"/>`;
}

/** A size; what a trace claims may be none that a disk has. */
function sizeOf(bytes: number): string {
  return formatSize(Math.min(Math.round(bytes), Number.MAX_SAFE_INTEGER));
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
