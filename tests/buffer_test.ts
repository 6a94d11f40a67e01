/**
 * Copies between segments and flat memory, against the plainest way.
 *
 * @module
 */

import { assert, assertEquals, assertFalse } from "@std/assert";
import { clear, gather, isZero, scatter } from "../src/buffer.ts";
import { Random } from "../src/random.ts";
import { readRequest, type Request } from "../src/request.ts";

/** A request over segments of those lengths, and all its bytes. */
function segmented(
  random: Random,
  lengths: number[],
): [Request, () => number[]] {
  const segments = lengths.map((length) => {
    const skip = random.below(9);
    return random.bytes(length + skip).subarray(skip);
  });
  return [
    readRequest(0, ...segments),
    () => segments.flatMap((segment) => [...segment]),
  ];
}

function lengthsOf(random: Random): number[] {
  return Array.from(
    { length: random.between(1, 6) },
    () => random.pick([0, 1, 7, 512, 513]),
  );
}

for (const seed of [1, 2, 3]) {
  Deno.test(`gather(), scatter() and clear() find any range of any segments, seed ${seed}`, () => {
    const random = new Random(seed);
    for (let i = 0; i < 300; i++) {
      const [request, all] = segmented(random, [5, ...lengthsOf(random)]);
      const model = all();
      const from = random.below(model.length);
      const length = random.below(model.length - from + 1);

      const target = new Uint8Array(length);
      gather(request, from, target);
      assertEquals([...target], model.slice(from, from + length));

      const source = random.bytes(length);
      scatter(request, from, source);
      model.splice(from, length, ...source);
      assertEquals(all(), model);

      clear(request, from, length);
      model.fill(0, from, from + length);
      assertEquals(all(), model);
    }
  });
}

Deno.test("isZero() sees every byte, at any alignment and length", () => {
  const memory = new Uint8Array(64);
  for (let start = 0; start < 9; start++) {
    for (let end = start; end < 40; end++) {
      const bytes = memory.subarray(start, end);
      assert(isZero(bytes));
      for (let at = start; at < end; at++) {
        memory[at] = 1;
        assertFalse(isZero(bytes), `${start} ${end} ${at}`);
        memory[at] = 0;
      }
      // What is beside it does not count.
      memory[end] = 1;
      if (start > 0) memory[start - 1] = 1;
      assert(isZero(bytes));
      memory.fill(0);
    }
  }
});
