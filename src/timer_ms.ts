/**
 * What a timer can wait for. It holds 31 bits: one that is given more, or no
 * number, fires at once, which is the opposite of what was asked for.
 *
 * @module
 */

/** The longest that a timer can wait, in milliseconds. */
export const MOST_TIMER_MS = 2 ** 31 - 1;

/**
 * Tells whether a timer can wait for so long.
 *
 * @param ms Milliseconds.
 * @returns Whether it is a number from 0 to 2^31 - 1.
 */
export function isTimerMs(ms: number): boolean {
  return ms >= 0 && ms < 2 ** 31;
}

/**
 * Checks how long a server that stops is to wait.
 *
 * @param graceMs Milliseconds.
 * @returns Why it cannot; `null` if it can.
 */
export function refuseGrace(graceMs: number): RangeError | null {
  return isTimerMs(graceMs) ? null : new RangeError(
    `Cannot stop serving as graceMs must be from 0 and below 2^31: current value is ${graceMs}`,
  );
}
