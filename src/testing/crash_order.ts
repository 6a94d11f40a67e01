/**
 * In which order the states of a recording are visited, over all its crash
 * points: those that tell most first, so that also a budget below the number of
 * points is spent well.
 *
 * 1. Representatives: of each group of alike points (`crash_shapes.ts`), the
 *    rarest group first, one point: nothing and everything reached, then a few
 *    states in which mistakes are usually found (`crash_plan.ts`). Then the same
 *    for a few more points of each group.
 * 2. Sweeps over all points: the first state of each, then four times as many
 *    after each sweep as after the one before.
 * 3. What is left of all that there are, if that can be told: points of which
 *    states were drawn at random are enumerated.
 *
 * It is made lazily: a point keeps two numbers and no states, and is entered
 * anew each time (`crash_timeline.ts` has any point at hand); plans are kept
 * only as far as there is room for them, and else made once more. Equal images with
 * as many acknowledged values are shown once (`visited.ts`).
 *
 * @module
 */

import { Random } from "../random.ts";
import { scramble } from "./hash.ts";
import { type CrashLevel, CrashPosition, hashOf } from "./crash_level.ts";
import { allStates, type Choice, isFew, pointStates } from "./crash_plan.ts";
import type { CrashSpace } from "./crash_timeline.ts";
import type { Visited } from "./visited.ts";

/** Points of a group that stand for it. */
const REPRESENTATIVES = 4;

/** States of the first representative before all points are seen once. */
const FIRST_STATES = [2, 8] as const;

/** How many times more states a representative has than another point. */
const REPRESENTATIVE_SHARE = 4;

/** How many times more states a point has had after each sweep. */
const SWEEP_GROWTH = 4;

/** Parts of a sweep over a group, each of which goes through all of it. */
const MOST_PARTS = 16;

/** Planned states in a row, all visited before, after which a point is done. */
const MOST_REPEATED = 64;

/** States of which it may be found out whether they were visited, at most. */
const HASHES_PER_STATE = 16;

/** The same where it is worth some time: 0.1 s of them. */
const LEAST_HASHES = 65_536;

/** Variables of points whose plans are kept from one visit to the next. */
const MOST_KEPT = 8192;

/** What to visit of a recording. */
export interface CrashOrderOptions {
  /** States at most. */
  readonly maxStates: number;
  /** What random states are drawn from. */
  readonly seed: number;
  /** What was visited before, and is from here. */
  readonly visited: Visited;
  /** How often the power may fail after the crash: such states are different. */
  readonly depth: number;
  /** Whether it is worth some time to find out that all were visited. */
  readonly thorough: boolean;
}

/** That a point is to have had so many planned states. */
interface Turn {
  /** Its index. */
  readonly i: number;
  readonly states: number;
}

/** A point while it is visited. */
interface PointVisit {
  /** Its index. */
  readonly i: number;
  readonly space: CrashSpace;
  readonly plan: Iterator<Choice, void>;
  /** Whether its plan is all of its states. */
  readonly few: boolean;
  /** Planned states that it is to have had at the end. */
  states: number;
  /** Planned states that it has had. */
  at: number;
  /** Of those, how many in a row had been visited. */
  repeated: number;
}

/**
 * The states of a recording, one after the other: {@linkcode position} shows the
 * present one.
 */
export class CrashOrder {
  /** The position, whose image shows the present state. */
  readonly position: CrashPosition;
  /** States that were passed over, as an equal one had been visited. */
  repeated = 0;
  /** Whether all states were visited; known when there are no more. */
  exhaustive = false;
  readonly #options: CrashOrderOptions;
  readonly #points: readonly number[];
  readonly #groups: readonly (readonly number[])[];
  /** By index of a point: planned states that it has had. */
  readonly #had: Float64Array;
  /** How many states there are, where that is known. */
  readonly #sizes: Float64Array;
  /** Points with more states to come. */
  #open: number;
  readonly #done: Uint8Array;
  readonly #turns: Iterator<Turn>;
  /** The visit of a point that goes on. */
  #visit: PointVisit | null = null;
  /** Visits that go on when it is their turn, by index of the point. */
  readonly #kept = new Map<number, PointVisit>();
  /** Variables that the points of these have. */
  #keptVariables = 0;
  /** Whether the image shows something else than the plan's last state. */
  #jumped = false;
  readonly #rest: Iterator<void>;
  #left: number;

  /**
   * Constructs a new instance.
   *
   * @param level The recording.
   * @param options What to visit.
   */
  constructor(level: CrashLevel, options: CrashOrderOptions) {
    this.#options = options;
    this.position = new CrashPosition(level);
    const { points, shapes } = this.position.timeline;
    this.#points = points;
    this.#groups = shapes.groups();
    this.#had = new Float64Array(points.length);
    this.#sizes = new Float64Array(points.length).fill(-1);
    this.#done = new Uint8Array(points.length);
    this.#open = points.length;
    this.#left = options.maxStates;
    this.#turns = this.#allTurns();
    this.#rest = this.#allRest();
  }

  /** Crash points that have states of their own. */
  get pointCount(): number {
    return this.#points.length;
  }

  /** Whether a state of each group of alike points was visited. */
  get seenEachGroup(): boolean {
    return this.#groups.every((group) => this.#had[group.at(-1)!]! > 0);
  }

  /**
   * Goes on to the next state.
   *
   * @returns Whether there is one.
   */
  next(): boolean {
    while (this.#left > 0) {
      const visit = this.#visit;
      if (visit === null) {
        const { value: turn, done } = this.#turns.next();
        if (done) break;
        this.#begin(turn);
      } else if (this.#goOn(visit)) return true;
    }
    return !this.#rest.next().done;
  }

  /**
   * How many states there are, by a count that takes some of them twice.
   *
   * @param most The number up to which it is of interest.
   * @returns States, or a number that is not less than `most`.
   */
  count(most: number): number {
    let total = 0;
    for (const i of this.#points.keys()) {
      if (total >= most) break;
      total += this.#sizeOf(i);
    }
    return total;
  }

  /** Which point comes next, and how many planned states it is to have then. */
  *#allTurns(): Generator<Turn> {
    for (const states of FIRST_STATES) {
      for (const group of this.#groups) {
        yield { i: group.at(-1)!, states };
      }
    }
    for (const group of this.#groups) {
      for (let i = 1; i < Math.min(REPRESENTATIVES, group.length); i++) {
        yield { i: representative(group, i), states: FIRST_STATES[0] };
      }
    }
    for (let states = 1; this.#open > 0; states *= SWEEP_GROWTH) {
      for (const group of this.#groups) {
        yield { i: group.at(-1)!, states: states * REPRESENTATIVE_SHARE };
        for (const i of inParts(group)) yield { i, states };
      }
    }
  }

  /** Enters a point, unless it has had its share. */
  #begin({ i, states }: Turn): void {
    const had = this.#had[i]!;
    if (this.#done[i] === 1 || had >= states) return;
    const { position } = this;
    const kept = this.#kept.get(i);
    position.goTo(this.#points[i]!, kept?.space);
    this.#visit = kept ?? this.#plan(i, position.space);
    this.#visit.states = states;
    this.#visit.repeated = 0;
    this.#jumped = true;
  }

  /** Plans a point, and keeps that if there is room. */
  #plan(i: number, space: CrashSpace): PointVisit {
    this.#sizes[i] = space.size;
    const random = new Random(seedOf(this.#options.seed, space.point));
    const plan = pointStates(space, random);
    const at = this.#had[i]!;
    for (let had = 0; had < at; had++) plan.next();
    const visit: PointVisit = {
      ...{ i, space, plan, at },
      ...{ few: isFew(space), states: at, repeated: 0 },
    };
    const variables = this.#keptVariables + space.variables.length;
    if (variables <= MOST_KEPT) {
      this.#keptVariables = variables;
      this.#kept.set(i, visit);
    }
    return visit;
  }

  /**
   * Takes one more planned state of the point.
   *
   * @returns Whether it is a new one; the position shows it.
   */
  #goOn(visit: PointVisit): boolean {
    const { value: choice, done } = visit.plan.next();
    const { i, states, few } = visit;
    if (done) this.#close(i);
    else {
      this.#had[i] = ++visit.at;
      if (this.#jumped) choice.changed = null;
      this.#jumped = false;
      if (visit.at >= states) this.#visit = null;
      if (this.#select(choice)) {
        visit.repeated = 0;
        return true;
      }
      if (few || ++visit.repeated < MOST_REPEATED) return false;
      this.#close(i);
    }
    this.#visit = null;
    return false;
  }

  #close(i: number): void {
    if (this.#done[i] === 1) return;
    const kept = this.#kept.get(i);
    if (kept !== undefined) {
      this.#kept.delete(i);
      this.#keptVariables -= kept.space.variables.length;
    }
    this.#done[i] = 1;
    this.#open--;
  }

  /**
   * Shows a state.
   *
   * @returns Whether it is a new one.
   */
  #select(choice: Choice): boolean {
    const { position } = this;
    position.select(choice);
    const { high, low } = hashOf(position, this.#options.depth);
    if (!this.#options.visited.add(high, low)) {
      this.repeated++;
      return false;
    }
    this.#left--;
    return true;
  }

  /** Enumerates what was only drawn from, and visits what is new of that. */
  *#allRest(): Generator<void> {
    const { visited, maxStates, thorough, depth } = this.#options;
    const least = thorough ? LEAST_HASHES : 0;
    const most = Math.max(least, maxStates * HASHES_PER_STATE);
    let unseen = 0;
    for (const i of this.#points.keys()) {
      if (this.#isWhole(i)) continue;
      unseen += this.#sizeOf(i);
      if (unseen > most) return;
    }
    for (const [i, point] of this.#points.entries()) {
      if (this.#isWhole(i)) continue;
      const { position } = this;
      position.goTo(point);
      for (const choice of allStates(position.space)) {
        position.select(choice);
        const { high, low } = hashOf(position, depth);
        if (visited.has(high, low)) continue;
        if (this.#left === 0) return;
        visited.add(high, low);
        this.#left--;
        yield;
      }
    }
    this.exhaustive = true;
  }

  /** Whether a point has had all states. */
  #isWhole(i: number): boolean {
    return this.#done[i] === 1 && isFew({ size: this.#sizes[i]! });
  }

  #sizeOf(i: number): number {
    if (this.#sizes[i]! < 0) {
      this.#sizes[i] = this.position.timeline.space(this.#points[i]!).size;
    }
    return this.#sizes[i]!;
  }
}

/** A seed for the states of one point. */
function seedOf(seed: number, point: number): number {
  const high = Math.floor(seed / 2 ** 32);
  return (scramble(seed | 0, point) >>> 0) * 2 ** 20 +
    (scramble(high, point) >>> 12);
}

/** Others that stand for a group than its last point: the first, the middle, …. */
function representative(group: readonly number[], i: number): number {
  return group[Math.floor((i - 1) * group.length / REPRESENTATIVES)]!;
}

/** A group in a few parts, each of which goes through all of it. */
function* inParts(group: readonly number[]): Generator<number> {
  const parts = Math.min(MOST_PARTS, group.length);
  for (let part = 0; part < parts; part++) {
    for (let i = part; i < group.length; i += parts) yield group[i]!;
  }
}
