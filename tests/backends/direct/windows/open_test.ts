/**
 * How images are opened on Windows, and what becomes of what Windows says: over a
 * Windows of the tests' own.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Windows } from "../../../../ffi/windows.ts";
import {
  ACCESS,
  FILE_ATTRIBUTE,
  FILE_FLAG,
  SHARE,
} from "../../../../ffi/windows_abi.ts";
import type { DirectBackend } from "../../../../src/backends/direct/backend.ts";
import type { EngineName } from "../../../../src/engines/choose_engine.ts";
import { openOnWindows } from "../../../../src/backends/direct/windows/mod.ts";
import { isDevicePath } from "../../../../src/backends/direct/windows/open_device.ts";
import type { ImageOptions } from "../../../../src/backends/image_options.ts";
import { VirtualDisk } from "../../../../src/disk/disk.ts";
import { DiskError } from "../../../../src/errors.ts";
import {
  discardRequest,
  flushRequest,
  readRequest,
  RequestFlag,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../../../src/request.ts";
import {
  assertRefused,
  carryOut,
  readSectors,
  submitAll,
} from "../../../contract.ts";
import {
  FakeWindows,
  type FakeWindowsOptions,
} from "../../../ffi/fake_windows.ts";
import { type TempDir, tempDir } from "../../../helpers.ts";

const ignore = Deno.build.os === "windows";
const MIB = 1_048_576;
const { GENERIC_READ, GENERIC_WRITE } = ACCESS;
const { NO_BUFFERING, OVERLAPPED } = FILE_FLAG;

/** Memory that Windows itself keeps: for calls that wait, and their structs. */
const OWN_MEMORY = 2;

interface Fixture {
  readonly fake: FakeWindows;
  readonly dir: TempDir;
  readonly path: string;
  open(options?: Partial<ImageOptions>, engine?: EngineName): Promise<
    DirectBackend
  >;
}

/** Runs a test over a fake Windows, and finds nothing left of it. */
function test(
  name: string,
  options: FakeWindowsOptions,
  fn: (fixture: Fixture) => Promise<void>,
): void {
  Deno.test({
    name,
    ignore,
    async fn() {
      await using dir = await tempDir();
      const fake = new FakeWindows(options);
      const windows = new Windows(fake.openLibrary);
      const path = dir.join("disk.img");
      const open = (more?: Partial<ImageOptions>, engine?: EngineName) =>
        openOnWindows(
          path,
          { readOnly: false, direct: "prefer", lock: "auto", ...more },
          { engine: engine ?? "auto", depth: 8, stallMs: 0.1, pollMs: 0.1 },
          windows,
        );
      await fn({ fake, dir, path, open });
      assertEquals(fake.openHandles, 0);
      assertEquals(fake.mapped, OWN_MEMORY);
      assertEquals(fake.openLibraries, 0);
      assertEquals(fake.refused, 0);
    },
  });
}

const create = { sizeBytes: MIB, overwrite: false };

function kindOf(promise: Promise<unknown>): Promise<string> {
  return assertRejects(() => promise, DiskError).then(({ kind }) => kind);
}

test(
  "openOnWindows() opens without a buffer, and shares no writing",
  {},
  async ({ fake, path, open }) => {
    const backend = await open({ create, direct: "require" });
    const { access, share, flags } = fake.flagsOf(path);
    // What makes the content and the lock are other handles.
    assertEquals(access >>> 0, GENERIC_READ + GENERIC_WRITE);
    assertEquals(share, SHARE.READ | SHARE.DELETE);
    assertEquals(flags >>> 0, NO_BUFFERING + OVERLAPPED);
    assertEquals(backend.info.lock, { method: "share mode", reason: null });
    assertEquals(backend.info.engine, { name: "iocp", reason: null });
    assertEquals(backend.info.direct, {
      active: true,
      method: "FILE_FLAG_NO_BUFFERING",
      reason: null,
      memoryAlignment: 512,
      offsetAlignment: 512,
      readOffsetAlignment: 512,
      alignmentSource: "volume",
    });
    assertEquals(backend.info.durability.method, "FlushFileBuffers");
    assertEquals(backend.info.durability.flush, "media");
    // A setting of the user's, which nobody asked for.
    assertMatch(backend.info.durability.reason!, /has turned off its write-/);
    assertEquals(backend.geometry.physicalBlockSize, 4096);
    await backend.close();
    const reader = await open({ readOnly: true });
    assertEquals(fake.flagsOf(path).share, 7);
    assertEquals(fake.flagsOf(path).access >>> 0, GENERIC_READ);
    assertEquals(reader.info.lock.method, "none");
    await carryOut(reader, flushRequest());
    await reader.close();
  },
);

test(
  "openOnWindows() keeps out a second writer, and readers that want to be alone",
  {},
  async ({ open }) => {
    const writer = await open({ create });
    const kinds = (...options: Partial<ImageOptions>[]) =>
      Promise.all(options.map((one) => kindOf(open(one))));
    assertEquals(
      await kinds({}, { lock: "none" }, { readOnly: true, lock: "exclusive" }),
      ["locked", "locked", "locked"],
    );
    const reader = await open({ readOnly: true });
    await reader.close();
    await writer.close();
    const alone = await open({ readOnly: true, lock: "exclusive" });
    const other = await open({ readOnly: true, lock: "exclusive" });
    assertEquals(await kinds({}), ["locked"]);
    await alone.close();
    await other.close();
  },
);

test(
  "openOnWindows() takes nothing from an image that another program writes to",
  {},
  async ({ fake, path, open }) => {
    await (await open({ create })).close();
    const before = await Deno.readFile(path);
    const access = GENERIC_READ | GENERIC_WRITE;
    const close = fake.openElsewhere(path, access, SHARE.READ);
    const overwrite = { create: { sizeBytes: 512, overwrite: true } };
    assertEquals(await kindOf(open(overwrite)), "locked");
    assertEquals(await Deno.readFile(path), before);
    close();
  },
);

test(
  "openOnWindows() makes images sparse, and reserved ones not",
  {},
  async ({ fake, open, path }) => {
    const sparse = await open({ create });
    assertEquals(sparse.extents(0, 2048), [
      { sector: 0, count: 2048, hole: true },
    ]);
    await carryOut(sparse, writeRequest(300, new Uint8Array(8192).fill(5)));
    assertEquals(sparse.extents(0, 2048), [
      { sector: 0, count: 256, hole: true },
      { sector: 256, count: 128, hole: false },
      { sector: 384, count: 1664, hole: true },
    ]);
    assertEquals(sparse.abilities.discard, "native");
    await carryOut(sparse, discardRequest(256, 128));
    assertEquals(sparse.extents(0, 2048).length, 1);
    assertEquals(await readSectors(sparse, 256, 128), new Uint8Array(65_536));
    await carryOut(sparse, writeRequest(0, new Uint8Array(65_536).fill(6)));
    await carryOut(sparse, writeZeroesRequest(0, 64, RequestFlag.Unmap));
    // Without leave to give the space up, zeroes are written.
    const zeroed = fake.calls.filter(({ name }) =>
      name === "FSCTL_SET_ZERO_DATA"
    );
    await carryOut(sparse, writeZeroesRequest(64, 64));
    assertEquals(
      fake.calls.filter(({ name }) => name === "FSCTL_SET_ZERO_DATA").length,
      zeroed.length,
    );
    assertEquals(await readSectors(sparse, 0, 128), new Uint8Array(65_536));
    await sparse.close();
    await Deno.remove(path);
    fake.calls.length = 0;
    const full = await open({ create: { ...create, preallocate: true } });
    assertEquals(
      fake.calls.some(({ name }) => name === "FSCTL_SET_SPARSE"),
      false,
    );
    assertEquals(full.abilities.discard, "none");
    await carryOut(full, writeRequest(0, new Uint8Array(4096).fill(6)));
    await carryOut(full, writeZeroesRequest(0, 8));
    assert(fake.calls.some(({ name }) => name === "FSCTL_SET_ZERO_DATA"));
    assertEquals(await readSectors(full, 0, 8), new Uint8Array(4096));
    await full.close();
  },
);

test("openOnWindows() does without what a file system lacks", {
  zeroes: false,
  fileSystem: "FAT32",
}, async ({ open }) => {
  const backend = await open({ create });
  assertEquals(backend.abilities.discard, "none");
  assertEquals(backend.abilities.writeZeroes, "emulated");
  await carryOut(backend, writeRequest(0, new Uint8Array(4096).fill(6)));
  await carryOut(backend, writeZeroesRequest(0, 8));
  assertEquals(await readSectors(backend, 0, 8), new Uint8Array(4096));
  assertEquals(backend.extents(0, 2048), [
    { sector: 0, count: 2048, hole: false },
  ]);
  await backend.close();
});

test("DirectBackend writes zeroes where Windows says that it cannot", {
  zeroes: false,
}, async ({ open }) => {
  const backend = await open({ create });
  assertEquals(backend.abilities.writeZeroes, "native");
  await carryOut(backend, writeRequest(0, new Uint8Array(4096).fill(6)));
  await carryOut(backend, writeZeroesRequest(0, 8));
  assertEquals(await readSectors(backend, 0, 8), new Uint8Array(4096));
  await backend.close();
});

test("openOnWindows() buffers a file that is no whole sectors, and says so", {
  sector: 4096,
}, async ({ dir, open, path }) => {
  await dir.file("disk.img", new Uint8Array(4096 * 3 + 512).fill(3));
  const backend = await open();
  assertEquals(backend.info.direct.active, false);
  assertMatch(backend.info.direct.reason!, /whole sectors of 4096 bytes/);
  await carryOut(backend, writeFuaRequest(24, new Uint8Array(512).fill(4)));
  await backend.close();
  assertEquals((await Deno.stat(path)).size, 4096 * 3 + 512);
  assertEquals((await Deno.readFile(path)).at(-1), 4);
  assertEquals(await kindOf(open({ direct: "require" })), "platform");
  // For reading, what is beyond the end is not there.
  const reader = await open({ readOnly: true, direct: "require" });
  assertEquals((await readSectors(reader, 24, 1))[0], 4);
  await reader.close();
});

test("VirtualDisk#resize() on Windows keeps direct I/O to whole sectors", {
  sector: 4096,
}, async ({ open, path }) => {
  const disk = VirtualDisk.over(await open({ create, blockSize: 512 }));
  await disk.resize(4096);
  assertEquals((await Deno.stat(path)).size, 2 * MIB);
  assertEquals(await kindOf(disk.resize(4097)), "unsupported");
  assertEquals((await Deno.stat(path)).size, 2 * MIB);
  await disk.close();
});

for (
  const [what, options, direct, flush] of [
    ["another machine", { remote: true }, false, "unknown"],
    [
      "a compressed file",
      { attributes: FILE_ATTRIBUTE.COMPRESSED },
      false,
      "media",
    ],
    [
      "an encrypted file",
      { attributes: FILE_ATTRIBUTE.ENCRYPTED },
      false,
      "media",
    ],
    [
      "an unknown file system",
      { fileSystem: "VBoxSharedFolderFS" },
      true,
      "unknown",
    ],
  ] as const
) {
  test(
    `openOnWindows() promises no more than ${what} keeps`,
    options,
    async ({ open }) => {
      const backend = await open({ create });
      assertEquals(backend.info.direct.active, direct);
      assertEquals(backend.info.durability.flush, flush);
      await carryOut(backend, writeFuaRequest(0, new Uint8Array(512)));
      await backend.close();
      if (!direct) {
        assertEquals(await kindOf(open({ direct: "require" })), "platform");
      }
    },
  );
}

for (
  const [status, code, kind] of [
    [0xc000_009c, "EIO", "io"],
    [0xc000_007f, "ENOSPC", "no-space"],
    [0xc000_00a2, "EROFS", "read-only"],
    [0xc000_009a, "ENOMEM", "io"],
    [0xdead_beef, "EIO", "io"],
  ] as const
) {
  const fail = (name: string, offset: number) =>
    name === "NtWriteFile" && offset === 4096 ? status | 0 : undefined;
  test(`DirectBackend says ${code} for status 0x${status.toString(16)}`, {
    fail,
  }, async ({ open }) => {
    for (const engine of ["iocp", "sync"] as const) {
      const backend = await open(
        { create: { ...create, overwrite: true } },
        engine,
      );
      const error = await assertRefused(
        backend,
        writeRequest(8, new Uint8Array(512)),
        kind,
      );
      assertEquals(error.code, code);
      await carryOut(backend, writeRequest(0, new Uint8Array(512)));
      await backend.close();
    }
  });
}

test("DirectBackend promises nothing on Windows after a failed flush", {
  fail: (name) => name === "NtFlushBuffersFile" ? 0xc000_0185 | 0 : undefined,
}, async ({ open }) => {
  const backend = await open({ create });
  const [first] = await submitAll(backend, [flushRequest()]);
  assertEquals(first!.code, "EIO");
  await assertRefused(backend, flushRequest(), "latched");
  await assertRefused(
    backend,
    writeFuaRequest(0, new Uint8Array(512)),
    "latched",
  );
  await carryOut(backend, readRequest(0, new Uint8Array(512)));
  await backend.close();
});

test("DirectBackend gives up on Windows what its caller gives up", {
  hold: true,
}, async ({ fake, open }) => {
  const disk = VirtualDisk.over(await open({ create }));
  const abort = new AbortController();
  const reading = disk.read(0, 8, { signal: abort.signal });
  const other = disk.read(8, 8);
  await new Promise((resolve) => setTimeout(resolve, 5));
  abort.abort();
  await assertRejects(() => reading);
  fake.release();
  assertEquals(await other, new Uint8Array(4096));
  await disk.close();
});

test("DirectBackend does not take a completion of nothing for one of its own", {
  hold: true,
}, async ({ fake, open }) => {
  const backend = await open({ create });
  const memory = backend.allocate(512);
  const read = carryOut(backend, readRequest(0, memory));
  // Of an operation that was refused, as Wine sends it; and of none.
  for (const context of [1n, 0n, 8n, 2n ** 40n]) fake.post(context);
  let over = false;
  read.then(() => over = true);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assertEquals(over, false);
  fake.release();
  await read;
  await backend.close();
});

test(
  "DirectBackend goes on by blocking calls on Windows where the port breaks",
  { hold: true },
  async ({ fake, open }) => {
    const backend = await open({ create });
    const writes = submitAll(backend, [
      writeRequest(0, new Uint8Array(512).fill(1)),
      writeRequest(8, new Uint8Array(512).fill(2)),
    ]);
    await new Promise((resolve) => setTimeout(resolve, 5));
    fake.breakPorts();
    assertEquals(await writes, [null, null]);
    assertEquals(backend.info.engine, {
      name: "sync",
      reason:
        "iocp broke in use: NtRemoveIoCompletionEx failed with 0xc0000008",
    });
    assertEquals((await readSectors(backend, 8, 1))[0], 2);
    await carryOut(backend, flushRequest());
    await backend.close();
  },
);

test(
  "DirectBackend notices on Windows that its image was cut",
  {},
  async ({ open, path }) => {
    const backend = await open({ create });
    await Deno.truncate(path, 4096);
    const error = await assertRefused(
      backend,
      readRequest(1024, new Uint8Array(512)),
      "io",
    );
    assertMatch(error.message, /it was cut while open/);
    await assertRefused(
      backend,
      writeRequest(2040, new Uint8Array(4096)),
      "io",
    );
    await backend.close();
  },
);

test(
  "openOnWindows() leaves no file behind if it fails",
  {},
  async ({ open, path }) => {
    const bad = { create: { sizeBytes: 1000, overwrite: false } };
    assertEquals(await kindOf(open(bad)), "geometry");
    assertEquals(await kindOf(open({ create }, "io_uring")), "platform");
    await assertRejects(() => Deno.stat(path), Deno.errors.NotFound);
    assertEquals(await kindOf(open()), "not-found");
    await (await open({ create })).close();
    assertEquals(await kindOf(open({ create })), "exists");
  },
);

Deno.test({
  name:
    "openOnWindows() locks and dismounts the volumes of a disk that it writes to",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const content = await dir.file("content", 8 * MIB);
    const disk = "\\\\.\\PhysicalDrive1";
    const [own, foreign] = ["1", "2"].map((n) => `\\\\?\\Volume{${n}}`);
    const devices = (more = {}) => ({
      [disk]: { content, disk: 1, ...more },
      [own!]: { content, disk: 1, volume: true, ...more },
      [foreign!]: { content, disk: 0, volume: true },
    });
    const back = Deno.cwd();
    // What Deno says of the path is asked of a file of that name here.
    await dir.file(disk, 0);
    Deno.chdir(dir.path);
    try {
      const open = async (fake: FakeWindows, options = {}) =>
        await openOnWindows(
          disk,
          { readOnly: false, direct: "prefer", lock: "auto", ...options },
          { engine: "auto", depth: 8, stallMs: 0.1, pollMs: 0.1 },
          new Windows(fake.openLibrary),
        );
      const fake = new FakeWindows({ sector: 4096, devices: devices() });
      const backend = await open(fake);
      assertEquals(backend.geometry.sectors, 8 * MIB / 512);
      assertEquals(backend.geometry.blockSize, 4096);
      assertEquals(backend.info.medium, "block device");
      assertEquals(backend.info.lock, {
        method: "FSCTL_LOCK_VOLUME",
        reason: `dismounted until the disk is closed: ${own}`,
      });
      assertEquals(backend.info.warnings, [backend.info.lock.reason!]);
      assertEquals(
        fake.calls.filter(({ name }) => name.startsWith("FSCTL"))
          .map(({ name, args }) => [name, ...args]),
        [["FSCTL_LOCK_VOLUME", own], ["FSCTL_DISMOUNT_VOLUME", own]],
      );
      assertEquals(fake.openHandles, 2);
      await carryOut(backend, writeFuaRequest(8, new Uint8Array(4096).fill(1)));
      assertEquals((await readSectors(backend, 8, 8))[9], 1);
      await backend.close();
      assertEquals(fake.openHandles, 0);

      // What is on no disk is no matter, what does not say where it is may be.
      const [NO_MEDIA, NO_DISK, DENIED] = [0xc0000013, 0xc0000010, 0xc0000022];
      const [empty, cd, silent] = ["3", "4", "5"]
        .map((n) => `\\\\?\\Volume{${n}}`) as [string, string, string];
      const some = { content, disk: 1, volume: true };
      for (
        const [mine, reason] of [
          [{ volume: true }, `dismounted until the disk is closed: ${own}`],
          [
            { volume: false },
            "no volume is known to be on this disk, and nothing keeps other programs from writing to it",
          ],
        ] as const
      ) {
        const puzzle = await open(
          new FakeWindows({
            devices: {
              ...devices(),
              [own!]: { content, disk: 1, ...mine },
              [empty]: { ...some, untold: NO_MEDIA | 0 },
              [cd]: { ...some, untold: NO_DISK | 0 },
              [silent]: { ...some, untold: DENIED | 0 },
            },
          }),
        );
        assertEquals(
          puzzle.info.lock.reason,
          `${reason}; what disk this is on is unknown: ${silent}`,
        );
        assertMatch(
          puzzle.info.durability.reason!,
          /has turned off its write-/,
        );
        await puzzle.close();
      }

      const busy = new FakeWindows({ devices: devices({ inUse: true }) });
      const error = await assertRejects(() => open(busy), DiskError);
      assertEquals(error.kind, "locked");
      assertMatch(error.message, /volume \\\\\?\\Volume\{1\} has open files/);
      assertEquals(busy.openHandles, 0);
      await (await open(busy, { readOnly: true })).close();
      const locked = new FakeWindows({
        devices: devices({ writeProtected: true }),
      });
      assertEquals(await kindOf(open(locked)), "read-only");
      assertEquals(locked.openHandles, 0);
      assertEquals(await kindOf(open(locked, { create })), "exists");
    } finally {
      Deno.chdir(back);
    }
  },
});

Deno.test({
  name:
    "openOnWindows() reads and writes a volume to its end, beyond its file system's",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const path = "\\\\.\\E:";
    const fake = new FakeWindows({
      devices: {
        [path]: {
          content: await dir.file("content", MIB),
          disk: 1,
          volume: true,
          fileSystemBytes: MIB - 4096,
        },
      },
    });
    const back = Deno.cwd();
    // What Deno says of the path is asked of a file of that name here.
    await dir.file(path, 0);
    Deno.chdir(dir.path);
    try {
      const backend = await openOnWindows(
        // With a backslash it is the root folder: nobody has a disk there.
        `${path}\\`,
        { readOnly: false, direct: "prefer", lock: "auto" },
        { engine: "auto", depth: 8, stallMs: 0.1, pollMs: 0.1 },
        new Windows(fake.openLibrary),
      );
      assertEquals(backend.info.path, path);
      const last = MIB / 512 - 1;
      await carryOut(backend, writeRequest(last, new Uint8Array(512).fill(7)));
      assertEquals((await readSectors(backend, last - 8, 9))[8 * 512], 7);
      await backend.close();
      assertEquals(fake.openHandles, 0);
    } finally {
      Deno.chdir(back);
    }
  },
});

Deno.test("isDevicePath() knows devices, with a backslash at the end and without", () => {
  for (
    const path of [
      "\\\\.\\PhysicalDrive1",
      "\\\\.\\E:",
      "\\\\?\\Volume{1}",
      "\\\\?\\PhysicalDrive1",
    ]
  ) {
    for (const end of ["", "\\"]) assert(isDevicePath(`${path}${end}`), path);
    assert(!isDevicePath(`${path}\\disk.img`), path);
  }
});
