/**
 * What is left of a mount when its process ends: nothing, however it did.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { processOf } from "../cli/harness.ts";
import { tempDir } from "../helpers.ts";
import {
  exists,
  holding,
  isMounted,
  needsFuse,
  processesWith,
  shell,
  TOOLS,
  until,
} from "./harness.ts";

/** Serves a memory disk that never answers, and waits for it itself. */
const WAITS_FOR_ITSELF = `
import { MemoryBackend } from "@platter/disk";
import { asFile } from "@platter/disk/mount";
const memory = new MemoryBackend({ sectors: 2048 });
const file = await asFile({
  geometry: memory.geometry,
  abilities: memory.abilities,
  limits: memory.limits,
  info: memory.info,
  counters: memory.counters,
  allocate: (byteLength) => memory.allocate(byteLength),
  close: () => memory.close(),
  submit: () => console.log("asked"),
}, { path: Deno.args[0], tool: Deno.args[1] });
Deno.readFile(file.path);
`;

/** Nothing is left of a mount, soon. */
async function assertGone(path: string): Promise<void> {
  await until("the mount's end", () => !exists(path) && !isMounted(path));
  await until("its processes' end", () => processesWith(path).length === 0);
}

for (const tool of TOOLS) {
  Deno.test({
    name:
      `a mount ends with its process that is killed in a wait for it, by ${tool}`,
    ...needsFuse(tool),
    async fn() {
      await using dir = await tempDir();
      const path = dir.join("disk");
      const script = await dir.file(
        "script.ts",
        new TextEncoder().encode(WAITS_FOR_ITSELF),
      );
      const config = new URL("../../deno.json", import.meta.url).pathname;
      const child = new Deno.Command(Deno.execPath(), {
        args: [
          ...["run", "--no-check", "-A", "--config", config],
          ...[script, path, tool],
        ],
        stdin: "null",
        stdout: "piped",
      }).spawn();
      const reader = child.stdout.getReader();
      const { value } = await reader.read();
      assertEquals(new TextDecoder().decode(value), "asked\n");
      child.kill("SIGKILL");
      await child.status;
      await reader.cancel();
      await assertGone(path);
    },
  });
}

for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"] as const) {
  Deno.test({
    name: `platter mount as a process leaves nothing mounted by ${signal}`,
    ...needsFuse("nbdfuse"),
    async fn() {
      await using dir = await tempDir();
      const image = await dir.file("disk.img", 1 << 20);
      const path = dir.join("disk");
      const child = processOf(["mount", image, path], {
        stdout: "piped",
        stderr: "null",
      }).spawn();
      const reader = child.stdout.getReader();
      const { value } = await reader.read();
      assertEquals(new TextDecoder().decode(value), `${path}\n`);
      const { code } = await shell(
        'printf word | dd of="$1" bs=1 seek=1001 conv=notrunc',
        path,
      );
      assertEquals(code, 0);
      const holder = signal === "SIGKILL" ? await holding(path) : null;
      child.kill(signal);
      const status = await child.status;
      if (signal !== "SIGKILL") assertEquals(status.code, 0);
      await reader.cancel();
      await until("the mount's end", () => !isMounted(path));
      await holder?.[Symbol.asyncDispose]();
      await assertGone(path);
      const bytes = await Deno.readFile(image);
      const word = new TextDecoder().decode(bytes.subarray(1001, 1005));
      assert(word === "word" || signal === "SIGKILL", word);
    },
  });
}
