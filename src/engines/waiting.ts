/**
 * Where an engine's thread waits, and why: one state, and one
 * {@linkcode Waiting.step} through which every event goes.
 *
 * | state   | where the thread waits, for what                          | ended by           |
 * | ------- | --------------------------------------------------------- | ------------------ |
 * | idle    | nowhere: nothing is in flight                             | kick               |
 * | turning | in the event loop, which takes one turn first             | turn, wake; kick   |
 * | kernel  | within a kick or a turn, asleep in a call, for completions | one; the loop wanted; the time is up |
 * | loop    | in the event loop, asleep until completions wake it       | wake, watchdog; kick |
 * | thread  | on another thread, 50 ms at a time                        | thread; kick       |
 * | stopped | nowhere: closed, or the queue broke                       | –                  |
 *
 * | event    | what it is                                                          |
 * | -------- | ------------------------------------------------------------------- |
 * | kick     | the backend handed operations over                                  |
 * | turn     | the event loop has been round, without asking about sockets         |
 * | wake     | a byte came through a socket pair, so that the loop asked about sockets first: ours (`LoopTurn`), or the kernel's at a completion, which ended the loop's sleep (`Notifier`) |
 * | thread   | the wait on another thread has ended; in any other state it comes too late, and nothing is done |
 * | watchdog | the loop has slept for a second or two: the kernel may have had no memory for the byte |
 *
 * The loop is **wanted** when its epoll, tokio's reactor, is readable and it does
 * not know yet, which a queue with a {@linkcode LoopWatch} sees: that of io_uring
 * alone. To **wait** is to poll the ring first, if the policy says so, and then to
 * sleep in the kernel. To poll is no state: it happens within a kick or a turn.
 *
 * A **kick** with nothing in flight changes nothing. Another one submits. A few
 * operations (`FEW`) that should be over within the time of this turn are waited for
 * at once; of more than a few, what is over is delivered, one burst. A **turn** (or
 * wake, thread, watchdog) submits, and delivers a burst of what is over, or else
 * waits. One that begins with nothing in flight polls for the next request, that
 * is, for the loop being wanted. The next state is the first that holds:
 *
 * | after a kick or a turn                                        | next    |
 * | ------------------------------------------------------------- | ------- |
 * | something is undelivered, or the kernel did not take all      | turning |
 * | nothing is in flight: the turn began so, or the loop sleeps   | idle    |
 * | nothing is in flight any more: whoever was answered may ask   | turning |
 * | the loop is wanted; or a kick finds it asleep                 | loop    |
 * | turn: the device is slow (`WaitPolicy`), and there is a watch | loop    |
 * | turn: the device is very slow                                 | thread  |
 * | else                                                          | turning |
 *
 * On Windows a thread cannot sleep for less than a few ms. So the queue waits on
 * another thread alone, after one miss; a kick in *thread* submits and changes
 * nothing, as that thread takes what is over.
 *
 * While the loop cannot be made to sleep, *loop* is *turning* instead, or
 * *thread* for a device that is very slow.
 *
 * No timer and no socket waits for a disk: between two turns of the loop, polls and
 * sleeps are at most `stallMs` long in kicks, and as long again in turns, shared by
 * the asynchronous engines of a thread (`StallBudget`), and end when the loop is
 * wanted; only polls for a few operations go on, as they are short.
 *
 * Completions are drained from the kernel first and delivered afterwards. A
 * callback may throw or kick: a kick within a step is served by that step, and
 * after a throw the next state is *turning*, so that the rest has its turn.
 *
 * @module
 */

import type { KernelQueue, LoopWatch } from "./kernel_queue.ts";
import type { Turns } from "./loop_turn.ts";
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

/** How often a loop that sleeps is looked at, in ms. */
const WATCHDOG_MS = 1000;

/** Where the thread waits. */
type State = "idle" | "turning" | "kernel" | "loop" | "thread" | "stopped";

/** What happened. */
export type WaitEvent = "kick" | "turn" | "wake" | "thread" | "watchdog";

/** What is waited for: the operations of an engine that have a slot. */
export interface Work {
  /** Operations that are not delivered yet. */
  readonly inFlight: number;
  /** Those of them that the kernel is to be given. */
  readonly prepared: number;
  /** Those of them that are over. */
  readonly drained: number;
  /** When operations were last submitted, in ms. */
  readonly submittedAt: number;
  /** Submits what was prepared; waits for a completion if the time is not 0. */
  enter(timeoutUs: number): void;
  /** Takes what is over out of the queue; returns {@linkcode drained}. */
  drain(): number;
  /** Answers so many at most; returns how many. May throw. */
  deliver(most: number): number;
}

/** Other ways to wait for them, which their queue may have. */
export type OtherWaits = Pick<
  KernelQueue<never>,
  "watchLoop" | "waitsElsewhere" | "waitOffThread" | "endOffThreadWait"
>;

/** What waiting has of the thread that it is in. */
export interface Runtime {
  /** The time, in ms. */
  readonly clock: () => number;
  /** What the disks of the thread share. */
  readonly budget: StallBudget;
  /** Makes turns of its event loop. */
  readonly makeTurns: (callback: (asked: boolean) => void) => Turns;
  /**
   * Calls back after so many ms; returns what takes that back.
   *
   * @param keepsAlive Whether the program goes on for it.
   */
  readonly later: (
    callback: () => void,
    ms: number,
    keepsAlive: boolean,
  ) => () => void;
}

/** Waits for the operations of one engine. */
export class Waiting {
  readonly #work: Work;
  readonly #queue: OtherWaits;
  readonly #policy: WaitPolicy;
  readonly #turns: Turns;
  readonly #runtime: Runtime;
  readonly #clock: () => number;
  readonly #stallUs: number;
  #state: State = "idle";
  #stepping = false;
  #watch: LoopWatch | null = null;
  /** Whether the loop is to be found when a first byte has come. */
  #mustFindLoop: boolean;
  /** Since when callers have waited in this turn, in ms; `null` for not yet. */
  #callersSince: number | null = null;
  /** The round of turns that its last turn was in. */
  #round = -1;
  #offThread: Promise<void> | null = null;
  /** Takes the watchdog back. */
  #watchdog: (() => void) | null = null;
  /** Whether the loop has slept since the watchdog looked. */
  #sleptOn = false;

  /**
   * Constructs a new instance.
   *
   * @param work What is waited for.
   * @param queue The queue that has it.
   * @param policy Decides by times and counts.
   * @param stallUs The longest that one wait may hold the event loop, in µs.
   * @param runtime What it has of its thread.
   */
  constructor(
    work: Work,
    queue: OtherWaits,
    policy: WaitPolicy,
    stallUs: number,
    runtime: Runtime,
  ) {
    this.#work = work;
    this.#queue = queue;
    this.#policy = policy;
    this.#stallUs = stallUs;
    this.#runtime = runtime;
    this.#clock = runtime.clock;
    this.#mustFindLoop = queue.watchLoop !== undefined;
    this.#turns = runtime.makeTurns((asked) =>
      this.step(asked ? "wake" : "turn")
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
        // What was to end the wait has done so.
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
    this.#queue.endOffThreadWait();
    await this.#offThread;
  }

  /** Gives everything back; the queue is closed by then. */
  close(): Promise<void> {
    return this.#turns.close();
  }

  #onKick(): State {
    const work = this.#work;
    const policy = this.#policy;
    const from = this.#state;
    if (work.inFlight === 0) return from;
    policy.asked();
    if (from === "thread" && this.#queue.waitsElsewhere) {
      this.#submit();
      return work.prepared > 0 || work.drained > 0 ? "turning" : "thread";
    }
    if (from === "idle" || from === "thread") {
      // In a turn that is not ours, what the loop was wanted for is being done.
      // The next turn is asked for first: it passes while the device works.
      this.#forgetLoop();
      this.#callersSince = null;
      this.#enterState("turning");
    }
    const now = this.#clock();
    this.#callersSince ??= now;
    const leftUs = this.#stallUs - (now - this.#callersSince) * 1000;
    if (policy.isFew(work.inFlight)) this.#waitForCaller(leftUs, now);
    else {
      if (from !== "loop") this.#watch?.arm();
      this.#submit();
      if (leftUs > 0) this.#deliver();
    }
    this.#submit();
    return this.#next("kick");
  }

  /** The caller of a few operations most likely waits for them. */
  #waitForCaller(leftUs: number, now: number): void {
    const shared = this.#runtime.budget.left(false, this.#stallUs, now);
    leftUs = Math.min(leftUs, shared);
    if (this.#policy.isExpected(leftUs) && !this.#loopIsWanted) {
      this.#wait(leftUs, false);
    }
  }

  #onTurn(event: WaitEvent): State {
    const work = this.#work;
    const policy = this.#policy;
    this.#round = this.#runtime.budget.begin(this.#round);
    if (event === "wake") {
      if (this.#mustFindLoop) this.#findLoop();
      // What the loop was wanted for is being done.
      this.#forgetLoop();
    }
    if (work.inFlight === 0) {
      this.#pollIdle();
      return "idle";
    }
    this.#submit();
    const found = this.#deliverWhatCame();
    if (found > 0) policy.turned(found);
    else this.#waitInTurn();
    this.#callersSince = this.#clock();
    this.#submit();
    return this.#next(event);
  }

  /** Where the thread waits after a kick or a turn that had something to do. */
  #next(event: WaitEvent): State {
    const work = this.#work;
    const policy = this.#policy;
    // A turn begins awake.
    const sleeps = this.#state === "loop";
    if (work.prepared > 0 || work.drained > 0) return "turning";
    // One more turn, as the callers may ask for more.
    if (work.inFlight === 0) return sleeps ? "idle" : "turning";
    if (sleeps || this.#loopIsWanted) return "loop";
    if (event === "kick") return "turning";
    if (policy.isSlow && this.#watch !== null) return "loop";
    return policy.isVerySlow ? "thread" : "turning";
  }

  #waitInTurn(): void {
    const { budget } = this.#runtime;
    const leftUs = budget.left(true, this.#stallUs, this.#clock());
    // That others have used the time up is no fault of this device.
    if (leftUs <= 0) return;
    const found = this.#wait(leftUs, true);
    if (found > 0 || !this.#loopIsWanted) this.#policy.turned(found);
  }

  #enterState(next: State): void {
    if (this.#state === "stopped") return;
    if (next === "loop" && this.#state !== "loop" && !this.#park()) {
      next = this.#policy.isVerySlow ? "thread" : "turning";
    }
    if (next !== "loop") this.#turns.unpark();
    if (next === "turning") {
      // A loop that is wanted is asked about sockets soon.
      this.#turns.request(this.#watch !== null && !this.#watch.fired);
    }
    if (next === "thread") this.#waitOffThread();
    this.#state = next;
  }

  /** Lets the loop sleep until completions wake it; tells whether it does. */
  #park(): boolean {
    const watch = this.#watch;
    if (watch === null || !this.#turns.canPark) return false;
    if (!watch.notify()) {
      this.#watch = null;
      return false;
    }
    this.#turns.park();
    watch.clear();
    // The first caller after it wakes begins a turn.
    this.#callersSince = null;
    this.#sleptOn = false;
    if (this.#watchdog === null) this.#watchdogLater();
    return true;
  }

  #watchdogLater(): void {
    this.#watchdog = this.#runtime.later(
      () => {
        this.#watchdog = null;
        if (this.#state !== "loop") return;
        if (this.#sleptOn) this.step("watchdog");
        else {
          this.#sleptOn = true;
          this.#watchdogLater();
        }
      },
      WATCHDOG_MS,
      false,
    );
  }

  #waitOffThread(): void {
    this.#offThread ??= this.#queue.waitOffThread(THREAD_MS).catch(
      // No other thread is to be had, as FFI was given up meanwhile, or there
      // is no memory left: a timer takes its place.
      () =>
        new Promise<void>((resolve) => {
          this.#runtime.later(resolve, TIMER_MS, true);
        }),
    ).then(() => {
      this.#offThread = null;
      this.step("thread");
    });
  }

  #findLoop(): void {
    this.#mustFindLoop = false;
    const loop = this.#turns.findLoop();
    if (loop === null) return;
    this.#watch = this.#queue.watchLoop!(loop.fd, loop.pair);
  }

  /** Forgets what the loop was wanted for so far. */
  #forgetLoop(): void {
    if (this.#watch === null) return;
    this.#work.drain();
    this.#watch.clear();
  }

  /** Whether the event loop is wanted for something and does not know yet. */
  get #loopIsWanted(): boolean {
    return this.#watch?.fired === true && !this.#turns.asks;
  }

  #submit(): void {
    if (this.#work.prepared > 0) this.#work.enter(0);
  }

  /** Delivers a burst of what is over; returns how many. */
  #deliver(): number {
    return this.#work.drain() > 0
      ? this.#work.deliver(this.#policy.burst())
      : 0;
  }

  /** The same, of what came while the loop turned. */
  #deliverWhatCame(): number {
    const work = this.#work;
    if (work.drain() === 0) return 0;
    const tookUs = (this.#clock() - work.submittedAt) * 1000;
    this.#policy.foundAtOnce(work.inFlight, tookUs);
    return work.deliver(this.#policy.burst());
  }

  /** Polls, then sleeps in the kernel; delivers a burst, returns how many. */
  #wait(mostUs: number, inTurn: boolean): number {
    const work = this.#work;
    const policy = this.#policy;
    const start = this.#clock();
    // A slow device is waited for by the loop: no watch has to end our wait.
    if (this.#state !== "loop" && !policy.isSlow) this.#watch?.arm();
    // What another thread takes is not found here.
    const isTaken = this.#queue.waitsElsewhere && this.#offThread !== null;
    if (policy.polls && !isTaken) {
      // One call submits and sleeps; only a poll needs one before.
      this.#submit();
      const few = policy.isFew(work.inFlight);
      // From here on, as the driver takes some 20 µs of the submission: with
      // those counted, writes one by one on a virtio disk are 10 % slower.
      const pollUntil = this.#clock() + policy.pollUs / 1000;
      const until = Math.min(pollUntil, start + mostUs / 1000);
      policy.polled(this.#poll(until, !few));
      mostUs -= (this.#clock() - start) * 1000;
    }
    if (mostUs > 0 && work.drained === 0 && !this.#loopIsWanted) {
      this.#sleepInKernel(mostUs);
    }
    const now = this.#clock();
    this.#runtime.budget.spend(inTurn, (now - start) * 1000, now);
    policy.waited(work.drain(), (now - work.submittedAt) * 1000);
    return work.drained > 0 ? work.deliver(policy.burst()) : 0;
  }

  #sleepInKernel(mostUs: number): void {
    const state = this.#state;
    this.#state = "kernel";
    this.#work.enter(mostUs);
    // It may be stopped by now, as the queue broke.
    if (this.#state === "kernel") this.#state = state;
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
    if (watch === null || !policy.takeIdlePoll()) return;
    const { budget } = this.#runtime;
    const start = this.#clock();
    const leftUs = budget.left(true, this.#stallUs, start);
    if (leftUs <= 0) return;
    this.#forgetLoop();
    watch.arm();
    this.#work.enter(0);
    const pollUs = Math.min(leftUs, policy.pollUs);
    const found = this.#poll(start + pollUs / 1000, true);
    const now = this.#clock();
    budget.spend(true, (now - start) * 1000, now);
    policy.idlePolled(found);
    if (found) {
      const until = now + SETTLE_US / 1000;
      while (this.#clock() < until);
    }
    watch.clear();
  }
}
