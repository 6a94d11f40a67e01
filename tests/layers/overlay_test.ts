import {
  assert,
  assertEquals,
  assertGreater,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { overlay } from "../../src/layers/overlay.ts";
import { trace } from "../../src/layers/trace.ts";
import { Random } from "../../src/random.ts";
import {
  discardRequest,
  readRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import { assertContent, carryOut, readDisk, readSectors } from "../contract.ts";
import { altered } from "../fake_backend.ts";
import { isQuick } from "../helpers.ts";
import { memory } from "./stacks.ts";

const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

Deno.test("overlay() leaves its base as it is, and open if it is told so", async () => {
  const base = memory();
  await carryOut(base, writeRequest(0, sector(1, 16)));
  const changes = overlay(base, { ownsBase: false });
  await carryOut(
    changes,
    writeRequest(3, sector(2)),
    writeZeroesRequest(5, 2),
    discardRequest(9, 1),
  );
  const seen = await readSectors(changes, 0, 16);
  assertEquals(
    Array.from({ length: 16 }, (_, i) => seen[i * 512]),
    [1, 1, 1, 2, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1],
  );
  await changes.close();
  assertEquals(await readSectors(base, 0, 16), sector(1, 16));
  await base.close();
});

Deno.test("overlay() closes a base that it owns", async () => {
  const base = memory();
  const changes = overlay(base);
  // A fork was given nothing.
  await changes.fork().close();
  await readSectors(base, 0, 1);
  await changes.close();
  await assertRejects(() => readSectors(base, 0, 1), DiskError, "closed");
});

Deno.test("overlay() makes a read-only base writable", async () => {
  const base = memory({ readOnly: true });
  await using disk = VirtualDisk.over(overlay(base));
  await disk.write(0, sector(7), { fua: true });
  await disk.flush();
  assertEquals(await disk.read(0, 1), sector(7));
  assertEquals(disk.info.durability.flush, "memory");
});

Deno.test("overlay() costs nothing, whatever the size of its base", async () => {
  const base = new MemoryBackend({ sectors: 2 ** 40 });
  const overlays: ReturnType<typeof overlay>[] = [];
  const make = () => {
    for (let i = 0; i < 20_000; i++) overlays[i] = overlay(base);
  };
  // Tens of times slower than it is.
  assert(await isQuick(1000, make));
  assertEquals(overlays.at(-1)!.storedBytes, 0);
  overlays[0]!.put(2 ** 40 - 1, sector(1));
  assertEquals(overlays[0]!.storedBytes, 4096);
});

Deno.test("Overlay.changes() says what was written and what was zeroed", async () => {
  const changes = overlay(memory());
  assertEquals(changes.changes(), []);
  assertEquals(changes.changed, false);
  await carryOut(
    changes,
    writeRequest(6, sector(1, 4)),
    writeRequest(10, sector(1)),
    writeZeroesRequest(100, 1000),
  );
  await carryOut(changes, writeRequest(200, sector(1)));
  assertEquals(changes.changes(), [
    { sector: 6, count: 5, hole: false },
    { sector: 100, count: 100, hole: true },
    { sector: 200, count: 1, hole: false },
    { sector: 201, count: 899, hole: true },
  ]);
  assertEquals(changes.changes(8, 100), [
    { sector: 8, count: 3, hole: false },
    { sector: 100, count: 8, hole: true },
  ]);
  assertEquals(changes.extents(0, 12), [
    { sector: 0, count: 6, hole: true },
    { sector: 6, count: 5, hole: false },
    { sector: 11, count: 1, hole: true },
  ]);
  changes.discard();
  assertEquals(changes.changed, false);
});

Deno.test("Overlay.extents() lays changes over answers that end early", async () => {
  const sectors = 20_000;
  const random = new Random(5);
  const model = memory({ sectors });
  const base = altered(model, {
    extents(sector, count) {
      const extents = Array.from({ length: Math.min(count, 90) }, (_, i) => ({
        sector: sector + i,
        count: 1,
        hole: (sector + i) % 5 < 2,
      }));
      return extents.slice(0, random.between(1, 90));
    },
  });
  const changes = overlay(base);
  const kinds = Array.from({ length: sectors }, (_, i) => i % 5 < 2);
  for (let i = 0; i < 2000; i++) {
    const count = random.between(1, 12);
    const at = random.below(sectors - count);
    const zero = random.chance(1, 2);
    kinds.fill(zero, at, at + count);
    await carryOut(
      changes,
      zero ? writeZeroesRequest(at, count) : writeRequest(at, sector(1, count)),
    );
  }
  const seen: boolean[] = [];
  while (seen.length < sectors) {
    const extents = changes.extents(seen.length, sectors - seen.length);
    assert(extents.length > 0);
    for (const extent of extents) {
      assertEquals(extent.sector, seen.length);
      for (let i = 0; i < extent.count; i++) seen.push(extent.hole);
    }
  }
  assertEquals(seen, kinds);
  // All of a range that is changed, and of none.
  await carryOut(changes, writeRequest(100, sector(1, 8)));
  assertEquals(changes.extents(102, 1), [{
    sector: 102,
    count: 1,
    hole: false,
  }]);
  assertEquals(changes.extents(102, 0), []);
  await changes.close();
});

Deno.test("Overlay.extents() tells of some of what it has, if that is much", async () => {
  const sectors = 2 ** 31;
  const changes = overlay(new MemoryBackend({ sectors }));
  const chunk = 8;
  for (let i = 0; i < 5000; i++) {
    await carryOut(changes, writeRequest(2 * i * chunk, sector(1)));
  }
  for (let i = 0; i < 1000; i++) {
    await carryOut(changes, writeZeroesRequest(2 ** 20 + 4 * i, 1));
  }
  let data = 0;
  let answers = 0;
  for (let at = 0; at < sectors; answers++) {
    const extents = changes.extents(at, sectors - at);
    assert(extents.length <= 2 * 4096 + 1);
    data += extents.filter(({ hole }) => !hole).length;
    at = extents.at(-1)!.sector + extents.at(-1)!.count;
  }
  assertEquals(data, 5000);
  assert(answers > 4 && answers < 40, `${answers} answers`);
  await changes.close();
});

Deno.test("Overlay keeps zeroes of a whole disk in no memory", async () => {
  const base = new MemoryBackend({ sectors: 2 ** 31 });
  const changes = overlay(base);
  await carryOut(
    changes,
    writeRequest(5, sector(1, 64)),
    discardRequest(0, 2 ** 31),
  );
  assertEquals(changes.storedBytes, 0);
  assertEquals((await readSectors(changes, 5, 1))[0], 0);
});

Deno.test("Overlay.fork() copies nothing and goes its own way", async () => {
  const first = overlay(memory());
  first.put(0, sector(1, 64));
  const second = first.fork();
  const third = second.fork();
  assertEquals(second.storedBytes, first.storedBytes);
  first.put(1, sector(2));
  second.put(1, sector(3));
  await carryOut(third, discardRequest(0, 64));
  const at = async (disk: typeof first) => (await readSectors(disk, 1, 1))[0];
  assertEquals([await at(first), await at(second), await at(third)], [2, 3, 0]);
  assertEquals((await readSectors(second, 0, 1))[0], 1);
  second.discard();
  assertEquals([await at(first), await at(second)], [2, 0]);
});

Deno.test("Overlay.fork() of forks of forks stays shallow", async () => {
  let changes = overlay(memory());
  for (let i = 0; i < 100; i++) {
    changes.put(i, sector(i));
    changes = changes.fork();
  }
  let data = new Uint8Array();
  const read = async () => {
    data = await readSectors(changes, 0, 100);
  };
  assert(await isQuick(1000, read));
  for (let i = 0; i < 100; i++) assertEquals(data[i * 512], i);
});

Deno.test("Overlay.restore() goes back to what a fork has", async () => {
  const base = memory();
  const changes = overlay(base);
  changes.put(0, sector(1, 8));
  const middle = changes.fork();
  changes.put(0, sector(2));
  middle.put(3, sector(3));
  await changes.restore(middle);
  // Both go their own way again.
  middle.put(0, sector(4));
  changes.put(1, sector(5));
  const seen = async (disk: typeof changes) => {
    const data = await readSectors(disk, 0, 4);
    return [0, 1, 2, 3].map((i) => data[i * 512]);
  };
  assertEquals(await seen(changes), [1, 5, 1, 3]);
  assertEquals(await seen(middle), [4, 1, 1, 3]);
  await changes.restore(changes);
  assertEquals(await seen(changes), [1, 5, 1, 3]);
  await assertRejects(
    () => changes.restore(overlay(memory())),
    TypeError,
    "the same base",
  );
});

Deno.test("Overlay.commit() moves changes to the base and flushes it", async () => {
  const lines: string[] = [];
  const base = trace(memory(), (line) => lines.push(line));
  const changes = overlay(base);
  await carryOut(
    changes,
    writeRequest(0, sector(1, 5000)),
    writeZeroesRequest(8, 8),
  );
  await changes.commit();
  assertEquals(changes.changed, false);
  const expected = sector(1, 5000);
  expected.fill(0, 8 * 512, 16 * 512);
  assertContent(await readSectors(base, 0, 5000), expected, "base");
  assertContent(await readSectors(changes, 0, 5000), expected, "overlay");
  const operations = lines.map((line) => JSON.parse(line).operation);
  assertEquals(operations.filter((each) => each === "write").length, 4);
  assertEquals(operations.filter((each) => each === "flush").length, 1);
});

Deno.test("Overlay.commit() to another disk copies changes and keeps them", async () => {
  const changes = overlay(memory());
  const copy = memory();
  changes.put(3, sector(9));
  await changes.commit(copy);
  assertEquals(await readSectors(copy, 3, 1), sector(9));
  assert(changes.changed);
});

Deno.test("Overlay.commit() throws and keeps changes if the target fails or does not fit", async () => {
  const base = faults(memory(), ["write nth=1 error=EIO"]);
  const changes = overlay(base);
  changes.put(3, sector(9));
  const error = await assertRejects(() => changes.commit(), DiskError);
  assertEquals(error.code, "EIO");
  assertEquals(await readSectors(changes, 3, 1), sector(9));
  await changes.commit();
  assertEquals(await readSectors(base, 3, 1), sector(9));
  for (
    const target of [
      memory({ readOnly: true }),
      memory({ sectors: 8 }),
      memory({ blockSize: 4096 }),
    ]
  ) {
    await assertRejects(
      () => changes.commit(target),
      DiskError,
      "Cannot commit as the target must be writable, of at least 8192 sectors",
    );
  }
});

Deno.test("Overlay.commit() lets requests go on", async () => {
  const base = latency(memory(), { fixedMs: 1 });
  const changes = overlay(base);
  changes.put(0, sector(1, 4096));
  const commit = changes.commit();
  const reads = [];
  for (let i = 0; i < 20; i++) {
    if (i === 3) changes.put(7, sector(2));
    reads.push(readSectors(changes, i % 2 === 0 ? 0 : 4094, 8));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await Promise.all([commit, changes.commit()]);
  const seen = await Promise.all(reads);
  seen.forEach((data, i) => {
    if (i % 2 === 0) {
      assertEquals(data[0], 1);
      assertEquals(data[7 * 512], i < 3 ? 1 : 2);
    } else assertEquals([data[0], data[2 * 512]], [1, 0]);
  });
  assertEquals((await readSectors(base, 7, 1))[0], 2);
  assertEquals(changes.changed, false);
  await changes.close();
  await base.close();
});

Deno.test("Overlay.put() throws on what is not on the disk", () => {
  const changes = overlay(memory({ blockSize: 4096 }));
  assertThrows(() => changes.put(1, sector(1)), DiskError, "blocks of 4096");
  assertThrows(
    () => changes.put(8192, sector(1, 8)),
    DiskError,
    "8192 sectors",
  );
  assertEquals(changes.changed, false);
});

for (const slow of [false, true]) {
  const name = slow ? "a slow base" : "a base in memory";
  Deno.test(`Overlay does as a model does, with forks and commits, over ${name}`, async () => {
    const seed = 20_240_701;
    const random = new Random(seed);
    const sectors = 512;
    const store = new MemoryBackend({ sectors });
    await carryOut(store, writeRequest(0, random.bytes(sectors * 512)));
    const base = slow ? latency(store, { fixedMs: 0.01 }) : store;
    let model = await readDisk(base);
    let baseModel = model.slice();
    let changes = overlay(base);
    const rounds = slow ? 300 : 1000;
    let compared = 0;
    for (let round = 0; round < rounds; round++) {
      const at = random.below(sectors);
      const count = random.between(1, Math.min(sectors - at, 40));
      const what = random.below(20);
      const zero = () => model.fill(0, at * 512, (at + count) * 512);
      if (what < 8) {
        const data = random.bytes(count * 512);
        model.set(data, at * 512);
        await carryOut(changes, writeRequest(at, data));
      } else if (what < 10) {
        zero();
        await carryOut(changes, writeZeroesRequest(at, count));
      } else if (what < 11) {
        zero();
        await carryOut(changes, discardRequest(at, count));
      } else if (what < 12) {
        // A fork in the other direction must not be seen.
        const other = changes.fork();
        other.put(at, random.bytes(count * 512));
        if (random.chance(1, 2)) {
          const kept = changes.fork();
          changes.put(at, random.bytes(count * 512));
          changes = kept;
        }
      } else if (what < 13 && random.chance(1, 3)) {
        const commit = changes.commit();
        const data = random.bytes(count * 512);
        if (random.chance(1, 2)) {
          baseModel = model.slice();
          model.set(data, at * 512);
          await carryOut(changes, writeRequest(at, data));
        } else baseModel = model.slice();
        await commit;
        assertContent(await readDisk(base), baseModel, `seed ${seed}, base`);
      } else if (what < 14 && random.chance(1, 8)) {
        changes.discard();
        model = baseModel.slice();
      } else {
        compared++;
        const actual = new Uint8Array(count * 512);
        const cut = random.below(count) * 512;
        await carryOut(
          changes,
          readRequest(at, actual.subarray(0, cut), actual.subarray(cut)),
        );
        assertContent(
          actual,
          model.subarray(at * 512, (at + count) * 512),
          `seed ${seed}, round ${round}`,
        );
      }
    }
    assertGreater(compared, rounds / 5);
    assertContent(await readDisk(changes), model, `seed ${seed}`);
    await changes.close();
    await base.close();
  });
}
