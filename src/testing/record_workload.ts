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
import { BackendSource, ZeroSource } from "./block_source.ts";
import { completeCrashDevice } from "./crash_device.ts";
import type { CrashSession, RecordWorkloadOptions } from "./crash_options.ts";
import { CrashRecorder } from "./crash_recorder.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { CrashGuard, CrashWatchdog } from "./crash_watchdog.ts";

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
 * @throws Whatever the workload throws, or the reason of the signal.
 */
export async function recordWorkload<Value>(
  options: RecordWorkloadOptions<Value>,
  graceMs: number,
): Promise<CrashRecording> {
  const { base, signal } = options;
  const device = completeCrashDevice(options.device, base?.geometry);
  const source = base === undefined
    ? new ZeroSource(device.blockSize)
    : new BackendSource(base, device.blockSize);
  signal?.throwIfAborted();
  const watchdog = new CrashWatchdog(graceMs, signal);
  const guard = new CrashGuard(watchdog);
  const recorder = new CrashRecorder(device, source, {
    origins: true,
    turns: true,
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
    recorder.giveUp();
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
