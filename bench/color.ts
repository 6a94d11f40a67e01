/**
 * Colours of a terminal, where there is one that wants them.
 *
 * @module
 */

let enabled = false;

/**
 * Turns colours on or off; they are off at first.
 *
 * @param on Whether they are to be on.
 */
export function setColors(on: boolean): void {
  enabled = on && !Deno.noColor;
}

function paint(code: number, end: number): (text: string) => string {
  return (text) => enabled ? `\x1b[${code}m${text}\x1b[${end}m` : text;
}

/** Makes text bold. */
export const bold: (text: string) => string = paint(1, 22);
/** Makes text dim. */
export const dim: (text: string) => string = paint(2, 22);
/** Makes text red. */
export const red: (text: string) => string = paint(31, 39);
/** Makes text green. */
export const green: (text: string) => string = paint(32, 39);
/** Makes text yellow. */
export const yellow: (text: string) => string = paint(33, 39);
/** Makes text cyan. */
export const cyan: (text: string) => string = paint(36, 39);
