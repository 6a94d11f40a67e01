/**
 * Writes to a page cache, beside an engine for all the rest.
 *
 * A write without direct I/O moves bytes from memory to memory, and io_uring
 * hands it to a thread of the kernel all the same: most file systems cannot tell
 * it beforehand whether they would block (`FOP_BUFFER_WASYNC` is what XFS and
 * btrfs have, io_uring/rw.c). A blocking call is over sooner than that thread
 * has begun.
 *
 * That is for disks of this machine. What a network or a program stands behind
 * may keep such a call waiting for ever, or for this very thread.
 *
 * It may take long nevertheless: the kernel holds up who makes more pages dirty
 * than it can write back (`balance_dirty_pages`, 0.2 s at a time at most), and
 * part of a page that is not in the cache is read first. So each call's time is
 * looked at, and after slow ones the engine has the writes for a while, its
 * threads waiting for us.
 *
 * @module
 */

import type { EngineInfo } from "../../info.ts";
import {
  type Engine,
  type Operation,
  OperationCode,
  type OperationComplete,
} from "./engine.ts";
import type { Host } from "./host.ts";
import { NOT_TAKEN } from "./kernel_queue.ts";
import { SyncEngine } from "./sync_engine.ts";
import { BackOff } from "./wait_policy.ts";

/** Bytes that are written in one blocking call: some 0.3 ms at most. */
const MAX_BYTES = 1 << 20;

/** A call that takes longer has waited for something, in ms. */
const SLOW_MS = 1;

/** An engine whose writes go to a page cache. */
export class CachedWrites<T extends Operation> implements Engine<T> {
  readonly #rest: Engine<T>;
  readonly #writes: SyncEngine<T>;
  readonly #backOff = new BackOff();

  /**
   * Constructs a new instance.
   *
   * @param host The operating system.
   * @param rest The engine for all else; it is closed with this one.
   * @param complete Answers the operations, those of the other engine as well.
   * @param stallMs How long calls may follow each other in one turn of the event
   * loop, in ms.
   * @param clock The time, in ms; for tests.
   */
  constructor(
    host: Pick<Host, "perform" | "makeTurns">,
    rest: Engine<T>,
    complete: OperationComplete<T>,
    stallMs: number,
    clock: () => number = () => performance.now(),
  ) {
    this.#rest = rest;
    const timed = {
      makeTurns: host.makeTurns.bind(host),
      perform: (operation: T) => {
        this.#backOff.pass();
        if (!this.#backOff.allows) return NOT_TAKEN;
        const start = clock();
        const result = host.perform(operation);
        this.#backOff.attempted(clock() - start < SLOW_MS);
        return result;
      },
    };
    const answer: OperationComplete<T> = (operation, result) => {
      if (result !== NOT_TAKEN) return complete(operation, result);
      rest.push(operation);
      rest.kick();
    };
    const { info } = rest;
    this.#writes = new SyncEngine<T>(timed, answer, { info, stallMs });
  }

  /** What it is and why: as the engine for all else. */
  get info(): EngineInfo {
    return this.#rest.info;
  }

  /** Calls into the kernel so far. */
  get systemCalls(): number {
    return this.#writes.systemCalls + this.#rest.systemCalls;
  }

  /** Takes an operation. */
  push(operation: T): void {
    const { code, durable, length } = operation;
    const writes = code === OperationCode.Write ||
      code === OperationCode.WriteVector;
    if (writes && !durable && length <= MAX_BYTES) this.#writes.push(operation);
    else this.#rest.push(operation);
  }

  /** Carries out, or hands to the kernel, what was taken. */
  kick(): void {
    // A completion may throw: the others have their turn all the same.
    try {
      this.#rest.kick();
    } finally {
      this.#writes.kick();
    }
  }

  /** Tries to stop operations early; a write to a cache is soon over. */
  cancel(matches: (operation: T) => boolean): void {
    this.#rest.cancel?.(matches);
  }

  /** Releases everything. */
  async close(): Promise<void> {
    await this.#writes.close();
    await this.#rest.close();
  }
}
