import { assert, assertEquals, assertThrows } from "@std/assert";
import { Random } from "../src/random.ts";

Deno.test("Random is sfc32: it gives the reference implementation's numbers", () => {
  // Made with PractRand (pracrand.sourceforge.net), a = 0, b = 2, c = 1; as in
  // the tests of the Rust project's crate rand_sfc.
  const random = new Random(2 ** 32 + 2);
  const expected = [
    [0xa87dbc7e, 0x1787178c, 0x4c7b7234, 0xc65dade2],
    [0x2c692349, 0xf52c2153, 0xdf098072, 0x9d49b03c],
    [0x9562381a, 0xc9b41738, 0x64b75e54, 0x36ce9b32],
    [0xf106947e, 0x0afc726b, 0x549bbc87, 0xd19a7b3e],
  ].flat();
  assertEquals(expected.map(() => random.next()), expected);
});

Deno.test("Random keeps its sequences from version to version", () => {
  const first = (seed: number) => {
    const random = new Random(seed);
    return [random.next(), random.below(1000), random.between(-5, 5)];
  };
  assertEquals(first(0), [947_923_937, 854, -4]);
  assertEquals(first(Number.MAX_SAFE_INTEGER), [1_903_088_272, 750, -4]);
  const random = new Random(1);
  assertEquals([...random.bytes(7)], [206, 170, 200, 120, 152, 21, 9]);
  const fork = random.fork();
  assertEquals([fork.seed, fork.next(), random.next()], [
    5_723_258_531_626_930,
    412_984_411,
    708_380_479,
  ]);
  assertEquals(random.shuffle([0, 1, 2, 3, 4, 5]), [0, 5, 1, 2, 3, 4]);
});

Deno.test("Random.below() gives every number, as often as the others", () => {
  const random = new Random(3);
  const counts = new Array<number>(7).fill(0);
  for (let i = 0; i < 70_000; i++) counts[random.below(7)]!++;
  for (const count of counts) assert(Math.abs(count - 10_000) < 500);
  for (const end of [1, 2, 2 ** 32, 2 ** 32 + 1, 2 ** 53]) {
    for (let i = 0; i < 100; i++) {
      const value = random.below(end);
      assert(Number.isSafeInteger(value) && value >= 0 && value < end);
    }
  }
  let high = 0;
  for (let i = 0; i < 1000; i++) if (random.below(2 ** 53) >= 2 ** 52) high++;
  assert(high > 400 && high < 600);
});

Deno.test("Random.chance() happens as often as its ratio says", () => {
  const random = new Random(4);
  let count = 0;
  for (let i = 0; i < 40_000; i++) if (random.chance(1, 4)) count++;
  assert(Math.abs(count - 10_000) < 400);
  assert(random.chance(1, 1));
  assert(!random.chance(0, 1));
});

Deno.test("Random.fork() starts a sequence that its own seed repeats", () => {
  const random = new Random(5);
  const fork = random.fork();
  const again = new Random(fork.seed);
  for (let i = 0; i < 10; i++) assertEquals(fork.next(), again.next());
  assert(random.fork().seed !== fork.seed);
});

Deno.test("Random throws on what is no seed and no range", () => {
  for (const seed of [-1, 0.5, NaN, 2 ** 53]) {
    assertThrows(() => new Random(seed), RangeError, "Cannot use a seed");
  }
  const random = new Random(0);
  for (const end of [0, -1, 1.5, 2 ** 53 + 2, NaN]) {
    assertThrows(() => random.below(end), RangeError, "Cannot draw a number");
  }
  assertThrows(() => random.pick([]), RangeError);
  assertThrows(() => random.between(2, 1), RangeError);
});
