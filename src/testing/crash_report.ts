/**
 * The result of an exploration of crashes that found no failure.
 *
 * @module
 */

import { RequestType } from "../request.ts";
import type { CrashRecording } from "./crash_recording.ts";

/** What was explored. */
export interface CrashReport {
  /** Different states of the disk whose recovery was checked. */
  readonly states: number;
  /** Whether these are all that the device allows. */
  readonly exhaustive: boolean;
  /** What random states were drawn from. */
  readonly seed: number;
  /** Crash points at which there are states of their own. */
  readonly points: number;
  /** Writes that were recorded. */
  readonly writes: number;
  /** Flushes that were recorded. */
  readonly flushes: number;
  /** Values that were acknowledged. */
  readonly acknowledged: number;
  /** States that were reached by crashes during recovery. */
  readonly recoveryStates: number;
  /** States that were passed over as an equal one had been visited. */
  readonly repeated: number;
  /** How long it took, in milliseconds. */
  readonly durationMs: number;
  /** All of it in one line. */
  readonly summary: string;
}

/**
 * Makes a report.
 *
 * @param recording What was explored.
 * @param numbers What came of it.
 * @param extent How much of it was explored, in a few words.
 * @returns The report.
 */
export function makeCrashReport(
  recording: CrashRecording,
  numbers: Omit<
    CrashReport,
    "writes" | "flushes" | "acknowledged" | "summary"
  >,
  extent: string,
): CrashReport {
  const flushes =
    recording.requests.filter(({ type }) => type === RequestType.Flush).length;
  const report = {
    ...numbers,
    writes: recording.requests.length - flushes,
    flushes,
    acknowledged: recording.acknowledged.length,
  };
  return {
    ...report,
    summary: `${countStates(report)}: ${extent}, seed ${numbers.seed}`,
  };
}

/** Says what was explored, in the first half of a report's line. */
function countStates(
  report: Pick<
    CrashReport,
    "states" | "recoveryStates" | "writes" | "flushes"
  >,
): string {
  const { states, recoveryStates, writes, flushes } = report;
  const recoveries = recoveryStates === 0
    ? ""
    : ` and ${count(recoveryStates, "state")} of interrupted recoveries`;
  const requests = `${count(writes, "write")} and ${
    count(flushes, "flush", "flushes")
  }`;
  return `${count(states, "crash state")}${recoveries} of ${requests}`;
}

function count(value: number, name: string, names = `${name}s`): string {
  // Not by locale, as loading those takes longer than many an exploration.
  const digits = `${value}`.replace(/\B(?=(\d{3})+$)/g, ",");
  return `${digits} ${value === 1 ? name : names}`;
}
