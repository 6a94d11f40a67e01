/**
 * The explorer: goes through a recording, and checks a recovery on the images
 * that a power cut may have left; all of them, or a share of them, as one of
 * several workers that go through the same states in the same order.
 *
 * How data moves, from step to step, is told in `explore_crashes.ts`.
 *
 * @module
 */

import { VirtualDisk } from "../disk/disk.ts";
import type { Geometry } from "../geometry.ts";
import { Random } from "../random.ts";
import { checkNumbers, MOST_TIMER_MS } from "./check_numbers.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";
import { CrashFailure } from "./crash_failure.ts";
import {
  type CrashLevel,
  type CrashPosition,
  hashOf,
  levelOf,
  positionAt,
  positionInRecovery,
} from "./crash_level.ts";
import type { ExploreRecordingOptions, Recovery } from "./crash_options.ts";
import { CrashOrder } from "./crash_order.ts";
import { Progress } from "./crash_progress.ts";
import { CrashRecorder } from "./crash_recorder.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { type CrashReport, makeCrashReport } from "./crash_report.ts";
import { shrinkCrash } from "./crash_shrink.ts";
import {
  CrashGuard,
  CrashWatchdog,
  eventLoopTurn,
  RecoveryTimeout,
} from "./crash_watchdog.ts";
import {
  crashGeometry,
  type CrashImage,
  CrashStateBackend,
  type FrozenImage,
} from "./crash_state.ts";
import { tellStory } from "./crash_story.ts";
import { type CrashStep, decodeToken, encodeToken } from "./crash_token.ts";
import { describeError, makeStory, type StorySource } from "./story_data.ts";
import { Visited } from "./visited.ts";

/**
 * Requests that a recovery's disk takes at once: a disk is made for each state,
 * and eight numbers are the most that V8 keeps beside a typed array itself.
 */
const QUEUE_SIZE = 8;

/** Milliseconds after which an exploration yields to the event loop. */
const YIELD_MS = 50;

/** States that are tried at most to shrink one of them. */
const MOST_TRIES = 600;

/** Milliseconds that shrinking a failing state may take, at least. */
const SHRINK_MS = 60_000;

/** The same, in multiples of a recovery's time. */
const SHRINK_RECOVERIES = 6;

/** The same for one that fails by timing out, which each try repeats. */
const SHRINK_TIMEOUTS_MS = 10_000;

/** Bytes of writes that a recording of a recovery may keep. */
const MOST_RECOVERY_BYTES = 2 ** 30;

/**
 * Checks the numbers of an exploration.
 *
 * @param options What to explore.
 * @returns The numbers, with their defaults.
 * @throws {RangeError} If a number is out of its range.
 */
export function checkExploration<Value>(
  options: Pick<
    ExploreRecordingOptions<Value>,
    | "maxStates"
    | "maxStatesPerRecovery"
    | "crashDuringRecovery"
    | "recoveryTimeoutMs"
    | "seed"
  >,
): {
  seed: number;
  maxStates: number;
  maxStatesPerRecovery: number;
  depth: number;
  timeoutMs: number;
} {
  const {
    maxStates = 20_000,
    maxStatesPerRecovery = 48,
    crashDuringRecovery = false,
    recoveryTimeoutMs: timeoutMs = 10_000,
  } = options;
  const { seed } = new Random(options.seed ?? 0);
  const depth = Number(crashDuringRecovery);
  checkNumbers("explore crashes", [
    ["maxStates", maxStates, 1],
    ["maxStatesPerRecovery", maxStatesPerRecovery, 1],
    ["crashDuringRecovery", depth, 0],
    ["recoveryTimeoutMs", timeoutMs, 1, MOST_TIMER_MS],
  ]);
  return { seed, maxStates, maxStatesPerRecovery, depth, timeoutMs };
}

/** What failed, and after which crashes. */
interface Failure {
  readonly error: unknown;
  readonly steps: readonly CrashStep[];
}

/** How to visit the states of a recording. */
interface Visit {
  readonly maxStates: number;
  /** How often the power may fail in the recoveries. */
  readonly depth: number;
  readonly visited: Visited;
  /** What random states are drawn from. */
  readonly seed: number;
  /** What its states are counted as. */
  readonly counted: "states" | "recovery states" | "nothing";
}

/** What one of several explorers that share the states of a recording does. */
export interface ExplorerShare {
  /** Which one it is, from 0. */
  readonly index: number;
  /** How many there are. */
  readonly jobs: number;
  /** The number of a state that failed elsewhere: what comes after is of no use. */
  limit: number;
  /**
   * Tells of a failure.
   *
   * @param number The number of its state, in the order of states.
   * @returns Whether it is the first of all.
   */
  isFirst(number: number): Promise<boolean>;
}

/** Goes through the states of a recording, on one image. */
export class CrashExplorer {
  readonly #recording: CrashRecording;
  readonly #options: Omit<ExploreRecordingOptions, "recover">;
  /** The device as recoveries see it: their flushes do not fail. */
  readonly #recoveryDevice: CompleteCrashDevice;
  readonly #geometry: Geometry;
  readonly #seed: number;
  readonly #depth: number;
  readonly #maxStates: number;
  readonly #maxStatesPerRecovery: number;
  readonly #timeoutMs: number;
  readonly #watchdog: CrashWatchdog;
  readonly #progress: Progress;
  readonly #recover: Recovery;
  readonly #share: ExplorerShare | null;
  /** Whether any recovery read anything. */
  read = false;
  /** What is on the disk of the state that failed. */
  failedImage: FrozenImage | null = null;
  readonly #start = performance.now();
  #states = 0;
  #recoveryStates = 0;
  #repeated = 0;
  #points = 0;
  #exhaustive = true;
  #yieldedAt = performance.now();

  /**
   * Constructs a new instance.
   *
   * @param recording What to explore.
   * @param options How; its `recover` does not count.
   * @param recover Recovers.
   * @param share Which part of the states it checks; `null` for all.
   */
  constructor(
    recording: CrashRecording,
    options: Omit<ExploreRecordingOptions, "recover">,
    recover: Recovery,
    share: ExplorerShare | null = null,
  ) {
    const { seed, maxStates, maxStatesPerRecovery, depth, timeoutMs } =
      checkExploration(options);
    this.#recording = recording;
    this.#options = options;
    this.#recover = recover;
    this.#share = share;
    this.#recoveryDevice = { ...recording.device, failFlushes: new Set() };
    this.#geometry = crashGeometry(recording.device);
    this.#seed = seed;
    this.#depth = depth;
    this.#maxStates = maxStates;
    this.#maxStatesPerRecovery = maxStatesPerRecovery;
    this.#timeoutMs = timeoutMs;
    this.#watchdog = new CrashWatchdog(timeoutMs, options.signal);
    this.#progress = new Progress(options.progress ?? true);
  }

  /**
   * Explores.
   *
   * @returns What was explored; nothing failed, or it is told of elsewhere.
   * @throws {CrashFailure} If a state failed.
   */
  async run(): Promise<CrashReport> {
    try {
      return await this.#run();
    } finally {
      this.#watchdog.end();
    }
  }

  async #run(): Promise<CrashReport> {
    this.#options.signal?.throwIfAborted();
    const level = levelOf(this.#recording);
    const { only } = this.#options;
    if (only !== undefined) return await this.#replay(level, only);
    const visited = new Visited();
    let failure: Failure | null;
    try {
      failure = await this.#explore(level, {
        maxStates: this.#maxStates,
        depth: this.#depth,
        visited,
        seed: this.#seed,
        counted: "states",
      });
    } finally {
      this.#progress.end();
    }
    const share = this.#share;
    if (failure !== null && share !== null) {
      // What a state of another one's comes before is told of there.
      if (!await share.isFirst(this.#states - 1)) failure = null;
      this.#exhaustive = false;
    }
    if (failure !== null) this.#exhaustive = false;
    const flaw = failure === null ? this.#flaw(level) : null;
    const report = this.#report(
      level.recording,
      failure !== null
        ? "until one failed"
        : flaw !== null
        ? `no proof as ${flaw}`
        : this.#exhaustive
        ? "all that there are"
        : "a part of all that there are",
    );
    if (failure === null) {
      if (flaw === null || this.#options.allowNoProof) return report;
      throw new Error(
        `Cannot prove anything as ${flaw}: look for the fault, or pass allowNoProof: true if that is meant`,
      );
    }
    const { steps, error } = await this.#shrink(
      level,
      failure,
      visited,
      this.#depth,
    );
    throw await this.#failureOf(level, steps, report, error);
  }

  /** Why passing proves nothing; `null` if it proves something. */
  #flaw({ recording }: CrashLevel): string | null {
    return !recording.wrote
      ? "the workload wrote nothing to its disk"
      : !this.read
      ? "no recovery read anything of its disk"
      : null;
  }

  /** Visits the states of a recording; stops at the first one that fails. */
  async #explore(level: CrashLevel, visit: Visit): Promise<Failure | null> {
    const { maxStates, depth, visited, seed, counted } = visit;
    const order = new CrashOrder(level, {
      maxStates,
      depth,
      visited,
      seed,
      thorough: counted === "states",
    });
    if (counted === "states") {
      this.#points = order.pointCount;
      this.#progress.total = Math.min(order.count(maxStates), maxStates);
    }
    const { position } = order;
    const share = counted === "states" ? this.#share : null;
    let failure: Failure | null = null;
    while (failure === null && order.next()) {
      this.#options.signal?.throwIfAborted();
      if (counted === "states") this.#states++;
      else if (counted !== "nothing") this.#recoveryStates++;
      const { image } = position;
      if (share !== null) {
        if (this.#states > share.limit) break;
        if ((image.low >>> 0) % share.jobs !== share.index) continue;
      }
      const now = performance.now();
      if (now - this.#yieldedAt >= YIELD_MS) await this.#yield();
      failure = await this.#check(image, position.acknowledged, visit);
    }
    // All workers pass over the same states of the workload: one counts them.
    if (counted !== "nothing" && (share?.index ?? 0) === 0) {
      this.#repeated += order.repeated;
    }
    if (failure !== null) {
      return { ...failure, steps: [position.step, ...failure.steps] };
    }
    if (!order.exhaustive) this.#exhaustive = false;
    return null;
  }

  /** Yields to the event loop, and reports progress. */
  async #yield(): Promise<void> {
    this.#progress.update(this.#states);
    await eventLoopTurn();
    this.#yieldedAt = performance.now();
    this.#watchdog.turned();
  }

  /** Recovers from a state, and from crashes meanwhile. */
  async #check(
    image: CrashImage,
    acknowledged: readonly unknown[],
    visit: Visit,
  ): Promise<Failure | null> {
    if (visit.depth === 0) {
      const guard = new CrashGuard(this.#watchdog);
      const backend = new CrashStateBackend(
        image,
        this.#recoveryDevice,
        this.#geometry,
        guard,
      );
      return await this.#runRecovery(
        VirtualDisk.over(backend, {
          queueSize: QUEUE_SIZE,
          throttle: guard.throttle,
        }),
        acknowledged,
        guard,
      );
    }
    const { level, failure } = await this.#recordRecovery(
      image,
      acknowledged,
      false,
    );
    if (failure !== null || !level.recording.wrote) return failure;
    return await this.#explore(level, {
      maxStates: this.#maxStatesPerRecovery,
      depth: visit.depth - 1,
      // Its own: what other recoveries have left, which are not the same ones
      // in each worker, is not to decide which states are visited.
      visited: new Visited(),
      seed: (image.high >>> 0) * 2 ** 21 + (image.low >>> 11),
      counted: visit.counted === "nothing" ? "nothing" : "recovery states",
    });
  }

  async #recordRecovery(
    image: CrashImage,
    acknowledged: readonly unknown[],
    origins: boolean,
  ): Promise<{ level: CrashLevel; failure: Failure | null }> {
    const guard = new CrashGuard(this.#watchdog);
    const recorder = new CrashRecorder(this.#recoveryDevice, image, {
      origins,
      turns: false,
      guard,
      mostBytes: MOST_RECOVERY_BYTES,
    });
    const failure = await this.#runRecovery(
      VirtualDisk.over(recorder.open(), {
        onSubmit: recorder.onSubmit,
        throttle: guard.throttle,
      }),
      acknowledged,
      guard,
    );
    if (recorder.failure !== null) throw recorder.failure;
    const recording = recorder.endNow();
    const hash = [image.high, image.low] as const;
    return { level: { recording, source: image, hash, acknowledged }, failure };
  }

  async #runRecovery(
    disk: VirtualDisk,
    acknowledged: readonly unknown[],
    guard: CrashGuard,
  ): Promise<Failure | null> {
    let failure: Failure | null = null;
    try {
      const recover = this.#recover;
      const ended = recover(disk, acknowledged);
      if (ended) await this.#watchdog.wait(ended, guard, true);
    } catch (error) {
      failure = { error, steps: [] };
    }
    if (!guard.over) {
      const closed = disk.close();
      // Only a disk below can keep it from being closed.
      await (this.#recording.source.stored !== null
        ? closed
        : this.#watchdog.wait(closed, guard, true));
    }
    if (guard.read) this.read = true;
    if (!guard.over) return failure;
    await guard.abandon();
    if (!(guard.reason instanceof RecoveryTimeout)) throw guard.reason;
    return { error: guard.reason, steps: [] };
  }

  /** Shrinks each crash in turn, from the first to the last. */
  async #shrink(
    level: CrashLevel,
    failure: Failure,
    visited: Visited,
    depth: number,
    startedAt = performance.now(),
  ): Promise<Failure> {
    const { step, failure: found } = await shrinkCrash<Failure>(
      level,
      failure.steps[0]!,
      { ...failure, steps: failure.steps.slice(1) },
      {
        maxTries: MOST_TRIES,
        attempt: (position) =>
          this.#check(position.image, position.acknowledged, {
            maxStates: 1,
            depth,
            visited: new Visited(),
            seed: 0,
            counted: "nothing",
          }),
        // All but the last state that was visited.
        isSound: (position) => {
          const { high, low } = hashOf(position, depth);
          return visited.has(high, low);
        },
        mayTry: ({ error }) => {
          const tookMs = performance.now() - startedAt;
          return error instanceof RecoveryTimeout
            ? tookMs + 2 * this.#timeoutMs < SHRINK_TIMEOUTS_MS
            : tookMs < Math.max(SHRINK_MS, this.#timeoutMs * SHRINK_RECOVERIES);
        },
      },
    );
    if (found.steps.length === 0) return { ...found, steps: [step] };
    const position = positionAt(level, step);
    const inner = await this.#recordRecovery(
      position.image,
      position.acknowledged,
      false,
    );
    positionInRecovery(inner.level, found.steps[0]!, failsNoMore);
    const rest = await this.#shrink(
      inner.level,
      found,
      // None of that recovery's states is known: it may not be the one explored.
      new Visited(),
      depth - 1,
      startedAt,
    );
    return { ...rest, steps: [step, ...rest.steps] };
  }

  /**
   * Visits a state once more and makes an error of it. One that timed out is not
   * run again.
   */
  async #failureOf(
    level: CrashLevel,
    steps: readonly CrashStep[],
    report: CrashReport | null,
    found: unknown,
  ): Promise<Error> {
    const { fingerprint, crashes, position, failure } = await this.#walk(
      level,
      steps,
      failsNoMore,
      found instanceof RecoveryTimeout ? { error: found, steps: [] } : null,
    );
    if (failure === null) return failsNoMore();
    const { acknowledged } = position;
    this.failedImage = position.image.freeze();
    return await CrashFailure.keeping({
      token: encodeToken({ fingerprint, steps }),
      story: tellStory(
        makeStory(crashes, acknowledged, describeError(failure.error)),
      ),
      report,
      acknowledged,
      cause: failure.error,
      image: this.failedImage,
      device: this.#recording.device,
    }, this.#options.saveImage);
  }

  /**
   * Goes through crashes again, one after the other; recovers from the last one
   * as well, unless it is known how that fails. Throws what `otherwise` makes of
   * it if a recovery does not write what it wrote.
   */
  async #walk(
    level: CrashLevel,
    steps: readonly CrashStep[],
    otherwise: (cause: RangeError) => Error,
    known: Failure | null = null,
  ): Promise<{
    fingerprint: string;
    crashes: StorySource[];
    position: CrashPosition;
    failure: Failure | null;
  }> {
    const fingerprint = level.recording.fingerprint();
    const crashes: StorySource[] = [];
    for (const [i, step] of steps.entries()) {
      const position = i === 0
        ? positionAt(level, step)
        : positionInRecovery(level, step, otherwise);
      crashes.push({ level, step, space: position.space });
      if (i === steps.length - 1 && known !== null) {
        return { fingerprint, crashes, position, failure: known };
      }
      const next = await this.#recordRecovery(
        position.image,
        position.acknowledged,
        true,
      );
      if (i === steps.length - 1) {
        return { fingerprint, crashes, position, failure: next.failure };
      }
      level = next.level;
    }
    throw new RangeError("Cannot replay a crash as its token has none");
  }

  async #replay(level: CrashLevel, token: string): Promise<CrashReport> {
    const { fingerprint, steps } = decodeToken(token);
    if (fingerprint !== level.recording.fingerprint()) {
      throw new RangeError(
        "Cannot replay the crash as the workload does not write what it wrote when the token was printed: explore anew",
      );
    }
    const { failure } = await this.#walk(level, steps, otherRecovery);
    if (failure !== null) {
      throw await this.#failureOf(level, steps, null, failure.error);
    }
    this.#states = 1;
    this.#exhaustive = false;
    return this.#report(level.recording, "replayed");
  }

  #report(recording: CrashRecording, extent: string): CrashReport {
    return makeCrashReport(recording, {
      states: this.#states,
      exhaustive: this.#exhaustive,
      seed: this.#seed,
      points: this.#points,
      recoveryStates: this.#recoveryStates,
      repeated: this.#repeated,
      durationMs: performance.now() - this.#start,
    }, extent);
  }
}

/** That a recovery that failed does not when it is run again. */
function failsNoMore(cause?: RangeError): Error {
  return new Error(
    "Cannot tell how the recovery fails as it did once, and did not when it was tried again: it depends on more than its disk",
    cause && { cause },
  );
}

/** That a recovery does not leave the state of a token. */
function otherRecovery(cause: RangeError): RangeError {
  return new RangeError(
    "Cannot replay the crash as the recovery does not write what it wrote when the token was printed: explore anew",
    { cause },
  );
}
