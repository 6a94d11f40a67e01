/**
 * Runs a workload once, over a device that records what it does: the first step
 * of an exploration of crashes.
 *
 * Takes a disk below, which is only read, and gives a {@linkcode CrashRecording}
 * that does not change any more: `explore_recording.ts` goes through it.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import { VirtualDisk } from "../disk/disk.ts";
import type { CrashSession, RecordWorkloadOptions } from "./crash_options.ts";
import { CrashRecorder } from "./crash_recorder.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { CrashGuard, CrashWatchdog } from "./crash_watchdog.ts";

/** The longest that a workload that is given up has to end, in milliseconds. */
const MOST_GRACE_MS = 5_000;

/**
 * Runs a workload once and records it.
 *
 * @typeParam Value What the workload acknowledges.
 * @param options The workload and its device.
 * @param graceMs How long a workload that is given up has to end, in
 * milliseconds; 5 seconds at most.
 * @returns What it did to its disk.
 * @throws {RangeError} If the device cannot have that shape.
 * @throws {TypeError} If a promise of the device is none that there is.
 * @throws {DiskError} If the file cannot be written, or the base not be read.
 * @throws Whatever the workload throws, or the reason of the signal.
 *
 * @example Recorded once, and explored as often as there are questions
 * ```ts
 * import {
 *   CrashRecording,
 *   exploreRecording,
 *   recordWorkload,
 * } from "@platter/disk/testing";
 *
 * const path = `${await Deno.makeTempDir()}/workload.rec`;
 * const recorded = await recordWorkload<string>({
 *   device: { sectors: 16 },
 *   path,
 *   async workload(disk, acknowledge) {
 *     await disk.write(1, new Uint8Array(512).fill(1));
 *     await disk.flush();
 *     acknowledge("one");
 *   },
 * });
 * await recorded.close();
 *
 * // In this process or in another one:
 * await using recording = await CrashRecording.open(path);
 * await exploreRecording<string>(recording, {
 *   async recover(disk, acknowledged) {
 *     const [byte] = await disk.read(1, 1);
 *     if (acknowledged.includes("one") && byte !== 1) throw new Error("Lost");
 *   },
 * });
 * ```
 */
export async function recordWorkload<Value>(
  options: RecordWorkloadOptions<Value>,
  graceMs: number = MOST_GRACE_MS,
): Promise<CrashRecording> {
  const { signal } = options;
  signal?.throwIfAborted();
  const watchdog = new CrashWatchdog(graceMs, signal);
  const guard = new CrashGuard(watchdog);
  const recorder = CrashRecorder.make(options, {
    origins: true,
    turns: true,
    starts: true,
    guard,
  });
  try {
    try {
      await watchdog.wait(work(recorder, options, guard), guard, false);
    } catch (error) {
      if (!guard.over) throw recorder.failure ?? error;
    }
    if (guard.over) {
      await guard.abandon();
      throw guard.reason;
    }
    return await recorder.end();
  } catch (error) {
    // Nothing is left of it: what it has half recorded would look like a whole
    // recording of a workload that was killed.
    recorder.remove();
    throw error;
  } finally {
    watchdog.end();
  }
}

async function work<Value>(
  recorder: CrashRecorder,
  options: RecordWorkloadOptions<Value>,
  guard: CrashGuard,
): Promise<void> {
  const { prepare, workload, layers } = options;
  const { throttle } = guard;
  if (prepare !== undefined) {
    await using disk = VirtualDisk.over(recorder.open(), { throttle });
    await prepare(disk);
    await disk.flush();
  }
  recorder.start();
  const device = recorder.open();
  const stack = layers?.(device) ?? device;
  const open = () =>
    VirtualDisk.over(keepOpen(stack), {
      onSubmit: recorder.onSubmit,
      throttle,
    });
  let disk = open();
  const session: CrashSession = {
    async reopen() {
      await disk.close();
      return disk = open();
    },
  };
  try {
    await workload(disk, (value) => recorder.acknowledge(value), session);
  } finally {
    await disk.close();
    await stack.close();
    await device.close();
    await recorder.end();
  }
}

/** The same backend, left open by the disks over it. */
function keepOpen(backend: Backend): Backend {
  return {
    geometry: backend.geometry,
    get abilities() {
      return backend.abilities;
    },
    get limits() {
      return backend.limits;
    },
    get info() {
      return backend.info;
    },
    get counters() {
      return backend.counters;
    },
    submit: (batch, complete) => backend.submit(batch, complete),
    cancel: (request) => backend.cancel?.(request),
    extents: (sector, count) =>
      backend.extents?.(sector, count) ?? [{ sector, count, hole: false }],
    allocate: (byteLength) => backend.allocate(byteLength),
    // A disk that is opened later uses it.
    closing() {},
    close: () => Promise.resolve(),
  };
}
