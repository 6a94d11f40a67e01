/**
 * In which order states are visited: planted bugs are found within so many of
 * them, and a small budget sees what is rare and something of every part.
 *
 * @module
 */

import {
  CrashFailure,
  exploreCrashes,
  judgeRecording,
  recordWorkload,
} from "@platter/disk/testing";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { LONG } from "../helpers.ts";
import { CrashOrder } from "../../src/testing/crash_order.ts";
import { levelOf } from "../../src/testing/crash_level.ts";
import { Visited } from "../../src/testing/visited.ts";
import { PLANTED } from "./planted_bugs.ts";

const SEEDS = LONG ? 9 : 3;

/** States within which each bug is found by most seeds. */
const BOUNDS: Record<string, number> = {
  "missing flush in 1 epoch of 100": 30,
  "1 early acknowledgement of 400": 10,
  "middle of 5 versions": 40,
  "2 of 200 lost, rest free": 40,
  "torn page 4+4 of 50": 200,
  "torn page of 8 in 1 epoch of 60": 1000,
  "1 block of 1 write in 200 epochs": 2700,
};

Deno.test("every planted bug has a bound", () => {
  assertEquals(Object.keys(BOUNDS), Object.keys(PLANTED));
});

for (const [name, bound] of Object.entries(BOUNDS)) {
  Deno.test(`exploreCrashes() finds within ${bound} states: ${name}`, async () => {
    const states: number[] = [];
    for (let seed = 0; seed < SEEDS; seed++) {
      const { sectors, workload, recover } = PLANTED[name]!(seed);
      const failure = await assertRejects(
        () =>
          exploreCrashes<number>({
            device: { sectors },
            ...{ workload, recover, seed, maxStates: 20_000, progress: false },
          }),
        CrashFailure,
      );
      states.push(failure.report!.states);
    }
    states.sort((a, b) => a - b);
    const median = states[SEEDS >> 1]!;
    assert(median <= bound, `${median} states: ${states.join(", ")}`);
  });
}

/** Epochs of two writes; one of them lacks its flush. */
function record(epochs: number, missing = -1) {
  return recordWorkload<number>({
    device: { sectors: 4096 },
    async workload(disk, acknowledge) {
      for (let epoch = 1; epoch <= epochs; epoch++) {
        await disk.write(epoch, new Uint8Array(512).fill(epoch));
        if (epoch !== missing) await disk.flush();
        await disk.write(0, new Uint8Array(512).fill(epoch));
        await disk.flush();
        acknowledge(epoch);
      }
    },
  });
}

Deno.test("a budget below the number of crash points sees the rare ones, and all parts of the recording", async () => {
  const epochs = 200;
  await using recording = await record(epochs, 77);
  const { points, report, seenEachGroup } = await judgeRecording(recording, {
    maxStates: 100,
    judge: () => ({ outcome: "sound" }),
  });
  assert(seenEachGroup);
  assert(report.points > 300, report.summary);
  const last = recording.events.length;
  // The epoch that is unlike the others, four states of it.
  const rare = recording.requests.findIndex(({ sector }) => sector === 77);
  const at = recording.requests[rare + 1]!.submittedAt;
  const seen = points.filter(({ point }) => point > at && point < at + 4);
  assert(seen.reduce((sum, { visited }) => sum + visited, 0) >= 3);
  for (let part = 0; part < 8; part++) {
    const [from, to] = [part, part + 1].map((end) => end * last / 8);
    assert(
      points.some(({ point }) => point >= from! && point <= to!),
      `Nothing of part ${part}`,
    );
  }
});

Deno.test("CrashOrder shows each state once, as its position says, from wherever it comes", async () => {
  await using recording = await record(12, 5);
  const level = levelOf(recording);
  const order = new CrashOrder(level, {
    ...{ maxStates: 10_000, seed: 1, depth: 0, thorough: true },
    visited: new Visited(),
  });
  const shown = new Set<string>();
  const { position } = order;
  let states = 0;
  while (order.next()) {
    states++;
    const sectors: number[] = [];
    for (let sector = 0; sector <= 12; sector++) {
      sectors.push(position.image.peek(sector)![0]!);
    }
    shown.add(`${sectors.join(" ")} | ${position.acknowledged.join(" ")}`);
  }
  assertEquals(shown.size, states);
  assertEquals(order.exhaustive, true);
  // Each epoch: before its first flush, its second and its acknowledgement, one
  // state more at each; four where a flush is missing, and the empty disk.
  assertEquals(states, 1 + 11 * 3 + 4);
});

Deno.test("exploreCrashes() leaves nothing open where a write changes nothing", async () => {
  for (
    const device of [
      {},
      { reorders: false },
      { tornBlocks: true },
      { atomicWriteBytes: 512 },
      { reorders: false, tornBlocks: true, atomicWriteBytes: 1024 },
    ]
  ) {
    const report = await exploreCrashes({
      device: { sectors: 64, ...device },
      maxStates: 4,
      progress: false,
      async prepare(disk) {
        await disk.write(0, new Uint8Array(60 * 512).fill(7));
      },
      async workload(disk) {
        await disk.write(0, new Uint8Array(60 * 512).fill(7));
        await disk.write(61, new Uint8Array(512).fill(1).fill(0, 1));
        await disk.write(0, new Uint8Array(60 * 512).fill(7));
      },
      async recover(disk) {
        await disk.read(0, 64);
      },
    });
    assertEquals([report.states, report.exhaustive], [2, true]);
  }
});
