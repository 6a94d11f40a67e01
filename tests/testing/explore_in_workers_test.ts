import { assert } from "@std/assert";
import { fileURLToPath } from "node:url";

Deno.test("exploreCrashes() in workers finds what it finds in one thread", async () => {
  // A process that checks no types: each worker would check all of the library.
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "test",
      "-A",
      "--no-check",
      fileURLToPath(new URL("./explore_in_workers_child.ts", import.meta.url)),
    ],
    env: { NO_COLOR: "1" },
  }).output();
  const texts = [stdout, stderr].map((text) => new TextDecoder().decode(text));
  assert(success, texts.join("\n"));
  assert(/ok \| 7 passed/.test(texts[0]!), texts.join("\n"));
});
