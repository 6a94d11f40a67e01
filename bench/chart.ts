/**
 * A chart of the random reads: requests per second over the queue's depth, and
 * how long single requests take. Plain SVG that follows the reader's light or
 * dark background.
 *
 * @module
 */

import { duration, grouped } from "./format.ts";
import type { CaseResult, Score } from "./harness.ts";
import type { Latency } from "./work.ts";

/** What one contender reached at one depth. */
export interface Point {
  /** Requests in flight. */
  readonly depth: number;
  /** Requests per second. */
  readonly iops: number;
  /** Durations of single requests. */
  readonly latency: Latency | null;
}

/** One line of the chart. */
export interface Series {
  /** Whose. */
  readonly name: string;
  /** Its points, in the order of their depths. */
  readonly points: readonly Point[];
}

/** Latencies are drawn for these depths. */
const LATENCY_DEPTHS = [1, 32];

/** The colour of each series: Okabe and Ito's, which the colour-blind can tell apart. */
const COLORS = [
  "#0072b2",
  "#d55e00",
  "#cc79a7",
  "#009e73",
  "#c9940a",
  "#7a7a7a",
];

const WIDTH = 960;
const HEIGHT = 500;
const TOP = 96;
const BOTTOM = 420;

const STYLE = `
  svg { color: #1f2328; background: #ffffff }
  text { font: 13px system-ui, sans-serif; fill: currentColor }
  .title { font-size: 19px; font-weight: 600 }
  .panel { font-size: 14px; font-weight: 600 }
  .quiet { fill-opacity: .65; font-size: 12px }
  .grid { stroke: currentColor; stroke-opacity: .13 }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round }
  .ours { stroke-width: 3.5; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    svg { color: #e6edf3; background: #0d1117 }
    .series { filter: brightness(1.35) }
  }`;

/**
 * Collects what the chart shows.
 *
 * @param results How the cases ended; those that read at random count.
 * @returns One series for each contender that was measured at two depths.
 */
export function seriesOf(results: readonly CaseResult[]): Series[] {
  const points = new Map<string, Point[]>();
  for (const result of results) {
    if (!/^random-read-\d+$/.test(result.name) || result.ours === null) {
      continue;
    }
    for (const score of [result.ours, ...result.peers] as Score[]) {
      const list = points.get(score.name) ?? [];
      points.set(score.name, list);
      list.push({
        depth: result.depth,
        iops: score.summary.median,
        latency: score.latency,
      });
    }
  }
  return [...points]
    .map(([name, list]) => ({
      name,
      points: list.toSorted((a, b) => a.depth - b.depth),
    }))
    // A contender with a cache is no comparison, and would set the scale.
    .filter(({ name, points }) =>
      points.length > 1 && !name.includes("cached")
    );
}

/**
 * Draws the chart.
 *
 * @param series What it shows; the first is ours.
 * @param caption Where the numbers come from.
 * @returns SVG.
 */
export function chart(series: readonly Series[], caption: string): string {
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" ` +
    `width="${WIDTH}" height="${HEIGHT}" role="img" ` +
    `aria-label="Requests per second and latency of 4 KiB random reads">`,
    `<style>${STYLE}\n</style>`,
    text(24, 34, "4 KiB random reads", "title"),
    text(24, 54, caption, "quiet"),
    throughput(series, 72, 380),
  ];
  LATENCY_DEPTHS.forEach((depth, i) => {
    const left = 640 + i * 154;
    parts.push(latencies(series, depth, left, left + 142, i === 0));
  });
  parts.push(legend(series), "</svg>\n");
  return parts.join("\n");
}

function throughput(
  series: readonly Series[],
  left: number,
  right: number,
): string {
  const all = series.flatMap(({ points }) => points);
  const depths = [...new Set(all.map(({ depth }) => depth))]
    .sort((a, b) => a - b);
  const steps = ticks(Math.max(1, ...all.map(({ iops }) => iops)));
  const top = steps.at(-1)!;
  const low = Math.log2(depths[0] ?? 1);
  const range = Math.max(1, Math.log2(depths.at(-1) ?? 2) - low);
  const x = (depth: number) =>
    left + (Math.log2(depth) - low) / range * (right - left);
  const y = (iops: number) => BOTTOM - iops / top * (BOTTOM - TOP);
  const parts = [text(left - 48, TOP - 16, "Requests per second", "panel")];
  for (const step of steps) {
    parts.push(
      rule(left, right, y(step)),
      text(
        left - 8,
        y(step) + 4,
        step === 0 ? "0" : `${step / 1000}k`,
        "quiet",
        "end",
      ),
    );
  }
  for (const depth of depths) {
    parts.push(text(x(depth), BOTTOM + 18, `${depth}`, "quiet", "middle"));
  }
  parts.push(
    text(
      (left + right) / 2,
      BOTTOM + 38,
      "requests in flight",
      "quiet",
      "middle",
    ),
  );
  // Names at the ends of the lines, moved apart where those meet.
  const ends = spread(
    series.map(({ points }) => y(points.at(-1)!.iops)),
    17,
    TOP,
    BOTTOM,
  );
  const drawn = series.map(({ name, points }, i) => {
    const last = points.at(-1)!;
    const path = points.map(({ depth, iops }) =>
      `${n(x(depth))},${n(y(iops))}`
    );
    const label = `${name}  ${grouped(last.iops)}`;
    return group(i, [
      `<polyline class="line${i === 0 ? " ours" : ""}" stroke="${
        color(i)
      }" points="${path.join(" ")}"/>`,
      ...points.map(({ depth, iops }) =>
        `<circle cx="${n(x(depth))}" cy="${n(y(iops))}" r="${
          i === 0 ? 4 : 3
        }" ` +
        `fill="${color(i)}"><title>${
          escape(`${name}, ${depth} in flight: ${grouped(iops)} IOPS`)
        }</title></circle>`
      ),
      `<path d="M${n(x(last.depth) + 6)} ${n(y(last.iops))}L${right + 18} ${
        n(ends[i]!)
      }" stroke="${color(i)}" stroke-opacity=".5" fill="none"/>`,
      `<text x="${right + 23}" y="${n(ends[i]! + 4)}" style="fill:${color(i)}"${
        i === 0 ? ' font-weight="600"' : ""
      }>${escape(label)}</text>`,
    ]);
  });
  // Ours on top of the others.
  return [...parts, ...drawn.toReversed()].join("\n");
}

/** Durations on a scale that both panels share, so that they compare. */
function latencies(
  series: readonly Series[],
  depth: number,
  left: number,
  right: number,
  labelled: boolean,
): string {
  const shown = series.flatMap(({ name, points }, index) =>
    points.flatMap(({ depth, latency }) =>
      latency !== null && LATENCY_DEPTHS.includes(depth)
        ? [{ name, index, depth, latency }]
        : []
    )
  );
  const found = shown.filter((one) => one.depth === depth);
  const title = depth === 1 ? "one by one" : `${depth} in flight`;
  const parts = [
    text((left + right) / 2, BOTTOM + 18, title, "quiet", "middle"),
  ];
  if (labelled) {
    parts.push(text(left - 48, TOP - 16, "Latency: p50, p99, p99.9", "panel"));
  }
  if (shown.length === 0) return parts.join("\n");
  const low = Math.log10(Math.min(...shown.map(({ latency }) => latency.p50)));
  const high = Math.log10(
    Math.max(...shown.map(({ latency }) => latency.p999)),
  );
  const y = (microseconds: number) =>
    BOTTOM - 8 - (Math.log10(microseconds) - low) / Math.max(0.5, high - low) *
      (BOTTOM - TOP - 16);
  for (let power = Math.floor(low); power <= high; power++) {
    for (const step of [10 ** power, 3 * 10 ** power]) {
      if (y(step) > BOTTOM || y(step) < TOP) continue;
      parts.push(rule(left, right, y(step)));
      if (!labelled) continue;
      const label = duration(step).replace(/\.0+ /, " ");
      parts.push(text(left - 6, y(step) + 4, label, "quiet", "end"));
    }
  }
  const gap = (right - left) / found.length;
  found.forEach(({ name, index, latency }, i) => {
    const x = n(left + gap * (i + 0.5));
    const { p50, p99, p999 } = latency;
    const hint = `${name}: p50 ${duration(p50)}, p99 ${duration(p99)}, ` +
      `p99.9 ${duration(p999)}`;
    parts.push(group(index, [
      `<title>${escape(hint)}</title>`,
      `<line x1="${x}" x2="${x}" y1="${n(y(p50))}" y2="${n(y(p999))}" ` +
      `stroke="${color(index)}" stroke-width="2" stroke-opacity=".55"/>`,
      `<circle cx="${x}" cy="${n(y(p50))}" r="5.5" fill="${color(index)}"/>`,
      `<circle cx="${x}" cy="${n(y(p99))}" r="4" fill="${color(index)}"/>`,
      `<line x1="${n(+x - 5)}" x2="${n(+x + 5)}" y1="${n(y(p999))}" y2="${
        n(y(p999))
      }" stroke="${color(index)}" stroke-width="2.5"/>`,
    ]));
  });
  return parts.join("\n");
}

function legend(series: readonly Series[]): string {
  let x = 24;
  return series.map(({ name }, i) => {
    const part = group(i, [
      `<circle cx="${x + 5}" cy="${HEIGHT - 22}" r="5" fill="${color(i)}"/>`,
      text(x + 15, HEIGHT - 18, name),
    ]);
    x += 34 + name.length * 7.4;
    return part;
  }).join("\n");
}

/** Round numbers from zero to above a value. */
export function ticks(max: number): number[] {
  const rough = max / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= rough)! * power;
  return Array.from(
    { length: Math.ceil(max / step - 1e-9) + 1 },
    (_, i) => i * step,
  );
}

/**
 * Moves positions apart, as little as it takes, without changing their order.
 *
 * @param wanted Where they would like to be.
 * @param gap How far apart they must be.
 * @param low The least.
 * @param high The greatest.
 * @returns Where they go, in the order of `wanted`.
 */
export function spread(
  wanted: readonly number[],
  gap: number,
  low: number,
  high: number,
): number[] {
  const order = wanted.map((at, index) => ({ at, index }))
    .sort((a, b) => a.at - b.at);
  let least = low;
  for (const one of order) {
    one.at = Math.max(one.at, least);
    least = one.at + gap;
  }
  let most = high;
  for (const one of order.toReversed()) {
    one.at = Math.min(one.at, most);
    most = one.at - gap;
  }
  const result = new Array<number>(wanted.length);
  for (const { at, index } of order) result[index] = at;
  return result;
}

function color(index: number): string {
  return COLORS[index % COLORS.length]!;
}

function group(index: number, parts: string[]): string {
  return `<g class="series s${index}">${parts.join("")}</g>`;
}

function rule(left: number, right: number, y: number): string {
  return `<line class="grid" x1="${left}" x2="${right}" y1="${n(y)}" y2="${
    n(y)
  }"/>`;
}

function text(
  x: number,
  y: number,
  content: string,
  kind = "",
  anchor = "start",
): string {
  return `<text x="${n(x)}" y="${n(y)}"${
    kind === "" ? "" : ` class="${kind}"`
  }${anchor === "start" ? "" : ` text-anchor="${anchor}"`}>${
    escape(content)
  }</text>`;
}

/** One decimal is finer than a pixel. */
function n(value: number): string {
  return `${Math.round(value * 10) / 10}`;
}

function escape(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;");
}
