/**
 * What to pull the plug on: the options of {@linkcode crashTest}.
 *
 * @module
 */

import type { CrashDevice } from "../testing/crash_device.ts";
import type { JudgeProgress } from "../testing/crash_verdict.ts";
import type { AttachAs, Stage, StageName } from "./stage.ts";

/**
 * A test of a program against power cuts. Commands are lines for `sh -c`; see
 * {@linkcode crashTest} for what they find in their environment.
 */
export interface CrashTestOptions {
  /**
   * Where the commands run, and how the disk gets there: the name of a stage, or
   * one of your own.
   *
   * @default {"raw"}
   */
  stage?: StageName | Stage | undefined;
  /**
   * The disk to begin with: the path or `file:` URL of a raw image or block
   * device, or the URI of an NBD server. It is only read. Not beside `size`.
   */
  image?: string | URL | undefined;
  /** The size of a new disk, in bytes or as `"64MiB"`. Not beside `image`. */
  size?: number | string | undefined;
  /**
   * A file system, as `mkfs` and `mount` call it: it is made on a new disk, and
   * mounted unless `on` says otherwise.
   */
  fileSystem?: string | undefined;
  /** Options of the mount, such as `"data=journal"`. */
  mountOptions?: string | undefined;
  /**
   * As what the commands get the disk: by default `"mount"` with a file system,
   * else what the stage has first.
   */
  on?: AttachAs | undefined;
  /** Prepares the disk: all that it writes is durable before `run` begins. */
  prepare?: string | undefined;
  /** What the power fails in. Not beside `recording`. */
  run?: string | undefined;
  /** Judges a disk: exits with 0 if it is sound, 125 if that cannot be told. */
  check: string;
  /** Variables for all commands; what Platter sets itself comes before them. */
  environment?: Readonly<Record<string, string>> | undefined;
  /**
   * Which lines of standard output of `run` are acknowledgements: the first
   * group, or all of what matches. Without one, a mark of byte order (UTF-8's
   * BOM) at the start of the output does not count.
   *
   * @default {/^ACK(?: (.*))?$/}
   */
  ackPattern?: RegExp | undefined;
  /**
   * What the disk promises, beside its size. Its blocks are of 4,096 bytes if a
   * file system is made on it, else those of the image, or of 512 bytes.
   */
  device?: Omit<CrashDevice, "sectors"> | undefined;
  /**
   * A file to record into, for `recording`; nothing may be there. None is left
   * of a workload that fails, or proves nothing.
   */
  record?: string | URL | undefined;
  /**
   * The file of a recording, to be checked without running anything again. One
   * that was made over an image needs that `image` as well.
   */
  recording?: string | URL | undefined;
  /**
   * Whether the power may fail again in a check that finds its disk sound, and
   * how often in a row: `true` is once. What the check writes, a program that
   * recovers for one, is recorded then, and `check` runs again on what that may
   * leave, with the same promises. So it must be able to check a disk once more.
   *
   * @default {false}
   */
  crashDuringRecovery?: boolean | number | undefined;
  /**
   * States to check at most of each check that is interrupted.
   *
   * @default {8}
   */
  maxStatesPerRecovery?: number | undefined;
  /** The token of a state: only that one is checked. */
  only?: string | undefined;
  /** States to check at most. */
  maxStates?: number | undefined;
  /**
   * Milliseconds after which no other state is begun.
   *
   * @default {60000} without `maxStates`; else no limit
   */
  budgetMs?: number | undefined;
  /**
   * What random states are drawn from: a safe integer ≥ 0.
   *
   * @default {0}
   */
  seed?: number | undefined;
  /**
   * States to check at most to make a failure of each kind simpler.
   *
   * @default {200}
   */
  maxShrinkStates?: number | undefined;
  /**
   * How many checks run side by side: by default as many as there are
   * processors, but one where the system cannot have two such disks.
   */
  jobs?: number | undefined;
  /**
   * Milliseconds that a check may take; one that takes longer has failed.
   *
   * @default {60000}
   */
  checkTimeoutMs?: number | undefined;
  /**
   * Milliseconds that `prepare` and `run` may take.
   *
   * @default {600000}
   */
  runTimeoutMs?: number | undefined;
  /**
   * A folder for images and sockets: by default in memory if there is plenty,
   * else where temporary files are.
   */
  directory?: string | undefined;
  /**
   * Whether to go on although nothing was acknowledged or flushed: then little
   * can be found missing.
   *
   * @default {false}
   */
  allowNoProof?: boolean | undefined;
  /** The command line that checks one state again, for the report. */
  replay?: ((token: string) => string) | undefined;
  /** Told what begins. */
  onStep?: ((step: CrashTestStep) => void) | undefined;
  /** Told what is worse here than elsewhere. */
  onWarning?: ((text: string) => void) | undefined;
  /** Told now and then how far the checks are. */
  onProgress?: ((progress: JudgeProgress) => void) | undefined;
  /** Told of each kind of failure as it is found. */
  onFailure?:
    | ((found: { kind: string; message: string; token: string }) => void)
    | undefined;
  /** Gives up: nothing is left mounted, attached or running. */
  signal?: AbortSignal | undefined;
}

/** What a test does, one after the other. */
export type CrashTestStep =
  | "preparing"
  | "recording"
  | "checking the unharmed images"
  | "checking states";
