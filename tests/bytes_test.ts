import { assertEquals } from "@std/assert";
import { hasText, isSame, viewOf } from "../src/bytes.ts";

Deno.test("viewOf(), hasText() and isSame() go by the bytes, wherever they begin", () => {
  const bytes = Uint8Array.of(9, 9, 1, 2, 0x41, 0xff).subarray(2);
  assertEquals(viewOf(bytes).getUint16(0), 0x0102);
  assertEquals(viewOf(bytes).byteLength, 4);
  assertEquals(hasText(bytes, 2, "A\xff"), true);
  assertEquals(hasText(bytes, 3, "\xff\0"), false); // Beyond the end.
  assertEquals(isSame(bytes, Uint8Array.of(1, 2, 0x41, 0xff)), true);
  assertEquals(isSame(bytes, bytes.subarray(0, 3)), false);
  assertEquals(isSame(bytes, Uint8Array.of(1, 2, 0x41, 0)), false);
});
