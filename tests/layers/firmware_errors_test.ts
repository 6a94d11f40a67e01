import { assertEquals, assertGreater } from "@std/assert";
import type { FaultRule } from "../../src/layers/fault_rule.ts";
import { faults } from "../../src/layers/faults.ts";
import { trace } from "../../src/layers/trace.ts";
import {
  flushRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import { carryOut, readDisk, submitAll } from "../contract.ts";
import { sector, values } from "./faulty.ts";
import { memory } from "./stacks.ts";

Deno.test("faults() tears a write: the blocks that it says land", async () => {
  const below = memory();
  const faulty = faults(below);
  const torn = async (rule: FaultRule | string, blocks = 6) => {
    await carryOut(below, writeRequest(0, sector(1, 8)));
    const added = faulty.add(rule);
    const data = sector(2, blocks);
    const [error] = await submitAll(faulty, [
      writeRequest(1, data.subarray(0, 1024), data.subarray(1024)),
    ]);
    faulty.remove(added);
    return [error?.code ?? null, await values(below, 0, 8)];
  };
  assertEquals(await torn("torn=2"), [null, [1, 2, 2, 1, 1, 1, 1, 1]]);
  assertEquals(await torn("torn=0,3,4"), [null, [1, 2, 1, 1, 2, 2, 1, 1]]);
  assertEquals(await torn("torn=0"), [null, [1, 1, 1, 1, 1, 1, 1, 1]]);
  assertEquals(await torn("sector=3..4 torn=0"), [
    null,
    [1, 2, 2, 1, 1, 2, 2, 1],
  ]);
  assertEquals(
    await torn({ effect: { kind: "torn", keep: 1, code: "EIO" } }),
    ["EIO", [1, 2, 1, 1, 1, 1, 1, 1]],
  );
  // Drawn by the seed: some land, but not all, whichever.
  const kinds = new Set<string>();
  for (let i = 0; i < 40; i++) {
    const [error, now] = await torn("torn", 2) as [null, number[]];
    assertEquals(error, null);
    assertEquals(now[1]! + now[2]!, 3);
    kinds.add(now.join());
  }
  assertEquals(kinds.size, 2);
});

Deno.test("faults() tears by blocks of the disk", async () => {
  const below = memory({ blockSize: 4096 });
  const faulty = faults(below, ["write torn=1,"]);
  await carryOut(faulty, writeRequest(0, sector(1, 24)));
  assertEquals(
    (await values(below, 0, 24)).map((value, i) =>
      value === Number(i >> 3 === 1)
    ),
    new Array(24).fill(true),
  );
});

Deno.test("faults() tears zeroes", async () => {
  const below = memory();
  await carryOut(below, writeRequest(0, sector(1, 4)));
  const faulty = faults(below, ["write-zeroes torn=1"]);
  await carryOut(faulty, writeZeroesRequest(0, 4));
  assertEquals(await values(below, 0, 4), [0, 1, 1, 1]);
});

Deno.test("faults() loses a write that it acknowledges", async () => {
  const below = memory();
  const faulty = faults(below, ["nth=2 lost"]);
  for (const i of [0, 1, 2]) {
    await carryOut(faulty, writeRequest(i, sector(1)));
  }
  assertEquals(await values(faulty, 0, 3), [1, 0, 1]);
});

Deno.test("faults() loses a flush that it acknowledges", async () => {
  const lines: string[] = [];
  const faulty = faults(trace(memory(), (line) => lines.push(line)), [
    "flush nth=1 lost",
  ]);
  await carryOut(faulty, flushRequest());
  assertEquals(lines.length, 1);
  await carryOut(faulty, flushRequest());
  assertEquals(lines.length, 3);
});

Deno.test("faults() misdirects by a block at least", async () => {
  const below = memory({ blockSize: 4096 });
  const faulty = faults(below, ["write misdirected=+1"]);
  await carryOut(faulty, writeRequest(8, sector(1, 8)));
  assertEquals((await values(below, 8, 8))[0], 0);
  assertEquals((await values(below, 16, 8))[0], 1);
});

Deno.test("faults() misdirects writes and reads", async () => {
  const below = memory();
  const faulty = faults(below, ["write nth=1 misdirected=+3"]);
  await carryOut(faulty, writeRequest(1, sector(9)));
  assertEquals(await values(below, 0, 5), [0, 0, 0, 0, 9]);
  faulty.add("read nth=1 misdirected=-1");
  assertEquals(await values(faulty, 5, 1), [9]);
  assertEquals(await values(faulty, 5, 1), [0]);
  // Never home, never off the disk.
  faulty.clear();
  faulty.add("write nth=1 misdirected=+8");
  await carryOut(faulty, writeRequest(8191, sector(5)));
  assertEquals(await values(below, 8183, 9), [5, 0, 0, 0, 0, 0, 0, 0, 0]);
  faulty.add("write nth=1 misdirected=-8");
  await carryOut(faulty, writeRequest(0, sector(6)));
  assertEquals(await values(below, 0, 9), [0, 0, 0, 0, 9, 0, 0, 0, 6]);
  faulty.clear();
  faulty.add("write misdirected");
  for (let i = 0; i < 50; i++) {
    await carryOut(faulty, writeRequest(8191, sector(7)));
  }
  assertEquals(await values(below, 8191, 1), [0]);
  assertGreater((await readDisk(below)).filter((byte) => byte === 7).length, 0);
});
