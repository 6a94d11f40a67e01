/**
 * Counts in sentences.
 *
 * @module
 */

/**
 * A count and what is counted.
 *
 * @param count The count; what is no number is shown as it is.
 * @param noun What is counted, in the singular; it takes an "s" for any count
 * but one.
 * @returns For example `"1 sector"`, `"2 sectors"`.
 */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
