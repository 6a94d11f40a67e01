/**
 * Which failures are of one kind: those whose last lines say the same, but for
 * numbers, names of files and the like.
 *
 * @module
 */

/** Characters of a kind at most. */
const MOST_CHARACTERS = 200;

/** What differs from one failure of a kind to the next. */
const DIFFERING = [
  // deno-lint-ignore no-control-regex
  [/\x1b\[[0-9;]*m/g, ""],
  [/\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/gi, "…"],
  [/(?<![\w.])(?:\.{0,2}\/[\w.+@%-]+)+\/?/g, "…"],
  [/\b0x[0-9a-f]+\b/gi, "…"],
  [/\b(?=[a-f]*\d)[0-9a-f]{8,}\b/gi, "…"],
  [/\d+(?:[.,:]\d+)*/g, "…"],
  [/\s+/g, " "],
] as const;

/**
 * Names the kind of a failure.
 *
 * @param message What a check said; its last line that is not empty counts.
 * @returns That line without what differs from state to state.
 */
export function failureKind(message: string): string {
  const lines = message.split("\n").filter((line) => line.trim() !== "");
  let line = lines.at(-1) ?? "";
  for (const [pattern, text] of DIFFERING) line = line.replace(pattern, text);
  return line.trim().slice(0, MOST_CHARACTERS);
}
