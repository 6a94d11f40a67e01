/**
 * Medians, and what makes two columns of numbers comparable.
 *
 * @module
 */

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

/**
 * How one column of numbers relates to another, round by round: what slows a
 * whole round down, a busy neighbour say, falls out.
 *
 * @param ours One number per round.
 * @param theirs The other's numbers of the same rounds.
 * @returns The quotients, summed up.
 */
export function ratio(
  ours: readonly number[],
  theirs: readonly number[],
): Summary {
  const rounds = Math.min(ours.length, theirs.length);
  return summarize(
    Array.from({ length: rounds }, (_, i) => ours[i]! / theirs[i]!),
  );
}
