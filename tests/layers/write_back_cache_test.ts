import { assertEquals, assertRejects } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { trace } from "../../src/layers/trace.ts";
import {
  discardRequest,
  flushRequest,
  RequestType,
  writeFuaRequest,
  writeRequest,
} from "../../src/request.ts";
import { carryOut, submitAll } from "../contract.ts";
import { holding } from "../fake_backend.ts";
import { assertFails, read, sector, values } from "./faulty.ts";
import { memory } from "./stacks.ts";

Deno.test("faults() fails a flush and keeps its pages: new until the power is cut", async () => {
  const below = memory();
  const faulty = faults(below, ["flush nth=2 flush=kept"]);
  await carryOut(faulty, writeRequest(0, sector(1, 4)));
  assertEquals(await values(below, 0, 4), [0, 0, 0, 0]);
  await carryOut(faulty, flushRequest());
  assertEquals(await values(below, 0, 4), [1, 1, 1, 1]);

  await carryOut(faulty, writeRequest(1, sector(2, 2)));
  const error = await assertFails(faulty, flushRequest());
  assertEquals([error.operation, error.sector], ["flush", undefined]);
  // The second one says that all is well, and writes nothing.
  await carryOut(faulty, flushRequest());
  assertEquals(await values(faulty, 0, 4), [1, 2, 2, 1]);
  assertEquals(await values(below, 0, 4), [1, 1, 1, 1]);
  // Written again, it is written.
  await carryOut(faulty, writeRequest(2, sector(3)), flushRequest());
  assertEquals(await values(faulty, 0, 4), [1, 2, 3, 1]);
  faulty.powerCut();
  assertEquals(await values(faulty, 0, 4), [1, 1, 3, 1]);
});

Deno.test("faults() fails a flush and reverts its pages", async () => {
  const below = memory();
  const faulty = faults(below, ["nth=2 flush=reverted"]);
  await carryOut(faulty, writeRequest(0, sector(1, 4)), flushRequest());
  await carryOut(faulty, writeRequest(1, sector(2, 2)));
  await assertFails(faulty, flushRequest());
  assertEquals(await values(faulty, 0, 4), [1, 1, 1, 1]);
  await carryOut(faulty, flushRequest());
  faulty.powerCut();
  assertEquals(await values(faulty, 0, 4), [1, 1, 1, 1]);
});

Deno.test("faults() fails a flush late", async () => {
  const below = memory();
  const faulty = faults(below, ["nth=1 flush=late"]);
  await carryOut(faulty, writeRequest(0, sector(1)), flushRequest());
  assertEquals(await values(below, 0, 1), [0]);
  await carryOut(faulty, writeRequest(1, sector(1)));
  await assertFails(faulty, flushRequest());
  // What the reporting flush was for itself is safe.
  assertEquals(await values(below, 0, 2), [0, 1]);
  await carryOut(faulty, flushRequest());
  assertEquals(await values(faulty, 0, 2), [1, 1]);
});

Deno.test("faults() fails a flush for some sectors only", async () => {
  const below = memory();
  const faulty = faults(below, ["sector=2..3 flush=kept"]);
  await carryOut(faulty, writeRequest(0, sector(1, 2)), flushRequest());
  assertEquals(await values(below, 0, 2), [1, 1]);
  await carryOut(faulty, writeRequest(0, sector(2, 6)));
  await assertFails(faulty, flushRequest());
  assertEquals(await values(below, 0, 6), [2, 2, 0, 0, 2, 2]);
  assertEquals(await values(faulty, 0, 6), [2, 2, 2, 2, 2, 2]);
  await carryOut(faulty, flushRequest());
});

for (const pages of ["kept", "reverted", "late"]) {
  Deno.test(`faults() fails a flush for whole blocks, however little of one it is said for (${pages})`, async () => {
    const below = memory({ blockSize: 4096 });
    const faulty = faults(below, [`flush sector=7..8 nth=1 flush=${pages}`]);
    const all = (value: number) => new Array(8).fill(value);
    await carryOut(faulty, writeRequest(0, sector(1, 24)));
    const [failed] = await submitAll(faulty, [flushRequest()]);
    assertEquals(failed?.code ?? null, pages === "late" ? null : "EIO");
    assertEquals(
      await values(below, 0, 24),
      [...all(0), ...all(0), ...all(1)],
    );
    const [late] = await submitAll(faulty, [flushRequest()]);
    assertEquals(late?.code ?? null, pages === "late" ? "EIO" : null);
    await carryOut(faulty, flushRequest());
  });
}

Deno.test("faults() heals sectors for good when their new data is written back", async () => {
  const faulty = faults(memory(), ["flush=kept off"]);
  faulty.damage(1, 3);
  faulty.corrupt(2);
  await carryOut(faulty, writeRequest(1, sector(1, 3)));
  assertEquals(await values(faulty, 1, 3), [1, 1, 1]);
  assertEquals([faulty.badSectors, faulty.corruptSectors], [[], []]);
  faulty.powerCut();
  assertEquals(faulty.badSectors, [{ sector: 1, count: 3 }]);
  assertEquals(faulty.corruptSectors, [2]);
  await assertFails(faulty, read(1));
  await carryOut(faulty, writeRequest(1, sector(2, 3)), flushRequest());
  faulty.powerCut();
  assertEquals([faulty.badSectors, faulty.corruptSectors], [[], []]);
  assertEquals(await values(faulty, 1, 3), [2, 2, 2]);
});

for (const pages of ["kept", "reverted"]) {
  Deno.test(`faults() heals no sector whose new data a flush loses (${pages})`, async () => {
    const faulty = faults(memory(), [`sector=1 nth=1 flush=${pages}`]);
    faulty.damage(1, 2);
    await carryOut(faulty, writeRequest(1, sector(1, 2)));
    await assertFails(faulty, flushRequest());
    if (pages === "kept") {
      assertEquals(await values(faulty, 1, 2), [1, 1]);
      faulty.powerCut();
    }
    await assertFails(faulty, read(1));
    assertEquals(await values(faulty, 2, 1), [1]);
  });
}

Deno.test("faults() keeps bad what became so as it was written into the cache", async () => {
  const faulty = faults(memory(), ["write nth=1 bad", "flush=kept off"]);
  await carryOut(faulty, writeRequest(1, sector(1)), flushRequest());
  faulty.powerCut();
  await assertFails(faulty, read(1));
});

Deno.test("faults() keeps dirty what a plain error of a flush leaves", async () => {
  const below = memory();
  const faulty = faults(below, ["flush nth=1 error=EIO", "flush=kept off"]);
  await carryOut(faulty, writeRequest(0, sector(1)));
  await assertFails(faulty, flushRequest());
  assertEquals(await values(below, 0, 1), [0]);
  await carryOut(faulty, flushRequest());
  assertEquals(await values(below, 0, 1), [1]);
});

Deno.test("faults() keeps dirty what the disk failed to take", async () => {
  const store = memory();
  const below = faults(store, ["write nth=1 error=EIO"]);
  const faulty = faults(below, ["flush=kept off"]);
  await carryOut(faulty, writeRequest(0, sector(1)));
  await assertFails(faulty, flushRequest());
  assertEquals(await values(faulty, 0, 1), [1]);
  await carryOut(faulty, flushRequest());
  assertEquals(await values(store, 0, 1), [1]);
});

Deno.test("faults() writes what it holds when it is closed, but not what was lost", async () => {
  const lines: string[] = [];
  const faulty = faults(trace(memory(), (line) => lines.push(line)), [
    "nth=1 flush=kept",
  ]);
  await carryOut(faulty, writeRequest(0, sector(1)));
  await assertFails(faulty, flushRequest());
  await carryOut(faulty, writeRequest(5, sector(1)));
  await faulty.close();
  const writes = lines.map((line) => JSON.parse(line))
    .filter(({ operation }) => operation === "write");
  assertEquals(writes.map(({ sector }) => sector), [5]);
});

Deno.test("faults() passes by the cache what must be durable, and what is too much", async () => {
  const below = memory();
  const faulty = faults(below, ["flush=kept off"], { cacheBytes: 4096 });
  await carryOut(faulty, writeRequest(0, sector(1)));
  await carryOut(faulty, writeFuaRequest(0, sector(2)));
  assertEquals(await values(below, 0, 1), [2]);
  await carryOut(faulty, writeRequest(8, sector(3)));
  await carryOut(faulty, writeRequest(16, sector(4)));
  assertEquals(await values(below, 8, 9), [0, 0, 0, 0, 0, 0, 0, 0, 4]);
  assertEquals((await values(faulty, 8, 9))[0], 3);
  await faulty.close();
});

Deno.test("faults() orders what overlaps a flush in flight", async () => {
  const below = memory();
  const faulty = faults(latency(below, { fixedMs: 2 }), ["flush=kept off"]);
  await carryOut(faulty, writeRequest(0, sector(1, 8)));
  const flushed = carryOut(faulty, flushRequest());
  const later = [
    carryOut(faulty, writeFuaRequest(1, sector(2))),
    carryOut(faulty, discardRequest(2, 1)),
    carryOut(faulty, writeRequest(3, sector(3))),
    carryOut(faulty, flushRequest()),
  ];
  assertEquals((await values(faulty, 4, 1))[0], 1);
  await Promise.all([flushed, ...later]);
  assertEquals(await values(faulty, 0, 5), [1, 2, 0, 3, 1]);
  await carryOut(faulty, flushRequest());
  assertEquals(await values(below, 0, 5), [1, 2, 0, 3, 1]);
});

Deno.test("faults() writes nothing older over a write that passes the cache by", async () => {
  const below = memory();
  const faulty = faults(latency(below, { operationMs: { write: 2 } }), [
    "flush=kept off",
  ]);
  await carryOut(faulty, writeRequest(0, sector(1, 8)));
  // Neither waits for the other: a queue lets a flush and a later write go.
  await carryOut(faulty, writeFuaRequest(1, sector(2)), flushRequest());
  assertEquals(await values(below, 0, 3), [1, 2, 1]);
  await carryOut(faulty, writeRequest(0, sector(3, 8)));
  await carryOut(faulty, flushRequest(), writeFuaRequest(1, sector(4)));
  assertEquals(await values(below, 0, 3), [3, 4, 3]);
});

for (const how of ["a power cut", "a new rule"] as const) {
  Deno.test(`faults() caches nothing of a write that ${how} lets go, and whose memory has gone`, async () => {
    const below = memory();
    const { backend, held } = holding(
      below,
      ({ type }) => type === RequestType.Out,
    );
    const letGo = () => held.splice(0).forEach((submit) => submit());
    const faulty = faults(backend, ["flush=kept off"], { cacheBytes: 8192 });
    await carryOut(below, writeRequest(40, sector(7, 2)));
    await carryOut(faulty, writeRequest(0, sector(1, 16)));
    const flushed = carryOut(faulty, flushRequest());
    if (how === "a new rule") faulty.clear();
    else await carryOut(faulty, writeRequest(16, sector(2, 16)));
    // The cache is full, or off: these wait until the flush has written.
    const gone = sector(9);
    const waiting = submitAll(faulty, [
      writeRequest(40, gone),
      writeRequest(41, sector(8)),
    ]);
    if (how === "a new rule") faulty.add("flush=kept off");
    else faulty.powerCut();
    structuredClone(gone, { transfer: [gone.buffer] });
    letGo();
    const errors = await waiting;
    assertEquals(errors.map((error) => error?.kind), ["argument", undefined]);
    await flushed;
    assertEquals(await values(faulty, 40, 2), [7, 8]);
  });
}

for (const pages of ["kept", "reverted"] as const) {
  Deno.test(`VirtualDisk latches a flush that fails with pages ${pages}`, async () => {
    const faulty = faults(memory(), [`nth=2 flush=${pages}`]);
    const disk = VirtualDisk.over(faulty);
    await disk.write(0, sector(1));
    await disk.flush();
    await disk.write(0, sector(2));
    const first = await assertRejects(() => disk.flush(), DiskError);
    assertEquals([first.kind, first.code], ["io", "EIO"]);
    for (
      const refused of [() => disk.flush(), () => disk.write(1, sector(1))]
    ) {
      const error = await assertRejects(refused, DiskError);
      assertEquals(error.kind, "latched");
      assertEquals(error.cause, first);
    }
    assertEquals((await disk.read(0, 1))[0], pages === "kept" ? 2 : 1);
    // Opened anew after the power cut, the disk has what was flushed.
    faulty.powerCut();
    await using again = VirtualDisk.over(faulty);
    assertEquals((await again.read(0, 1))[0], 1);
    await again.write(0, sector(3));
    await again.flush();
    faulty.powerCut();
    assertEquals((await again.read(0, 1))[0], 3);
  });
}
