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

/** Chances of a half and of nine tenths, out of 2^32. */
const HALF = 2 ** 31;
const NEARLY_ALL = 0.9 * 2 ** 32;

/** States up to which a plan is all of them. */
const FEW_STATES = 32;

/** Rounds of a plan before it is all of them. */
const FEW_TURNS = 8;

/** Rounds of a plan after which its turns do not get longer. */
const LONGEST_TURN = 16;

/** Prefixes of the pending writes, and suffixes, that are visited first. */
const MOST_CUTS = 32;

/** Which variables depend on which write. */
class Dependents {
  readonly #byBlock = new Map<number, number[]>();
  readonly #byWrite = new Map<RecordedRequest, number[]>();

  constructor({ variables }: CrashSpace) {
    for (const [i, variable] of variables.entries()) {
      for (const block of variable.blocks()) {
        const list = this.#byBlock.get(block);
        if (list === undefined) this.#byBlock.set(block, [i]);
        else if (list.at(-1) !== i) list.push(i);
      }
    }
  }

  /** The variables that a write has a part in. */
  of(write: RecordedRequest): readonly number[] {
    let found = this.#byWrite.get(write);
    if (found === undefined) {
      const variables = new Set<number>();
      const end = write.firstBlock + write.blocks;
      for (let block = write.firstBlock; block < end; block++) {
        for (const i of this.#byBlock.get(block) ?? []) variables.add(i);
      }
      this.#byWrite.set(write, found = [...variables]);
    }
    return found;
  }
}

/** A choice, changed write by write. */
class Choosing implements Choice {
  readonly options: Int32Array;
  changed: number[] | null = null;
  readonly #variables: readonly Variable[];
  readonly #dependents: Dependents;

  constructor({ variables }: CrashSpace, dependents: Dependents) {
    this.#variables = variables;
    this.#dependents = dependents;
    this.options = new Int32Array(variables.length);
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
    for (const i of this.#dependents.of(write)) {
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
}

const ALL: Reached = () => true;
const NONE: Reached = () => false;

/**
 * Whether a crash point has so few states that its plan is all of them.
 *
 * @param space The crash point.
 * @returns Whether it has.
 */
export function isFew({ size }: Pick<CrashSpace, "size">): boolean {
  return size <= FEW_STATES;
}

/**
 * The states of a crash point, those first that tell most: nothing and
 * everything reached; then, in turn, those that mistakes are usually found in,
 * torn writes, and random ones.
 *
 * @param space The crash point.
 * @param random Where random states come from.
 * @returns States, some of them more than once: all, or without an end.
 */
export function* pointStates(
  space: CrashSpace,
  random: Random,
): Generator<Choice> {
  const { variables } = space;
  const options = new Int32Array(variables.length);
  yield { options, changed: null };
  for (const [i, { latest }] of variables.entries()) options[i] = latest;
  yield { options, changed: null };
  const dependents = new Dependents(space);
  const streams = [
    { states: systematicStates(space, dependents), share: 2 },
    { states: tornStates(space, dependents), share: 1 },
  ];
  if (!isFew(space)) {
    const states = randomStates(space, dependents, random);
    streams.push({ states, share: 1 });
  }
  for (let turn = 1; turn <= FEW_TURNS || !isFew(space); turn++) {
    // Longer turns later, as to go from one stream to another costs more.
    const run = Math.min(turn, LONGEST_TURN);
    for (const { states, share } of streams) {
      for (let i = 0; i < share * run; i++) {
        const { value, done } = states.next();
        if (done) break;
        if (i === 0) value.changed = null;
        yield value;
      }
    }
  }
  yield* allStates(space);
}

/** The numbers below another one, far from those before at first. */
function* spread(count: number): Generator<number> {
  const bits = Math.ceil(Math.log2(Math.max(1, count)));
  for (let i = 0; i < 2 ** bits; i++) {
    let reversed = 0;
    for (let bit = 0; bit < bits; bit++) {
      if (i & 2 ** bit) reversed += 2 ** (bits - 1 - bit);
    }
    if (reversed < count) yield reversed;
  }
}

/** States that mistakes are usually found in, the plainest first. */
function* systematicStates(
  space: CrashSpace,
  dependents: Dependents,
): Generator<Choice> {
  const { variables, pending } = space;
  const choosing = new Choosing(space, dependents);
  function* shown(): Generator<Choice> {
    yield choosing;
    choosing.next();
  }
  // Only what came last, and each prefix: at some places, then at all.
  for (const early of [false, true]) {
    let cuts = 0;
    for (const i of spread(pending.length)) {
      if (++cuts > MOST_CUTS) break;
      const { number } = pending[i]!;
      choosing.all((write) => (write.number <= number) === early);
      yield* shown();
    }
    if (cuts <= MOST_CUTS) continue;
    choosing.all(early ? NONE : ALL);
    for (const write of pending) {
      choosing.write(write, ({ number }) => (number <= write.number) === early);
      yield* shown();
    }
  }
  // Each write missing, or alone.
  for (const rest of [ALL, NONE]) {
    choosing.all(rest);
    for (const i of spread(pending.length)) {
      const write = pending[i]!;
      choosing.write(
        write,
        (request, block) =>
          request === write ? rest === NONE : rest(request, block),
      );
      yield* shown();
      choosing.write(write, rest);
    }
  }
  // Each block by itself: missing, or alone; and torn, where it may be.
  for (const rest of [ALL, NONE]) {
    choosing.all(rest);
    for (let i = 0; i < variables.length; i++) {
      const kept = choosing.options[i]!;
      for (let option = 0; option < variables[i]!.count; option++) {
        if (option === kept) continue;
        choosing.set(i, option);
        yield* shown();
      }
      choosing.set(i, kept);
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
 * Each write torn at each of its blocks, in the middle first: with all others
 * there, or nothing after it.
 */
function* tornStates(
  space: CrashSpace,
  dependents: Dependents,
): Generator<Choice> {
  const { pending } = space;
  const choosing = new Choosing(space, dependents);
  let longest = 0;
  for (const { blocks } of pending) longest = Math.max(longest, blocks);
  choosing.all(ALL);
  for (const at of spread(longest)) {
    if (at === 0) continue;
    for (const alone of [false, true]) {
      for (const first of [true, false]) {
        choosing.all(alone ? NONE : ALL);
        for (const write of pending) {
          // The same share of each, and each cut of each once.
          const cut = cutAt(at, longest, write.blocks);
          const rest: Reached = alone
            ? ({ number }) => number < write.number
            : ALL;
          if (cut > 0) {
            choosing.write(
              write,
              (request, block) =>
                request === write
                  ? block - write.firstBlock < cut === first
                  : rest(request, block),
            );
            yield choosing;
            choosing.next();
          }
          choosing.write(
            write,
            alone ? ({ number }) => number <= write.number : ALL,
          );
        }
      }
    }
  }
}

/** A cut of the longest write as one of a shorter one; 0 if it has it already. */
function cutAt(at: number, longest: number, blocks: number): number {
  const cut = Math.round(at * blocks / longest);
  if (cut === 0 || cut === blocks) return 0;
  return Math.round(cut * longest / blocks) === at ? cut : 0;
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

/** Random states, without an end; some of them more than once. */
function* randomStates(
  space: CrashSpace,
  dependents: Dependents,
  random: Random,
): Generator<Choice> {
  const { variables, pending } = space;
  const choosing = new Choosing(space, dependents);
  const first = pending[0]?.number ?? 0;
  // By number of a write: whether it is there.
  const there = new Uint8Array((pending.at(-1)?.number ?? 0) - first + 1);
  const reached: Reached = ({ number }) => there[number - first] === 1;
  const anyBlock = () => {
    const i = random.below(variables.length);
    choosing.set(i, random.below(variables[i]!.count));
  };
  const anew = () => {
    // Every write by itself, or a prefix, or nearly all.
    const way = random.below(3);
    const cut = random.below(pending.length + 1);
    for (let i = 0; i < pending.length; i++) {
      const lands = way === 0
        ? random.next() < HALF
        : way === 1
        ? i < cut
        : random.next() < NEARLY_ALL;
      there[pending[i]!.number - first] = lands ? 1 : 0;
    }
    choosing.all(reached);
  };
  const many = pending.length > MANY_WRITES;
  for (let step = 0;; step++) {
    if (many && step % WALK !== 0) {
      // A few writes and blocks otherwise than before.
      for (let more = random.between(1, 8); more > 0; more--) {
        const write = random.pick(pending);
        there[write.number - first]! ^= 1;
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
