/**
 * What is said where something is missing that a mount needs.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { tempDir } from "../helpers.ts";

const SCRIPT = `
import { VirtualDisk } from "@platter/disk";
import { asFile } from "@platter/disk/mount";
await using disk = VirtualDisk.memory({ size: "1MiB" });
try {
  await using file = await asFile(disk);
  console.log("mounted");
} catch (error) {
  console.log(error.kind, error.message);
}
`;

/** Tries to mount in a process that has these programs and rights only. */
async function attempt(
  programs: string[],
  permissions: string[],
): Promise<string> {
  await using dir = await tempDir();
  const script = await dir.file(
    "script.ts",
    new TextEncoder().encode(SCRIPT),
  );
  await Deno.mkdir(dir.join("bin"));
  await Deno.symlink("/bin/sh", dir.join("bin/sh"));
  for (const program of programs) {
    await Deno.writeTextFile(
      dir.join(`bin/${program}`),
      "#!/bin/sh\nexit 1\n",
      {
        mode: 0o755,
      },
    );
  }
  const config = new URL("../../deno.json", import.meta.url).pathname;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", "--config", config, ...permissions, script],
    env: { PATH: dir.join("bin"), DENO_NO_PROMPT: "1" },
    stdin: "null",
  }).output();
  const out = new TextDecoder().decode(stdout);
  assert(out !== "", new TextDecoder().decode(stderr));
  const left = await Array.fromAsync(Deno.readDir(dir.path));
  assertEquals(left.map(({ name }) => name).sort(), ["bin", "script.ts"]);
  return out;
}

/** Where programs are in the folder that is looked at in any case. */
const ignore = Deno.build.os !== "linux" ||
  Deno.realPathSync("/usr/sbin") === Deno.realPathSync("/usr/bin");

Deno.test({
  name: "asFile() names what is missing, and its package",
  ignore,
  async fn() {
    const none = await attempt([], ["-A"]);
    assert(none.startsWith("platform "), none);
    assert(none.includes("nbdfuse (Debian's package libnbd-bin)"), none);
    assert(none.includes("(Debian's package qemu-system-common)"), none);
    const half = await attempt(["nbdfuse"], ["-A"]);
    assert(half.startsWith("platform "), half);
    assert(half.includes("fusermount3 (Debian's package fuse3)"), half);
  },
});

Deno.test({
  name: "asFile() says which permission it needs",
  ignore,
  async fn() {
    const none = await attempt([], []);
    assert(none.startsWith("permission "), none);
    assert(none.includes("--allow-run=sh"), none);
  },
});
