/**
 * Overlays in files from the command line, and images of another size.
 *
 * @module
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { openBackend } from "../../src/disk/open.ts";
import { overlay } from "../../src/disk/overlay.ts";
import { exists, platter, Scratch } from "./harness.ts";

const MIB = 1 << 20;

/** Serves an image over an overlay's file, and writes to it by NBD. */
async function change(
  scratch: Scratch,
  image: string,
  file: string,
  value: number,
): Promise<{ code: number; err: string }> {
  const socket = scratch.of("disk.sock");
  let used: Promise<void> | undefined;
  const { code, err } = await platter(
    ["serve", image, `--overlay=${file}`, "--socket", socket],
    {
      onOutput(text, interrupt) {
        if (!text.startsWith("nbd+unix:")) return;
        used = (async () => {
          await using disk = await VirtualDisk.open(text.trim());
          await disk.write(9, new Uint8Array(512).fill(value));
          // What it lies over must not change meanwhile.
          const { code, err } = await platter(["zero", image, "--all"]);
          assertEquals(code, 2);
          assertMatch(err, / holds it/);
        })().finally(interrupt);
        used.catch(() => {});
      },
    },
  );
  await used;
  return { code, err };
}

Deno.test("platter serve --overlay=FILE keeps what is written, and platter commit moves it", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("disk.img", MIB, { 512: "old" });
  const file = scratch.of("try.overlay");
  const before = await Deno.readFile(image);
  assertEquals((await change(scratch, image, file, 7)).code, 0);
  assertEquals(await Deno.readFile(image), before);
  // Again, with the same file: what was written is there.
  {
    const changes = await overlay(await openBackend(image), { file });
    await using disk = VirtualDisk.over(changes);
    assertEquals((await disk.read(9, 1))[0], 7);
  }
  const { code, out, err } = await platter(["commit", file]);
  assertEquals([code, err], [0, ""]);
  assertMatch(
    out,
    /^Committed \S+try\.overlay to \S+disk\.img: 512 B, 1 sector\n$/,
  );
  const after = await Deno.readFile(image);
  assertEquals(after.subarray(9 * 512, 10 * 512), new Uint8Array(512).fill(7));
  after.fill(0, 9 * 512, 10 * 512);
  assertEquals(after, before);
  const again = await platter(["commit", file]);
  assertEquals([again.code, again.out], [0, `${file} has no changes\n`]);
});

Deno.test("platter commit names the image, and refuses one that has changed", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("disk.img", MIB, {});
  const file = scratch.of("try.overlay");
  await change(scratch, image, file, 7);
  const other = await scratch.image("other.img", 2 * MIB, {});
  const larger = await platter(["commit", file, other]);
  assertEquals([larger.code, larger.out], [2, ""]);
  assertStringIncludes(larger.err, "goes with a base of 2048 sectors");
  await Deno.writeFile(image, new Uint8Array(MIB).fill(1));
  const changed = await platter(["commit", file]);
  assertEquals([changed.code, changed.out], [2, ""]);
  assertStringIncludes(changed.err, "modified since or is another one");
  assertStringIncludes(changed.err, "--accept-base takes it all the same");
  assertEquals((await Deno.readFile(image))[9 * 512], 1);
  const served = await change(scratch, image, file, 8).catch((error) => error);
  assertEquals(served.code, 2);
  const taken = await platter(["commit", file, image, "--accept-base"]);
  assertEquals([taken.code, taken.err], [0, ""]);
  assertEquals((await Deno.readFile(image))[9 * 512], 7);
});

Deno.test("platter commit and serve --overlay=FILE touch no file that is none of an overlay", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("disk.img", MIB, { 0: "mine" });
  const before = await Deno.readFile(image);
  const missing = await platter(["commit", scratch.of("none.overlay")]);
  assertEquals([missing.code, await exists(scratch.of("none.overlay"))], [
    2,
    false,
  ]);
  for (
    const args of [
      ["commit", image],
      ["commit", image, image],
      ["serve", image, `--overlay=${image}`, "--port", "0"],
    ]
  ) {
    const { code, err } = await platter(args);
    assertEquals(code, 2);
    assertMatch(
      err,
      /as the file of an overlay as it must begin as one does|holds it/,
    );
    assertEquals(await Deno.readFile(image), before);
  }
  const empty = await platter(["serve", image, "--overlay=", "--port", "0"]);
  assertEquals(empty.code, 2);
  assertStringIncludes(empty.err, "--overlay needs its FILE");
  const traced = await platter([
    "serve",
    image,
    `--overlay=${image}`,
    `--trace=${image}`,
  ]);
  assertEquals(traced.code, 2);
  assertEquals(await Deno.readFile(image), before);
});

Deno.test("platter resize grows and, with --force alone, cuts", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("disk.img", MIB, { 0: "here" });
  const size = async () => (await Deno.stat(image)).size;
  const grown = await platter(["resize", image, "3MiB"]);
  assertEquals([grown.code, grown.out, grown.err], [
    0,
    `Resized ${image}: 1 MiB to 3 MiB\n`,
    "",
  ]);
  assertEquals(await size(), 3 * MIB);
  const refused = await platter(["resize", image, "512KiB"]);
  assertEquals([refused.code, refused.out], [2, ""]);
  assertStringIncludes(refused.err, "would be lost: cut it with --force");
  for (const wrong of ["1000", "0", "8PiB", "much"]) {
    assertEquals((await platter(["resize", image, wrong])).code, 2, wrong);
  }
  assertEquals(await size(), 3 * MIB);
  const cut = await platter(["resize", image, "512KiB", "--force"]);
  assertEquals([cut.code, await size()], [0, MIB / 2]);
  const text = new TextDecoder().decode(await Deno.readFile(image));
  assertEquals(text.slice(0, 4), "here");
  await using _held = await VirtualDisk.open(image);
  const locked = await platter(["resize", image, "1MiB"]);
  assertEquals([locked.code, await size()], [2, MIB / 2]);
});
