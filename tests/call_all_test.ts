import { assertEquals, assertThrows } from "@std/assert";
import { callAll } from "../src/call_all.ts";

Deno.test("callAll() calls for each item, and throws what was thrown first", () => {
  const called: number[] = [];
  callAll([1, 2], (item) => called.push(item));
  assertEquals(called, [1, 2]);
  assertThrows(
    () =>
      callAll([3, 4, 5], (item) => {
        called.push(item);
        if (item > 3) throw new Error(`${item}`);
      }),
    Error,
    "4",
  );
  assertEquals(called, [1, 2, 3, 4, 5]);
  let thrown: unknown = "nothing";
  try {
    callAll([undefined], (item) => {
      throw item;
    });
  } catch (error) {
    thrown = error;
  }
  assertEquals(thrown, undefined);
});
