/**
 * What a mistyped word was meant to be.
 *
 * @module
 */

/**
 * Finds the word that is nearest to what was typed.
 *
 * @param typed What was typed.
 * @param words What may be typed.
 * @returns The word, or `undefined` if none is near: a third of its letters, and
 * at least one, may be wrong, missing, too many or swapped with the next.
 */
export function nearest(
  typed: string,
  words: readonly string[],
): string | undefined {
  let best: string | undefined;
  let least = Infinity;
  for (const word of words) {
    const distance = editsBetween(typed, word);
    const most = Math.max(1, Math.floor(word.length / 3));
    if (distance <= most && distance < least) [best, least] = [word, distance];
  }
  return best;
}

/** How many edits make one word of another (optimal string alignment). */
function editsBetween(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let edits = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + same);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] &&
        a[i - 2] === b[j - 1];
      if (swapped) edits = Math.min(edits, before[j - 2]! + 1);
      row.push(edits);
    }
    before = last;
    last = row;
  }
  return last[b.length]!;
}

/**
 * The question for an error.
 *
 * @param typed What was typed.
 * @param words What may be typed.
 * @returns For example `' (did you mean "--verify"?)'`, or nothing.
 */
export function didYouMean(typed: string, words: readonly string[]): string {
  // Nobody means what is far too long, and it would cost time.
  const word = typed.length > 40 ? undefined : nearest(typed, words);
  return word === undefined ? "" : ` (did you mean "${word}"?)`;
}
