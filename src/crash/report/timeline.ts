/**
 * A recording over time, as far as a picture shows it: however long it is, in
 * as many columns as can be told apart.
 *
 * @module
 */

import { RequestType } from "../../request.ts";
import type { CrashRecording } from "../../testing/crash_recording.ts";
import type { CrashPointFindings } from "../../testing/crash_verdict.ts";
import type { ReportTimeline } from "./data.ts";
import { regionsOf } from "./regions.ts";

/** Columns at most. */
const MOST_COLUMNS = 160;

/** Lanes of writes at most. */
const MOST_REGIONS = 12;

/**
 * Counts a recording's events by column.
 *
 * @param recording The recording.
 * @param points What was judged, by crash point.
 * @returns The timeline.
 */
export function makeTimeline(
  recording: Pick<CrashRecording, "events" | "requests">,
  points: readonly CrashPointFindings[],
): ReportTimeline {
  const { events, requests } = recording;
  const columns = Math.max(1, Math.min(MOST_COLUMNS, events.length));
  const zeroes = () => new Array<number>(columns).fill(0);
  const acknowledged = zeroes();
  const flushes = zeroes();
  const failedFlushes = zeroes();
  const regions = regionsOf(
    requests.filter(({ type }) => type !== RequestType.Flush),
    MOST_REGIONS,
  ).map((range) => ({ ...range, written: zeroes() }));
  for (const [at, event] of events.entries()) {
    const column = columnOf(at, events.length, columns);
    if (event.kind === "acknowledge") acknowledged[column]!++;
    else if (event.request.type === RequestType.Flush) {
      if (event.kind === "complete") {
        (event.request.failed ? failedFlushes : flushes)[column]!++;
      }
    } else if (event.kind === "submit") {
      const { sector, count } = event.request;
      for (const region of regions) {
        const first = Math.max(sector, region.sector);
        const end = Math.min(sector + count, region.sector + region.count);
        if (end > first) region.written[column]! += end - first;
      }
    }
  }
  const judged = zeroes();
  const failed = zeroes();
  for (const each of points) {
    // The last event before the crash; before the first one there is none.
    const column = columnOf(
      Math.max(0, each.point - 1),
      events.length,
      columns,
    );
    judged[column]! += each.visited;
    failed[column]! += each.failed;
  }
  return {
    events: events.length,
    columns,
    acknowledged,
    flushes,
    failedFlushes,
    regions,
    judged,
    failed,
  };
}

/**
 * The column that an event is in.
 *
 * @param at The event, from 0.
 * @param events Events in all.
 * @param columns Columns.
 * @returns The column, from 0.
 */
export function columnOf(at: number, events: number, columns: number): number {
  return Math.min(columns - 1, Math.floor(at * columns / Math.max(1, events)));
}
