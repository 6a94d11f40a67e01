/**
 * What judges of crash states get and say, and what comes of it: states,
 * verdicts, groups of failures.
 *
 * Plain data and one interface; `judge_recording.ts` makes and gathers them.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import type { CrashReport } from "./crash_report.ts";
import type { StoryData } from "./story_data.ts";

/** A disk as a power cut may have left it. It does not change any more. */
export interface CrashState {
  /** What names it, for the option `only`. */
  readonly token: string;
  /** The crash point: how many events of the recording came before it. */
  readonly point: number;
  /** A hash of the image and of how much was acknowledged, 16 digits. */
  readonly hash: string;
  /** What had been acknowledged, in order. */
  readonly acknowledged: readonly unknown[];
  /**
   * Whether what is written by {@linkcode open} and {@linkcode openBackend} is
   * recorded, as the power may fail in that as well (`crashDuringRecovery`). Then
   * all that they return is one disk, and what is made of {@linkcode changes} is
   * not recorded.
   */
  readonly recorded: boolean;
  /**
   * What differs from the disk as it was when the recording started.
   *
   * @returns Bytes by block number, in blocks of the device's size; not to be
   * changed.
   */
  changes(): ReadonlyMap<number, Uint8Array>;
  /**
   * The image as a backend, to be served or opened. What is written to it is its
   * own, and goes with it.
   *
   * @returns The backend.
   */
  openBackend(): Backend;
  /**
   * The image as a disk. What is written to it goes with it.
   *
   * @returns The disk.
   */
  open(): VirtualDisk;
}

/** What is said of one state. */
export type CrashVerdict =
  | {
    /** What is promised holds. */
    readonly outcome: "sound";
  }
  | {
    /**
     * `"failed"`: something promised does not hold. `"unjudged"`: it cannot be
     * told, through no fault of the state's.
     */
    readonly outcome: "failed" | "unjudged";
    /** Why. Failures are grouped by its last line. */
    readonly message: string;
    /** What a check printed, if there is more of it. */
    readonly output?: string | undefined;
  };

/**
 * Judges a state.
 *
 * @param state The state.
 * @param job Which of the judges that run side by side, from 0.
 * @param signal Ends the judging: its time is over, or all is given up.
 * @returns The verdict.
 */
export type CrashJudge = (
  state: CrashState,
  job: number,
  signal: AbortSignal,
) => Promise<CrashVerdict> | CrashVerdict;

/** States that fail in the same way. */
export interface FailureGroup {
  /** What they have in common: the last line, without numbers and names. */
  readonly kind: string;
  /** How the simplest one fails. */
  readonly message: string;
  /** How many there are. */
  readonly count: number;
  /** How often the power fails in each: above 1, in the recovery as well. */
  readonly crashes: number;
  /** The simplest one that was found. */
  readonly token: string;
  /** What happened there. */
  readonly story: StoryData;
  /** What its check printed. */
  readonly output: string;
  /** The same state. */
  readonly state: CrashState;
  /** The same moment, if everything had reached the medium. */
  readonly whole: CrashState;
}

/** How many states there are of each verdict. */
export interface VerdictCounts {
  /** What is promised holds. */
  readonly sound: number;
  /** Something promised does not. */
  readonly failed: number;
  /** It failed, and did not always. */
  readonly unstable: number;
  /** It cannot be told. */
  readonly unjudged: number;
}

/** A state on which verdicts differ, or there is none. */
export interface DoubtfulState {
  /** What names it. */
  readonly token: string;
  /** The verdicts, in order. */
  readonly verdicts: readonly CrashVerdict[];
}

/** What was found of the states of a crash point. */
export interface CrashPointFindings {
  /** The crash point: how many events came before it. */
  readonly point: number;
  /** States judged. */
  readonly visited: number;
  /** States that failed. */
  readonly failed: number;
}

/** What came of judging. */
export interface CrashFindings {
  /** What was explored. */
  readonly report: CrashReport;
  /** What ended it. */
  readonly ended: "all" | "states" | "time" | "aborted";
  /** What failed, the most frequent first. */
  readonly groups: readonly FailureGroup[];
  /** States on which verdicts differ; the first hundred. */
  readonly unstable: readonly DoubtfulState[];
  /** States that could not be judged; the first hundred. */
  readonly unjudged: readonly DoubtfulState[];
  /** How many of each there are, of the states after one crash. */
  readonly counts: VerdictCounts;
  /** The same of those after a crash during recovery. */
  readonly recoveryCounts: VerdictCounts;
  /** The points of which states were judged, in order. */
  readonly points: readonly CrashPointFindings[];
  /** Whether a state of each group of alike points was judged. */
  readonly seenEachGroup: boolean;
}

/** How far judging is. */
export interface JudgeProgress {
  /** States judged, after one crash. */
  readonly states: number;
  /** States judged after a crash during recovery. */
  readonly recoveryStates: number;
  /** States to judge at most; `null` if only the time is limited. */
  readonly total: number | null;
  /** Of those judged, after one crash or several, states that failed. */
  readonly failed: number;
  /** Kinds of failures. */
  readonly groups: number;
  /** States a second. */
  readonly rate: number;
  /** Milliseconds since the start. */
  readonly elapsedMs: number;
  /** Milliseconds that it will take from now at most, if that can be told. */
  readonly leftMs: number | null;
}

/** How to judge the states of a recording. */
export interface JudgeOptions {
  /** Judges one state. */
  judge: CrashJudge;
  /**
   * How many are judged side by side.
   *
   * @default {1}
   */
  jobs?: number | undefined;
  /**
   * States to judge at most.
   *
   * @default {20000} without `budgetMs`; else no limit
   */
  maxStates?: number | undefined;
  /** Milliseconds after which no other state is begun. */
  budgetMs?: number | undefined;
  /**
   * What random states are drawn from: a safe integer ≥ 0. The same seed judges
   * the same states in the same order.
   *
   * @default {0}
   */
  seed?: number | undefined;
  /**
   * Whether the power may fail again while a judge uses a state that it finds
   * sound, and how often in a row: `true` is once. Then what it writes is
   * recorded, and what that may leave is judged as well, with the same promises:
   * a judge must be able to judge a disk again that it has written to.
   *
   * @default {false}
   */
  crashDuringRecovery?: boolean | number | undefined;
  /**
   * States to judge at most of each interrupted recovery.
   *
   * @default {8}
   */
  maxStatesPerRecovery?: number | undefined;
  /** The token of a state: only that one is judged. */
  only?: string | undefined;
  /**
   * Milliseconds that one judgement may take; then the state has failed.
   *
   * @default {60000}
   */
  judgeTimeoutMs?: number | undefined;
  /**
   * States to try at most to make a failure of each kind simpler.
   *
   * @default {200}
   */
  maxShrinkStates?: number | undefined;
  /**
   * Milliseconds that may take for each kind.
   *
   * @default {30000}
   */
  shrinkMs?: number | undefined;
  /** Called now and then, and at the end. If it throws, judging rejects. */
  onProgress?: ((progress: JudgeProgress) => void) | undefined;
  /**
   * Called when a failure of another kind is found. If it throws, judging
   * rejects.
   */
  onFailure?:
    | ((found: { kind: string; message: string; token: string }) => void)
    | undefined;
  /** Gives up: what was found until then is returned. */
  signal?: AbortSignal | undefined;
}
