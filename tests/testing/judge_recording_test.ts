/**
 * Judging states side by side: every outcome, what is counted, grouped and
 * shrunk, and that neither jobs nor the clock decide what is told.
 *
 * @module
 */

import type { VirtualDisk } from "@platter/disk";
import {
  type CrashFindings,
  type CrashRecording,
  type CrashState,
  type CrashVerdict,
  type JudgeOptions,
  judgeRecording,
  recordWorkload,
} from "@platter/disk/testing";
import {
  assert,
  assertEquals,
  assertNotEquals,
  assertRejects,
} from "@std/assert";
import { failureKind } from "../../src/testing/failure_kind.ts";

const SOUND: CrashVerdict = { outcome: "sound" };

function failed(message: string): CrashVerdict {
  return { outcome: "failed", message };
}

/** Ten versions of two sectors: the second is to be as new as the first. */
function record(flushes = true): Promise<CrashRecording> {
  return recordWorkload<number>({
    device: { sectors: 16 },
    async workload(disk, acknowledge) {
      for (let version = 1; version <= 10; version++) {
        await disk.write(8, new Uint8Array(512).fill(version));
        if (flushes) await disk.flush();
        await disk.write(0, new Uint8Array(512).fill(version));
        await disk.flush();
        acknowledge(version);
      }
    },
  });
}

async function versionsOf(state: CrashState): Promise<[number, number]> {
  await using disk = state.open();
  return [(await disk.read(0, 1))[0]!, (await disk.read(8, 1))[0]!];
}

async function judge(state: CrashState): Promise<CrashVerdict> {
  const [first, second] = await versionsOf(state);
  if (first < state.acknowledged.length) return failed(`${first} is too old`);
  return second < first ? failed(`${second} is not ${first}`) : SOUND;
}

async function findingsOf(
  recording: CrashRecording,
  options: Partial<JudgeOptions>,
): Promise<CrashFindings> {
  return await judgeRecording(recording, { judge, ...options });
}

/** What the clock has no part in. */
function timeless({ report, groups, ...rest }: CrashFindings) {
  return {
    ...rest,
    report: { ...report, durationMs: 0 },
    groups: groups.map(({ state, ...group }) => ({
      ...group,
      hash: state.hash,
    })),
  };
}

Deno.test("judgeRecording() finds nothing in what is right, and says that this is all", async () => {
  await using recording = await record();
  const { report, ended, counts, groups, points, seenEachGroup } =
    await findingsOf(recording, { jobs: 3 });
  assertEquals([groups.length, ended, seenEachGroup], [0, "all", true]);
  assert(report.exhaustive, report.summary);
  assertEquals(counts, {
    sound: report.states,
    ...{ failed: 0, unstable: 0, unjudged: 0 },
  });
  let visited = 0;
  for (const point of points) visited += point.visited;
  assertEquals(visited, report.states);
});

Deno.test("judgeRecording() groups failures by kind and tells the simplest of each", async () => {
  await using recording = await record(false);
  const found: string[] = [];
  const { groups, counts, points } = await findingsOf(recording, {
    jobs: 2,
    onFailure: ({ kind }) => found.push(kind),
  });
  assertEquals(groups.map(({ kind }) => kind), ["… is not …"]);
  assertEquals(found, ["… is not …"]);
  const [group] = groups;
  assertEquals(group!.count, counts.failed);
  assertEquals(group!.message, "0 is not 1");
  assertEquals(await versionsOf(group!.state), [1, 0]);
  assertEquals(group!.story.error, ["0 is not 1"]);
  assertEquals(
    points.reduce((sum, point) => sum + point.failed, 0),
    counts.failed,
  );
});

Deno.test("judgeRecording() finds the same with one job or several, slow or fast", async () => {
  await using recording = await record(false);
  const expected = timeless(await findingsOf(recording, {}));
  for (const jobs of [1, 2, 5]) {
    let turns = jobs;
    const findings = await findingsOf(recording, {
      jobs,
      async judge(state) {
        turns = turns * 7 % 11;
        for (let turn = 0; turn < turns; turn++) await Promise.resolve();
        return await judge(state);
      },
    });
    assertEquals(timeless(findings), expected);
  }
});

Deno.test("judgeRecording() judges the same states for the same seed", async () => {
  await using recording = await recordWorkload({
    device: { sectors: 64 },
    async workload(disk) {
      for (let i = 0; i < 40; i++) {
        await disk.write(i, new Uint8Array(512).fill(i + 1));
      }
    },
  });
  const hashes = async (seed: number) => {
    const seen: string[] = [];
    const { ended, report } = await judgeRecording(recording, {
      ...{ seed, maxStates: 300 },
      judge(state) {
        seen.push(state.hash);
        return SOUND;
      },
    });
    assertEquals([ended, report.states, report.exhaustive], [
      ...["states", 300, false],
    ]);
    assertEquals(new Set(seen).size, 300);
    return seen;
  };
  assertEquals(await hashes(5), await hashes(5));
  assert(`${await hashes(5)}` !== `${await hashes(6)}`);
});

Deno.test("judgeRecording() judges the state of a token alone, and no token of another recording", async () => {
  await using recording = await record(false);
  const { groups: [group] } = await findingsOf(recording, {});
  const { token } = group!;
  const hashes: string[] = [];
  const { groups, counts, report } = await findingsOf(recording, {
    only: token,
    judge(state) {
      hashes.push(state.hash);
      return judge(state);
    },
  });
  assertEquals(hashes, Array(3).fill(group!.state.hash));
  assertEquals(counts.failed, 1);
  assertEquals([report.states, report.exhaustive], [1, false]);
  assertEquals(groups.map((one) => one.token), [token]);
  await using other = await record(true);
  await assertRejects(
    () => findingsOf(other, { only: token }),
    RangeError,
    "of another recording",
  );
});

Deno.test("judgeRecording() calls what fails once and not again unstable", async () => {
  await using recording = await record();
  const calls = new Map<string, number>();
  const { groups, counts, unstable, report } = await findingsOf(recording, {
    judge(state) {
      const call = (calls.get(state.token) ?? 0) + 1;
      calls.set(state.token, call);
      return calls.size === 5 && call === 1 || calls.size === 6 && call < 3
        ? failed("Now and then")
        : SOUND;
    },
  });
  assertEquals(groups, []);
  assertEquals(counts.unstable, 2);
  assertEquals(counts.sound, report.states - 2);
  assertEquals(
    unstable.map(({ verdicts }) => verdicts.map(({ outcome }) => outcome)),
    [["failed", "sound"], ["failed", "failed", "sound"]],
  );
});

Deno.test("judgeRecording() counts what cannot be judged, once each", async () => {
  await using recording = await record();
  let calls = 0;
  const { counts, unjudged, groups } = await findingsOf(recording, {
    judge(state) {
      calls++;
      return state.acknowledged.length === 3
        ? { outcome: "unjudged", message: "No tool" }
        : SOUND;
    },
  });
  assertEquals(groups, []);
  assert(counts.unjudged > 0);
  assertEquals(unjudged.length, counts.unjudged);
  assertEquals(calls, counts.unjudged + counts.sound);
});

Deno.test("judgeRecording() copies what was acknowledged once for states with as much, frozen", async () => {
  await using recording = await record();
  const copies: (readonly unknown[])[] = [];
  const { report } = await findingsOf(recording, {
    judge(state) {
      const { acknowledged } = state;
      if (copies.at(-1) !== acknowledged) copies.push(acknowledged);
      const count = acknowledged.length;
      assertEquals(acknowledged, recording.acknowledged.slice(0, count));
      assert(Object.isFrozen(acknowledged));
      return SOUND;
    },
  });
  const changes = copies.filter(({ length }, i) =>
    length !== copies[i - 1]?.length
  );
  assertEquals(copies.length, changes.length);
  assert(report.states > copies.length, report.summary);
});

Deno.test("judgeRecording() refuses what a judge says that is no verdict, and counts nothing of it", async () => {
  await using recording = await record();
  for (
    const said of [
      ...[undefined, null, "sound", 0, true, {}, []],
      ...[{ outcome: "good" }, { outcome: "failed" }, { outcome: "unjudged" }],
      { outcome: "failed", message: 5 },
      { outcome: "failed", message: "It is", output: new Uint8Array(1) },
    ]
  ) {
    for (const crashDuringRecovery of [false, true]) {
      const judge = () => said as CrashVerdict;
      await assertRejects(
        () => findingsOf(recording, { judge, crashDuringRecovery }),
        TypeError,
        "as the judge must return a verdict",
      );
    }
  }
});

Deno.test("judgeRecording() fails what does not end in its time, and ends it", async () => {
  await using recording = await record();
  let ended = 0;
  const { groups, counts } = await findingsOf(recording, {
    ...{ maxStates: 4, judgeTimeoutMs: 20, maxShrinkStates: 0, jobs: 2 },
    judge: (state, _job, signal) =>
      state.acknowledged.length === 0 ? SOUND : new Promise((_, reject) => {
        signal.addEventListener("abort", () => {
          ended++;
          reject(signal.reason);
        });
      }),
  });
  assertEquals(groups.map(({ message }) => message), [
    "The check has not ended within 20 ms",
  ]);
  assertEquals(ended, 3 * counts.failed);
});

Deno.test("judgeRecording() returns what it has when it is given up", async () => {
  await using recording = await record(false);
  const controller = new AbortController();
  let running = 0;
  const findings = await findingsOf(recording, {
    jobs: 2,
    signal: controller.signal,
    async judge(state, _job, signal) {
      running++;
      const verdict = await judge(state);
      if (verdict.outcome === "failed") controller.abort();
      await Promise.resolve();
      running--;
      return signal.aborted ? SOUND : verdict;
    },
  });
  assertEquals(findings.ended, "aborted");
  assertEquals(findings.report.exhaustive, false);
  assertEquals(running, 0);
});

Deno.test("judgeRecording() takes no state after its time", async () => {
  await using recording = await record();
  const { ended, report, seenEachGroup, counts } = await findingsOf(recording, {
    budgetMs: 1,
    async judge() {
      await new Promise((resolve) => setTimeout(resolve, 5));
      return SOUND;
    },
  });
  assertEquals([ended, seenEachGroup], ["time", false]);
  assert(report.states <= 1 && counts.sound === report.states);
  assertEquals(report.exhaustive, false);
});

Deno.test("judgeRecording() passes on what a judge throws, and ends the others", async () => {
  await using recording = await record();
  let running = 0;
  await assertRejects(
    () =>
      findingsOf(recording, {
        jobs: 3,
        async judge(_state, job) {
          running++;
          await Promise.resolve();
          running--;
          if (job === 1) throw new TypeError("No verdict");
          return SOUND;
        },
      }),
    TypeError,
    "No verdict",
  );
  assertEquals(running, 0);
});

Deno.test("judgeRecording() gives each judge a state of its own", async () => {
  await using recording = await record();
  await findingsOf(recording, {
    jobs: 4,
    async judge(state) {
      const before = await versionsOf(state);
      {
        await using disk = state.open();
        await disk.write(0, new Uint8Array(16 * 512).fill(99));
        assertEquals((await disk.read(8, 1))[0], 99);
      }
      await new Promise((resolve) => setTimeout(resolve, 0));
      assertEquals(await versionsOf(state), before);
      const changes = state.changes();
      assertEquals(
        [changes.get(0)?.[0] ?? 0, changes.get(8)?.[0] ?? 0],
        before,
      );
      return SOUND;
    },
  });
});

Deno.test("judgeRecording() tells all that a state has changed of what was prepared, and no more", async () => {
  const write = (disk: VirtualDisk, sector: number, value: number) =>
    disk.write(sector, new Uint8Array(2 * 512).fill(value));
  await using recording = await recordWorkload({
    device: { sectors: 64 },
    async prepare(disk) {
      for (const sector of [0, 8, 16]) await write(disk, sector, 1);
    },
    async workload(disk) {
      // One over what is there, one beside it, and one that changes nothing.
      for (const [sector, value] of [[1, 2], [24, 2], [16, 1]] as const) {
        await write(disk, sector, value);
      }
      await disk.flush();
      await disk.discard(8, 1);
      await write(disk, 24, 3);
    },
  });
  const before = new Uint8Array(64 * 512);
  for (const sector of [0, 8, 16]) {
    before.fill(1, sector * 512, (sector + 2) * 512);
  }
  const seen = new Set<number>();
  await findingsOf(recording, {
    async judge(state) {
      const image = before.slice();
      for (const [block, bytes] of state.changes()) {
        assertNotEquals(bytes, before.subarray(block * 512, block * 512 + 512));
        image.set(bytes, block * 512);
        seen.add(block);
      }
      await using disk = state.open();
      assertEquals(image, await disk.read(0, 64));
      return SOUND;
    },
  });
  assertEquals([...seen].sort((a, b) => a - b), [1, 2, 8, 24, 25]);
});

Deno.test("judgeRecording() says how far it is", async () => {
  await using recording = await record(false);
  const seen: [number, number | null, number][] = [];
  const { report, counts } = await findingsOf(recording, {
    onProgress: ({ states, total, groups }) =>
      seen.push([states, total, groups]),
  });
  assertEquals(seen.at(-1), [report.states, seen[0]![1], 1]);
  assert(seen[0]![1]! >= report.states);
  assertEquals(counts.sound + counts.failed, report.states);
});

for (
  const [name, value] of [
    ["jobs", 0],
    ["maxStates", 0],
    ["budgetMs", -1],
    ["judgeTimeoutMs", 2 ** 31],
    ["maxShrinkStates", 0.5],
    ["crashDuringRecovery", -1],
    ["maxStatesPerRecovery", 0],
    ["shrinkMs", -1],
  ] as const
) {
  Deno.test(`judgeRecording() refuses ${name} of ${value}`, async () => {
    await using recording = await record();
    await assertRejects(
      () => findingsOf(recording, { [name]: value }),
      RangeError,
      `Cannot judge crash states as ${name} must be a safe integer from`,
    );
  });
}

Deno.test("failureKind() takes the last line without what differs", () => {
  for (
    const [message, kind] of [
      ["3 of 5 rows are gone", "… of … rows are gone"],
      ["log\nPage 17 is torn\n\n", "Page … is torn"],
      ["/tmp/x1/disk.img: broken at 0x7f3a", "…: broken at …"],
      ["object 1c002dd4b536e7479fe3 missing", "object … missing"],
      ["\x1b[31mRow  1,024\x1b[0m lost", "Row … lost"],
      ["faded and decoded", "faded and decoded"],
      ["", ""],
    ] as const
  ) assertEquals(failureKind(message), kind);
});

/** A log whose recovery moves a record to its place, and clears the log. */
async function recordLog(): Promise<CrashRecording> {
  return await recordWorkload<number>({
    device: { sectors: 32, failFlushes: [3] },
    async workload(disk, acknowledge) {
      for (let version = 1; version <= 2; version++) {
        await disk.write(0, new Uint8Array(512).fill(version));
        await disk.flush();
        acknowledge(version);
      }
    },
  });
}

/** Recovers, and looks for what was promised. */
function recovering(flushes: boolean): JudgeOptions["judge"] {
  return async (state) => {
    await using disk = state.open();
    const [logged] = await disk.read(0, 1);
    if (logged !== 0) {
      await disk.write(8, new Uint8Array(512).fill(logged!));
      if (flushes) await disk.flush();
      await disk.write(0, new Uint8Array(512));
      await disk.flush();
    }
    const [found] = await disk.read(8, 1);
    const promised = state.acknowledged.length;
    return found! < promised ? failed(`${promised} is lost`) : SOUND;
  };
}

Deno.test("judgeRecording() finds a recovery that a second crash breaks, if crashDuringRecovery says so", async () => {
  await using recording = await recordLog();
  const judge = recovering(false);
  const once = await findingsOf(recording, { judge });
  assertEquals([once.groups.length, once.report.recoveryStates], [0, 0]);
  const found: string[] = [];
  const { groups, counts, recoveryCounts, report } = await findingsOf(
    recording,
    {
      judge,
      crashDuringRecovery: true,
      onFailure: ({ token }) => found.push(token),
    },
  );
  assertEquals(counts, once.counts);
  assertEquals(report.states, once.report.states);
  const { sound, failed, unstable, unjudged } = recoveryCounts;
  assertEquals(report.recoveryStates, sound + failed + unstable + unjudged);
  assert(sound > 0 && failed > 0);
  assertEquals(groups.length, 1);
  const [group] = groups;
  assertEquals(found.length, 1);
  assertEquals(group!.kind, "… is lost (after a crash during recovery)");
  assertEquals([group!.count, group!.crashes], [failed, 2]);
  assertEquals(group!.story.crashes.length, 2);
  assertEquals(group!.token.split(":").length, 4);
  // The log is cleared, and what it said is not in its place.
  assertEquals(await versionsOf(group!.state), [0, 0]);
  assert((await versionsOf(group!.whole))[1] > 0);
  assertEquals(group!.state.changes().get(8), undefined);

  const replayed = await findingsOf(recording, {
    judge,
    only: group!.token,
  });
  assertEquals(replayed.groups[0]!.token, group!.token);
  assertEquals(
    replayed.groups[0]!.story.crashes,
    group!.story.crashes,
  );
  assertEquals([replayed.report.states, replayed.report.recoveryStates], [
    1,
    1,
  ]);
});

Deno.test("judgeRecording() finds nothing in a recovery that may be interrupted, and that this is all", async () => {
  await using recording = await recordLog();
  for (const crashDuringRecovery of [1, 2]) {
    const { groups, report, ended } = await findingsOf(recording, {
      judge: recovering(true),
      jobs: 2,
      crashDuringRecovery,
      maxStatesPerRecovery: 100,
    });
    assertEquals(groups.length, 0);
    assertEquals([report.exhaustive, ended], [true, "all"]);
    assert(report.recoveryStates > 0);
  }
});

Deno.test("judgeRecording() judges what interrupted recoveries leave alike once, whatever the jobs", async () => {
  await using recording = await recordLog();
  const options = { judge: recovering(false), crashDuringRecovery: 2 } as const;
  const expected = timeless(await findingsOf(recording, options));
  for (const jobs of [2, 5]) {
    const seen = new Map<string, number>();
    let turns = jobs;
    const findings = await findingsOf(recording, {
      ...options,
      jobs,
      maxShrinkStates: 0,
      async judge(state, job, signal) {
        turns = turns * 7 % 11;
        for (let turn = 0; turn < turns; turn++) await Promise.resolve();
        const verdict = await options.judge(state, job, signal);
        const steps = state.token.split(":").length;
        if (verdict.outcome === "sound" && steps > 3) {
          const key = `${state.recorded} ${state.hash}`;
          seen.set(key, (seen.get(key) ?? 0) + 1);
        }
        return verdict;
      },
    });
    assertEquals(findings.counts, expected.counts);
    assertEquals(findings.recoveryCounts, expected.recoveryCounts);
    assertEquals(
      findings.groups.map(({ kind, count }) => [kind, count]),
      expected.groups.map(({ kind, count }) => [kind, count]),
    );
    assert(seen.size > 1);
    assertEquals([...seen.values()].filter((count) => count > 1), []);
  }
});

Deno.test("judgeRecording() judges no more of each recovery than maxStatesPerRecovery", async () => {
  await using recording = await recordLog();
  const { report, counts } = await findingsOf(recording, {
    judge: recovering(true),
    crashDuringRecovery: true,
    maxStatesPerRecovery: 1,
  });
  assert(report.recoveryStates <= counts.sound);
  assert(!report.exhaustive);
});

Deno.test("judgeRecording() refuses a token whose second crash is not in what the recovery does", async () => {
  await using recording = await recordLog();
  const options = { judge: recovering(false), crashDuringRecovery: true };
  const { groups } = await findingsOf(recording, options);
  const only = `${groups[0]!.token.replace(/:[^:]*$/, "")}:99`;
  await assertRejects(
    () => findingsOf(recording, { ...options, only }),
    RangeError,
    "as the recovery does not write what it wrote when the token was made",
  );
});
