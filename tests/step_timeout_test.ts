import { assertEquals } from "@std/assert";
import { stepTimeout } from "../src/step_timeout.ts";

/** Keeps the thread from all else for so many ms. */
function stall(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

Deno.test("stepTimeout() lets a stalled program hear what came before the time is over", async () => {
  let isHeard = false;
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const stop = stepTimeout(40, () => resolve(isHeard), { steps: 4 });
  setTimeout(() => isHeard = true, 20);
  stall(100);
  assertEquals(await promise, true);
  stop();
});

Deno.test("stepTimeout() begins anew at a sign of life, and calls back in every step after the last", async () => {
  const looks: string[] = [];
  const signs = [false, false, true, false, false, false, false];
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = stepTimeout(
    3,
    () => {
      looks.push("time");
      if (signs.length === 0) resolve();
    },
    {
      steps: 3,
      lives: () => {
        const lives = signs.shift() ?? false;
        looks.push(lives ? "life" : "silence");
        return lives;
      },
    },
  );
  await promise;
  stop();
  assertEquals(looks, [
    ...["silence", "silence", "life"],
    ...["silence", "silence", "silence", "time", "silence", "time"],
  ]);
});

Deno.test("stepTimeout() calls back no more once it is stopped", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  let calls = 0;
  const stop = stepTimeout(2, () => {
    calls++;
    stop();
    // Later than the next step would be.
    setTimeout(resolve, 10);
  }, { steps: 2 });
  await promise;
  assertEquals(calls, 1);
});
