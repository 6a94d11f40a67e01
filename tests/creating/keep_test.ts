/**
 * What was there before an image could not be made is there afterwards, and
 * what was not is not.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { isZero } from "../../src/buffer.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError, type DiskErrorKind } from "../../src/errors.ts";
import type { CreateOptions } from "../../src/disk/open.ts";
import { Random } from "../../src/random.ts";
import { platter } from "../cli/harness.ts";
import {
  hasTmpfs,
  loopDevice,
  mount,
  needs,
  run,
  tempDir,
  tmpfsDir,
} from "../helpers.ts";

const LINUX = Deno.build.os === "linux";
const BACKENDS = LINUX
  ? ["direct", "portable"] as const
  : ["portable"] as const;
const MIB = 1_048_576;

/** More than any file system can hold. */
const TOO_MANY = 2 ** 43;

async function refusal(
  path: string,
  options: CreateOptions,
  kind: DiskErrorKind,
): Promise<DiskError> {
  const error = await assertRejects(
    () => VirtualDisk.create(path, options),
    DiskError,
  );
  assertEquals(error.kind, kind, error.message);
  assertEquals(error.path, path);
  assertMatch(error.message, /^Cannot .*[^.]$/);
  return error;
}

/** How much is in a directory. */
async function count(path: string): Promise<number> {
  return (await Array.fromAsync(Deno.readDir(path))).length;
}

/** Creates that fail, where there is an image and where there is none. */
async function keeps(
  dir: { join(name: string): string; path: string },
  options: CreateOptions,
  kind: DiskErrorKind,
): Promise<DiskError> {
  const old = new Random(3).bytes(65_536);
  const path = dir.join("old.img");
  await Deno.writeFile(path, old);
  await refusal(path, { ...options, overwrite: true }, kind);
  assertEquals(await Deno.readFile(path), old);
  const names = await count(dir.path);
  const error = await refusal(dir.join("new.img"), options, kind);
  assertEquals(await count(dir.path), names);
  return error;
}

for (const backend of BACKENDS) {
  Deno.test(`VirtualDisk.create() keeps the old image if the new one is too large, ${backend} backend`, async () => {
    await using dir = await tempDir();
    const { code } = await keeps(
      dir,
      { backend, sectors: TOO_MANY },
      "no-space",
    );
    if (LINUX) assertEquals(code, "EFBIG");
    await keeps(
      dir,
      { backend, sectors: TOO_MANY, preallocate: true },
      "no-space",
    );
    await keeps(dir, { backend, sectors: TOO_MANY, lock: "none" }, "no-space");
  });

  Deno.test({
    name:
      `VirtualDisk.create() keeps the old image if there is no space to reserve, ${backend} backend`,
    ignore: !LINUX || needs("root", "losetup", "mkfs.ext4").ignore,
    async fn() {
      await using dir = await tempDir();
      const image = await dir.file("fs.img", 16 * MIB);
      await using device = await loopDevice(image);
      await new Deno.Command("mkfs.ext4", {
        args: ["-q", device.path],
      }).output();
      await using small = await mount(device.path, dir.join("mnt"));
      const options = { sectors: 65_536, preallocate: true, backend };
      const { code } = await keeps(small, options, "no-space");
      assertEquals(code, "ENOSPC");
      // Of an old one that is a hole, none is filled.
      const sparse = small.join("sparse.img");
      await Deno.writeFile(sparse, new Uint8Array(8192).fill(1));
      await Deno.truncate(sparse, 32 * MIB);
      await run("sync", ["-f", sparse]);
      const { blocks } = await Deno.stat(sparse);
      await refusal(sparse, { ...options, overwrite: true }, "no-space");
      await run("sync", ["-f", sparse]);
      const { size, blocks: kept } = await Deno.stat(sparse);
      assertEquals([size, kept], [32 * MIB, blocks]);
      await Deno.remove(sparse);
      // There is room for half of it: none was kept.
      await using disk = await VirtualDisk.create(small.join("fits.img"), {
        sectors: 8192,
        preallocate: true,
        backend,
      });
      assert(isZero(await disk.read(0, 8192)));
    },
  });

  Deno.test({
    name:
      `VirtualDisk.create() keeps the old image if direct I/O is refused, ${backend} backend`,
    ignore: !hasTmpfs(),
    async fn() {
      await using dir = await tmpfsDir();
      await keeps(dir, { backend, sectors: 8, direct: "require" }, "platform");
    },
  });

  Deno.test(`VirtualDisk.create() keeps the old image if an option is wrong, ${backend} backend`, async () => {
    await using dir = await tempDir();
    const old = new Random(3).bytes(65_536);
    const path = await dir.file("old.img", old);
    const wrong: Partial<CreateOptions>[] = [
      { sectors: 7, blockSize: 4096 },
      { sectors: 0 },
      { sectors: 1.5 },
      { id: "ä" },
      { queueSize: 3 },
      { readOnly: true },
      { lock: "yes" as "auto" },
      { direct: "yes" as "never" },
    ];
    for (const each of wrong) {
      const all = { sectors: 8, overwrite: true, backend, ...each };
      await assertRejects(() => VirtualDisk.create(path, all));
      await assertRejects(() => VirtualDisk.create(dir.join("new.img"), all));
      assertEquals(await Deno.readFile(path), old, JSON.stringify(each));
    }
    assertEquals(await count(dir.path), 1);
  });

  // The direct backend makes it in one call.
  if (backend === "portable") {
    Deno.test("VirtualDisk.create() keeps the old image if it is aborted while it makes room", async () => {
      await using dir = await tempDir();
      const old = new Random(3).bytes(65_536);
      const path = await dir.file("old.img", old);
      const controller = new AbortController();
      const reason = new Error("Enough");
      const making = VirtualDisk.create(path, {
        sectors: 2 ** 21,
        overwrite: true,
        preallocate: true,
        backend,
        signal: controller.signal,
      });
      setTimeout(() => controller.abort(reason), 1);
      assertStrictEquals(await assertRejects(() => making), reason);
      assertEquals(await Deno.readFile(path), old);
    });
  }

  Deno.test(`VirtualDisk.create() reserves the space of an image that it overwrites, ${backend} backend`, async () => {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(5).bytes(3 * MIB));
    using file = await Deno.open(path, { write: true });
    await file.truncate(MIB + 512);
    await file.truncate(3 * MIB);
    for (const sectors of [4096, 1000, 8192]) {
      await using disk = await VirtualDisk.create(path, {
        sectors,
        overwrite: true,
        preallocate: true,
        backend,
      });
      assert(isZero(await disk.read(0, sectors)));
      await disk.write(0, new Uint8Array(512 * 1000).fill(7));
      await disk.flush();
      const { size, blocks } = await Deno.stat(path);
      assertEquals(size, sectors * 512);
      if (blocks !== null) assert(blocks >= sectors, `${blocks} blocks`);
    }
  });

  Deno.test(`VirtualDisk.create() follows a link to an image, and makes none where it leads nowhere, ${backend} backend`, async () => {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(5).bytes(65_536));
    const [link, dangling] = [dir.join("link"), dir.join("dangling")];
    await Deno.symlink("disk.img", link);
    await Deno.symlink("nowhere.img", dangling);
    await refusal(link, { sectors: 8, backend }, "exists");
    await refusal(dangling, { sectors: 8, backend }, "not-found");
    const create = { sectors: 8, overwrite: true, backend };
    await refusal(dangling, create, "not-found");
    assert((await Deno.lstat(dangling)).isSymlink);
    await using disk = await VirtualDisk.create(link, create);
    assertEquals(disk.sectors, 8);
    assertEquals((await Deno.stat(path)).size, 4096);
    assert((await Deno.lstat(link)).isSymlink);
  });

  Deno.test({
    name: `VirtualDisk.create() leaves a device as it is, ${backend} backend`,
    ignore: !LINUX || needs("root", "losetup").ignore,
    async fn() {
      await using dir = await tempDir();
      const old = new Random(6).bytes(MIB);
      const image = await dir.file("a.img", old);
      await using device = await loopDevice(image);
      for (const sectors of [8, 2048, 4096]) {
        for (const overwrite of [false, true]) {
          for (const path of [device.path, "/dev/null"]) {
            const error = await refusal(
              path,
              { sectors, overwrite, backend, preallocate: overwrite },
              "exists",
            );
            assertMatch(error.message, /is a device.*open it instead/);
            const { code, err } = await platter([
              "create",
              path,
              `${sectors}s`,
              "--backend",
              backend,
              ...(overwrite ? ["--force"] : []),
            ]);
            assertEquals(code, 2);
            assertMatch(err, /is a device.*open it instead/);
          }
        }
      }
      await using disk = await VirtualDisk.open(device.path, { backend });
      assertEquals(await disk.read(0, 2048), old);
    },
  });
}
