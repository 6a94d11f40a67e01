/**
 * Shrinks a failing crash state: to the fewest blocks that did not reach the
 * medium, and then to the earliest crash point, with which it still fails.
 *
 * @module
 */

import { type CrashLevel, CrashPosition } from "./crash_level.ts";
import { optionsOf } from "./crash_timeline.ts";
import type { CrashStep } from "./crash_token.ts";

/** States that are tried at most. */
const MOST_TRIES = 600;

/** Crash points of a kind that are tried at most. */
const MOST_POINTS = 150;

/** Keys of the options that are not `latest`, by variable; valid at any point. */
type Deviations = ReadonlyMap<string, string>;

/**
 * Tries a state.
 *
 * @param position Its image shows the state.
 * @returns What failed; `null` if nothing did.
 */
export type Try<T> = (position: CrashPosition) => Promise<T | null>;

/** A failing state. */
export interface Shrunk<T> {
  /** The state. */
  readonly step: CrashStep;
  /** What failed. */
  readonly failure: T;
}

/**
 * Shrinks a failing state.
 *
 * @param level The recording.
 * @param step The failing state.
 * @param failure What failed.
 * @param attempt Tries another state.
 * @param mayTry Whether there is time for another try that ends as the last one
 * that failed.
 * @returns The simplest state that was found to fail.
 */
export async function shrinkCrash<T>(
  level: CrashLevel,
  step: CrashStep,
  failure: T,
  attempt: Try<T>,
  mayTry: (failure: T) => boolean,
): Promise<Shrunk<T>> {
  const shrinker = new Shrinker(level, step, failure, attempt, mayTry);
  await shrinker.run();
  return { step: shrinker.step, failure: shrinker.failure };
}

class Shrinker<T> {
  step: CrashStep;
  failure: T;
  readonly #level: CrashLevel;
  readonly #attempt: Try<T>;
  readonly #mayTry: (failure: T) => boolean;
  #position: CrashPosition;
  #tries = 0;
  #cost = Infinity;

  constructor(
    level: CrashLevel,
    step: CrashStep,
    failure: T,
    attempt: Try<T>,
    mayTry: (failure: T) => boolean,
  ) {
    this.#mayTry = mayTry;
    this.#level = level;
    this.step = step;
    this.failure = failure;
    this.#attempt = attempt;
    this.#position = new CrashPosition(level);
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
    }
    const start = this.#firstPoint(this.step);
    const end = Math.min(this.step.point, start + MOST_POINTS);
    for (let point = start; point < end; point++) {
      if (await this.#fails(point, deviations)) break;
    }
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
    if (this.#tries >= MOST_TRIES || !this.#mayTry(this.failure)) return false;
    const position = this.#goTo(point);
    const { variables } = position.space;
    let cost = 0;
    const options = Int32Array.from(variables, (variable) => {
      const key = deviations.get(variable.id);
      const option = key === undefined
        ? variable.latest
        : optionOf(variable, key);
      cost += variable.cost(option);
      return option;
    });
    if (cost > this.#cost) return false;
    this.#tries++;
    position.select({ options, changed: null });
    const step = position.step;
    const failure = await this.#attempt(position);
    if (failure === null) return false;
    this.#cost = cost;
    this.step = step;
    this.failure = failure;
    return true;
  }

  #goTo(point: number): CrashPosition {
    if (this.#position.point > point) {
      this.#position = new CrashPosition(this.#level);
    }
    if (this.#position.point < point) this.#position.advance(point);
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
