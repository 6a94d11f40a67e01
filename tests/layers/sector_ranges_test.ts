import { assertEquals } from "@std/assert";
import { SectorRanges } from "../../src/layers/sector_ranges.ts";
import { Random } from "../../src/random.ts";

Deno.test("SectorRanges joins what adjoins and splits what is cut", () => {
  const ranges = new SectorRanges();
  ranges.add(4, 2);
  ranges.add(8, 2);
  ranges.add(6, 2);
  assertEquals(ranges.within(0, 100), [{ sector: 4, count: 6 }]);
  ranges.remove(5, 2);
  assertEquals(ranges.within(0, 100), [
    { sector: 4, count: 1 },
    { sector: 7, count: 3 },
  ]);
  assertEquals(ranges.within(8, 1), [{ sector: 8, count: 1 }]);
  ranges.remove(0, Infinity);
  assertEquals(ranges.empty, true);
});

Deno.test("SectorRanges does as a set does", () => {
  const random = new Random(9);
  const ranges = new SectorRanges();
  const model = new Set<number>();
  for (let round = 0; round < 3000; round++) {
    const sector = random.below(120);
    const count = random.between(1, 12);
    const kind = random.below(3);
    for (let i = sector; i < sector + count; i++) {
      if (kind === 0) model.add(i);
      if (kind === 1) model.delete(i);
    }
    if (kind === 0) ranges.add(sector, count);
    if (kind === 1) ranges.remove(sector, count);
    const inside = Array.from({ length: count }, (_, i) => sector + i)
      .filter((each) => model.has(each));
    assertEquals(ranges.first(sector, count), inside[0]);
    const mask = inside.reduce((sum, each) => sum | 1 << (each - sector), 0);
    assertEquals(ranges.mask(sector, count), mask);
    assertEquals(
      ranges.within(sector, count).flatMap((run) =>
        Array.from({ length: run.count }, (_, i) => run.sector + i)
      ),
      inside,
    );
  }
  assertEquals(
    ranges.within(0, 200).reduce((sum, { count }) => sum + count, 0),
    model.size,
  );
});
