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
): CrashState {
  return new StateView(level, position);
}

class StateView implements CrashState {
  readonly point: number;
  readonly hash: string;
  readonly #level: CrashLevel;
  readonly #step: CrashStep;
  readonly #image: FrozenImage;
  readonly #acknowledgedCount: number;
  #acknowledged: readonly unknown[] | null = null;

  constructor(level: CrashLevel, position: CrashPosition) {
    this.#level = level;
    this.#step = position.step;
    this.#image = position.image.freeze();
    this.#acknowledgedCount = position.acknowledgedCount;
    this.point = position.point;
    const { high, low } = hashOf(position, 0);
    this.hash = [high, low]
      .map((half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
  }

  get token(): string {
    const fingerprint = this.#level.recording.fingerprint();
    return encodeToken({ fingerprint, steps: [this.#step] });
  }

  get acknowledged(): readonly unknown[] {
    return this.#acknowledged ??= Object.freeze(
      this.#level.recording.acknowledged.slice(0, this.#acknowledgedCount),
    );
  }

  changes(): ReadonlyMap<number, Uint8Array> {
    return this.#image.changes();
  }

  openBackend(): Backend {
    return new CrashStateBackend(this.#image, this.#level.recording.device);
  }

  open(): VirtualDisk {
    return VirtualDisk.over(this.openBackend());
  }
}
