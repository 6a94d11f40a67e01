/**
 * The numbers that say how states are judged: what they are if nothing is said,
 * and what they must be.
 *
 * @module
 */

import { Random } from "../random.ts";
import { checkNumbers, MOST_TIMER_MS } from "./check_numbers.ts";
import { decodeToken } from "./crash_token.ts";
import type { JudgeOptions } from "./crash_verdict.ts";

/** States to judge if nothing is said. */
const MAX_STATES = 20_000;

/** How states are judged; see {@linkcode JudgeOptions}. */
export interface JudgeNumbers {
  /** The seed, as random numbers take it. */
  readonly seed: number;
  /** How many states are judged side by side. */
  readonly jobs: number;
  /** States at most. */
  readonly maxStates: number;
  /** Milliseconds for all of them; may be `Infinity`. */
  readonly budgetMs: number;
  /** Milliseconds for one. */
  readonly judgeTimeoutMs: number;
  /** How often the power may fail in a recovery. */
  readonly depth: number;
  /** States of each recovery at most. */
  readonly maxStatesPerRecovery: number;
  /** States that are tried at most to make one simpler. */
  readonly maxShrinkStates: number;
  /** Milliseconds that this may take. */
  readonly shrinkMs: number;
}

/**
 * Checks what can be wrong with options before there is a recording, which may
 * take minutes to make.
 *
 * @param options The options.
 * @throws {RangeError} If a number is out of its range.
 * @throws {SyntaxError} If the token of `only` is none.
 */
export function checkJudgeOptions(options: Omit<JudgeOptions, "judge">): void {
  judgeNumbersOf(options);
  if (options.only !== undefined) decodeToken(options.only);
}

/**
 * Takes the numbers of options.
 *
 * @param options The options.
 * @returns The numbers, all of them.
 * @throws {RangeError} If one is out of its range.
 */
export function judgeNumbersOf(
  options: Omit<JudgeOptions, "judge">,
): JudgeNumbers {
  const { budgetMs, jobs = 1, judgeTimeoutMs = 60_000 } = options;
  const { crashDuringRecovery = false, maxStatesPerRecovery = 8 } = options;
  const depth = Number(crashDuringRecovery);
  const { maxShrinkStates = 200, shrinkMs = 30_000 } = options;
  const maxStates = options.maxStates ??
    (budgetMs === undefined ? MAX_STATES : Number.MAX_SAFE_INTEGER);
  checkNumbers("judge crash states", [
    ["jobs", jobs, 1],
    ["maxStates", maxStates, 1],
    ["budgetMs", budgetMs ?? 1, 1],
    ["judgeTimeoutMs", judgeTimeoutMs, 1, MOST_TIMER_MS],
    ["crashDuringRecovery", depth, 0],
    ["maxStatesPerRecovery", maxStatesPerRecovery, 1],
    ["maxShrinkStates", maxShrinkStates, 0],
    ["shrinkMs", shrinkMs, 0],
  ]);
  return {
    seed: new Random(options.seed ?? 0).seed,
    budgetMs: budgetMs ?? Infinity,
    ...{ jobs, maxStates, judgeTimeoutMs, depth, maxStatesPerRecovery },
    ...{ maxShrinkStates, shrinkMs },
  };
}
