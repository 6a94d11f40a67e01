import { assertEquals } from "@std/assert";
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
