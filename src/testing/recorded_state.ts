/**
 * A state whose recovery is recorded, as the power may fail in that as well: the
 * judge gets it like any other, and what it wrote is a recording over the state.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import { VirtualDisk } from "../disk/disk.ts";
import type { CrashLevel } from "./crash_level.ts";
import { CrashRecorder } from "./crash_recorder.ts";
import type { CrashStateView } from "./crash_state_view.ts";
import type { CrashState } from "./crash_verdict.ts";

/** A state whose recovery is recorded. It is judged once. */
export class RecordedState implements CrashState {
  /** What is written to it is recorded. */
  readonly recorded = true;
  readonly #state: CrashStateView;
  readonly #recorder: CrashRecorder;

  /**
   * Constructs a new instance.
   *
   * @param state The state.
   */
  constructor(state: CrashStateView) {
    this.#state = state;
    const { device } = state.level.recording;
    this.#recorder = new CrashRecorder(
      // A program that recovers is not tested against flushes that fail.
      { ...device, failFlushes: new Set() },
      state.image,
      { origins: false, turns: false },
    );
  }

  /** What names it. */
  get token(): string {
    return this.#state.token;
  }

  /** The crash point, of the last crash. */
  get point(): number {
    return this.#state.point;
  }

  /** A hash of the image and of how much was acknowledged. */
  get hash(): string {
    return this.#state.hash;
  }

  /** What had been acknowledged. */
  get acknowledged(): readonly unknown[] {
    return this.#state.acknowledged;
  }

  /** What differs from the disk as it was when the recording started. */
  changes(): ReadonlyMap<number, Uint8Array> {
    return this.#state.changes();
  }

  /** The image as a backend: the same one each time. */
  openBackend(): Backend {
    return this.#recorder.open();
  }

  /** The image as a disk: the same one each time. */
  open(): VirtualDisk {
    return VirtualDisk.over(this.openBackend());
  }

  /**
   * Ends the recording, when what is in flight has completed.
   *
   * @returns What the power may fail in. Close its recording in the end.
   * @throws {DiskError} If the disk below could not be read.
   */
  async end(): Promise<CrashLevel> {
    const { level, step, image, imageHash, acknowledged } = this.#state;
    return {
      recording: await this.#recorder.end(),
      source: image,
      hash: imageHash,
      acknowledged,
      after: { level, step },
    };
  }

  /** Gives up what was recorded, unless {@linkcode end} made it a recording. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#recorder[Symbol.asyncDispose]();
  }
}
