/**
 * A worker that runs a recovery of its own thread: it opens the recording, goes
 * through all of its states in the same order as the other workers do, and
 * checks its share.
 *
 * `explore_in_workers.ts` starts it, and sends {@linkcode WorkerTask}, then
 * {@linkcode WorkerWord}; it answers with {@linkcode WorkerAnswer}.
 *
 * @module
 */

import { inspected } from "../platform/inspect.ts";
import { CrashExplorer } from "./crash_explorer.ts";
import { CrashFailure } from "./crash_failure.ts";
import type { ExploreRecordingOptions, Recovery } from "./crash_options.ts";
import type { CrashProgress } from "./crash_progress.ts";
import { CrashRecording } from "./crash_recording.ts";
import type { CrashReport } from "./crash_report.ts";

/** What a worker is to do. */
export interface WorkerTask {
  /** The file of the recording, which has all of what is below it. */
  readonly path: string;
  /** Which worker it is, from 0. */
  readonly index: number;
  /** How many there are. */
  readonly jobs: number;
  /** What is explored of it. */
  readonly options: Omit<ExploreRecordingOptions, "recover">;
}

/** What a worker is told later. */
export type WorkerWord =
  /** Another one's state has failed, with that number. */
  | { readonly limit: number }
  /** Whether its own failure is the first of all. */
  | { readonly isFirst: boolean };

/** What a worker says. */
export type WorkerAnswer =
  | { readonly kind: "progress"; readonly progress: CrashProgress }
  | { readonly kind: "failed"; readonly number: number }
  | {
    readonly kind: "done";
    readonly report: CrashReport;
    readonly read: boolean;
  }
  | {
    readonly kind: "told";
    readonly token: string;
    readonly story: string;
    readonly report: CrashReport | null;
    readonly acknowledged: readonly unknown[];
    readonly cause: unknown;
    readonly image: ReadonlyMap<number, Uint8Array>;
  }
  | { readonly kind: "error"; readonly error: unknown };

/** The part of a worker's global scope that is used. */
interface Scope {
  onmessage: ((event: { data: WorkerTask | WorkerWord }) => void) | null;
  postMessage(answer: WorkerAnswer): void;
}

/**
 * Serves a recovery: called once, by a worker's main module.
 *
 * @param recover The recovery.
 */
export function serveRecovery(recover: unknown): void {
  const scope = globalThis as unknown as Scope;
  const { promise: isFirst, resolve } = Promise.withResolvers<boolean>();
  const share = {
    ...{ index: 0, jobs: 1, limit: Infinity },
    isFirst(number: number): Promise<boolean> {
      scope.postMessage({ kind: "failed", number });
      return isFirst;
    },
  };
  scope.onmessage = async ({ data }) => {
    if ("limit" in data) share.limit = Math.min(share.limit, data.limit);
    else if ("isFirst" in data) resolve(data.isFirst);
    else {
      share.index = data.index;
      share.jobs = data.jobs;
      scope.postMessage(await answerTo(data, recover, share, scope));
    }
  };
}

async function answerTo(
  { path, options }: WorkerTask,
  recover: unknown,
  share: ConstructorParameters<typeof CrashExplorer>[3],
  scope: Scope,
): Promise<WorkerAnswer> {
  try {
    if (typeof recover !== "function") {
      throw new TypeError(
        `Cannot explore crashes as the default export of the recovery's module must be a function: current value is ${recover}`,
      );
    }
    await using recording = await CrashRecording.open(path);
    const explorer = new CrashExplorer(
      recording,
      {
        ...options,
        allowNoProof: true,
        progress: (progress) =>
          scope.postMessage({ kind: "progress", progress }),
      },
      recover as Recovery,
      share,
    );
    try {
      const report = await explorer.run();
      return { kind: "done", report, read: explorer.read };
    } catch (error) {
      if (!(error instanceof CrashFailure)) throw error;
      const { token, story, report, acknowledged, cause } = error;
      const image = explorer.failedImage!.contents();
      return {
        kind: "told",
        ...{ token, story, report, acknowledged, image },
        cause: cloneable(cause),
      };
    }
  } catch (error) {
    return { kind: "error", error: cloneable(error) };
  }
}

/** What another thread can be sent of what was thrown. */
function cloneable(thrown: unknown): unknown {
  try {
    return structuredClone(thrown);
  } catch {
    return new Error(
      thrown instanceof Error ? thrown.message : inspected(thrown),
    );
  }
}
