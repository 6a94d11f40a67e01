import { assert, assertEquals } from "@std/assert";
import {
  type MemoryAccount,
  MemoryBudget,
  type MemoryHolder,
} from "../../src/nbd/memory_budget.ts";
import { memoryBytes, MemoryPool } from "../../src/nbd/memory_pool.ts";
import { Random } from "../../src/random.ts";
import { LONG } from "../helpers.ts";

const NEVER = 1 << 30;

/** A client of a budget. */
class Holder implements MemoryHolder {
  readonly account: MemoryAccount;
  movedBytes = 0;
  isAwaited = false;
  woken = 0;
  evicted = false;

  constructor(budget: MemoryBudget) {
    this.account = budget.open(this);
  }

  wake(): void {
    this.woken++;
  }

  evict(): void {
    this.evicted = true;
  }
}

function make(bytes: number, clients: number, stallMs = NEVER) {
  const counters = { peakMemory: 0 };
  const budget = new MemoryBudget(bytes, clients, stallMs, counters);
  return { budget, counters, holder: () => new Holder(budget) };
}

Deno.test("MemoryBudget leaves as much as it lends to one", () => {
  const { budget, holder } = make(2000, 10);
  assertEquals(budget.share, 100);
  const [one, two, three] = [holder(), holder(), holder()];
  // Half of what is shared, on top of its own.
  assert(budget.admit(one.account, 600));
  assert(!budget.admit(one.account, 1));
  budget.leave(one.account);
  // Half of the rest: nothing is left for more.
  assert(budget.admit(two.account, 350));
  assert(!budget.admit(two.account, 1));
  assert(!budget.admit(three.account, 400));
  // Its own is everybody's at any time.
  assert(budget.admit(three.account, 100));
  budget.leave(two.account);
  for (const { account } of [one, two, three]) budget.close(account);
});

Deno.test("MemoryBudget serves who waits for memory alone in order", () => {
  const { budget, holder } = make(2000, 10);
  const [hog, large, small] = [holder(), holder(), holder()];
  assert(budget.admit(hog.account, 600));
  assert(!budget.admit(large.account, 700));
  // It would fit, but has come later.
  assert(!budget.admit(small.account, 300));
  // Whoever holds more than its own is no reason to wait.
  assert(!budget.admit(hog.account, 600));
  budget.hold(hog.account, 550);
  assertEquals([large.woken, small.woken], [0, 0]);
  budget.hold(hog.account, 400);
  assertEquals(large.woken, 1);
  assert(!budget.admit(small.account, 300));
  assert(budget.admit(large.account, 700));
  budget.close(large.account);
  assert(small.woken > 0);
  assert(budget.admit(small.account, 300));
  for (const { account } of [hog, small]) budget.close(account);
});

Deno.test("MemoryBudget holds its bounds, and lets everybody come to an end", () => {
  const random = new Random(11);
  for (let round = 0; round < (LONG ? 500 : 25); round++) {
    const clients = random.between(2, 40);
    const bytes = 4096 * clients;
    const { budget, counters, holder } = make(bytes, clients);
    const most = Math.floor(bytes / 4);
    const all = Array.from({ length: clients }, () => ({
      holder: holder(),
      left: random.between(1, 30),
      waits: 0,
    }));
    const wanted = () => random.between(1, random.chance(1, 3) ? most : 3000);
    let sum = 0;
    for (let steps = 0; all.some(({ left }) => left > 0); steps++) {
      assert(steps < 100_000, "Nobody gets anything any more");
      const one = random.pick(all);
      const { account } = one.holder;
      if (random.chance(1, 2) && account.held > 0) {
        // It takes some of its answers.
        const given = random.chance(1, 2)
          ? account.held
          : random.between(1, account.held);
        budget.hold(account, account.held - given);
        sum -= given;
      } else if (one.left > 0) {
        const want = one.waits > 0 ? one.waits : wanted();
        one.waits = want;
        if (!budget.admit(account, want)) continue;
        sum += want;
        one.waits = 0;
        one.left--;
      }
      assert(sum <= bytes, `${sum} of ${bytes}`);
    }
    assert(counters.peakMemory <= bytes);
    for (const { holder: { account } } of all) budget.close(account);
  }
});

Deno.test("MemoryBudget sends away who holds what others wait for and stands still", async () => {
  const { budget, holder } = make(4000, 10, 40);
  const [still, slow, idle, asking] = [holder(), holder(), holder(), holder()];
  still.isAwaited = slow.isAwaited = true;
  for (const { account } of [still, slow, idle]) {
    assert(budget.admit(account, 500));
  }
  assert(!budget.admit(asking.account, 1900));
  for (let i = 0; i < 1000 && !still.evicted; i++) {
    slow.movedBytes += 100_000;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert(still.evicted);
  // And whoever waited is served.
  for (const { account } of [still, slow, idle]) budget.close(account);
  assert(budget.admit(asking.account, 1900));
  budget.close(asking.account);
  // The server's own work is no fault of the client's.
  assertEquals([slow.evicted, idle.evicted], [false, false]);
});

Deno.test("MemoryBudget sends away who moves next to nothing of what it holds", async () => {
  const { budget, holder } = make(1 << 30, 10, 40);
  const [drip, asking] = [holder(), holder()];
  drip.isAwaited = true;
  assert(budget.admit(drip.account, 300 << 20));
  assert(!budget.admit(asking.account, 400 << 20));
  for (let i = 0; i < 1000 && !drip.evicted; i++) {
    drip.movedBytes += 10_000;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert(drip.evicted);
  for (const { account } of [drip, asking]) budget.close(account);
});

Deno.test("MemoryPool lends at most an eighth more than is asked for", () => {
  const pool = new MemoryPool((sectors) => new Uint8Array(sectors * 512));
  const random = new Random(5);
  for (let i = 0; i < 200; i++) {
    const length = random.between(1, random.pick([5000, 100_000, 3_000_000]));
    const memory = pool.take(length);
    assertEquals(memory.bytes.length, memoryBytes(length));
    const data = memory.bytes.length - 4096;
    assert(data >= length && data <= Math.max(length * 1.125, length + 4096));
    if (random.chance(1, 2)) pool.give(memory);
  }
});
