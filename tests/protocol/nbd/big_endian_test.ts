import { assert, assertEquals } from "@std/assert";
import { viewOf } from "../../../src/bytes.ts";
import { readU64, writeU64 } from "../../../src/protocol/nbd/big_endian.ts";

Deno.test("readU64() reads what writeU64() writes, the most significant byte first", () => {
  const bytes = new Uint8Array(24).subarray(3);
  const view = viewOf(bytes);
  for (
    const value of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 45 + 7, 2 ** 53 - 1]
  ) {
    writeU64(view, 5, value);
    assertEquals(view.getBigUint64(5), BigInt(value));
    assertEquals(readU64(view, 5), value);
  }
  writeU64(view, 0, 0x0102_0304_0506);
  assertEquals([...bytes.subarray(0, 8)], [0, 0, 1, 2, 3, 4, 5, 6]);
});

Deno.test("readU64() gives an unsafe integer for what is none", () => {
  const view = viewOf(new Uint8Array(8));
  for (const value of [2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n]) {
    view.setBigUint64(0, value);
    assert(readU64(view, 0) >= 2 ** 53);
  }
});
