import { assertEquals, assertStrictEquals } from "@std/assert";
import { SharedFlush } from "../../src/backends/shared_flush.ts";
import { DiskError } from "../../src/errors.ts";

/** Flushes whose starts are written down. */
function recorded() {
  const started: string[] = [];
  const flushes = new SharedFlush<string>((first) => started.push(first));
  return { flushes, started };
}

/** Who is answered after a flush that did not fail. */
const shared = (...group: string[]) => ({ group, refused: [] });

Deno.test("SharedFlush starts one at a time, for all who asked meanwhile", () => {
  const { flushes, started } = recorded();
  flushes.join("a");
  for (const waiter of ["b", "c", "d"]) flushes.join(waiter);
  assertEquals(started, ["a"]);
  assertEquals(flushes.end(null), shared("a"));
  assertEquals(started, ["a", "b"]);
  assertEquals(flushes.end(null), shared("b", "c", "d"));
  assertEquals(started, ["a", "b"]);
  flushes.join("e");
  assertEquals(started, ["a", "b", "e"]);
  assertEquals(flushes.failure, null);
});

Deno.test("SharedFlush starts none after one that failed, and keeps its failure", () => {
  const failure = new DiskError("io", "Cannot flush");
  const { flushes, started } = recorded();
  assertEquals(flushes.join("a"), true);
  assertEquals(flushes.join("b"), true);
  const { group, refused } = flushes.end(failure);
  assertEquals([group, refused, started], [["a"], ["b"], ["a"]]);
  assertEquals(flushes.join("c"), false);
  assertEquals(started, ["a"]);
  assertStrictEquals(flushes.failure, failure);
});

Deno.test("SharedFlush goes on after one that was not to be had", () => {
  const unsupported = new DiskError("unsupported", "Cannot flush", {
    code: "ENOTSUP",
    errno: 95,
  });
  const { flushes, started } = recorded();
  flushes.join("a");
  flushes.join("b");
  assertEquals(flushes.end(unsupported), shared("a"));
  assertEquals([flushes.failure, started], [null, ["a", "b"]]);
});
