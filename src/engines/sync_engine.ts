/**
 * The engine that needs nothing: one blocking system call for each operation.
 *
 * It holds the event loop while the kernel works, so it lets timers have their
 * turn whenever {@linkcode SyncEngineOptions.stallMs} have passed since they last
 * had one, and sockets in every third of these turns (`LoopTurn`). A
 * single call that takes longer than that cannot be interrupted.
 *
 * Without an end to that time it is what stands in for another engine while a
 * caller waits: everything is over, and its completions' own operations with it,
 * before {@linkcode SyncEngine.kick} returns.
 *
 * @module
 */

import type { EngineInfo } from "../info.ts";
import type { Engine, Operation, OperationComplete } from "./engine.ts";
import type { Host } from "./host.ts";
import type { Turns } from "./loop_turn.ts";

/** How a synchronous engine is set up. */
export interface SyncEngineOptions {
  /** What it is and why. */
  readonly info: EngineInfo;
  /**
   * How long calls may follow each other in one turn of the loop, in ms;
   * `Infinity` asks for no turns.
   */
  readonly stallMs: number;
}

/** Carries out operations with blocking calls. */
export class SyncEngine<T extends Operation> implements Engine<T> {
  readonly #host: Host;
  readonly #complete: OperationComplete<T>;
  #queue: T[] = [];
  #head = 0;
  #running = false;
  readonly #turn: Turns;
  /** Whether a turn has been asked for and has not come yet. */
  #turnPending = false;
  #turnStart = 0;
  readonly #stallMs: number;
  /** What it is and why. */
  readonly info: EngineInfo;
  #performed = 0;

  /**
   * Constructs a new instance.
   *
   * @param host The operating system.
   * @param complete Answers the operations.
   * @param options How it is set up.
   */
  constructor(
    host: Host,
    complete: OperationComplete<T>,
    options: SyncEngineOptions,
  ) {
    this.#turn = host.makeTurns(() => {
      this.#turnPending = false;
      this.kick();
    });
    this.#host = host;
    this.#complete = complete;
    this.#stallMs = options.stallMs;
    this.info = options.info;
  }

  /** Calls into the kernel so far. */
  get systemCalls(): number {
    return this.#performed + this.#turn.systemCalls;
  }

  /** Takes an operation. */
  push(operation: T): void {
    this.#queue.push(operation);
  }

  /** Carries out what was taken, as far as this turn's time goes. */
  kick(): void {
    if (this.#running) return;
    this.#running = true;
    // A completion may throw: the others have their turn, as one was asked for
    // before.
    try {
      while (this.#head < this.#queue.length) {
        if (this.#stallMs !== Infinity && !this.#isInTime()) break;
        const operation = this.#queue[this.#head++]!;
        this.#performed++;
        this.#complete(operation, this.#host.perform(operation));
      }
      if (this.#head === this.#queue.length) {
        while (this.#queue.length > 0) this.#queue.pop();
        this.#head = 0;
      }
    } finally {
      this.#running = false;
    }
  }

  /** Whether this turn has time left; the next one is asked for before. */
  #isInTime(): boolean {
    const now = performance.now();
    if (this.#turnPending) return now - this.#turnStart < this.#stallMs;
    this.#turnStart = now;
    this.#turnPending = true;
    this.#turn.request(false);
    return true;
  }

  /** Releases everything. */
  close(): Promise<void> {
    return this.#turn.close();
  }
}
