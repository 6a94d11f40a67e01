/**
 * Takes the measurements of a case in rounds, every contender once in each, so
 * that whatever else the machine does affects all of them alike.
 *
 * @module
 */

import type { Contender, Target } from "./contenders.ts";
import {
  median,
  type Ratio,
  ratio,
  summarize,
  type Summary,
} from "./statistics.ts";
import {
  type Latency,
  type Measurement,
  Unavailable,
  type Work,
} from "./work.ts";

/** What a case looks at in its measurements. */
export interface Metric {
  /** As the table and JSON name it. */
  readonly name: string;
  /** Whether more of it is better. */
  readonly better: "more" | "less";
  /**
   * Takes it from a measurement.
   *
   * @param measured The measurement.
   * @returns The number.
   */
  of(measured: Measurement): number;
  /**
   * Writes it for people.
   *
   * @param value The number.
   * @returns With its unit.
   */
  format(value: number): string;
}

/**
 * What a case must reach: a ratio to a peer or, without one, a number. At
 * least that where more is better, at most that where less is.
 */
export interface Bar {
  /** The peer's name. */
  readonly peer?: string;
  /** The ratio, or the number. */
  readonly value: number;
}

/** One comparison. */
export interface Case {
  /** Short and in kebab-case, for `--only`. */
  readonly name: string;
  /** One line for people. */
  readonly title: string;
  /** What to measure on. */
  readonly target: Target;
  /** What to do there. */
  readonly work:
    & Pick<Work, "operation" | "order" | "blockBytes" | "depth">
    & Partial<Work>;
  /** What to look at. */
  readonly metric: Metric;
  /** Platter. */
  readonly ours: Contender;
  /** Who it is compared to. */
  readonly peers: readonly Contender[];
  /** What it must reach. */
  readonly bar?: Bar;
  /** Rounds, if not as many as the others. */
  readonly rounds?: number;
  /** Whether it runs for the chart only, or when it is asked for. */
  readonly chartOnly?: boolean;
  /**
   * What else is worth saying.
   *
   * @param ours Platter's measurements.
   * @param peers The peers', by name.
   * @returns Lines for the table.
   */
  notes?(
    ours: readonly Measurement[],
    peers: ReadonlyMap<string, readonly Measurement[]>,
  ): string[];
}

/** What one contender reached in a case. */
export interface Score {
  /** The contender. */
  readonly name: string;
  /** The engine that Platter used. */
  readonly engine?: string;
  /** The metric of each round. */
  readonly values: readonly number[];
  /** Those, summed up. */
  readonly summary: Summary;
  /** Medians over the rounds. */
  readonly latency: Latency | null;
  /** Ours divided by this one, round by round; not for ours. */
  readonly ratio?: Ratio;
}

/** How a case ended. */
export interface CaseResult {
  /** The case's name. */
  readonly name: string;
  /** Its title. */
  readonly title: string;
  /** What was looked at. */
  readonly metric: Metric;
  /** Requests in flight. */
  readonly depth: number;
  /** What it must reach. */
  readonly bar: Bar | null;
  /** Whether it did; `skipped` if that is not known here. */
  readonly verdict: "pass" | "miss" | "no bar" | "skipped" | "failed";
  /** Platter's score, if it was taken. */
  readonly ours: Score | null;
  /** Those of the peers that took part. */
  readonly peers: readonly Score[];
  /** Who did not, and why. */
  readonly skipped: readonly { name: string; reason: string }[];
  /** What else is worth saying. */
  readonly notes: readonly string[];
}

/** What a run needs besides its cases. */
export interface RunOptions {
  /** Rounds of each case. */
  readonly rounds: number;
  /** Seconds of each measurement. */
  readonly seconds: number;
  /** Ends everything. */
  readonly signal: AbortSignal;
  /** Where the images are; throws {@linkcode Unavailable}. */
  place(target: Target): Promise<{ path: string; bytes: number }>;
  /** Called with what is being done. */
  progress?(text: string): void;
}

/** Seconds that a contender runs before it is measured: compilers need that. */
const WARM_UP_SECONDS = 1;

/**
 * Runs one case.
 *
 * @param one The case.
 * @param options What it needs.
 * @returns How it ended.
 */
export async function runCase(
  one: Case,
  options: RunOptions,
): Promise<CaseResult> {
  const contenders = [one.ours, ...one.peers];
  const taken = new Map<Contender, Measurement[]>();
  const out = new Map<Contender, string>();
  let failed = false;
  const rounds = one.rounds ?? options.rounds;
  for (let round = 0; round < rounds; round++) {
    // Both orders, as each leaves something behind for the next.
    const turn = round % 2 === 0 ? contenders : contenders.toReversed();
    for (const contender of turn) {
      if (out.has(contender)) continue;
      options.progress?.(
        `${one.name}: round ${round + 1} of ${rounds}, ${contender.name}`,
      );
      try {
        const target = contender.target ?? one.target;
        const { path, bytes } = await options.place(target);
        const measured = await contender.measure({
          path,
          bytes,
          direct: target !== "buffered image",
          seconds: options.seconds,
          warmUpSeconds: WARM_UP_SECONDS,
          seed: 0x2545_f491 + round * 0x1234_5671 | 0,
          ...one.work,
        }, options.signal);
        const before = taken.get(contender);
        if (before === undefined) taken.set(contender, [measured]);
        else before.push(measured);
      } catch (error) {
        options.signal.throwIfAborted();
        const ours = contender === one.ours;
        failed ||= ours && !(error instanceof Unavailable);
        out.set(contender, error instanceof Error ? error.message : `${error}`);
        // Half a column compares to nothing.
        taken.delete(contender);
        if (ours) round = rounds;
        if (ours) break;
      }
    }
  }
  const mine = taken.get(one.ours);
  const ours = mine === undefined ? null : scoreOf(one, one.ours, mine);
  const peers = one.peers.flatMap((peer) => {
    const theirs = taken.get(peer);
    if (theirs === undefined || ours === null) return [];
    const score = scoreOf(one, peer, theirs);
    return [{ ...score, ratio: ratio(ours.values, score.values) }];
  });
  return {
    name: one.name,
    title: one.title,
    metric: one.metric,
    depth: one.work.depth,
    bar: one.bar ?? null,
    verdict: failed ? "failed" : verdictOf(one, ours, peers),
    ours,
    peers,
    skipped: [...out].map(([{ name }, reason]) => ({ name, reason })),
    notes: mine === undefined ? [] : one.notes?.(
      mine,
      new Map([...taken].map(([{ name }, theirs]) => [name, theirs])),
    ) ?? [],
  };
}

function scoreOf(
  { metric }: Case,
  { name }: Contender,
  measured: readonly Measurement[],
): Score {
  const values = measured.map((one) => metric.of(one));
  const latencies = measured.flatMap(({ latency }) => latency ?? []);
  const engine = measured[0]!.engine;
  return {
    name,
    ...(engine === undefined ? {} : { engine }),
    values,
    summary: summarize(values),
    latency: latencies.length === 0 ? null : {
      p50: median(latencies.map(({ p50 }) => p50)),
      p99: median(latencies.map(({ p99 }) => p99)),
      p999: median(latencies.map(({ p999 }) => p999)),
    },
  };
}

function verdictOf(
  { bar, metric }: Case,
  ours: Score | null,
  peers: readonly Score[],
): CaseResult["verdict"] {
  if (ours === null) return "skipped";
  if (bar === undefined) return "no bar";
  const reached = bar.peer === undefined
    ? ours.summary.median
    : peers.find(({ name }) => name === bar.peer)?.ratio?.median;
  if (reached === undefined) return "skipped";
  const passes = metric.better === "more"
    ? reached >= bar.value
    : reached <= bar.value;
  return passes ? "pass" : "miss";
}
