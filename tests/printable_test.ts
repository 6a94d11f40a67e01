import { assertEquals, assertThrows } from "@std/assert";
import { parseBmap, RescueMap } from "../src/image/mod.ts";
import { parseFaultRule } from "../src/layers/fault_rule_text.ts";
import { parseTraceLine } from "../src/layers/trace.ts";
import { printable } from "../src/printable.ts";

const CASES: [title: string, text: string, printed: string][] = [
  ["plain text", 'disk 1, "é" — 磁盘 🖴', 'disk 1, "é" — 磁盘 🖴'],
  ["an empty text", "", ""],
  ["an escape sequence", "a\x1b[2J", "a\\u{1b}[2J"],
  ["a title of a terminal", "\x1b]0;x\x07", "\\u{1b}]0;x\\u{7}"],
  ["an escape sequence of one byte", "\x9b2J", "\\u{9b}2J"],
  ["lines", "a\r\nplatter: b", "a\\u{d}\\u{a}platter: b"],
  ["separators of lines", "a\u2028b\u2029c", "a\\u{2028}b\\u{2029}c"],
  ["writing that is turned around", "a\u202egmi.ksid", "a\\u{202e}gmi.ksid"],
  ["isolates", "\u2066x\u2069", "\\u{2066}x\\u{2069}"],
  ["what is not to be seen", "a\u200bb\ufeffc", "a\\u{200b}b\\u{feff}c"],
  ["tags", "a\u{e0041}", "a\\u{e0041}"],
  ["half a pair", "a\ud800b", "a\\u{d800}b"],
  ["NUL and DEL", "\0\x7f", "\\u{0}\\u{7f}"],
];

for (const [title, text, printed] of CASES) {
  Deno.test(`printable() makes ${title} fit to be printed`, () => {
    assertEquals(printable(text), printed);
    assertEquals(printable(printed), printed);
  });
}

Deno.test("printable() keeps so many characters, and never half of one", () => {
  assertEquals(printable("abc", 3), "abc");
  assertEquals(printable("abcd", 3), "abc…");
  assertEquals(printable("🖴🖴🖴", 3), "🖴🖴🖴");
  assertEquals(printable("🖴🖴🖴🖴", 3), "🖴🖴🖴…");
  assertEquals(printable("x".repeat(1 << 20)).length, 201);
  assertEquals(printable("🖴".repeat(1 << 20), 1000).length, 2001);
  // What is cut is cut before it is written out.
  assertEquals(printable("\x1b".repeat(10), 2), "\\u{1b}\\u{1b}…");
});

/** What reads text from elsewhere, and such text with something in it. */
const READERS: Record<string, (text: string) => unknown> = {
  "parseBmap(), a version": (text) => parseBmap(`<bmap version="${text}"/>`),
  "parseBmap(), an element": (text) =>
    parseBmap(`<bmap version="2.0"><a${text}>1</a${text}></bmap>`),
  "parseBmap(), a number": (text) =>
    parseBmap(
      `<bmap version="1.2"><ImageSize>1${text}</ImageSize></bmap>`,
    ),
  "parseBmap(), a type of sums": (text) =>
    parseBmap(
      `<bmap version="2.0"><ChecksumType>${text}</ChecksumType></bmap>`,
    ),
  "RescueMap.parse(), the state": (text) => RescueMap.parse(`a${text}`),
  "RescueMap.parse(), a block": (text) =>
    RescueMap.parse(`0x0 ?\n0x0 a${text}`),
  "parseTraceLine()": (text) => parseTraceLine(`a${text}b`, 1),
  "parseFaultRule()": (text) => parseFaultRule(`a${text}b`),
  "parseFaultRule(), a word": (text) => parseFaultRule(`read:a${text}b`),
};

for (const [name, read] of Object.entries(READERS)) {
  Deno.test(`${name} quotes no control of what it refuses`, () => {
    for (const control of ["\u001b[31m", "\u009b31m", "\u0085", "\u202e"]) {
      const error = assertThrows(() => read(control));
      const { message } = error as Error;
      assertEquals(/[\p{Cc}\p{Cf}]/u.test(message), false, message);
    }
  });
}
