/**
 * A recording with the image that it started from (a level: the workload, or a
 * recovery within it), and a position in it: one image, changed in place from
 * state to state.
 *
 * @module
 */

import type { BlockSource } from "./block_source.ts";
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
}

/** A position in a recording. */
export class CrashPosition {
  /** The image in its present state. */
  readonly image: CrashImage;
  readonly #level: CrashLevel;
  readonly #timeline: CrashTimeline;
  #space: CrashSpace | null = null;
  #options = new Int32Array(0);
  #acknowledged: readonly unknown[] = [];

  /**
   * Constructs a new instance.
   *
   * @param level The recording.
   */
  constructor(level: CrashLevel) {
    this.#level = level;
    const { recording, source, hash } = level;
    this.image = new CrashImage(source, recording.initial);
    this.image.high = hash[0];
    this.image.low = hash[1];
    this.#timeline = new CrashTimeline(recording, this.image);
  }

  /** What is undecided here. */
  get space(): CrashSpace {
    return this.#space ??= this.#enter();
  }

  /** The crash point. */
  get point(): number {
    return this.#timeline.point;
  }

  /** What has been acknowledged here. */
  get acknowledged(): readonly unknown[] {
    const { acknowledged, recording } = this.#level;
    if (acknowledged !== null) return acknowledged;
    const count = this.space.acknowledged;
    if (this.#acknowledged.length !== count) {
      this.#acknowledged = Object.freeze(
        recording.acknowledged.slice(0, count),
      );
    }
    return this.#acknowledged;
  }

  /**
   * Goes on to the next crash point that has states of its own.
   *
   * @returns Whether there is one.
   */
  next(): boolean {
    this.#leave();
    return this.#timeline.nextPoint();
  }

  /**
   * Goes on to a crash point.
   *
   * @param point The point, not before this one.
   */
  advance(point: number): void {
    this.#leave();
    this.#timeline.advance(point);
  }

  /**
   * Changes the image to a state.
   *
   * @param choice The state.
   */
  select(choice: Choice): void {
    const { variables } = this.space;
    const { options, changed } = choice;
    if (changed === null) {
      for (let i = 0; i < variables.length; i++) {
        this.#selectOne(i, options[i]!);
      }
    } else for (const i of changed) this.#selectOne(i, options[i]!);
  }

  #selectOne(i: number, option: number): void {
    const current = this.#options[i]!;
    if (option === current) return;
    this.space.variables[i]!.apply(this.image, current, option);
    this.#options[i] = option;
  }

  /** The present state. */
  get step(): CrashStep {
    const options = new Map<number, number>();
    for (const [i, { latest }] of this.space.variables.entries()) {
      if (this.#options[i] !== latest) options.set(i, this.#options[i]!);
    }
    return { point: this.point, options };
  }

  #enter(): CrashSpace {
    const space = this.#timeline.space();
    // What is durable is what the image shows.
    this.#options = new Int32Array(space.variables.length);
    return space;
  }

  #leave(): void {
    if (this.#space === null) return;
    const durable = new Int32Array(this.#space.variables.length);
    this.select({ options: durable, changed: null });
    this.#space = null;
  }
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
  position.advance(step.point);
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

function noSuchState(): RangeError {
  return new RangeError(
    "Cannot replay the crash as its token names a state that this recording does not have",
  );
}
