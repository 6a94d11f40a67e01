/**
 * That explorations end: whatever a workload or a recovery does, and whenever
 * they are given up; and that they do not call a proof what is none.
 *
 * @module
 */

import { readRequest, VirtualDisk } from "@platter/disk";
import {
  CrashFailure,
  type CrashOptions,
  exploreCrashes,
  RecoveryTimeout,
  replayCrash,
} from "@platter/disk/testing";
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";

import { ZeroSource } from "../../src/testing/block_source.ts";
import { completeCrashDevice } from "../../src/testing/crash_device.ts";
import { CrashRecorder } from "../../src/testing/crash_recorder.ts";
import { CrashGuard, CrashWatchdog } from "../../src/testing/crash_watchdog.ts";

const BLOCK = new Uint8Array(512).fill(7);

/** A workload of two writes; its recovery is yet to be told. */
const TWO_WRITES: Omit<CrashOptions, "recover"> = {
  device: { sectors: 8 },
  progress: false,
  recoveryTimeoutMs: 50,
  async workload(disk) {
    await disk.write(0, BLOCK);
    await disk.flush();
    await disk.write(1, BLOCK);
  },
};

/** Whether the write of sector 1 is there: then it goes wrong. */
async function isThere(disk: VirtualDisk): Promise<boolean> {
  return (await disk.read(1, 1))[0] === 7;
}

/** Tries, whatever comes of it. */
async function attempt(action: () => Promise<unknown>): Promise<void> {
  try {
    await action();
  } catch {
    // It goes on.
  }
}

const never = () => new Promise<void>(() => {});

/** Recoveries that do not end. */
const ENDLESS: Record<string, (disk: VirtualDisk) => Promise<void>> = {
  "reads for ever": async (disk) => {
    for (;;) await disk.read(0, 8);
  },
  "writes for ever": async (disk) => {
    for (;;) await disk.write(3, BLOCK);
  },
  "reads for ever, whatever fails": async (disk) => {
    for (;;) await attempt(() => disk.read(0, 1));
  },
  "writes and flushes for ever, whatever fails": async (disk) => {
    for (;;) {
      await attempt(() => disk.write(3, BLOCK));
      await attempt(() => disk.flush());
    }
  },
  "has many readers that read for ever": async (disk) => {
    await Promise.all(Array.from({ length: 40 }, async (_, i) => {
      for (;;) await disk.read(i % 8, 1);
    }));
  },
  "reads beyond its disk for ever, whatever fails": async (disk) => {
    for (;;) await attempt(() => disk.read(8, 1));
  },
  "submits for ever what its queue refuses": async (disk) => {
    const request = readRequest(8, new Uint8Array(512));
    for (;;) await disk.submit(request);
  },
  "reads for ever by a signal that has fired": async (disk) => {
    const signal = AbortSignal.abort();
    for (;;) await attempt(() => disk.read(0, 1, { signal }));
  },
  "uses its disk for ever when it is closed": async (disk) => {
    await disk.close();
    for (;;) {
      await attempt(() => disk.flush());
      await attempt(() => disk.extents());
    }
  },
  "asks for extents for ever": async (disk) => {
    for (;;) await disk.extents();
  },
  "asks for extents beyond its disk for ever, whatever fails": async (disk) => {
    for (;;) await attempt(() => disk.extents(8, 1));
  },
  "waits for what never comes": never,
  "waits for ever when its reads fail": async (disk) => {
    for (;;) await disk.read(0, 1).catch(never);
  },
};

for (const [title, endless] of Object.entries(ENDLESS)) {
  for (const crashDuringRecovery of [false, true]) {
    const interrupted = crashDuringRecovery ? ", interrupted or not" : "";
    Deno.test(`exploreCrashes() fails with story and token if a recovery ${title}${interrupted}`, async () => {
      const options: CrashOptions = {
        ...TWO_WRITES,
        crashDuringRecovery,
        async recover(disk) {
          if (await isThere(disk)) await endless(disk);
        },
      };
      const failure = await assertRejects(
        () => exploreCrashes(options),
        CrashFailure,
      );
      assertInstanceOf(failure.cause, RecoveryTimeout);
      assertStringIncludes(failure.story, "#3 write sector 1");
      assertStringIncludes(failure.story, "has not ended within 50 ms");
      const again = await assertRejects(
        () => replayCrash(failure.token, options),
        CrashFailure,
      );
      assertEquals(again.story, failure.story);
    });
  }
}

Deno.test("exploreCrashes() fails with both crashes if a recovery after a second one does not end", async () => {
  const options: CrashOptions = {
    ...TWO_WRITES,
    crashDuringRecovery: true,
    async recover(disk) {
      if ((await disk.read(2, 1))[0] === 7) { for (;;) await disk.read(0, 1); }
      if (await isThere(disk)) await disk.write(2, BLOCK);
    },
  };
  const failure = await assertRejects(
    () => exploreCrashes(options),
    CrashFailure,
  );
  assertInstanceOf(failure.cause, RecoveryTimeout);
  assertStringIncludes(failure.story, "it was interrupted as well");
  assertEquals(failure.token.split(":").length, 4);
});

Deno.test("exploreCrashes() fails what a recovery asks of its disk after its time, so that it can end", async () => {
  const errors: unknown[] = [];
  await assertRejects(() =>
    exploreCrashes({
      ...TWO_WRITES,
      async recover(disk) {
        if (!await isThere(disk)) return;
        try {
          for (;;) await disk.read(0, 1);
        } catch (error) {
          errors.push(error);
        }
      },
    }), CrashFailure);
  assert(errors.length > 0);
  for (const error of errors) assertInstanceOf(error, RecoveryTimeout);
});

Deno.test("exploreCrashes() does not count the time of one recovery to the next", async () => {
  let states = 0;
  const report = await exploreCrashes({
    ...TWO_WRITES,
    recoveryTimeoutMs: 5000,
    async recover(disk) {
      await disk.read(0, 1);
      await new Promise((resolve) => setTimeout(resolve, 20));
      states++;
    },
  });
  assertEquals([report.states, states], [3, 3]);
  assertEquals(report.exhaustive, true);
});

/** Where an exploration may be when it is given up, and what it does there. */
const BUSY: Record<string, Partial<CrashOptions>> = {
  "preparing": { prepare: (disk) => ENDLESS["reads for ever"]!(disk) },
  "recording": { workload: (disk) => ENDLESS["reads for ever"]!(disk) },
  "preparing by what its disk refuses": {
    prepare: (disk) =>
      ENDLESS["reads beyond its disk for ever, whatever fails"]!(
        disk.slice(0, 8),
      ),
  },
  "recording what asks for extents only": {
    workload: (disk) => ENDLESS["asks for extents for ever"]!(disk),
  },
  "recording what does not settle": { workload: never },
  "recording what goes on in spite of errors": {
    workload: (disk) => ENDLESS["reads for ever, whatever fails"]!(disk),
  },
  "recovering": { recover: (disk) => ENDLESS["reads for ever"]!(disk) },
  "recovering by what does not settle": { recover: never },
  "recovering in spite of errors": {
    recover: (disk) => ENDLESS["reads for ever, whatever fails"]!(disk),
  },
  "recovering, interrupted or not": {
    crashDuringRecovery: true,
    recover: (disk) => ENDLESS["reads for ever"]!(disk),
  },
  "between states": {
    async workload(disk) {
      for (let i = 0; i < 32; i++) await disk.write(i, BLOCK);
    },
    maxStates: 100_000_000,
    recover: async (disk) => void await disk.read(0, 1),
  },
};

for (const [where, options] of Object.entries(BUSY)) {
  Deno.test(`exploreCrashes() hears its signal while it is ${where}`, async () => {
    const controller = new AbortController();
    const reason = new Error("Enough");
    const timer = setTimeout(() => controller.abort(reason), 30);
    const error = await assertRejects(() =>
      exploreCrashes({
        ...TWO_WRITES,
        device: { sectors: 32 },
        recoveryTimeoutMs: 300,
        recover: async (disk) => void await disk.read(0, 1),
        ...options,
        signal: controller.signal,
      })
    );
    clearTimeout(timer);
    assertEquals(error, reason);
  });
}

Deno.test("exploreCrashes() rejects if its signal fired before", async () => {
  const reason = new Error("Never");
  const error = await assertRejects(() =>
    exploreCrashes({
      ...TWO_WRITES,
      recover: async (disk) => void await disk.read(0, 1),
      signal: AbortSignal.abort(reason),
    })
  );
  assertEquals(error, reason);
});

Deno.test("exploreCrashes() refuses a time that no timer has", async () => {
  for (const recoveryTimeoutMs of [0, -1, 1.5, NaN, Infinity, 2 ** 31]) {
    await assertRejects(
      () => exploreCrashes({ ...TWO_WRITES, recoveryTimeoutMs, recover() {} }),
      RangeError,
      "recoveryTimeoutMs must be a safe integer from 1 to 2147483647",
    );
  }
});

/** What proves nothing, and what is wrong with it. */
const NO_PROOF: Record<string, [CrashOptions, string]> = {
  "the workload writes nothing": [{
    ...TWO_WRITES,
    async workload(disk) {
      await disk.read(0, 1);
      await disk.flush();
    },
    recover: async (disk) => void await disk.read(0, 1),
  }, "the workload wrote nothing"],
  "only the preparation writes": [{
    ...TWO_WRITES,
    prepare: (disk) => disk.write(0, BLOCK),
    workload() {},
    recover: async (disk) => void await disk.read(0, 1),
  }, "the workload wrote nothing"],
  "the device ignores all that the workload does": [{
    ...TWO_WRITES,
    device: { sectors: 8, discarded: "old" },
    workload: (disk) => disk.discard(0, 8),
    recover: async (disk) => void await disk.read(0, 1),
  }, "the workload wrote nothing"],
  "no recovery reads": [
    { ...TWO_WRITES, recover() {} },
    "no recovery read anything",
  ],
  "recoveries only write": [{
    ...TWO_WRITES,
    crashDuringRecovery: true,
    recover: (disk) => disk.write(0, BLOCK),
  }, "no recovery read anything"],
};

for (const [title, [options, message]] of Object.entries(NO_PROOF)) {
  Deno.test(`exploreCrashes() is no proof, and fails unless that is allowed, if ${title}`, async () => {
    await assertRejects(() => exploreCrashes(options), Error, message);
    const report = await exploreCrashes({ ...options, allowNoProof: true });
    assertStringIncludes(report.summary, `no proof as ${message}`);
  });
}

Deno.test("exploreCrashes() counts the flushes that fail from where the workload begins", async () => {
  let failed = 0;
  await exploreCrashes({
    ...TWO_WRITES,
    device: { sectors: 8, failFlushes: [2] },
    async prepare(disk) {
      for (let i = 0; i < 3; i++) await disk.flush();
    },
    async workload(disk) {
      await disk.write(0, BLOCK);
      await disk.flush();
      await attempt(() => disk.flush());
      failed += disk.failure === null ? 0 : 1;
    },
    recover: async (disk) => void await disk.read(0, 1),
  });
  assertEquals(failed, 1);
});

for (const crashDuringRecovery of [false, true]) {
  for (const discarded of ["old", "zero"] as const) {
    const interrupted = crashDuringRecovery ? ", interrupted or not," : "";
    Deno.test(`exploreCrashes() shows a recovery${interrupted} what it discarded as the device has it: ${discarded}`, async () => {
      await exploreCrashes({
        ...TWO_WRITES,
        device: { sectors: 8, discarded },
        crashDuringRecovery,
        async recover(disk) {
          await disk.write(4, BLOCK);
          await disk.discard(4, 1);
          const [first] = await disk.read(4, 1);
          assertEquals(first, discarded === "old" ? 7 : 0);
        },
      });
    });
  }
}

Deno.test("exploreCrashes() hands out memory that begins inside of its buffer, as real disks do", async () => {
  const offsets = new Set<number>();
  for (const crashDuringRecovery of [false, true]) {
    await exploreCrashes({
      ...TWO_WRITES,
      crashDuringRecovery,
      async workload(disk) {
        const memory = disk.allocate(1);
        offsets.add(memory.byteOffset);
        await disk.write(0, memory.fill(1));
      },
      async recover(disk) {
        const memory = disk.allocate(1);
        offsets.add(memory.byteOffset);
        await disk.readInto(0, memory);
      },
    });
  }
  assert(!offsets.has(0));
});

Deno.test("CrashRecorder keeps no more of endless writes than it may", async () => {
  const watchdog = new CrashWatchdog(2 ** 31 - 1, undefined);
  const guard = new CrashGuard(watchdog);
  const recorder = new CrashRecorder(
    completeCrashDevice({ sectors: 8 }),
    new ZeroSource(512),
    { origins: false, turns: false, guard, mostBytes: 100_000 },
  );
  const disk = VirtualDisk.over(recorder.open());
  const error = await assertRejects(
    () => watchdog.wait(ENDLESS["writes for ever"]!(disk), guard, true),
  );
  watchdog.end();
  assertInstanceOf(error, RecoveryTimeout);
  assertStringIncludes(error.message, "100000 bytes of writes");
  assert(recorder.requests < 100);
});
