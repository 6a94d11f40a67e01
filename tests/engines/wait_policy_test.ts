/**
 * When an engine polls, sleeps and backs off: times in, decisions out.
 *
 * @module
 */

import { assert, assertEquals, assertFalse } from "@std/assert";
import {
  BackOff,
  OperationKind,
  WaitPolicy,
} from "../../src/engines/wait_policy.ts";

/** How many of so many occasions make an attempt that always misses. */
function attempts(backOff: BackOff, occasions: number): number[] {
  const made: number[] = [];
  for (let i = 0; i < occasions; i++) {
    backOff.pass();
    if (!backOff.allows) continue;
    made.push(i);
    backOff.attempted(false);
  }
  return made;
}

Deno.test("BackOff leaves none out after one miss, then twice as many and one more, up to 63", () => {
  const made = attempts(new BackOff(), 400);
  const gaps = made.slice(1).map((at, i) => at - made[i]! - 1);
  assertEquals(gaps.slice(0, 9), [0, 1, 3, 7, 15, 31, 63, 63, 63]);
});

Deno.test("BackOff begins anew after a hit", () => {
  const backOff = new BackOff();
  attempts(backOff, 100);
  while (!backOff.allows) backOff.pass();
  backOff.attempted(true);
  assertEquals(attempts(backOff, 4), [0, 1, 3]);
});

/** A policy that has seen some operations, each so long, one after the other. */
function seen(pollUs: number, tookUs: number, count = 100): WaitPolicy {
  const policy = new WaitPolicy(pollUs);
  for (let i = 0; i < count; i++) {
    policy.taken(OperationKind.Read);
    policy.waited(1, tookUs);
    policy.over(OperationKind.Read);
  }
  return policy;
}

Deno.test("WaitPolicy polls for what usually comes within the time for it, and twice that", () => {
  for (const [tookUs, polls] of [[10, true], [150, true], [250, false]]) {
    assertEquals(seen(100, tookUs as number).polls, polls, `${tookUs}`);
  }
  // Before anything is known.
  assert(new WaitPolicy(100).polls);
  assertFalse(new WaitPolicy(0).polls);
});

Deno.test("WaitPolicy learns that a device became slower, and faster", () => {
  const policy = seen(100, 50);
  for (let i = 0; i < 30; i++) policy.waited(1, 1000);
  assertFalse(policy.polls);
  for (let i = 0; i < 60; i++) policy.waited(1, 50);
  assert(policy.polls);
  // A wait that brought nothing is a lower bound only.
  for (let i = 0; i < 60; i++) policy.waited(0, 1);
  assert(policy.isExpected(100));
  assertFalse(policy.isExpected(10));
  for (let i = 0; i < 60; i++) policy.waited(0, 1000);
  assertFalse(policy.polls);
});

Deno.test("WaitPolicy takes what was found at once for an upper bound, if few were in flight", () => {
  const policy = seen(100, 300);
  for (let i = 0; i < 60; i++) policy.foundAtOnce(3, 10);
  assertFalse(policy.polls);
  for (let i = 0; i < 60; i++) policy.foundAtOnce(1, 500);
  assertFalse(policy.polls);
  for (let i = 0; i < 60; i++) policy.foundAtOnce(2, 10);
  assert(policy.polls);
});

Deno.test("WaitPolicy does not poll while a durable write is in flight", () => {
  const policy = seen(100, 50);
  policy.taken(OperationKind.DurableWrite);
  policy.taken(OperationKind.Read);
  assertFalse(policy.polls);
  policy.over(OperationKind.Read);
  assertFalse(policy.polls);
  policy.over(OperationKind.DurableWrite);
  assert(policy.polls);
});

Deno.test("WaitPolicy expects each kind of operation for itself", () => {
  const took = {
    [OperationKind.Read]: 50,
    [OperationKind.Write]: 150,
    [OperationKind.Other]: 900,
  };
  const kinds = [
    OperationKind.Other,
    OperationKind.Write,
    OperationKind.Read,
  ] as const;
  const policy = new WaitPolicy(100);
  const [other, write, read] = kinds;
  // In turns, as a log writes and flushes.
  for (let i = 0; i < 100; i++) {
    for (const kind of kinds) {
      policy.taken(kind);
      if (i > 0) {
        assertEquals(policy.polls, kind !== other);
        assert(policy.isExpected(took[kind]));
        assertFalse(policy.isExpected(took[kind] - 1));
      }
      if (policy.polls) policy.polled(true);
      policy.waited(1, took[kind]);
      policy.over(kind);
    }
  }
  // The quickest of those in flight is what comes first.
  for (const kind of [other, write, read]) policy.taken(kind);
  assert(policy.isExpected(50));
  policy.over(read);
  assert(policy.isExpected(150));
  assertFalse(policy.isExpected(149));
  policy.over(write);
  assertFalse(policy.isExpected(899));
  policy.over(other);
});

Deno.test("WaitPolicy backs off for one kind of operation, not for others", () => {
  const policy = new WaitPolicy(100);
  const polls = { hit: 0, miss: 0 };
  for (let i = 0; i < 256; i++) {
    for (
      const [kind, hit] of [
        [OperationKind.Write, true],
        [OperationKind.Other, false],
      ] as const
    ) {
      policy.taken(kind);
      if (policy.polls) {
        polls[hit ? "hit" : "miss"]++;
        policy.polled(hit);
      }
      policy.over(kind);
    }
  }
  assertEquals(polls.hit, 256);
  assert(polls.miss < 12, `${polls.miss}`);
});

Deno.test("WaitPolicy backs off from polls that miss, and from idle polls apart", () => {
  const policy = seen(100, 50);
  let polls = 0;
  let idlePolls = 0;
  for (let i = 0; i < 256; i++) {
    policy.taken(OperationKind.Read);
    if (policy.polls) {
      polls++;
      policy.polled(false);
    }
    policy.over(OperationKind.Read);
    if (policy.takeIdlePoll()) {
      idlePolls++;
      policy.idlePolled(true);
    }
  }
  assert(polls < 12, `${polls}`);
  assertEquals(idlePolls, 256);
  assertFalse(new WaitPolicy(0).takeIdlePoll());
});

Deno.test("WaitPolicy calls a device slow after 4 misses, very slow after 64, until a caller asks", () => {
  const policy = new WaitPolicy(100);
  const slow: number[] = [];
  for (let i = 1; i <= 64; i++) {
    policy.turned(0);
    if (policy.isSlow) slow.push(i);
    assertEquals(policy.isVerySlow, i >= 64);
  }
  assertEquals(slow[0], 4);
  policy.asked();
  assertFalse(policy.isSlow || policy.isVerySlow);
  for (let i = 0; i < 4; i++) policy.turned(0);
  assert(policy.isSlow);
  policy.turned(1);
  assertFalse(policy.isSlow);
  // Where nothing but a thread can wait.
  const elsewhere = new WaitPolicy(100, 1);
  assertFalse(elsewhere.isVerySlow);
  elsewhere.turned(0);
  assert(elsewhere.isVerySlow);
});

Deno.test("WaitPolicy doubles its bursts from a wait on", () => {
  const policy = new WaitPolicy(100);
  const bursts = (count: number) =>
    Array.from({ length: count }, () => policy.burst());
  assertEquals(bursts(7), [1, 2, 4, 8, 16, 16, 16]);
  policy.asked();
  assertEquals(bursts(1), [16]);
  policy.waited(1, 10);
  assertEquals(bursts(2), [1, 2]);
});
