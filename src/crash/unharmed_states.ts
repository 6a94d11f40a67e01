/**
 * The two images of a recording that no power cut made: the disk before the
 * workload, when nothing had been promised, and the disk after it, when all of
 * it had. A check that fails on one of these is wrong itself.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import { VirtualDisk } from "../disk/disk.ts";
import type { BlockVersion } from "../testing/block_version.ts";
import type { CrashRecording } from "../testing/crash_recording.ts";
import { CrashImage, CrashStateBackend } from "../testing/crash_state.ts";

/** An image that no power cut made. */
export interface UnharmedState {
  /** What it is called, in `PLATTER_STATE`. */
  readonly token: "start" | "end";
  /** What had been promised. */
  readonly acknowledged: readonly unknown[];
  /**
   * What differs from the start.
   *
   * @returns Bytes by block number.
   */
  changes(): ReadonlyMap<number, Uint8Array>;
  /**
   * The image as a backend; what is written to it goes with it.
   *
   * @returns The backend.
   */
  openBackend(): Backend;
  /**
   * The image as a disk; what is written to it goes with it.
   *
   * @returns The disk.
   */
  open(): VirtualDisk;
}

/**
 * The disk before the workload.
 *
 * @param recording What the workload did.
 * @returns The image.
 */
export function startOf(recording: CrashRecording): UnharmedState {
  return unharmed("start", recording, new Map(), []);
}

/**
 * The disk after the workload, with all that was written.
 *
 * @param recording What the workload did.
 * @returns The image.
 */
export function endOf(recording: CrashRecording): UnharmedState {
  return wholeOf(recording, Infinity);
}

/**
 * The disk in the middle of the workload, with all that was written until then:
 * as it would be if the power had failed and nothing were lost.
 *
 * @param recording What the workload did.
 * @param point The crash point: how many events came before it.
 * @returns The image.
 */
export function wholeOf(
  recording: CrashRecording,
  point: number,
): UnharmedState {
  const last = new Map<number, BlockVersion>();
  for (const { submittedAt, versions } of recording.requests) {
    if (submittedAt >= point) break;
    for (const version of versions) last.set(version.block, version);
  }
  return unharmed("end", recording, last, recording.acknowledged);
}

function unharmed(
  token: "start" | "end",
  { device, source, initial }: CrashRecording,
  written: ReadonlyMap<number, BlockVersion>,
  acknowledged: readonly unknown[],
): UnharmedState {
  const image = new CrashImage(source, {
    initial,
    durable: (block) => written.get(block) ?? initial.version(block),
  });
  const openBackend = () => new CrashStateBackend(image, device);
  return {
    ...{ token, acknowledged, openBackend },
    changes: () =>
      new Map(Array.from(written, ([block, { bytes }]) => [block, bytes])),
    open: () => VirtualDisk.over(openBackend()),
  };
}
