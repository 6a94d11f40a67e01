import {
  assertEquals,
  assertGreater,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import type { FaultRule } from "../../src/layers/fault_rule.ts";
import { faults } from "../../src/layers/faults.ts";
import {
  discardRequest,
  readRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import { carryOut, readSectors } from "../contract.ts";
import { assertFails, bitsIn, read, sector, values } from "./faulty.ts";
import { memory } from "./stacks.ts";

Deno.test("faults() corrupts a read once", async () => {
  const below = memory();
  const faulty = faults(below, ["read nth=1 sector=2 corrupt=3"]);
  await carryOut(below, writeRequest(0, sector(0, 4)));
  const bad = await readSectors(faulty, 0, 4);
  assertEquals(bitsIn(bad.subarray(1024, 1536)), 3);
  assertEquals(bitsIn(bad), 3);
  assertEquals(bitsIn(await readSectors(faulty, 0, 4)), 0);
  assertEquals(bitsIn(await readSectors(below, 0, 4)), 0);
});

Deno.test("faults() corrupts a write until it is rewritten, and keeps what was written", async () => {
  const below = memory();
  const faulty = faults(below, ["write nth=1 corrupt"]);
  await carryOut(faulty, writeRequest(0, sector(0, 4)));
  const [bad] = faulty.corruptSectors;
  for (let i = 0; i < 3; i++) {
    const segmented = [sector(1), sector(1, 3)];
    await carryOut(faulty, readRequest(0, ...segmented));
    assertEquals(segmented.reduce((sum, each) => sum + bitsIn(each), 0), 1);
  }
  assertEquals(bitsIn(await readSectors(below, 0, 4)), 0);
  await carryOut(faulty, writeRequest(bad!, sector(0)));
  assertEquals(bitsIn(await readSectors(faulty, 0, 4)), 0);
  assertEquals(faulty.corruptSectors, []);

  faulty.corrupt(3, 2);
  assertEquals(faulty.extents(0, 8), [{ sector: 0, count: 8, hole: false }]);
  assertGreater(bitsIn(await readSectors(faulty, 3, 1)), 0);
  faulty.heal();
  assertEquals(bitsIn(await readSectors(faulty, 3, 1)), 0);
});

Deno.test("faults() flips as many bits as it is told, each of them once", async () => {
  for (const bits of [1, 2, 2048, 4095, 4096]) {
    const written = faults(memory(), [`write corrupt=${bits}`]);
    await carryOut(written, writeRequest(0, sector(0)));
    assertEquals(bitsIn(await readSectors(written, 0, 1)), bits);
    const read = faults(memory(), [`read corrupt=${bits}`]);
    assertEquals(bitsIn(await readSectors(read, 0, 2)), bits);
    const called = faults(memory());
    called.corrupt(3, bits);
    assertEquals(bitsIn(await readSectors(called, 3, 1)), bits);
  }
  for (const bits of [0, -1, 0.5, NaN, 4097, 2 ** 31]) {
    assertThrows(() => faults(memory()).corrupt(3, bits), RangeError);
    const rule: FaultRule = { effect: { kind: "corrupt", bits } };
    assertThrows(() => faults(memory(), [rule]), RangeError, "bits");
  }
});

Deno.test("faults() makes sectors bad until they are rewritten", async () => {
  const faulty = faults(memory(), ["write nth=1 sector=4..5 bad"]);
  await carryOut(faulty, writeRequest(0, sector(1, 8)));
  assertEquals(faulty.badSectors, [{ sector: 4, count: 2 }]);
  await carryOut(faulty, read(0, 4), read(6, 2));
  const error = await assertFails(faulty, read(0, 8));
  assertStringIncludes(
    error.message,
    "as the medium says EIO: sector 4 is bad",
  );
  await assertFails(faulty, read(5));
  await carryOut(faulty, writeZeroesRequest(4, 1));
  await carryOut(faulty, read(0, 5));
  await assertFails(faulty, read(5));
  await carryOut(faulty, discardRequest(5, 1));
  await carryOut(faulty, read(0, 8));
});

Deno.test("faults() finds bad sectors when they are read", async () => {
  const faulty = faults(memory(), ["read sector=4 nth=2 bad"]);
  await carryOut(faulty, read(4));
  for (let i = 0; i < 3; i++) await assertFails(faulty, read(0, 8));
  await carryOut(faulty, writeRequest(4, sector(1)));
  assertEquals(await values(faulty, 4, 1), [1]);
  faulty.damage(7);
  await assertFails(faulty, read(7));
  faulty.heal();
  await carryOut(faulty, read(7));
});

Deno.test("faults() damages and corrupts sectors of the disk, and refuses others", () => {
  const faulty = faults(memory());
  const { sectors } = faulty.geometry;
  for (const sector of [-1, 0.5, NaN, Infinity, sectors, 2 ** 53]) {
    const told = `from sector ${sector} on`;
    assertThrows(() => faulty.damage(sector), RangeError, told);
    assertThrows(() => faulty.corrupt(sector), RangeError, told);
  }
  for (const count of [-1, 0, 0.5, NaN, Infinity, sectors]) {
    assertThrows(() => faulty.damage(1, count), RangeError, "from sector 1 on");
  }
  assertEquals(faulty.badSectors, []);
  assertEquals(faulty.corruptSectors, []);
  faulty.damage(sectors - 2, 2);
  faulty.corrupt(sectors - 1);
  assertEquals(faulty.badSectors, [{ sector: sectors - 2, count: 2 }]);
  assertEquals(faulty.corruptSectors, [sectors - 1]);
});

Deno.test("faults() leaves a sector bad if rewriting fails", async () => {
  const faulty = faults(memory(), ["write nth=1 error=EIO"]);
  faulty.damage(3);
  await assertFails(faulty, writeRequest(3, sector(1)));
  await assertFails(faulty, read(3));
});
