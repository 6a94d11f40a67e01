/**
 * A recovery in workers finds what it finds in this thread, and ends with it.
 * Run by `explore_in_workers_test.ts`, in a process of its own.
 *
 * @module
 */

import { MemoryBackend, VirtualDisk } from "@platter/disk";
import {
  CrashFailure,
  type CrashOptions,
  exploreCrashes,
  exploreRecording,
  recordWorkload,
  replayCrash,
} from "@platter/disk/testing";
import { assertEquals, assertRejects } from "@std/assert";
import recover, {
  ENDLESS,
  NEWEST,
  RESETTING,
  SLOW,
  WRITING,
} from "./recovery.ts";

const MODULE = new URL("./recovery.ts", import.meta.url);

/** Ten versions, of which one lacks a flush if it is to. */
function versions(
  missing: number,
  sectors = NEWEST,
): Omit<CrashOptions<number>, "recover"> {
  return {
    device: { sectors },
    progress: false,
    async workload(disk, acknowledge) {
      for (let version = 1; version <= 10; version++) {
        await disk.write(8, new Uint8Array(512).fill(version));
        if (version !== missing) await disk.flush();
        await disk.write(0, new Uint8Array(512).fill(version));
        await disk.flush();
        acknowledge(version);
      }
    },
  };
}

Deno.test("exploreCrashes() in workers visits as many states as in one thread", async () => {
  for (
    const options of [
      versions(0),
      // Fewer than there are, so that it counts which ones are taken.
      ...[1, 2].map((crashDuringRecovery) => ({
        ...versions(0, RESETTING),
        ...{ crashDuringRecovery, maxStatesPerRecovery: 5 },
      })),
    ]
  ) {
    const { durationMs: _, ...expected } = await exploreCrashes<number>({
      ...options,
      recover,
    });
    for (const jobs of [1, 3]) {
      const { durationMs: _, ...report } = await exploreCrashes<number>({
        ...options,
        ...{ recover: MODULE, jobs },
      });
      assertEquals(report, expected);
    }
  }
});

Deno.test("exploreRecording() in workers gives up whenever its signal fires", async () => {
  await using recording = await recordWorkload<number>(versions(0));
  // The first is while the recording is saved, the others come later and later.
  for (const turns of [0, 1, 2, 4, 8]) {
    const controller = new AbortController();
    const reason = new Error("given up");
    const explored = exploreRecording<number>(recording, {
      recover: MODULE,
      ...{ jobs: 2, progress: false, signal: controller.signal },
    });
    const rejected = assertRejects(() => explored, Error, "given up");
    for (let turn = 0; turn < turns; turn++) await Promise.resolve();
    controller.abort(reason);
    await rejected;
  }
});

Deno.test("exploreCrashes() in workers tells of the same failure as in one thread", async () => {
  const options = versions(7);
  const expected = await assertRejects(
    () => exploreCrashes<number>({ ...options, recover }),
    CrashFailure,
  );
  const inWorkers = { ...options, recover: MODULE, jobs: 3 };
  const failure = await assertRejects(
    () => exploreCrashes<number>(inWorkers),
    CrashFailure,
  );
  assertEquals(failure.token, expected.token);
  assertEquals(failure.story, expected.story);
  assertEquals(failure.report?.states, expected.report?.states);
  assertEquals(failure.acknowledged, expected.acknowledged);
  assertEquals((failure.cause as Error).message, "The data of 7 is 6");
  await using image = failure.openImage();
  await using same = expected.openImage();
  assertEquals(await image.read(0, 16), await same.read(0, 16));
  const unkept = await assertRejects(
    () =>
      exploreCrashes<number>({
        ...inWorkers,
        saveImage: MODULE.pathname + "/0",
      }),
    CrashFailure,
    "The image could not be kept: Cannot",
  );
  assertEquals(unkept.token, expected.token);
  const again = await assertRejects(
    () => replayCrash<number>(failure.token, inWorkers),
    CrashFailure,
  );
  assertEquals(again.story, expected.story);
});

Deno.test("exploreCrashes() in workers reads a base, and interrupts recoveries", async () => {
  const base = new MemoryBackend({ sectors: WRITING });
  await VirtualDisk.over(base).write(3, new Uint8Array(512).fill(3));
  const options = {
    device: { sectors: WRITING },
    base,
    progress: false,
    crashDuringRecovery: true,
    workload: (disk: VirtualDisk) =>
      disk.write(0, new Uint8Array(512).fill(9), { fua: true }),
  };
  const expected = await assertRejects(
    () => exploreCrashes({ ...options, recover }),
    CrashFailure,
  );
  const failure = await assertRejects(
    () => exploreCrashes({ ...options, recover: MODULE, jobs: 2 }),
    CrashFailure,
    "Both are gone",
  );
  assertEquals(failure.token, expected.token);
  await using image = failure.openImage();
  const first = await image.read(0, 4);
  assertEquals([0, 1, 2, 3].map((i) => first[i * 512]), [0, 0, 1, 3]);
});

Deno.test("exploreCrashes() in workers passes on what its progress throws, as in one thread", async () => {
  for (const how of [{ recover }, { recover: MODULE, jobs: 1 }]) {
    const options = {
      ...versions(0, SLOW),
      ...how,
      progress() {
        throw new Error("No more");
      },
    };
    await assertRejects(
      () => exploreCrashes<number>(options),
      Error,
      "No more",
    );
  }
});

Deno.test("exploreCrashes() in workers ends at once when it is given up, whatever they do", async () => {
  const controller = new AbortController();
  const explored = exploreCrashes<number>({
    ...versions(0, ENDLESS),
    ...{ recover: MODULE, jobs: 2, signal: controller.signal },
  });
  setTimeout(() => controller.abort(new Error("Enough")), 300);
  await assertRejects(() => explored, Error, "Enough");
});

Deno.test("exploreCrashes() in workers refuses what is no recovery, and no module", async () => {
  const none = new URL("data:text/javascript,export default 7");
  const missing = new URL("./missing.ts", import.meta.url);
  for (
    const [recover, text] of [
      [none, "must be a function: current value is 7"],
      [missing, "a worker fails"],
    ] as const
  ) {
    await assertRejects(
      () => exploreCrashes<number>({ ...versions(0), recover, jobs: 2 }),
      Error,
      text,
    );
  }
  await assertRejects(
    () => exploreCrashes<number>({ ...versions(0), recover, jobs: 2 }),
    TypeError,
    "recover must be the URL of a module",
  );
  await assertRejects(
    () =>
      exploreCrashes<number>({
        ...versions(0),
        ...{ recover: MODULE, jobs: 0 },
      }),
    RangeError,
    "jobs must be a safe integer from 1",
  );
});
