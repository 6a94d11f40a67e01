/**
 * In which order the states of a crash point are visited: all of them if they
 * are few, else those that mistakes are usually found in, then random ones.
 *
 * @module
 */

import type { Random } from "../random.ts";
import type { RecordedRequest } from "./block_version.ts";
import type { CrashSpace } from "./crash_timeline.ts";
import type { OptionOf, Reached, Variable } from "./crash_variable.ts";

/** A state. It is used again for the next one. */
export interface Choice {
  /** An option of each variable. */
  readonly options: Int32Array;
  /**
   * The variables that may have another option than in the state before, some
   * of them more than once; `null` for all.
   */
  changed: number[] | null;
}

/** Writes above which a random state is made of the one before. */
const MANY_WRITES = 48;

/** Random states until one is made anew. */
const WALK = 64;

/** A choice, changed write by write. */
class Choosing implements Choice {
  readonly options: Int32Array;
  changed: number[] | null = null;
  readonly #variables: readonly Variable[];
  readonly #byBlock = new Map<number, number[]>();
  readonly #byWrite = new Map<RecordedRequest, number[]>();

  constructor(space: CrashSpace) {
    this.#variables = space.variables;
    this.options = new Int32Array(space.variables.length);
    for (const [i, variable] of space.variables.entries()) {
      for (const block of variable.blocks()) {
        const list = this.#byBlock.get(block);
        if (list === undefined) this.#byBlock.set(block, [i]);
        else if (list.at(-1) !== i) list.push(i);
      }
    }
  }

  /** Chooses everything anew. */
  all(reached: Reached): this {
    for (let i = 0; i < this.options.length; i++) {
      this.options[i] = this.#variables[i]!.choose(reached);
    }
    this.changed = null;
    return this;
  }

  /** Chooses what depends on a write. */
  write(write: RecordedRequest, reached: Reached): this {
    for (const i of this.of(write)) {
      this.options[i] = this.#variables[i]!.choose(reached);
      this.changed?.push(i);
    }
    return this;
  }

  /** Sets one variable. */
  set(i: number, option: number): this {
    this.options[i] = option;
    this.changed?.push(i);
    return this;
  }

  /** Starts to write down what changes. */
  next(): void {
    this.changed = [];
  }

  /** The variables that a write has a part in. */
  of(write: RecordedRequest): readonly number[] {
    let found = this.#byWrite.get(write);
    if (found === undefined) {
      const variables = new Set<number>();
      for (const { block } of write.versions) {
        for (const i of this.#byBlock.get(block) ?? []) variables.add(i);
      }
      this.#byWrite.set(write, found = [...variables]);
    }
    return found;
  }
}

/**
 * All states.
 *
 * @param space The crash point.
 * @returns Each state once, starting with nothing that reached the medium.
 */
export function* allStates(space: CrashSpace): Generator<Choice> {
  const { variables } = space;
  const options = new Int32Array(variables.length);
  const choice: Choice = { options, changed: null };
  const at = new Map(variables.map((variable, i) => [variable, i]));
  const optionOf: OptionOf = (variable) => options[at.get(variable)!]!;
  for (;;) {
    yield choice;
    choice.changed = [];
    let i = variables.length - 1;
    for (; i >= 0; i--) {
      const variable = variables[i]!;
      if (variable.masked?.(optionOf)) continue;
      choice.changed.push(i);
      if (++options[i]! < variable.count) break;
      options[i] = 0;
    }
    if (i < 0) return;
  }
}

const ALL: Reached = () => true;
const NONE: Reached = () => false;

/**
 * The states that mistakes are usually found in, the plainest first.
 *
 * @param space The crash point.
 * @returns States, some of them more than once.
 */
export function* systematicStates(space: CrashSpace): Generator<Choice> {
  const { variables, pending } = space;
  const choosing = new Choosing(space);
  function* shown(): Generator<Choice> {
    yield choosing;
    choosing.next();
  }
  choosing.all(ALL);
  yield* shown();
  // Only what came last: the first writes go, one after the other.
  for (const write of pending) {
    choosing.write(write, ({ number }) => number > write.number);
    yield* shown();
  }
  // Each prefix.
  for (const write of pending) {
    choosing.write(write, ({ number }) => number <= write.number);
    yield* shown();
  }
  // Each single write missing.
  for (const write of pending) {
    choosing.write(write, (request) => request !== write);
    yield* shown();
    choosing.write(write, ALL);
  }
  // Each write torn at each sector, all others there.
  const torn =
    (write: RecordedRequest, cut: number, first: boolean, rest: Reached) =>
    (request: RecordedRequest, block: number): boolean =>
      request === write
        ? block - write.versions[0]!.block < cut === first
        : rest(request, block);
  for (const write of pending) {
    for (let cut = 1; cut < write.versions.length; cut++) {
      for (const first of [true, false]) {
        choosing.write(write, torn(write, cut, first, ALL));
        yield* shown();
      }
    }
    choosing.write(write, ALL);
  }
  // Each write alone; each one torn at each sector, and nothing after it.
  choosing.all(NONE);
  for (const write of pending) {
    choosing.write(write, (request) => request === write);
    yield* shown();
    choosing.write(write, NONE);
  }
  for (const write of pending) {
    const before: Reached = ({ number }) => number < write.number;
    for (let cut = 1; cut < write.versions.length; cut++) {
      for (const first of [true, false]) {
        choosing.write(write, torn(write, cut, first, before));
        yield* shown();
      }
    }
    choosing.write(write, ({ number }) => number <= write.number);
  }
  // Each block by itself: missing, or alone; and torn, where it may be.
  for (const reached of [ALL, NONE]) {
    choosing.all(reached);
    for (let i = 0; i < variables.length; i++) {
      const rest = choosing.options[i]!;
      for (let option = 0; option < variables[i]!.count; option++) {
        if (option === rest) continue;
        choosing.set(i, option);
        yield* shown();
      }
      choosing.set(i, rest);
    }
  }
  // Each two writes missing.
  choosing.all(ALL);
  for (let a = 0; a < pending.length; a++) {
    for (let b = a + 1; b < pending.length; b++) {
      const both: Reached = (request) =>
        request !== pending[a] && request !== pending[b];
      choosing.write(pending[a]!, both).write(pending[b]!, both);
      yield* shown();
      choosing.write(pending[a]!, ALL).write(pending[b]!, ALL);
    }
  }
}

/**
 * Random states, without an end.
 *
 * @param space The crash point.
 * @param random Where from.
 * @returns States, some of them more than once.
 */
export function* randomStates(
  space: CrashSpace,
  random: Random,
): Generator<Choice> {
  const { variables, pending } = space;
  const choosing = new Choosing(space);
  const there = new Set<RecordedRequest>();
  const reached: Reached = (request) => there.has(request);
  const anyBlock = () => {
    const i = random.below(variables.length);
    choosing.set(i, random.below(variables[i]!.count));
  };
  const anew = () => {
    there.clear();
    // Every write by itself, or a prefix, or nearly all.
    const way = random.below(3);
    const cut = random.below(pending.length + 1);
    for (const [i, write] of pending.entries()) {
      const lands = way === 0
        ? random.chance(1, 2)
        : way === 1
        ? i < cut
        : random.chance(9, 10);
      if (lands) there.add(write);
    }
    choosing.all(reached);
  };
  const many = pending.length > MANY_WRITES;
  for (let step = 0;; step++) {
    if (many && step % WALK !== 0) {
      // A few writes and blocks otherwise than before.
      for (let more = random.between(1, 8); more > 0; more--) {
        const write = random.pick(pending);
        if (!there.delete(write)) there.add(write);
        choosing.write(write, reached);
      }
    } else if (!many && random.chance(1, 4)) {
      // Every block by itself.
      choosing.changed = null;
      for (let i = 0; i < variables.length; i++) {
        choosing.set(i, random.below(variables[i]!.count));
      }
    } else anew();
    for (let more = random.below(4); more > 0; more--) anyBlock();
    yield choosing;
    choosing.next();
  }
}

/**
 * Divides a number of states among crash points: small ones get all that they
 * have, the others equal shares of the rest.
 *
 * @param sizes States by crash point.
 * @param total States to divide.
 * @returns States for each point, by index.
 */
export function divideStates(
  sizes: readonly number[],
  total: number,
): number[] {
  const shares = new Array<number>(sizes.length).fill(0);
  const order = sizes.map((_, i) => i).sort((a, b) => sizes[a]! - sizes[b]!);
  let left = total;
  for (const [rank, i] of order.entries()) {
    const share = Math.floor(left / (order.length - rank));
    shares[i] = Math.min(sizes[i]!, share);
    left -= shares[i]!;
  }
  return shares;
}
