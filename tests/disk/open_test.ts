/**
 * Opening and making images: what is taken, what is refused, and that nothing
 * is left behind.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertFalse,
  assertLess,
  assertMatch,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { pathToFileURL } from "node:url";
import { isZero } from "../../src/buffer.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError, type DiskErrorKind } from "../../src/errors.ts";
import type { CreateOptions, OpenOptions } from "../../src/disk/open.ts";
import { NbdServer } from "../../src/nbd/mod.ts";
import { Random } from "../../src/random.ts";
import { hasTmpfs, tempDir, tmpfsDir } from "../helpers.ts";

const LINUX = Deno.build.os === "linux";
const BACKENDS = LINUX
  ? ["direct", "portable"] as const
  : ["portable"] as const;

async function kindOf(
  promise: () => Promise<unknown>,
  operation = "open",
): Promise<DiskErrorKind> {
  const error = await assertRejects(promise, DiskError);
  assertEquals(error.operation, operation);
  assertMatch(error.message, /^Cannot .*[^.]$/);
  return error.kind;
}

/**
 * Descriptors of this process that a disk in a folder may have: of what is there,
 * and the kernel's queues. The runtime has others, which come and go.
 */
function descriptors(folder: string): { files: number; queues: number } {
  const links = !LINUX
    ? []
    : Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => {
      try {
        return Deno.readLinkSync(`/proc/self/fd/${name}`);
      } catch {
        return "";
      }
    });
  const real = Deno.realPathSync(folder);
  return {
    files: links.filter((link) => link.startsWith(real)).length,
    queues: links.filter((link) => /io_uring|eventfd/.test(link)).length,
  };
}

for (const backend of BACKENDS) {
  const test = (title: string, fn: () => Promise<void>) =>
    Deno.test(`VirtualDisk, ${backend} backend, ${title}`, fn);

  test("is made, closed, opened, and has what was written", async () => {
    await using dir = await tempDir();
    const path = dir.join("disk.img");
    const data = new Random(1).bytes(4096);
    {
      await using disk = await VirtualDisk.create(path, {
        sectors: 2048,
        backend,
      });
      assertEquals(disk.sectors, 2048);
      assertEquals(disk.blockSize, 512);
      assertEquals(disk.info.backend, backend);
      assertEquals(disk.info.path, path);
      assertEquals(JSON.parse(JSON.stringify(disk.info)), disk.info);
      assert(isZero(await disk.read(0, 2048)));
      await disk.write(8, data);
      await disk.flush();
    }
    assertEquals((await Deno.stat(path)).size, 1_048_576);
    await using disk = await VirtualDisk.open(path, { backend });
    assertEquals(await disk.read(8, 8), data);
  });

  test("takes a file: URL", async () => {
    await using dir = await tempDir();
    const url = pathToFileURL(dir.join("a disk #1 ü.img"));
    await using made = await VirtualDisk.create(url, { sectors: 8, backend });
    assertEquals(made.info.path, dir.join("a disk #1 ü.img"));
    await made.close();
    await using disk = await VirtualDisk.open(url, { backend });
    assertEquals(disk.sectors, 8);
  });

  test("takes what it is told of itself", async () => {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 65_536);
    await using disk = await VirtualDisk.open(path, {
      backend,
      blockSize: 4096,
      id: "my disk",
      queueSize: 8,
      writeCache: "writethrough",
    });
    assertEquals(disk.blockSize, 4096);
    assertEquals(disk.sectors, 128);
    assertEquals(await disk.id(), "my disk");
    assertEquals(disk.info.queueSize, 8);
    assertEquals(disk.info.writeCache, "writethrough");
    await disk.write(0, new Uint8Array(4096));
  });

  test("refuses to make what is there, and leaves it as it is", async () => {
    await using dir = await tempDir();
    const content = new Random(2).bytes(4096);
    const path = await dir.file("disk.img", content);
    const error = await assertRejects(
      () => VirtualDisk.create(path, { sectors: 8, backend }),
      DiskError,
      `Cannot create "${path}" as it exists and "overwrite" must be true`,
    );
    assertEquals(
      [error.operation, error.kind, error.code],
      ["create", "exists", "EEXIST"],
    );
    assertEquals(await Deno.readFile(path), content);
  });

  test("overwrites what is there if it may", async () => {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(2).bytes(65_536));
    await using disk = await VirtualDisk.create(path, {
      sectors: 64,
      overwrite: true,
      backend,
    });
    assertEquals(disk.sectors, 64);
    assert(isZero(await disk.read(0, 64)));
  });

  test("keeps content that it must not overwrite as it is locked", async () => {
    await using dir = await tempDir();
    const content = new Random(2).bytes(65_536);
    const path = await dir.file("disk.img", content);
    await using _holder = await VirtualDisk.open(path, { backend });
    assertEquals(
      await kindOf(() =>
        VirtualDisk.create(path, { sectors: 64, overwrite: true, backend })
      ),
      "locked",
    );
    assertEquals(await Deno.readFile(path), content);
  });

  test("reserves space if it is to", async () => {
    await using dir = await tempDir();
    for (const preallocate of [false, true]) {
      const path = dir.join(`${preallocate}.img`);
      await using disk = await VirtualDisk.create(path, {
        sectors: 2048,
        preallocate,
        backend,
      });
      await disk.flush();
      const { blocks } = await Deno.stat(path);
      if (blocks !== null) assertEquals(blocks >= 2048, preallocate);
      assert(isZero(await disk.read(0, 2048)));
    }
  });

  test("says what is no disk", async () => {
    await using dir = await tempDir();
    const cases: [string, DiskErrorKind][] = [
      [dir.join("nothing.img"), "not-found"],
      [dir.join("no/such/disk.img"), "not-found"],
      [dir.path, "geometry"],
      [await dir.file("odd.img", 1000), "geometry"],
    ];
    if (LINUX) cases.push(["/dev/null", "geometry"]);
    for (const [path, kind] of cases) {
      assertEquals(
        await kindOf(() => VirtualDisk.open(path, { backend })),
        kind,
        path,
      );
    }
    const half = await dir.file("half.img", 2048);
    assertEquals(
      await kindOf(() => VirtualDisk.open(half, { backend, blockSize: 4096 })),
      "geometry",
    );
    assertEquals(
      await kindOf(
        () =>
          VirtualDisk.create(dir.join("no/such.img"), { sectors: 8, backend }),
        "create",
      ),
      "not-found",
    );
  });

  test("opened for reading refuses writes", async () => {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 4096);
    await Deno.chmod(path, 0o444).catch(() => {});
    await using disk = await VirtualDisk.open(path, {
      backend,
      readOnly: true,
    });
    assert(disk.readOnly);
    const error = await assertRejects(
      () => disk.write(0, new Uint8Array(512)),
      DiskError,
    );
    assertEquals(error.kind, "read-only");
    await disk.read(0, 8);
    await disk.flush();
  });

  test("leaves nothing open, whether it opens or not", async () => {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 65_536);
    const odd = await dir.file("odd.img", 65_000);
    const once = async () => {
      const disk = await VirtualDisk.open(path, { backend });
      await disk.read(0, 8);
      assertEquals(descriptors(dir.path).files > 0, LINUX);
      await assertRejects(() => VirtualDisk.open(path, { backend }));
      await disk.close();
      await assertRejects(() => VirtualDisk.open(odd, { backend }));
      await assertRejects(() => VirtualDisk.open(dir.path, { backend }));
      await assertRejects(() =>
        VirtualDisk.open(path, { backend, queueSize: 3 })
      );
      await assertRejects(() =>
        VirtualDisk.create(path, { sectors: 8, backend })
      );
    };
    await once();
    const { queues } = descriptors(dir.path);
    for (let i = 0; i < 10; i++) await once();
    const after = descriptors(dir.path);
    assertEquals(after.files, 0);
    // Each round would leave one at least.
    assertLess(after.queues - queues, 10);
  });

  test("gives up if it is aborted before it begins", async () => {
    await using dir = await tempDir();
    const reason = new Error("Enough");
    const signal = AbortSignal.abort(reason);
    const path = dir.join("disk.img");
    assertStrictEquals(
      await assertRejects(() =>
        VirtualDisk.create(path, { sectors: 8, signal, backend })
      ),
      reason,
    );
    await assertRejects(() => Deno.stat(path), Deno.errors.NotFound);
  });

  for (const other of BACKENDS) {
    test(`keeps a second writer out, ${other} backend`, async () => {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", 65_536);
      const first = await VirtualDisk.open(path, { backend });
      const again = () => VirtualDisk.open(path, { backend: other });
      const error = await assertRejects(again, DiskError, path);
      assertEquals(error.kind, "locked");
      assertMatch(error.message, /for writing/);
      // A reader is let in, and so is whoever knows better.
      await using reader = await VirtualDisk.open(path, {
        backend: other,
        readOnly: true,
      });
      await using careless = await VirtualDisk.open(path, {
        backend: other,
        lock: "none",
      });
      assertEquals(careless.info.lock.method, "none");
      await first.write(0, new Uint8Array(512).fill(3));
      assertEquals((await reader.read(0, 1))[0], 3);
      await first.close();
      await using second = await again();
      assertFalse(second.readOnly);
    });

    test(`lets the first writer in beside a reader, ${other} backend`, async () => {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", 65_536);
      await using _reader = await VirtualDisk.open(path, {
        backend,
        readOnly: true,
      });
      await using writer = await VirtualDisk.open(path, { backend: other });
      await writer.write(0, new Uint8Array(512));
    });
  }
}

// Options, before anything happens

const WRONG: [string, Partial<CreateOptions>, typeof Error][] = [
  ["direct", { direct: "always" as "require" }, TypeError],
  ["lock", { lock: "yes" as "auto" }, TypeError],
  ["backend", { backend: "native" as "auto" }, TypeError],
  ["engine", { engine: "epoll" as "auto" }, TypeError],
  ["writeCache", { writeCache: "unsafe" as "writeback" }, TypeError],
  ["queueSize 3", { queueSize: 3 }, RangeError],
  [
    "an engine of the portable backend",
    { backend: "portable", engine: "sync" },
    RangeError,
  ],
  ["queueSize 2048", { queueSize: 2048 }, RangeError],
  ["blockSize 0", { blockSize: 0 }, RangeError],
  ["blockSize 513", { blockSize: 513 }, RangeError],
  ["blockSize 131072", { blockSize: 131_072 }, RangeError],
  ["stallMs 0", { stallMs: 0 }, RangeError],
  ["stallMs NaN", { stallMs: NaN }, RangeError],
  ["pollMs −1", { pollMs: -1 }, RangeError],
  ["pollMs NaN", { pollMs: NaN }, RangeError],
  ["an empty id", { id: "" }, RangeError],
  ["a long id", { id: "x".repeat(21) }, RangeError],
  ["an id that is no ASCII", { id: "größe" }, RangeError],
];

Deno.test("VirtualDisk.open() refuses an id before it asks a server", async () => {
  await using served = VirtualDisk.memory({ sectors: 8 });
  await using server = NbdServer.listen({
    port: 0,
    exports: [{ disk: served }],
  });
  for (const id of ["", "x".repeat(21), "größe"]) {
    await assertRejects(
      () => VirtualDisk.open(server.uri(), { id }),
      RangeError,
    );
  }
  assertEquals(server.counters.connections, 0);
});

Deno.test("VirtualDisk.open() names the file of a URL whose options it refuses", async () => {
  await using dir = await tempDir();
  const path = await dir.file("a disk.img", new Uint8Array(512));
  for (const place of [path, pathToFileURL(path)]) {
    await assertRejects(
      () => VirtualDisk.open(place, { id: "" }),
      RangeError,
      `Cannot open "${path}" as its id`,
    );
  }
});

for (const [title, options, type] of WRONG) {
  Deno.test(`VirtualDisk.open() and create() refuse ${title} and touch nothing`, async () => {
    await using dir = await tempDir();
    const content = new Random(4).bytes(65_536);
    const path = await dir.file("disk.img", content);
    await assertRejects(
      () => VirtualDisk.open(path, options as OpenOptions),
      type,
    );
    await assertRejects(
      () =>
        VirtualDisk.create(path, { sectors: 128, overwrite: true, ...options }),
      type,
    );
    assertEquals(await Deno.readFile(path), content);
    assertEquals(descriptors(dir.path).files, 0);
    // Nor is it locked.
    await using _disk = await VirtualDisk.open(path);
  });
}

Deno.test("VirtualDisk.create() refuses sizes that no disk has", async () => {
  await using dir = await tempDir();
  const path = dir.join("disk.img");
  for (const sectors of [0, -8, 1.5, NaN, Infinity, 2 ** 53]) {
    await assertRejects(
      () => VirtualDisk.create(path, { sectors }),
      RangeError,
    );
  }
  await assertRejects(
    () => VirtualDisk.create(path, { sectors: 9, blockSize: 4096 }),
    RangeError,
  );
  await assertRejects(
    () => VirtualDisk.create(path, { sectors: 8, readOnly: true }),
    TypeError,
  );
  await assertRejects(() => Deno.stat(path), Deno.errors.NotFound);
});

Deno.test("VirtualDisk.open() shows the same disk through either backend", async () => {
  await using dir = await tempDir();
  const content = new Random(5).bytes(65_536);
  const path = await dir.file("disk.img", content);
  for (const backend of BACKENDS) {
    await using disk = await VirtualDisk.open(path, { backend });
    assertEquals(await disk.read(0, 128), content);
    assertEquals(disk.info.physicalBlockSize % disk.blockSize, 0);
  }
});

Deno.test({
  name: "VirtualDisk.create() leaves no image if it cannot be direct",
  ignore: !LINUX || !hasTmpfs(),
  async fn() {
    await using dir = await tmpfsDir();
    for (const backend of ["auto", ...BACKENDS] as const) {
      const path = dir.join("disk.img");
      const options = { backend, direct: "require" } as const;
      const create = () =>
        VirtualDisk.create(path, { sectors: 128, ...options });
      assertEquals(await kindOf(create), "platform");
      await assertRejects(() => Deno.stat(path), Deno.errors.NotFound);
      const content = new Random(6).bytes(4096);
      await Deno.writeFile(path, content);
      assertEquals(
        await kindOf(() => VirtualDisk.open(path, options)),
        "platform",
      );
      assertEquals(await Deno.readFile(path), content);
      await Deno.remove(path);
    }
  },
});

Deno.test("VirtualDisk.open() with direct never is not direct and says so", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", 65_536);
  for (const backend of BACKENDS) {
    await using disk = await VirtualDisk.open(path, {
      backend,
      direct: "never",
    });
    assertEquals(disk.info.direct.active, false);
    assertMatch(disk.info.direct.reason!, /never|not asked for/);
  }
});

Deno.test({
  name: "VirtualDisk.open() takes a symbolic link for what it links to",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(7).bytes(4096));
    await Deno.symlink(path, dir.join("link.img"));
    for (const backend of BACKENDS) {
      await using disk = await VirtualDisk.open(dir.join("link.img"), {
        backend,
      });
      const second = () => VirtualDisk.open(path, { backend });
      assertEquals(await kindOf(second), "locked");
      await disk.write(0, new Uint8Array(512).fill(1));
      assertEquals((await Deno.readFile(path))[0], 1);
    }
  },
});
