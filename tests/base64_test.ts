import { assertEquals } from "@std/assert";
import { fromBase64, toBase64 } from "../src/base64.ts";
import { Random } from "../src/random.ts";

Deno.test("fromBase64() reads what toBase64() writes, and btoa()", () => {
  const random = new Random(1);
  for (const length of [0, 1, 2, 3, 4, 511, 512, 3 << 20]) {
    const bytes = random.bytes(length);
    const text = toBase64(bytes);
    if (length < 1000) {
      assertEquals(text, btoa(String.fromCharCode(...bytes)));
    }
    const back = fromBase64(text)!;
    assertEquals(back.length, length);
    assertEquals(back.every((byte, i) => byte === bytes[i]), true);
  }
});

Deno.test("fromBase64() takes nothing that is no base64", () => {
  for (const text of ["!!", "A", "AA", "AA=", "AAA", "A===", "=AAA", "AA\nA"]) {
    assertEquals(fromBase64(text), null, text);
  }
});
