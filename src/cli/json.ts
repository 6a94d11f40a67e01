/**
 * JSON as verbs print it. Much of it was chosen by others, such as names of files
 * and partitions, and a terminal may be where it goes.
 *
 * @module
 */

import { UNPRINTABLE } from "../printable.ts";

/**
 * Writes a value as JSON. Characters that a terminal would obey are escapes, as
 * JSON itself has it for the first 32.
 *
 * @param value Plain data.
 * @param indent Columns of an indentation; 0 for one line.
 * @returns JSON that reads as the same, without a newline at its end.
 */
export function formatJson(value: unknown, indent = 2): string {
  return JSON.stringify(value, null, indent).replace(
    UNPRINTABLE,
    // Ends of lines are the indentation's.
    (found) => found === "\n" ? found : escaped(found),
  );
}

/** A character as JSON escapes it: by its code units. */
function escaped(character: string): string {
  return character.split("").map((unit) =>
    `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`
  ).join("");
}
