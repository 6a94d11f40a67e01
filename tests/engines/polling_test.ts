/**
 * When the asynchronous engine looks at its ring, and when it sleeps, over a
 * queue whose kernel is a clock: one of its own, which stands still while the
 * processor is somewhere else, but for tests of what real time does.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { setImmediate } from "node:timers";
import { openLibc } from "../../ffi/libc.ts";
import { PosixHost } from "../../src/engines/posix_host.ts";
import type { SocketPair } from "../../ffi/socket_pair.ts";
import { AsyncEngine } from "../../src/engines/async_engine.ts";
import { Operation, OperationCode } from "../../src/engines/engine.ts";
import type {
  KernelQueue,
  LoopWatch,
  Visit,
} from "../../src/engines/kernel_queue.ts";
import { LoopTurn } from "../../src/engines/loop_turn.ts";
import { StallBudget } from "../../src/engines/stall_budget.ts";
import type { Runtime } from "../../src/engines/waiting.ts";
import { pause } from "../backends/direct/harness.ts";

/** What is watched is Linux's. */
const ignore = Deno.build.os !== "linux";

/** A kernel that answers each operation a fixed time after it was handed over. */
class Clockwork implements KernelQueue<Operation> {
  readonly depth = 64;
  readonly broken = null;
  readonly lost = 0;
  systemCalls = 0;
  /** Waits that slept. */
  sleeps = 0;
  /** Looks at the ring. */
  looks = 0;
  /** Times that it was entered with nothing to do, as a poll while idle begins. */
  idlePolls = 0;
  /** Waits on another thread. */
  offThread = 0;
  #filled: number[] = [];
  #inFlight: { slot: number; at: number }[] = [];

  /** What it takes to submit, in ms. */
  submitMs = 0;
  #now = 1;

  constructor(public takesMs: number, readonly isReal = false) {}

  /** The time in ms. To look at it takes some. */
  readonly clock = (): number =>
    this.isReal ? performance.now() : this.#now += 0.0002;

  /** Time passes. */
  elapse(ms: number): void {
    this.#now += ms;
  }

  /** Whether nothing is in flight. */
  get idle(): boolean {
    return this.#inFlight.length === 0;
  }

  get #due(): boolean {
    const first = this.#inFlight[0];
    return first !== undefined &&
      first.at <= (this.isReal ? performance.now() : this.#now);
  }

  prepare(_operation: Operation, slot: number): boolean {
    this.#filled.push(slot);
    return true;
  }

  /** Answers everything that is in flight. */
  answerNow(): void {
    for (const one of this.#inFlight) one.at = 0;
  }

  enter(completions: number, timeoutUs: number): number {
    const now = this.clock();
    if (this.idle && this.#filled.length === 0) this.idlePolls++;
    if (this.#filled.length > 0) this.elapse(this.submitMs);
    for (const slot of this.#filled.splice(0)) {
      this.#inFlight.push({ slot, at: now + this.takesMs });
    }
    if (completions > 0) {
      this.sleeps++;
      const until = now + timeoutUs / 1000;
      const first = this.#inFlight[0]?.at ?? until;
      if (!this.isReal) this.#now = Math.max(now, Math.min(first, until));
      else while (!this.#due && performance.now() < until);
    }
    return 0;
  }

  drain(visit: Visit): number {
    this.looks++;
    this.#now += 0.0002;
    let found = 0;
    while (this.#due) {
      found++;
      visit(this.#inFlight.shift()!.slot, 0);
    }
    return found;
  }

  waitOffThread(): Promise<void> {
    this.offThread++;
    return new Promise((resolve) => setTimeout(resolve, 1));
  }

  endOffThreadWait(): void {}
  close(): void {}
}

/** Such a kernel that can watch the event loop, and wake it. */
class Watchful extends Clockwork {
  /** Whether the loop has something to do, as the kernel says. */
  fired = false;
  /** Descriptors that were watched. */
  readonly watched = new Set<number>();
  /** Times that the loop was to be woken by a completion. */
  notifications = 0;
  /** Whether the loop is wanted whenever nothing is in flight. */
  wanted = false;

  override drain(visit: Visit): number {
    if (this.wanted && this.idle) this.fired = true;
    return super.drain(visit);
  }

  watchLoop(fd: number, pair: SocketPair): LoopWatch {
    const isFired = () => this.fired;
    return {
      arm: () => this.watched.add(fd),
      get fired() {
        return isFired();
      },
      clear: () => this.fired = false,
      notify: () => {
        this.notifications++;
        setTimeout(() => {
          this.elapse(this.takesMs);
          pair.send();
        }, this.takesMs);
        return true;
      },
    };
  }
}

/** This thread, but for its clock. */
function runtimeOf(queue: Clockwork): Runtime {
  return {
    clock: queue.clock,
    budget: new StallBudget(),
    makeTurns: (callback) => new LoopTurn(openLibc(), callback),
    later: (callback, ms) => {
      const timer = setTimeout(callback, ms);
      return () => clearTimeout(timer);
    },
  };
}

/** An engine over such a kernel, and a way to await one operation. */
function engineOver(
  queue: Clockwork,
  pollMs: number,
  stallMs = 5,
): {
  one(durable?: boolean): Promise<void>;
  /** How many were answered at once, one time after the other. */
  readonly bursts: number[];
} & AsyncDisposable {
  const bursts: number[] = [];
  let inBurst = false;
  const waiting = new Map<Operation, () => void>();
  const engine = new AsyncEngine<Operation>(
    new PosixHost(openLibc()),
    queue,
    (operation) => {
      if (!inBurst) {
        inBurst = true;
        bursts.push(0);
        queueMicrotask(() => inBurst = false);
      }
      bursts.push(bursts.pop()! + 1);
      waiting.get(operation)!();
      waiting.delete(operation);
    },
    {
      info: { name: "clockwork", reason: null },
      stallMs,
      pollMs,
      ...(queue.isReal ? {} : { runtime: runtimeOf(queue) }),
    },
  );
  return {
    bursts,
    one(durable = false) {
      const operation = new Operation();
      operation.code = OperationCode.Write;
      operation.durable = durable;
      const { promise, resolve } = Promise.withResolvers<void>();
      waiting.set(operation, resolve);
      engine.push(operation);
      inBurst = false;
      engine.kick();
      return promise;
    },
    [Symbol.asyncDispose]: () => engine.close(),
  };
}

Deno.test("AsyncEngine polls for answers that come within pollMs", async () => {
  const queue = new Clockwork(0.5);
  await using engine = engineOver(queue, 2);
  for (let i = 0; i < 20; i++) await engine.one();
  queue.sleeps = 0;
  for (let i = 0; i < 20; i++) await engine.one();
  assert(queue.sleeps < 10, `slept ${queue.sleeps} times of 20`);
  assert(queue.looks > 20);
});

Deno.test("AsyncEngine polls for as long after a slow submission", async () => {
  const queue = new Clockwork(0.7);
  queue.submitMs = 0.4;
  await using engine = engineOver(queue, 0.5);
  for (let i = 0; i < 20; i++) await engine.one();
  queue.sleeps = 0;
  for (let i = 0; i < 20; i++) await engine.one();
  // 0.3 ms after each submission.
  assert(queue.sleeps < 10, `slept ${queue.sleeps} times of 20`);
});

Deno.test("AsyncEngine sleeps with pollMs 0", async () => {
  const queue = new Clockwork(0.5);
  await using engine = engineOver(queue, 0);
  for (let i = 0; i < 40; i++) await engine.one();
  // Now and then an answer comes while the event loop turns.
  assert(queue.sleeps > 20, `slept ${queue.sleeps} times of 40`);
  // One look after each sleep, and one in the turn.
  assert(queue.looks <= 80, `looked ${queue.looks} times`);
});

Deno.test("AsyncEngine sleeps for answers that take long", async () => {
  const queue = new Clockwork(2);
  await using engine = engineOver(queue, 0.1);
  // It has to learn first that they do.
  for (let i = 0; i < 20; i++) await engine.one();
  queue.sleeps = 0;
  queue.looks = 0;
  for (let i = 0; i < 20; i++) await engine.one();
  assert(queue.sleeps > 10, `slept ${queue.sleeps} times of 20`);
  assert(queue.looks <= queue.sleeps * 2, `looked ${queue.looks} times`);
});

Deno.test("AsyncEngine does not poll around durable writes", async () => {
  const queue = new Clockwork(0.5);
  await using engine = engineOver(queue, 2);
  for (let i = 0; i < 20; i++) await engine.one();
  queue.sleeps = 0;
  for (let i = 0; i < 20; i++) await engine.one(true);
  assert(queue.sleeps > 10, `slept ${queue.sleeps} times of 20`);
});

Deno.test("AsyncEngine answers a burst one by one at first", async () => {
  const queue = new Clockwork(0.5);
  await using engine = engineOver(queue, 0);
  const all = Array.from({ length: 64 }, () => engine.one());
  queue.answerNow();
  await Promise.all(all);
  // Nobody asked for more: those that are left come faster and faster.
  assertEquals(engine.bursts[0], 1);
  assert(Math.max(...engine.bursts) >= 8, `${engine.bursts}`);
});

Deno.test("AsyncEngine serves callbacks that ask for more one after the other, and not inside of each other", async () => {
  const queue = new Clockwork(0);
  const { promise: over, resolve } = Promise.withResolvers<void>();
  let [answers, depth] = [0, 0];
  const engine = new AsyncEngine<Operation>(
    new PosixHost(openLibc()),
    queue,
    (operation) => {
      assertEquals(depth++, 0);
      if (++answers === 20_000) resolve();
      else {
        engine.push(operation);
        engine.kick();
      }
      depth--;
    },
    { info: { name: "clockwork", reason: null }, stallMs: 5, pollMs: 0 },
  );
  engine.push(new Operation());
  engine.kick();
  await over;
  await engine.close();
});

Deno.test("AsyncEngine backs off from polls that miss", async () => {
  // Slept for, or polled for and missed: never within the time for polling.
  const queue = new Clockwork(0.7);
  await using engine = engineOver(queue, 0.4);
  for (let i = 0; i < 20; i++) await engine.one();
  const { sleeps } = queue;
  let polled = 0;
  for (let i = 0; i < 60; i++) {
    queue.looks = 0;
    await engine.one();
    if (queue.looks > 32) polled++;
  }
  assert(queue.sleeps - sleeps > 30, `slept ${queue.sleeps - sleeps} of 60`);
  // Less and less often.
  assert(polled < 12, `polled ${polled} of 60`);
});

Deno.test("AsyncEngine does not end a back-off for a durable write", async () => {
  const queue = new Clockwork(0.7);
  await using engine = engineOver(queue, 0.4);
  for (let i = 0; i < 150; i++) await engine.one();
  let polled = 0;
  for (let i = 0; i < 60; i++) {
    queue.looks = 0;
    await engine.one(i % 6 === 0);
    if (queue.looks > 32) polled++;
  }
  assert(polled < 5, `polled ${polled} of 60`);
});

Deno.test("AsyncEngine goes on polling after one late answer", async () => {
  const queue = new Clockwork(0.2);
  await using engine = engineOver(queue, 2);
  let slept = 0;
  for (let i = 0; i < 20; i++) {
    for (const takesMs of [0.2, 0.2, 0.2, 3, 0.2]) {
      queue.takesMs = takesMs;
      queue.sleeps = 0;
      await engine.one();
      if (takesMs < 1) slept += queue.sleeps;
    }
  }
  assert(slept < 20, `slept for ${slept} of 80 that were in time`);
});

Deno.test("AsyncEngine waits on another thread for a slow device", async () => {
  const queue = new Clockwork(1000);
  await using engine = engineOver(queue, 0, 0.1);
  const answer = engine.one();
  while (queue.offThread === 0) await pause(1);
  // The time of a turn may be spent by others.
  assert(queue.sleeps >= 60, `slept ${queue.sleeps} times before`);
  queue.answerNow();
  await answer;
});

Deno.test({
  name: "AsyncEngine lets the loop sleep for a slow device, if it can be told",
  ignore,
  fn: async () => {
    const queue = new Watchful(20);
    await using engine = engineOver(queue, 0, 0.1);
    for (let i = 0; i < 5; i++) await engine.one();
    assert(queue.notifications >= 5, `${queue.notifications}`);
    assert(queue.sleeps < 5 * 16, `slept ${queue.sleeps} times`);
    assertEquals(queue.offThread, 0);
  },
});

Deno.test({
  name: "AsyncEngine lets the loop sleep when it is wanted",
  ignore,
  fn: async () => {
    const queue = new Watchful(2);
    await using engine = engineOver(queue, 0);
    // Immediate turns and one by a byte, until it knows what to watch.
    while (queue.watched.size === 0) await engine.one();
    assertEquals(queue.watched.size, 1);
    const { notifications } = queue;
    for (let i = 0; i < 10; i++) {
      queue.fired = true;
      await engine.one();
    }
    assert(queue.notifications > notifications);
    assert(!queue.fired);
  },
});

Deno.test({
  name: "AsyncEngine looks for the next request, less often where none comes",
  ignore,
  fn: async () => {
    const queue = new Watchful(0.2);
    await using engine = engineOver(queue, 1);
    while (queue.watched.size === 0) await engine.one();
    /** In how many of some rounds it looked with nothing in flight. */
    const rounds = async (count: number) => {
      let looked = 0;
      for (let i = 0; i < count; i++) {
        queue.idlePolls = 0;
        await engine.one();
        await pause(1);
        if (queue.idlePolls > 0) looked++;
      }
      return looked;
    };
    const missed = await rounds(60);
    assert(missed > 0 && missed < 20, `looked in ${missed} rounds of 60`);
    queue.wanted = true;
    // Until it looks once more, and finds something.
    for (let i = 0; i < 200 && await rounds(1) === 0; i++);
    const found = await rounds(20);
    assert(found > 10, `looked in ${found} rounds of 20`);
  },
});

/** Such kernels that write down how long they were slept in. */
class Sleepy extends Clockwork {
  constructor(takesMs: number, readonly slept: (us: number) => void) {
    super(takesMs, true);
  }

  override enter(completions: number, timeoutUs: number): number {
    if (completions > 0) this.slept(timeoutUs);
    return super.enter(completions, timeoutUs);
  }
}

/** The turn that some disks held the loop in for too long, if they did. */
async function tooLong(disks: number): Promise<string> {
  const stallMs = 1;
  // What was slept since the loop was last round.
  let turnUs = 0;
  let start = performance.now();
  let worst = "";
  const all = Array.from({ length: disks }, () => {
    const queue = new Sleepy(30, (us) => {
      turnUs += us;
      // Those who ask are waited for, then comes the turn, and what is counted
      // here may straddle two; and with time some of it is forgotten.
      const elapsedUs = (performance.now() - start) * 1000;
      const mostUs = 3 * stallMs * 1000 + elapsedUs / 5;
      if (turnUs > mostUs) worst = `${turnUs} µs of ${elapsedUs}`;
    });
    return engineOver(queue, 0, stallMs);
  });
  const answers = Promise.all(all.map((engine) => engine.one()));
  let over = false;
  answers.finally(() => over = true);
  while (!over) {
    await new Promise((resolve) => setImmediate(resolve));
    turnUs = 0;
    start = performance.now();
  }
  for (const engine of all) await engine[Symbol.asyncDispose]();
  return worst;
}

for (const disks of [1, 10, 100]) {
  Deno.test(`AsyncEngine holds no turn of the loop for longer than one disk may, with ${disks}`, async () => {
    // A processor that is taken away in the midst of a turn spoils a try; disks
    // that do not share a turn spoil all of them.
    let worst = "";
    for (let tries = 0; tries < 10; tries++) {
      worst = await tooLong(disks);
      if (worst === "") return;
    }
    assertEquals(worst, "");
  });
}

/** Answers of a fast disk while slow ones have something to do. */
async function besideSlow(): Promise<number> {
  const slow = Array.from({ length: 20 }, () => new Clockwork(300, true));
  await using stack = new AsyncDisposableStack();
  const waiting = slow.map((queue) =>
    stack.use(engineOver(queue, 0, 0.2)).one()
  );
  const engine = stack.use(engineOver(new Clockwork(0.05, true), 0.1, 0.2));
  let answered = 0;
  let over = false;
  const all = Promise.all(waiting).finally(() => over = true);
  while (!over) {
    await engine.one();
    answered++;
    await new Promise((resolve) => setImmediate(resolve));
  }
  await all;
  return answered;
}

Deno.test("AsyncEngine waits for a fast disk beside slow ones", async () => {
  // A processor that is taken away for all that time spoils a try.
  let answered = 0;
  for (let tries = 0; tries < 10 && answered <= 5; tries++) {
    answered = await besideSlow();
  }
  assert(answered > 5, `${answered} answers`);
});
