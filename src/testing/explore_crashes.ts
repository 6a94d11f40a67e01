/**
 * Crash exploration: runs a workload once, and then its recovery on every image
 * that a power cut may have left.
 *
 * How data moves, from step to step:
 *
 * 1. Record (`record_workload.ts`). The workload runs on a `CrashRecorder`, a
 *    backend that logs each write and flush as it is submitted and as it
 *    completes, and each acknowledgement (`crash_recorder.ts`). The log becomes
 *    a `CrashRecording`, which does not change any more.
 * 2. Walk (from here on `crash_explorer.ts`). A `CrashTimeline` goes through the log once, event by event. At each
 *    crash point it knows which write of each block is durable, and which later
 *    ones a power cut may keep or lose by the device's promises
 *    (`crash_device.ts`). What is undecided is a set of variables; one option of
 *    each is a crash state (`crash_variable.ts`, `crash_joint.ts`).
 * 3. Select. All states of a point are visited if they are few; else first those
 *    in which mistakes are usually found, then random ones (`crash_plan.ts`).
 *    Equal images with the same acknowledged values are visited once
 *    (`visited.ts`).
 * 4. Show. One `CrashImage` is changed in place from state to state, block by
 *    block; nothing is copied. The recovery gets a disk over it whose writes
 *    are dropped afterwards (`crash_state.ts`), or, if the power may fail
 *    again, are recorded: then the steps repeat on that recording.
 * 5. Report. A failing state is shrunk (`crash_shrink.ts`), written as a story
 *    (`crash_story.ts`) and named by a token that replays it (`crash_token.ts`).
 *
 * A watchdog ends what does not end by itself (`crash_watchdog.ts`).
 *
 * @module
 */

import type { CrashOptions } from "./crash_options.ts";
import type { CrashReport } from "./crash_report.ts";
import { checkExploration } from "./crash_explorer.ts";
import { exploreRecording } from "./explore_recording.ts";
import { recordWorkload } from "./record_workload.ts";

export type {
  CrashOptions,
  CrashSession,
  ExploreRecordingOptions,
  RecordWorkloadOptions,
  Recovery,
} from "./crash_options.ts";
export type { CrashProgress } from "./crash_progress.ts";

/**
 * Runs a workload, and checks its recovery from every image that a power cut
 * may have left, or from as many of them as are asked for.
 *
 * @param options The workload, the recovery, and the device.
 * @returns What was explored; nothing failed.
 * @throws {CrashFailure} If the recovery fails for a state, or does not end in
 * its time. Its message is the story of the simplest such state that was found.
 * @throws {Error} If nothing was written, or no recovery read anything: that
 * proves nothing.
 * @throws {RangeError} If the device or a number is out of its range.
 *
 * @example A record that is durable before it is acknowledged
 * ```ts
 * import { exploreCrashes } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const report = await exploreCrashes<number>({
 *   device: { sectors: 16 },
 *   async workload(disk, acknowledge) {
 *     for (let i = 1; i <= 3; i++) {
 *       await disk.write(i, new Uint8Array(512).fill(i));
 *       await disk.flush();
 *       acknowledge(i);
 *     }
 *   },
 *   async recover(disk, acknowledged) {
 *     for (const i of acknowledged) {
 *       assertEquals((await disk.read(i, 1))[0], i);
 *     }
 *   },
 * });
 * assertEquals(report.exhaustive, true);
 * ```
 */
export async function exploreCrashes<Value = unknown>(
  options: CrashOptions<Value>,
): Promise<CrashReport> {
  const { timeoutMs } = checkExploration(options);
  const recording = await recordWorkload(options, timeoutMs);
  return await exploreRecording(recording, options);
}

/**
 * Visits one state again: the one that a failure printed the token of.
 *
 * @param token The token.
 * @param options The same workload, recovery and device.
 * @returns Nothing, if the recovery does not fail any more.
 * @throws {CrashFailure} If it still fails.
 * @throws {RangeError} If the workload does not write what it wrote when the
 * token was printed.
 * @throws {SyntaxError} If the token is none.
 *
 * @example
 * ```ts
 * import { CrashFailure, exploreCrashes, replayCrash } from "@platter/disk/testing";
 * import { assertRejects } from "@std/assert";
 *
 * const options = {
 *   device: { sectors: 8 },
 *   async workload(disk: import("@platter/disk").VirtualDisk) {
 *     await disk.write(0, new Uint8Array(1024).fill(1));
 *   },
 *   async recover(disk: import("@platter/disk").VirtualDisk) {
 *     const [a, b] = [await disk.read(0, 1), await disk.read(1, 1)];
 *     if (a[0] !== b[0]) throw new Error("Torn");
 *   },
 * };
 * const { token } = await assertRejects(
 *   () => exploreCrashes(options),
 *   CrashFailure,
 * );
 * await assertRejects(() => replayCrash(token, options), CrashFailure, "Torn");
 * ```
 */
export async function replayCrash<Value = unknown>(
  token: string,
  options: CrashOptions<Value>,
): Promise<void> {
  await exploreCrashes({ ...options, only: token });
}
