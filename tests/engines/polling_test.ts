/**
 * When the asynchronous engine looks at its ring, and when it sleeps, over a
 * queue whose kernel is a clock.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { openLibc } from "../../ffi/libc.ts";
import {
  AsyncEngine,
  type KernelQueue,
} from "../../src/backends/direct/async_engine.ts";
import { Operation, OperationCode } from "../../src/backends/direct/engine.ts";

/** A kernel that answers each operation a fixed time after it was handed over. */
class Clockwork implements KernelQueue<Operation> {
  readonly depth = 64;
  /** Waits that slept. */
  sleeps = 0;
  /** Looks at the ring. */
  looks = 0;
  /** How many answers each call to `reap` was asked for at most. */
  readonly asked: number[] = [];
  #filled: number[] = [];
  #inFlight: { slot: number; at: number }[] = [];

  constructor(readonly takesMs: number) {}

  get ready(): boolean {
    this.looks++;
    return this.#due;
  }

  get #due(): boolean {
    const first = this.#inFlight[0];
    return first !== undefined && first.at <= performance.now();
  }

  fill(_operation: Operation, slot: number): boolean {
    this.#filled.push(slot);
    return true;
  }

  enter(completions: number, timeoutUs: number): number {
    const now = performance.now();
    for (const slot of this.#filled.splice(0)) {
      this.#inFlight.push({ slot, at: now + this.takesMs });
    }
    if (completions > 0) {
      this.sleeps++;
      while (!this.#due && performance.now() - now < timeoutUs / 1000);
    }
    return 0;
  }

  reap(visit: (slot: number, result: number) => void, most: number): number {
    this.asked.push(most);
    let found = 0;
    while (found < most && this.#due) {
      found++;
      visit(this.#inFlight.shift()!.slot, 0);
    }
    return found;
  }

  waitAside(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, 1));
  }

  wake(): void {}
  close(): void {}
}

/** An engine over such a kernel, and a way to await one operation. */
function engineOver(
  queue: Clockwork,
  pollMs: number,
): { one(durable?: boolean): Promise<void> } & AsyncDisposable {
  const waiting = new Map<Operation, () => void>();
  const engine = new AsyncEngine<Operation>(
    openLibc(),
    queue,
    (operation) => {
      waiting.get(operation)!();
      waiting.delete(operation);
    },
    () => 0,
    { info: { name: "clockwork", reason: null }, stallMs: 5, pollMs },
  );
  return {
    one(durable = false) {
      const operation = new Operation();
      operation.code = OperationCode.Write;
      operation.durable = durable;
      const { promise, resolve } = Promise.withResolvers<void>();
      waiting.set(operation, resolve);
      engine.push(operation);
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

Deno.test("AsyncEngine sleeps with pollMs 0", async () => {
  const queue = new Clockwork(0.5);
  await using engine = engineOver(queue, 0);
  for (let i = 0; i < 40; i++) await engine.one();
  // Now and then an answer comes while the event loop turns.
  assert(queue.sleeps > 20, `slept ${queue.sleeps} times of 40`);
  // One look before each sleep.
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
  await Promise.all(Array.from({ length: 64 }, () => engine.one()));
  // Nobody asked for more: those that are left come faster and faster.
  assertEquals(queue.asked[0], 1);
  assert(Math.max(...queue.asked) >= 8, `${queue.asked}`);
});

Deno.test("AsyncEngine gives up polling in vain", async () => {
  // Slept for, or polled for in vain: never within the time for polling.
  const queue = new Clockwork(0.7);
  await using engine = engineOver(queue, 0.4);
  for (let i = 0; i < 20; i++) await engine.one();
  const { sleeps } = queue;
  for (let i = 0; i < 40; i++) await engine.one();
  assert(queue.sleeps - sleeps > 20, `slept ${queue.sleeps - sleeps} of 40`);
});
