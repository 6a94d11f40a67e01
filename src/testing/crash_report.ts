/**
 * The result of an exploration of crashes that found no failure.
 *
 * @module
 */

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
 * Says what was explored.
 *
 * @param report How many of each.
 * @returns The first half of a report's line.
 */
export function countStates(
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
  return `${value.toLocaleString("en-US")} ${value === 1 ? name : names}`;
}
