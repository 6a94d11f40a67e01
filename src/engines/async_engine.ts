/**
 * The engine for kernels that take operations now and complete them later, over
 * whatever queue the kernel has: slots, submission, completion.
 *
 * An operation gets a slot, is prepared, submitted by a kick, drained when it is
 * over and then delivered, which frees the slot. What finds no slot waits in a
 * backlog for one. What the queue cannot take is drained as "not taken", and
 * carried out by a blocking call when it is delivered. When and where the thread
 * waits for completions is the business of {@linkcode Waiting}.
 *
 * A queue may break: a filter that was put in place meanwhile, a descriptor that
 * was closed. From then on operations are carried out by blocking calls, those
 * among them that the kernel never took. What it has is still moving memory, and
 * is waited for by looking at the ring.
 *
 * @module
 */

import type { EngineInfo } from "../info.ts";
import {
  type Engine,
  type Operation,
  OperationCode,
  type OperationComplete,
} from "./engine.ts";
import type { Host } from "./host.ts";
import { type KernelQueue, NOT_TAKEN } from "./kernel_queue.ts";
import { settleAll } from "../settle_all.ts";
import { sharedBudget } from "./stall_budget.ts";
import { SyncEngine } from "./sync_engine.ts";
import { OperationKind, WaitPolicy } from "./wait_policy.ts";
import { type Runtime, Waiting, type Work } from "./waiting.ts";
import { clearTimeout, setTimeout } from "node:timers";

/** How often a queue that is broken is drained, in ms. */
const DRAIN_BROKEN_MS = 1;

/** What it takes as long as. */
function kindOf({ code, durable }: Operation): OperationKind {
  if (durable) return OperationKind.DurableWrite;
  switch (code) {
    case OperationCode.Read:
    case OperationCode.ReadVector:
      return OperationKind.Read;
    case OperationCode.Write:
    case OperationCode.WriteVector:
      return OperationKind.Write;
    default:
      return OperationKind.Other;
  }
}

/** How an asynchronous engine is set up. */
export interface AsyncEngineOptions {
  /** What it is and why. */
  readonly info: EngineInfo;
  /** The longest that one wait may hold the event loop, in ms. */
  readonly stallMs: number;
  /** The longest part of it that is polled and not slept, in ms; 0 for none. */
  readonly pollMs: number;
  /** What it has of its thread; its own unless given. */
  readonly runtime?: Runtime;
}

/** What there is of this thread. */
function threadRuntime(host: Host): Runtime {
  return {
    clock: () => performance.now(),
    budget: sharedBudget,
    makeTurns: (callback) => host.makeTurns(callback),
    later: (callback, ms, keepsAlive) => {
      const timer = setTimeout(callback, ms);
      if (!keepsAlive) timer.unref();
      return () => clearTimeout(timer);
    },
  };
}

/** Carries out operations through a queue into the kernel. */
export class AsyncEngine<T extends Operation> implements Engine<T>, Work {
  readonly #host: Host;
  readonly #info: EngineInfo;
  readonly #queue: KernelQueue<T>;
  readonly #complete: OperationComplete<T>;
  readonly #stallMs: number;
  readonly #runtime: Runtime;
  readonly #policy: WaitPolicy;
  readonly #waiting: Waiting;
  readonly #slots: (T | null)[];
  readonly #free: Int32Array;
  #freeCount: number;
  /** Taken while every slot was in use. */
  readonly #backlog: T[] = [];
  /** Slots that were drained and not delivered, as a ring, and their results. */
  readonly #drained: Int32Array;
  readonly #results: Int32Array;
  #drainedHead = 0;
  #drainedCount = 0;
  #prepared = 0;
  #submittedAt = 0;
  /** Calls in which the queue was tried out. */
  readonly #trialCalls: number;
  /** Blocking calls in place of what the queue did not take. */
  #performed = 0;
  /** What goes on when the queue is broken. */
  #fallback: SyncEngine<T> | null = null;
  /** Takes the next look at a broken queue back. */
  #drainBrokenTimer: (() => void) | null = null;

  /**
   * Constructs a new instance.
   *
   * @param host The operating system, for what the queue cannot take as well.
   * @param queue The queue into the kernel; the engine closes it.
   * @param complete Answers the operations.
   * @param options How it is set up.
   */
  constructor(
    host: Host,
    queue: KernelQueue<T>,
    complete: OperationComplete<T>,
    options: AsyncEngineOptions,
  ) {
    this.#host = host;
    this.#queue = queue;
    this.#complete = complete;
    this.#info = options.info;
    this.#trialCalls = queue.systemCalls;
    this.#stallMs = options.stallMs;
    this.#runtime = options.runtime ?? threadRuntime(host);
    const stallUs = Math.max(1, Math.round(options.stallMs * 1000));
    this.#policy = new WaitPolicy(
      options.pollMs * 1000,
      queue.waitsElsewhere ? 1 : undefined,
    );
    this.#waiting = new Waiting(
      this,
      queue,
      this.#policy,
      stallUs,
      this.#runtime,
    );
    this.#slots = new Array(queue.depth).fill(null);
    this.#free = Int32Array.from({ length: queue.depth }, (_, i) => i);
    this.#freeCount = queue.depth;
    this.#drained = new Int32Array(queue.depth);
    this.#results = new Int32Array(queue.depth);
  }

  /** What it is and why, and what became of it. */
  get info(): EngineInfo {
    return this.#fallback?.info ?? this.#info;
  }

  /** Calls into the kernel so far, but for those that tried the queue out. */
  get systemCalls(): number {
    return this.#queue.systemCalls - this.#trialCalls + this.#performed +
      this.#waiting.systemCalls + (this.#fallback?.systemCalls ?? 0);
  }

  /** Takes an operation. */
  push(operation: T): void {
    if (this.#fallback !== null) return this.#fallback.push(operation);
    // What waits for a slot is first.
    if (this.#freeCount === 0 || this.#backlog.length > 0) {
      this.#backlog.push(operation);
    } else this.#take(operation);
  }

  /** Hands what was taken to the kernel. */
  kick(): void {
    if (this.#fallback !== null) this.#fallback.kick();
    else this.#waiting.step("kick");
  }

  /** Asks the kernel to give up operations. */
  cancel(matches: (operation: T) => boolean): void {
    for (const [slot, operation] of this.#slots.entries()) {
      if (operation !== null && matches(operation)) this.#queue.cancel?.(slot);
    }
    this.#breakIfBroken();
  }

  /** Releases everything; what fails keeps nothing of the rest open. */
  async close(): Promise<void> {
    // A drain from here on would look into memory that is gone.
    this.#drainBrokenTimer?.();
    this.#drainBrokenTimer = null;
    await this.#waiting.leaveQueue();
    await settleAll([
      // First, as it sends its byte through the turns' sockets.
      new Promise<void>((resolve) => resolve(this.#queue.close())),
      this.#waiting.close(),
      this.#fallback?.close() ?? Promise.resolve(),
    ]);
  }

  // ---- Work: what is waited for ----

  /** Operations that have a slot. */
  get inFlight(): number {
    return this.#slots.length - this.#freeCount;
  }

  /** Those that are to be submitted. */
  get prepared(): number {
    return this.#prepared;
  }

  /** Those that are over and not delivered. */
  get drained(): number {
    return this.#drainedCount;
  }

  /** When operations were last submitted, in ms. */
  get submittedAt(): number {
    return this.#submittedAt;
  }

  /** Submits what was prepared, and waits for a completion if told to. */
  enter(timeoutUs: number): void {
    if (this.#fallback !== null) return;
    if (this.#prepared > 0) this.#submittedAt = this.#runtime.clock();
    this.#prepared = this.#queue.enter(timeoutUs > 0 ? 1 : 0, timeoutUs);
    this.#breakIfBroken();
  }

  /** Takes what is over out of the queue; returns how many are undelivered. */
  drain(): number {
    this.#queue.drain(this.#onDrained);
    return this.#drainedCount;
  }

  /** Delivers so many at most; returns how many. */
  deliver(most: number): number {
    let count = 0;
    try {
      while (count < most && this.#drainedCount > 0) {
        const slot = this.#drained[this.#drainedHead]!;
        this.#drainedHead = (this.#drainedHead + 1) % this.#slots.length;
        this.#drainedCount--;
        count++;
        this.#finish(slot, this.#results[slot]!);
      }
    } finally {
      this.#refill();
    }
    return count;
  }

  readonly #onDrained = (slot: number, result: number): void => {
    const { length } = this.#slots;
    this.#results[slot] = result;
    this.#drained[(this.#drainedHead + this.#drainedCount++) % length] = slot;
  };

  #take(operation: T): void {
    const slot = this.#free[--this.#freeCount]!;
    this.#slots[slot] = operation;
    this.#policy.taken(kindOf(operation));
    if (this.#queue.prepare(operation, slot)) this.#prepared++;
    else this.#onDrained(slot, NOT_TAKEN);
  }

  #finish(slot: number, result: number): void {
    const operation = this.#slots[slot]!;
    this.#release(slot, operation);
    if (result !== NOT_TAKEN) this.#complete(operation, result);
    else if (this.#fallback !== null) this.#fallback.push(operation);
    else {
      this.#performed++;
      this.#complete(operation, this.#host.perform(operation));
    }
  }

  #release(slot: number, operation: T): void {
    this.#slots[slot] = null;
    this.#free[this.#freeCount++] = slot;
    this.#policy.over(kindOf(operation));
  }

  /** Takes what had to wait for a slot. */
  #refill(): void {
    while (this.#backlog.length > 0 && this.#freeCount > 0) {
      this.#take(this.#backlog.shift()!);
    }
  }

  // ---- Without the queue ----

  #breakIfBroken(): void {
    const reason = this.#queue.broken;
    if (reason === null || this.#fallback !== null) return;
    const { name } = this.#info;
    this.#fallback = new SyncEngine(this.#host, this.#complete, {
      info: { name: "sync", reason: `${name} broke in use: ${reason}` },
      stallMs: this.#stallMs,
    });
    this.#prepared = 0;
    this.#waiting.stop();
    for (const operation of this.#backlog.splice(0)) {
      this.#fallback.push(operation);
    }
    this.#drainBrokenLater();
  }

  /** Delivers the completions of the broken queue, and goes on with the rest. */
  readonly #drainBroken = (): void => {
    this.#drainBrokenTimer = null;
    try {
      while (this.drain() > 0) this.deliver(this.#drainedCount);
      const { lost } = this.#queue;
      // Every one of them: which one it is of several is not to be known.
      if (this.inFlight > 0 && this.inFlight <= lost) this.#giveUpLost();
    } finally {
      if (this.inFlight > 0) this.#drainBrokenLater();
      this.#fallback!.kick();
    }
  };

  #drainBrokenLater(): void {
    this.#drainBrokenTimer ??= this.#runtime.later(
      this.#drainBroken,
      DRAIN_BROKEN_MS,
      true,
    );
  }

  /**
   * Operations whose completions were lost. To read and to write once more does
   * no harm, as nothing that overlaps is in flight; what makes durable is not
   * done twice.
   */
  #giveUpLost(): void {
    for (const [slot, operation] of this.#slots.entries()) {
      if (operation === null) continue;
      this.#release(slot, operation);
      if (operation.durable || operation.code === OperationCode.Sync) {
        this.#complete(operation, -this.#host.errno.EIO);
      } else this.#fallback!.push(operation);
    }
  }
}
