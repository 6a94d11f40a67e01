/**
 * The engine for kernels that take operations now and answer them later: slots,
 * turns and waiting, over whatever queue the kernel has.
 *
 * How it waits. Operations go to the kernel at the end of the turn in which
 * they were made. While any is in flight, every turn of the event loop ends
 * with one wait, at most {@linkcode AsyncEngineOptions.stallMs} long. The turn
 * itself passes while the device works, so that it costs no latency. What is
 * expected within {@linkcode AsyncEngineOptions.pollMs} is looked for in the
 * ring first: to put the thread to sleep and to wake it takes some 20 µs, a
 * third of what a fast disk needs for a sector. Anything else is waited for
 * inside the kernel, asleep.
 *
 * All the disks of a thread share the time for one turn (`StallBudget`).
 *
 * Nobody else is to wait for that. A queue that can watch a descriptor is told
 * of the one on which the event loop sleeps, and a wait ends when there is
 * something for the loop: then the loop sleeps in our place, and the queue
 * announces its completions to it. The same is done after {@linkcode PATIENCE}
 * waits in vain, as the device is slow. A queue that cannot do this is waited for
 * on another thread, after {@linkcode LONG_PATIENCE} waits in vain: that costs a
 * hand-off (some 50 µs).
 *
 * With nothing in flight nothing runs at all, but for this: after an answer the
 * loop's descriptor is looked at for {@linkcode AsyncEngineOptions.pollMs}, where
 * that is not in vain too often: requests that come from sockets often come
 * shortly after the answer to the last one. The loop is let on a little after the
 * first sign of one ({@linkcode SETTLE_US}).
 *
 * A queue may break: a filter that was put in place meanwhile, a descriptor that
 * somebody closed. From then on operations are carried out by blocking calls,
 * first of all those that the kernel never took. What it has is still moving
 * memory, and is waited for by looking at the ring.
 *
 * @module
 */

import type { Libc } from "../../../ffi/libc.ts";
import type { SocketPair } from "../../../ffi/socket_pair.ts";
import type { EngineInfo } from "../../info.ts";
import {
  type Engine,
  type Operation,
  OperationCode,
  type OperationComplete,
} from "./engine.ts";
import { LoopTurn } from "./loop_turn.ts";
import { sharedBudget } from "./stall_budget.ts";
import { SyncEngine } from "./sync_engine.ts";

/** Turns in vain, one after the other, before the loop is left to sleep. */
const PATIENCE = 4;

/** Turns in vain, one after the other, before waiting on another thread. */
const LONG_PATIENCE = 64;

/**
 * Operations in flight up to which a call waits for them at once: with more, it
 * pays to hand over further ones meanwhile.
 */
const INLINE_DEPTH = 2;

/**
 * A device that answers in bursts is not to wait until a whole burst was worked
 * through: what the callers ask for next is handed over after each answer for
 * so many answers, and after every {@linkcode CHUNK} of those that follow.
 */
const FIRST_ANSWERS = 8;

/** Answers between two calls in the rest of a burst. */
const CHUNK = 2;

/** Where nobody asks for more after an answer, their number doubles so often. */
const MOST_DOUBLINGS = 6;

/**
 * Polling pays up to so many times the time that it may take: what was slept for
 * seems to take longer than it does.
 */
const ASLEEP_FACTOR = 2;

/**
 * Operations that are slept for from a durable write on: the kernel ends such a
 * write on the processor that it came from, in a thread that would have to wait
 * for us.
 */
const QUIET = 4;

/**
 * The same after polls in vain, one after the other, the operation that was
 * polled for among them: 1 after the first, which was an exception most likely,
 * then doubled up to this many.
 */
const MOST_QUIET = 64;

/**
 * Looks for a next request that are left out after one in vain, doubled each
 * time up to this many.
 */
const MOST_LEFT_OUT = 1024;

/**
 * From the first sign of a next request until the loop is let on, in µs. Over a
 * Unix socket that sign is that the other side took the answer, as there is room
 * for another one then; its request follows within this time, and a loop that
 * looked too early would go to sleep.
 */
const SETTLE_US = 6;

/** Looks at the ring between two looks at the clock. */
const LOOKS = 32;

/** The longest wait on another thread, in ms. */
const ASIDE_MS = 50;

/** How long a timer waits where another thread cannot, in ms. */
const TIMER_MS = 1;

/** How often a queue that is broken is looked at, in ms. */
const MOP_UP_MS = 1;

/**
 * How long the kernel may take nothing, saying each time that it may do so
 * later, until a queue is given up, in ms.
 */
export const STUCK_MS = 1000;

/**
 * In place of a result: the kernel never took the operation, so that it can be
 * carried out otherwise. No errno reaches this (`MAX_ERRNO`, include/linux/err.h).
 */
export const NOT_TAKEN = -0x1_0000;

/** A queue into the kernel. Numbers returned are −errno where negative. */
export interface KernelQueue<T extends Operation> {
  /** Operations that may be in flight at once. */
  readonly depth: number;
  /**
   * Describes an operation to the kernel, without a call.
   *
   * @param operation The operation.
   * @param slot What the completion brings back.
   * @returns Whether the kernel can do it; if not, it is done by a blocking
   * call.
   */
  fill(operation: T, slot: number): boolean;
  /**
   * Hands over what was filled, and waits if told to.
   *
   * @param completions Completions to wait for; 0 does not wait.
   * @param timeoutUs The longest wait, in µs.
   * @returns How many of those that were filled are left.
   */
  enter(completions: number, timeoutUs: number): number;
  /**
   * Why the kernel cannot be entered any more; `null` as long as it can. What it
   * never took comes back from `reap` as {@linkcode NOT_TAKEN}, and what it has
   * when it is done.
   */
  readonly broken: string | null;
  /** Operations in the kernel whose completions it lost. */
  readonly lost?: number;
  /** Whether there are completions, at a look that costs next to nothing. */
  readonly ready: boolean;
  /** Takes completions, so many at most; returns how many there were. */
  reap(visit: (slot: number, result: number) => void, most: number): number;
  /** From now on a wait ends, once, when a descriptor is readable. */
  watch?(fd: number): void;
  /** Whether that was so; whoever looks sets it back. */
  alerted?: boolean;
  /**
   * Takes no notice of alerts so far, also of one among the completions; a later
   * one counts. May hand over what was filled.
   */
  ignoreAlert?(): void;
  /**
   * Sends a byte through a pair of sockets once there are completions.
   *
   * @param pair The pair; the queue is closed before it.
   * @returns Whether it will.
   */
  announce?(pair: SocketPair): boolean;
  /** Waits on another thread until there may be completions. */
  waitAside(timeoutMs: number): Promise<void>;
  /** Ends a wait on another thread. */
  wake(): void;
  /** Asks the kernel to give up an operation. */
  cancel?(slot: number): void;
  /** Releases everything; nothing is in flight. */
  close(): void;
}

/** How an asynchronous engine is set up. */
export interface AsyncEngineOptions {
  /** What it is and why. */
  readonly info: EngineInfo;
  /** The longest that one wait may hold the event loop, in ms. */
  readonly stallMs: number;
  /** The longest part of it that is polled and not slept, in ms; 0 for none. */
  readonly pollMs: number;
}

/** Carries out operations through a queue into the kernel. */
export class AsyncEngine<T extends Operation> implements Engine<T> {
  readonly #libc: Libc;
  readonly #info: EngineInfo;
  readonly #queue: KernelQueue<T>;
  readonly #complete: OperationComplete<T>;
  readonly #perform: (operation: T) => number;
  readonly #stallUs: number;
  readonly #pollUs: number;
  readonly #slots: (T | null)[];
  readonly #free: Int32Array;
  #freeCount: number;
  /** Taken while every slot was in use. */
  readonly #waiting: T[] = [];
  #filled = 0;
  #reaping = false;
  readonly #turn: LoopTurn;
  #turnStart = 0;
  /** When operations were last handed over, in ms. */
  #handedOver = 0;
  /** How long it usually takes from there to the first answer, in µs. */
  #usualUs = 0;
  /** Answers since the last wait. */
  #answers = 0;
  /** Times that answers were given since anybody asked for more. */
  #unasked = 0;
  /** Operations to sleep for, the one that was taken last among them. */
  #quiet = 0;
  /** What that becomes after the next poll in vain. */
  #nextQuiet = 1;
  /** Looks for a next request to leave out, and after the next one in vain. */
  #leaveOut = 0;
  #nextLeaveOut = 1;
  #aside: Promise<void> | null = null;
  #vain = 0;
  /** The round of turns that its last turn was in. */
  #round = -1;
  #calls = 0;
  /** What goes on when the queue is broken. */
  #fallback: SyncEngine<T> | null = null;
  /** When the queue that is broken is looked at again. */
  #moppingUp: ReturnType<typeof setTimeout> | null = null;

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   * @param queue The queue into the kernel; the engine closes it.
   * @param complete Answers the operations.
   * @param perform Carries out an operation in a blocking call, for those that
   * the queue cannot take.
   * @param options How it is set up.
   */
  constructor(
    libc: Libc,
    queue: KernelQueue<T>,
    complete: OperationComplete<T>,
    perform: (operation: T) => number,
    options: AsyncEngineOptions,
  ) {
    this.#turn = new LoopTurn(
      libc,
      this.#onTurn,
      queue.announce === undefined ? null : (pair) => queue.announce!(pair),
    );
    this.#libc = libc;
    this.#queue = queue;
    this.#complete = complete;
    this.#perform = perform;
    this.#stallUs = Math.max(1, Math.round(options.stallMs * 1000));
    this.#pollUs = options.pollMs * 1000;
    this.#info = options.info;
    this.#slots = new Array(queue.depth).fill(null);
    this.#free = Int32Array.from({ length: queue.depth }, (_, i) => i);
    this.#freeCount = queue.depth;
  }

  /** What it is and why, and what became of it. */
  get info(): EngineInfo {
    return this.#fallback?.info ?? this.#info;
  }

  /** Calls into the kernel so far. */
  get systemCalls(): number {
    return this.#calls + (this.#fallback?.systemCalls ?? 0);
  }

  /** Takes an operation. */
  push(operation: T): void {
    if (this.#fallback !== null) return this.#fallback.push(operation);
    if (this.#freeCount === 0) {
      this.#waiting.push(operation);
      return;
    }
    const slot = this.#free[--this.#freeCount]!;
    if (!this.#queue.fill(operation, slot)) {
      this.#free[this.#freeCount++] = slot;
      this.#calls++;
      this.#complete(operation, this.#perform(operation));
      return;
    }
    this.#slots[slot] = operation;
    this.#filled++;
    const quiet = Math.max(0, this.#quiet - 1);
    this.#quiet = operation.durable ? Math.max(QUIET, quiet) : quiet;
  }

  /** Hands what was taken to the kernel. */
  kick(): void {
    if (this.#reaping) return;
    if (this.#fallback !== null) return this.#fallback.kick();
    if (this.#inFlight === 0) return;
    this.#vain = 0;
    this.#unasked = 0;
    const turn = this.#turn;
    // In a turn of somebody else's, what the loop was wanted for is being done.
    if (!turn.armed) this.#queue.ignoreAlert?.();
    if (!turn.asleep) this.#watch();
    const few = this.#inFlight <= INLINE_DEPTH;
    // One call hands over and sleeps, if that is what follows.
    if (this.#filled > 0 && (!few || this.#polls)) this.#enter(0, 0);
    const now = performance.now();
    if (!turn.armed || this.#turnStart === 0) this.#turnStart = now;
    turn.arm();
    const ownUs = this.#stallUs - (now - this.#turnStart) * 1000;
    const leftUs = Math.min(
      ownUs,
      sharedBudget.left(false, this.#stallUs, now),
    );
    if (!few) {
      // The rest of a burst: see FIRST_ANSWERS.
      if (ownUs > 0) this.#reap();
    } else if (leftUs >= Math.max(1, this.#usualUs) && !this.#yields) {
      // A few: whoever asked most likely waits for them. What should be over
      // within this turn's time is waited for here; the turn that the others
      // need passes while the device works.
      this.#wait(leftUs, false);
    }
    if (this.#filled > 0) this.#enter(0, 0);
    if (this.#fallback !== null) return;
    if (this.#inFlight === 0) turn.wake();
    else if (this.#filled > 0) {
      // The kernel did not take all of it: the next turn tries again.
      turn.wake();
      turn.arm();
    } else if (this.#yields) this.#sleep();
  }

  /** Asks the kernel to give up operations. */
  cancel(matches: (operation: T) => boolean): void {
    for (const [slot, operation] of this.#slots.entries()) {
      if (operation !== null && matches(operation)) this.#queue.cancel?.(slot);
    }
    if (this.#queue.broken !== null) this.#break(this.#queue.broken);
  }

  /** Releases everything. */
  async close(): Promise<void> {
    this.#turn.stop();
    // What comes back from here on would be looked for in memory that is gone.
    if (this.#moppingUp !== null) clearTimeout(this.#moppingUp);
    this.#moppingUp = null;
    // A wait on another thread still looks at the queue.
    if (this.#aside !== null) {
      this.#queue.wake();
      await this.#aside;
    }
    // What the queue announces goes through sockets of the turn's.
    this.#queue.close();
    await this.#turn.close();
    await this.#fallback?.close();
  }

  get #inFlight(): number {
    return this.#slots.length - this.#freeCount;
  }

  #enter(completions: number, timeoutUs: number): void {
    if (this.#fallback !== null) return;
    this.#calls++;
    if (this.#filled > 0) this.#handedOver = performance.now();
    this.#filled = this.#queue.enter(completions, timeoutUs);
    if (this.#queue.broken !== null) this.#break(this.#queue.broken);
  }

  /** From here on without the queue. */
  #break(reason: string): void {
    if (this.#fallback !== null) return;
    const { name } = this.#info;
    this.#fallback = new SyncEngine(this.#libc, this.#complete, {
      info: { name: "sync", reason: `${name} broke in use: ${reason}` },
      stallMs: this.#stallUs / 1000,
    });
    this.#filled = 0;
    this.#turn.wake();
    this.#refill();
    this.#mopUpLater();
  }

  /** Answers what the broken queue brings, and goes on with the rest. */
  readonly #mopUp = (): void => {
    this.#moppingUp = null;
    try {
      while (this.#reap() > 0);
      const { lost = 0 } = this.#queue;
      // Every one of them: which one it is of several is not to be known.
      if (this.#inFlight > 0 && this.#inFlight <= lost) this.#giveUpLost();
      this.#fallback!.kick();
    } finally {
      if (this.#inFlight > 0) this.#mopUpLater();
    }
  };

  #mopUpLater(): void {
    this.#moppingUp ??= setTimeout(this.#mopUp, MOP_UP_MS);
  }

  /**
   * Operations that are over, nobody knows how. To read and to write once more
   * does no harm, as nothing that overlaps is on its way; what makes durable is
   * not done twice.
   */
  #giveUpLost(): void {
    for (const [slot, operation] of this.#slots.entries()) {
      if (operation === null) continue;
      this.#slots[slot] = null;
      this.#free[this.#freeCount++] = slot;
      if (operation.durable || operation.code === OperationCode.Sync) {
        this.#complete(operation, -this.#libc.abi.errno.EIO);
      } else this.#fallback!.push(operation);
    }
  }

  readonly #onTurn = (asked: boolean): void => {
    try {
      this.#takeTurn(asked);
    } catch (error) {
      // It is the mistake of one whom we answered; the others wait all the same.
      if (this.#fallback === null && this.#aside === null) this.#turn.arm();
      throw error;
    }
  };

  #takeTurn(asked: boolean): void {
    if (this.#fallback !== null) return;
    this.#round = sharedBudget.begin(this.#round);
    if (this.#waiting.length > 0) this.#refill();
    // What the loop was wanted for is being done.
    if (asked) this.#queue.ignoreAlert?.();
    if (this.#inFlight === 0) return this.#linger();
    // A slow device is waited for by the loop: nobody has to end our wait.
    if (this.#vain < PATIENCE) this.#watch();
    const found = this.#find() ||
      this.#wait(
        sharedBudget.left(true, this.#stallUs, performance.now()),
        true,
      );
    this.#turnStart = performance.now();
    if (this.#filled > 0) this.#enter(0, 0);
    if (this.#fallback !== null) return;
    const yields = this.#yields;
    if (found > 0) this.#vain = 0;
    else if (!yields) this.#vain++;
    // What the kernel did not take would never be announced.
    const leaves = this.#inFlight > 0 && this.#filled === 0 &&
      (yields || this.#vain >= PATIENCE);
    if (leaves && this.#sleep()) return;
    if (this.#vain < LONG_PATIENCE) this.#turn.arm();
    else this.#waitAside();
  }

  /** Has waits end when the event loop has something to do. */
  #watch(): void {
    const { reactor, canSleep } = this.#turn;
    if (reactor !== null && canSleep) this.#queue.watch?.(reactor);
  }

  /** Whether the event loop is wanted for something and does not know yet. */
  get #yields(): boolean {
    const turn = this.#turn;
    return this.#queue.alerted === true && turn.canSleep && !turn.asks;
  }

  /** Lets the loop sleep; tells whether it does. */
  #sleep(): boolean {
    const sleeps = this.#turn.sleep();
    if (sleeps || !this.#turn.canSleep) this.#queue.alerted = false;
    // Whoever wakes it first begins a turn.
    if (sleeps) this.#turnStart = 0;
    return sleeps;
  }

  /** With nothing in flight: looks whether somebody is about to ask for more. */
  #linger(): void {
    const queue = this.#queue;
    if (queue.watch === undefined || this.#turn.reactor === null) return;
    if (this.#pollUs === 0) return;
    if (this.#leaveOut > 0) {
      this.#leaveOut--;
      return;
    }
    const start = performance.now();
    const pollUs = sharedBudget.left(true, this.#pollUs, start);
    if (pollUs <= 0) return;
    queue.ignoreAlert?.();
    this.#watch();
    this.#enter(0, 0);
    const found = this.#look(start + pollUs / 1000);
    const now = performance.now();
    sharedBudget.spend(true, (now - start) * 1000, now);
    if (found) {
      this.#nextLeaveOut = 1;
      const until = performance.now() + SETTLE_US / 1000;
      while (performance.now() < until);
    } else {
      this.#leaveOut = this.#nextLeaveOut;
      this.#nextLeaveOut = Math.min(this.#nextLeaveOut * 2, MOST_LEFT_OUT);
    }
    queue.alerted = false;
  }

  /** Answers what came while the loop turned; returns how many. */
  #find(): number {
    const few = this.#inFlight <= INLINE_DEPTH;
    const tookUs = (performance.now() - this.#handedOver) * 1000;
    const found = this.#reap();
    // It may have been there for long: this can only be an upper bound.
    if (found > 0 && few && tookUs < this.#usualUs) this.#learn(tookUs);
    return found;
  }

  /** Whether what is in flight is worth polling for. */
  get #polls(): boolean {
    return this.#pollUs > 0 && this.#quiet === 0 &&
      this.#usualUs <= this.#pollUs * ASLEEP_FACTOR;
  }

  /** Waits for completions and answers the first ones; returns how many. */
  #wait(mostUs: number, inTurn: boolean): number {
    if (mostUs <= 0) return 0;
    const start = performance.now();
    if (this.#polls) {
      const until = start + Math.min(mostUs, this.#pollUs) / 1000;
      if (this.#look(until)) {
        this.#nextQuiet = 1;
      } else {
        this.#quiet = this.#nextQuiet;
        this.#nextQuiet = Math.min(this.#nextQuiet * 2, MOST_QUIET);
      }
      mostUs -= (performance.now() - start) * 1000;
    }
    const queue = this.#queue;
    if (mostUs > 0 && !queue.ready && !this.#yields) {
      if (this.#vain < PATIENCE) this.#watch();
      this.#enter(1, mostUs);
    }
    const now = performance.now();
    sharedBudget.spend(inTurn, (now - start) * 1000, now);
    const tookUs = (now - this.#handedOver) * 1000;
    this.#answers = 0;
    this.#unasked = 0;
    const found = this.#reap();
    // After a wait in vain, that long is a lower bound.
    if (found > 0 || tookUs > this.#usualUs) this.#learn(tookUs);
    return found;
  }

  #learn(tookUs: number): void {
    this.#usualUs += (tookUs - this.#usualUs) / 8;
  }

  /**
   * Looks for completions, and for something that the loop has to do, until the
   * time has come; returns whether there was anything.
   */
  #look(until: number): boolean {
    const queue = this.#queue;
    // A few are worth more than what the loop has to do: see kick().
    const few = this.#inFlight > 0 && this.#inFlight <= INLINE_DEPTH;
    do {
      for (let i = 0; i < LOOKS; i++) {
        if (queue.ready || !few && queue.alerted === true) return true;
      }
    } while (performance.now() < until);
    return false;
  }

  #waitAside(): void {
    this.#aside ??= this.#queue.waitAside(ASIDE_MS).catch(
      // No other thread is to be had, as FFI was given up meanwhile, or there
      // is no memory left: a timer takes its place.
      () => new Promise<void>((resolve) => setTimeout(resolve, TIMER_MS)),
    ).then(() => {
      this.#aside = null;
      if (!this.#turn.armed) this.#onTurn(false);
    });
  }

  #reap(): number {
    this.#reaping = true;
    try {
      const chunk = this.#answers < FIRST_ANSWERS ? 1 : CHUNK;
      const most = chunk << this.#unasked;
      const found = this.#queue.reap(this.#onCompletion, most);
      this.#answers += found;
      this.#unasked = Math.min(this.#unasked + 1, MOST_DOUBLINGS);
      this.#refill();
      return found;
    } finally {
      this.#reaping = false;
    }
  }

  /** Takes what had to wait for a slot. */
  #refill(): void {
    while (
      this.#waiting.length > 0 &&
      (this.#freeCount > 0 || this.#fallback !== null)
    ) this.push(this.#waiting.shift()!);
  }

  readonly #onCompletion = (slot: number, result: number): void => {
    const operation = this.#slots[slot];
    // An answer that nobody waits for: to a cancellation, or to a wake-up.
    if (operation === undefined || operation === null) return;
    this.#slots[slot] = null;
    this.#free[this.#freeCount++] = slot;
    if (result !== NOT_TAKEN) this.#complete(operation, result);
    else if (this.#fallback !== null) this.#fallback.push(operation);
    else {
      this.#calls++;
      this.#complete(operation, this.#perform(operation));
    }
  };
}
