/**
 * Shrinks a failing crash state: to the fewest blocks that did not reach the
 * medium, and then to the earliest crash point, with which it still fails.
 *
 * @module
 */

import {
  type CrashLevel,
  type CrashPosition,
  hashOf,
  positionAt,
} from "./crash_level.ts";
import { optionsOf } from "./crash_timeline.ts";
import type { CrashStep } from "./crash_token.ts";
import { Visited } from "./visited.ts";

/** Crash points of a kind that are tried at most. */
const MOST_POINTS = 150;

/** Keys of the options that are not `latest`, by variable; valid at any point. */
type Deviations = ReadonlyMap<string, string>;

/** How to shrink. */
export interface ShrinkOptions<T> {
  /**
   * Tries a state: the position's image shows it.
   *
   * @returns What failed; `null` if nothing did.
   */
  attempt(position: CrashPosition): Promise<T | null>;
  /** Whether a state is known not to fail in that way. */
  isSound(position: CrashPosition): boolean;
  /** Whether there is time for another try that ends as the last one that failed. */
  mayTry(failure: T): boolean;
  /** States that are tried at most. */
  readonly maxTries: number;
}

/** A failing state. */
export interface Shrunk<T> {
  /** The state. */
  readonly step: CrashStep;
  /** What failed. */
  readonly failure: T;
}

/**
 * Shrinks a failing state. Equal images are tried once.
 *
 * @param level The recording.
 * @param step The failing state.
 * @param failure What failed.
 * @param options How to try others.
 * @returns The simplest state that was found to fail.
 */
export async function shrinkCrash<T>(
  level: CrashLevel,
  step: CrashStep,
  failure: T,
  options: ShrinkOptions<T>,
): Promise<Shrunk<T>> {
  const shrinker = new Shrinker(level, step, failure, options);
  await shrinker.run();
  return { step: shrinker.step, failure: shrinker.failure };
}

class Shrinker<T> {
  step: CrashStep;
  failure: T;
  readonly #options: ShrinkOptions<T>;
  readonly #position: CrashPosition;
  /** States that were tried. */
  readonly #tried = new Visited();
  /** Those of them that failed, and how. */
  readonly #failed = new Map<string, T>();
  #tries = 0;
  #cost = Infinity;

  constructor(
    level: CrashLevel,
    step: CrashStep,
    failure: T,
    options: ShrinkOptions<T>,
  ) {
    this.#options = options;
    this.step = step;
    this.failure = failure;
    this.#position = positionAt(level, step);
    this.#failed.set(this.#name(), failure);
  }

  async run(): Promise<void> {
    let deviations = this.#deviations();
    if (deviations.size > 0) {
      const end = this.step.point;
      const start = Math.max(0, end - MOST_POINTS);
      for (let point = start; point <= end; point++) {
        if (await this.#fails(point, new Map())) return;
      }
      deviations = await this.#fewer(deviations);
      deviations = await this.#plainer(deviations);
      if (await this.#earlierAlike()) deviations = this.#deviations();
    }
    const start = this.#firstPoint(this.step);
    const end = Math.min(this.step.point, start + MOST_POINTS);
    for (let point = start; point < end; point++) {
      if (await this.#fails(point, deviations)) break;
    }
  }

  /**
   * Tries the first of the points before it that look alike: as much is open
   * there, and the same part of that is lost.
   */
  async #earlierAlike(): Promise<boolean> {
    const { point: end, options } = this.step;
    const { timeline } = this.#position;
    const open = this.#goTo(end).space.variables.length;
    let points = 0;
    for (const point of timeline.points) {
      if (point >= end || ++points > MOST_POINTS) break;
      const { variables } = this.#goTo(point).space;
      if (variables.length !== open) continue;
      const chosen = Int32Array.from(
        variables,
        ({ latest, count }, i) => Math.min(options.get(i) ?? latest, count - 1),
      );
      if (await this.#failsAs(chosen)) return true;
    }
    return false;
  }

  /** Tries to do without some deviations, in halves, quarters, …. */
  async #fewer(deviations: Deviations): Promise<Deviations> {
    let current = [...deviations];
    for (let parts = 2; current.length > 1;) {
      const size = Math.ceil(current.length / parts);
      let found = false;
      for (let at = 0; at < current.length && !found; at += size) {
        const part = current.slice(at, at + size);
        const rest = [...current.slice(0, at), ...current.slice(at + size)];
        // The part by itself first: it is the bigger step where parts are two.
        for (const candidate of parts === 2 ? [part] : [part, rest]) {
          if (await this.#fails(this.step.point, new Map(candidate))) {
            current = candidate;
            parts = candidate === part ? 2 : Math.max(parts - 1, 2);
            found = true;
            break;
          }
        }
      }
      if (found) continue;
      if (parts >= current.length) break;
      parts = Math.min(parts * 2, current.length);
    }
    return new Map(current);
  }

  /** Tries other options where a variable has cheaper or whole ones. */
  async #plainer(deviations: Deviations): Promise<Deviations> {
    const current = new Map(deviations);
    for (const [id, key] of deviations) {
      const { variables } = this.#goTo(this.step.point).space;
      const variable = variables.find((one) => one.id === id);
      if (variable === undefined) continue;
      const present = optionOf(variable, key);
      const cost = variable.cost(present);
      const options = Array.from({ length: variable.count }, (_, i) => i)
        .filter((i) =>
          variable.cost(i) < cost ||
          variable.cost(i) === cost && i < present && present > variable.latest
        )
        .sort((a, b) => variable.cost(a) - variable.cost(b) || b - a);
      for (const option of options.slice(0, 200)) {
        const candidate = new Map(current).set(id, variable.key(option));
        if (await this.#fails(this.step.point, candidate)) {
          current.set(id, variable.key(option));
          break;
        }
      }
    }
    return current;
  }

  /** Tries a state; takes it if it fails and costs no more. */
  async #fails(point: number, deviations: Deviations): Promise<boolean> {
    const { variables } = this.#goTo(point).space;
    return await this.#failsAs(
      Int32Array.from(variables, (variable) => {
        const key = deviations.get(variable.id);
        return key === undefined ? variable.latest : optionOf(variable, key);
      }),
    );
  }

  async #failsAs(options: Int32Array): Promise<boolean> {
    const { mayTry, maxTries } = this.#options;
    if (this.#tries >= maxTries || !mayTry(this.failure)) return false;
    const position = this.#position;
    let cost = 0;
    for (const [i, variable] of position.space.variables.entries()) {
      cost += variable.cost(options[i]!);
    }
    if (cost > this.#cost) return false;
    position.select({ options, changed: null });
    const { step } = position;
    const name = this.#name();
    const known = this.#failed.get(name);
    const failure = known ?? await this.#try();
    if (failure === null) return false;
    this.#failed.set(name, failure);
    this.#cost = cost;
    this.step = step;
    this.failure = failure;
    return true;
  }

  /** Tries what the position shows, unless it is known not to fail. */
  async #try(): Promise<T | null> {
    const { attempt, isSound } = this.#options;
    const { high, low } = hashOf(this.#position, 0);
    if (!this.#tried.add(high, low) || isSound(this.#position)) return null;
    this.#tries++;
    return await attempt(this.#position);
  }

  /** A name of what the position shows: equal images have the same. */
  #name(): string {
    const { high, low } = hashOf(this.#position, 0);
    return `${high} ${low}`;
  }

  #goTo(point: number): CrashPosition {
    this.#position.goTo(point);
    return this.#position;
  }

  #deviations(): Deviations {
    const { variables } = this.#goTo(this.step.point).space;
    const deviations = new Map<string, string>();
    for (const [i, option] of this.step.options) {
      const variable = variables[i]!;
      deviations.set(variable.id, variable.key(option));
    }
    return deviations;
  }

  /** The first point at which what was lost had been submitted. */
  #firstPoint(step: CrashStep): number {
    const { space } = this.#goTo(step.point);
    let first = 0;
    const optionOf = optionsOf(step, space);
    for (const variable of space.variables) {
      variable.outcomes(optionOf, ({ request }, outcome) => {
        if (outcome === "lost" || outcome === "torn") {
          first = Math.max(first, request!.submittedAt + 1);
        }
      });
    }
    return Math.max(first, step.point - MOST_POINTS);
  }
}

function optionOf(
  variable: { count: number; latest: number; key(option: number): string },
  key: string,
): number {
  for (let option = 0; option < variable.count; option++) {
    if (variable.key(option) === key) return option;
  }
  return variable.latest;
}
