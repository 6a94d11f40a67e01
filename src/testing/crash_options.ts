/**
 * The options of an exploration of crashes.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import type { CrashDevice } from "./crash_device.ts";
import type { CrashProgress } from "./crash_progress.ts";

/** What a workload can do beside using its disk. */
export interface CrashSession {
  /**
   * Opens the device again, as a program does after an error: another disk over
   * the same device, without a crash in between. The one before is closed.
   *
   * @returns The disk.
   */
  reopen(): Promise<VirtualDisk>;
}

/**
 * What to record.
 *
 * @typeParam Value What the workload acknowledges.
 */
export interface RecordWorkloadOptions<Value = unknown> {
  /** The device, and what it promises. */
  device: CrashDevice;
  /**
   * What is on the device before: any backend, which is only read, and stays
   * open. Zeroes if not given.
   */
  base?: Backend | undefined;
  /**
   * Prepares the disk: all that it writes is durable before the workload
   * starts, and no crash happens meanwhile.
   *
   * @param disk The disk.
   */
  prepare?: ((disk: VirtualDisk) => Promise<void> | void) | undefined;
  /**
   * What is interrupted. It runs once. It should depend on nothing but its disk
   * and its own code: times and random numbers make tokens worthless.
   *
   * @param disk The disk.
   * @param acknowledge Call it with whatever has just been promised to the
   * outside: from then on it must survive. The value must not be changed later.
   * @param session The device, to be opened again.
   */
  workload: (
    disk: VirtualDisk,
    acknowledge: (value: Value) => void,
    session: CrashSession,
  ) => Promise<void> | void;
  /**
   * The file to record into; nothing may be there. What is acknowledged must be
   * JSON then. `CrashRecording.open` opens it again. If the workload throws or is
   * given up, no file is left; if this process is killed, what was recorded is.
   */
  path?: string | URL | undefined;
  /**
   * Layers between the workload's disk and the device, to meet faults as well
   * as crashes: it gets the device and returns a backend over it.
   *
   * @param device The device.
   * @returns The layers.
   */
  layers?: ((device: Backend) => Backend) | undefined;
  /**
   * Gives up the recording: it rejects with the signal's reason. What is running
   * has 5 seconds at most to clean up without its disk.
   */
  signal?: AbortSignal | undefined;
}

/**
 * Recovers, and throws if anything acknowledged is missing or anything is
 * inconsistent. It may write; each state is its own.
 *
 * @typeParam Value What the workload acknowledged.
 * @param disk The disk as the power cut left it.
 * @param acknowledged What was acknowledged before, in order: a frozen array.
 */
export type Recovery<Value = unknown> = (
  disk: VirtualDisk,
  acknowledged: readonly Value[],
) => Promise<void> | void;

/**
 * How to explore what was recorded.
 *
 * @typeParam Value What the workload acknowledged.
 */
export interface ExploreRecordingOptions<Value = unknown> {
  /**
   * Recovers, or the URL of a module whose default export does: then it runs in
   * `jobs` workers, and what was acknowledged must be JSON. Call it with
   * `new URL("./recovery.ts", import.meta.url)`.
   */
  recover: Recovery<Value> | URL;
  /**
   * Workers that run the recovery, if it is a module. They visit the same states
   * as one would, and tell of the same failure.
   *
   * @default {navigator.hardwareConcurrency}
   */
  jobs?: number | undefined;
  /**
   * What random states are drawn from: a safe integer ≥ 0. The same seed visits
   * the same states.
   *
   * @default {0}
   */
  seed?: number | undefined;
  /**
   * States to visit at most. If there are no more than that, all are visited.
   *
   * @default {20000}
   */
  maxStates?: number | undefined;
  /**
   * Whether the power may fail again while recovering, and how often in a row:
   * `true` is once.
   *
   * @default {false}
   */
  crashDuringRecovery?: boolean | number | undefined;
  /**
   * States to visit at most of each interrupted recovery.
   *
   * @default {48}
   */
  maxStatesPerRecovery?: number | undefined;
  /** The token of a failure: only that state is visited. */
  only?: string | undefined;
  /**
   * Where to keep the image of a failure. If it cannot be written there, the
   * failure's message says so.
   */
  saveImage?: string | URL | undefined;
  /**
   * Whether to say how far it is: `true` does on a terminal if it takes longer,
   * a function is called now and then. If that throws, so does the exploration.
   *
   * @default {true}
   */
  progress?: boolean | ((progress: CrashProgress) => void) | undefined;
  /**
   * How long one recovery may take, in milliseconds: a safe integer from 1 to
   * 2,147,483,647. After that all that it asks of its disk fails, and so does
   * the exploration. One that never lets anything else run, not even its disk,
   * cannot be stopped.
   *
   * @default {10000}
   */
  recoveryTimeoutMs?: number | undefined;
  /**
   * Whether to accept what proves nothing: a workload that wrote nothing, or
   * recoveries none of which read anything of its disk. It fails otherwise.
   *
   * @default {false}
   */
  allowNoProof?: boolean | undefined;
  /**
   * Gives up the exploration, be it recovering or between states:
   * it rejects with the signal's reason. What is running has as long as a
   * recovery, and at most 5 seconds, to clean up without its disk.
   */
  signal?: AbortSignal | undefined;
}

/**
 * What to explore.
 *
 * @typeParam Value What the workload acknowledges.
 */
export interface CrashOptions<Value = unknown>
  extends RecordWorkloadOptions<Value>, ExploreRecordingOptions<Value> {
  /**
   * Gives up the exploration, be it recording, recovering or between states:
   * it rejects with the signal's reason. What is running has as long as a
   * recovery, and at most 5 seconds, to clean up without its disk.
   */
  signal?: AbortSignal | undefined;
}
