/**
 * The two images of a recording that no power cut made: the disk before the
 * workload, when nothing had been promised, and the disk after it, when all of
 * it had. A check that fails on one of these is wrong itself.
 *
 * @module
 */

import { levelOf, positionAt } from "../testing/crash_level.ts";
import type { CrashRecording } from "../testing/crash_recording.ts";
import { stateAt } from "../testing/crash_state_view.ts";
import type { CrashState } from "../testing/crash_verdict.ts";

/** An image that no power cut made. */
export interface UnharmedState extends
  Pick<
    CrashState,
    "acknowledged" | "recorded" | "changes" | "openBackend" | "open"
  > {
  /** What it is called, in `PLATTER_STATE`. */
  readonly token: "start" | "end";
}

/**
 * The disk before the workload.
 *
 * @param recording What the workload did.
 * @returns The image.
 */
export function startOf(recording: CrashRecording): UnharmedState {
  return unharmed("start", recording, 0);
}

/**
 * The disk after the workload, with all that was written.
 *
 * @param recording What the workload did.
 * @returns The image.
 */
export function endOf(recording: CrashRecording): UnharmedState {
  return unharmed("end", recording, recording.events.length);
}

/** The image at a point, with everything on it that was written before. */
function unharmed(
  token: "start" | "end",
  recording: CrashRecording,
  point: number,
): UnharmedState {
  const level = levelOf(recording);
  const position = positionAt(level, { point, options: new Map() });
  const state = stateAt(level, position);
  return {
    token,
    acknowledged: state.acknowledged,
    recorded: false,
    changes: () => state.changes(),
    openBackend: () => state.openBackend(),
    open: () => state.open(),
  };
}
