/**
 * The text of a crash for people: what the program did, which of its writes
 * reached the medium, where the power failed, and what the recovery threw.
 *
 * @module
 */

import { operationName, RequestType } from "../request.ts";
import type { RecordedRequest } from "./block_version.ts";
import { describeOrigin } from "../call_site.ts";
import { describeCrashDevice } from "./crash_device.ts";
import type { CrashLevel } from "./crash_level.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { type CrashSpace, optionsOf } from "./crash_timeline.ts";
import type { CrashStep } from "./crash_token.ts";
import type { Outcome } from "./crash_variable.ts";

/** Lines before the crash that are shown in any case. */
const LAST_LINES = 24;

/** One crash of a story. */
export interface StoryCrash {
  /** What was going on. */
  readonly level: CrashLevel;
  /** The state. */
  readonly step: CrashStep;
  /** What was undecided. */
  readonly space: CrashSpace;
}

/** What a story is about. */
export interface Story {
  /** The crashes, in order. */
  readonly crashes: readonly StoryCrash[];
  /** What was acknowledged. */
  readonly acknowledged: readonly unknown[];
  /** What the recovery threw. */
  readonly error: unknown;
}

/**
 * Writes the story of a crash.
 *
 * @param story What happened.
 * @returns Lines.
 */
export function tellStory(story: Story): string {
  const { crashes, acknowledged, error } = story;
  const device = crashes[0]!.level.recording.device;
  const lines = [`The device: ${describeCrashDevice(device)}.`, ""];
  for (const [i, crash] of crashes.entries()) {
    lines.push(
      i === 0
        ? "What the workload did, and what became of it:"
        : "Then the recovery did this, and it was interrupted as well:",
      "",
      ...table(rowsOf(crash)),
      "",
    );
  }
  const values = acknowledged.slice(-8).map(show);
  if (acknowledged.length > values.length) {
    values.unshift(`… ${acknowledged.length - values.length} before`);
  }
  lines.push(
    acknowledged.length === 0
      ? "Nothing had been acknowledged."
      : `Acknowledged before the crash: ${values.join(", ")}`,
    "",
    crashes.length === 1
      ? "Recovery of what was left fails:"
      : "Recovery of what was left of that fails:",
    ...describeError(error).map((line) => `  ${line}`),
  );
  return lines.join("\n");
}

/** A line of a story: what, what became of it, where it came from. */
type Row = readonly [what: string, fate: string, origin: string] | string;

function rowsOf({ level, step, space }: StoryCrash): Row[] {
  const { recording } = level;
  const fates = fatesOf(step, space);
  const rows: { row: Row; keep: boolean }[] = [];
  let acknowledged = 0;
  for (const event of recording.events.slice(0, step.point)) {
    if (event.kind === "complete") continue;
    if (event.kind === "acknowledge") {
      const value = show(recording.acknowledged[acknowledged++]);
      rows.push({ row: [`acknowledge ${value}`, "", ""], keep: false });
      continue;
    }
    const { request } = event;
    const completed = request.completedAt >= 0 &&
      request.completedAt < step.point;
    const fate = request.type === RequestType.Flush
      ? flushFate(recording, request, completed)
      : writeFate(request, fates.get(request), recording);
    rows.push({
      row: [
        `#${request.number} ${describe(request)}`,
        completed ? fate.text : `${fate.text} (in flight)`,
        request.origin === null ? "" : describeOrigin(request.origin),
      ],
      keep: fate.keep,
    });
  }
  const shown: Row[] = [];
  let skipped = 0;
  for (const [i, { row, keep }] of rows.entries()) {
    if (keep || i >= rows.length - LAST_LINES) {
      if (skipped > 0) {
        shown.push(`… ${skipped} lines, all of it on the medium`);
      }
      skipped = 0;
      shown.push(row);
    } else skipped++;
  }
  shown.push("⚡ the power fails");
  return shown;
}

/** What became of the blocks of a write that is not durable. */
type Fates = Map<
  number,
  { outcome: Outcome; torn: string | null }
>;

function fatesOf(
  step: CrashStep,
  space: CrashSpace,
): Map<RecordedRequest, Fates> {
  const fates = new Map<RecordedRequest, Fates>();
  const optionOf = optionsOf(step, space);
  for (const variable of space.variables) {
    variable.outcomes(optionOf, ({ request, block }, outcome, torn) => {
      let blocks = fates.get(request!);
      if (blocks === undefined) fates.set(request!, blocks = new Map());
      const tear = torn?.tear;
      blocks.set(block, {
        outcome,
        torn: tear
          ? `only its ${tear.kept === "first" ? "first" : "last"} ${
            tear.kept === "first" ? tear.at : torn!.bytes.length - tear.at
          } bytes are new`
          : null,
      });
    });
  }
  return fates;
}

function flushFate(
  recording: CrashRecording,
  request: RecordedRequest,
  completed: boolean,
): { text: string; keep: boolean } {
  if (!completed) return { text: "no promise yet", keep: true };
  if (request.failed) return { text: "FAILED", keep: true };
  return recording.device.honorsFlush
    ? { text: "done", keep: false }
    : { text: "ignored by the device", keep: true };
}

function writeFate(
  request: RecordedRequest,
  blocks: Fates | undefined,
  recording: CrashRecording,
): { text: string; keep: boolean } {
  if (request.versions.length === 0) {
    return { text: "ignored by the device", keep: false };
  }
  if (blocks === undefined) return { text: "durable", keep: false };
  const { blockSectors } = recording.device;
  const runs: { text: string; first: number; last: number }[] = [];
  for (const { block } of request.versions) {
    const fate = blocks.get(block);
    const text = fate === undefined
      ? "durable"
      : fate.outcome === "lost"
      ? "LOST"
      : fate.outcome === "torn"
      ? `TORN, ${fate.torn}`
      : fate.outcome === "overwritten"
      ? "overwritten"
      : "reached the medium";
    const last = runs.at(-1);
    if (last?.text === text) last.last = block;
    else runs.push({ text, first: block, last: block });
  }
  const keep = runs.some(({ text }) => /^[A-Z]/.test(text));
  if (runs.length === 1) return { text: runs[0]!.text, keep };
  const parts = runs.map(({ text, first, last }) => {
    const start = first * blockSectors;
    const end = (last + 1) * blockSectors - 1;
    const short = text === "reached the medium" ? "reached" : text;
    return `${start === end ? start : `${start}-${end}`} ${short}`;
  });
  const shown = parts.slice(0, 6);
  if (parts.length > shown.length) {
    shown.push(`… ${parts.length - shown.length} more parts`);
  }
  return { text: shown.join("; "), keep };
}

function describe(request: RecordedRequest): string {
  const { type, sector, count, fua } = request;
  if (type === RequestType.Flush) return "flush";
  const last = sector + count - 1;
  const where = count === 1 ? `sector ${sector}` : `sectors ${sector}-${last}`;
  return `${operationName(type) ?? "request"} ${where}${fua ? " (FUA)" : ""}`;
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

function show(value: unknown): string {
  return Deno.inspect(value, {
    breakLength: Infinity,
    compact: true,
    depth: 3,
    strAbbreviateSize: 60,
    iterableLimit: 8,
  });
}

function describeError(error: unknown): string[] {
  if (!(error instanceof Error)) return [`thrown value ${show(error)}`];
  // deno-lint-ignore no-control-regex
  const plain = error.message.replace(/\x1b\[[0-9;]*m/g, "");
  const lines = `${error.name}: ${plain}`.split("\n").slice(0, 24);
  const origin = describeOrigin(error);
  if (origin !== "") lines.push(`at ${origin}`);
  return lines;
}
