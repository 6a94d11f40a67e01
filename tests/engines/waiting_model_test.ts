/**
 * Drives the waiting of an engine through every order of events up to a bound,
 * over a kernel and an event loop that are models: requests, completions, a loop
 * that is wanted elsewhere, turns, bytes, threads, timers, callbacks that throw or
 * ask for more, a kernel that takes nothing, a byte that is lost, an end.
 *
 * After each event: nothing is in flight without a wake-up that will come, no
 * wait is longer than allowed, and nothing is answered twice. From each state
 * that is reached: everything is answered in a few turns once the kernel is done
 * with it, and then nothing runs any more.
 *
 * @module
 */

import { assert, assertEquals, assertFalse } from "@std/assert";
import { setImmediate } from "node:timers";
import { openLibc } from "../../ffi/libc.ts";
import { PosixHost } from "../../src/engines/posix_host.ts";
import { AsyncEngine } from "../../src/engines/async_engine.ts";
import { Operation, OperationCode } from "../../src/engines/engine.ts";
import {
  type KernelQueue,
  type LoopWatch,
  NOT_TAKEN,
  type Visit,
} from "../../src/engines/kernel_queue.ts";
import type { LoopDescriptor, Turns } from "../../src/engines/loop_turn.ts";
import { StallBudget } from "../../src/engines/stall_budget.ts";
import type { Runtime } from "../../src/engines/waiting.ts";
import { LONG } from "../helpers.ts";

const STALL_US = 200;

/** Turns in which everything that is over must be answered. */
const FEW_TURNS = 20;

/** What a callback threw; nothing else may come out of an engine. */
class Thrown extends Error {}

/** A thread: a clock, an event loop and its timers. */
class ModelThread implements Runtime, Turns {
  #nowMs = 1;
  #callback: (asked: boolean) => void = () => {};
  readonly budget = new StallBudget();
  /** With whether the program goes on for each. */
  readonly timers = new Map<() => void, boolean>();
  pending: "none" | "immediate" | "byte" | "parked" = "none";
  /** Every other turn, as in {@linkcode LoopTurn} by time. */
  #byBytes = 0;
  #immediates = 0;
  readonly systemCalls = 0;
  stopped = false;

  get now(): number {
    return this.#nowMs;
  }

  /** Each look at the clock takes some time, or polls would never end. */
  readonly clock = (): number => this.#nowMs += 0.01;

  readonly makeTurns = (callback: (asked: boolean) => void): Turns => {
    this.#callback = callback;
    return this;
  };

  readonly later = (
    callback: () => void,
    _ms: number,
    keepsAlive: boolean,
  ): () => void => {
    this.timers.set(callback, keepsAlive);
    return () => this.timers.delete(callback);
  };

  pass(us: number): void {
    this.#nowMs += us / 1000;
  }

  get asks(): boolean {
    return this.pending === "byte" || this.pending === "parked";
  }

  request(): void {
    assert(!this.stopped, "asked for a turn after the end");
    if (this.pending !== "none") return;
    this.pending = this.canPark && this.#byBytes++ % 2 === 0
      ? "byte"
      : "immediate";
  }

  get canPark(): boolean {
    return this.#immediates >= 1;
  }

  park(): void {
    assert(this.canPark);
    this.pending = "parked";
  }

  unpark(): void {
    if (this.pending === "parked") this.pending = "none";
  }

  findLoop(): LoopDescriptor {
    // Nothing looks at these here.
    return { fd: 3, pair: undefined! };
  }

  stop(): void {
    this.pending = "none";
    this.stopped = true;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** A byte arrives. */
  receive(): void {
    this.#immediates = 0;
    if (!this.asks) return;
    this.pending = "none";
    this.#callback(true);
  }

  /** The turn that is pending comes. */
  turn(): void {
    if (this.pending === "byte") return this.receive();
    assert(this.pending === "immediate");
    this.pending = "none";
    this.#immediates++;
    this.#callback(false);
  }
}

/** A kernel that is done with operations when it is told to be. */
class ModelKernel implements KernelQueue<Operation> {
  /** Why it broke. */
  broken: string | null = null;
  /** Whether the next operation is none of its own. */
  refusesNext = false;
  readonly lost = 0;
  readonly systemCalls = 0;
  readonly inKernel: number[] = [];
  readonly #prepared: number[] = [];
  readonly #done: number[] = [];
  /** Calls in which it takes nothing. */
  refusals = 0;
  /** Whether the event loop has something to do. */
  wanted = false;
  #armed = false;
  #fired = false;
  /** Whether the next completion sends a byte. */
  notifies = false;
  /** Whether that byte gets lost. */
  losesByte = false;
  /** Whether the last one did. */
  hasLostByte = false;
  /** Whether it can be asked to send one. */
  canNotify = true;
  endOffThread: (() => void) | null = null;
  /** Whether there is no other thread. */
  threadless = false;
  watchLoop?: () => LoopWatch;
  readonly waitsElsewhere: boolean;
  /** What another thread has taken, and not handed over yet. */
  readonly #taken: number[] = [];

  constructor(
    readonly thread: ModelThread,
    kind: Kind,
    readonly depth: number,
  ) {
    this.waitsElsewhere = kind === "elsewhere";
    if (kind !== "watches") return;
    const isFired = () => this.#fired;
    this.watchLoop = () => ({
      arm: () => this.#armed = true,
      get fired() {
        return isFired();
      },
      clear: () => this.#fired = false,
      notify: () => {
        if (!this.canNotify) return false;
        this.notifies = true;
        if (this.#done.length > 0) this.#notify();
        return true;
      },
    });
  }

  prepare(_operation: Operation, slot: number): boolean {
    if (this.refusesNext) {
      this.refusesNext = false;
      return false;
    }
    this.#prepared.push(slot);
    return true;
  }

  enter(completions: number, timeoutUs: number): number {
    assert(timeoutUs <= STALL_US, `waits for ${timeoutUs} µs`);
    if (this.broken !== null) this.#takeBack();
    else if (this.refusals > 0) this.refusals--;
    else this.inKernel.push(...this.#prepared.splice(0));
    const sees = this.#armed && this.wanted || this.waitsElsewhere;
    if (completions > 0 && this.#done.length === 0 && !sees) {
      this.thread.pass(timeoutUs);
    }
    return this.#prepared.length;
  }

  drain(visit: Visit): number {
    if (this.#armed && this.wanted) {
      this.#armed = false;
      this.#fired = true;
    }
    const { length } = this.#done;
    for (const slot of this.#done.splice(0)) visit(slot, 0);
    for (const slot of this.#left.splice(0)) visit(slot, NOT_TAKEN);
    return length;
  }

  readonly #left: number[] = [];

  #takeBack(): void {
    this.#left.push(...this.#prepared.splice(0));
  }

  /** It cannot be entered any more, as the engine finds when it does so. */
  break(reason: string): void {
    this.broken = reason;
    this.#takeBack();
  }

  /** Operations that it has, also those that it is done with. */
  get has(): number {
    return this.inKernel.length + this.#done.length + this.#taken.length;
  }

  /** It is done with its first operation. */
  complete(): void {
    const isTaken = this.waitsElsewhere && this.endOffThread !== null;
    (isTaken ? this.#taken : this.#done).push(this.inKernel.shift()!);
    if (this.notifies) this.#notify();
    this.endOffThread?.();
  }

  #byteSent = false;

  #notify(): void {
    this.notifies = false;
    this.hasLostByte = this.losesByte;
    this.#byteSent = !this.losesByte;
    this.losesByte = false;
  }

  /** Whether a byte is in flight; what asks has it delivered. */
  takeByte(): boolean {
    const sent = this.#byteSent;
    this.#byteSent = false;
    return sent;
  }

  get byteSent(): boolean {
    return this.#byteSent;
  }

  waitOffThread(): Promise<void> {
    if (this.threadless) return Promise.reject(new Error("no thread"));
    return new Promise<void>((resolve) => {
      this.endOffThread = () => {
        this.endOffThread = null;
        resolve();
      };
    }).then(() => {
      this.#done.push(...this.#taken.splice(0));
    });
  }

  endOffThreadWait(): void {
    this.endOffThread?.();
  }

  close(): void {}
}

/** What may happen. */
const EVENTS = [
  "one more",
  "three more",
  "completion",
  "turn",
  "byte",
  "wanted",
  "timer",
  "thread",
  "no thread",
  "throw",
  "ask again",
  "refuse",
  "unknown",
  "break",
  "lose byte",
  "no notifier",
  "close",
] as const;
type ModelEvent = typeof EVENTS[number];

/**
 * A ring that watches the loop, a queue that cannot, or one that waits on another
 * thread alone.
 */
type Kind = "watches" | "cannot" | "elsewhere";

/** How an engine is set up. */
interface Variant {
  readonly pollMs: number;
  readonly depth: number;
}

const VARIANTS: Variant[] = [
  { pollMs: 0.1, depth: 4 },
  { pollMs: 0, depth: 4 },
  { pollMs: 0.1, depth: 1 },
  // Longer than a wait may be.
  { pollMs: 1000, depth: 2 },
];

/** An engine over such a kernel, in such a thread. */
class Model {
  readonly thread = new ModelThread();
  readonly kernel: ModelKernel;
  readonly engine: AsyncEngine<Operation>;
  readonly #unanswered = new Set<Operation>();
  #throws = false;
  /** Callbacks that ask for more. */
  #asksAgain = 0;
  #closed = false;

  constructor(kind: Kind, { pollMs, depth }: Variant) {
    this.kernel = new ModelKernel(this.thread, kind, depth);
    this.engine = new AsyncEngine<Operation>(
      new PosixHost(openLibc()),
      this.kernel,
      (operation) => {
        assert(this.#unanswered.delete(operation), "answered twice");
        if (this.#asksAgain > 0) {
          this.#asksAgain--;
          this.#ask(1);
        }
        if (this.#throws) {
          this.#throws = false;
          throw new Thrown();
        }
      },
      {
        info: { name: "model", reason: null },
        stallMs: STALL_US / 1000,
        pollMs,
        runtime: this.thread,
      },
    );
  }

  #ask(count: number): void {
    for (let i = 0; i < count; i++) {
      const operation = new Operation();
      operation.code = OperationCode.Read;
      this.#unanswered.add(operation);
      this.engine.push(operation);
    }
    this.engine.kick();
  }

  async #happen(event: ModelEvent): Promise<boolean> {
    const { thread, kernel } = this;
    switch (event) {
      case "one more":
        this.#ask(1);
        break;
      case "three more":
        this.#ask(3);
        break;
      case "completion":
        if (kernel.inKernel.length === 0) return false;
        kernel.complete();
        break;
      case "turn":
        if (thread.pending === "none" || thread.pending === "parked") {
          return false;
        }
        thread.turn();
        break;
      case "byte":
        if (!kernel.takeByte()) return false;
        thread.receive();
        break;
      case "wanted":
        kernel.wanted = !kernel.wanted;
        break;
      case "timer": {
        const [timer] = thread.timers.keys();
        if (timer === undefined) return false;
        thread.timers.delete(timer);
        timer();
        break;
      }
      case "thread":
        if (kernel.endOffThread === null) return false;
        kernel.endOffThread();
        break;
      case "no thread":
        if (kernel.threadless) return false;
        kernel.threadless = true;
        break;
      case "throw":
        if (this.#throws) return false;
        this.#throws = true;
        break;
      case "ask again":
        if (this.#asksAgain > 0) return false;
        this.#asksAgain = 3;
        break;
      case "refuse":
        if (kernel.refusals > 0) return false;
        kernel.refusals = 2;
        break;
      case "unknown":
        if (kernel.refusesNext) return false;
        kernel.refusesNext = true;
        break;
      case "break":
        if (kernel.broken !== null) return false;
        kernel.break("it said so");
        break;
      case "lose byte":
        if (kernel.losesByte) return false;
        kernel.losesByte = true;
        break;
      case "no notifier":
        if (!kernel.canNotify) return false;
        kernel.canNotify = false;
        break;
      case "close":
        // Only what has nothing in flight is closed.
        if (this.#unanswered.size > 0) return false;
        this.#closed = true;
        await this.engine.close();
    }
    return true;
  }

  /** Has something happen; tells whether it could. */
  async happen(event: ModelEvent): Promise<boolean> {
    if (this.#closed) return false;
    const start = this.thread.now;
    try {
      return await this.#happen(event);
    } catch (error) {
      if (!(error instanceof Thrown)) throw error;
      return true;
    } finally {
      const us = (this.thread.now - start) * 1000;
      assert(us <= STALL_US * 1.5, `holds the loop for ${us} µs`);
      if (event === "thread" || event === "timer" || event === "completion") {
        // Promises of the engine's pass it on.
        for (let i = 0; i < 6; i++) await null;
      }
    }
  }

  /** Whether something will come that looks at what is in flight. */
  get #wakes(): boolean {
    const { thread, kernel } = this;
    if (thread.pending === "immediate" || thread.pending === "byte") {
      return true;
    }
    // What a broken queue has is looked for by a timer, and by nothing else.
    if (this.engine.info.name === "sync") {
      return [...thread.timers.values()].includes(true) || this.#performs;
    }
    // Only what the kernel has, or is done with, wakes anybody.
    if (this.engine.inFlight > kernel.has) return false;
    return thread.pending === "parked"
      // A byte that was lost is made up for by a timer.
      ? thread.timers.size > 0 &&
        (kernel.byteSent || kernel.notifies || kernel.hasLostByte)
      : kernel.endOffThread !== null || thread.timers.size > 0;
  }

  get #timersMatter(): boolean {
    return this.#unanswered.size > 0 ||
      [...this.thread.timers.values()].includes(true);
  }

  /** Whether all that is left is carried out by blocking calls. */
  get #performs(): boolean {
    return this.engine.inFlight === 0;
  }

  /** Checks the state that was reached. */
  check(): void {
    if (this.#closed) {
      assertEquals(this.thread.timers.size, 0, "a timer is left");
      assertEquals(this.thread.pending, "none");
    } else if (this.#unanswered.size > 0) {
      assert(this.#wakes, "sleeps for ever");
    }
  }

  /** Lets the kernel and the loop go on until all is over. */
  async finish(): Promise<void> {
    this.kernel.wanted = false;
    for (let i = 0; i < FEW_TURNS && !this.#closed; i++) {
      while (await this.happen("completion"));
      const moved = await this.happen("byte") || await this.happen("turn") ||
        await this.happen("thread") ||
        this.#timersMatter && await this.happen("timer");
      if (!moved) break;
    }
    // Blocking calls have real turns of the loop.
    while (this.#unanswered.size > 0 && this.engine.info.name === "sync") {
      await new Promise((resolve) => setImmediate(resolve));
    }
    assertEquals(this.#unanswered.size, 0, "not answered");
    assertEquals(this.thread.pending, "none", "runs while idle");
    const timers = [...this.thread.timers.values()];
    assertFalse(timers.includes(true), "a timer runs while idle");
    assertEquals(this.kernel.endOffThread, null, "a thread waits while idle");
    if (!this.#closed) await this.happen("close");
    this.check();
  }
}

/** Ways into states that are far from the first one. */
const BEGINNINGS: [name: string, ModelEvent[]][] = [
  ["at first", []],
  // Turns until a byte has come, and the loop is found.
  ["with a loop", ["one more", "turn", "turn", "turn", "turn", "turn"]],
  ["slow", ["one more", ...new Array(8).fill("turn")]],
  ["very slow", ["one more", ...new Array(80).fill("turn")]],
  ["full", ["three more", "three more", "three more", "turn", "turn", "turn"]],
];

// What a callback throws in a turn of its own, of a promise's or of the loop's.
globalThis.addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof Thrown) event.preventDefault();
});
globalThis.addEventListener("error", (event) => {
  if (event.error instanceof Thrown) event.preventDefault();
});

/** Runs one order of events; tells whether all of them could happen. */
async function run(
  events: readonly ModelEvent[],
  kind: Kind,
  variant: Variant,
  beginning: readonly ModelEvent[],
): Promise<boolean> {
  const model = new Model(kind, variant);
  try {
    for (const event of beginning) {
      await model.happen(event);
      model.check();
    }
    for (const event of events) {
      if (!await model.happen(event)) return false;
      model.check();
    }
    await model.finish();
    return true;
  } catch (error) {
    throw new Error(
      `${JSON.stringify(variant)}, after ${events.join(", ")}`,
      { cause: error },
    );
  }
}

for (
  const [kind, what] of [
    ["watches", "a ring that watches the loop"],
    ["cannot", "a queue that cannot"],
    ["elsewhere", "a queue that waits elsewhere"],
  ] as const
) {
  for (const [name, beginning] of BEGINNINGS) {
    Deno.test(`AsyncEngine never sleeps for ever, nor runs while idle: ${what}, ${name}`, async () => {
      const depth = LONG ? 5 : 3;
      let count = 0;
      let orders: ModelEvent[][] = [[]];
      for (let length = 0; length <= depth; length++) {
        const longer: ModelEvent[][] = [];
        for (const events of orders) {
          let could = true;
          for (const variant of VARIANTS) {
            could &&= await run(events, kind, variant, beginning);
          }
          // What could not happen ends all orders that begin like it.
          if (!could) continue;
          count++;
          for (const event of EVENTS) longer.push([...events, event]);
        }
        orders = longer;
      }
      assert(count > 500, `${count} orders`);
    });
  }
}
