/**
 * Explores a recording: in this thread, or in workers.
 *
 * How data moves, from step to step, is told in `explore_crashes.ts`.
 *
 * @module
 */

import { CrashExplorer } from "./crash_explorer.ts";
import type { ExploreRecordingOptions } from "./crash_options.ts";
import type { CrashRecording } from "./crash_recording.ts";
import type { CrashReport } from "./crash_report.ts";
import { exploreInWorkers } from "./explore_in_workers.ts";

/**
 * Checks a recovery on every image that a power cut may have left of what was
 * recorded, or on as many of them as are asked for.
 *
 * @param recording What the workload did.
 * @param options The recovery.
 * @returns What was explored; nothing failed.
 * @throws {CrashFailure} If the recovery fails for a state, or does not end in
 * its time. Its message is the story of the simplest such state that was found.
 * @throws {Error} If nothing was written, or no recovery read anything: that
 * proves nothing.
 * @throws {RangeError} If a number is out of its range.
 * @throws {TypeError} If there are several jobs for a recovery that is no module,
 * or something that was acknowledged cannot be JSON and workers are to get it.
 */
export async function exploreRecording<Value = unknown>(
  recording: CrashRecording,
  options: ExploreRecordingOptions<Value>,
): Promise<CrashReport> {
  const { recover } = options as ExploreRecordingOptions;
  if (recover instanceof URL) {
    return await exploreInWorkers(recording, options, recover);
  }
  if (options.jobs !== undefined && options.jobs !== 1) {
    throw new TypeError(
      `Cannot explore crashes side by side as recover must be the URL of a module: current value is a function, and jobs is ${options.jobs}`,
    );
  }
  const explorer = new CrashExplorer(
    recording,
    options as ExploreRecordingOptions,
    recover,
  );
  return await explorer.run();
}
