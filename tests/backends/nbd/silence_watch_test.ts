import { assertEquals } from "@std/assert";
import { SilenceWatch } from "../../../src/backends/nbd/silence_watch.ts";

/** Looks at a line that moves so many bytes from one look to the next. */
async function watch(timeoutMs: number, bytesEach: number): Promise<number> {
  let looks = 0;
  let silent = 0;
  const watched = Promise.withResolvers<void>();
  const watch = new SilenceWatch(
    timeoutMs,
    () => {
      if (++looks === 12) watched.resolve();
      return { answers: 0, bytes: looks * bytesEach, waits: true };
    },
    () => silent++,
  );
  watch.start();
  // The watch alone keeps no program from ending.
  const timer = setInterval(() => {}, 1000);
  await watched.promise;
  clearInterval(timer);
  watch.stop();
  return silent;
}

Deno.test("SilenceWatch takes a slow line for alive, and a trickle for silent", async () => {
  // A step of 5 ms: 8 KB/s are 40 bytes.
  assertEquals(await watch(20, 40), 0);
  assertEquals(await watch(20, 39) > 0, true);
  assertEquals(await watch(20, 0) > 0, true);
});
