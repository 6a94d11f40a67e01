/**
 * Operations by blocking calls, each carried out before the kick returns: what
 * stands in for an engine while a caller waits.
 *
 * Unlike `SyncEngine` it gives the event loop no turn: whoever asked for this
 * wants the answer before anything else happens.
 *
 * @module
 */

import type { EngineInfo } from "../info.ts";
import type { Engine, Operation, OperationComplete } from "./engine.ts";
import type { Host } from "./host.ts";

/** Carries out operations at once. */
export class BlockingCalls<T extends Operation> implements Engine<T> {
  readonly #host: Host;
  readonly #complete: OperationComplete<T>;
  readonly #taken: T[] = [];
  #running = false;
  /** Calls into the kernel so far. */
  systemCalls = 0;
  /** What it is and why. */
  readonly info: EngineInfo = { name: "sync", reason: "the caller waits" };

  /**
   * Constructs a new instance.
   *
   * @param host The operating system.
   * @param complete Answers the operations.
   */
  constructor(host: Host, complete: OperationComplete<T>) {
    this.#host = host;
    this.#complete = complete;
  }

  /** Takes an operation. */
  push(operation: T): void {
    this.#taken.push(operation);
  }

  /** Carries out what was taken, and what its completions add. */
  kick(): void {
    if (this.#running) return;
    this.#running = true;
    try {
      for (;;) {
        const operation = this.#taken.pop();
        if (operation === undefined) return;
        this.systemCalls++;
        this.#complete(operation, this.#host.perform(operation));
      }
    } finally {
      this.#running = false;
    }
  }

  /** Holds nothing that must be released. */
  close(): Promise<void> {
    return Promise.resolve();
  }
}
