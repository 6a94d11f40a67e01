/**
 * The text of a crash for people: what the program did, which of its writes
 * reached the medium, where the power failed, and what the recovery threw.
 *
 * @module
 */

import type {
  StoryData,
  StoryEvent,
  StoryFlush,
  StoryRun,
  StoryWrite,
} from "./story_data.ts";

/** Parts of a write that are told. */
const MOST_PARTS = 6;

/**
 * Writes the story of a crash.
 *
 * @param story What happened.
 * @returns Lines.
 */
export function tellStory(story: StoryData): string {
  const { crashes, acknowledged, error } = story;
  const lines = [`The device: ${story.device}.`, ""];
  for (const [i, { events }] of crashes.entries()) {
    lines.push(
      i === 0
        ? "What the workload did, and what became of it:"
        : "Then the recovery did this, and it was interrupted as well:",
      "",
      ...table([...events.map(rowOf), "⚡ the power fails"]),
      "",
    );
  }
  const values = [...acknowledged.last];
  if (acknowledged.count > values.length) {
    values.unshift(`… ${acknowledged.count - values.length} before`);
  }
  lines.push(
    acknowledged.count === 0
      ? "Nothing had been acknowledged."
      : `Acknowledged before the crash: ${values.join(", ")}`,
    "",
    crashes.length === 1
      ? "Recovery of what was left fails:"
      : "Recovery of what was left of that fails:",
    ...error.map((line) => `  ${line}`),
  );
  return lines.join("\n");
}

/**
 * What a request is, in words.
 *
 * @param event The request.
 * @returns For example `#3 write sectors 8-15 (FUA)`.
 */
export function nameRequest(event: StoryFlush | StoryWrite): string {
  if (event.kind === "flush") return `#${event.number} flush`;
  const { number, operation, sector, count, fua } = event;
  const where = `${count === 1 ? "sector" : "sectors"} ${
    sectorRange(sector, count)
  }`;
  return `#${number} ${operation} ${where}${fua ? " (FUA)" : ""}`;
}

/**
 * What became of a request, in words.
 *
 * @param event The request.
 * @returns For example `0-3 reached; 4-7 LOST (in flight)`.
 */
export function tellFate(event: StoryFlush | StoryWrite): string {
  const fate = event.kind === "flush" ? flushFate(event) : writeFate(event);
  return event.completed ? fate : `${fate} (in flight)`;
}

/** A line of a story: what, what became of it, where it came from. */
type Row = readonly [what: string, fate: string, origin: string] | string;

function rowOf(event: StoryEvent): Row {
  if (event.kind === "skipped") {
    return `… ${event.count} lines, all of it on the medium`;
  }
  if (event.kind === "acknowledge") {
    return [`acknowledge ${event.value}`, "", ""];
  }
  return [nameRequest(event), tellFate(event), event.origin];
}

function flushFate({ fate }: StoryFlush): string {
  return {
    open: "no promise yet",
    failed: "FAILED",
    done: "done",
    ignored: "ignored by the device",
  }[fate];
}

function writeFate({ runs }: StoryWrite): string {
  if (runs.length === 1) return runFate(runs[0]!, "reached the medium");
  const shown = runs.slice(0, MOST_PARTS).map((run) =>
    `${sectorRange(run.sector, run.count)} ${runFate(run, "reached")}`
  );
  if (runs.length > shown.length) {
    shown.push(`… ${runs.length - shown.length} more parts`);
  }
  return shown.join("; ");
}

function runFate({ fate, kept }: StoryRun, reached: string): string {
  if (fate === "torn") {
    return `TORN, only its ${kept!.part} ${kept!.bytes} bytes are new`;
  }
  if (fate === "lost") return "LOST";
  if (fate === "ignored") return "ignored by the device";
  return fate === "reached" ? reached : fate;
}

function sectorRange(sector: number, count: number): string {
  return count === 1 ? `${sector}` : `${sector}-${sector + count - 1}`;
}

function table(rows: readonly Row[]): string[] {
  const width = (column: 0 | 1, most: number) =>
    Math.min(
      most,
      Math.max(
        0,
        ...rows.map((row) => typeof row === "string" ? 0 : row[column].length),
      ),
    );
  const [what, fate] = [width(0, 40), width(1, 48)];
  return rows.map((row) =>
    typeof row === "string"
      ? `  ${row}`
      : `  ${row[0].padEnd(what)}  ${row[1].padEnd(fate)}  ${row[2]}`.trimEnd()
  );
}
