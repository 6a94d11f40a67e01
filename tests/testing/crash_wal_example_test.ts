/** @module */

import { assertEquals, assertMatch } from "@std/assert";

Deno.test("crash_wal finds what is wrong, and nothing in what is right", async () => {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-prompt",
      "--quiet",
      new URL("../../examples/crash_wal.ts", import.meta.url).href,
    ],
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const text = new TextDecoder().decode(stdout);
  assertEquals([code, new TextDecoder().decode(stderr)], [0, ""]);
  assertMatch(text, /0 reached; 1 LOST .* in Log\.append < .* in workload/);
  assertMatch(text, /Nothing fails in 13 crash states .*: all that there are/);
});
