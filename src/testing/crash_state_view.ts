/**
 * The state that a position shows, as a judge gets it: it stays as it is when
 * the position goes on.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { type CrashLevel, type CrashPosition, hashOf } from "./crash_level.ts";
import { CrashStateBackend, type FrozenImage } from "./crash_state.ts";
import { type CrashStep, encodeToken } from "./crash_token.ts";
import type { CrashState } from "./crash_verdict.ts";

/**
 * Takes the state that a position shows.
 *
 * @param level The recording.
 * @param position The position in it.
 * @returns The state.
 */
export function stateAt(
  level: CrashLevel,
  position: CrashPosition,
): CrashStateView {
  return new CrashStateView(level, position);
}

/** A state, and where it is. */
export class CrashStateView implements CrashState {
  /** The crash point, of the last crash. */
  readonly point: number;
  /** A hash of the image and of how much was acknowledged. */
  readonly hash: string;
  /** Nothing is recorded of what is written to it. */
  readonly recorded = false;
  /** What the power failed in last. */
  readonly level: CrashLevel;
  /** Which state of that it is. */
  readonly step: CrashStep;
  /** What is on the disk. */
  readonly image: FrozenImage;
  /** A hash of that alone, in halves. */
  readonly imageHash: readonly [high: number, low: number];
  readonly #acknowledgedCount: number;
  #acknowledged: readonly unknown[] | null = null;

  /**
   * Constructs a new instance.
   *
   * @param level The recording.
   * @param position The position in it.
   */
  constructor(level: CrashLevel, position: CrashPosition) {
    this.level = level;
    this.step = position.step;
    this.image = position.image.freeze();
    this.imageHash = [position.image.high, position.image.low];
    this.#acknowledgedCount = position.acknowledgedCount;
    this.point = position.point;
    const { high, low } = hashOf(position, 0);
    this.hash = [high, low]
      .map((half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
  }

  /** The crashes that led here, the first one first. */
  get crashes(): readonly Readonly<{ level: CrashLevel; step: CrashStep }>[] {
    const crashes: { level: CrashLevel; step: CrashStep }[] = [];
    for (
      let crash: CrashLevel["after"] = { level: this.level, step: this.step };
      crash !== undefined;
      crash = crash.level.after
    ) crashes.unshift(crash);
    return crashes;
  }

  /** What names it. */
  get token(): string {
    const { crashes } = this;
    const fingerprint = crashes[0]!.level.recording.fingerprint();
    return encodeToken({ fingerprint, steps: crashes.map(({ step }) => step) });
  }

  /** What had been acknowledged, before the first crash. */
  get acknowledged(): readonly unknown[] {
    const { acknowledged, recording } = this.level;
    return this.#acknowledged ??= acknowledged ??
      recording.firstAcknowledged(this.#acknowledgedCount);
  }

  /** What differs from the disk as it was when the recording started. */
  changes(): ReadonlyMap<number, Uint8Array> {
    return this.image.changes();
  }

  /** The image as a backend. */
  openBackend(): Backend {
    return new CrashStateBackend(this.image, this.level.recording.device);
  }

  /** The image as a disk. */
  open(): VirtualDisk {
    return VirtualDisk.over(this.openBackend());
  }
}
