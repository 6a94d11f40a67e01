/**
 * Testing whatever writes to disks: power cuts explored, faults and other layers,
 * assertions about what is on disks, and disks that clean up after themselves.
 *
 * {@linkcode exploreCrashes} is where to start.
 *
 * @example Is what was acknowledged still there after a power cut?
 * ```ts
 * import { exploreCrashes } from "@platter/disk/testing";
 *
 * await exploreCrashes<string>({
 *   device: { sectors: 64 },
 *   async workload(disk, acknowledge) {
 *     await disk.write(8, new TextEncoder().encode("paid".padEnd(512)));
 *     await disk.flush();
 *     acknowledge("paid");
 *   },
 *   async recover(disk, acknowledged) {
 *     const text = new TextDecoder().decode(await disk.read(8, 1)).trim();
 *     if (acknowledged.includes("paid") && text !== "paid") {
 *       throw new Error("The payment is gone");
 *     }
 *   },
 * });
 * ```
 *
 * @module
 */

// In the place of the layer's own, which knows memory alone.
export { type FileOverlayOptions, overlay } from "../disk/overlay.ts";
export * from "../layers/mod.ts";
export * from "../random.ts";
export * from "./assert_only_changed.ts";
export * from "./assert_partitions.ts";
export {
  type AssertMemoryOptions,
  assertSectors,
  assertSectorsEqual,
  type AssertSectorsOptions,
  assertZeroes,
  DiskAssertionError,
} from "./assert_sectors.ts";
export type { ImageRange } from "./image_range.ts";
export type { BlockSource } from "./block_source.ts";
export type { BlockVersion, RecordedRequest, Tear } from "./block_version.ts";
export type { CompleteCrashDevice, CrashDevice } from "./crash_device.ts";
export { CrashFailure } from "./crash_failure.ts";
export { CrashRecorder, type CrashRecorderOptions } from "./crash_recorder.ts";
export {
  type CrashEvent,
  CrashRecording,
  type OpenRecordingOptions,
  type SaveRecordingOptions,
} from "./crash_recording.ts";
export type { CrashReport } from "./crash_report.ts";
export type * from "./crash_verdict.ts";
export type { InitialContents } from "./recording_log.ts";
export { tellStory } from "./crash_story.ts";
export type {
  StoryAcknowledgement,
  StoryCrash,
  StoryData,
  StoryEvent,
  StoryFate,
  StoryFlush,
  StoryRequest,
  StoryRun,
  StorySkipped,
  StoryWrite,
} from "./story_data.ts";
export { RecoveryTimeout } from "./crash_watchdog.ts";
export * from "./explore_crashes.ts";
export { exploreRecording } from "./explore_recording.ts";
export { judgeRecording } from "./judge_recording.ts";
export { recordWorkload } from "./record_workload.ts";
export * from "./test_images.ts";
export { readWriteLog, type ReadWriteLogOptions } from "./write_log_reader.ts";
export {
  writeWriteLog,
  type WriteWriteLogOptions,
} from "./write_log_writer.ts";
