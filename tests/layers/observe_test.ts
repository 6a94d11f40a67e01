/**
 * Counters and heat maps, compared with a count of every sector by itself.
 *
 * @module
 */

import { assertEquals, assertThrows } from "@std/assert";
import type { Backend, Complete } from "../../src/backend.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { faults } from "../../src/layers/faults.ts";
import { observe, type RangeStats } from "../../src/layers/observe.ts";
import { Random } from "../../src/random.ts";
import {
  discardRequest,
  flushRequest,
  readRequest,
  type Request,
  RequestType,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import { layerContract, memory } from "./stacks.ts";

layerContract(
  "observe()",
  (backend) => observe(backend, { ranges: [{ sector: 8, count: 100 }] }),
);

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

Deno.test("observe() counts requests, sizes, sequence and alignment", async () => {
  const layer = observe(memory({ sectors: 256 }), {
    ranges: [{ name: "tail", sector: 128 }, { sector: 0, count: 8 }],
  });
  await using disk = VirtualDisk.over(layer);
  await disk.write(0, new Uint8Array(4096));
  await disk.write(8, new Uint8Array(4096)); // in sequence
  await disk.write(127, new Uint8Array(1024)); // unaligned, in both halves
  await disk.read(0, 1);
  await disk.read(1, 1);
  await disk.writeZeroes(200, 8);
  await disk.discard(16, 16);
  const { disk: all, ranges: [tail, head], flushes } = layer.stats();
  assertEquals(all.writes, {
    requests: 3,
    bytes: 9216,
    sequential: 1,
    unaligned: 1,
    failed: 0,
    sizes: { 1024: 1, 4096: 2 },
  });
  assertEquals(
    [all.reads.requests, all.reads.sequential, all.reads.unaligned],
    [2, 1, 2],
  );
  assertEquals([all.zeroes.bytes, all.discards.bytes], [4096, 8192]);
  assertEquals([tail!.name, head!.name], ["tail", "sectors 0 to 7"]);
  assertEquals([tail!.sector, tail!.count], [128, 128]);
  // Of what lies across its edge a range counts its own sectors.
  assertEquals([tail!.writes.requests, tail!.writes.bytes], [1, 512]);
  assertEquals([head!.reads.requests, head!.writes.bytes], [2, 4096]);
  // 8 + 8 sectors in whole blocks, and 16 for the 2 that touch two of them.
  assertEquals(all.writeAmplification, Math.round(32 / 18 * 1000) / 1000);
  assertEquals(all.distinctBytes, 9216 + 4096);
  assertEquals(all.unflushedBytes, 9216 + 4096);
  assertEquals(flushes, { requests: 0, failed: 0 });
  await disk.flush();
  assertEquals(layer.stats().disk.unflushedBytes, 0);
  assertEquals(layer.stats().flushes, { requests: 1, failed: 0 });
  layer.reset();
  const { disk: none } = layer.stats();
  assertEquals(
    [none.writes.requests, none.distinctBytes, sum(none.heat.writtenBytes)],
    [0, 0, 0],
  );
  assertEquals(none.writeAmplification, null);
});

Deno.test("observe() counts what fails, and keeps it unflushed", async () => {
  const layer = observe(faults(memory({ sectors: 64 }), [
    "write sector=0 error=EIO",
    "flush error=EIO once",
  ]));
  await using disk = VirtualDisk.over(layer);
  await disk.write(0, new Uint8Array(512)).catch(() => {});
  await disk.write(8, new Uint8Array(512));
  await disk.flush().catch(() => {});
  const { disk: all, flushes } = layer.stats();
  assertEquals([all.writes.requests, all.writes.failed], [2, 1]);
  assertEquals(all.unflushedBytes, 1024);
  assertEquals(flushes, { requests: 1, failed: 1 });
});

/** A backend whose requests end when they are told to. */
function held(): Backend & { end(): void } {
  const below = memory({ sectors: 64 });
  const waiting: [Request, Complete][] = [];
  const { geometry, info, abilities, limits, counters } = below;
  return {
    ...{ geometry, info, abilities, limits, counters },
    allocate: (bytes) => below.allocate(bytes),
    close: () => below.close(),
    submit(batch: readonly Request[], complete: Complete) {
      for (const request of batch) waiting.push([request, complete]);
    },
    end() {
      const [request, complete] = waiting.shift()!;
      complete(request, null);
    },
  };
}

Deno.test("observe() takes for flushed only what completed before the flush came", () => {
  const below = held();
  const layer = observe(below);
  const unflushed = () => layer.stats().disk.unflushedBytes / 512;
  const submit = (request: Request) => layer.submit([request], () => {});
  submit(writeRequest(0, new Uint8Array(512)));
  submit(writeRequest(1, new Uint8Array(512)));
  assertEquals(unflushed(), 0); // In flight.
  below.end();
  submit(flushRequest());
  submit(writeRequest(2, new Uint8Array(512)));
  assertEquals(unflushed(), 1);
  below.end(); // The second write, which the flush does not cover.
  below.end(); // The flush.
  assertEquals(unflushed(), 1);
  below.end();
  assertEquals(unflushed(), 2);
  submit(writeFuaRequest(9, new Uint8Array(512)));
  below.end();
  assertEquals(unflushed(), 2);
});

/** What a range's numbers should be, by looking at every sector. */
function model(requests: readonly Request[], first: number, end: number) {
  const times = new Map<number, number>();
  const bytes = { read: 0, written: 0, zeroed: 0, discarded: 0 };
  let blocks = 0;
  for (const { type, sector, count } of requests) {
    const touched = new Set<number>();
    for (let at = sector; at < sector + count; at++) {
      if (at < first || at >= end) continue;
      touched.add(Math.floor(at / 8));
      if (type === RequestType.In) bytes.read += 512;
      if (type === RequestType.Out) bytes.written += 512;
      if (type === RequestType.WriteZeroes) bytes.zeroed += 512;
      if (type === RequestType.Discard) bytes.discarded += 512;
      if (type === RequestType.Out || type === RequestType.WriteZeroes) {
        times.set(at, (times.get(at) ?? 0) + 1);
      }
    }
    if (type === RequestType.Out) blocks += touched.size;
  }
  const all = sum([...times.values()]);
  return {
    ...bytes,
    distinct: times.size * 512,
    rewritten: (all - times.size) * 512,
    amplification: bytes.written === 0
      ? null
      : Math.round(blocks * 4096 / bytes.written * 1000) / 1000,
    heat: bytes.written + bytes.zeroed,
  };
}

function told(stats: RangeStats): ReturnType<typeof model> {
  return {
    read: stats.reads.bytes,
    written: stats.writes.bytes,
    zeroed: stats.zeroes.bytes,
    discarded: stats.discards.bytes,
    distinct: stats.distinctBytes,
    rewritten: stats.rewrittenBytes,
    amplification: stats.writeAmplification,
    heat: sum(stats.heat.writtenBytes),
  };
}

Deno.test("observe() agrees with a count of every sector", () => {
  for (let seed = 0; seed < 20; seed++) {
    const random = new Random(seed);
    const sectors = 1 + random.below(700);
    const ranges = Array.from({ length: 3 }, () => {
      const sector = random.below(sectors);
      return { sector, count: 1 + random.below(sectors - sector) };
    });
    const cells = 1 + random.below(40);
    const layer = observe(memory({ sectors }), { ranges, cells });
    const requests = Array.from({ length: 60 }, () => {
      const sector = random.below(sectors);
      const count = 1 + random.below(Math.min(80, sectors - sector));
      const data = new Uint8Array(count * 512);
      return random.pick([
        readRequest(sector, data),
        writeRequest(sector, data),
        writeZeroesRequest(sector, count),
        discardRequest(sector, count),
      ]);
    });
    for (const request of requests) layer.submit([request], () => {});
    const { disk, ranges: rest } = layer.stats();
    assertEquals(told(disk), model(requests, 0, sectors), `seed ${seed}`);
    ranges.forEach(({ sector, count }, i) =>
      assertEquals(
        told(rest[i]!),
        model(requests, sector, sector + count),
        `seed ${seed}`,
      )
    );
    // Each cell by itself.
    const { cellSectors, readBytes } = disk.heat;
    readBytes.forEach((bytes, cell) =>
      assertEquals(
        bytes,
        model(requests, cell * cellSectors, (cell + 1) * cellSectors).read,
      )
    );
    assertEquals(readBytes.length <= cells, true);
  }
});

Deno.test("observe() keeps to its memory on a disk of petabytes", () => {
  const sectors = 2 ** 43;
  const layer = observe(memory({ sectors }));
  layer.submit([
    writeRequest(sectors - 8, new Uint8Array(4096)),
    writeZeroesRequest(0, 2 ** 42),
  ], () => {});
  const { grainSectors, disk } = layer.stats();
  assertEquals(grainSectors, 2 ** 17);
  assertEquals(disk.writes.bytes, 4096);
  assertEquals(disk.zeroes.sizes, { [2 ** 51]: 1 });
  assertEquals(disk.distinctBytes, 2 ** 51 + 2 ** 26);
  assertEquals(sum(disk.heat.writtenBytes), 2 ** 51 + 4096);
});

Deno.test("observe() lets the base refuse what is no request", () => {
  const layer = observe(memory({ sectors: 64 }));
  const answers: (string | undefined)[] = [];
  layer.submit([
    readRequest(64, new Uint8Array(512)),
    writeRequest(-8, new Uint8Array(512)),
    writeRequest(NaN, new Uint8Array(512)),
    writeRequest(2 ** 52, new Uint8Array(512)),
    discardRequest(0, 2 ** 53),
    writeZeroesRequest(0, Infinity),
    writeRequest(0, new Uint8Array(100)),
  ], (_, error) => answers.push(error?.kind));
  assertEquals(answers, [
    "range",
    "argument",
    "argument",
    "range",
    "argument",
    "argument",
    "alignment",
  ]);
  layer.stats();
});

Deno.test("observe() refuses options that are none", () => {
  assertThrows(
    () => observe(memory({ sectors: 64 }), { ranges: [{ sector: 64 }] }),
    RangeError,
    "Cannot count a range",
  );
  for (const cells of [0, -1, 1.5, NaN, 2 ** 20]) {
    assertThrows(
      () => observe(memory(), { cells }),
      RangeError,
      `current value is ${cells}`,
    );
  }
});
