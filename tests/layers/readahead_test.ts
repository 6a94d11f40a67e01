import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertRejects,
  assertThrows,
} from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { overlay } from "../../src/layers/overlay.ts";
import { readahead } from "../../src/layers/readahead.ts";
import { trace } from "../../src/layers/trace.ts";
import { verify } from "../../src/layers/verify.ts";
import { Random } from "../../src/random.ts";
import {
  discardRequest,
  readRequest,
  writeRequest,
} from "../../src/request.ts";
import { assertContent, carryOut, readSectors } from "../contract.ts";

const SECTORS = 65_536;

const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

/** A disk whose every sector says which one it is. */
async function numbered(): Promise<MemoryBackend> {
  const disk = new MemoryBackend({ sectors: SECTORS });
  const data = new Uint32Array(SECTORS * 128);
  for (let i = 0; i < data.length; i++) data[i] = i >> 7;
  await carryOut(disk, writeRequest(0, new Uint8Array(data.buffer)));
  return disk;
}

/** Reads sectors and checks that they are the right ones. */
async function check(disk: Backend, at: number, count: number): Promise<void> {
  const data = await readSectors(disk, at, count);
  const words = new Uint32Array(data.buffer);
  for (let i = 0; i < count; i++) assertEquals(words[i * 128], at + i);
}

/** The reads that reached the disk, as sector and count. */
function tracedReads(lines: string[]): [number, number][] {
  return lines.map((line) => JSON.parse(line))
    .filter(({ operation }) => operation === "read")
    .map(({ sector, count }) => [sector, count]);
}

Deno.test("readahead() turns small reads in sequence into a few large ones", async () => {
  const lines: string[] = [];
  const ahead = readahead(trace(await numbered(), (l) => lines.push(l)));
  for (let at = 0; at < SECTORS; at += 8) await check(ahead, at, 8);
  const reads = tracedReads(lines);
  // 32 MiB in pieces of 1 MiB, and the smaller ones that it starts with.
  assertLess(reads.length, 40);
  assertEquals(ahead.readaheadCounters.hits, SECTORS / 8 - 2);
  // Each sector is read once, and none after the last.
  assertEquals(reads.reduce((sum, [, count]) => sum + count, 0), SECTORS);
});

Deno.test("readahead() leaves random reads and large ones alone", async () => {
  const lines: string[] = [];
  const ahead = readahead(trace(await numbered(), (l) => lines.push(l)));
  const random = new Random(1);
  for (let i = 0; i < 200; i++) await check(ahead, random.below(8000) * 8, 8);
  for (let at = 0; at < SECTORS; at += 4096) await check(ahead, at, 4096);
  assertEquals(ahead.readaheadCounters.pieces, 0);
  assertEquals(tracedReads(lines).length, 200 + 16);
});

Deno.test("readahead() tells several readers apart", async () => {
  const ahead = readahead(await numbered());
  const starts = [0, 20_000, 40_000, 60_000, 10_001];
  for (let i = 0; i < 500; i++) {
    for (const start of starts) await check(ahead, start + i * 8, 8);
  }
  assertGreater(ahead.readaheadCounters.hits, 5 * 490);
  assertEquals(ahead.readaheadCounters.misses, 10);
});

Deno.test("readahead() keeps to its memory", async () => {
  const store = await numbered();
  let allocated = 0;
  const allocate = store.allocate.bind(store);
  store.allocate = (bytes) => {
    allocated += bytes;
    return allocate(bytes);
  };
  const ahead = readahead(store, {
    pieceBytes: 65_536,
    windowBytes: 131_072,
    memoryBytes: 262_144,
  });
  for (let i = 0; i < 500; i++) {
    for (let reader = 0; reader < 6; reader++) {
      await check(ahead, reader * 10_000 + i * 8, 8);
    }
  }
  assertEquals(allocated, 262_144);
  // Memory for four of six.
  assertGreater(ahead.readaheadCounters.hits, 4 * 460);
  // One who has gone leaves his to the others.
  const { hits } = ahead.readaheadCounters;
  for (let i = 500; i < 1000; i++) {
    for (let reader = 0; reader < 2; reader++) {
      await check(ahead, reader * 10_000 + i * 8, 8);
    }
  }
  assertGreater(ahead.readaheadCounters.hits - hits, 800);
  assertEquals(allocated, 262_144);
});

Deno.test("readahead() returns what was written into what it has", async () => {
  const ahead = readahead(await numbered());
  for (let at = 0; at < 800; at += 8) await check(ahead, at, 8);
  await carryOut(ahead, writeRequest(803, sector(9, 2)));
  const data = await readSectors(ahead, 800, 8);
  assertEquals([data[3 * 512], data[4 * 512]], [9, 9]);
  await check(ahead, 805, 3);
  await carryOut(ahead, discardRequest(900, 8));
  assertEquals((await readSectors(ahead, 900, 1))[0], 0);
  const { misses } = ahead.readaheadCounters;
  // What lies before the write and is to come is of use still.
  await check(ahead, 1000, 8);
  assertEquals(ahead.readaheadCounters.misses, misses);
});

Deno.test("readahead() goes on for who writes where it has just read", async () => {
  const lines: string[] = [];
  const ahead = readahead(trace(await numbered(), (l) => lines.push(l)));
  for (let at = 0; at < 32_768; at += 8) {
    await check(ahead, at, 8);
    await carryOut(ahead, writeRequest(at, sector(1, 8)));
  }
  assertLess(tracedReads(lines).length, 40);
});

Deno.test("readahead() tells an error for the sectors that have it only", async () => {
  const faulty = faults(await numbered());
  faulty.damage(1001);
  await using disk = VirtualDisk.over(readahead(faulty));
  const failed: number[] = [];
  for (let at = 0; at < 4096; at += 8) {
    await disk.read(at, 8).catch(() => failed.push(at));
  }
  assertEquals(failed, [1000]);
});

Deno.test("readahead() can be switched off and on while it runs", async () => {
  const ahead = readahead(latency(await numbered(), { fixedMs: 0.1 }));
  const reading = [0, 8, 16, 24, 32].map((at) => check(ahead, at, 8));
  ahead.enabled = false;
  await Promise.all(reading);
  const { pieces } = ahead.readaheadCounters;
  for (let at = 0; at < 400; at += 8) await check(ahead, at, 8);
  assertEquals(ahead.readaheadCounters.pieces, pieces);
  ahead.enabled = true;
  for (let at = 400; at < 4000; at += 8) await check(ahead, at, 8);
  assertGreater(ahead.readaheadCounters.pieces, pieces);
  await ahead.close();
});

Deno.test("readahead() agrees with a plain disk, whatever is written meanwhile", async () => {
  const random = new Random(20_240_707);
  const sectors = 4096;
  const spikes = [{ ratio: { numerator: 1, denominator: 4 }, ms: 0.3 }];
  const below = latency(new MemoryBackend({ sectors }), { spikes });
  const disk = VirtualDisk.over(
    verify(
      readahead(below, {
        pieceBytes: 16_384,
        windowBytes: 65_536,
        memoryBytes: 131_072,
      }),
      new MemoryBackend({ sectors }),
    ),
  );
  const readers = [0, 1000, 2000];
  const under = new Set<Promise<unknown>>();
  for (let i = 0; i < 4000; i++) {
    const who = random.below(readers.length);
    const at = readers[who]!;
    const count = random.between(1, 8);
    let work: Promise<unknown>;
    if (at + 16 > sectors) {
      readers[who] = random.below(sectors - 64);
      continue;
    } else if (random.chance(1, 5)) {
      // Near a reader, before or behind.
      const near = Math.max(
        0,
        Math.min(sectors - 8, at + random.between(-40, 60)),
      );
      work = random.chance(1, 6)
        ? disk.writeZeroes(near, count)
        : disk.write(near, random.bytes(count * 512));
    } else {
      readers[who] = at + count;
      work = disk.read(at, count);
    }
    const settled = work.finally(() => under.delete(settled));
    under.add(settled);
    if (under.size >= 12) await Promise.race(under);
  }
  await Promise.all(under);
  await disk.close();
});

Deno.test("readahead() throws on sizes that do not fit together", () => {
  const backend = new MemoryBackend({ sectors: 64, blockSize: 4096 });
  for (
    const options of [
      { pieceBytes: 1000 },
      { pieceBytes: 0 },
      { pieceBytes: 8192, windowBytes: 8192 },
      { windowBytes: 1 << 20, memoryBytes: 1000 },
    ]
  ) {
    assertThrows(
      () => readahead(backend, options),
      RangeError,
      "Cannot read ahead",
    );
  }
});

Deno.test("readahead() drops what it waits for when the disk is closed", async () => {
  const ahead = readahead(latency(await numbered(), { fixedMs: 2 }));
  const reading = [0, 8, 16, 24].map((at) => check(ahead, at, 8));
  await ahead.close();
  await Promise.all(reading);
  await assertRejects(() => check(ahead, 0, 8), Error, "closed");
  const data = sector(0, 8);
  await assertRejects(() => carryOut(ahead, readRequest(0, data)));
  assertContent(data, sector(0, 8), "untouched");
  assert(ahead.closed);
});

Deno.test("readahead() forgets what it has read ahead when it is switched off and on", async () => {
  const changes = overlay(await numbered());
  const ahead = readahead(changes);
  await carryOut(changes, writeRequest(0, sector(7, 64)));
  for (let at = 0; at < 16; at++) await readSectors(ahead, at, 1);
  assertGreater(ahead.readaheadCounters.hits, 0);
  changes.discard();
  ahead.enabled = false;
  ahead.enabled = true;
  for (let at = 16; at < 64; at++) await check(ahead, at, 1);
  await ahead.close();
});
