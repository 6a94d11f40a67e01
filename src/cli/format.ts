/**
 * Times and rates as people read them.
 *
 * @module
 */

import { formatSize } from "../units.ts";

/**
 * A span of time as a clock shows it, rounded to seconds.
 *
 * @param ms Milliseconds.
 * @returns For example `"0:07"`, `"1:02:03"`.
 */
export function clock(ms: number): string {
  const seconds = Math.round(ms / 1000);
  const parts = [Math.floor(seconds / 60) % 60, seconds % 60];
  const hours = Math.floor(seconds / 3600);
  if (hours > 0) parts.unshift(hours);
  return parts.map((part, index) =>
    index === 0 ? String(part) : String(part).padStart(2, "0")
  ).join(":");
}

/**
 * A span of time that is over, to two or three digits.
 *
 * @param ms Milliseconds.
 * @returns For example `"0.04 s"`, `"12.3 s"`, `"2:05"`.
 */
export function duration(ms: number): string {
  if (ms >= 99_950) return clock(ms);
  return `${(ms / 1000).toFixed(ms < 9995 ? 2 : 1)} s`;
}

/**
 * How much was moved in a time.
 *
 * @param bytes How much.
 * @param ms Milliseconds.
 * @returns For example `"305 MiB/s"`.
 */
export function rate(bytes: number, ms: number): string {
  return `${formatSize(bytes / Math.max(ms, 1) * 1000)}/s`;
}
