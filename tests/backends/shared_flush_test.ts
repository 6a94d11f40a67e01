import { assertEquals, assertStrictEquals } from "@std/assert";
import { SharedFlush } from "../../src/backends/shared_flush.ts";
import { DiskError } from "../../src/errors.ts";

/** Flushes whose starts and refusals are written down. */
function recorded() {
  const started: string[] = [];
  const refused: string[] = [];
  const flushes = new SharedFlush<string>(
    (first) => started.push(first),
    (waiter) => refused.push(waiter),
  );
  return { flushes, started, refused };
}

Deno.test("SharedFlush starts one at a time, for all who asked meanwhile", () => {
  const { flushes, started, refused } = recorded();
  flushes.join("a");
  assertEquals(flushes.isShared("a"), false);
  for (const waiter of ["b", "c", "d"]) flushes.join(waiter);
  assertEquals(started, ["a"]);
  assertEquals(flushes.end(null), ["a"]);
  assertEquals(started, ["a", "b"]);
  assertEquals(flushes.isShared("b"), true);
  assertEquals(flushes.isShared("c"), false);
  assertEquals(flushes.end(null), ["b", "c", "d"]);
  assertEquals(started, ["a", "b"]);
  flushes.join("e");
  assertEquals(started, ["a", "b", "e"]);
  assertEquals([refused, flushes.failure], [[], null]);
});

Deno.test("SharedFlush starts none after one that failed, and keeps its failure", () => {
  const failure = new DiskError("io", "Cannot flush");
  const { flushes, started, refused } = recorded();
  flushes.join("a");
  flushes.join("b");
  assertEquals(flushes.end(failure), ["a"]);
  assertEquals([started, refused], [["a"], ["b"]]);
  flushes.join("c");
  assertEquals([started, refused], [["a"], ["b", "c"]]);
  assertStrictEquals(flushes.failure, failure);
});

Deno.test("SharedFlush.giveUp() leaves the others the next flush, before who came later", () => {
  const { flushes, started } = recorded();
  flushes.join("a");
  for (const waiter of ["b", "c"]) flushes.join(waiter);
  flushes.end(null);
  flushes.join("d");
  assertEquals(flushes.giveUp(), ["b"]);
  assertEquals(started, ["a", "b", "c"]);
  assertEquals(flushes.end(null), ["c", "d"]);
  assertEquals(flushes.failure, null);
});
