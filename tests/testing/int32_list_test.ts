import { assertEquals } from "@std/assert";
import { Int32List } from "../../src/testing/int32_list.ts";

Deno.test("Int32List gives back what was appended, over pages", () => {
  const list = new Int32List();
  const count = 200_000;
  for (let i = 0; i < count; i++) list.push(Math.imul(i, 0x9e3779b1));
  assertEquals(list.length, count);
  list.set(3, 7);
  list.set(150_000, 8);
  assertEquals([list.at(3), list.at(150_000)], [7, 8]);
  list.set(3, Math.imul(3, 0x9e3779b1));
  list.set(150_000, Math.imul(150_000, 0x9e3779b1));
  let wrong = 0;
  for (let i = 0; i < count; i++) {
    if (list.at(i) !== Math.imul(i, 0x9e3779b1)) wrong++;
  }
  assertEquals(wrong, 0);
});
