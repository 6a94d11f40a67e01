/**
 * Explores a recording in several workers, whose recovery is a module.
 *
 * The recording goes to them as a file. All of them go through the same states
 * in the same order, which takes some 3 µs for each, and each recovers from those
 * that are its share by their hashes: nothing is exchanged
 * meanwhile, and what is visited, counted and found is what one alone would.
 * When a state fails, the others go on up to its number; the first one of all is
 * then shrunk and told of by its worker.
 *
 * @module
 */

import { makeTempDir, remove } from "../platform/files.ts";
import type { BlockSource } from "./block_source.ts";
import { checkExploration } from "./crash_explorer.ts";
import { CrashFailure } from "./crash_failure.ts";
import type { ExploreRecordingOptions } from "./crash_options.ts";
import { Progress } from "./crash_progress.ts";
import type { CrashRecording } from "./crash_recording.ts";
import { type CrashReport, makeCrashReport } from "./crash_report.ts";
import type * as recoveryWorker from "./recovery_worker.ts";

type WorkerAnswer = recoveryWorker.WorkerAnswer;
type Told = Extract<WorkerAnswer, { kind: "told" }>;
type Done = Extract<WorkerAnswer, { kind: "done" }>;

/**
 * Explores a recording in workers.
 *
 * @param recording What to explore.
 * @param options How.
 * @param recovery The module whose default export recovers.
 * @returns What was explored; nothing failed.
 * @throws {CrashFailure} If a state failed.
 * @throws {Error} If it proves nothing.
 * @throws {RangeError} If a number is out of its range.
 */
export async function exploreInWorkers<Value>(
  recording: CrashRecording,
  options: ExploreRecordingOptions<Value>,
  recovery: URL,
): Promise<CrashReport> {
  checkExploration(options);
  const jobs = options.only !== undefined
    ? 1
    : options.jobs ?? navigator.hardwareConcurrency;
  if (!Number.isSafeInteger(jobs) || jobs < 1) {
    throw new RangeError(
      `Cannot explore crashes as jobs must be a safe integer from 1: current value is ${jobs}`,
    );
  }
  const { signal } = options;
  signal?.throwIfAborted();
  const folder = await makeTempDir({ prefix: "platter-workers-" });
  try {
    const path = `${folder}/recording`;
    await recording.save(path, { withBase: true, signal });
    return await new Workers(recording, options, recovery, jobs).run(path);
  } finally {
    await remove(folder, { recursive: true });
  }
}

/** What a worker calls with the recovery. */
const SERVE: keyof typeof recoveryWorker = "serveRecovery";

/** The workers, and what they have said. */
class Workers {
  readonly #recording: CrashRecording;
  readonly #options: ExploreRecordingOptions<never>;
  readonly #workers: Worker[] = [];
  readonly #progress: Progress;
  readonly #startedAt = performance.now();
  /** By worker: the number of the state that failed, or that it is done. */
  readonly #failed = new Map<number, number>();
  readonly #done = new Map<number, Done>();
  readonly #recovery: URL;
  readonly #jobs: number;

  constructor(
    recording: CrashRecording,
    options: ExploreRecordingOptions<never>,
    recovery: URL,
    jobs: number,
  ) {
    this.#recording = recording;
    this.#options = options;
    this.#progress = new Progress(options.progress ?? true);
    this.#recovery = recovery;
    this.#jobs = jobs;
  }

  async run(path: string): Promise<CrashReport> {
    const { signal } = this.#options;
    const { promise, resolve, reject } = Promise.withResolvers<Told | null>();
    const onAbort = () => reject(signal!.reason);
    signal?.addEventListener("abort", onAbort);
    try {
      // No event tells of an abort that was before.
      signal?.throwIfAborted();
      for (let index = 0; index < this.#jobs; index++) {
        this.#start({ path, index }, resolve, reject);
      }
      const told = await promise;
      if (told !== null) throw await this.#failureOf(told);
      return this.#reportOf();
    } finally {
      signal?.removeEventListener("abort", onAbort);
      for (const worker of this.#workers) worker.terminate();
      this.#progress.end();
    }
  }

  #start(
    { path, index }: { path: string; index: number },
    resolve: (told: Told | null) => void,
    reject: (error: unknown) => void,
  ): void {
    // Both are modules, which no plain string of this file could name.
    const main = `import recover from ${JSON.stringify(this.#recovery.href)};
import { ${SERVE} } from ${
      JSON.stringify(import.meta.resolve("./recovery_worker.ts"))
    };
${SERVE}(recover);`;
    const worker = new Worker(
      `data:text/javascript,${encodeURIComponent(main)}`,
      { type: "module" },
    );
    this.#workers.push(worker);
    worker.onmessage = ({ data }: { data: WorkerAnswer }) => {
      if (data.kind === "progress") {
        if (index > 0) return;
        this.#progress.total = data.progress.total;
        try {
          this.#progress.update(data.progress.states);
        } catch (error) {
          // What is thrown here would end the whole process.
          reject(error);
        }
      } else if (data.kind === "failed") {
        this.#failed.set(index, data.number);
        for (const other of this.#workers) {
          if (other !== worker) say(other, { limit: data.number });
        }
        this.#decide(resolve);
      } else if (data.kind === "done") {
        this.#done.set(index, data);
        this.#decide(resolve);
      } else if (data.kind === "told") resolve(data);
      else reject(data.error);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      reject(
        new Error(
          `Cannot explore crashes as a worker fails: ${event.message}`,
          { cause: event.error },
        ),
      );
    };
    const { seed, maxStates, crashDuringRecovery, only } = this.#options;
    const { maxStatesPerRecovery, recoveryTimeoutMs } = this.#options;
    const task: recoveryWorker.WorkerTask = {
      ...{ path, index, jobs: this.#jobs },
      options: {
        ...{ seed, maxStates, crashDuringRecovery, only },
        ...{ maxStatesPerRecovery, recoveryTimeoutMs },
      },
    };
    worker.postMessage(task);
  }

  /** When all have ended or failed: the first one that failed tells of it. */
  #decide(resolve: (told: Told | null) => void): void {
    const ended = new Set([...this.#failed.keys(), ...this.#done.keys()]);
    if (ended.size < this.#jobs) return;
    const [first] = [...this.#failed].sort(([, a], [, b]) => a - b);
    if (first === undefined) resolve(null);
    else say(this.#workers[first[0]]!, { isFirst: true });
  }

  async #failureOf(told: Told): Promise<CrashFailure> {
    const { device, source } = this.#recording;
    const image = new ChangedSource(source, told.image);
    return await CrashFailure.keeping(
      { ...told, image, device },
      this.#options.saveImage,
    );
  }

  #reportOf(): CrashReport {
    const all = [...this.#done.values()];
    const [{ report }] = all as [Done];
    const flaw = this.#options.only !== undefined
      ? null
      : !this.#recording.wrote
      ? "the workload wrote nothing to its disk"
      : all.some(({ read }) => read)
      ? null
      : "no recovery read anything of its disk";
    if (flaw !== null && !this.#options.allowNoProof) {
      throw new Error(
        `Cannot prove anything as ${flaw}: look for the fault, or pass allowNoProof: true if that is meant`,
      );
    }
    // All go through the same states, and each interrupts its own recoveries.
    let [recoveryStates, repeated] = [0, 0];
    for (const done of all) {
      recoveryStates += done.report.recoveryStates;
      repeated += done.report.repeated;
    }
    const exhaustive = all.every(({ report }) => report.exhaustive);
    return makeCrashReport(
      this.#recording,
      {
        ...report,
        ...{ recoveryStates, repeated, exhaustive },
        durationMs: performance.now() - this.#startedAt,
      },
      this.#options.only !== undefined
        ? "replayed"
        : flaw !== null
        ? `no proof as ${flaw}`
        : exhaustive
        ? "all that there are"
        : "a part of all that there are",
    );
  }
}

function say(worker: Worker, word: recoveryWorker.WorkerWord): void {
  worker.postMessage(word);
}

/** A disk below, and blocks that differ from it. */
class ChangedSource implements BlockSource {
  readonly #source: BlockSource;
  readonly #changes: ReadonlyMap<number, Uint8Array>;

  constructor(
    source: BlockSource,
    changes: ReadonlyMap<number, Uint8Array>,
  ) {
    this.#source = source;
    this.#changes = changes;
  }

  get stored(): Iterable<number> | null {
    const below = this.#source.stored;
    return below === null ? null : [...below, ...this.#changes.keys()];
  }

  peek(block: number): Uint8Array | undefined {
    return this.#changes.get(block) ?? this.#source.peek(block);
  }

  async fetch(block: number): Promise<Uint8Array> {
    return this.peek(block) ?? await this.#source.fetch(block);
  }
}
