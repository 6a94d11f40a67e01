/**
 * The story of a crash as plain data, fit for JSON: what the program did, what
 * became of each run of sectors that it wrote, where the power failed, and what
 * went wrong. `crash_story.ts` makes text of it; reports make pages and files.
 *
 * Requests of which nothing is to be told (all of it is on the medium) are
 * counted and left out, but for the last ones before the crash: so a story is
 * short, however long the recording is.
 *
 * @module
 */

import { inspected } from "../platform/inspect.ts";
import { describeOrigin } from "../call_site.ts";
import { operationName, RequestType } from "../request.ts";
import type { RecordedRequest } from "./block_version.ts";
import { describeCrashDevice } from "./crash_device.ts";
import type { CrashLevel } from "./crash_level.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { type CrashSpace, optionsOf } from "./crash_timeline.ts";
import type { CrashStep } from "./crash_token.ts";
import type { Outcome } from "./crash_variable.ts";

/** Events before the crash that are told in any case. */
const LAST_EVENTS = 24;

/** Acknowledged values that are told, from the last one back. */
const LAST_VALUES = 8;

/** Lines of an error's message that are told. */
const ERROR_LINES = 24;

/** A crash, or a crash and one more while recovering from it, and so on. */
export interface StoryData {
  /** What the device promises, in words. */
  readonly device: string;
  /** The crashes, in order: the workload's, then those of its recoveries. */
  readonly crashes: readonly StoryCrash[];
  /** What had been acknowledged before the first of them. */
  readonly acknowledged: {
    /** Values. */
    readonly count: number;
    /** The last of them as text, the last one last. */
    readonly last: readonly string[];
  };
  /** How it fails, in lines. */
  readonly error: readonly string[];
}

/** What was done up to one crash. */
export interface StoryCrash {
  /** The crash point: how many events of the recording came before it. */
  readonly point: number;
  /** What happened, in order. */
  readonly events: readonly StoryEvent[];
}

/** One line of a story. */
export type StoryEvent =
  | StorySkipped
  | StoryAcknowledgement
  | StoryFlush
  | StoryWrite;

/** Events that are left out, as all that they wrote is on the medium. */
export interface StorySkipped {
  /** What it is. */
  readonly kind: "skipped";
  /** How many. */
  readonly count: number;
}

/** A promise to the outside. */
export interface StoryAcknowledgement {
  /** What it is. */
  readonly kind: "acknowledge";
  /** The event of the recording, from 0. */
  readonly at: number;
  /** What was promised, as text. */
  readonly value: string;
}

/** What flushes and writes have in common. */
export interface StoryRequest {
  /** The event of the recording, from 0, with which it was submitted. */
  readonly at: number;
  /** Its number in the order of submission, from 1. */
  readonly number: number;
  /** What it is called, such as `"write"` or `"discard"`. */
  readonly operation: string;
  /** Whether it had completed; if not, it was in flight. */
  readonly completed: boolean;
  /** The line of the program that made it; empty if that is not known. */
  readonly origin: string;
}

/** A flush. */
export interface StoryFlush extends StoryRequest {
  /** What it is. */
  readonly kind: "flush";
  /** What became of it; `"open"` if it promised nothing yet. */
  readonly fate: "done" | "failed" | "ignored" | "open";
}

/** A write, a discard or a write of zeroes. */
export interface StoryWrite extends StoryRequest {
  /** What it is. */
  readonly kind: "write";
  /** First sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
  /** Whether it is durable when it completes. */
  readonly fua: boolean;
  /** What became of it, in runs of sectors; together they are all of it. */
  readonly runs: readonly StoryRun[];
}

/**
 * What became of a run of sectors: the device had promised that it stays; it is
 * there without a promise; it is not there; a part of it is; a later write is
 * there instead; or the device does nothing on such a request.
 */
export type StoryFate =
  | "durable"
  | "reached"
  | "lost"
  | "torn"
  | "overwritten"
  | "ignored";

/** Sectors next to each other with the same fate. */
export interface StoryRun {
  /** First sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
  /** What became of them. */
  readonly fate: StoryFate;
  /** Of a torn block, what of it is new; `null` otherwise. */
  readonly kept: {
    /** Which end of the block. */
    readonly part: "first" | "last";
    /** How many bytes. */
    readonly bytes: number;
  } | null;
}

/** One crash, as an exploration knows it. */
export interface StorySource {
  /** What was going on. */
  readonly level: CrashLevel;
  /** The state. */
  readonly step: CrashStep;
  /** What was undecided. */
  readonly space: CrashSpace;
}

/**
 * Makes the story of a crash.
 *
 * @param crashes The crashes, in order; at least one.
 * @param acknowledged What had been acknowledged.
 * @param error How it fails, in lines.
 * @returns The story.
 */
export function makeStory(
  crashes: readonly StorySource[],
  acknowledged: readonly unknown[],
  error: readonly string[],
): StoryData {
  return {
    device: describeCrashDevice(crashes[0]!.level.recording.device),
    crashes: crashes.map((crash) => ({
      point: crash.step.point,
      events: eventsOf(crash),
    })),
    acknowledged: {
      count: acknowledged.length,
      last: acknowledged.slice(-LAST_VALUES).map(showValue),
    },
    error,
  };
}

/**
 * Whether a run is something that the device had promised nothing about, and
 * that is not, or not wholly, on the medium.
 *
 * @param run The run.
 * @returns Whether it is lost or torn.
 */
export function isDamage({ fate }: StoryRun): boolean {
  return fate === "lost" || fate === "torn";
}

/**
 * What was thrown, in lines for people.
 *
 * @param error What was thrown.
 * @returns Its message, and the line of the program that it came from.
 */
export function describeError(error: unknown): string[] {
  if (!(error instanceof Error)) return [`thrown value ${showValue(error)}`];
  // deno-lint-ignore no-control-regex
  const plain = error.message.replace(/\x1b\[[0-9;]*m/g, "");
  const lines = `${error.name}: ${plain}`.split("\n").slice(0, ERROR_LINES);
  const origin = describeOrigin(error);
  if (origin !== "") lines.push(`at ${origin}`);
  return lines;
}

function eventsOf({ level, step, space }: StorySource): StoryEvent[] {
  const { recording } = level;
  const fates = fatesOf(step, space);
  const events = recording.events.slice(0, step.point);
  let left = 0;
  for (const { kind } of events) if (kind !== "complete") left++;
  const told: StoryEvent[] = [];
  let acknowledged = 0;
  let skipped = 0;
  for (const [at, event] of events.entries()) {
    if (event.kind === "complete") continue;
    const keep = left-- <= LAST_EVENTS;
    let line: StoryEvent | null = null;
    if (event.kind === "acknowledge") {
      const value = recording.acknowledged[acknowledged++];
      if (keep) line = { kind: "acknowledge", at, value: showValue(value) };
    } else if (event.request.type === RequestType.Flush) {
      const fate = flushFate(event.request, step.point, recording);
      if (keep || fate !== "done") {
        const request = describeRequest(event.request, at, step.point);
        line = { kind: "flush", ...request, fate };
      }
    } else {
      const { sector, count, fua } = event.request;
      const blocks = fates.get(event.request);
      const runs = runsOf(event.request, blocks, recording);
      if (keep || runs.some(isDamage)) {
        const request = describeRequest(event.request, at, step.point);
        line = { kind: "write", ...request, sector, count, fua, runs };
      }
    }
    if (line === null) skipped++;
    else {
      if (skipped > 0) told.push({ kind: "skipped", count: skipped });
      skipped = 0;
      told.push(line);
    }
  }
  return told;
}

function describeRequest(
  request: RecordedRequest,
  at: number,
  point: number,
): StoryRequest {
  const { number, type, origin } = request;
  return {
    at,
    number,
    operation: operationName(type),
    completed: isCompleted(request, point),
    origin,
  };
}

function isCompleted({ completedAt }: RecordedRequest, point: number): boolean {
  return completedAt >= 0 && completedAt < point;
}

/** What became of the blocks of a write that is not durable. */
type Fates = Map<number, { outcome: Outcome; kept: StoryRun["kept"] }>;

function fatesOf(
  step: CrashStep,
  space: CrashSpace,
): Map<RecordedRequest, Fates> {
  const fates = new Map<RecordedRequest, Fates>();
  const optionOf = optionsOf(step, space);
  for (const { request, block } of space.unchanged) {
    let blocks = fates.get(request!);
    if (blocks === undefined) fates.set(request!, blocks = new Map());
    blocks.set(block, { outcome: "reached", kept: null });
  }
  for (const variable of space.variables) {
    variable.outcomes(optionOf, ({ request, block }, outcome, torn) => {
      let blocks = fates.get(request!);
      if (blocks === undefined) fates.set(request!, blocks = new Map());
      const tear = torn?.tear;
      blocks.set(block, {
        outcome,
        kept: tear
          ? {
            part: tear.kept,
            bytes: tear.kept === "first"
              ? tear.at
              : torn!.bytes.length - tear.at,
          }
          : null,
      });
    });
  }
  return fates;
}

function flushFate(
  request: RecordedRequest,
  point: number,
  { device }: CrashRecording,
): StoryFlush["fate"] {
  if (!isCompleted(request, point)) return "open";
  if (request.failed) return "failed";
  return device.honorsFlush ? "done" : "ignored";
}

function runsOf(
  request: RecordedRequest,
  blocks: Fates | undefined,
  { device }: CrashRecording,
): StoryRun[] {
  const { sector, count, blocks: changed, firstBlock } = request;
  const whole = (fate: StoryFate) => [{ sector, count, fate, kept: null }];
  if (changed === 0) return whole("ignored");
  if (blocks === undefined) return whole("durable");
  const { blockSectors } = device;
  const runs: { -readonly [K in keyof StoryRun]: StoryRun[K] }[] = [];
  for (let block = firstBlock; block < firstBlock + changed; block++) {
    const { outcome: fate = "durable", kept = null } = blocks.get(block) ?? {};
    const last = runs.at(-1);
    if (
      last?.fate === fate && last.kept?.part === kept?.part &&
      last.kept?.bytes === kept?.bytes
    ) last.count += blockSectors;
    else {
      runs.push({
        sector: block * blockSectors,
        count: blockSectors,
        fate,
        kept,
      });
    }
  }
  return runs;
}

function showValue(value: unknown): string {
  return inspected(value, {
    compact: true,
    depth: 3,
    maxText: 60,
    maxElements: 8,
  });
}
