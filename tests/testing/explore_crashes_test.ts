/**
 * Exploration against arithmetic and against a model of its own: how many
 * states there are is known for small cases, and which ones follows from the
 * rules in a few plain lines.
 *
 * @module
 */

import {
  type Backend,
  type Complete,
  openBackend,
  type Request,
  RequestType,
  type VirtualDisk,
} from "@platter/disk";
import {
  type CrashDevice,
  CrashFailure,
  type CrashOptions,
  CrashRecorder,
  type CrashReport,
  exploreCrashes,
  overlay,
  Random,
  recordWorkload,
  replayCrash,
} from "@platter/disk/testing";
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { tempDir } from "../helpers.ts";

/** Sectors that all hold one byte. */
function bytes(value: number, sectors = 1): Uint8Array {
  return new Uint8Array(sectors * 512).fill(value);
}

/** The first byte of each sector, and whether all others are the same. */
async function look(disk: VirtualDisk): Promise<string> {
  const all = await disk.read(0, disk.sectors);
  const words: string[] = [];
  for (let at = 0; at < all.length; at += 512) {
    const sector = all.subarray(at, at + 512);
    const runs = [sector[0]!];
    for (const byte of sector) if (byte !== runs.at(-1)) runs.push(byte);
    words.push(runs.join("/"));
  }
  return words.join(" ");
}

/** Explores, and gathers what each state looks like. */
async function gather(
  options: Omit<CrashOptions<number>, "recover">,
): Promise<{ states: string[]; report: CrashReport }> {
  const states: string[] = [];
  const report = await exploreCrashes<number>({
    ...options,
    async recover(disk, acknowledged) {
      states.push(`${await look(disk)} | ${acknowledged.join(" ")}`);
    },
  });
  assertEquals(states.length, report.states);
  assertEquals(new Set(states).size, states.length, "A state comes twice");
  return { states, report };
}

const COUNTS: [
  title: string,
  options: Omit<CrashOptions<number>, "recover">,
  states: number,
][] = [
  [
    "n writes of one sector each: 2^n",
    {
      device: { sectors: 16 },
      async workload(disk) {
        for (let i = 0; i < 6; i++) await disk.write(i, bytes(i + 1));
      },
    },
    2 ** 6,
  ],
  [
    "a write of n sectors: 2^n",
    {
      device: { sectors: 16 },
      workload: (disk) => disk.write(0, bytes(1, 7)),
    },
    2 ** 7,
  ],
  [
    "epochs of a, b, c writes: 2^a + 2^b + 2^c - 2",
    {
      device: { sectors: 16 },
      async workload(disk) {
        for (const [from, to] of [[0, 3], [3, 8], [8, 10]] as const) {
          for (let i = from; i < to; i++) void disk.write(i, bytes(i + 1));
          await disk.flush();
        }
      },
    },
    2 ** 3 + 2 ** 5 + 2 ** 2 - 2,
  ],
  [
    "n writes of the same sector: n + 1",
    {
      device: { sectors: 8 },
      async workload(disk) {
        for (let i = 1; i <= 9; i++) await disk.write(3, bytes(i));
      },
    },
    10,
  ],
  [
    "k sectors written n times each: (n + 1)^k",
    {
      device: { sectors: 8 },
      async workload(disk) {
        for (let i = 1; i <= 3; i++) await disk.write(2, bytes(i, 4));
      },
    },
    4 ** 4,
  ],
  [
    "the same bytes again: no state more",
    {
      device: { sectors: 8 },
      async workload(disk) {
        for (let i = 0; i < 4; i++) await disk.write(2, bytes(7, 2));
      },
    },
    2 ** 2,
  ],
  [
    "a device that keeps the order: one for each block, and one",
    {
      device: { sectors: 32, reorders: false },
      async workload(disk) {
        for (let i = 0; i < 5; i++) await disk.write(i * 4, bytes(i + 1, 3));
      },
    },
    5 * 3 + 1,
  ],
  [
    "atomic writes: 2^writes, whatever their length",
    {
      device: { sectors: 32, atomicWriteBytes: 2048 },
      async workload(disk) {
        for (let i = 0; i < 5; i++) await disk.write(i * 4, bytes(i + 1, 4));
      },
    },
    2 ** 5,
  ],
  [
    "atomic writes that are not aligned: 2^blocks",
    {
      device: { sectors: 32, atomicWriteBytes: 2048 },
      workload: (disk) => disk.write(1, bytes(1, 4)),
    },
    2 ** 4,
  ],
  [
    "overlapping atomic writes: the later one hides the earlier one",
    {
      device: { sectors: 8, atomicWriteBytes: 1024 },
      async workload(disk) {
        await disk.write(0, bytes(1, 2));
        await disk.write(0, bytes(2, 2));
        await disk.write(1, bytes(3));
      },
    },
    3 * 2,
  ],
  [
    "torn blocks: a new one, an old one, and both mixtures",
    {
      device: { sectors: 8, tornBlocks: true },
      async workload(disk) {
        for (let i = 0; i < 3; i++) await disk.write(i, bytes(i + 1));
      },
    },
    4 ** 3,
  ],
  [
    "torn blocks written twice: over what was there and over each other",
    {
      device: { sectors: 8, tornBlocks: true },
      async workload(disk) {
        await disk.write(0, bytes(1));
        await disk.write(0, bytes(2));
      },
    },
    1 + (1 + 2) + (1 + 4),
  ],
  [
    "blocks of 4 KiB: 2^blocks",
    {
      device: { sectors: 64, blockSize: 4096 },
      workload: (disk) => disk.write(8, bytes(1, 24)),
    },
    2 ** 3,
  ],
  [
    "write-through, one after the other: one for each, and one",
    {
      device: { sectors: 16, cache: "writethrough" },
      async workload(disk) {
        for (let i = 0; i < 6; i++) await disk.write(i, bytes(i + 1));
      },
    },
    6 + 1,
  ],
  [
    "write-through, all at once: 2^n",
    {
      device: { sectors: 16, cache: "writethrough" },
      async workload(disk) {
        await Promise.all(
          [1, 2, 3, 4, 5].map((i) => disk.write(i, bytes(i))),
        );
      },
    },
    2 ** 5,
  ],
  [
    "FUA writes, one after the other: one for each, and one",
    {
      device: { sectors: 16 },
      async workload(disk) {
        for (let i = 0; i < 6; i++) {
          await disk.write(i, bytes(i + 1), { fua: true });
        }
      },
    },
    6 + 1,
  ],
  [
    "FUA that the device ignores: 2^n",
    {
      device: { sectors: 16, honorsFua: false },
      async workload(disk) {
        for (let i = 0; i < 6; i++) {
          await disk.write(i, bytes(i + 1), { fua: true });
        }
      },
    },
    2 ** 6,
  ],
  [
    "flushes that the device ignores: 2^n",
    {
      device: { sectors: 16, honorsFlush: false },
      async workload(disk) {
        for (let i = 0; i < 6; i++) {
          await disk.write(i, bytes(i + 1));
          await disk.flush();
        }
      },
    },
    2 ** 6,
  ],
  [
    "a flush that fails and one that does not: the first write is never sure",
    {
      device: { sectors: 16, failFlushes: [1] },
      async workload(disk, _acknowledge, session) {
        await disk.write(0, bytes(1));
        await assertRejects(() => disk.flush());
        const again = await session.reopen();
        await again.write(1, bytes(2));
        await again.flush();
        await again.write(2, bytes(3));
      },
    },
    // (0, 1) open, then sector 1 durable, and (0, 2) open.
    2 ** 2 + 2 ** 2 - 2,
  ],
  [
    "a flush that fails on a device that keeps the order: what it was to write may be missing",
    {
      device: { sectors: 16, reorders: false, failFlushes: [1] },
      async workload(disk, _acknowledge, session) {
        await disk.write(0, bytes(1, 2));
        await assertRejects(() => disk.flush());
        const again = await session.reopen();
        await again.write(4, bytes(2, 2));
      },
    },
    // Two blocks that are there or not, and a prefix of two.
    2 ** 2 * 3,
  ],
  [
    "a discard whose content nobody promises, on a device that keeps the order",
    {
      device: { sectors: 8, reorders: false },
      async prepare(disk) {
        await disk.write(0, bytes(9, 2));
      },
      async workload(disk) {
        await disk.discard(0, 2);
        await disk.write(4, bytes(1));
      },
    },
    2 ** 2 * 2,
  ],
  [
    "torn blocks, but for atomic writes of one block",
    {
      device: { sectors: 8, tornBlocks: true, atomicWriteBytes: 512 },
      async workload(disk) {
        await disk.write(0, bytes(1));
        await disk.write(1, bytes(2, 2));
      },
    },
    2 * 4 ** 2,
  ],
  [
    "torn blocks beside an atomic write that holds them together",
    {
      device: { sectors: 8, tornBlocks: true, atomicWriteBytes: 1024 },
      async workload(disk) {
        await disk.write(0, bytes(1, 2));
        await disk.writeZeroes(4, 2);
        await disk.write(1, bytes(2, 2));
      },
    },
    // Sector 1 as it was, or of the first write with sector 0; over either the
    // second write, torn in two ways or whole; and sector 2 likewise.
    2 * 4 * 4,
  ],
  [
    "a discard whose content nobody promises stays open",
    {
      device: { sectors: 8, discarded: "either" },
      async prepare(disk) {
        await disk.write(0, bytes(9, 2));
      },
      async workload(disk) {
        await disk.discard(0, 2);
        await disk.flush();
        await disk.write(4, bytes(1));
      },
    },
    2 ** 2 * 2,
  ],
  [
    "a discard that zeroes, flushed",
    {
      device: { sectors: 8, discarded: "zero" },
      async prepare(disk) {
        await disk.write(0, bytes(9, 2));
      },
      async workload(disk) {
        await disk.discard(0, 2);
        await disk.flush();
        await disk.write(4, bytes(1));
      },
    },
    2 ** 2 + 2 - 1,
  ],
  [
    "a discard that does nothing",
    {
      device: { sectors: 8, discarded: "old" },
      async prepare(disk) {
        await disk.write(0, bytes(9, 2));
      },
      async workload(disk) {
        await disk.discard(0, 2);
        await disk.flush();
        await disk.write(4, bytes(1));
      },
    },
    2,
  ],
  [
    "zeroes are writes",
    {
      device: { sectors: 8 },
      async prepare(disk) {
        await disk.write(0, bytes(9, 3));
      },
      async workload(disk) {
        await disk.writeZeroes(0, 3);
        await disk.flush();
      },
    },
    2 ** 3,
  ],
  [
    "what was acknowledged makes another state of an equal image",
    {
      device: { sectors: 8 },
      async workload(disk, acknowledge) {
        await disk.write(0, bytes(1));
        acknowledge(1);
        await disk.write(1, bytes(2));
      },
    },
    2 + 2 ** 2,
  ],
  [
    "nothing written: one",
    { device: { sectors: 8 }, workload() {}, allowNoProof: true },
    1,
  ],
];

for (const [title, options, states] of COUNTS) {
  Deno.test(`exploreCrashes() visits every state once: ${title}`, async () => {
    const { report } = await gather(options);
    assertEquals(report.states, states);
    assertEquals(report.exhaustive, true);
  });
}

/** What a device was asked and answered, as a layer above it sees it. */
interface Seen {
  kind: "submit" | "complete" | "acknowledge";
  id: number;
  type: RequestType;
  sector: number;
  count: number;
  value: number;
  fua: boolean;
}

/** Writes down what goes by. */
function watching(device: Backend, seen: Seen[]): Backend {
  let next = 0;
  return {
    ...device,
    geometry: device.geometry,
    abilities: device.abilities,
    limits: device.limits,
    info: device.info,
    counters: device.counters,
    submit(batch: readonly Request[], complete: Complete) {
      const ids = new Map<Request, Seen>();
      for (const request of batch) {
        if (!request.writes && request.type !== RequestType.Flush) continue;
        const one: Seen = {
          kind: "submit",
          id: next++,
          type: request.type,
          sector: request.sector,
          count: request.count,
          value: request.data?.[0] ?? 0,
          fua: request.fua,
        };
        ids.set(request, one);
        seen.push(one);
      }
      device.submit(batch, (request, error) => {
        const one = ids.get(request);
        if (one !== undefined) seen.push({ ...one, kind: "complete" });
        complete(request, error);
      });
    },
    allocate: (byteLength) => device.allocate(byteLength),
    close: () => device.close(),
  };
}

/** The rules once more, in the plainest way: all states at all crash points. */
function model(
  seen: Seen[],
  sectors: number,
  writeThrough: boolean,
): Set<string> {
  const states = new Set<string>();
  for (let point = 0; point <= seen.length; point++) {
    const past = seen.slice(0, point);
    const indexOf = (id: number, kind: Seen["kind"]) =>
      past.findIndex((one) => one.kind === kind && one.id === id);
    const isDurable = (write: Seen): boolean => {
      const completed = indexOf(write.id, "complete");
      if (completed < 0) return false;
      return writeThrough || write.fua ||
        past.some((flush) =>
          flush.kind === "complete" && flush.type === RequestType.Flush &&
          indexOf(flush.id, "submit") > completed
        );
    };
    const open: number[][] = [];
    for (let sector = 0; sector < sectors; sector++) {
      let found = [0];
      for (const write of past) {
        if (write.kind !== "submit" || write.type === RequestType.Flush) {
          continue;
        }
        if (sector < write.sector || sector >= write.sector + write.count) {
          continue;
        }
        if (isDurable(write)) found = [write.value];
        else found.push(write.value);
      }
      open.push(found);
    }
    const acknowledged = past.filter(({ kind }) => kind === "acknowledge")
      .map(({ value }) => value).join(" ");
    const extend = (image: number[]) => {
      if (image.length === sectors) {
        states.add(`${image.join(" ")} | ${acknowledged}`);
        return;
      }
      for (const value of open[image.length]!) extend([...image, value]);
    };
    extend([]);
  }
  return states;
}

Deno.test("exploreCrashes() visits what a plain model says, and no more", async () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = new Random(seed);
    const sectors = 6;
    const writeThrough = random.chance(1, 4);
    const seen: Seen[] = [];
    let value = 0;
    const steps = random.between(1, 9);
    const { states, report } = await gather({
      device: { sectors, cache: writeThrough ? "writethrough" : "writeback" },
      maxStates: 1_000_000,
      allowNoProof: true,
      layers: (device) => watching(device, seen),
      async workload(disk, acknowledge) {
        const underWay: Promise<void>[] = [];
        for (let step = 0; step < steps; step++) {
          const what = random.below(10);
          let done: Promise<void> | null = null;
          if (what < 5) {
            const sector = random.below(sectors);
            const count = random.between(1, Math.min(3, sectors - sector));
            done = disk.write(sector, bytes(++value, count), {
              fua: random.chance(1, 4),
            });
          } else if (what < 6) {
            done = disk.writeZeroes(random.below(sectors), 1);
          } else if (what < 8) done = disk.flush();
          else {
            acknowledge(++value);
            seen.push({
              kind: "acknowledge",
              id: -1,
              type: RequestType.Flush,
              sector: 0,
              count: 0,
              value,
              fua: false,
            });
          }
          if (done === null) continue;
          if (random.chance(2, 3)) await done;
          else underWay.push(done);
        }
        await Promise.all(underWay);
      },
    });
    assertEquals(report.exhaustive, true);
    assertEquals(
      states.toSorted(),
      [...model(seen, sectors, writeThrough)].toSorted(),
      `Seed ${seed}`,
    );
  }
});

/** Two epochs of 2^8 states, and one of 2^6. */
async function threeEpochs(disk: VirtualDisk): Promise<void> {
  for (const [epoch, count] of [8, 8, 6].entries()) {
    for (let i = 0; i < count; i++) {
      await disk.write(i, bytes(epoch * 10 + i + 1));
    }
    await disk.flush();
  }
}

Deno.test("exploreCrashes() visits a part of all states if there are too many", async () => {
  const device = { sectors: 8 };
  const all = await gather({ device, workload: threeEpochs });
  assertEquals(all.report.states, 2 ** 8 + 2 ** 8 + 2 ** 6 - 2);
  const every = new Set(all.states);
  const some = await gather({ device, workload: threeEpochs, maxStates: 250 });
  assertEquals(some.report.exhaustive, false);
  assertEquals(some.report.states, 250);
  for (const state of some.states) assert(every.has(state), state);
  // One state too few for all of them: nearly all are found, at random.
  const most = await gather({
    device,
    workload: threeEpochs,
    maxStates: all.report.states - 1,
  });
  assertEquals(most.report.exhaustive, false);
  assert(most.report.states >= all.report.states * 0.9, most.report.summary);
  for (const state of most.states) assert(every.has(state), state);
});

Deno.test("exploreCrashes() finds the plain mistakes first in what is too much", async () => {
  // One state of 2^64 fails: the one in which only that write is missing.
  const failure = await assertRejects(() =>
    exploreCrashes({
      device: { sectors: 64 },
      maxStates: 1000,
      async workload(disk) {
        for (let i = 0; i < 64; i++) await disk.write(i, bytes(i + 1));
      },
      async recover(disk) {
        const all = await disk.read(0, 64);
        const lost = Array.from({ length: 64 }, (_, i) => i)
          .filter((i) => all[i * 512] === 0);
        if (lost.length === 1 && lost[0] === 40) throw new Error("Just that");
      },
    }), CrashFailure);
  assertStringIncludes(failure.story, "#41 write sector 40");
  assertEquals(failure.story.match(/LOST/g)?.length, 1);
});

Deno.test("exploreCrashes() visits the same states for a seed on every backend", async () => {
  await using dir = await tempDir();
  const path = await dir.file("base.img", 64 * 512);
  const options = {
    device: {},
    maxStates: 300,
    async workload(disk: VirtualDisk) {
      // Strands that read first, and take more and less time of their own.
      const strand = async (first: number) => {
        for (let i = 0; i < 6; i++) {
          for (let more = first; more > 0; more--) await null;
          const [old] = await disk.read(first + i, 1);
          await disk.write(first + i, bytes(old! + i + 1));
          if (i === 2) await disk.flush();
        }
      };
      await Promise.all([strand(0), strand(20), strand(40)]);
    },
  };
  const runs: string[][] = [];
  for (const backend of ["memory", "portable", "direct"] as const) {
    if (backend === "memory") {
      const { states } = await gather({ ...options, device: { sectors: 64 } });
      runs.push(states);
      continue;
    }
    let base: Backend;
    try {
      base = await openBackend(path, { backend, readOnly: true });
    } catch {
      continue; // Not on this platform.
    }
    runs.push((await gather({ ...options, base })).states);
    runs.push((await gather({ ...options, base })).states);
    await base.close();
  }
  for (const states of runs) assertEquals(states, runs[0]);
  const other = await gather({ ...options, device: { sectors: 64 }, seed: 1 });
  assert(other.states.join() !== runs[0]!.join(), "The seed changes nothing");
});

Deno.test("exploreCrashes() starts from its base and leaves it alone", async () => {
  await using dir = await tempDir();
  const content = new Random(5).bytes(256 * 512);
  const path = await dir.file("base.img", content);
  const base = await openBackend(path, { readOnly: true });
  await exploreCrashes({
    device: {},
    base,
    workload: (disk) => disk.write(7, bytes(1)),
    async recover(disk) {
      assertEquals(disk.sectors, 256);
      const before = await disk.read(0, 7);
      assertEquals(before, content.subarray(0, 7 * 512));
      const after = await disk.read(200, 8);
      assertEquals(after, content.subarray(200 * 512, 208 * 512));
      await disk.writeZeroes(0, 256);
      await disk.flush();
    },
  });
  await base.close();
  assertEquals(await Deno.readFile(path), content);
});

Deno.test("exploreCrashes() shows each state without what the others wrote", async () => {
  const { report } = await (async () => {
    const states = new Set<string>();
    const report = await exploreCrashes({
      device: { sectors: 8 },
      async workload(disk) {
        for (let i = 0; i < 5; i++) await disk.write(i, bytes(1));
      },
      async recover(disk) {
        states.add(await look(disk));
        await disk.write(0, bytes(200, 8));
        await disk.discard(2, 2);
        assertEquals((await disk.read(1, 1))[0], 200);
        assertEquals((await disk.read(2, 1))[0], 0);
        if (states.size % 2 === 0) await disk.close();
      },
    });
    assertEquals(states.size, 32);
    return { report };
  })();
  assertEquals(report.states, 32);
});

/** A counter in sector 0 that must not go back. */
const COUNTER: CrashOptions<number> = {
  device: { sectors: 16 },
  progress: false,
  async workload(disk, acknowledge) {
    for (let n = 1; n <= 3; n++) {
      await disk.write(8, bytes(n, 4));
      await disk.write(0, bytes(n));
      await disk.flush();
      acknowledge(n);
    }
    await disk.write(0, bytes(4));
    acknowledge(4);
  },
  async recover(disk, acknowledged) {
    const [n] = await disk.read(0, 1);
    if (n! < (acknowledged.at(-1) ?? 0)) throw new Error(`It is ${n}`);
  },
};

Deno.test("CrashFailure has the smallest story and a token that replays it", async () => {
  const failure = await assertRejects(
    () => exploreCrashes(COUNTER),
    CrashFailure,
  );
  assertEquals(failure.acknowledged, [1, 2, 3, 4]);
  assertEquals(failure.story.match(/LOST/g)?.length, 1);
  assertStringIncludes(failure.story, "#10 write sector 0");
  assertStringIncludes(failure.story, "Error: It is 3");
  assertStringIncludes(failure.message, failure.token);
  assertStringIncludes(failure.message, "seed 0");
  const again = await assertRejects(
    () => replayCrash(failure.token, COUNTER),
    CrashFailure,
  );
  assertEquals(again.story, failure.story);
  let states = 0;
  const report = await exploreCrashes({
    ...COUNTER,
    only: failure.token,
    recover() {
      states++;
    },
  });
  assertEquals([states, report.states], [1, 1]);
});

Deno.test("replayCrash() refuses a token of something else", async () => {
  const { token } = await assertRejects(
    () => exploreCrashes(COUNTER),
    CrashFailure,
  );
  await assertRejects(
    () => replayCrash(token, { ...COUNTER, workload() {} }),
    RangeError,
    "explore anew",
  );
  for (const wrong of ["", "crash1", "crash2:00:1", `${token}.1x`, "💥"]) {
    await assertRejects(() => replayCrash(wrong, COUNTER), SyntaxError);
  }
  await assertRejects(
    () => replayCrash(`${token}.99x1`, COUNTER),
    RangeError,
    "does not have",
  );
});

Deno.test("exploreCrashes() shows the workload the holes that its layers tell of", async () => {
  let seen: unknown;
  await exploreCrashes({
    device: { sectors: 16 },
    layers(device) {
      const store = overlay(device);
      store.extents = (sector, count) => [{ sector, count, hole: true }];
      return store;
    },
    async workload(disk) {
      seen = await disk.extents();
    },
    recover: () => {},
    allowNoProof: true,
  });
  assertEquals(seen, [{ sector: 0, count: 16, hole: true }]);
});

Deno.test("CrashFailure keeps the failing image", async () => {
  await using dir = await tempDir();
  const path = dir.join("failed.img");
  const failure = await assertRejects(
    () => exploreCrashes({ ...COUNTER, saveImage: path }),
    CrashFailure,
  );
  const saved = await Deno.readFile(path);
  assertEquals(saved.length, 16 * 512);
  assertEquals([saved[0], saved[8 * 512]], [3, 3]);
  await using disk = failure.openImage();
  assertEquals(await disk.read(0, 16), saved);
});

Deno.test("exploreCrashes() and replayCrash() tell of the failure if its image cannot be kept", async () => {
  await using dir = await tempDir();
  const { token, message } = await assertRejects(
    () => exploreCrashes(COUNTER),
    CrashFailure,
  );
  const story = message.slice(0, message.indexOf("\n\nReplay"));
  for (const saveImage of [dir.join("missing/failed.img"), dir.path]) {
    for (
      const run of [
        () => exploreCrashes({ ...COUNTER, saveImage }),
        () => replayCrash(token, { ...COUNTER, saveImage }),
      ]
    ) {
      const failure = await assertRejects(run, CrashFailure, story);
      assertEquals(failure.token, token);
      assertMatch(failure.message, /\nThe image could not be kept: Cannot /);
      assert(failure.message.includes(saveImage), failure.message);
    }
  }
});

Deno.test("CrashFailure knows the holes of a large image", async () => {
  const failure = await assertRejects(() =>
    exploreCrashes({
      device: { sectors: 2 ** 33 },
      workload: (disk) => disk.write(2 ** 32, bytes(1, 3)),
      async recover(disk) {
        if ((await disk.read(2 ** 32 + 1, 1))[0] === 1) throw new Error("No");
      },
    }), CrashFailure);
  await using disk = failure.openImage();
  assertEquals(await disk.extents(), [
    { sector: 0, count: 2 ** 32, hole: true },
    { sector: 2 ** 32, count: 3, hole: false },
    { sector: 2 ** 32 + 3, count: 2 ** 32 - 3, hole: true },
  ]);
});

Deno.test("exploreCrashes() finds what a second crash breaks, and how to replay it", async () => {
  const options: CrashOptions = {
    device: { sectors: 8 },
    progress: false,
    async workload(disk) {
      await disk.write(0, bytes(1));
    },
    async recover(disk) {
      const [flag] = await disk.read(0, 1);
      const [marks] = await disk.read(1, 1);
      if (marks! >= 3) throw new Error("Recovered three times");
      if (flag === 1) await disk.write(1, bytes(marks! + 1));
    },
  };
  assertEquals((await exploreCrashes(options)).recoveryStates, 0);
  for (const depth of [1, 2]) {
    const report = await exploreCrashes({
      ...options,
      crashDuringRecovery: depth,
    });
    assert(report.recoveryStates >= depth, report.summary);
  }
  const deep = { ...options, crashDuringRecovery: 3 };
  const failure = await assertRejects(() => exploreCrashes(deep), CrashFailure);
  assertEquals(failure.token.split(":").length, 2 + 4);
  await assertRejects(() => replayCrash(failure.token, deep), CrashFailure);
});

Deno.test("exploreCrashes() and replayCrash() say that a recovery depends on more than its disk", async () => {
  // Fails on what is left of its own writes, and writes less from run to run.
  const forgetful = (most: number): CrashOptions => {
    let run = 0;
    return {
      device: { sectors: 8 },
      progress: false,
      crashDuringRecovery: true,
      workload: (disk) => disk.write(0, bytes(1)),
      async recover(disk) {
        const found = await disk.read(4, 4);
        if (found.some((byte) => byte !== 0)) throw new Error("Half recovered");
        const count = run++ < most ? 4 : 0;
        for (let i = 0; i < count; i++) await disk.write(4 + i, bytes(9));
      },
    };
  };
  for (const most of [1, 2, 3]) {
    const error = await assertRejects(() => exploreCrashes(forgetful(most)));
    assertStringIncludes(
      (error as Error).message,
      "it depends on more than its disk",
    );
  }
  const { token } = await assertRejects(
    () => exploreCrashes(forgetful(Infinity)),
    CrashFailure,
  );
  await assertRejects(
    () => replayCrash(token, forgetful(0)),
    RangeError,
    "the recovery does not write what it wrote when the token was printed",
  );
});

Deno.test("exploreCrashes() gives each recovery what was acknowledged, whatever another one does with it", async () => {
  for (const crashDuringRecovery of [false, true]) {
    await exploreCrashes<number>({
      device: { sectors: 8 },
      progress: false,
      crashDuringRecovery,
      async workload(disk, acknowledge) {
        for (let value = 1; value < 5; value++) {
          await disk.write(value, bytes(value));
          acknowledge(value);
        }
      },
      async recover(disk, acknowledged) {
        await disk.read(0, 1);
        await disk.write(0, bytes(1));
        const count = acknowledged.length;
        assertEquals(acknowledged, [1, 2, 3, 4].slice(0, count));
        const values = acknowledged as number[];
        for (const change of ["reverse", "pop", "push"] as const) {
          if (count > 1) assertThrows(() => values[change](9), TypeError);
        }
      },
    });
  }
});

Deno.test("exploreCrashes() stops when it is told to", async () => {
  const controller = new AbortController();
  const reason = new Error("Enough");
  let told = 0;
  const error = await assertRejects(() =>
    exploreCrashes({
      device: { sectors: 32 },
      maxStates: 10_000_000,
      signal: controller.signal,
      progress({ states, total }) {
        assert(states <= total);
        if (++told === 2) controller.abort(reason);
      },
      async workload(disk) {
        for (let i = 0; i < 30; i++) await disk.write(i, bytes(1));
      },
      recover() {},
    })
  );
  assertEquals(error, reason);
});

Deno.test("exploreCrashes() says what is wrong with its options", async () => {
  const workload = () => {};
  const recover = () => {};
  for (
    const [options, message] of [
      [{ device: {} }, "device.sectors"],
      [{ device: { sectors: 9, blockSize: 4096 } }, "whole blocks"],
      [{ device: { sectors: 8, blockSize: 300 } }, "block size"],
      [{ device: { sectors: 8, atomicWriteBytes: 700 } }, "atomicWriteBytes"],
      [{ device: { sectors: 8 }, maxStates: 0 }, "maxStates"],
      [{ device: { sectors: 8 }, crashDuringRecovery: -1 }, "crashDuring"],
      [{ device: { sectors: 8 }, seed: -1 }, "seed"],
    ] as const
  ) {
    await assertRejects(
      () => exploreCrashes({ ...options, workload, recover }),
      RangeError,
      message,
    );
  }
});

Deno.test("a crash device refuses promises that are none", async () => {
  const refused = [
    ...["reorders", "tornBlocks", "honorsFlush", "honorsFua"].flatMap((name) =>
      ["false", 0, null].map((value) => [name, value, TypeError] as const)
    ),
    ...[0, -1, 1.5, NaN, Infinity, "1", null].map((value) =>
      ["failFlushes", [1, value], RangeError] as const
    ),
    ...[1, "12", null].map((value) =>
      ["failFlushes", value, TypeError] as const
    ),
    ["sectors", "8", RangeError],
    ["atomicWriteBytes", NaN, RangeError],
  ] as const;
  for (const [name, value, type] of refused) {
    const device = { sectors: 8, [name]: value } as CrashDevice;
    const workload = () => {};
    for (
      const run of [
        () => exploreCrashes({ device, workload, recover: workload }),
        () => recordWorkload({ device, workload }),
        () => CrashRecorder.create({ device }),
      ]
    ) {
      const error = await assertRejects(run, type, `as device.${name} must be`);
      assertStringIncludes(error.message, "current value is");
    }
  }
});

Deno.test("exploreCrashes() passes on what the workload throws", async () => {
  await assertRejects(
    () =>
      exploreCrashes({
        device: { sectors: 8 },
        workload: (disk) => disk.write(8, bytes(1)),
        recover() {},
      }),
    Error,
    "the disk has 8 sectors",
  );
});

Deno.test("exploreCrashes() shows a fresh read of whatever it holds in 4 KiB blocks", async () => {
  await exploreCrashes({
    device: { sectors: 64, blockSize: 4096 },
    async workload(disk) {
      await disk.write(8, bytes(1, 8));
      await disk.write(16, bytes(2, 16));
    },
    async recover(disk) {
      assertEquals(disk.blockSize, 4096);
      for (let sector = 0; sector < 64; sector += 8) {
        const block = await disk.read(sector, 8);
        assert(block.every((byte) => byte === block[0]), "It is torn");
      }
    },
  });
});
