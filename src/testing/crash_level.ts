/**
 * A recording with the image that it started from (a level: the workload, or a
 * recovery within it), and a position in it: one image, changed in place from
 * state to state.
 *
 * @module
 */

import type { BlockSource } from "./block_source.ts";
import { scramble } from "./hash.ts";
import type { Choice } from "./crash_plan.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { CrashImage } from "./crash_state.ts";
import { type CrashSpace, CrashTimeline } from "./crash_timeline.ts";
import type { CrashStep } from "./crash_token.ts";

/** The workload, or a recovery that is interrupted. */
export interface CrashLevel {
  /** What it did. */
  readonly recording: CrashRecording;
  /** What was on the disk before. */
  readonly source: BlockSource;
  /** The hash of that, and its other half. */
  readonly hash: readonly [high: number, low: number];
  /** What had been acknowledged before; the workload's own values if `null`. */
  readonly acknowledged: readonly unknown[] | null;
  /** The crash that it recovers from, where that is to be told of. */
  readonly after?: { readonly level: CrashLevel; readonly step: CrashStep };
}

/**
 * The level of a workload.
 *
 * @param recording What it did.
 * @returns The level.
 */
export function levelOf(recording: CrashRecording): CrashLevel {
  const { source } = recording;
  return { recording, source, hash: [0, 0], acknowledged: null };
}

/** A position in a recording. */
export class CrashPosition {
  /** The image in its present state. */
  readonly image: CrashImage;
  /** What is undecided, at every point. */
  readonly timeline: CrashTimeline;
  readonly #level: CrashLevel;
  #space: CrashSpace;
  #options = new Int32Array(0);

  /**
   * Constructs a new instance, before everything.
   *
   * @param level The recording.
   */
  constructor(level: CrashLevel) {
    this.#level = level;
    const { recording, source } = level;
    this.timeline = CrashTimeline.of(recording);
    this.image = new CrashImage(source, this.timeline);
    this.#space = this.#enter(0);
  }

  /** What is undecided here. */
  get space(): CrashSpace {
    return this.#space;
  }

  /** The crash point. */
  get point(): number {
    return this.#space.point;
  }

  /** How many values have been acknowledged here. */
  get acknowledgedCount(): number {
    return this.#level.acknowledged?.length ?? this.#space.acknowledged;
  }

  /** What has been acknowledged here, frozen. */
  get acknowledged(): readonly unknown[] {
    const { acknowledged, recording } = this.#level;
    return acknowledged ??
      recording.firstAcknowledged(this.#space.acknowledged);
  }

  /**
   * Goes to a crash point; its image shows what is durable there.
   *
   * @param point The point, before this one or after it.
   * @param space What is undecided there, if it is at hand from a position here
   * before.
   */
  goTo(point: number, space: CrashSpace | null = null): void {
    if (point === this.point) return;
    // Whoever comes back finds all variables as they were in the beginning.
    this.select({
      options: new Int32Array(this.#options.length),
      changed: null,
    });
    this.#space = this.#enter(point, space);
  }

  /**
   * Changes the image to a state.
   *
   * @param choice The state.
   */
  select({ options, changed }: Choice): void {
    const present = this.#options;
    if (changed === null) {
      for (let i = 0; i < present.length; i++) {
        if (options[i] !== present[i]) this.#selectOne(i, options[i]!);
      }
    } else {
      for (const i of changed) {
        if (options[i] !== present[i]) this.#selectOne(i, options[i]!);
      }
    }
  }

  #selectOne(i: number, option: number): void {
    this.#space.variables[i]!.apply(this.image, this.#options[i]!, option);
    this.#options[i] = option;
  }

  /** The present state. */
  get step(): CrashStep {
    const options = new Map<number, number>();
    for (const [i, { latest }] of this.#space.variables.entries()) {
      if (this.#options[i] !== latest) options.set(i, this.#options[i]!);
    }
    return { point: this.point, options };
  }

  #enter(point: number, known: CrashSpace | null = null): CrashSpace {
    const space = known ?? this.timeline.space(point);
    const { high, low } = this.timeline.hash(point);
    const [high0, low0] = this.#level.hash;
    this.image.moveTo(point, high ^ high0, low ^ low0);
    this.#options = new Int32Array(space.variables.length);
    return space;
  }
}

/**
 * A hash of the state that a position shows: of the image, and of how much was
 * acknowledged.
 *
 * @param position The position.
 * @param depth How often the power may fail after it: another state by that.
 * @returns Both halves.
 */
export function hashOf(
  { image, acknowledgedCount }: CrashPosition,
  depth: number,
): { readonly high: number; readonly low: number } {
  return {
    high: image.high ^ scramble(acknowledgedCount, depth),
    low: image.low,
  };
}

/**
 * Goes to a state.
 *
 * @param level The recording.
 * @param step The state.
 * @returns The position; its image shows the state.
 * @throws {RangeError} If there is no such state.
 */
export function positionAt(level: CrashLevel, step: CrashStep): CrashPosition {
  const position = new CrashPosition(level);
  if (step.point > level.recording.events.length) throw noSuchState();
  position.goTo(step.point);
  const { variables } = position.space;
  const options = Int32Array.from(variables, ({ latest }) => latest);
  for (const [i, option] of step.options) {
    if (i >= variables.length || option >= variables[i]!.count) {
      throw noSuchState();
    }
    options[i] = option;
  }
  position.select({ options, changed: null });
  return position;
}

/**
 * Goes to a state of a recovery that was recorded anew, and may not write again
 * what it wrote.
 *
 * @param level The recording of the recovery.
 * @param step The state.
 * @param otherwise What to throw if there is no such state, by its cause.
 * @returns The position; its image shows the state.
 */
export function positionInRecovery(
  level: CrashLevel,
  step: CrashStep,
  otherwise: (cause: RangeError) => Error,
): CrashPosition {
  try {
    return positionAt(level, step);
  } catch (cause) {
    throw cause instanceof RangeError ? otherwise(cause) : cause;
  }
}

function noSuchState(): RangeError {
  return new RangeError(
    "Cannot replay the crash as its token names a state that this recording does not have",
  );
}
