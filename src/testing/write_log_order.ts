/**
 * Where in a log of dm-log-writes a recorded write is to be (see
 * `write_log_format.ts`, what the order in a log says).
 *
 * @module
 */

import { RequestType } from "../request.ts";
import { countUpTo } from "./block_history.ts";
import type { RecordedRequest } from "./block_version.ts";
import type { CrashRecording } from "./crash_recording.ts";

/** A part of a request that is still to be written. */
export interface Part {
  readonly request: RecordedRequest;
  readonly sector: number;
  readonly count: number;
}

/** An event that no recording has. */
const NEVER = Infinity;

/**
 * When writes become durable, and so where in a log they are to be: behind each
 * flush that does not cover them, and before the first that does.
 */
export class LogOrder {
  readonly #recording: CrashRecording;
  /** Events with which a flush completes that does what it says. */
  readonly #flushed: number[] = [];
  /**
   * What makes writes durable that come before: by their number on a device that
   * keeps the order, else by the event with which they completed. Sorted by
   * that; the event is the first one of this and all behind it.
   */
  readonly #settling: { before: number; at: number }[] = [];

  /**
   * Constructs a new instance.
   *
   * @param recording The recording that the log is of.
   */
  constructor(recording: CrashRecording) {
    this.#recording = recording;
    const { events, device } = recording;
    // The last write that completed, also as each flush was submitted.
    let completed = 0;
    const reach = new Map<RecordedRequest, number>();
    for (const [at, event] of events.entries()) {
      if (event.kind === "acknowledge") continue;
      const { request } = event;
      const { type, number, blocks, submittedAt } = request;
      if (type === RequestType.Flush) {
        if (event.kind === "submit") reach.set(request, completed);
        else if (device.honorsFlush) {
          this.#flushed.push(at);
          const before = device.reorders ? submittedAt : reach.get(request)!;
          this.#settling.push({ before, at });
        }
      } else if (event.kind === "complete" && blocks > 0) {
        completed = Math.max(completed, number);
        if (!device.reorders && this.settlesItself(request)) {
          this.#settling.push({ before: number, at });
        }
      }
    }
    this.#settling.sort((a, b) => a.before - b.before);
    let first = NEVER;
    for (const settling of this.#settling.toReversed()) {
      first = settling.at = Math.min(first, settling.at);
    }
  }

  /** Whether a write is durable when it completes, which it does. */
  settlesItself({ blocks, fua, completedAt }: RecordedRequest): boolean {
    const { writeBack, honorsFua } = this.#recording.device;
    return blocks > 0 && completedAt >= 0 && (!writeBack || fua && honorsFua);
  }

  /**
   * The event behind which a write is to be written.
   *
   * @param request The write.
   * @param inFlight What is in flight as it is submitted, and settles itself.
   * @returns The event, as early as possible: what may be found between that and
   * the completion is in the log as well.
   */
  positionOf(
    request: RecordedRequest,
    inFlight: Iterable<RecordedRequest>,
  ): number {
    if (this.settlesItself(request)) return request.completedAt;
    const settled = this.#settledAt(request);
    const flushes = countUpTo(this.#flushed, settled - 1, (at) => at);
    let position = Math.max(
      request.submittedAt,
      flushes > 0 ? this.#flushed[flushes - 1]! : 0,
    );
    for (const older of inFlight) {
      // An older write must not seem to be the newer one.
      if (older.completedAt < settled && this.isBefore(older, request)) {
        position = Math.max(position, older.completedAt);
      }
    }
    return position;
  }

  /** Whether an older write, or a part of it, must come before another one. */
  isBefore(
    older: Omit<Part, "request">,
    { sector, count }: Omit<Part, "request">,
  ): boolean {
    return !this.#recording.device.reorders ||
      older.sector < sector + count && sector < older.sector + older.count;
  }

  #settledAt({ number, completedAt }: RecordedRequest): number {
    const { reorders } = this.#recording.device;
    if (reorders && completedAt < 0) return NEVER;
    const key = reorders ? completedAt : number;
    const index = countUpTo(
      this.#settling,
      key - 1,
      ({ before }) => before,
    );
    return this.#settling[index]?.at ?? NEVER;
  }
}
