/**
 * Text that others chose, made fit to be printed: a terminal carries out what
 * it is sent, and so a name that came over a network could set its title,
 * answer questions in the user's place, or hide a line of a log.
 *
 * @module
 */

/** Characters that are kept at most if nothing else is said. */
const MOST = 200;

/**
 * What must not reach a terminal or a log as it is: controls (C0, DEL and C1),
 * what turns the direction of writing around or is not to be seen at all, line
 * and paragraph separators, tags and halves of surrogate pairs.
 *
 * Sources: Unicode, general categories Cc, Cf, Cs, Zl and Zp; UTR 36, section
 * 2.5 (bidirectional text spoofing).
 */
export const UNPRINTABLE: RegExp = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/**
 * Makes text from elsewhere fit for messages, logs and terminals. What is no
 * character to be seen becomes its number, such as `\u{1b}`; text that is too
 * long ends in `…`. It stays on one line, and is the same text again if there
 * was nothing to change.
 *
 * @example What a terminal would obey
 * ```ts ignore
 * printable("disk\u001b[2J\n"); // "disk\\u{1b}[2J\\u{a}"
 * ```
 *
 * @param text The text.
 * @param most Characters of it that are kept; 200 if not given.
 * @returns Text that can be printed.
 */
export function printable(text: string, most: number = MOST): string {
  let kept = text;
  // In UTF-16 it is at least as long as in characters.
  if (text.length > most) {
    // Only as far as matters: the text may be far longer.
    const start = Array.from(text.slice(0, 2 * most + 2));
    if (start.length > most || text.length > 2 * most + 2) {
      kept = `${start.slice(0, most).join("")}…`;
    }
  }
  return kept.replace(
    UNPRINTABLE,
    (found) => `\\u{${found.codePointAt(0)!.toString(16)}}`,
  );
}
