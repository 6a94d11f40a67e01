/**
 * The direct backend by the contract, on whatever it can lie on: files of
 * several file systems, block devices, hosts whose blocks are larger than the
 * disk's. And what is its own: alignment, tails, holes, what it says of itself.
 *
 * @module
 */

import { setImmediate } from "node:timers";
import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertMatch,
  assertRejects,
} from "@std/assert";
import { type Extent, MAX_EXTENTS } from "../../../src/backend.ts";
import {
  type DirectOptions,
  openDirect,
} from "../../../src/backends/direct/mod.ts";
import type { DirectBackend } from "../../../src/backends/direct/backend.ts";
import type {
  EngineName,
  EngineOptions,
} from "../../../src/engines/choose_engine.ts";
import { isZero } from "../../../src/buffer.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";
import { SECTOR_BYTES } from "../../../src/geometry.ts";
import { Random } from "../../../src/random.ts";
import {
  discardRequest,
  flushRequest,
  readRequest,
  RequestFlag,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../../src/request.ts";
import {
  assertContent,
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
  tempDir,
  tmpfsDir,
} from "../../helpers.ts";
import { ENGINES, hasEngine } from "./harness.ts";

const LINUX = Deno.build.os === "linux";
const MIB = 1_048_576;

/** A place for images. */
interface Place extends AsyncDisposable {
  join(name: string): string;
}

function open(
  path: string,
  options: Partial<DirectOptions> = {},
): Promise<DirectBackend> {
  return openDirect(path, {
    readOnly: false,
    direct: "prefer",
    lock: "auto",
    ...options,
  });
}

interface Subject extends ContractSubject {
  backend: DirectBackend;
}

/** A file that is made anew for every test. */
function file(
  place: () => Promise<Place>,
  options: Partial<DirectOptions> = {},
  sizeBytes = 4 * MIB,
): () => Promise<Subject> {
  return async () => {
    const dir = await place();
    try {
      const path = dir.join("disk.img");
      const create = { sizeBytes, overwrite: false };
      return {
        backend: await open(path, { ...options, create }),
        reopen: () => open(path, options),
        cleanup: async () => {
          const { size } = await Deno.stat(path);
          await dir[Symbol.asyncDispose]();
          // What nothing in the contract may change.
          assertEquals(size, sizeBytes);
        },
      };
    } catch (error) {
      await dir[Symbol.asyncDispose]();
      throw error;
    }
  };
}

/** A file that is there already, opened for reading. */
function readOnlyFile(
  options: Partial<DirectOptions> = {},
): () => Promise<Subject> {
  return async () => {
    const dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(4 * MIB));
    return {
      backend: await open(path, { ...options, readOnly: true }),
      cleanup: () => dir[Symbol.asyncDispose](),
    };
  };
}

/** A loop device over a file. */
function device(
  sectorSize: number,
  options: Partial<DirectOptions> = {},
): () => Promise<Subject> {
  return async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const path = await dir.file("disk.img", 4 * MIB);
    const loop = stack.use(await loopDevice(path, sectorSize));
    const backend = await open(loop.path, options);
    const kept = stack.move();
    return {
      backend,
      reopen: () => open(loop.path, options),
      cleanup: () => kept.disposeAsync(),
    };
  };
}

const mounts = new Map<string, Promise<Place>>();

Deno.test.afterAll(async () => {
  for (const place of mounts.values()) {
    await (await place)[Symbol.asyncDispose]();
  }
  mounts.clear();
});

/**
 * A directory on a file system on a loop device. The file system stays until
 * the last test; the directory goes.
 */
async function mounted(
  fileSystem: "ext4" | "xfs" | "btrfs",
  sectorSize: number,
): Promise<Place> {
  const key = `${fileSystem} ${sectorSize}`;
  let place = mounts.get(key);
  if (place === undefined) {
    place = makeMount(fileSystem, sectorSize);
    mounts.set(key, place);
  }
  const directory = await Deno.makeTempDir({ dir: (await place).join("") });
  return {
    join: (name) => `${directory}/${name}`,
    [Symbol.asyncDispose]: () => Deno.remove(directory, { recursive: true }),
  };
}

async function makeMount(
  fileSystem: "ext4" | "xfs" | "btrfs",
  sectorSize: number,
): Promise<Place> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const size = { ext4: 32, xfs: 320, btrfs: 128 }[fileSystem] * MIB;
  const image = await dir.file("host.img", size);
  const loop = stack.use(await loopDevice(image, sectorSize));
  const force = fileSystem === "ext4" ? "-F" : "-f";
  await run(`mkfs.${fileSystem}`, ["-q", force, loop.path]);
  const at = stack.use(await mount(loop.path, dir.join("mnt")));
  const kept = stack.move();
  return {
    join: (name) => at.join(name),
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

const COARSE = [
  ["ext4", needs("root", "losetup", "mkfs.ext4")],
  ["xfs", needs("root", "losetup", "mkfs.xfs")],
] as const;

const wanted = (engine: EngineName): EngineOptions => ({
  engine,
  depth: 64,
  stallMs: 0.1,
  pollMs: 0.1,
});

for (const name of ENGINES) {
  const engine = wanted(name);
  contractSuite(
    `DirectBackend on a file, ${name}`,
    file(tempDir, { engine }),
    { ignore: !hasEngine(name), readOnly: readOnlyFile({ engine }) },
  );
}

contractSuite(
  "DirectBackend on a file, blocks of 4,096 bytes",
  file(tempDir, { blockSize: 4096 }),
  { ignore: !LINUX, readOnly: readOnlyFile({ blockSize: 4096 }) },
);

contractSuite(
  "DirectBackend on a file, buffered",
  file(tempDir, { direct: "never" }),
  { ignore: !LINUX, readOnly: readOnlyFile({ direct: "never" }) },
);

contractSuite("DirectBackend on tmpfs", file(tmpfsDir), {
  ignore: !LINUX || !hasTmpfs(),
});

for (const sectorSize of [512, 4096]) {
  contractSuite(
    `DirectBackend on a device with sectors of ${sectorSize} bytes`,
    device(sectorSize),
    needs("root", "losetup"),
  );
}

contractSuite(
  "DirectBackend on a device with sectors of 4,096 bytes, blocks of 512",
  device(4096, { blockSize: 512 }),
  needs("root", "losetup"),
);

contractSuite(
  "DirectBackend on a device, blocks of 512, libaio with few slots",
  device(4096, {
    blockSize: 512,
    engine: { engine: "libaio", depth: 4, stallMs: 0.1, pollMs: 0 },
  }),
  needs("root", "losetup"),
);

contractSuite(
  "DirectBackend on a device, buffered",
  device(4096, { direct: "never", blockSize: 512 }),
  needs("root", "losetup"),
);

contractSuite(
  "DirectBackend on ext4 that wants 4,096 bytes, blocks of 512",
  file(() => mounted("ext4", 4096)),
  needs("root", "losetup", "mkfs.ext4"),
);

for (const [fileSystem, needed] of COARSE) {
  contractSuite(
    `DirectBackend on ${fileSystem} that wants 4,096 bytes, with a tail`,
    file(() => mounted(fileSystem, 4096), {}, 4 * MIB + 3 * SECTOR_BYTES),
    needed,
  );
}

contractSuite(
  "DirectBackend on btrfs",
  file(() => mounted("btrfs", 512)),
  needs("root", "losetup", "mkfs.btrfs"),
);

// Bytes and sizes on hosts with large blocks

for (const [fileSystem, needed] of COARSE) {
  for (const tail of [0, 1, 3, 7]) {
    Deno.test({
      name:
        `DirectBackend on ${fileSystem} that wants 4,096 bytes keeps every sector, ${tail} more`,
      ...needed,
      async fn() {
        await using place = await mounted(fileSystem, 4096);
        const path = place.join("disk.img");
        const size = MIB / 4 + tail * SECTOR_BYTES;
        const count = size / SECTOR_BYTES;
        const disk = await VirtualDisk.create(path, {
          sectors: count,
          backend: "direct",
          direct: "require",
        });
        await using _ = disk;
        assertEquals(disk.info.direct.offsetAlignment, 4096);
        assertEquals(disk.blockSize, 512);
        const random = new Random(tail + 1);
        const model = new Uint8Array(size);
        for (let round = 0; round < 60; round++) {
          const all: Promise<unknown>[] = [];
          for (let i = 0; i < 24; i++) {
            // The last sectors as often as all the others.
            const length = random.between(1, 20);
            const sector = random.chance(1, 2)
              ? count - length - random.below(12)
              : random.below(count - length);
            const from = sector * SECTOR_BYTES;
            const bytes = length * SECTOR_BYTES;
            const memory = random.chance(1, 2)
              ? disk.allocate(length)
              : new Uint8Array(bytes + 1).subarray(1);
            switch (random.below(6)) {
              case 0:
                all.push(disk.writeZeroes(sector, length, {
                  unmap: random.chance(1, 2),
                  fua: random.chance(1, 8),
                }));
                model.fill(0, from, from + bytes);
                break;
              case 1:
              case 2: {
                const expected = model.slice(from, from + bytes);
                all.push(
                  disk.readInto(sector, memory).then(() =>
                    assertContent(memory, expected, `read at ${sector}`)
                  ),
                );
                break;
              }
              default:
                memory.set(random.bytes(bytes));
                model.set(memory, from);
                all.push(disk.write(sector, memory, {
                  fua: random.chance(1, 8),
                }));
            }
          }
          if (round % 8 === 0) all.push(disk.flush());
          await Promise.all(all);
          assertEquals((await Deno.stat(path)).size, size);
        }
        assertContent(await disk.read(0, count), model, "through the disk");
        await disk.flush();
        assertContent(await Deno.readFile(path), model, "in the file");
        assertGreater(disk.counters.readModifyWrites, 0);
      },
    });
  }
}

Deno.test({
  name:
    "DirectBackend reads a host block before it writes a part of it, else not",
  ...needs("root", "losetup"),
  async fn() {
    const { backend, cleanup } = await device(4096, { blockSize: 512 })();
    try {
      const count = () => backend.counters.readModifyWrites;
      await carryOut(backend, writeRequest(8, new Uint8Array(4096)));
      await carryOut(backend, writeRequest(16, backend.allocate(8192)));
      await carryOut(backend, readRequest(3, new Uint8Array(512)));
      assertEquals(count(), 0);
      await carryOut(backend, writeRequest(9, new Uint8Array(512)));
      assertEquals(count(), 1);
      await carryOut(backend, writeRequest(7, backend.allocate(5120)));
      assertEquals(count(), 2);
    } finally {
      await backend.close();
      await cleanup!();
    }
  },
});

Deno.test({
  name:
    "DirectBackend copies no memory that it allocated, and counts what it copies",
  ignore: !LINUX,
  async fn() {
    const { backend, cleanup } = await file(tempDir)();
    try {
      await carryOut(
        backend,
        writeRequest(0, backend.allocate(65_536)),
        readRequest(256, backend.allocate(512)),
        writeRequest(512, backend.allocate(4096), backend.allocate(8192)),
        writeFuaRequest(1024, backend.allocate(4096)),
        flushRequest(),
      );
      assertEquals(backend.counters.bounced, 0);
      const odd = new Uint8Array(4097).subarray(1);
      await carryOut(backend, writeRequest(0, odd), readRequest(64, odd));
      assertEquals(backend.counters.bounced, 2);
    } finally {
      await backend.close();
      await cleanup!();
    }
  },
});

// Large requests

Deno.test({
  name: "DirectBackend carries out many large unaligned requests at once",
  ignore: !LINUX,
  async fn() {
    const { backend, cleanup } = await file(tempDir, {}, 64 * MIB)();
    try {
      const random = new Random(7);
      const pieces = Array.from({ length: 12 }, (_, i) => {
        const bytes = new Uint8Array(3 * MIB + 513 - i % 2);
        for (let at = 0; at < bytes.length; at += 509) {
          bytes[at] = random.next();
        }
        return bytes.subarray(bytes.length % 512);
      });
      await carryOut(
        backend,
        ...pieces.map((piece, i) => writeRequest(i * 8192, piece)),
      );
      const back = pieces.map((piece) => new Uint8Array(piece.length));
      await carryOut(
        backend,
        ...back.map((piece, i) => readRequest(i * 8192, piece)),
      );
      back.forEach((piece, i) =>
        assertContent(piece, pieces[i]!, `piece ${i}`)
      );
    } finally {
      await backend.close();
      await cleanup!();
    }
  },
});

// Aborts

for (const name of ENGINES) {
  Deno.test({
    name:
      `DirectBackend touches no memory once an aborted request has rejected, ${name}`,
    ignore: !hasEngine(name),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", new Random(8).bytes(4 * MIB));
      await using disk = await VirtualDisk.open(path, {
        backend: "direct",
        engine: name,
        queueSize: 32,
      });
      const random = new Random(9);
      let aborted = 0;
      for (let round = 0; round < 60; round++) {
        const abort = new AbortController();
        const { signal } = abort;
        const buffers = Array.from(
          { length: 48 },
          () =>
            random.chance(1, 2)
              ? disk.allocate(16)
              : new Uint8Array(8193).subarray(1),
        );
        const all = buffers.map((buffer) =>
          disk.readInto(random.below(8000), buffer, { signal })
        );
        disk.kick();
        // Before, while and after the kernel has them.
        for (let i = random.below(4); i > 0; i--) {
          await new Promise((resolve) => setImmediate(resolve));
        }
        abort.abort();
        const results = await Promise.allSettled(all);
        aborted += results.filter(({ status }) => status === "rejected").length;
        for (const buffer of buffers) buffer.fill(0x5a);
        await disk.read(0, 4096);
        for (const buffer of buffers) {
          assert(buffer.every((byte) => byte === 0x5a), `round ${round}`);
        }
      }
      assertGreater(aborted, 0);
      assertEquals(disk.counters.errors, aborted);
    },
  });
}

// Holes

Deno.test({
  name: "DirectBackend.extents() tells data from holes",
  ignore: !LINUX,
  async fn() {
    const { backend, cleanup } = await file(tempDir)();
    try {
      const { sectors } = backend.geometry;
      assertEquals(backend.extents(0, sectors), [
        { sector: 0, count: sectors, hole: true },
      ]);
      const memory = backend.allocate(65_536).fill(1);
      await carryOut(backend, writeRequest(1024, memory), flushRequest());
      assertEquals(backend.extents(0, sectors), [
        { sector: 0, count: 1024, hole: true },
        { sector: 1024, count: 128, hole: false },
        { sector: 1152, count: sectors - 1152, hole: true },
      ]);
      assertEquals(backend.extents(1030, 10), [
        { sector: 1030, count: 10, hole: false },
      ]);
      assertEquals(backend.extents(1150, 4), [
        { sector: 1150, count: 2, hole: false },
        { sector: 1152, count: 2, hole: true },
      ]);
      await carryOut(
        backend,
        writeZeroesRequest(1024, 64, RequestFlag.Unmap),
        discardRequest(1088, 64),
      );
      assertEquals(backend.extents(0, sectors), [
        { sector: 0, count: sectors, hole: true },
      ]);
    } finally {
      await backend.close();
      await cleanup!();
    }
  },
});

Deno.test({
  name:
    "DirectBackend.extents() ends after so many that others have waited enough",
  ignore: !LINUX || !hasTmpfs(),
  async fn() {
    const { backend, cleanup } = await file(tmpfsDir)();
    try {
      const { sectors } = backend.geometry;
      const page = 8;
      const runs = sectors / page;
      assertGreater(runs, 3 * MAX_EXTENTS);
      const memory = backend.allocate(page * SECTOR_BYTES).fill(1);
      for (let i = 0; i < runs; i += 2) {
        await carryOut(backend, writeRequest(i * page, memory));
      }
      const answers: Extent[][] = [];
      for (let at = 0; at < sectors;) {
        const found = backend.extents(at, sectors - at);
        answers.push(found);
        at = found.at(-1)!.sector + found.at(-1)!.count;
      }
      assert(answers.every(({ length }) => length <= MAX_EXTENTS));
      assertGreater(answers.length, 2);
      assertEquals(
        answers.flat(),
        Array.from({ length: runs }, (_, i) => ({
          sector: i * page,
          count: page,
          hole: i % 2 === 1,
        })),
      );
    } finally {
      await backend.close();
      await cleanup!();
    }
  },
});

Deno.test({
  name: "DirectBackend.extents() calls a sector that is partly data data",
  ignore: !LINUX || !hasTmpfs(),
  async fn() {
    await using dir = await tmpfsDir();
    const path = await dir.file("disk.img", 1024 * SECTOR_BYTES);
    {
      using written = await Deno.open(path, { write: true });
      await written.seek(100 * SECTOR_BYTES + 7, Deno.SeekMode.Start);
      await written.write(Uint8Array.of(1));
    }
    const backend = await open(path);
    try {
      const data = backend.extents(0, 1024).filter(({ hole }) => !hole);
      assert(
        data.some(({ sector, count }) => sector <= 100 && sector + count > 100),
      );
    } finally {
      await backend.close();
    }
  },
});

Deno.test({
  name: "DirectBackend writes zeroes without unmap to stored sectors",
  ignore: !LINUX,
  async fn() {
    const { backend, cleanup } = await file(tempDir)();
    try {
      const before = (await Deno.stat(backend.info.path!)).blocks!;
      await carryOut(backend, writeZeroesRequest(0, 2048), flushRequest());
      const after = (await Deno.stat(backend.info.path!)).blocks!;
      // And what the file system may need to say where they are.
      assert(
        after - before >= 2048 && after - before < 2048 + 256,
        `${after - before} blocks`,
      );
      assert(isZero(await readSectors(backend, 0, 2048)));
    } finally {
      await backend.close();
      await cleanup!();
    }
  },
});

// What it says of itself

Deno.test({
  name: "DirectBackend.info tells a file's direct I/O",
  ignore: !LINUX,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(65_536));
    const backend = await open(path);
    try {
      const { info } = backend;
      assertEquals(JSON.parse(JSON.stringify(info)), info);
      assertEquals(info.backend, "direct");
      assertEquals(info.path, path);
      assertEquals(info.medium, "file");
      assertMatch(info.id, /^platter-[0-9a-f]+$/);
      assertEquals(info.lock.method, "OFD");
      assertEquals(info.durability.method, "fdatasync");
      if (info.fileSystem === "ext4" || info.fileSystem === "xfs") {
        assertEquals(info.direct.active, true);
        assertEquals(info.direct.method, "O_DIRECT");
        assertEquals(info.direct.reason, null);
        assertEquals(info.durability.flush, "media");
      }
    } finally {
      await backend.close();
    }
  },
});

Deno.test({
  name: "DirectBackend.info tells why tmpfs is not direct",
  ignore: !LINUX || !hasTmpfs(),
  async fn() {
    await using dir = await tmpfsDir();
    const path = await dir.file("disk.img", 65_536);
    const backend = await open(path);
    try {
      const { info } = backend;
      assertEquals(info.fileSystem, "tmpfs");
      assertEquals(info.direct.active, false);
      assertMatch(info.direct.reason!, /tmpfs/);
      assertEquals(info.durability.flush, "page cache");
    } finally {
      await backend.close();
    }
    const error = await assertRejects(
      () => open(path, { direct: "require" }),
      DiskError,
      "tmpfs",
    );
    assertEquals(error.kind, "platform");
  },
});

Deno.test({
  name: "DirectBackend.info tells that direct I/O was not wanted",
  ignore: !LINUX,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 65_536);
    const backend = await open(path, { direct: "never" });
    try {
      assertEquals(backend.info.direct.active, false);
      assertEquals(backend.info.direct.method, null);
      assertMatch(backend.info.direct.reason!, /never/);
    } finally {
      await backend.close();
    }
  },
});

for (const sectorSize of [512, 4096]) {
  Deno.test({
    name:
      `DirectBackend takes the blocks of a device with sectors of ${sectorSize} bytes`,
    ...needs("root", "losetup"),
    async fn() {
      const { backend, cleanup } = await device(sectorSize)();
      try {
        assertEquals(backend.geometry.blockSize, sectorSize);
        assertEquals(backend.geometry.sectors, 4 * MIB / SECTOR_BYTES);
        assertEquals(backend.info.medium, "block device");
        assertEquals(backend.info.fileSystem, null);
        assertEquals(backend.info.direct.active, true);
        assertEquals(backend.info.direct.offsetAlignment, sectorSize);
        assertEquals(backend.extents(0, 8192), [
          { sector: 0, count: 8192, hole: false },
        ]);
      } finally {
        await backend.close();
        await cleanup!();
      }
    },
  });
}

Deno.test({
  name:
    "DirectBackend on a device hands discards and zeroes to the file behind it",
  ...needs("root", "losetup"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(3).bytes(4 * MIB));
    await run("sync", [path]);
    await using loop = await loopDevice(path, 512);
    const backend = await open(loop.path);
    try {
      const before = (await Deno.stat(path)).blocks!;
      await carryOut(backend, discardRequest(0, 2048));
      await carryOut(
        backend,
        writeZeroesRequest(2048, 2048, RequestFlag.Unmap),
        flushRequest(),
      );
      assertLess((await Deno.stat(path)).blocks!, before - 2048);
      assert(isZero(await readSectors(backend, 2048, 2048)));
    } finally {
      await backend.close();
    }
  },
});

Deno.test({
  name:
    "DirectBackend keeps what surrounds a discard that is no whole host blocks",
  ...needs("root", "losetup"),
  async fn() {
    await using dir = await tempDir();
    const content = new Random(5).bytes(MIB);
    const path = await dir.file("disk.img", content);
    await run("sync", [path]);
    await using loop = await loopDevice(path, 4096);
    const backend = await open(loop.path, { blockSize: 512 });
    try {
      await carryOut(
        backend,
        discardRequest(3, 2),
        discardRequest(13, 30),
        discardRequest(101, 3),
      );
      const now = await readDisk(backend);
      for (const [from, to] of [[0, 3], [5, 13], [43, 101], [104, 2048]]) {
        assertEquals(
          now.subarray(from! * 512, to! * 512),
          content.subarray(from! * 512, to! * 512),
        );
      }
    } finally {
      await backend.close();
    }
  },
});

// An image that is cut while it is open

Deno.test({
  name: "DirectBackend reports sectors that are cut off while it is open",
  ignore: !LINUX,
  async fn() {
    const { backend, cleanup } = await file(tempDir)();
    const path = backend.info.path!;
    try {
      await Deno.truncate(path, MIB);
      const [inside, beyond, across] = await submitAll(backend, [
        readRequest(0, backend.allocate(4096)),
        readRequest(4096, backend.allocate(4096)),
        readRequest(2047, backend.allocate(4096)),
      ]);
      assertEquals(inside, null);
      for (const error of [beyond!, across!]) {
        assertEquals(error!.kind, "io");
        assertMatch(error!.message, /cut/);
      }
    } finally {
      await backend.close();
      await Deno.truncate(path, 4 * MIB);
      await cleanup!();
    }
  },
});
