/**
 * Writes HTML and SVG in which text can never become markup.
 *
 * @module
 */

/** Markup that is safe to be put into markup as it is. */
export class Markup {
  /** The text of it. */
  readonly text: string;

  /**
   * Constructs a new instance.
   *
   * @param text Markup.
   */
  constructor(text: string) {
    this.text = text;
  }
}

/** What may be put into markup: text and numbers are escaped. */
export type Part =
  | Markup
  | string
  | number
  | null
  | undefined
  | false
  | readonly Part[];

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/**
 * Writes text so that it is text in HTML and XML, also within an attribute.
 *
 * @param text The text.
 * @returns Its markup.
 */
export function escapeMarkup(text: string): string {
  return text.replace(/[&<>"']/g, (found) => ENTITIES[found]!);
}

/**
 * A template of markup: whatever is put in is escaped, but for markup itself.
 * Nothing is written for `null`, `undefined` and `false`.
 *
 * @param strings The template's own text, which is markup.
 * @param parts What is put in.
 * @returns The markup.
 */
export function markup(
  strings: TemplateStringsArray,
  ...parts: readonly Part[]
): Markup {
  let text = strings[0]!;
  for (const [i, part] of parts.entries()) {
    text += writePart(part) + strings[i + 1]!;
  }
  return new Markup(text);
}

function writePart(part: Part): string {
  if (part instanceof Markup) return part.text;
  if (part === null || part === undefined || part === false) return "";
  if (typeof part === "object") return part.map(writePart).join("");
  return escapeMarkup(String(part));
}
