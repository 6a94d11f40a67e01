import { assertEquals, assertRejects } from "@std/assert";
import { settleAll } from "../src/settle_all.ts";

Deno.test("settleAll() waits for all, then throws what the first in order failed with", async () => {
  const ended: string[] = [];
  const work = (name: string, turns: number, fails: boolean) =>
    (async () => {
      for (let i = 0; i < turns; i++) await null;
      ended.push(name);
      if (fails) throw new Error(name);
    })();
  await assertRejects(
    () =>
      settleAll([work("a", 5, true), work("b", 1, true), work("c", 9, false)]),
    Error,
    "a",
  );
  assertEquals(ended, ["b", "a", "c"]);
  await settleAll([]);
});
