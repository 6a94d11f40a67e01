/**
 * Checks numbers among the options of an exploration.
 *
 * @module
 */

/** The longest time that a timer has, in milliseconds. */
export const MOST_TIMER_MS: number = 2 ** 31 - 1;

/** An option: its name and value, the least and the most that it may be. */
export type NumberOption = readonly [
  name: string,
  value: number,
  least: number,
  most?: number,
];

/**
 * Checks options.
 *
 * @param action What cannot be done otherwise.
 * @param options The options.
 * @throws {RangeError} If one of them is no safe integer or out of its range.
 */
export function checkNumbers(
  action: string,
  options: readonly NumberOption[],
): void {
  for (const [name, value, least, most] of options) {
    if (
      Number.isSafeInteger(value) && value >= least &&
      value <= (most ?? Number.MAX_SAFE_INTEGER)
    ) continue;
    const end = most === undefined ? "" : ` to ${most}`;
    throw new RangeError(
      `Cannot ${action} as ${name} must be a safe integer from ${least}${end}: current value is ${value}`,
    );
  }
}
