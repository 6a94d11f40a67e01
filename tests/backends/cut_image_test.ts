/**
 * Images that somebody cuts while they are open: nothing that is lost by that
 * is acknowledged, on any backend and with any engine.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import type { OpenOptions } from "../../src/disk/open.ts";
import { loopDevice, needs, run, tempDir } from "../helpers.ts";

const SECTORS = 8192;
const CUT = 2048;

interface Cut extends AsyncDisposable {
  readonly disk: VirtualDisk;
  size(): Promise<number>;
}

/**
 * An open disk of data, with some more written where it is cut off, that was cut
 * to a quarter; `null` without the engine.
 */
async function cut(
  options: OpenOptions,
  medium: "file" | "device" = "file",
): Promise<Cut | null> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const path = await dir.file(
    "disk.img",
    new Uint8Array(SECTORS * 512).fill(7),
  );
  const device = medium === "file" ? null : stack.use(await loopDevice(path));
  let disk: VirtualDisk;
  try {
    disk = await VirtualDisk.open(device?.path ?? path, options);
  } catch (error) {
    if (!(error instanceof DiskError) || error.kind !== "platform") throw error;
    console.warn(`A variant is skipped: ${error.message}`);
    return null;
  }
  stack.use(disk);
  await disk.write(4096, disk.allocate(8).fill(1));
  await Deno.truncate(path, CUT * 512);
  // Without it a loop device fails what it cannot write.
  if (device !== null) await run("losetup", ["--set-capacity", device.path]);
  const kept = stack.move();
  return {
    disk,
    size: async () => (await Deno.stat(path)).size,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** It fails as the image was cut, and says so. */
async function assertCut(promise: Promise<unknown>): Promise<void> {
  const error = await assertRejects(() => promise, DiskError);
  assertEquals(error.kind, "io");
  assertMatch(
    error.message,
    /as the image ends before the disk does: it was cut while open$/,
  );
}

const VARIANTS: OpenOptions[] = [
  ...(["io_uring", "libaio", "sync"] as const).flatMap((engine) =>
    (["prefer", "never"] as const).map((direct) => ({ engine, direct }))
  ),
  { backend: "portable", direct: "prefer" },
  { backend: "portable", direct: "never" },
];

for (const variant of VARIANTS) {
  const name = variant.engine ?? variant.backend;
  const test = (title: string, body: (image: Cut) => Promise<void>) =>
    Deno.test({
      name: `VirtualDisk over ${name}, direct: ${variant.direct}, ${title}`,
      ignore: Deno.build.os !== "linux",
      async fn() {
        const image = await cut(variant);
        if (image === null) return;
        await using _ = image;
        await body(image);
      },
    });

  test("gives up and zeroes nothing that was cut off", async (image) => {
    const { disk } = image;
    const native = disk.info.abilities.writeZeroes === "native";
    for (const unmap of [true, false]) {
      await disk.writeZeroes(8, 8, { unmap });
      if (native) {
        await assertCut(disk.writeZeroes(4096, 64, { unmap }));
        await assertCut(disk.writeZeroes(CUT - 8, 16, { unmap }));
      }
      await assertCut(disk.writeZeroes(SECTORS - 64, 64, { unmap }));
    }
    if (disk.info.abilities.discard !== "none") {
      await disk.discard(16, 8);
      await assertCut(disk.discard(4096, 64));
      await assertCut(disk.discard(SECTORS - 8, 8));
    }
    assertEquals(await image.size(), CUT * 512);
    assertEquals(disk.failure, null);
  });

  test("writes no last sector of a cut image", async (image) => {
    const { disk } = image;
    await assertCut(disk.write(SECTORS - 8, disk.allocate(8)));
    await assertCut(disk.write(SECTORS - 1, new Uint8Array(512)));
    assertEquals(await image.size(), CUT * 512);
    assertEquals((await disk.read(CUT - 1, 1))[0], 7);
  });

  test("makes nothing durable on a cut image", async (image) => {
    const { disk } = image;
    // The image grows again; what was between is lost, and no flush denies it.
    await disk.write(4096, disk.allocate(8).fill(1));
    assertEquals((await disk.read(4096, 1))[0], 1);
    assert(await image.size() >= 4104 * 512);
    await assertCut(disk.flush());
    const error = await assertRejects(() => disk.flush(), DiskError);
    assertEquals(error.kind, "latched");
    await assertRejects(() => disk.write(0, disk.allocate(8)), DiskError);
    assertEquals((await disk.read(0, 1))[0], 7);
  });

  test("has no durable write on a cut image", async (image) => {
    const { disk } = image;
    await assertCut(disk.write(0, disk.allocate(8), { fua: true }));
    assertEquals(disk.failure?.kind, "io");
  });

  test("shows no hole where an image was cut", async (image) => {
    const { disk } = image;
    const extents = await disk.extents();
    assertEquals(
      extents.filter(({ sector, count, hole }) => hole && sector + count > CUT),
      [],
    );
    await assertCut(disk.read(CUT, 8));
  });

  Deno.test({
    name:
      `VirtualDisk over ${name}, direct: ${variant.direct}, makes nothing durable on a device that was cut`,
    ...needs("root", "losetup"),
    async fn() {
      for (const how of ["flush", "fua", "last"] as const) {
        const image = await cut(variant, "device");
        if (image === null) return;
        await using _ = image;
        const { disk } = image;
        if (how === "last") {
          await assertCut(disk.write(SECTORS - 8, disk.allocate(8)));
        }
        await assertCut(
          how === "fua"
            ? disk.write(0, disk.allocate(8), { fua: true })
            : disk.flush(),
        );
        const error = await assertRejects(() => disk.flush(), DiskError);
        assertEquals(error.kind, "latched");
        assertEquals((await disk.read(0, 1))[0], how === "fua" ? 0 : 7);
      }
    },
  });
}
