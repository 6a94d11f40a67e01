import { assertEquals, assertThrows } from "@std/assert";
import { Pool } from "../../src/backends/pool.ts";

/** What a taker has; empty while it waits. */
function takenFrom<T>(pool: Pool<T>): T[] {
  const had: T[] = [];
  pool.take((item) => had.push(item));
  return had;
}

Deno.test("Pool makes what is needed, and lets those wait in turn who find none", () => {
  let made = 0;
  const pool = new Pool(() => made++, 2);
  const [first, second] = [takenFrom(pool), takenFrom(pool)];
  const [third, fourth] = [takenFrom(pool), takenFrom(pool)];
  assertEquals([first, second, third, fourth], [[0], [1], [], []]);
  pool.give(1);
  assertEquals([third, fourth], [[1], []]);
  pool.give(0);
  assertEquals([third, fourth], [[1], [0]]);
  pool.give(1);
  pool.give(0);
  assertEquals(takenFrom(pool), [0], "the last one that was given back");
  assertEquals(made, 2);
});

Deno.test("Pool begins with what there is, and asks for no more once there is none", () => {
  let asked = 0;
  const pool = new Pool<number>(() => (asked++, null), 8, [5]);
  assertEquals(takenFrom(pool), [5]);
  const waits = [takenFrom(pool), takenFrom(pool)];
  assertEquals([waits, asked], [[[], []], 1]);
  pool.give(5);
  assertEquals(waits, [[5], []]);
});

Deno.test("Pool.take() throws what making one threw, and makes it next time", () => {
  let fails = true;
  const pool = new Pool(() => {
    if (fails) throw new Error("No memory");
    return 1;
  }, 1);
  let granted = 0;
  assertThrows(() => pool.take(() => granted++), Error, "No memory");
  assertEquals(granted, 0);
  fails = false;
  assertEquals(takenFrom(pool), [1]);
});

Deno.test("Pool lends nothing once it is closed", () => {
  const pool = new Pool(() => 1, 2, [7]);
  pool.close();
  assertEquals(takenFrom(pool), []);
});
