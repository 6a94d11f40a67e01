/**
 * Values as text for people.
 *
 * @module
 */

import { inspect } from "node:util";
import { runtime } from "./system.ts";

/** How a value is shown; as the runtime does if nothing is said. */
export interface Inspection {
  /** Whether on one line. */
  readonly compact?: boolean;
  /** Members of members that are shown. */
  readonly depth?: number;
  /** Characters of a text that are shown. */
  readonly maxText?: number;
  /** Elements of an array that are shown. */
  readonly maxElements?: number;
}

/**
 * Shows a value.
 *
 * @param value The value.
 * @param how How.
 * @returns The text.
 */
export function inspected(value: unknown, how: Inspection = {}): string {
  const { compact, depth, maxText, maxElements } = how;
  if (runtime !== "deno") {
    return inspect(value, {
      ...(compact ? { breakLength: Infinity, compact } : {}),
      ...(depth === undefined ? {} : { depth }),
      ...(maxText === undefined ? {} : { maxStringLength: maxText }),
      ...(maxElements === undefined ? {} : { maxArrayLength: maxElements }),
    });
  }
  return Deno.inspect(value, {
    ...(compact ? { breakLength: Infinity, compact } : {}),
    ...(depth === undefined ? {} : { depth }),
    ...(maxText === undefined ? {} : { strAbbreviateSize: maxText }),
    ...(maxElements === undefined ? {} : { iterableLimit: maxElements }),
  });
}
