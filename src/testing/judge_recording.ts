/**
 * Judges the states of a recording, several side by side: by any function, which
 * may run commands, mount the image, or look at it in this process.
 *
 * States come from one order (`crash_order.ts`) and go to whichever job is free.
 * A failure is judged twice more; what always fails is counted in the group of
 * its kind, and in the end the first state of each group is shrunk
 * (`crash_shrink.ts`), by the same judge.
 *
 * Unlike `explore_recording.ts`, which runs a recovery of this process on one
 * image that changes in place, it gives each judge a state of its own, and goes
 * on after a failure.
 *
 * @module
 */

import { plural } from "../plural.ts";
import { Random } from "../random.ts";
import {
  type CrashLevel,
  type CrashPosition,
  hashOf,
  levelOf,
  positionAt,
} from "./crash_level.ts";
import { CrashOrder } from "./crash_order.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { type CrashReport, makeCrashReport } from "./crash_report.ts";
import { shrinkCrash } from "./crash_shrink.ts";
import { stateAt } from "./crash_state_view.ts";
import { type CrashStep, decodeToken } from "./crash_token.ts";
import type {
  CrashFindings,
  CrashPointFindings,
  CrashState,
  CrashVerdict,
  DoubtfulState,
  FailureGroup,
  JudgeOptions,
} from "./crash_verdict.ts";
import { eventLoopTurn } from "./crash_watchdog.ts";
import { failureKind } from "./failure_kind.ts";
import { makeStory } from "./story_data.ts";
import { Visited } from "./visited.ts";

/** States to judge if nothing is said. */
const MAX_STATES = 20_000;

/** States up to which they are counted where only the time is limited. */
const MOST_COUNTED = 2 ** 20;

/** How often a state that failed is judged again. */
const AGAIN = 2;

/** Milliseconds that a judge has to end after its time is over. */
const GRACE_MS = 5000;

/** Milliseconds after which the event loop gets a turn. */
const YIELD_MS = 50;

/** Milliseconds from one report of progress to the next. */
const PROGRESS_MS = 100;

/** Doubtful states that are kept of each kind. */
const MOST_DOUBTFUL = 100;

/** Lines of a message that a story tells. */
const MOST_LINES = 24;

/** The longest time that a timer has. */
const MOST_TIMER_MS = 2 ** 31 - 1;

/** A verdict that something does not hold. */
type Failed = Extract<CrashVerdict, { message: string }>;

/** States that fail in one way, as far as they are known. */
interface Group {
  readonly kind: string;
  count: number;
  /** Which state was the first one, in the order of states. */
  number: number;
  step: CrashStep;
  verdict: Failed;
}

/**
 * Judges the states that a power cut may have left of what was recorded, or as
 * many of them as are asked for or there is time for.
 *
 * @param recording What a program did.
 * @param options The judge, and how much it is to judge.
 * @returns What was found; it does not throw because of failures.
 * @throws {RangeError} If a number is out of its range, or the token is of
 * another recording.
 * @throws {SyntaxError} If the token is none.
 * @throws Whatever the judge throws: that is no verdict.
 *
 * @example A record that is acknowledged before it is durable
 * ```ts
 * import { judgeRecording, recordWorkload } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const recording = await recordWorkload({
 *   device: { sectors: 16 },
 *   async workload(disk, acknowledge) {
 *     await disk.write(3, new Uint8Array(512).fill(1));
 *     acknowledge("written");
 *     await disk.flush();
 *   },
 * });
 * const { groups } = await judgeRecording(recording, {
 *   jobs: 4,
 *   async judge(state) {
 *     await using disk = state.open();
 *     return state.acknowledged.length === 0 || (await disk.read(3, 1))[0] === 1
 *       ? { outcome: "sound" }
 *       : { outcome: "failed", message: "What was acknowledged is gone" };
 *   },
 * });
 * assertEquals(groups.map(({ message }) => message), [
 *   "What was acknowledged is gone",
 * ]);
 * await recording.close();
 * ```
 */
export async function judgeRecording(
  recording: CrashRecording,
  options: JudgeOptions,
): Promise<CrashFindings> {
  return await new Judging(recording, options).run();
}

/** The numbers of the options, checked. */
function numbersOf(options: JudgeOptions): {
  seed: number;
  jobs: number;
  maxStates: number;
  budgetMs: number;
  judgeTimeoutMs: number;
  maxShrinkStates: number;
  shrinkMs: number;
} {
  const { budgetMs, jobs = 1, judgeTimeoutMs = 60_000 } = options;
  const { maxShrinkStates = 200, shrinkMs = 30_000 } = options;
  const most = Number.MAX_SAFE_INTEGER;
  const maxStates = options.maxStates ??
    (budgetMs === undefined ? MAX_STATES : most);
  for (
    const [name, value, least, last] of [
      ["jobs", jobs, 1, most],
      ["maxStates", maxStates, 1, most],
      ["budgetMs", budgetMs ?? 1, 1, most],
      ["judgeTimeoutMs", judgeTimeoutMs, 1, MOST_TIMER_MS],
      ["maxShrinkStates", maxShrinkStates, 0, most],
      ["shrinkMs", shrinkMs, 0, most],
    ] as const
  ) {
    if (!Number.isSafeInteger(value) || value < least || value > last) {
      const end = last === most ? "" : ` to ${last}`;
      throw new RangeError(
        `Cannot judge crash states as ${name} must be a safe integer from ${least}${end}: current value is ${value}`,
      );
    }
  }
  return {
    seed: new Random(options.seed ?? 0).seed,
    budgetMs: budgetMs ?? Infinity,
    ...{ jobs, maxStates, judgeTimeoutMs, maxShrinkStates, shrinkMs },
  };
}

class Judging {
  readonly #options: JudgeOptions;
  readonly #numbers: ReturnType<typeof numbersOf>;
  readonly #recording: CrashRecording;
  readonly #level: CrashLevel;
  readonly #order: CrashOrder;
  readonly #startedAt = performance.now();
  readonly #groups = new Map<string, Group>();
  readonly #points = new Map<number, { visited: number; failed: number }>();
  readonly #unstable: DoubtfulState[] = [];
  readonly #unjudged: DoubtfulState[] = [];
  readonly #counts = { sound: 0, failed: 0, unstable: 0, unjudged: 0 };
  /** States that are sound, by their hashes. */
  readonly #sound = new Visited();
  /** States that were handed out, and those whose verdict is there. */
  #taken = 0;
  #judged = 0;
  #ended: CrashFindings["ended"] | null = null;
  #total: number | null = null;
  #yieldedAt = performance.now();
  #progressAt = performance.now();

  constructor(recording: CrashRecording, options: JudgeOptions) {
    this.#options = options;
    this.#numbers = numbersOf(options);
    this.#recording = recording;
    this.#level = levelOf(recording);
    const { maxStates, seed } = this.#numbers;
    this.#order = new CrashOrder(this.#level, {
      ...{ maxStates, seed, depth: 0, thorough: true },
      visited: new Visited(),
    });
  }

  async run(): Promise<CrashFindings> {
    const { only } = this.#options;
    if (only !== undefined) await this.#replay(only);
    else await this.#judgeAll();
    const groups = await this.#finish(only === undefined);
    this.#report(true);
    return {
      report: this.#makeReport(only !== undefined),
      ended: this.#ended ?? "states",
      groups,
      unstable: this.#unstable,
      unjudged: this.#unjudged,
      counts: this.#counts,
      points: this.#pointFindings(),
      seenEachGroup: this.#order.seenEachGroup,
    };
  }

  /** Lets the jobs take states until there are no more, or it is over. */
  async #judgeAll(): Promise<void> {
    const { maxStates, jobs } = this.#numbers;
    const most = Math.min(maxStates, MOST_COUNTED);
    const count = this.#order.count(most);
    if (count < most || most === maxStates) {
      this.#total = Math.min(count, most);
    }
    await this.#sideBySide(jobs, async (job) => {
      for (;;) {
        const taken = this.#take();
        if (taken === null) return;
        await this.#judgeOne(taken.step, taken.state, taken.number, job);
        this.#report(false);
        if (performance.now() - this.#yieldedAt < YIELD_MS) continue;
        await eventLoopTurn();
        this.#yieldedAt = performance.now();
      }
    });
  }

  /** Runs jobs until all have ended; one that throws ends the others. */
  async #sideBySide(
    jobs: number,
    run: (job: number) => Promise<void>,
  ): Promise<void> {
    const ended = await Promise.allSettled(
      Array.from({ length: jobs }, async (_, job) => {
        try {
          await run(job);
        } catch (error) {
          this.#ended ??= "aborted";
          throw error;
        }
      }),
    );
    for (const one of ended) if (one.status === "rejected") throw one.reason;
  }

  /** The next state, unless it is over. */
  #take(): { step: CrashStep; state: CrashState; number: number } | null {
    if (this.#ended !== null) return null;
    const elapsedMs = performance.now() - this.#startedAt;
    if (this.#options.signal?.aborted) this.#ended = "aborted";
    else if (elapsedMs >= this.#numbers.budgetMs) this.#ended = "time";
    else if (!this.#order.next()) {
      this.#ended = this.#order.exhaustive ? "all" : "states";
    } else {
      const { position } = this.#order;
      return {
        step: position.step,
        state: stateAt(this.#level, position),
        number: this.#taken++,
      };
    }
    return null;
  }

  /** Judges a state, again if it fails, and enters what comes of it. */
  async #judgeOne(
    step: CrashStep,
    state: CrashState,
    number: number,
    job: number,
  ): Promise<void> {
    const verdicts: CrashVerdict[] = [];
    do {
      const verdict = await this.#ask(state, job);
      if (verdict === null) return;
      verdicts.push(verdict);
    } while (
      verdicts[0]!.outcome === "failed" && verdicts.length <= AGAIN &&
      verdicts.at(-1)!.outcome === "failed"
    );
    this.#judged++;
    const point = this.#points.get(step.point) ?? { visited: 0, failed: 0 };
    this.#points.set(step.point, point);
    point.visited++;
    const [first] = verdicts;
    const last = verdicts.at(-1)!;
    const { token, hash } = state;
    if (first!.outcome === "sound") {
      this.#counts.sound++;
      this.#sound.add(...halvesOf(hash));
    } else if (first!.outcome === "unjudged") {
      this.#counts.unjudged++;
      keep(this.#unjudged, { token, verdicts });
    } else if (last.outcome !== "failed") {
      this.#counts.unstable++;
      keep(this.#unstable, { token, verdicts });
    } else {
      this.#counts.failed++;
      point.failed++;
      this.#enter(step, first as Failed, number, token);
    }
  }

  #enter(
    step: CrashStep,
    verdict: Failed,
    number: number,
    token: string,
  ): void {
    const kind = failureKind(verdict.message);
    const group = this.#groups.get(kind);
    if (group === undefined) {
      this.#groups.set(kind, { kind, count: 1, number, step, verdict });
      this.#options.onFailure?.({ kind, message: verdict.message, token });
      return;
    }
    group.count++;
    // Which job is faster is not to decide which state is told of.
    if (number < group.number) Object.assign(group, { number, step, verdict });
  }

  /**
   * Asks the judge.
   *
   * @returns The verdict; `null` if all was given up meanwhile.
   */
  async #ask(state: CrashState, job: number): Promise<CrashVerdict | null> {
    const { judge, signal } = this.#options;
    if (signal?.aborted) return null;
    const { judgeTimeoutMs } = this.#numbers;
    const controller = new AbortController();
    const late: CrashVerdict = {
      outcome: "failed",
      message: `The check has not ended within ${judgeTimeoutMs} ms`,
    };
    let over: CrashVerdict | null | undefined;
    let grace: ReturnType<typeof setTimeout> | undefined;
    const { promise: abandoned, resolve: abandon } = Promise.withResolvers<
      void
    >();
    const end = (verdict: CrashVerdict | null, reason: unknown) => {
      if (over !== undefined) return;
      over = verdict;
      controller.abort(reason);
      grace = setTimeout(abandon, GRACE_MS);
    };
    const timer = setTimeout(
      () => end(late, new DOMException(late.message, "TimeoutError")),
      judgeTimeoutMs,
    );
    const onAbort = () => end(null, signal!.reason);
    signal?.addEventListener("abort", onAbort);
    try {
      const asked = (async () => await judge(state, job, controller.signal))();
      const verdict = await Promise.race([asked, abandoned]);
      return over === undefined ? verdict! : over;
    } catch (error) {
      // What it throws after its time is what it makes of being ended.
      if (over === undefined) throw error;
      return over;
    } finally {
      clearTimeout(timer);
      clearTimeout(grace);
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Judges the state of a token. */
  async #replay(token: string): Promise<void> {
    const { fingerprint, steps } = decodeToken(token);
    if (fingerprint !== this.#recording.fingerprint()) {
      throw new RangeError(
        "Cannot judge the state as its token is of another recording",
      );
    }
    if (steps.length !== 1) {
      throw new RangeError(
        `Cannot judge the state as its token must be of one crash: current value is ${
          plural(steps.length, "crash")
        }`,
      );
    }
    const [step] = steps;
    const position = positionAt(this.#level, step!);
    await this.#judgeOne(step!, stateAt(this.#level, position), 0, 0);
    this.#ended = this.#options.signal?.aborted ? "aborted" : "states";
  }

  /** Makes the findings of each group, shrunk if there is time. */
  async #finish(shrinks: boolean): Promise<FailureGroup[]> {
    const groups = [...this.#groups.values()]
      .sort((a, b) => b.count - a.count || a.number - b.number);
    if (shrinks) {
      let next = 0;
      const jobs = Math.min(this.#numbers.jobs, groups.length);
      await this.#sideBySide(jobs, async (job) => {
        while (next < groups.length && !this.#options.signal?.aborted) {
          await this.#shrink(groups[next++]!, job);
        }
      });
    }
    return groups.map(({ kind, count, step, verdict }) => {
      const position = positionAt(this.#level, step);
      const state = stateAt(this.#level, position);
      const { space } = position;
      return {
        kind,
        message: verdict.message,
        count,
        token: state.token,
        story: makeStory(
          [{ level: this.#level, step, space }],
          state.acknowledged,
          linesOf(verdict.message),
        ),
        output: verdict.output ?? "",
        state,
      };
    });
  }

  /** Makes the first state of a group simpler. */
  async #shrink(group: Group, job: number): Promise<void> {
    const { maxShrinkStates, shrinkMs, judgeTimeoutMs } = this.#numbers;
    const startedAt = performance.now();
    const fails = async (position: CrashPosition): Promise<Failed | null> => {
      const verdict = await this.#ask(stateAt(this.#level, position), job);
      return verdict?.outcome === "failed" &&
          failureKind(verdict.message) === group.kind
        ? verdict
        : null;
    };
    let longestMs = 0;
    const { step, failure } = await shrinkCrash<Failed>(
      this.#level,
      group.step,
      group.verdict,
      {
        maxTries: maxShrinkStates,
        attempt: async (position) => {
          const at = performance.now();
          const failure = await fails(position);
          longestMs = Math.max(longestMs, performance.now() - at);
          if (at - this.#yieldedAt >= YIELD_MS) {
            await eventLoopTurn();
            this.#yieldedAt = performance.now();
          }
          return failure;
        },
        isSound: (position) => {
          const { high, low } = hashOf(position, 0);
          return this.#sound.has(high, low);
        },
        mayTry: () =>
          !this.#options.signal?.aborted &&
          performance.now() - startedAt +
                Math.min(longestMs, judgeTimeoutMs) < shrinkMs,
      },
    );
    if (step === group.step) return;
    // It has failed once; what is told of must always fail.
    const position = positionAt(this.#level, step);
    for (let again = 0; again < AGAIN; again++) {
      if (await fails(position) === null) return;
    }
    group.step = step;
    group.verdict = failure;
  }

  #pointFindings(): CrashPointFindings[] {
    return [...this.#points]
      .map(([point, { visited, failed }]) => ({ point, visited, failed }))
      .sort((a, b) => a.point - b.point);
  }

  #makeReport(replayed: boolean): CrashReport {
    const exhaustive = this.#ended === "all" && this.#judged === this.#taken;
    return makeCrashReport(
      this.#recording,
      {
        states: this.#judged,
        recoveryStates: 0,
        exhaustive,
        seed: this.#numbers.seed,
        points: this.#order.pointCount,
        repeated: this.#order.repeated,
        durationMs: performance.now() - this.#startedAt,
      },
      replayed
        ? "replayed"
        : exhaustive
        ? "all that there are"
        : "a part of all that there are",
    );
  }

  #report(always: boolean): void {
    const { onProgress } = this.#options;
    const now = performance.now();
    if (
      onProgress === undefined ||
      !always && now - this.#progressAt < PROGRESS_MS
    ) return;
    this.#progressAt = now;
    const elapsedMs = now - this.#startedAt;
    const { budgetMs } = this.#numbers;
    const rate = this.#judged / elapsedMs * 1000;
    const leftMs = Math.min(
      budgetMs - elapsedMs,
      this.#total === null || rate === 0
        ? Infinity
        : (this.#total - this.#judged) / rate * 1000,
    );
    onProgress({
      states: this.#judged,
      total: this.#total,
      failed: this.#counts.failed,
      groups: this.#groups.size,
      rate,
      elapsedMs,
      leftMs: leftMs === Infinity ? null : Math.max(0, leftMs),
    });
  }
}

function keep(states: DoubtfulState[], state: DoubtfulState): void {
  if (states.length < MOST_DOUBTFUL) states.push(state);
}

/** Both halves of a hash in hexadecimal digits. */
function halvesOf(hash: string): [high: number, low: number] {
  return [parseInt(hash.slice(0, 8), 16) | 0, parseInt(hash.slice(8), 16) | 0];
}

function linesOf(message: string): string[] {
  return message.split("\n").slice(0, MOST_LINES);
}
