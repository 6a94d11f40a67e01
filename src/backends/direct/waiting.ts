/**
 * Where an engine's thread waits, and why: one state, and one
 * {@linkcode Waiting.step} through which every event goes.
 *
 * | state   | where it waits, for what                             | left by              |
 * | ------- | ---------------------------------------------------- | -------------------- |
 * | idle    | nowhere: nothing is in flight                        | kick                 |
 * | turning | in the event loop, which takes one turn first        | turn, byte           |
 * | kernel  | in a call: a completion, the loop, or the time is up | that call's return   |
 * | loop    | in the event loop, asleep until completions send it a byte | byte, watchdog |
 * | thread  | on another thread, in poll(2)                        | thread, kick         |
 * | stopped | nowhere: closed, or the queue broke                  | –                    |
 *
 * | event    | in      | what is done                                  | then            |
 * | -------- | ------- | --------------------------------------------- | --------------- |
 * | kick     | any     | submit; a few operations that should be over within this turn's time are waited for at once; deliver | turning, or as it was |
 * | turn, byte | turning, loop | deliver what came, else wait in the kernel; submit | see below |
 * | thread   | thread  | the same; in any other state it comes too late, and nothing is done | see below |
 * | watchdog | loop    | the same, as a byte may have been lost        | see below       |
 * | stop     | any     | whatever comes later finds it stopped         | stopped         |
 *
 * After a turn: *turning* while completions are undelivered or the kernel did
 * not take all; *idle* with nothing in flight, after one more turn; *loop* if the
 * loop is wanted for something else, or the device is slow, and the queue can
 * watch the loop; *thread* if it cannot, and the device is very slow (libaio);
 * else *turning*. Nobody else is to wait for a disk: a wait in the kernel is at
 * most `stallMs` long, which all the disks of a thread
 * share (`StallBudget`), and ends when the loop has something to do.
 *
 * Completions are drained from the kernel first and delivered afterwards, some
 * at a time. A callback may throw or kick: a kick during a step is served by that
 * step, and after a throw the state is *turning*, so that the rest has its turn.
 *
 * What is decided by times and counts alone is in `WaitPolicy`.
 *
 * @module
 */

import type { LoopWatch } from "./kernel_queue.ts";
import type { LoopDescriptor, Turns } from "./loop_turn.ts";
import type { StallBudget } from "./stall_budget.ts";
import type { WaitPolicy } from "./wait_policy.ts";

/**
 * From the first sign that the loop has something to do until it is let on while
 * idle, in µs. Over a Unix socket that sign is that the other side took the last
 * answer; its next request follows within this time, and a loop that looked too
 * early would go to sleep (57 % of the requests of a client over NBD; with this,
 * 5 %).
 */
const SETTLE_US = 6;

/** The longest wait on another thread, in ms. */
const THREAD_MS = 50;

/** How long a timer waits where no other thread is to be had, in ms. */
const TIMER_MS = 1;

/**
 * How often a loop that sleeps is looked at, in ms: the kernel may have found no
 * memory for the byte.
 */
const WATCHDOG_MS = 1000;

/** Where the thread waits. */
type State = "idle" | "turning" | "kernel" | "loop" | "thread" | "stopped";

/** What happened. */
export type WaitEvent = "kick" | "turn" | "byte" | "thread" | "watchdog";

/** What is waited for: the operations of an engine. */
export interface Work {
  /** Operations that were taken and not answered yet. */
  readonly inFlight: number;
  /** Those of them that the kernel is to be given. */
  readonly prepared: number;
  /** Those of them that are over and not delivered. */
  readonly drained: number;
  /** When operations were last submitted, in ms. */
  readonly submittedAt: number;
  /** Submits what was prepared; waits for a completion if the time is not 0. */
  enter(timeoutUs: number): void;
  /** Takes what is over out of the queue; returns {@linkcode drained}. */
  drain(): number;
  /** Answers so many at most; returns how many. May throw. */
  deliver(most: number): number;
  /** Watches the loop, if the queue can. */
  watchLoop(loop: LoopDescriptor): LoopWatch | null;
  /** Whether the queue can watch the loop. */
  readonly canWatch: boolean;
  /** Waits on another thread. */
  waitOffThread(timeoutMs: number): Promise<void>;
  /** Ends that wait. */
  endOffThreadWait(): void;
}

/** What waiting has of the thread that it is in. */
export interface Runtime {
  /** The time, in ms. */
  readonly clock: () => number;
  /** What the disks of the thread share. */
  readonly budget: StallBudget;
  /** Makes turns of its event loop. */
  readonly makeTurns: (callback: (asked: boolean) => void) => Turns;
  /** Calls back after so many ms; returns what takes that back. */
  readonly later: (callback: () => void, ms: number) => () => void;
}

/** Waits for the operations of one engine. */
export class Waiting {
  readonly #work: Work;
  readonly #policy: WaitPolicy;
  readonly #turns: Turns;
  readonly #runtime: Runtime;
  readonly #clock: () => number;
  readonly #stallUs: number;
  #state: State = "idle";
  #stepping = false;
  #watch: LoopWatch | null = null;
  /** Whether the loop is still to be found, when a first byte has come. */
  #seeks: boolean;
  /** When the time began that callers may spend, in ms; 0 for with the next one. */
  #turnStart = 0;
  /** The round of turns that its last turn was in. */
  #round = -1;
  #offThread: Promise<void> | null = null;
  /** Takes the watchdog back. */
  #watchdog: (() => void) | null = null;
  /** Times that the loop was left to sleep. */
  #parked = 0;

  /**
   * Constructs a new instance.
   *
   * @param work What is waited for.
   * @param policy Decides by times and counts.
   * @param stallUs The longest that one wait may hold the event loop, in µs.
   * @param runtime What it has of its thread.
   */
  constructor(
    work: Work,
    policy: WaitPolicy,
    stallUs: number,
    runtime: Runtime,
  ) {
    this.#work = work;
    this.#policy = policy;
    this.#stallUs = stallUs;
    this.#runtime = runtime;
    this.#clock = runtime.clock;
    this.#seeks = work.canWatch;
    this.#turns = runtime.makeTurns((asked) =>
      this.step(asked ? "byte" : "turn")
    );
  }

  /** Calls into the kernel for turns so far. */
  get systemCalls(): number {
    return this.#turns.systemCalls;
  }

  /** Something happened: see the tables above. */
  step(event: WaitEvent): void {
    const state = this.#state;
    if (this.#stepping || state === "stopped") return;
    if (event === "thread" && state !== "thread") return;
    if (event === "watchdog" && state !== "loop") return;
    this.#stepping = true;
    let next: State = "turning";
    try {
      if (event === "kick") next = this.#onKick();
      else {
        // Whatever was to wake it has done so.
        this.#state = "turning";
        next = this.#onTurn(event);
      }
    } finally {
      this.#stepping = false;
      this.#enterState(next);
    }
  }

  /** Whatever comes later is not waited for any more. */
  stop(): void {
    this.#state = "stopped";
    this.#watchdog?.();
    this.#watchdog = null;
    this.#turns.stop();
  }

  /** Stops, and waits until no other thread looks at the queue any more. */
  async leaveQueue(): Promise<void> {
    this.stop();
    if (this.#offThread === null) return;
    this.#work.endOffThreadWait();
    await this.#offThread;
  }

  /** Gives everything back; the queue is closed by then. */
  close(): Promise<void> {
    return this.#turns.close();
  }

  /** A caller asks for something. */
  #onKick(): State {
    const work = this.#work;
    const policy = this.#policy;
    const from = this.#state;
    if (work.inFlight === 0) return from;
    policy.asked();
    // In a turn of somebody else's, what the loop was wanted for is being done.
    const elsewhere = from === "idle" || from === "thread";
    if (elsewhere) this.#forgetLoop();
    if (from !== "loop") this.#watch?.arm();
    const few = policy.isFew(work.inFlight);
    // One call submits and sleeps, if that is what follows.
    if (!few || policy.polls) this.#submit();
    const now = this.#clock();
    if (elsewhere || this.#turnStart === 0) this.#turnStart = now;
    // The others' turn passes while the device works.
    if (elsewhere) this.#enterState("turning");
    const ownUs = this.#stallUs - (now - this.#turnStart) * 1000;
    if (!few) {
      if (ownUs > 0) this.#deliverDrained();
    } else {
      const leftUs = Math.min(
        ownUs,
        this.#runtime.budget.left(false, this.#stallUs, now),
      );
      // Whoever asks for a few most likely waits for them.
      if (policy.isExpected(leftUs) && !this.#loopWaits) {
        this.#wait(leftUs, false);
      }
    }
    this.#submit();
    if (work.inFlight === 0) return from === "loop" ? "idle" : "turning";
    if (work.prepared > 0 || work.drained > 0) return "turning";
    if (this.#loopWaits) return "loop";
    return from === "loop" ? from : "turning";
  }

  /** The event loop has been round. */
  #onTurn(event: WaitEvent): State {
    const work = this.#work;
    const policy = this.#policy;
    this.#round = this.#runtime.budget.begin(this.#round);
    if (event === "byte") {
      if (this.#seeks) this.#findLoop();
      // What the loop was wanted for is being done.
      this.#forgetLoop();
    }
    if (work.inFlight === 0) {
      this.#pollIdle();
      return "idle";
    }
    // A slow device is waited for by the loop: nobody has to end our wait.
    if (!policy.isSlow) this.#watch?.arm();
    const found = this.#deliverFound() ||
      this.#wait(
        this.#runtime.budget.left(true, this.#stallUs, this.#clock()),
        true,
      );
    this.#turnStart = this.#clock();
    this.#submit();
    const wanted = this.#loopWaits;
    if (found > 0 || !wanted) policy.turned(found);
    // What the kernel did not take would never be announced.
    if (work.inFlight === 0 || work.prepared > 0 || work.drained > 0) {
      return "turning";
    }
    if (wanted || policy.isSlow && this.#watch !== null) return "loop";
    return policy.isVerySlow ? "thread" : "turning";
  }

  #enterState(next: State): void {
    if (this.#state === "stopped") return;
    if (next === "loop" && this.#state !== "loop" && !this.#park()) {
      next = this.#policy.isVerySlow ? "thread" : "turning";
    }
    if (next !== "loop") this.#turns.unpark();
    if (next === "turning") this.#turns.request(this.#watch !== null);
    if (next === "thread") this.#waitOffThread();
    this.#state = next;
  }

  /** Lets the loop sleep until completions send it a byte; tells if it does. */
  #park(): boolean {
    const watch = this.#watch;
    if (watch === null || !this.#turns.canPark) return false;
    if (!watch.notify()) {
      this.#watch = null;
      return false;
    }
    this.#turns.park();
    watch.clear();
    // Whoever wakes it first begins a turn.
    this.#turnStart = 0;
    this.#parked++;
    if (this.#watchdog === null) this.#watchdogLater();
    return true;
  }

  #watchdogLater(): void {
    const parked = this.#parked;
    this.#watchdog = this.#runtime.later(() => {
      this.#watchdog = null;
      if (this.#state !== "loop") return;
      if (parked === this.#parked) this.step("watchdog");
      else this.#watchdogLater();
    }, WATCHDOG_MS);
  }

  #waitOffThread(): void {
    this.#offThread ??= this.#work.waitOffThread(THREAD_MS).catch(
      // No other thread is to be had, as FFI was given up meanwhile, or there
      // is no memory left: a timer takes its place.
      () =>
        new Promise<void>((resolve) => {
          this.#runtime.later(resolve, TIMER_MS);
        }),
    ).then(() => {
      this.#offThread = null;
      this.step("thread");
    });
  }

  #findLoop(): void {
    this.#seeks = false;
    const loop = this.#turns.findLoop();
    if (loop !== null) this.#watch = this.#work.watchLoop(loop);
  }

  /** Takes no notice of what the loop was wanted for so far. */
  #forgetLoop(): void {
    if (this.#watch === null) return;
    this.#work.drain();
    this.#watch.clear();
  }

  /** Whether the event loop is wanted for something and does not know yet. */
  get #loopWaits(): boolean {
    return this.#watch?.fired === true && !this.#turns.asks;
  }

  #submit(): void {
    if (this.#work.prepared > 0) this.#work.enter(0);
  }

  #deliverDrained(): number {
    return this.#work.drain() > 0
      ? this.#work.deliver(this.#policy.burst())
      : 0;
  }

  /** Delivers what came while the loop turned; returns how many. */
  #deliverFound(): number {
    const { inFlight, submittedAt } = this.#work;
    const tookUs = (this.#clock() - submittedAt) * 1000;
    const found = this.#deliverDrained();
    if (found > 0) this.#policy.foundAtOnce(inFlight, tookUs);
    return found;
  }

  /** Polls, then sleeps in the kernel; delivers, and returns how many. */
  #wait(mostUs: number, inTurn: boolean): number {
    if (mostUs <= 0) return 0;
    const work = this.#work;
    const policy = this.#policy;
    const start = this.#clock();
    if (policy.polls) {
      // A few are worth more than what the loop has to do.
      const few = policy.isFew(work.inFlight);
      const until = start + Math.min(mostUs, policy.pollUs) / 1000;
      policy.polled(this.#poll(until, !few));
      mostUs -= (this.#clock() - start) * 1000;
    }
    if (mostUs > 0 && work.drained === 0 && !this.#loopWaits) {
      if (!policy.isSlow) this.#watch?.arm();
      this.#waitInKernel(mostUs);
    }
    const now = this.#clock();
    this.#runtime.budget.spend(inTurn, (now - start) * 1000, now);
    const tookUs = (now - work.submittedAt) * 1000;
    policy.waited(work.drained, tookUs);
    return work.drained > 0 ? work.deliver(policy.burst()) : 0;
  }

  #waitInKernel(mostUs: number): void {
    const state = this.#state;
    this.#state = "kernel";
    this.#work.enter(mostUs);
    // It may be stopped by now, as the queue broke.
    if (this.#state === "kernel") this.#state = state;
    this.#work.drain();
  }

  /** Drains until something came or the time has; returns whether it did. */
  #poll(until: number, endsForLoop: boolean): boolean {
    const work = this.#work;
    do {
      if (work.drain() > 0) return true;
      if (endsForLoop && this.#watch?.fired === true) return true;
    } while (this.#clock() < until);
    return false;
  }

  /** With nothing in flight: polls for the next request, from a socket. */
  #pollIdle(): void {
    const watch = this.#watch;
    const policy = this.#policy;
    if (watch === null || !policy.idlePolls()) return;
    const start = this.#clock();
    const pollUs = this.#runtime.budget.left(true, policy.pollUs, start);
    if (pollUs <= 0) return;
    this.#forgetLoop();
    watch.arm();
    this.#work.enter(0);
    const found = this.#poll(start + pollUs / 1000, true);
    const now = this.#clock();
    this.#runtime.budget.spend(true, (now - start) * 1000, now);
    policy.idlePolled(found);
    if (found) {
      const until = now + SETTLE_US / 1000;
      while (this.#clock() < until);
    }
    watch.clear();
  }
}
