/**
 * The results, for people and for programs.
 *
 * @module
 */

import { bold, cyan, dim, green, red, yellow } from "./color.ts";
import { duration, MIB } from "./format.ts";
import type { Bar, CaseResult, Metric, Score } from "./harness.ts";
import type { Machine } from "./machine.ts";
import { mayBeNoise, type Ratio } from "./statistics.ts";

const VALUE = 15;
const SPREAD = 7;
const LATENCY = 9;

/**
 * What the numbers were taken on and with.
 *
 * @param machine The machine.
 * @param options How they were taken.
 * @returns Lines.
 */
export function header(
  machine: Machine,
  options: { rounds: number; seconds: number; imageBytes: number },
): string {
  const block = machine.logicalBlockSize === null
    ? ""
    : `, logical blocks of ${machine.logicalBlockSize} bytes`;
  const versions = Object.entries(machine.versions)
    .map(([name, version]) => `${name} ${version ?? "missing"}`)
    .join(", ");
  const rows = [
    [
      "machine",
      `${machine.cpu}, ${machine.cores} cores, ${
        gib(machine.memoryBytes)
      } of memory`,
    ],
    ["system", machine.system],
    ["disk", `${machine.fileSystem} on ${machine.device}${block}`],
    ["versions", versions],
    ["date", machine.date],
    [
      "method",
      `${
        options.rounds === 1
          ? "one round"
          : `medians of ${options.rounds} interleaved rounds`
      }, ${options.seconds} s each, ` +
      `on ${
        gib(options.imageBytes)
      }; ratios are Platter ÷ peer, round by round, ` +
      `with 95 % intervals of their medians (bootstrap)`,
    ],
  ];
  const lines = rows.map(([key, text]) => `  ${dim(key!.padEnd(10))}${text}`);
  return `\n${bold("Platter benchmarks")}\n\n${lines.join("\n")}\n`;
}

function gib(bytes: number): string {
  return bytes >= 1024 * MIB
    ? `${+(bytes / 1024 / MIB).toFixed(1)} GiB`
    : `${+(bytes / MIB).toFixed(1)} MiB`;
}

/**
 * One case as a small table.
 *
 * @param result How it ended.
 * @returns Lines.
 */
export function caseTable(result: CaseResult): string {
  const { ours, peers, skipped } = result;
  const lines = ["", `${bold(cyan(result.name))}  ${result.title}`];
  if (ours !== null) {
    const scores = [ours, ...peers];
    const width = Math.max(...scores.map((score) => nameOf(score).length));
    const timed = scores.some(({ latency }) => latency !== null);
    lines.push(dim(
      "  " + "".padEnd(width) + "median".padStart(VALUE) +
        "spread".padStart(SPREAD) +
        (timed
          ? ["p50", "p99", "p99.9"].map((name) => name.padStart(LATENCY)).join(
            "",
          )
          : "") +
        "    ratio",
    ));
    for (const score of scores) {
      lines.push(scoreLine(score, result, width, timed));
    }
  }
  for (const { name, reason } of skipped) {
    lines.push(`  ${name}  ${yellow("skipped")} ${dim(reason)}`);
  }
  for (const note of result.notes) lines.push(dim(`  ${note}`));
  return lines.join("\n");
}

function scoreLine(
  score: Score,
  result: CaseResult,
  width: number,
  timed: boolean,
): string {
  const { bar, metric, verdict } = result;
  const isOurs = score === result.ours;
  const { median, spread } = score.summary;
  const latency = score.latency;
  const cells = nameOf(score).padEnd(width) +
    metric.format(median).padStart(VALUE) +
    dim(`±${Math.round(spread * 100)}%`.padStart(SPREAD)) +
    (!timed ? "" : latency === null ? " ".repeat(3 * LATENCY) : [
      latency.p50,
      latency.p99,
      latency.p999,
    ].map((value) => duration(value).padStart(LATENCY)).join(""));
  const judged = bar !== null && bar.peer === (isOurs ? undefined : score.name);
  const quotient = score.ratio === undefined
    ? "".padStart(9)
    : quotientOf(score.ratio);
  const judgement = judged
    ? `  ${mark(verdict)} ${dim(limit(bar, metric))}`
    : "";
  return `  ${isOurs ? bold(cells) : cells}${quotient}${judgement}`;
}

/** A contender's name, and the engine that it used if it is Platter. */
function nameOf({ name, engine }: Score): string {
  const known = engine === undefined || name.includes(engine) ||
    ["memory", "node:fs"].includes(engine);
  return known ? name : `${name} (${engine})`;
}

/** A ratio, how sure it is, and whether it may as well be none. */
function quotientOf(ratio: Ratio): string {
  const { interval } = ratio;
  const sure = interval === null
    ? "(too few rounds)"
    : `(${interval.map(factor).join(" to ")})`;
  const noise = interval !== null && mayBeNoise(ratio) ? "  noise" : "";
  return `${factor(ratio.median).padStart(9)} ${dim(sure.padEnd(17) + noise)}`;
}

function factor(value: number): string {
  return `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)}×`;
}

/** The bar in words. */
function limit({ peer, value }: Bar, metric: Metric): string {
  const sign = metric.better === "more" ? "≥" : "≤";
  return `${sign} ${peer === undefined ? metric.format(value) : `${value}×`}`;
}

function mark(verdict: CaseResult["verdict"]): string {
  switch (verdict) {
    case "pass":
      return green("✓");
    case "miss":
      return red("✗");
    default:
      return yellow("?");
  }
}

/**
 * The whole on one screen: each bar, and whether it is reached.
 *
 * @param results How the cases ended.
 * @returns Lines.
 */
export function summary(results: readonly CaseResult[]): string {
  const judged = results.filter(({ bar, ours }) =>
    bar !== null || ours === null
  );
  const lines = judged.length === 0 ? [] : ["", bold("Bars"), ""];
  for (const result of judged) {
    const { bar, metric, ours, peers, verdict } = result;
    const peer = peers.find(({ name }) => name === bar?.peer);
    const reached = bar === null || ours === null
      ? ""
      : bar.peer === undefined
      ? metric.format(ours.summary.median)
      : peer?.ratio === undefined
      ? ""
      : factor(peer.ratio.median);
    const asked = bar === null ? "" : limit(bar, metric) +
      (bar.peer === undefined ? "" : ` ${bar.peer}`);
    const word = { pass: green, miss: red, failed: red }[verdict as string] ??
      yellow;
    lines.push(
      `  ${word(verdict.padEnd(8))}${result.name.padEnd(20)}` +
        `${reached.padStart(9)}  ${metric.name.padEnd(22)}${dim(asked)}`,
    );
  }
  const count = (verdict: string) =>
    results.filter((result) => result.verdict === verdict).length;
  const counts = ["pass", "miss", "skipped", "failed"]
    .map((verdict) => [count(verdict), verdict] as const)
    .filter(([number]) => number > 0)
    .map(([number, verdict]) => `${number} ${verdict}`);
  if (counts.length > 0) lines.push("", `  ${counts.join(", ")}`);
  const reasons = new Map<string, string>();
  for (const { skipped } of results) {
    for (const { name, reason } of skipped) reasons.set(name, reason);
  }
  if (reasons.size > 0) {
    lines.push("", bold("Skipped"), "");
    for (const [name, reason] of reasons) {
      lines.push(`  ${name}  ${dim(reason)}`);
    }
  }
  return lines.join("\n") + "\n";
}

/**
 * Everything as plain data.
 *
 * @param machine The machine.
 * @param options How the numbers were taken.
 * @param results How the cases ended.
 * @returns For `JSON.stringify`.
 */
export function asData(
  machine: Machine,
  options: { rounds: number; seconds: number; imageBytes: number },
  results: readonly CaseResult[],
): unknown {
  return {
    machine,
    options,
    cases: results.map(({ metric, ...rest }) => ({
      ...rest,
      metric: metric.name,
      better: metric.better,
    })),
  };
}
