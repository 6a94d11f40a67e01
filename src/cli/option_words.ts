/**
 * Errors and reasons come from the library and name its options: `lock: "none"`.
 * The command line has other names for them, and not with every verb.
 *
 * @module
 */

import type { VerbOption } from "./verb.ts";

/** How an option of the library is named, and what is typed for it. */
const WORDS: readonly (readonly [said: RegExp, name: string, typed: string])[] =
  [
    [/lock: "none"/, "no-lock", "--no-lock"],
    [/direct: "(\w+)"/, "direct", "--direct $1"],
    [/backend: "(\w+)"/, "backend", "--backend $1"],
    [/blockSize: (\d+)/, "block-size", "--block-size $1"],
    [/format: "(\w+)"/g, "format", "--format $1"],
    [/backingFiles: "allow"/, "backing-files", "--backing-files"],
    [/overwrite: true/, "force", "--force"],
    [/force: true/, "force", "--force"],
    [/openPartition\(disk, number\)/, "partition", "--partition NUMBER"],
    [/acceptBase: true/, "accept-base", "--accept-base"],
    [/readOnly: true/, "read-only", "--read-only"],
    [/allowNoProof: true/, "allow-no-proof", "--allow-no-proof"],
    [/\bon(?= must (?:not )?be "(?:device|image|mount|nbd)")/, "on", "--on"],
    [/(?:engine|writeCache): "\w+"/, "", ""],
    [/reset: true/, "", ""],
    [/(?:stallMs|pollMs|queueSize|preallocate): \w+/, "", ""],
  ];

/**
 * Puts a verb's own options in the place of the library's. Advice that the verb
 * cannot follow is left out: what follows a comma or a colon, up to the next.
 *
 * @param text What the library says.
 * @param options The verb's options.
 * @returns What to show.
 */
export function inOptionsOf(
  text: string,
  options: readonly VerbOption[],
): string {
  for (const [said, name, typed] of WORDS) {
    text = options.some((option) => option.name === name)
      ? text.replace(said, typed)
      : text.replace(
        new RegExp(`(?:[,:;] |^)[^,:;]*${said.source}[^,:;]*`, said.flags),
        "",
      );
  }
  return text;
}
