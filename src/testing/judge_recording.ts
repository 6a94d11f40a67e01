/**
 * Judges the states of a recording, several side by side: by any function, which
 * may run commands, mount the image, or look at it in this process.
 *
 * States come from one order (`crash_order.ts`) and go to whichever job is free.
 * A failure is judged twice more; what always fails is counted in the group of
 * its kind, and in the end the first state of each group is shrunk
 * (`crash_shrink.ts`), by the same judge.
 *
 * With `crashDuringRecovery`, a judge gets a state that records what is written
 * to it (`recorded_state.ts`). If the state is sound, that recording is gone
 * through at once, a few states of it, in the same way.
 *
 * Unlike `explore_recording.ts`, which runs a recovery of this process on one
 * image that changes in place, it gives each judge a state of its own, and goes
 * on after a failure.
 *
 * @module
 */

import { askJudge } from "./ask_judge.ts";
import {
  type CrashLevel,
  type CrashPosition,
  hashOf,
  levelOf,
  positionAt,
  positionInRecovery,
} from "./crash_level.ts";
import { CrashOrder } from "./crash_order.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { type CrashReport, makeCrashReport } from "./crash_report.ts";
import { shrinkCrash } from "./crash_shrink.ts";
import { type CrashStateView, stateAt } from "./crash_state_view.ts";
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
import { scramble } from "./hash.ts";
import { type JudgeNumbers, judgeNumbersOf } from "./judge_numbers.ts";
import { RecordedState } from "./recorded_state.ts";
import { makeStory } from "./story_data.ts";
import { Visited } from "./visited.ts";

/** States up to which they are counted where only the time is limited. */
const MOST_COUNTED = 2 ** 20;

/** How often a state that failed is judged again. */
const AGAIN = 2;

/** Milliseconds after which the event loop gets a turn. */
const YIELD_MS = 50;

/** Milliseconds from one report of progress to the next. */
const PROGRESS_MS = 100;

/** Doubtful states that are kept of each kind. */
const MOST_DOUBTFUL = 100;

/** Lines of a message that a story tells. */
const MOST_LINES = 24;

/** A verdict that something does not hold. */
type Failed = Extract<CrashVerdict, { message: string }>;

/** States that fail in one way, as far as they are known. */
interface Group {
  readonly kind: string;
  count: number;
  /** Which state was the first one, in the order of states. */
  number: number;
  state: CrashStateView;
  verdict: Failed;
}

/** Which state is judged, after how many crashes, and who judges it. */
interface Turn {
  readonly state: CrashStateView;
  /** Which one it is, or its first crash, in the order of states. */
  readonly number: number;
  /** How often the power may fail in the recovery. */
  readonly depth: number;
  /** Which crashes are to follow; any if that is not said. */
  readonly path?: readonly CrashStep[];
  readonly job: number;
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
 * @throws {TypeError} If the judge returns what is no verdict.
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

class Judging {
  readonly #options: JudgeOptions;
  readonly #numbers: JudgeNumbers;
  readonly #recording: CrashRecording;
  readonly #level: CrashLevel;
  readonly #order: CrashOrder;
  readonly #startedAt = performance.now();
  readonly #groups = new Map<string, Group>();
  readonly #points = new Map<number, { visited: number; failed: number }>();
  readonly #unstable: DoubtfulState[] = [];
  readonly #unjudged: DoubtfulState[] = [];
  readonly #counts = { sound: 0, failed: 0, unstable: 0, unjudged: 0 };
  readonly #recoveryCounts = { ...this.#counts };
  /** What failed of each state of a recovery, by its depth and hash. */
  readonly #recoveries = new Map<string, Promise<Failed | null>>();
  /** Recordings of recoveries that failures are told of. */
  readonly #told = new Set<CrashRecording>();
  #recoveriesExhaustive = true;
  #recoveryStates = 0;
  #repeated = 0;
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
    this.#numbers = judgeNumbersOf(options);
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
    let groups: FailureGroup[];
    try {
      if (only !== undefined) await this.#replay(only);
      else await this.#judgeAll();
      groups = await this.#finish(only === undefined);
    } finally {
      // States of failures are looked into as long as the recording is open.
      for (const told of this.#told) this.#recording.closeWith(told);
    }
    this.#report(true);
    return {
      report: this.#makeReport(only !== undefined),
      ended: this.#ended ?? "states",
      groups,
      unstable: this.#unstable,
      unjudged: this.#unjudged,
      counts: this.#counts,
      recoveryCounts: this.#recoveryCounts,
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
        await this.#judgeOne({ ...taken, job, depth: this.#numbers.depth });
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
  #take(): { state: CrashStateView; number: number } | null {
    if (this.#isOver() || this.#ended !== null) return null;
    if (!this.#order.next()) {
      this.#ended = this.#order.exhaustive ? "all" : "states";
      return null;
    }
    const { position } = this.#order;
    return { state: stateAt(this.#level, position), number: this.#taken++ };
  }

  /** Whether no other state is to be begun, not even of a recovery. */
  #isOver(): boolean {
    const elapsedMs = performance.now() - this.#startedAt;
    if (this.#ended === "aborted" || this.#ended === "time") return true;
    if (this.#options.signal?.aborted) this.#ended = "aborted";
    else if (elapsedMs >= this.#numbers.budgetMs) this.#ended = "time";
    else return false;
    return true;
  }

  /**
   * Judges a state, again if it fails, and enters what comes of it. If it is
   * sound and the power may fail in its recovery, judges what that leaves.
   *
   * @returns How it fails; `null` if it does not, or not always.
   */
  async #judgeOne(turn: Turn): Promise<Failed | null> {
    const { state, depth, job } = turn;
    const recorded = depth > 0 ? new RecordedState(state) : null;
    let first: CrashVerdict | null;
    let recovery: CrashLevel | null = null;
    try {
      first = await this.#ask(recorded ?? state, job);
      if (first === null) return null;
      if (first.outcome === "sound" && recorded !== null) {
        recovery = await recorded.end();
      }
    } finally {
      await recorded?.[Symbol.asyncDispose]();
    }
    const verdicts = [first];
    while (
      verdicts.at(-1)!.outcome === "failed" && verdicts.length <= AGAIN
    ) {
      const again = await this.#askAlike(state, depth, job);
      if (again === null) return null;
      verdicts.push(again);
    }
    this.#count(turn, verdicts);
    if (recovery === null) {
      return verdicts.every(({ outcome }) => outcome === "failed")
        ? first as Failed
        : null;
    }
    try {
      await this.#interrupt(recovery, turn);
    } finally {
      const { recording } = recovery;
      if (!this.#told.has(recording)) await recording.close();
    }
    return null;
  }

  /** Asks the judge of a state that it gets as it did the first time. */
  async #askAlike(
    state: CrashStateView,
    depth: number,
    job: number,
  ): Promise<CrashVerdict | null> {
    if (depth === 0) return await this.#ask(state, job);
    await using recorded = new RecordedState(state);
    return await this.#ask(recorded, job);
  }

  /** Enters the verdicts on a state. */
  #count(turn: Turn, verdicts: readonly CrashVerdict[]): void {
    const { state } = turn;
    const isFirstCrash = state.level === this.#level;
    const counts = isFirstCrash ? this.#counts : this.#recoveryCounts;
    const [first] = verdicts;
    const last = verdicts.at(-1)!;
    const { token, hash } = state;
    if (first!.outcome === "sound") {
      counts.sound++;
      this.#sound.add(...halvesOf(hash));
    } else if (first!.outcome === "unjudged") {
      counts.unjudged++;
      keep(this.#unjudged, { token, verdicts });
    } else if (last.outcome !== "failed") {
      counts.unstable++;
      keep(this.#unstable, { token, verdicts });
    } else {
      counts.failed++;
      this.#enter(turn, first as Failed, 1);
    }
    if (!isFirstCrash) {
      this.#recoveryStates++;
      return;
    }
    this.#judged++;
    const point = this.#points.get(state.point) ?? { visited: 0, failed: 0 };
    this.#points.set(state.point, point);
    point.visited++;
    if (last.outcome === "failed") point.failed++;
  }

  /** Judges what is left if the power fails in a recovery. */
  async #interrupt(recovery: CrashLevel, turn: Turn): Promise<void> {
    const { number, job } = turn;
    const depth = turn.depth - 1;
    if (turn.path !== undefined) {
      const [step, ...path] = turn.path;
      const state = stateAt(
        recovery,
        positionInRecovery(recovery, step!, otherRecovery),
      );
      await this.#judgeOne({ state, number, job, depth, path });
      return;
    }
    if (!recovery.recording.wrote) return;
    const { maxStatesPerRecovery, seed } = this.#numbers;
    const [high, low] = recovery.hash;
    const visited = new Visited();
    // If nothing of it reached the medium, it is what has just been judged.
    visited.add(...halvesOf(turn.state.hash));
    const order = new CrashOrder(recovery, {
      maxStates: maxStatesPerRecovery,
      seed: (scramble(high, seed | 0) >>> 0) * 2 ** 21 + (low >>> 11),
      depth: 0,
      thorough: false,
      visited,
    });
    while (!this.#isOver() && order.next()) {
      const state = stateAt(recovery, order.position);
      // Many recoveries end alike.
      const key = `${depth} ${state.hash}`;
      const known = this.#recoveries.get(key);
      const next = { state, number, job, depth };
      if (known === undefined) {
        const judged = this.#judgeOne(next);
        // Who else waits for it hears of it; here it is thrown in any case.
        judged.catch(() => {});
        this.#recoveries.set(key, judged);
        await judged;
        this.#report(false);
      } else {
        this.#repeated++;
        const failed = await known;
        if (failed !== null) this.#enter(next, failed, 0);
      }
    }
    this.#repeated += order.repeated;
    if (!order.exhaustive) this.#recoveriesExhaustive = false;
  }

  /** Enters a failure, of so many states that are not known yet. */
  #enter({ state, number }: Turn, verdict: Failed, count: number): void {
    const kind = kindOf(state, verdict);
    const group = this.#groups.get(kind);
    if (group !== undefined) {
      group.count += count;
      // Which job is faster is not to decide which state is told of.
      if (number >= group.number) return;
      Object.assign(group, { number, state, verdict });
    } else {
      this.#groups.set(kind, { kind, count, number, state, verdict });
      const { token } = state;
      this.#options.onFailure?.({ kind, message: verdict.message, token });
    }
    for (const { level } of state.crashes.slice(1)) {
      this.#told.add(level.recording);
    }
  }

  /** Asks the judge: `null` if all was given up meanwhile. */
  async #ask(state: CrashState, job: number): Promise<CrashVerdict | null> {
    const { judge, signal } = this.#options;
    const { judgeTimeoutMs } = this.#numbers;
    return await askJudge((end) => judge(state, job, end), {
      timeoutMs: judgeTimeoutMs,
      signal,
    });
  }

  /** Judges the state of a token. */
  async #replay(token: string): Promise<void> {
    const { fingerprint, steps } = decodeToken(token);
    if (fingerprint !== this.#recording.fingerprint()) {
      throw new RangeError(
        "Cannot judge the state as its token is of another recording",
      );
    }
    const [step, ...path] = steps;
    const state = stateAt(this.#level, positionAt(this.#level, step!));
    const depth = path.length;
    await this.#judgeOne({ state, number: 0, job: 0, depth, path });
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
    return groups.map(({ kind, count, state, verdict }) => {
      const { crashes, level, point } = state;
      const whole = positionAt(level, { point, options: new Map() });
      return {
        kind,
        message: verdict.message,
        count,
        crashes: crashes.length,
        token: state.token,
        story: makeStory(
          crashes.map(({ level, step }) => {
            const { space } = positionAt(level, step);
            return { level, step, space };
          }),
          state.acknowledged,
          linesOf(verdict.message),
        ),
        output: verdict.output ?? "",
        state,
        whole: stateAt(level, whole),
      };
    });
  }

  /** Makes the first state of a group simpler, as to its last crash. */
  async #shrink(group: Group, job: number): Promise<void> {
    const { maxShrinkStates, shrinkMs, judgeTimeoutMs } = this.#numbers;
    const startedAt = performance.now();
    const { level, step: found } = group.state;
    const fails = async (position: CrashPosition): Promise<Failed | null> => {
      const state = stateAt(level, position);
      const verdict = await this.#ask(state, job);
      return verdict?.outcome === "failed" &&
          kindOf(state, verdict) === group.kind
        ? verdict
        : null;
    };
    let longestMs = 0;
    const { step, failure } = await shrinkCrash<Failed>(
      level,
      found,
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
    if (step === found) return;
    // It has failed once; what is told of must always fail.
    const position = positionAt(level, step);
    for (let again = 0; again < AGAIN; again++) {
      if (await fails(position) === null) return;
    }
    group.state = stateAt(level, position);
    group.verdict = failure;
  }

  #pointFindings(): CrashPointFindings[] {
    return [...this.#points]
      .map(([point, { visited, failed }]) => ({ point, visited, failed }))
      .sort((a, b) => a.point - b.point);
  }

  #makeReport(replayed: boolean): CrashReport {
    const exhaustive = this.#ended === "all" &&
      this.#judged === this.#taken && this.#recoveriesExhaustive;
    return makeCrashReport(
      this.#recording,
      {
        states: this.#judged,
        recoveryStates: this.#recoveryStates,
        exhaustive,
        seed: this.#numbers.seed,
        points: this.#order.pointCount,
        repeated: this.#order.repeated + this.#repeated,
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
      recoveryStates: this.#recoveryStates,
      total: this.#total,
      failed: this.#counts.failed + this.#recoveryCounts.failed,
      groups: this.#groups.size,
      rate,
      elapsedMs,
      leftMs: leftMs === Infinity ? null : Math.max(0, leftMs),
    });
  }
}

/** That a recovery does not leave the state of a token. */
function otherRecovery(cause: RangeError): RangeError {
  return new RangeError(
    "Cannot judge the state as the recovery does not write what it wrote when the token was made: explore anew",
    { cause },
  );
}

/** What states that fail in one way have in common. */
function kindOf({ level }: CrashStateView, { message }: Failed): string {
  const kind = failureKind(message);
  return level.after === undefined
    ? kind
    : `${kind} (after a crash during recovery)`;
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
