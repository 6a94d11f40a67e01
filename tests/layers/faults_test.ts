import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { VirtualDisk } from "../../src/disk.ts";
import { DiskError } from "../../src/errors.ts";
import type { FaultRule } from "../../src/layers/fault_rule.ts";
import {
  type FaultEvent,
  type Faults,
  faults,
} from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { trace } from "../../src/layers/trace.ts";
import { Random } from "../../src/random.ts";
import {
  discardRequest,
  flushRequest,
  readRequest,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import {
  assertContent,
  carryOut,
  readDisk,
  readSectors,
  submitAll,
} from "../contract.ts";
import { memory } from "./stacks.ts";

const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

/** The first byte of each sector. */
async function values(backend: Backend, at: number, count: number) {
  const data = await readSectors(backend, at, count);
  return Array.from({ length: count }, (_, i) => data[i * 512]!);
}

async function assertFails(
  backend: Backend,
  request: Parameters<typeof submitAll>[1][0],
  code = "EIO",
): Promise<DiskError> {
  const [error] = await submitAll(backend, [request]);
  assert(error instanceof DiskError, "it must fail");
  assertEquals(error.code, code);
  return error;
}

const read = (at: number, count = 1) => readRequest(at, sector(0, count));

Deno.test("faults() with an error fails what matches, and does nothing", async () => {
  const below = memory();
  const faulty = faults(below, ["write sector=8..15 error=ENOSPC"]);
  await carryOut(faulty, writeRequest(7, sector(1)), read(8, 8));
  const error = await assertFails(
    faulty,
    writeRequest(4, sector(1, 5)),
    "ENOSPC",
  );
  assertEquals(error.kind, "no-space");
  assertEquals([error.operation, error.sector, error.count], ["write", 4, 5]);
  assertGreater(error.errno!, 0);
  assertStringIncludes(
    error.message,
    `Cannot write 5 sectors at sector 4 as the fault rule "write sector=8..15 error=ENOSPC" makes it fail (ENOSPC)`,
  );
  assertEquals(await values(below, 4, 5), [0, 0, 0, 1, 0]);
});

Deno.test("faults() counts by nth and times, and calls by name", async () => {
  const faulty = faults(memory(), [
    "read nth=2 times=2 name=second error=EIO",
  ]);
  const outcomes: boolean[] = [];
  for (let i = 0; i < 5; i++) {
    const [error] = await submitAll(faulty, [read(0)]);
    outcomes.push(error === null);
    if (error) assertStringIncludes(error.message, `"second"`);
  }
  assertEquals(outcomes, [true, false, false, true, true]);
  assertEquals(faulty.hits(faulty.rules[0]!), 2);
});

Deno.test("faults() asks a condition of one's own", async () => {
  const faulty = faults(memory(), [{
    when: (request) => request.count === 3,
    effect: { kind: "error", code: "EIO" },
  }]);
  await carryOut(faulty, read(0, 2));
  await assertFails(faulty, read(0, 3));
});

Deno.test("faults() acts as often as a ratio says, the same for a seed", async () => {
  const failures = async (seed: number) => {
    const faulty = faults(memory(), ["read ratio=1/4 error=EIO"], { seed });
    const requests = Array.from({ length: 1000 }, (_, i) => read(i));
    return (await submitAll(faulty, requests)).map((error) => error !== null);
  };
  const first = await failures(1);
  const count = first.filter((failed) => failed).length;
  assert(count > 200 && count < 300);
  assertEquals(await failures(1), first);
  assert((await failures(2)).some((failed, i) => failed !== first[i]));
});

Deno.test("faults() takes rules, and switches them, while it runs", async () => {
  const faulty = faults(memory());
  assertEquals(faulty.limits.maxSegments, 1024);
  await carryOut(faulty, read(0));
  const rule = faulty.add("read error=EIO");
  assertEquals(faulty.limits.maxSegments, 1);
  await assertFails(faulty, read(0));
  rule.enabled = false;
  await carryOut(faulty, read(0));
  rule.enabled = true;
  await assertFails(faulty, read(0));
  assert(faulty.remove(rule));
  await carryOut(faulty, read(0));
  faulty.add(rule);
  faulty.add("write error=EIO");
  faulty.clear();
  assertEquals(faulty.rules, []);
  await carryOut(faulty, read(0), writeRequest(0, sector(1)));
});

Deno.test("faults() tells of each fault", async () => {
  const events: FaultEvent[] = [];
  const faulty = faults(memory(), ["write lost", "read delay=0ms"], {
    onFault: (event) => events.push(event),
  });
  await carryOut(faulty, writeRequest(3, sector(1, 2)));
  await carryOut(faulty, read(5));
  const [lost, delay] = faulty.rules;
  assertEquals(events, [
    { rule: lost!, operation: "write", sector: 3, count: 2 },
    { rule: delay!, operation: "read", sector: 5, count: 1 },
  ]);
});

Deno.test("faults() with a delay holds the answer back, with another effect too", async () => {
  const faulty = faults(memory(), [
    "read delay=15ms",
    "read delay=15ms",
    "read sector=9 error=EIO",
  ]);
  const start = performance.now();
  const slow = submitAll(faulty, [read(0), read(9)]);
  await carryOut(faulty, writeRequest(20, sector(1)));
  assertLess(performance.now() - start, 25);
  const [good, bad] = await slow;
  assertGreaterOrEqual(performance.now() - start, 30);
  assertEquals([good, bad?.code], [null, "EIO"]);
});

Deno.test("faults() answers a delayed request at once when it is cancelled", async () => {
  const faulty = faults(memory(), ["read delay=30s"]);
  await using disk = VirtualDisk.over(faulty);
  const start = performance.now();
  const reason = new Error("enough");
  const controller = new AbortController();
  const reading = disk.read(0, 1, { signal: controller.signal });
  setTimeout(() => controller.abort(reason), 5);
  assertEquals(await assertRejects(() => reading), reason);
  assertLess(performance.now() - start, 10_000);
});

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
  faulty.add("write misdirected");
  for (let i = 0; i < 50; i++) {
    await carryOut(faulty, writeRequest(8191, sector(7)));
  }
  assertEquals(await values(below, 8191, 1), [0]);
  assertGreater((await readDisk(below)).filter((byte) => byte === 7).length, 0);
});

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

Deno.test("faults() makes sectors bad until they are rewritten", async () => {
  const faulty = faults(memory(), ["write nth=1 sector=4..5 bad"]);
  await carryOut(faulty, writeRequest(0, sector(1, 8)));
  assertEquals(faulty.badSectors, [{ sector: 4, count: 2 }]);
  await carryOut(faulty, read(0, 4), read(6, 2));
  const error = await assertFails(faulty, read(0, 8));
  assertStringIncludes(error.message, "as sector 4 is bad (EIO)");
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

Deno.test("faults() leaves a sector bad if rewriting fails", async () => {
  const faulty = faults(memory(), ["write nth=1 error=EIO"]);
  faulty.damage(3);
  await assertFails(faulty, writeRequest(3, sector(1)));
  await assertFails(faulty, read(3));
});

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

Deno.test("faults() orders what overlaps a flush under way", async () => {
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

Deno.test("VirtualDisk meets each request's own fault, and merges none", async () => {
  await using disk = VirtualDisk.over(
    faults(memory(), ["write nth=3 error=EIO"]),
  );
  const results = await Promise.allSettled(
    Array.from({ length: 6 }, (_, i) => disk.write(i, sector(1))),
  );
  assertEquals(
    results.map(({ status }) => status),
    [
      "fulfilled",
      "fulfilled",
      "rejected",
      "fulfilled",
      "fulfilled",
      "fulfilled",
    ],
  );
  assertEquals(disk.counters.merged, 0);
});

const SWARM: (FaultRule | string)[] = [
  "read ratio=1/30 error=EIO",
  "write ratio=1/30 error=ENOSPC",
  "write ratio=1/20 torn",
  "write ratio=1/40 lost",
  "write ratio=1/40 misdirected",
  "read,write ratio=1/30 corrupt=2",
  "read,write ratio=1/60 bad",
  "ratio=1/4 flush=kept",
  "ratio=1/4 flush=reverted",
  "ratio=1/4 flush=late",
  "read,write ratio=1/200 delay=10us",
];

/** Everything that a workload sees: answers, bytes, and what is left. */
async function runSwarm(
  below: Backend,
  seed: number,
): Promise<{ seen: string[]; below: Uint8Array }> {
  const events: string[] = [];
  const faulty: Faults = faults(below, SWARM, {
    seed,
    onFault: ({ rule, operation, sector, count }) =>
      events.push(
        `${faulty.rules.indexOf(rule)} ${operation} ${sector} ${count}`,
      ),
  });
  const random = new Random(seed);
  const seen: string[] = [];
  for (let i = 0; i < 1500; i++) {
    const at = random.below(200);
    const count = random.between(1, 8);
    const [request, data] = random.chance(1, 12)
      ? [flushRequest(), null]
      : random.chance(1, 2)
      ? [writeRequest(at, random.bytes(count * 512)), null]
      : (() => {
        const data = sector(0, count);
        return [readRequest(at, data), data] as const;
      })();
    const [error] = await submitAll(faulty, [request]);
    let sum = 0;
    for (const byte of data ?? []) sum = (sum * 31 + byte) >>> 0;
    seen.push(`${error?.message} ${sum}`);
  }
  seen.push(...events, JSON.stringify(faulty.badSectors));
  faulty.clear();
  faulty.powerCut();
  return { seen, below: await readSectors(below, 0, 256) };
}

Deno.test("faults() of every kind at once repeat by their seed, over any backend", async () => {
  const first = await runSwarm(memory(), 5);
  const again = await runSwarm(latency(memory(), { fixedMs: 0.001 }), 5);
  assertEquals(again.seen, first.seen);
  assertContent(again.below, first.below, "below");
  const other = await runSwarm(memory(), 6);
  assert(other.seen.some((line, i) => line !== first.seen[i]));
});

function bitsIn(bytes: Uint8Array): number {
  let bits = 0;
  for (const byte of bytes) {
    for (let rest = byte; rest > 0; rest >>= 1) bits += rest & 1;
  }
  return bits;
}
