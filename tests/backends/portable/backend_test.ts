import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { closeSync, constants, openSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { openAgain, openSure } from "../../../src/backends/held_image.ts";
import type { PortableBackend } from "../../../src/backends/portable/backend.ts";
import {
  openPortable,
  type PortableOptions,
} from "../../../src/backends/portable/mod.ts";
import { DiskError, type DiskErrorKind } from "../../../src/errors.ts";
import { SECTOR_BYTES } from "../../../src/geometry.ts";
import { Random } from "../../../src/random.ts";
import {
  flushRequest,
  readRequest,
  type Request,
  RequestFlag,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../../src/request.ts";
import {
  carryOut,
  type ContractSubject,
  contractSuite,
  readDisk,
  readSectors,
  submitAll,
} from "../../contract.ts";
import {
  hasTmpfs,
  loopDevice,
  mount,
  needs,
  run,
  type TempDir,
  tempDir,
  tmpfsDir,
} from "../../helpers.ts";

const SIZE = 8 << 20;

const linux = Deno.build.os === "linux";

/** Closes a disk at the end of a block, so that what is below can be removed. */
function closing(disk: PortableBackend): AsyncDisposable {
  return { [Symbol.asyncDispose]: () => disk.close() };
}

/** A fresh image in a directory of its own. */
async function subjectIn(
  makeDir: () => Promise<TempDir>,
  options: PortableOptions,
  size = SIZE,
): Promise<ContractSubject> {
  const dir = await makeDir();
  const path = await dir.file("disk.img", size);
  return {
    backend: await openPortable(path, options),
    reopen: () => openPortable(path, options),
    cleanup: () => dir[Symbol.asyncDispose](),
  };
}

for (const blockSize of [512, 4096]) {
  for (const direct of ["prefer", "never"] as const) {
    const options = { blockSize, direct };
    contractSuite(
      `PortableBackend on disk, direct ${direct}, blocks of ${blockSize}`,
      () => subjectIn(tempDir, options),
      { readOnly: () => subjectIn(tempDir, { ...options, readOnly: true }) },
    );
  }
  contractSuite(
    `PortableBackend on tmpfs, blocks of ${blockSize}`,
    () => subjectIn(tmpfsDir, { blockSize }),
    {
      ignore: !hasTmpfs(),
      readOnly: () => subjectIn(tmpfsDir, { blockSize, readOnly: true }),
    },
  );
}

contractSuite(
  "PortableBackend with one descriptor",
  () => subjectIn(tempDir, { maxDescriptors: 1 }),
);

/** A fresh block device with sectors of some size. */
async function deviceSubject(
  sectorSize: number,
  options: PortableOptions,
): Promise<ContractSubject> {
  const dir = await tempDir();
  try {
    const image = await dir.file("device.img", SIZE);
    const device = await loopDevice(image, sectorSize);
    return {
      backend: await openPortable(device.path, options),
      reopen: () => openPortable(device.path, options),
      async cleanup() {
        try {
          await device[Symbol.asyncDispose]();
        } finally {
          await dir[Symbol.asyncDispose]();
        }
      },
    };
  } catch (error) {
    await dir[Symbol.asyncDispose]();
    throw error;
  }
}

const loops = linux ? needs("root", "losetup") : { ignore: true };

for (const sectorSize of [512, 4096]) {
  contractSuite(
    `PortableBackend on a loop device with sectors of ${sectorSize}`,
    () => deviceSubject(sectorSize, { direct: "require" }),
    {
      ...loops,
      readOnly: () =>
        deviceSubject(sectorSize, { direct: "require", readOnly: true }),
    },
  );
}

contractSuite(
  "PortableBackend with blocks of 512 on a loop device with sectors of 4096",
  () => deviceSubject(4096, { direct: "require", blockSize: 512 }),
  loops,
);

contractSuite(
  "PortableBackend with blocks of 512 on a cached loop device with sectors of 4096",
  () => deviceSubject(4096, { direct: "never", blockSize: 512 }),
  loops,
);

/** A file on a file system whose device has sectors of 4 KiB. */
async function fileOn4Kn(
  size: number,
  options: PortableOptions,
): Promise<ContractSubject & { path: string }> {
  const stack = new AsyncDisposableStack();
  try {
    const dir = stack.use(await tempDir());
    const image = await dir.file("device.img", 64 << 20);
    const device = stack.use(await loopDevice(image, 4096));
    await run("mkfs.ext4", ["-q", "-F", "-b", "4096", device.path]);
    const mounted = stack.use(await mount(device.path, dir.join("mnt")));
    const path = mounted.join("disk.img");
    await Deno.writeFile(path, new Uint8Array(size));
    const owned = stack.move();
    return {
      path,
      backend: await openPortable(path, options),
      reopen: () => openPortable(path, options),
      cleanup: () => owned.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

const mounts = linux
  ? needs("root", "losetup", "mkfs.ext4", "mount", "umount")
  : { ignore: true };

// Its last host block is a part of one: 3 MiB and five sectors.
contractSuite(
  "PortableBackend with blocks of 512 on ext4 with sectors of 4096, with a tail",
  () => fileOn4Kn((3 << 20) + 5 * SECTOR_BYTES, { direct: "require" }),
  mounts,
);

Deno.test({
  name: "PortableBackend writes a tail and never makes the file grow",
  ...mounts,
  async fn() {
    const tail = 5 * SECTOR_BYTES;
    const subject = await fileOn4Kn(8192 + tail, { direct: "require" });
    const { backend } = subject;
    try {
      assertEquals(backend.info.direct.offsetAlignment, 4096);
      const random = new Random(4);
      const content = random.bytes(8192 + tail);
      await carryOut(backend, writeRequest(0, content));
      assertEquals(await readDisk(backend), content);
      for (let i = 0; i < 64; i++) {
        const count = random.between(1, 5);
        const sector = random.between(12, 21 - count);
        const data = random.bytes(count * SECTOR_BYTES);
        content.set(data, sector * SECTOR_BYTES);
        await carryOut(backend, writeRequest(sector, data));
        assertEquals(await readDisk(backend), content);
      }
      assertEquals((await Deno.stat(subject.path)).size, 8192 + tail);
      await backend.close();
      assertEquals(await Deno.readFile(subject.path), content);
    } finally {
      await backend.close();
      await subject.cleanup!();
    }
  },
});

Deno.test({
  name: "PortableBackend counts read-modify-writes and copies",
  ...loops,
  async fn() {
    const subject = await deviceSubject(4096, { blockSize: 512 });
    const backend = subject.backend as PortableBackend;
    try {
      const memory = backend.allocate(16_384);
      const { counters } = backend;
      await carryOut(backend, writeRequest(0, memory));
      await carryOut(backend, readRequest(8, memory));
      assertEquals({ ...counters }, {
        systemCalls: 2,
        bounced: 0,
        readModifyWrites: 0,
      });
      await carryOut(backend, writeRequest(7, memory.subarray(0, 1024)));
      // Two blocks read, both written at once.
      assertEquals({ ...counters }, {
        systemCalls: 5,
        bounced: 1,
        readModifyWrites: 1,
      });
      await carryOut(backend, readRequest(0, new Uint8Array(4096)));
      assertEquals(counters.bounced, 2);
      await carryOut(backend, writeZeroesRequest(0, 8), flushRequest());
      assertEquals({ ...counters }, {
        systemCalls: 8,
        bounced: 2,
        readModifyWrites: 1,
      });
    } finally {
      await backend.close();
      await subject.cleanup!();
    }
  },
});

async function assertOpenFails(
  path: string,
  options: PortableOptions,
  kind: DiskErrorKind,
  operation = "open",
): Promise<DiskError> {
  const error = await assertRejects(() => openPortable(path, options));
  assertInstanceOf(error, DiskError);
  assertEquals(error.kind, kind, error.message);
  assertEquals(error.path, path);
  assertEquals(error.operation, operation);
  return error;
}

Deno.test("openPortable() says why it cannot open", async () => {
  await using dir = await tempDir();
  const missing = await assertOpenFails(dir.join("none"), {}, "not-found");
  assertEquals(missing.code, "ENOENT");
  await assertOpenFails(dir.path, {}, "geometry");
  const odd = await dir.file("odd.img", 1000);
  const error = await assertOpenFails(odd, {}, "geometry");
  assertMatch(
    error.message,
    /must be whole blocks of 512 bytes: current value is 1000/,
  );
  const small = await dir.file("small.img", 512);
  await assertOpenFails(small, { blockSize: 4096 }, "geometry");
});

Deno.test("openPortable() throws on options that are out of range", async () => {
  const options = [
    { blockSize: 1000 },
    { id: "x".repeat(21) },
    { maxDescriptors: 0 },
    { maxDescriptors: 1.5 },
  ];
  for (const each of options) {
    await assertRejects(() => openPortable("none.img", each), RangeError);
  }
});

Deno.test("openPortable() makes an image, and unmakes it if it cannot be one", async () => {
  await using dir = await tempDir();
  const path = dir.join("new.img");
  const create = { sizeBytes: 1 << 20, overwrite: false };
  const disk = await openPortable(path, { create });
  assertEquals(disk.geometry.sectors, 2048);
  await carryOut(disk, writeRequest(0, new Uint8Array(512).fill(1)));
  await disk.close();
  await assertOpenFails(path, { create }, "exists", "create");
  const again = await openPortable(path, {
    create: { sizeBytes: 4096, overwrite: true },
  });
  assertEquals(await readDisk(again), new Uint8Array(4096));
  await again.close();
  const bad = dir.join("bad.img");
  await assertOpenFails(
    bad,
    { create: { sizeBytes: 1000, overwrite: false } },
    "geometry",
  );
  await assertRejects(() => Deno.stat(bad), Deno.errors.NotFound);
});

Deno.test("openPortable() overwrites nothing that is locked", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", new Uint8Array(4096).fill(1));
  const disk = await openPortable(path);
  const create = { sizeBytes: 512, overwrite: true };
  await assertOpenFails(path, { create }, "locked");
  assertEquals((await Deno.stat(path)).size, 4096);
  await disk.close();
});

Deno.test({
  name: "openPortable() locks writers out, readers not",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 4096);
    const writer = await openPortable(path);
    assertEquals(writer.info.lock.method, "flock");
    await assertOpenFails(path, {}, "locked");
    const reader = await openPortable(path, { readOnly: true });
    assertEquals(reader.info.lock.method, "none");
    const second = await openPortable(path, { lock: "none" });
    assertEquals(second.info.lock.method, "none");
    await second.close();
    await writer.close();
    const next = await openPortable(path);
    await next.close();
    await reader.close();
  },
});

Deno.test({
  name: "openPortable() refuses a pipe and does not wait for it",
  ...(linux ? needs("mkfifo") : { ignore: true }),
  async fn() {
    await using dir = await tempDir();
    await run("mkfifo", [dir.join("pipe")]);
    await assertOpenFails(dir.join("pipe"), {}, "geometry");
  },
});

Deno.test("openPortable() opens an empty image", async () => {
  await using dir = await tempDir();
  const disk = await openPortable(await dir.file("empty.img", 0));
  assertEquals(disk.geometry.sectors, 0);
  await carryOut(disk, flushRequest());
  await disk.close();
});

Deno.test({
  name: "openPortable() is direct on a disk, and not on tmpfs",
  ignore: !linux || !hasTmpfs(),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Uint8Array(65_536).fill(1));
    const disk = await openPortable(path, { direct: "require" });
    const { direct, durability } = disk.info;
    assertEquals(direct.active, true);
    assertEquals(direct.method, "O_DIRECT");
    assertEquals(direct.memoryAlignment, 4096);
    assertEquals(durability.method, "fdatasync");
    assertEquals(durability.fua, "write + fdatasync");
    await disk.close();
    const never = await openPortable(path, { direct: "never" });
    assertEquals(never.info.direct.active, false);
    assertEquals(never.info.direct.reason, "it was not asked for");
    await never.close();

    await using memory = await tmpfsDir();
    const inMemory = await memory.file("disk.img", 65_536);
    const buffered = await openPortable(inMemory);
    assertEquals(buffered.info.direct.active, false);
    assertMatch(buffered.info.direct.reason!, /tmpfs .*in memory/);
    assertEquals(buffered.info.durability.flush, "page cache");
    await buffered.close();
    await assertOpenFails(inMemory, { direct: "require" }, "platform");
  },
});

Deno.test({
  name: "openPortable() is not direct where ext4 buffers a file all the same",
  ...(linux ? needs("root", "losetup", "mkfs.ext4") : { ignore: true }),
  async fn() {
    for (const journal of ["journal", "ordered"]) {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(await tempDir());
      const loop = stack.use(
        await loopDevice(await dir.file("back", 32 << 20)),
      );
      await run("mkfs.ext4", ["-q", loop.path]);
      const place = stack.use(
        await mount(loop.path, dir.join("mnt"), "-o", `data=${journal}`),
      );
      const path = place.join("disk.img");
      await Deno.writeFile(path, new Uint8Array(1 << 20).fill(1));
      await run("sync", ["-f", path]);
      const disk = await openPortable(path);
      const { active, reason } = disk.info.direct;
      await disk.close();
      if (journal === "ordered") {
        assertEquals([active, reason], [true, null]);
      } else {
        assertEquals(active, false);
        assertMatch(reason!, /takes unaligned reads/);
        await assertOpenFails(path, { direct: "require" }, "platform");
      }
    }
  },
});

Deno.test({
  name: "openPortable() takes a device's own blocks",
  ...loops,
  async fn() {
    for (const sectorSize of [512, 4096]) {
      for (const direct of ["require", "never"] as const) {
        const subject = await deviceSubject(sectorSize, { direct });
        const { geometry, info } = subject.backend;
        await subject.backend.close();
        await subject.cleanup!();
        assertEquals(geometry.blockSize, sectorSize);
        assertEquals(geometry.sectors, SIZE / SECTOR_BYTES);
        assertEquals(info.medium, "block device");
        if (direct === "require") {
          assertEquals(info.direct.offsetAlignment, sectorSize);
        }
      }
    }
  },
});

/** How many descriptors lead to a file; Linux tells. */
function descriptorsOf(path: string): number {
  return [...Deno.readDirSync("/proc/self/fd")].filter(({ name: fd }) => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${fd}`) === path;
    } catch {
      return false; // The one that lists them.
    }
  }).length;
}

Deno.test({
  name: "PortableBackend opens descriptors as reads need them",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Uint8Array(SIZE).fill(1));
    const disk = await openPortable(path, { maxDescriptors: 8 });
    const opened = descriptorsOf(path);
    for (let i = 0; i < 4; i++) await readSectors(disk, i, 1);
    assertEquals(descriptorsOf(path), opened);
    await Promise.all([0, 1, 2].map((i) => readSectors(disk, i, 1)));
    assertEquals(descriptorsOf(path), opened + 2);
    const many = Array.from({ length: 100 }, (_, i) => readSectors(disk, i, 1));
    await Promise.all(many);
    assertEquals(descriptorsOf(path), opened + 7);
    await disk.close();
  },
});

Deno.test("PortableBackend keeps to its image when the path leads elsewhere", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", new Uint8Array(65_536).fill(1));
  const disk = await openPortable(path);
  const linux = Deno.build.os === "linux";
  const opened = linux ? descriptorsOf(path) : 0;
  await Deno.rename(path, dir.join("old.img"));
  await dir.file("disk.img", new Uint8Array(65_536).fill(2));
  const reads = Array.from({ length: 32 }, (_, i) => readSectors(disk, i, 1));
  for (const data of await Promise.all(reads)) assertEquals(data[0], 1);
  if (linux) assertEquals(descriptorsOf(dir.join("old.img")), opened);
  await carryOut(disk, writeRequest(0, new Uint8Array(512).fill(3)));
  await disk.close();
  assertEquals((await Deno.readFile(path))[0], 2);
  assertEquals((await Deno.readFile(dir.join("old.img")))[0], 3);
});

Deno.test({
  name: "PortableBackend goes on where a pipe has the image's name by now",
  ...(linux ? needs("mkfifo") : { ignore: true }),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Uint8Array(65_536).fill(1));
    const disk = await openPortable(path, { readOnly: true });
    const fd = openSync(path, constants.O_RDONLY);
    try {
      // How it opens: else what follows would wait for ever.
      const other = openAgain(path, fd, constants.O_RDONLY)!;
      const info = Deno.readTextFileSync(`/proc/self/fdinfo/${other}`);
      closeSync(other);
      const flags = parseInt(/^flags:\s*([0-7]+)$/m.exec(info)![1]!, 8);
      assertEquals(flags & constants.O_NONBLOCK, constants.O_NONBLOCK);
      await Deno.remove(path);
      await run("mkfifo", [path]);
      const reads = [0, 8, 16].map((sector) => readSectors(disk, sector, 1));
      for (const data of await Promise.all(reads)) assertEquals(data[0], 1);
      assertThrows(
        () => openSure(path, fd, constants.O_RDONLY),
        DiskError,
        "was replaced meanwhile",
      );
    } finally {
      closeSync(fd);
      await disk.close();
    }
  },
});

Deno.test("PortableBackend says that an image shrank", async () => {
  await using dir = await tempDir();
  for (const direct of ["prefer", "never"] as const) {
    const path = await dir.file("disk.img", new Uint8Array(65_536).fill(1));
    const disk = await openPortable(path, { direct });
    await Deno.truncate(path, 8192 + 512);
    const read = async (sector: number, count: number) => {
      const data = new Uint8Array(count * SECTOR_BYTES);
      return (await submitAll(disk, [readRequest(sector, data)]))[0];
    };
    assertEquals(await read(16, 1), null);
    for (const [sector, count] of [[17, 1], [64, 8], [8, 32]] as const) {
      const error = await read(sector, count);
      assertEquals(error?.kind, "io");
      assertEquals(error?.sector, sector);
      assertEquals(error?.count, count);
      assertEquals(error?.path, path);
      assertMatch(
        error!.message,
        /as the image ends before the disk does: it was cut while open$/,
      );
    }
    await disk.close();
  }
});

Deno.test({
  name:
    "PortableBackend says that there is no space, and what could be written",
  ...(linux ? needs("root", "mount", "umount") : { ignore: true }),
  async fn() {
    await using dir = await tempDir();
    await using memory = await mount(
      "tmpfs",
      dir.join("mnt"),
      "-t",
      "tmpfs",
      "-o",
      "size=1m",
    );
    const path = memory.join("disk.img");
    await Deno.writeFile(path, new Uint8Array());
    await Deno.truncate(path, 4 << 20);
    const disk = await openPortable(path);
    await using _disk = closing(disk);
    const data = new Uint8Array(2 << 20).fill(1);
    const [error] = await submitAll(disk, [writeRequest(8, data)]);
    assertEquals(error?.kind, "no-space");
    assertEquals(error?.code, "ENOSPC");
    assertEquals(error?.errno, 28);
    assertEquals(error?.operation, "write");
    assertEquals(error?.sector, 8);
    assertEquals(error?.count, 4096);
  },
});

Deno.test("PortableBackend shares flushes and answers each", async () => {
  await using dir = await tempDir();
  const disk = await openPortable(await dir.file("disk.img", SIZE));
  const requests: Request[] = [];
  for (let i = 0; i < 32; i++) {
    requests.push(writeFuaRequest(i, new Uint8Array(512).fill(i)));
  }
  await carryOut(disk, ...requests);
  const calls = disk.counters.systemCalls;
  // One call for what is in flight, one for all that came meanwhile.
  await carryOut(disk, ...Array.from({ length: 10 }, flushRequest));
  assert(disk.counters.systemCalls - calls <= 2);
  await disk.close();
});

Deno.test("PortableBackend lets the event loop turn between writes", async () => {
  await using dir = await tempDir();
  const disk = await openPortable(await dir.file("disk.img", SIZE));
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  const data = disk.allocate(1 << 20).fill(1);
  const writes: Request[] = [];
  for (let i = 0; i < 64; i++) writes.push(writeRequest(0, data));
  await carryOut(disk, ...writes);
  clearInterval(timer);
  assert(turns >= 4, `${turns} turns`);
  await disk.close();
});

Deno.test("PortableBackend follows a durable write by a flush", async () => {
  await using dir = await tempDir();
  const disk = await openPortable(await dir.file("disk.img", SIZE));
  const data = disk.allocate(4096);
  const callsOf = async (request: Request) => {
    const before = disk.counters.systemCalls;
    await carryOut(disk, request);
    return disk.counters.systemCalls - before;
  };
  assertEquals(await callsOf(writeRequest(0, data)), 1);
  assertEquals(await callsOf(writeFuaRequest(0, data)), 2);
  assertEquals(await callsOf(writeZeroesRequest(0, 8)), 1);
  assertEquals(await callsOf(writeZeroesRequest(0, 8, RequestFlag.Fua)), 2);
  await disk.close();
});

Deno.test({
  name: "PortableBackend promises no durability after a failed flush",
  ...(linux ? needs("root", "mount", "umount", "losetup") : { ignore: true }),
  async fn() {
    // A device that fails what its file system has no space for.
    await using dir = await tempDir();
    await using memory = await mount(
      "tmpfs",
      dir.join("mnt"),
      "-t",
      "tmpfs",
      "-o",
      "size=1m",
    );
    const path = memory.join("device.img");
    await Deno.writeFile(path, new Uint8Array());
    await Deno.truncate(path, 4 << 20);
    await using device = await loopDevice(path);
    const disk = await openPortable(device.path, { direct: "never" });
    await using _disk = closing(disk);
    const data = new Uint8Array(2 << 20).fill(1);
    await carryOut(disk, writeRequest(0, data));
    const [first, second] = await Promise.all([
      submitAll(disk, [flushRequest()]),
      // Too late to share the first one.
      new Promise((resolve) => setTimeout(resolve, 0)).then(() =>
        submitAll(disk, [flushRequest()])
      ),
    ]);
    assertEquals(first[0]?.operation, "flush");
    assert(["EIO", "ENOSPC"].includes(first[0]!.code!));
    assertNotEquals(second[0], null);
    const late = await submitAll(disk, [
      flushRequest(),
      writeFuaRequest(0, new Uint8Array(512)),
      writeRequest(0, new Uint8Array(512)),
      readRequest(0, new Uint8Array(512)),
    ]);
    assertEquals(late.map((error) => error?.kind), [
      "latched",
      "latched",
      undefined,
      undefined,
    ]);
    assertInstanceOf(late[0]!.cause, Error);
  },
});

Deno.test("PortableBackend has the same identity in every backend of a file", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", 4096);
  const first = await openPortable(path, { lock: "none" });
  const second = await openPortable(path, { lock: "none" });
  assertEquals(first.info.id, second.info.id);
  const named = await openPortable(path, { lock: "none", id: "root disk" });
  assertNotEquals(named.info.id, first.info.id);
  assertEquals(named.info.id, "root disk");
  for (const disk of [first, second, named]) await disk.close();
});

/** Runs a program with some permissions, its image as the only argument. */
async function runWith(
  permissions: string[],
  source: string,
  image: string,
): Promise<string> {
  const module = new URL(
    "../../../src/backends/portable/mod.ts",
    import.meta.url,
  );
  await using dir = await tempDir();
  const program = `import { openPortable } from ${JSON.stringify(module.href)};
const path = Deno.args[0];
${source}`;
  await Deno.writeTextFile(dir.join("program.ts"), program);
  const config = fileURLToPath(new URL("../../../deno.json", import.meta.url));
  const args = ["run", "--no-prompt", "--config", config, ...permissions];
  return (await run(Deno.execPath(), [...args, dir.join("program.ts"), image]))
    .trim();
}

Deno.test("PortableBackend needs no permission but for its path", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", 65_536);
  const source = `
const disk = await openPortable(path, { readOnly: Deno.args[1] === "r" });
console.log(JSON.stringify(disk.info));
await disk.close();`;
  const both = [`--allow-read=${path}`, `--allow-write=${path}`];
  const info = JSON.parse(await runWith(both, source, path));
  assertEquals(info.backend, "portable");
  if (linux) {
    assertEquals(info.direct.active, true);
    assertEquals(info.direct.offsetAlignment, 4096);
    assertEquals(info.direct.alignmentSource, "assumed");
    assertMatch(info.direct.reason, /--allow-sys=statfs/);
    assertEquals(info.durability.flush, "unknown");
  }
  const refused = `
const kinds = [];
for (const readOnly of [false, true]) {
  try {
    await (await openPortable(path, { readOnly })).close();
    kinds.push("opened");
  } catch (error) {
    kinds.push(error.kind);
  }
}
console.log(kinds.join(" "));`;
  assertEquals(await runWith([], refused, path), "permission permission");
  assertEquals(
    await runWith([`--allow-read=${path}`], refused, path),
    "permission opened",
  );
});

Deno.test({
  name: "PortableBackend finds the host's alignment by reading data, not holes",
  ...mounts,
  async fn() {
    const subject = await fileOn4Kn(1 << 20, { direct: "require" });
    const path = subject.path;
    try {
      await subject.backend.close();
      const source = `
const disk = await openPortable(path);
const { offsetAlignment, alignmentSource } = disk.info.direct;
console.log(offsetAlignment, alignmentSource);
await disk.close();`;
      const both = [`--allow-read=${path}`, `--allow-write=${path}`];
      assertEquals(await runWith(both, source, path), "4096 assumed");
      await Deno.writeFile(path, new Uint8Array(1 << 20).fill(1));
      assertEquals(await runWith(both, source, path), "4096 trial reads");
    } finally {
      await subject.cleanup!();
    }
    await using dir = await tempDir();
    const own = await dir.file("own.img", new Uint8Array(65_536).fill(1));
    const source = `
const disk = await openPortable(path);
console.log(disk.info.direct.alignmentSource);
await disk.close();`;
    assertEquals(
      await runWith(
        [`--allow-read=${own}`, `--allow-write=${own}`],
        source,
        own,
      ),
      "trial reads",
    );
  },
});

Deno.test("PortableBackend leaves no descriptor open", async () => {
  if (!linux) return;
  await using dir = await tempDir();
  const path = await dir.file("disk.img", SIZE);
  const count = () => [...Deno.readDirSync("/proc/self/fd")].length;
  const use = async () => {
    const disk = await openPortable(path);
    await Promise.all(
      Array.from({ length: 64 }, (_, i) => readSectors(disk, i, 1)),
    );
    await disk.close();
  };
  await use();
  const before = count();
  for (let i = 0; i < 8; i++) await use();
  assert(count() <= before + 2);
  await dir.file("odd.img", 1000);
  for (let i = 0; i < 8; i++) {
    await assertRejects(() => openPortable(dir.join("odd.img")));
  }
  assert(count() <= before + 2);
});
