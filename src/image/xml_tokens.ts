/**
 * The part of XML 1.0 that machine-made files such as bmaps use: elements,
 * attributes, text, comments and a declaration. What expands or fetches things
 * (DOCTYPE, entities of one's own) is refused, so that time and memory are
 * bounded by the text. No input, no output: text in, tokens out.
 *
 * @module
 */

/** One piece of an XML document. */
export type XmlToken =
  | {
    readonly kind: "open";
    readonly name: string;
    readonly attributes: ReadonlyMap<string, string>;
  }
  | { readonly kind: "close"; readonly name: string }
  | { readonly kind: "text"; readonly text: string };

const NAME = /[A-Za-z_][A-Za-z0-9_.:-]*/y;
const SPACE = /[ \t\r\n]*/y;
const ATTRIBUTE = /([A-Za-z_][A-Za-z0-9_.:-]*)[ \t\r\n]*=[ \t\r\n]*/y;

const ENTITIES: ReadonlyMap<string, string> = new Map([
  ["lt", "<"],
  ["gt", ">"],
  ["amp", "&"],
  ["quot", '"'],
  ["apos", "'"],
]);

/**
 * Cuts a document into tokens, in order. An element that is empty gives an
 * `"open"` and a `"close"`. That elements nest is for the caller to check.
 *
 * @param text The document.
 * @returns The tokens, one at a time.
 * @throws {SyntaxError} At the first thing that is no such XML.
 */
export function* xmlTokens(text: string): Generator<XmlToken, void> {
  let at = 0;
  function fault(what: string): SyntaxError {
    return new SyntaxError(`${what} at character ${at}`);
  }
  function match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found !== null) at += found[0].length;
    return found;
  }
  /** Goes behind the next `end`. */
  function skip(end: string, what: string): void {
    const found = text.indexOf(end, at);
    if (found < 0) throw fault(`${what} does not end`);
    at = found + end.length;
  }

  while (at < text.length) {
    if (text[at] !== "<") {
      const end = text.indexOf("<", at);
      const raw = text.slice(at, end < 0 ? text.length : end);
      yield { kind: "text", text: decoded(raw, fault) };
      at += raw.length;
    } else if (text.startsWith("<!--", at)) {
      at += 4;
      skip("-->", "a comment");
    } else if (text.startsWith("<?", at)) {
      skip("?>", "a declaration");
    } else if (text.startsWith("</", at)) {
      at += 2;
      const name = match(NAME)?.[0];
      match(SPACE);
      if (name === undefined || text[at] !== ">") throw fault("no end tag");
      at++;
      yield { kind: "close", name };
    } else {
      if (text[at + 1] === "!") {
        throw fault("a DOCTYPE or CDATA, which is not taken,");
      }
      at++;
      const name = match(NAME)?.[0];
      if (name === undefined) throw fault("no name of an element");
      const attributes = new Map<string, string>();
      for (;;) {
        match(SPACE);
        const key = match(ATTRIBUTE)?.[1];
        if (key === undefined) break;
        const quote = text[at];
        const end = quote === '"' || quote === "'"
          ? text.indexOf(quote, at + 1)
          : -1;
        if (end < 0) throw fault("an attribute without quotes");
        if (attributes.has(key)) throw fault("an attribute given twice");
        attributes.set(key, decoded(text.slice(at + 1, end), fault));
        at = end + 1;
      }
      const empty = text[at] === "/";
      if (empty) at++;
      if (text[at] !== ">") throw fault("a tag that does not end");
      at++;
      yield { kind: "open", name, attributes };
      if (empty) yield { kind: "close", name };
    }
  }
}

/** Puts characters in the place of the five entities that XML itself has. */
function decoded(raw: string, fault: (what: string) => SyntaxError): string {
  if (!raw.includes("&")) return raw;
  return raw.replace(/&([^;&]{0,8});?/g, (_, name: string) => {
    const character = ENTITIES.get(name);
    if (character === undefined) throw fault("an entity that is not XML's own");
    return character;
  });
}
