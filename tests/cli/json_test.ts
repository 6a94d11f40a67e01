import { assertEquals } from "@std/assert";
import { formatJson } from "../../src/cli/json.ts";

Deno.test("formatJson() escapes what a terminal would obey, and reads as the same", () => {
  const value = { name: "a\u001b[2J\u009b\u202e\u{e0041}é\n", list: [1, 2] };
  for (const indent of [0, 2]) {
    const text = formatJson(value, indent);
    assertEquals(JSON.parse(text), value);
    assertEquals(/[\p{Cc}\p{Cf}]/u.test(text.replaceAll("\n", "")), false);
  }
  assertEquals(formatJson({ a: 1 }, 0), '{"a":1}');
  assertEquals(formatJson({ a: 1 }), '{\n  "a": 1\n}');
});
