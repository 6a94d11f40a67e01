import { assertEquals, assertThrows } from "@std/assert";
import { CoveredRanges } from "../../../src/backends/nbd/covered_ranges.ts";
import { Random } from "../../../src/random.ts";

Deno.test("CoveredRanges takes each byte once, in any order", () => {
  const size = 60;
  for (let seed = 1; seed <= 100; seed++) {
    const random = new Random(seed);
    const ranges = new CoveredRanges();
    const model = new Uint8Array(size);
    for (let i = 0; i < 60; i++) {
      const start = random.below(size);
      const end = random.between(start + 1, Math.min(size, start + 6));
      const fits = model.subarray(start, end).every((byte) => byte === 0);
      const place = `${start} to ${end}, step ${i} of seed ${seed}`;
      if (fits) {
        ranges.add(start, end);
        model.fill(1, start, end);
      } else {
        assertThrows(() => ranges.add(start, end), Error, "twice", place);
      }
    }
    // What is left fits, and then nothing does.
    for (let at = 0; at < size; at++) {
      if (model[at] === 0) ranges.add(at, at + 1);
    }
    for (let at = 0; at < size; at++) {
      assertThrows(() => ranges.add(at, at + 1), Error, "twice");
    }
  }
});

Deno.test("CoveredRanges does not keep more than 4,096 runs apart", () => {
  const ranges = new CoveredRanges();
  for (let i = 4095; i >= 0; i--) ranges.add(2 * i, 2 * i + 1);
  assertThrows(() => ranges.add(10_000, 10_001), Error, "scattered");
  // One that closes a gap makes room.
  ranges.add(1, 2);
  ranges.add(10_000, 10_001);
  assertEquals(
    assertThrows(() => ranges.add(0, 1), Error).message,
    "a reply has the same data twice",
  );
});
