/**
 * What the verbs leave that save something to a file with `--output`.
 *
 * @module
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { needs } from "../helpers.ts";
import { exists, platter, Scratch } from "./harness.ts";

const MIB = 1 << 20;

/** The verbs, each saying what it reads and where it saves to. */
const SAVERS = ["read", "bmap"];

/** An image with more in it than the largest file that a test allows. */
function imageIn(scratch: Scratch): Promise<string> {
  const bytes = new Uint8Array(4 * MIB).map((_, index) => index * 7 >> 3 | 1);
  return scratch.image("a.img", bytes.length, { 0: bytes });
}

for (const verb of SAVERS) {
  Deno.test(`platter ${verb} --output --force writes over no disk that somebody holds`, async () => {
    await using scratch = await Scratch.make();
    const image = await imageIn(scratch);
    const args = [verb, image, "-o", scratch.of("vm.img"), "--force"];
    const held = await scratch.image("vm.img", MIB, { 0: "guest" });
    for (const backend of ["auto", "portable"] as const) {
      await using _holder = await VirtualDisk.open(held, { backend });
      const { code, err } = await platter(args);
      assertEquals(code, 2);
      assertMatch(err, /Cannot open ".*vm\.img" for writing as .* holds it/);
      // The option is about the image.
      assertEquals(err.includes("lock"), false);
      assertEquals((await Deno.stat(held)).size, MIB);
    }
    assertEquals((await platter(args)).code, 0);
  });

  Deno.test({
    name:
      `platter ${verb} --output --force makes the file that a link leads to`,
    ignore: Deno.build.os === "windows",
    async fn() {
      await using scratch = await Scratch.make();
      const image = await imageIn(scratch);
      const [link, out] = [scratch.of("link"), scratch.of("out")];
      await Deno.symlink(out, link);
      const refused = await platter([verb, image, "-o", link]);
      assertEquals(refused.code, 2);
      assertEquals(await exists(out), false);
      const { code, err } = await platter([verb, image, "-o", link, "--force"]);
      assertEquals([code, err.includes("Cannot")], [0, false]);
      assertEquals((await Deno.stat(out)).size > 0, true);
      assertEquals((await Deno.lstat(link)).isSymlink, true);
    },
  });

  Deno.test({
    name: `platter ${verb} --output writes nothing where it may not look`,
    ignore: Deno.build.os === "windows",
    async fn() {
      await using scratch = await Scratch.make();
      const image = await imageIn(scratch);
      const [out, script] = [scratch.of("out"), mainScript()];
      await Deno.mkdir(out);
      const { code, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...["run", "--no-check", "--no-prompt", `--allow-write=${out}`],
          `--allow-read=${image},${
            new URL("../../", import.meta.url).pathname
          }`,
          ...[script, verb, image, "-o", `${out}/new`],
        ],
        stdin: "null",
      }).output();
      assertEquals(code, 2);
      assertStringIncludes(
        new TextDecoder().decode(stderr),
        `Cannot write to "${out}/new": Requires read access`,
      );
      assertEquals(await Array.fromAsync(Deno.readDir(out)), []);
    },
  });
}

function mainScript(): string {
  return new URL("../../src/cli/main.ts", import.meta.url).pathname;
}

for (const force of [[], ["--force"]]) {
  const args = ["read", ...force];
  Deno.test(`platter ${args.join(" ")} --output removes a new file if it is interrupted`, async () => {
    await using scratch = await Scratch.make();
    const image = await scratch.image("a.img", 256 * MIB);
    const file = scratch.of("new");
    let stop = () => {};
    const watcher = setInterval(() => {
      if (isThere(file)) stop();
    }, 0);
    const { code, err } = await platter([...args, image, "-o", file], {
      onListening: (interrupt) => stop = interrupt,
    });
    clearInterval(watcher);
    assertEquals([code, await exists(file)], [130, false], err);
    assertStringIncludes(err, `"${file}" was removed again`);
  });
}

function isThere(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

for (const args of [["read"], ["read", "--force"], ["bmap"]]) {
  Deno.test({
    name: `the program outlives a limit on the size of what ${
      args.join(" ")
    } saves`,
    ...needs("sh"),
    ignore: Deno.build.os === "windows",
    async fn() {
      await using scratch = await Scratch.make();
      // Its map is long, too: every other block of 4 KiB is in it.
      const block = new Uint8Array(4096).fill(1);
      const image = await scratch.image(
        "a.img",
        16 * MIB,
        Object.fromEntries(
          Array.from({ length: 2048 }, (_, i) => [i * 8192, block]),
        ),
      );
      const file = scratch.of("new");
      // In blocks of 512 bytes or of 1 KiB. The runtime's own files are larger.
      const shell =
        'ulimit -f 128; exec "$0" run --no-check --no-code-cache "$@"';
      const { code, stderr } = await new Deno.Command("sh", {
        args: [
          ...["-c", shell, Deno.execPath(), "-A", mainScript()],
          ...[...args, image, "-o", file],
        ],
        stdin: "null",
      }).output();
      const err = new TextDecoder().decode(stderr);
      assertEquals([code, await exists(file)], [2, false], err);
      assertStringIncludes(err, "File too large");
      assertStringIncludes(err, "was removed again");
    },
  });
}
