/**
 * Medians, what makes two columns of numbers comparable, and how sure a
 * comparison is.
 *
 * @module
 */

import { Random } from "../src/random.ts";

/** Samples drawn for an interval. */
const RESAMPLES = 1000;

/** The part of the samples that an interval leaves out at either end. */
const TAIL = 0.025;

/**
 * The middle of some numbers.
 *
 * @param values The numbers, in any order.
 * @returns The median; NaN if there are none.
 */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return NaN;
  return sorted.length % 2 === 1
    ? sorted[middle]!
    : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The middle of some numbers, and how far they lie apart. */
export interface Summary {
  /** The middle one. */
  median: number;
  /** The least. */
  min: number;
  /** The greatest. */
  max: number;
  /** The distance of the farthest from the middle, as a part of the middle. */
  spread: number;
}

/**
 * Sums some numbers up.
 *
 * @param values The numbers, in any order.
 * @returns Their middle and their spread.
 */
export function summarize(values: readonly number[]): Summary {
  const middle = median(values);
  const min = Math.min(...values);
  const max = Math.max(...values);
  return {
    median: middle,
    min,
    max,
    spread: Math.max(middle - min, max - middle) / middle,
  };
}

/** How one column of numbers relates to another. */
export interface Ratio extends Summary {
  /**
   * The 95 % interval of the median: where it would lie if the rounds were
   * drawn again from those that there are. `null` below five rounds, of which
   * no interval can be told.
   */
  interval: readonly [low: number, high: number] | null;
}

/**
 * Whether a ratio may as well be 1: its interval has 1 in it, or there is none.
 *
 * @param ratio The ratio.
 * @returns Whether the difference may be noise.
 */
export function mayBeNoise({ interval }: Ratio): boolean {
  return interval === null || (interval[0] <= 1 && interval[1] >= 1);
}

/**
 * Writes a ratio for people.
 *
 * @param ratio The ratio.
 * @returns For example `"0.98 (0.95 to 1.02, noise)"`.
 */
export function describeRatio(ratio: Ratio): string {
  const text = ratio.median.toFixed(2);
  if (ratio.interval === null) return text;
  const interval = ratio.interval.map((end) => end.toFixed(2)).join(" to ");
  return `${text} (${interval}${mayBeNoise(ratio) ? ", noise" : ""})`;
}

/**
 * The bootstrap's percentile interval of a median (B. Efron, "Bootstrap Methods:
 * Another Look at the Jackknife", 1979): the median of as many numbers drawn with
 * replacement, again and again. The draws are the same each time.
 */
function intervalOfMedian(
  values: readonly number[],
): readonly [number, number] | null {
  if (values.length < 5) return null;
  const random = new Random(values.length);
  const medians = Array.from(
    { length: RESAMPLES },
    () => median(values.map(() => values[random.below(values.length)]!)),
  ).sort((a, b) => a - b);
  const cut = Math.round(RESAMPLES * TAIL);
  return [medians[cut]!, medians[RESAMPLES - 1 - cut]!];
}

/**
 * How one column of numbers relates to another, round by round: what slows a
 * whole round down, a busy neighbour say, falls out.
 *
 * @param ours One number per round.
 * @param theirs The other's numbers of the same rounds.
 * @returns The quotients, summed up, and the interval of their median.
 */
export function ratio(
  ours: readonly number[],
  theirs: readonly number[],
): Ratio {
  const rounds = Math.min(ours.length, theirs.length);
  const quotients = Array.from(
    { length: rounds },
    (_, i) => ours[i]! / theirs[i]!,
  );
  return { ...summarize(quotients), interval: intervalOfMedian(quotients) };
}
