/**
 * Numbers for people.
 *
 * @module
 */

/** Bytes of a mebibyte. */
export const MIB = 1_048_576;

/**
 * A number with three significant digits at least, in groups of three.
 *
 * @param value The number.
 * @returns For example `"13,121"`, `"97.3"`, `"0.123"`.
 */
export function grouped(value: number): string {
  if (!Number.isFinite(value)) return "—";
  const size = Math.abs(value);
  const digits = size >= 100 || size === 0
    ? 0
    : size >= 10
    ? 1
    : size >= 1
    ? 2
    : 3;
  return value.toLocaleString("en-US", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/**
 * A duration.
 *
 * @param microseconds How long.
 * @returns For example `"71.4 µs"`, `"2.41 ms"`.
 */
export function duration(microseconds: number): string {
  if (microseconds < 1000) return `${grouped(microseconds)} µs`;
  if (microseconds < 1e6) return `${grouped(microseconds / 1000)} ms`;
  return `${grouped(microseconds / 1e6)} s`;
}
