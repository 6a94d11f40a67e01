/**
 * How engines share the time for which they may hold the event loop.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { StallBudget } from "../../src/engines/stall_budget.ts";

Deno.test("StallBudget gives one engine the whole of each of its turns", () => {
  const budget = new StallBudget();
  let round = -1;
  for (let i = 0; i < 5; i++) {
    const now = i * 0.3;
    round = budget.begin(round);
    assertEquals(budget.left(true, 200, now), 200);
    budget.spend(true, 200, now + 0.2);
    assertEquals(budget.left(true, 200, now + 0.2), 0);
    // What its callers may spend is counted apart.
    assertEquals(budget.left(false, 200, now + 0.2), 200);
    budget.spend(false, 150, now + 0.25);
    assertEquals(budget.left(false, 200, now + 0.25), 50);
  }
});

Deno.test("StallBudget has many engines share a turn", () => {
  const budget = new StallBudget();
  const rounds = new Array(100).fill(-1);
  let now = 0;
  for (let turn = 0; turn < 10; turn++) {
    let spent = 0;
    for (let i = 0; i < 100; i++) {
      rounds[i] = budget.begin(rounds[i]);
      const us = Math.min(120, Math.max(0, budget.left(true, 200, now)));
      if (us > 0) budget.spend(true, us, now += us / 1000);
      spent += us;
    }
    assertEquals(spent, 200);
  }
});

Deno.test("StallBudget forgets what was spent after ten times as long", () => {
  const budget = new StallBudget();
  budget.begin(-1);
  budget.spend(true, 200, 1);
  budget.spend(false, 100, 1);
  assertEquals(budget.left(true, 200, 2.9), 0);
  assertEquals(budget.left(true, 200, 3), 200);
  assertEquals(budget.left(false, 200, 3), 200);
});
