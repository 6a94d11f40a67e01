/**
 * What a crash test found, as plain data: the one thing that the page, the JSON
 * file, the JUnit file and the text for terminals are made of. It is the JSON
 * file: see `docs/crash_report.md`.
 *
 * The version is raised when a member changes its meaning or goes away. Members
 * may be added without that.
 *
 * @module
 */

import type { StoryData } from "../../testing/story_data.ts";

/** What the format is called, in the file. */
export const REPORT_FORMAT = "platter-crash-report";

/** The version of the format. */
export const REPORT_VERSION = 1;

/**
 * What can be said of the program: no state failed, and each group of alike
 * crash points was seen; some failed; some failed, but not each time; none could
 * be judged; or it was over before each group had been seen.
 */
export type ReportVerdict =
  | "safe"
  | "failed"
  | "unstable"
  | "unjudged"
  | "unfinished";

/** What a crash test found. */
export interface CrashReportData {
  /** Always {@linkcode REPORT_FORMAT}. */
  readonly format: typeof REPORT_FORMAT;
  /** Always {@linkcode REPORT_VERSION}. */
  readonly version: typeof REPORT_VERSION;
  /** The verdict. */
  readonly verdict: ReportVerdict;
  /** What was run, in order. */
  readonly commands: readonly ReportCommand[];
  /** The disk. */
  readonly device: ReportDevice;
  /** How much was explored. */
  readonly explored: ReportExplored;
  /** Failures by their message; the first is the one to be told first. */
  readonly groups: readonly ReportGroup[];
  /** States that failed, and did not each time; the first ones. */
  readonly unstable: readonly ReportDoubt[];
  /** States that the check could not judge; the first ones. */
  readonly unjudged: readonly ReportDoubt[];
  /** What was recorded, over time. */
  readonly timeline: ReportTimeline;
}

/** A command or function that was run. */
export interface ReportCommand {
  /** What for. */
  readonly role: "prepare" | "run" | "check";
  /** The command line, or the name of a function. */
  readonly text: string;
}

/** The disk and its promises. */
export interface ReportDevice {
  /** Its promises, in words. */
  readonly promises: string;
  /** Capacity in sectors of 512 bytes. */
  readonly sectors: number;
  /** Logical block size in bytes. */
  readonly blockSize: number;
}

/** How much was explored. */
export interface ReportExplored {
  /** Different states of the disk that were judged. */
  readonly states: number;
  /** Those of them that failed, each time. */
  readonly failed: number;
  /** Those that failed once, and not when they were judged again. */
  readonly unstable: number;
  /** Those that the check could not judge. */
  readonly unjudged: number;
  /** Beside them, states that a crash during recovery left. */
  readonly recoveryStates: number;
  /** Those of these that failed, each time. */
  readonly recoveryFailed: number;
  /** Those of these that failed once, and not when they were judged again. */
  readonly recoveryUnstable: number;
  /** Those of these that the check could not judge. */
  readonly recoveryUnjudged: number;
  /** Whether these are all states that the device allows. */
  readonly exhaustive: boolean;
  /** What ended it: nothing was left, or a limit, or somebody. */
  readonly ended: "all" | "states" | "time" | "aborted";
  /** Whether a state of each group of alike crash points was judged. */
  readonly seenEachGroup: boolean;
  /** What random states were drawn from. */
  readonly seed: number;
  /** Crash points with states of their own. */
  readonly points: number;
  /** Writes that were recorded. */
  readonly writes: number;
  /** Flushes that were recorded. */
  readonly flushes: number;
  /** Values that were acknowledged. */
  readonly acknowledged: number;
  /** How long it took, in milliseconds. */
  readonly durationMs: number;
}

/** States that fail in the same way. */
export interface ReportGroup {
  /** What they have in common: the message, without what differs. */
  readonly kind: string;
  /** How the one that is told here fails. */
  readonly message: string;
  /** How many states. */
  readonly count: number;
  /** How often the power fails in each: above 1, in the recovery as well. */
  readonly crashes: number;
  /** What replays the state that is told here. */
  readonly token: string;
  /** A command line that does; `null` if there is none. */
  readonly replay: string | null;
  /** The end of what the check printed; empty if it printed nothing. */
  readonly output: string;
  /** What happened; `null` if it is not told. */
  readonly story: StoryData | null;
  /** What the sectors are that did not reach the medium; `null` if not asked. */
  readonly lost: ReportLost | null;
}

/** States of which nothing can be told for sure, for the same reason. */
export interface ReportDoubt {
  /** Why: what was said of the first of them, in the order of saying. */
  readonly verdicts: readonly string[];
  /** How many states, of those that are listed. */
  readonly count: number;
  /** What replays the first of them. */
  readonly token: string;
  /** A command line that does; `null` if there is none. */
  readonly replay: string | null;
  /** The end of what the check printed; empty if it printed nothing. */
  readonly output: string;
}

/** What lost and torn sectors are. */
export interface ReportLost {
  /** Runs of sectors with the same meaning, in the order of the disk. */
  readonly ranges: readonly ReportLostRange[];
  /** What could not be told, and why. */
  readonly notes: readonly string[];
}

/** A run of sectors that mean the same. */
export interface ReportLostRange {
  /** First sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
  /** What they are, from the outside in, such as partition, structure, path. */
  readonly path: readonly string[];
}

/**
 * What was recorded, over time. The time is cut into columns of equally many
 * events; an array has one number for each column.
 */
export interface ReportTimeline {
  /** Events of the recording: a request submitted or completed, or a promise. */
  readonly events: number;
  /** Columns. */
  readonly columns: number;
  /** Values acknowledged. */
  readonly acknowledged: readonly number[];
  /** Flushes that completed. */
  readonly flushes: readonly number[];
  /** Flushes that failed. */
  readonly failedFlushes: readonly number[];
  /** Parts of the disk that were written, in its order. */
  readonly regions: readonly ReportRegion[];
  /** States judged, by the column of their crash point. */
  readonly judged: readonly number[];
  /** Those of them that failed. */
  readonly failed: readonly number[];
}

/** A part of the disk that was written. */
export interface ReportRegion {
  /** First sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
  /** Sectors of it that were submitted to be written, in each column. */
  readonly written: readonly number[];
}
