import { assert, assertEquals } from "@std/assert";
import { Random } from "../src/random.ts";
import { allStored, someStored } from "../src/stored_chunks.ts";

Deno.test("someStored() goes on from where it ended, and passes gaps at once", () => {
  const random = new Random(3);
  for (let round = 0; round < 20; round++) {
    const chunks = new Map<number, true>();
    // Clusters far from each other, more chunks than are looked at for one answer.
    for (let cluster = 0; cluster < 20; cluster++) {
      const base = random.below(2 ** 40);
      const spread = random.pick([1, 3, 50]);
      for (let i = 0; i < 400; i++) {
        chunks.set(base + random.below(400 * spread), true);
      }
    }
    const first = random.chance(1, 2) ? 0 : random.pick([...chunks.keys()]);
    const last = random.chance(1, 2)
      ? 2 ** 41
      : Math.max(first, random.pick([...chunks.keys()]));
    const found: number[] = [];
    let answers = 0;
    for (let at = first; at <= last; answers++) {
      const { indexes, last: seen } = someStored(chunks, at, last);
      assert(seen >= at && seen <= last);
      assert(indexes.length <= 4096);
      found.push(...indexes);
      at = seen + 1;
    }
    const expected = [...chunks.keys()].filter((i) => i >= first && i <= last)
      .sort((a, b) => a - b);
    assertEquals(found, expected);
    assertEquals(allStored(chunks, first, last), expected);
    assert(answers < 300, `${answers} answers`);
  }
});

Deno.test("someStored() looks at all of a range that is short, or of which little is stored", () => {
  const few = new Map([[7, 0], [2 ** 45, 0], [9, 0]]);
  assertEquals(someStored(few, 8, 2 ** 46), {
    indexes: [9, 2 ** 45],
    last: 2 ** 46,
  });
  const many = new Map(Array.from({ length: 10_000 }, (_, i) => [i, 0]));
  assertEquals(someStored(many, 9_998, 10_010), {
    indexes: [9_998, 9_999],
    last: 10_010,
  });
});
