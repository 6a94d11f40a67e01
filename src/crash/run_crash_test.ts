/**
 * Pulls the plug on a program: runs it once on a disk that records, and then its
 * check on each disk that a power cut may have left.
 *
 * How data moves, from step to step:
 *
 * 1. Prepare. The image, or a new disk with a file system on it, is what a
 *    recorder has below it; `prepare` runs on that. From here on it counts.
 * 2. Record. `run` runs on the recorder, attached by a stage (`stage.ts`). What
 *    it acknowledges is logged between what it writes and flushes.
 * 3. Doubt. A workload that failed, or wrote, flushed or promised nothing, and a
 *    check that fails on the disk before or after it, prove nothing: all that is
 *    said then is that (`unharmed_states.ts`).
 * 4. Check. Each state becomes a file (`state_files.ts`) or a backend, is
 *    attached, and judged by what `check` exits with; several side by side. If
 *    the power may fail in a check as well, the state is a backend that records.
 *
 * @module
 */

import { dirname } from "node:path";
import { onlyOnDeno } from "../deno_only.ts";
import type { Backend } from "../backend.ts";
import { copyDisk } from "../disk/copy.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { openBackend } from "../disk/open.ts";
import { sectorsOf } from "../disk_size.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { RequestType } from "../request.ts";
import { checkNumbers, MOST_TIMER_MS } from "../testing/check_numbers.ts";
import { CrashRecorder } from "../testing/crash_recorder.ts";
import { CrashRecording } from "../testing/crash_recording.ts";
import type {
  CrashFindings,
  CrashState,
  CrashVerdict,
  JudgeOptions,
} from "../testing/crash_verdict.ts";
import type { CompleteCrashDevice } from "../testing/crash_device.ts";
import { checkJudgeOptions } from "../testing/judge_numbers.ts";
import { judgeRecording } from "../testing/judge_recording.ts";
import { CrashTestError, CrashTestFailure } from "./crash_test_error.ts";
import type { CrashTestOptions } from "./crash_test_options.ts";
import type { CrashReportData, ReportCommand } from "./report/data.ts";
import { makeReport } from "./report/make_report.ts";
import { makeFileSystem } from "./make_file_system.ts";
import { ProgramError } from "./programs.ts";
import {
  isFull,
  makeScratch,
  noRoom,
  removeIfThere,
  removeNowIfThere,
  saysFull,
  type Scratch,
} from "./scratch.ts";
import type {
  AttachAs,
  AttachedDisk,
  RunOptions,
  RunOutcome,
  Stage,
  StageOptions,
} from "./stage.ts";
import { findIsolation } from "./isolation.ts";
import { stageOf } from "./stages/mod.ts";
import { StateFiles } from "./state_files.ts";
import { endOf, startOf, type UnharmedState } from "./unharmed_states.ts";

/** Milliseconds that checks are given if nothing else is said. */
const BUDGET_MS = 60_000;

/** Milliseconds that one check may take if nothing else is said. */
const CHECK_MS = 60_000;

/** Milliseconds that a workload may take if nothing else is said. */
const RUN_MS = 600_000;

/** Milliseconds that a stage may take to attach and detach a disk, beside. */
const STAGE_MS = 120_000;

/**
 * The block of a disk with a new file system. That of most disks of today; and
 * ext4 for one does not survive a superblock of 1,024 bytes that is torn.
 */
const FILE_SYSTEM_BLOCK_BYTES = 4096;

/** What a check exits with that cannot judge, as in `git bisect run`. */
const CANNOT_JUDGE = 125;

/**
 * Finds out whether a program survives a power cut at any moment: runs it once
 * on a disk that records, and its check on the disks that a power cut may have
 * left, those that are most telling first.
 *
 * Commands find in their environment:
 *
 * | variable | for | value |
 * | --- | --- | --- |
 * | `PLATTER_DIR` | all | where the disk is mounted |
 * | `PLATTER_IMAGE`, `PLATTER_DEVICE`, `PLATTER_NBD` | all | the disk as a file, a block device, the URI of an NBD server |
 * | `PLATTER_ACK` | `run` | a descriptor: a line written there is a promise from then on |
 * | `PLATTER_ACKED` | `check` | a file with the lines that had been promised |
 * | `PLATTER_STATE` | `check` | the token of the state; `start` and `end` are unharmed |
 *
 * A check exits with 0 if the disk is sound and all that was promised is there,
 * with 125 if it cannot judge, else with anything else; failures are grouped by
 * the last line that it prints. Whatever it writes to the disk is thrown away,
 * unless `crashDuringRecovery` says that the power may fail in that as well.
 *
 * @param options The program, its check, and the disk.
 * @returns What was found: it is safe.
 * @throws {CrashTestFailure} If a state fails, or fails sometimes, if none could be
 * judged, or if the budget was spent before each group of alike crash points had
 * been seen once.
 * @throws {CrashTestError} If the test proves nothing, or has no room.
 * @throws {ProgramError} If a program or a right is missing; it names all.
 * @throws {RangeError} If a number is out of its range.
 *
 * @example Does sfdisk leave a partition table, whenever the power fails?
 * ```ts ignore
 * import { crashTest } from "@platter/disk/testing";
 *
 * await crashTest({
 *   size: "64MiB",
 *   prepare: "echo 'label: gpt' | sfdisk -q $PLATTER_IMAGE",
 *   run: "echo 'size=8MiB' | sfdisk -q $PLATTER_IMAGE && echo ACK done",
 *   check: "sfdisk --dump $PLATTER_IMAGE",
 * });
 * ```
 */
export async function crashTest(
  options: CrashTestOptions,
): Promise<CrashReportData> {
  const report = await runCrashTest(options);
  if (report.verdict !== "safe") throw new CrashTestFailure(report);
  return report;
}

/**
 * The same, whatever is found.
 *
 * @param options The program, its check, and the disk.
 * @returns What was found.
 * @throws {CrashTestError} If the test proves nothing, or has no room.
 * @throws {ProgramError} If a program or a right is missing; it names all.
 */
export async function runCrashTest(
  options: CrashTestOptions,
): Promise<CrashReportData> {
  onlyOnDeno("run a crash test");
  try {
    return await runTest(options);
  } catch (error) {
    // What a disk makes of the signal: its reason says who gave up, and why.
    if (error instanceof DiskError && error.kind === "aborted") {
      options.signal?.throwIfAborted();
    }
    throw error;
  }
}

async function runTest(options: CrashTestOptions): Promise<CrashReportData> {
  options.signal?.throwIfAborted();
  const { stage: wanted = "raw", fileSystem = null, mountOptions } = options;
  const stage = typeof wanted === "string" ? stageOf(wanted) : wanted;
  const attaching = { on: wayOf(stage, options), fileSystem, mountOptions };
  if ((options.run === undefined) === (options.recording === undefined)) {
    throw new TypeError(
      `Cannot test as it must be given one of run and recording: current values are ${options.run} and ${options.recording}`,
    );
  }
  const jobs = jobsOf(options, stage, fileSystem);
  const { runTimeoutMs = RUN_MS, checkTimeoutMs = CHECK_MS } = options;
  checkNumbers("test", [
    ["runTimeoutMs", runTimeoutMs, 1, MOST_TIMER_MS],
    ["checkTimeoutMs", checkTimeoutMs, 1, MOST_TIMER_MS - STAGE_MS],
  ]);
  checkJudgeOptions(judgeOptionsOf(options, jobs));
  await stage.require(attaching);
  if (stage.name === "raw" && !(await findIsolation()).namespaces) {
    options.onWarning?.(
      "commands get no namespaces of their own, as the system does not allow that: " +
        "a check may meet what another one, or the workload, has left running",
    );
  }

  await using parts = new AsyncDisposableStack();
  if (typeof wanted === "string") parts.defer(() => stage.end?.());
  const base = options.image === undefined
    ? undefined
    : await openBackend(options.image, {
      ...{ readOnly: true, signal: options.signal },
    });
  parts.defer(() => base?.close());
  const recorded = options.recording === undefined
    ? null
    : parts.use(await CrashRecording.open(options.recording, { base }));
  if (recorded?.ended === false) {
    options.onWarning?.(
      "the recording is not whole: what comes after its end, such as a promise that is not kept, is not checked",
    );
  }
  const sectors = recorded?.device.sectors ?? base?.geometry.sectors ??
    sectorsOf({ size: options.size }, "test");
  const scratch = parts.use(
    await makeScratch(options.directory, (jobs + 2) * sectors * SECTOR_BYTES),
  );
  const test = new Test(options, stage, attaching, scratch, jobs);
  if (recorded !== null) test.doubt(recorded);
  return await test.judge(
    recorded ?? parts.use(await test.record(base, sectors)),
  );
}

/** As what the commands get the disk. */
function wayOf(stage: Stage, options: CrashTestOptions): AttachAs {
  const {
    fileSystem,
    on = fileSystem === undefined ? stage.ways[0]! : "mount",
  } = options;
  if (!stage.ways.includes(on)) {
    if (on === "mount" && options.on === undefined) {
      throw new TypeError(
        `Cannot mount ${fileSystem} at stage ${stage.name} as it has no kernel to mount it: use stage host (as root), uml or qemu, or give programs the whole disk, as ${
          stage.ways.map((way) => `"${way}"`).join(" or ")
        }`,
      );
    }
    throw new TypeError(
      `Cannot test as on must be ${
        stage.ways.map((way) => `"${way}"`).join(" or ")
      } at stage ${stage.name}: current value is ${JSON.stringify(on)}`,
    );
  }
  if (on === "mount" && fileSystem === undefined) {
    throw new TypeError(
      'Cannot test as on must not be "mount" without a file system: name it',
    );
  }
  return on;
}

/** How states are judged, but for what judges them. */
function judgeOptionsOf(
  options: CrashTestOptions,
  jobs: number,
): Omit<JudgeOptions, "judge"> {
  const { maxStates, budgetMs, checkTimeoutMs = CHECK_MS } = options;
  const { seed, only, maxShrinkStates } = options;
  const { crashDuringRecovery, maxStatesPerRecovery } = options;
  const { onProgress, onFailure, signal } = options;
  return {
    jobs,
    judgeTimeoutMs: checkTimeoutMs + STAGE_MS,
    maxStates,
    budgetMs: budgetMs ?? (maxStates === undefined ? BUDGET_MS : undefined),
    ...{ crashDuringRecovery, maxStatesPerRecovery },
    ...{ seed, only, maxShrinkStates, onProgress, onFailure, signal },
  };
}

function jobsOf(
  { jobs = navigator.hardwareConcurrency }: CrashTestOptions,
  stage: Stage,
  fileSystem: string | null,
): number {
  if (!Number.isSafeInteger(jobs) || jobs < 1) {
    throw new RangeError(
      `Cannot test as jobs must be a safe integer above 0: current value is ${jobs}`,
    );
  }
  // A kernel takes two images with one UUID for two parts of one btrfs.
  return stage.name === "host" && fileSystem === "btrfs" ? 1 : jobs;
}

/** What a disk is made of for a check. */
type CheckedState = Pick<CrashState, "changes" | "openBackend" | "recorded">;

/** One test, at its stage. */
class Test {
  readonly #options: CrashTestOptions;
  readonly #stage: Stage;
  readonly #attaching: StageOptions;
  readonly #scratch: Scratch;
  readonly #jobs: number;
  /** Checks that are under way: their disks are attached. */
  readonly #underWay = new Set<Promise<unknown>>();
  /** Places for attached disks: how many there are, and which are free. */
  #places = 0;
  readonly #free: number[] = [];
  #files: StateFiles | null = null;

  constructor(
    options: CrashTestOptions,
    stage: Stage,
    attaching: StageOptions,
    scratch: Scratch,
    jobs: number,
  ) {
    this.#options = options;
    this.#stage = stage;
    this.#attaching = attaching;
    this.#scratch = scratch;
    this.#jobs = jobs;
  }

  /**
   * Prepares the disk, runs the workload, and tells what it did. Of one that
   * fails or proves nothing no file is left: it can be tried again.
   */
  async record(
    base: Backend | undefined,
    sectors: number,
  ): Promise<CrashRecording> {
    const { prepare, onStep, runTimeoutMs = RUN_MS } = this.#options;
    const { fileSystem } = this.#attaching;
    const isMade = base === undefined && fileSystem !== null;
    const { blockSize = isMade ? FILE_SYSTEM_BLOCK_BYTES : undefined } =
      this.#options.device ?? {};
    await using recorder = CrashRecorder.make({
      device: {
        ...this.#options.device,
        ...(base === undefined ? { sectors } : {}),
        ...(blockSize === undefined ? {} : { blockSize }),
      },
      base,
      path: this.#options.record,
    }, { origins: false, turns: false, starts: true });
    using failed = new DisposableStack();
    failed.defer(() => recorder.remove());
    onStep?.("preparing");
    if (isMade) {
      await this.#filling(() => this.#make(fileSystem, recorder, sectors));
    }
    if (prepare !== undefined) {
      const outcome = await this.#attach(
        { backend: recorder.open() },
        prepare,
        { isolated: true, timeoutMs: runTimeoutMs },
      );
      if (outcome.code !== 0 || outcome.timedOut) {
        throw commandError("prepare", outcome, runTimeoutMs);
      }
    }
    recorder.start();
    onStep?.("recording");
    const outcome = await this.#attach(
      { backend: recorder.open() },
      this.#options.run!,
      {
        isolated: true,
        timeoutMs: runTimeoutMs,
        ackPattern: this.#options.ackPattern,
        onAcknowledge: (line) => recorder.acknowledge(line),
      },
    );
    if (outcome.code !== 0 || outcome.timedOut) {
      throw commandError("run", outcome, runTimeoutMs);
    }
    const recording = await recorder.end();
    this.doubt(recording);
    failed.move();
    return recording;
  }

  /** Puts a new file system below what is recorded. */
  async #make(
    fileSystem: string,
    recorder: CrashRecorder,
    sectors: number,
  ): Promise<void> {
    const path = `${this.#scratch.images}/made.img`;
    {
      using file = await Deno.create(path);
      await file.truncate(sectors * SECTOR_BYTES);
    }
    await makeFileSystem(fileSystem, path, recorder.device.blockSize);
    {
      await using made = await VirtualDisk.open(path, {
        ...{ readOnly: true, format: "raw" },
      });
      await using disk = VirtualDisk.over(recorder.open());
      await copyDisk(made, disk, {
        targetIsZero: true,
        signal: this.#options.signal,
      });
    }
    await Deno.remove(path);
  }

  /** Refuses a workload after which nothing can be missing. */
  doubt(recording: CrashRecording): void {
    const { requests, acknowledged } = recording;
    if (!recording.wrote) {
      throw new CrashTestError(
        "Cannot prove anything as run wrote nothing to its disk",
      );
    }
    if (this.#options.allowNoProof) return;
    if (!requests.some(({ type, fua }) => type === RequestType.Flush || fua)) {
      throw new CrashTestError(
        "Cannot prove anything as run flushed nothing: it asks for nothing to be durable, or the flushes are lost on their way to the disk (allowNoProof: true, if that is meant)",
      );
    }
    if (acknowledged.length === 0) {
      throw new CrashTestError(
        [
          "Cannot prove anything as run acknowledged nothing: let it write a line",
          "to the descriptor numbered in PLATTER_ACK, or print one that begins",
          'with "ACK", whenever something must survive from then on',
          "(allowNoProof: true, if it promises nothing)",
        ].join(" "),
      );
    }
  }

  /** Checks the unharmed images, then the states. */
  async judge(recording: CrashRecording): Promise<CrashReportData> {
    const options = this.#options;
    const [start, end] = [startOf(recording), endOf(recording)];
    if (this.#stage.wants(this.#attaching.on) === "file") {
      const { blockSize } = recording.device;
      this.#files = await this.#filling(() =>
        this.#startFile(start, blockSize)
      );
    }
    options.onStep?.("checking the unharmed images");
    // A recorder that was killed left a workload that was under way.
    for (const state of recording.ended ? [start, end] : [start]) {
      const verdict = await this.#check(state, options.signal);
      if (verdict.outcome !== "sound") throw brokenCheck(state, verdict);
      if (!options.crashDuringRecovery) continue;
      const again = await this.#checkTwice(state, recording.device);
      if (again.outcome !== "sound") throw brokenCheck(state, again, true);
    }
    options.onStep?.("checking states");
    const findings = await this.#judgeAll(recording);
    options.signal?.throwIfAborted();
    const { run, prepare } = options;
    return await makeReport(findings, recording, {
      commands: [
        ...prepare === undefined ? [] : [{ role: "prepare", text: prepare }],
        ...run === undefined ? [] : [{ role: "run", text: run }],
        { role: "check", text: options.check },
      ] as ReportCommand[],
      only: options.only !== undefined,
      replay: options.replay,
    });
  }

  /** Checks states; when it returns or throws, no disk of them is attached. */
  async #judgeAll(recording: CrashRecording): Promise<CrashFindings> {
    try {
      return await judgeRecording(recording, {
        judge: async (state, _job, signal) => {
          const check = this.#check(state, signal);
          this.#underWay.add(check);
          try {
            return await check;
          } finally {
            this.#underWay.delete(check);
          }
        },
        ...judgeOptionsOf(this.#options, this.#jobs),
      });
    } finally {
      // One that was given up is left to itself, and takes a moment.
      await Promise.allSettled(this.#underWay);
    }
  }

  /** Makes the image that all states come from. */
  async #startFile(
    start: UnharmedState,
    blockSize: number,
  ): Promise<StateFiles> {
    const path = `${this.#scratch.images}/start.img`;
    await using from = start.open();
    {
      await using to = await VirtualDisk.create(path, {
        sectors: from.sectors,
      });
      await copyDisk(from, to, {
        targetIsZero: true,
        signal: this.#options.signal,
      });
    }
    return await StateFiles.over(path, blockSize);
  }

  /** Judges what the check leaves of an image that it finds sound. */
  async #checkTwice(
    state: UnharmedState,
    { blockSize }: CompleteCrashDevice,
  ): Promise<CrashVerdict> {
    const base = state.openBackend();
    try {
      await using recorder = await CrashRecorder.create({
        device: { blockSize },
        base,
      });
      const open = () => recorder.open();
      const recorded = { ...state, recorded: true, openBackend: open };
      const first = await this.#check(recorded, this.#options.signal);
      if (first.outcome !== "sound") return first;
      return await this.#check(recorded, this.#options.signal);
    } finally {
      await base.close();
    }
  }

  /** Judges one image by the check. */
  async #check(
    state: CheckedState & Pick<CrashState, "acknowledged" | "token">,
    signal: AbortSignal | undefined,
  ): Promise<CrashVerdict> {
    const { check, checkTimeoutMs = CHECK_MS } = this.#options;
    const outcome = await this.#attach(
      state,
      check,
      {
        isolated: true,
        timeoutMs: checkTimeoutMs,
        acknowledged: state.acknowledged.map(String),
        environment: { PLATTER_STATE: state.token },
      },
      signal,
    );
    return verdictOf(outcome, checkTimeoutMs);
  }

  /** Runs a command on a disk, which is detached afterwards. */
  async #attach(
    what: AttachedDisk | CheckedState,
    command: string,
    run: RunOptions,
    signal: AbortSignal | undefined = this.#options.signal,
  ): Promise<RunOutcome> {
    // Not the number that a judge has: one that was given up keeps its place
    // until its disk is detached.
    const job = this.#free.pop() ?? this.#places++;
    const directory = `${this.#scratch.path}/at${job}`;
    const images = `${this.#scratch.images}/${job}`;
    let isServed = true;
    try {
      const disk = await this.#filling<AttachedDisk>(() => {
        // Small things in a folder of our own: to wait for a thread costs more.
        Deno.mkdirSync(directory);
        // A new one for each: programs leave files beside an image, too.
        Deno.mkdirSync(images);
        // Called as the workload's, for checks that look at names.
        const file = `${images}/disk.img`;
        return "changes" in what
          ? this.#diskOf(what, file)
          : Promise.resolve(what);
      });
      isServed = "backend" in disk;
      await using attached = await this.#filling(() =>
        this.#stage.attach(disk, {
          ...this.#attaching,
          ...{ directory, job, signal },
        })
      );
      // Looked at before it is detached, which may make room.
      const outcome = await this.#filling(() =>
        attached.run(command, {
          ...run,
          environment: { ...this.#options.environment, ...run.environment },
          signal,
        })
      );
      if (outcome.code !== 0 && await isFull(this.#scratch.path)) {
        throw this.#noRoom(outcome.output);
      }
      return outcome;
    } finally {
      removeNowIfThere(images);
      // Were it still mounted, this process would wait for itself.
      if (isServed) await removeIfThere(directory);
      else removeNowIfThere(directory);
      this.#free.push(job);
    }
  }

  /** Does what writes to the scratch folder, which may be full. */
  async #filling<T>(work: () => Promise<T>): Promise<T> {
    const { path } = this.#scratch;
    try {
      return await work();
    } catch (error) {
      // A recording may be on another disk, and that full.
      const isElsewhere = error instanceof DiskError &&
        error.path !== undefined && !error.path.startsWith(path);
      // Programs have words for it, of any language.
      const isIt = saysFull(error) ||
        error instanceof ProgramError && await isFull(path);
      if (isElsewhere || !isIt) throw error;
      throw this.#noRoom(String(error));
    }
  }

  #noRoom(said: string): CrashTestError {
    return noRoom(`"${dirname(this.#scratch.path)}"`, said);
  }

  /** Makes a state a disk, as the stage wants it. */
  async #diskOf(
    state: CheckedState,
    file: string,
  ): Promise<AttachedDisk> {
    if (this.#files === null || state.recorded) {
      return { backend: state.openBackend() };
    }
    await this.#files.show(file, state.changes());
    return { file, blockSize: this.#files.blockSize };
  }
}

/** What an outcome of a check says. */
function verdictOf(outcome: RunOutcome, limitMs: number): CrashVerdict {
  const { code, output, timedOut } = outcome;
  if (timedOut) {
    const message = `The check did not end within ${limitMs / 1000} s`;
    return { outcome: "failed", message, output };
  }
  if (code === 0) return { outcome: "sound" };
  const last = output.trimEnd().split("\n").at(-1)!.trim();
  const message = last === "" ? `The check exited with ${code}` : last;
  return {
    outcome: code === CANNOT_JUDGE ? "unjudged" : "failed",
    ...{ message, output },
  };
}

function commandError(
  name: "prepare" | "run",
  { code, output, timedOut }: RunOutcome,
  limitMs: number,
): CrashTestError {
  const reason = timedOut
    ? `did not end within ${limitMs / 1000} s`
    : `exited with ${code}`;
  return new CrashTestError(
    `Cannot test as the command ${name} ${reason}`,
    output || "It printed nothing",
  );
}

function brokenCheck(
  { token }: UnharmedState,
  verdict: Exclude<CrashVerdict, { outcome: "sound" }>,
  isOwn = false,
): CrashTestError {
  const disk = token === "start"
    ? "before run, of which nothing was promised yet (it must exit with 0 while PLATTER_ACKED is empty)"
    : "after run, on which all is there that was promised";
  const what = verdict.outcome === "failed" ? "fails on" : "cannot judge";
  const which = isOwn
    ? `what it has itself made of the disk ${disk}`
    : `the disk ${disk}`;
  return new CrashTestError(
    `Cannot test as the check is broken: it ${what} ${which}, and no power has failed yet`,
    verdict.output || verdict.message,
  );
}
