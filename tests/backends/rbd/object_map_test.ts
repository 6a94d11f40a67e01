import { assertEquals } from "@std/assert";
import {
  decodeObjectMap,
  ObjectMap,
} from "../../../src/backends/rbd/object_map.ts";

/** A map as Ceph writes it: two bits for each object. */
function encoded(states: readonly number[], claimed = states.length) {
  const bytes = new Uint8Array(18 + Math.ceil(states.length / 4));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 14, true);
  bytes.set([2, 1, 8], 4);
  view.setBigUint64(10, BigInt(claimed), true);
  states.forEach((state, i) => {
    bytes[18 + (i >> 2)]! |= state << (6 - (i & 3) * 2);
  });
  return bytes;
}

Deno.test("decodeObjectMap() tells objects that there may be", () => {
  const there = decodeObjectMap(encoded([0, 1, 2, 3, 0, 0, 1]));
  assertEquals(there, Uint8Array.of(0, 1, 1, 1, 0, 0, 1));
});

Deno.test("decodeObjectMap() refuses what is no map, or not all of it", () => {
  const whole = encoded([1, 1, 1, 1, 1]);
  for (let length = 0; length < whole.length; length++) {
    assertEquals(decodeObjectMap(whole.subarray(0, length)), null);
  }
  assertEquals(decodeObjectMap(encoded([1], 1e15)), null);
  const other = whole.slice();
  other[0] = 15;
  assertEquals(decodeObjectMap(other), null);
});

Deno.test("ObjectMap.extents() joins objects, and knows what was written since", () => {
  const map = new ObjectMap(Uint8Array.of(0, 0, 1, 1, 0), 8);
  const words = (sector: number, count: number) =>
    map.extents(sector, count).map((one) =>
      `${one.hole ? "hole" : "data"} ${one.sector}+${one.count}`
    );
  assertEquals(words(0, 40), ["hole 0+16", "data 16+16", "hole 32+8"]);
  assertEquals(words(3, 20), ["hole 3+13", "data 16+7"]);
  assertEquals(words(39, 1), ["hole 39+1"]);
  // The image has grown.
  assertEquals(words(32, 16), ["hole 32+8", "data 40+8"]);
  map.touch(7, 2);
  assertEquals(words(0, 40), ["data 0+32", "hole 32+8"]);
});

Deno.test("ObjectMap.extents() ends after as many as others can wait for", () => {
  const map = new ObjectMap(
    Uint8Array.from({ length: 1000 }, (_, i) => i % 2),
    8,
  );
  const found = map.extents(0, 8000);
  assertEquals(found.length, 256);
  assertEquals(found.at(-1), { sector: 255 * 8, count: 8, hole: false });
});
