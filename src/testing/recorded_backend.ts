/**
 * The device that is recorded as a backend, and what the backends of a crash
 * exploration, this and that of a state (`crash_state.ts`), are to a program:
 * they must not be told from each other.
 *
 * @module
 */

import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Limits,
  refuse,
} from "../backend.ts";
import { offsetMemory } from "../buffer.ts";
import { type Geometry, makeGeometry } from "../geometry.ts";
import { memoryInfo } from "../backends/memory_info.ts";
import type { BackendInfo } from "../info.ts";
import { keepOnThread } from "../one_thread.ts";
import type { Request } from "../request.ts";
import { closedError } from "../request_error.ts";
import { answerRequest } from "../throw_later.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";

/** What such a backend can do: everything. */
export const CRASH_ABILITIES: Abilities = {
  readOnly: false,
  flush: "native",
  fua: "native",
  discard: "native",
  writeZeroes: "native",
  secureErase: "native",
};

/** Requests stay as they are: each one is one line of a story. */
const LIMITS: Limits = { maxSegments: 1, maxBytes: 1 << 30 };

/** Their identity: the recorded disk and its states are one to a program. */
export const CRASH_ID = "crash";

/**
 * What such a backend says of itself.
 *
 * @param name What it is.
 * @returns The information.
 */
export function crashInfo(name: string): BackendInfo {
  return memoryInfo(
    name,
    CRASH_ID,
    "the disk is part of a crash exploration",
    "nothing else can reach the disk",
  );
}

/** What carries out the requests of all openings of a device. */
export interface RecordedCore {
  /**
   * Carries out requests that have been checked.
   *
   * @param batch The requests; the array is valid during the call only.
   * @param complete Called once for each of them.
   */
  submit(batch: readonly Request[], complete: Complete): void;
  /**
   * Waits for what is in flight.
   *
   * @returns When it has completed.
   */
  drain(): Promise<void>;
}

/** The device that is recorded, as one opening of it sees it. */
export class RecordedBackend implements Backend {
  /** The disk's shape. */
  readonly geometry: Geometry;
  /** What it can do: everything. */
  readonly abilities: Abilities = CRASH_ABILITIES;
  /** Requests stay as they are. */
  readonly limits: Limits = LIMITS;
  /** What it is. */
  readonly info: BackendInfo = crashInfo("crash recording");
  /** What it counted: nothing. */
  readonly counters: Readonly<BackendCounters> = {
    systemCalls: 0,
    bounced: 0,
    readModifyWrites: 0,
  };
  readonly #core: RecordedCore;
  #closed = false;

  /**
   * Constructs a new instance.
   *
   * @param device The device.
   * @param core What carries out its requests.
   */
  constructor(device: CompleteCrashDevice, core: RecordedCore) {
    keepOnThread(this, "a backend");
    this.geometry = makeGeometry(device.sectors, device.blockSize);
    this.#core = core;
  }

  /** Checks a batch, and hands it on. */
  submit(batch: readonly Request[], complete: Complete): void {
    const accepted: Request[] = [];
    for (const request of batch) {
      const error = this.#closed
        ? closedError(request)
        : refuse(request, this.geometry, this.abilities);
      if (error === null) accepted.push(request);
      else answerRequest(request, error, complete);
    }
    if (accepted.length > 0) this.#core.submit(accepted, complete);
  }

  /** Any memory does; it begins inside of its buffer, as a real disk's does. */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return offsetMemory(byteLength);
  }

  /** Closes this opening, when what is in flight has completed. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#core.drain();
  }
}
