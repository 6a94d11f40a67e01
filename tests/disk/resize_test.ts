/**
 * Disks that change their size: on every backend, in the order of requests, and
 * what is refused.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import type { Backend, Extent } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { assertDisksEqual } from "../../src/crash/assertions/assert_disks_equal.ts";
import { findBadSectors } from "../../src/disk/bad_sectors.ts";
import { compareDisks, copyDisk } from "../../src/disk/copy.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { openBackend, type OpenOptions } from "../../src/disk/open.ts";
import { overlay } from "../../src/disk/overlay.ts";
import { DiskError, type DiskErrorKind } from "../../src/errors.ts";
import {
  ByteView,
  makeBmap,
  parseBmap,
  readPartitions,
  rescueDisk,
  RescueMap,
} from "../../src/image/mod.ts";
import { fileSystemOf } from "../../src/files/mod.ts";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { layoutOf } from "../../src/layers/overlay_file/format.ts";
import { observe } from "../../src/layers/observe.ts";
import { protect } from "../../src/layers/protect.ts";
import { readahead } from "../../src/layers/readahead.ts";
import { trace } from "../../src/layers/trace.ts";
import { verify } from "../../src/layers/verify.ts";
import { NbdServer } from "../../src/nbd/mod.ts";
import { DiskAssertionError } from "../../src/testing/assert_sectors.ts";
import { altered } from "../fake_backend.ts";
import { loopDevice, needs, tempDir } from "../helpers.ts";

const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

/** Rejects with an error of that kind. */
async function refused(
  what: () => Promise<unknown>,
  kind: DiskErrorKind,
  words: RegExp,
): Promise<void> {
  const error = await assertRejects(what, DiskError);
  assertEquals(error.kind, kind, error.message);
  assertMatch(error.message, words);
}

const linux = Deno.build.os === "linux";
const WAYS: [name: string, options: OpenOptions | null, ignore: boolean][] = [
  ["memory", null, false],
  ["direct", { backend: "direct" }, !linux],
  ["direct, buffered", { backend: "direct", direct: "never" }, !linux],
  ["sync engine", { engine: "sync" }, !linux],
  ["portable", { backend: "portable" }, false],
];

for (const [name, options, ignore] of WAYS) {
  Deno.test(
    `VirtualDisk.resize() grows and cuts, ${name}`,
    { ignore },
    async () => {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", sector(1, 64));
      await using disk = options === null
        ? VirtualDisk.memory({ sectors: 64 })
        : await VirtualDisk.open(path, options);
      await disk.write(0, sector(1, 64));
      // To and from ends inside of a host block, which go through a tail.
      let model = sector(1, 64);
      for (const sectors of [128, 131, 4096, 4097, 77, 72, 71, 129]) {
        await disk.resize(sectors, { force: true });
        assertEquals(disk.sectors, sectors);
        assertEquals(disk.info.sectors, sectors);
        const next = new Uint8Array(sectors * 512);
        next.set(model.subarray(0, next.length));
        model = next;
        assertEquals(await disk.read(0, sectors), model, `${sectors}`);
        await disk.write(sectors - 3, sector(sectors & 0xff, 3), { fua: true });
        model.fill(sectors & 0xff, (sectors - 3) * 512);
        assertEquals(await disk.read(sectors - 9, 9), model.subarray(-9 * 512));
        await disk.flush();
        await refused(() => disk.read(sectors, 1), "range", /disk has/);
        if (options !== null) {
          assertEquals((await Deno.stat(path)).size, sectors * 512);
        }
      }
      await disk.resize({ size: "64KiB" }, { force: true });
      assertEquals(disk.sectors, 128);
      assertEquals((await disk.extents()).at(-1)!.count > 0, true);
      assertEquals(Deno.inspect(disk).includes("sectors: 128"), true);
    },
  );

  Deno.test(`VirtualDisk.resize() refuses and keeps the old size, ${name}`, {
    ignore,
  }, async () => {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 64 * 512);
    const open = (more: OpenOptions = {}) =>
      options === null
        ? Promise.resolve(VirtualDisk.memory({ sectors: 64, ...more }))
        : VirtualDisk.open(path, { ...options, ...more });
    {
      await using disk = await open();
      await refused(() => disk.resize(8), "geometry", /force: true/);
      for (const wrong of [0, -8, 1.5, NaN, 2 ** 53]) {
        await assertRejects(() => disk.resize(wrong), RangeError, "sectors");
      }
      await assertRejects(() => disk.resize({}), TypeError);
      assertEquals(disk.sectors, 64);
      await disk.resize(64);
      const slice = disk.slice(8, 8);
      await refused(() => slice.resize(64), "unsupported", /slice/);
      await disk.close();
      await refused(() => disk.resize(128), "closed", /closed/);
    }
    {
      await using disk = await open({ readOnly: true });
      await refused(() => disk.resize(128), "read-only", /reading only/);
    }
    await using disk = await open({ blockSize: 4096 });
    await assertRejects(() => disk.resize(65), RangeError, "4096");
    await disk.resize(72);
    assertEquals(disk.sectors, 72);
    if (options === null) return;
    // Somebody else has cut it: to make it longer would hide that.
    await Deno.truncate(path, 4096);
    await refused(() => disk.resize(128), "io", /cut while open/);
    assertEquals([disk.sectors, (await Deno.stat(path)).size], [72, 4096]);
    // Somebody else has put something behind it: that is nobody's to cut here.
    await Deno.truncate(path, 1 << 20);
    await refused(() => disk.resize(128), "io", /made it longer/);
    await refused(() => disk.resize(64, { force: true }), "io", /longer/);
    assertEquals([disk.sectors, (await Deno.stat(path)).size], [72, 1 << 20]);
    // Beyond what any file system has.
    await Deno.truncate(path, 72 * 512);
    await assertRejects(() => disk.resize(2 ** 43), DiskError);
    assertEquals([disk.sectors, (await Deno.stat(path)).size], [72, 72 * 512]);
    await disk.write(64, sector(3, 8));
  });
}

Deno.test("VirtualDisk.resize() keeps its place among requests, awaited or not", async () => {
  for (const slow of [false, true]) {
    const store = new MemoryBackend({ sectors: 64 });
    const sizes: number[] = [];
    const below = altered(store, {
      submit(batch, complete) {
        for (const { sector } of batch) {
          sizes.push(sector, store.geometry.sectors);
        }
        store.submit(batch, complete);
      },
      resize: (sectors) => store.resize(sectors),
    });
    Object.defineProperty(below, "geometry", { get: () => store.geometry });
    await using disk = VirtualDisk.over(
      slow ? latency(below, { fixedMs: 2 }) : below,
      { queueSize: 4 },
    );
    const controller = new AbortController();
    const first = Array.from({ length: 8 }, (_, i) => disk.write(i, sector(1)));
    const done: string[] = [];
    const note = (what: string) => () => void done.push(what);
    const grown = disk.resize(128).then(note("grown"));
    // Beyond the old end; what is aborted meanwhile is not written.
    const beyond = disk.write(100, sector(2)).then(note("beyond"));
    const aborted = disk.write(101, sector(2), { signal: controller.signal });
    const mapped = disk.extents(64, 64).then((found) => found.length);
    const absurd = disk.write(500, sector(2));
    const cut = disk.resize(32, { force: true }).then(note("cut"));
    const gone = disk.read(100, 1);
    const map = disk.extents(0, 128);
    const wrong = disk.resize(16);
    const last = disk.read(31, 1).then(note("last"));
    controller.abort(new Error("Enough"));
    await assertRejects(() => aborted, Error, "Enough");
    await refused(() => absurd, "range", /disk has 128 sectors/);
    await refused(() => gone, "range", /disk has 32 sectors/);
    await refused(() => map, "range", /disk has 32 sectors/);
    await refused(() => wrong, "geometry", /force/);
    await Promise.all([...first, grown, beyond, cut, last]);
    assert(await mapped >= 1);
    assertEquals(done, ["grown", "beyond", "cut", "last"]);
    const seen = Array.from(
      { length: sizes.length / 2 },
      (_, i) => [sizes[2 * i]!, sizes[2 * i + 1]!],
    );
    for (const [at, size] of seen) {
      assertEquals(size, at! < 8 ? 64 : at === 100 ? 128 : 32, `${at}`);
    }
  }
});

/** What is told of a disk by requests, or fails by them; each counts its sectors. */
const ASKED: Record<string, (disk: VirtualDisk) => Promise<number>> = {
  "extents()": async (disk) => sectorsOf(await disk.extents()),
  "firstExtents()": async (disk) => sectorsOf(await disk.firstExtents()),
  "copyDisk()": async (disk) => {
    await using target = VirtualDisk.memory({ sectors: 512 });
    return (await copyDisk(disk, target)).sectors;
  },
  "copyDisk() to it": async (disk) => {
    await using source = VirtualDisk.memory({ sectors: 512 });
    const error = await assertRejects(() => copyDisk(source, disk), DiskError);
    return Number(/only (\d+)$/.exec(error.message)![1]);
  },
  "compareDisks()": async (disk) => {
    await using other = VirtualDisk.memory({ sectors: 512 });
    const difference = await compareDisks(disk, other);
    assertEquals(difference?.end, true);
    return difference!.sector;
  },
  "assertDisksEqual()": async (disk) => {
    await using other = VirtualDisk.memory({ sectors: 512 });
    const error = await assertRejects(
      () => assertDisksEqual(disk, other),
      DiskAssertionError,
    );
    return Number(/has (\d+) sectors, /.exec(error.message)![1]);
  },
  "findBadSectors()": async (disk) => {
    const before = disk.counters.bytesRead;
    assertEquals(await findBadSectors(disk), []);
    return (disk.counters.bytesRead - before) / 512;
  },
  "ByteView.getCapacity()": async (disk) =>
    await new ByteView(disk).getCapacity() / 512,
  "ByteView.read()": async (disk) => {
    const memory = new Uint8Array(512 * 512);
    const read = await new ByteView(disk).read(memory, 0, memory.length, 0);
    return read.bytesRead / 512;
  },
  "ByteView.write()": async (disk) => {
    const memory = new Uint8Array(513 * 512);
    const view = new ByteView(disk);
    const error = await assertRejects(
      () => view.write(memory, 0, memory.length, 0),
      DiskError,
    );
    return Number(/has (\d+) bytes/.exec(error.message)![1]) / 512;
  },
  "ByteView.discard()": async (disk) => {
    const error = await assertRejects(
      () => new ByteView(disk).discard(0, 513 * 512),
      DiskError,
    );
    return Number(/has (\d+) bytes/.exec(error.message)![1]) / 512;
  },
  "makeBmap()": async (disk) =>
    parseBmap(await makeBmap(disk)).imageBytes / 512,
  "readPartitions()": async (disk) =>
    (await readPartitions(disk)).usable.sectors,
  "rescueDisk()": async (disk) => {
    await using target = VirtualDisk.memory({ sectors: 512 });
    const map = new RescueMap(513 * 512);
    const error = await assertRejects(
      () => rescueDisk(disk, target, map),
      DiskError,
    );
    return Number(/about the (\d+) bytes/.exec(error.message)![1]) / 512;
  },
};

const sectorsOf = (extents: Extent[]) =>
  extents.reduce((sum, { count }) => sum + count, 0);

for (const [what, ask] of Object.entries(ASKED)) {
  Deno.test(`VirtualDisk.resize() is seen by ${what} that is called after it, awaited or not`, async () => {
    for (const sectors of [256, 64]) {
      await using disk = VirtualDisk.memory({ sectors: 128 });
      const resized = disk.resize(sectors, { force: true });
      const asked = ask(disk);
      // Of what comes later it sees nothing; this one is refused.
      const wrong = disk.resize(8);
      assertEquals(await asked, sectors);
      await resized;
      await refused(() => wrong, "geometry", /force/);
    }
  });
}

Deno.test("VirtualDisk.resize() that is not awaited hides nothing from copies and comparisons", async () => {
  await using a = VirtualDisk.memory({ sectors: 128 });
  await using b = VirtualDisk.memory({ sectors: 256 });
  const made = [a.resize(256), a.write(200, sector(1))];
  assertEquals(await compareDisks(a, b), {
    sector: 200,
    offset: 0,
    end: false,
  });
  const again = a.resize(512);
  const last = a.write(511, sector(2));
  const bigger = b.resize(512);
  const { sectors, verified } = await copyDisk(a, b, { verify: true });
  assertEquals([sectors, verified], [512, true]);
  assertEquals(await b.read(511, 1), sector(2));
  await Promise.all([...made, again, last, bigger]);
});

Deno.test("Without a resize, copies, comparisons and looks at a disk begin before what comes later", async () => {
  const looks: ((disk: VirtualDisk) => Promise<unknown>)[] = [
    async (disk) => {
      await using other = VirtualDisk.memory({ sectors: 128 });
      return await compareDisks(disk, other);
    },
    async (disk) => {
      await using other = VirtualDisk.memory({ sectors: 128 });
      return (await copyDisk(disk, other)).sectors;
    },
    (disk) => fileSystemOf(disk),
  ];
  const found: unknown[] = [];
  for (const look of looks) {
    await using disk = VirtualDisk.memory({ sectors: 128 });
    const begun = look(disk);
    await Promise.all([disk.write(0, sector(1)), disk.close()]);
    found.push(await begun);
  }
  assertEquals(found, [null, 128, null]);
});

Deno.test("ByteView keeps its order with resizes, and with what waits for them", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const view = new ByteView(disk);
  const grown = disk.resize(128);
  const bytes = new Uint8Array(700).fill(5);
  const write = view.write(bytes, 0, 700, 100 * 512 + 7);
  const flush = view.flush();
  const read = view.read(new Uint8Array(3), 0, 3, 100 * 512 + 6);
  await flush;
  assertEquals(disk.counters.bytesWritten > 0, true);
  assertEquals([...(await read).buffer], [0, 5, 5]);
  // What is asked for between two is between them.
  const first = disk.resize(256);
  const between = view.read(new Uint8Array(512), 0, 512, 255 * 512);
  const second = disk.resize(32, { force: true });
  assertEquals((await between).bytesRead, 512);
  await Promise.all([grown, write, first, second]);
});

Deno.test("VirtualDisk.close() waits for a resize and what comes after it", async () => {
  const store = new MemoryBackend({ sectors: 64 });
  const disk = VirtualDisk.over(latency(store, { fixedMs: 1 }));
  const first = disk.write(0, sector(1));
  const resized = disk.resize(128);
  const beyond = disk.write(127, sector(2));
  const again = disk.resize(256);
  const closed = disk.close();
  await refused(() => disk.write(0, sector(3)), "closed", /closed/);
  await Promise.all([first, resized, beyond, again, closed]);
  assertEquals(disk.sectors, 256);
});

Deno.test("what waits for a resize hears its signal", async () => {
  const held = Promise.withResolvers<void>();
  const silent = altered(new MemoryBackend({ sectors: 64 }), {
    resize: () => held.promise,
  });
  await using disk = VirtualDisk.over(silent);
  await using other = VirtualDisk.memory({ sectors: 64 });
  const resized = disk.resize(128);
  const waits: ((options: { signal: AbortSignal }) => Promise<unknown>)[] = [
    (options) => copyDisk(disk, other, options),
    (options) => copyDisk(other, disk, options),
    (options) => compareDisks(other, disk, options),
    (options) => findBadSectors(disk, options),
    (options) => makeBmap(disk, options),
    (options) => readPartitions(disk, options),
    (options) => fileSystemOf(disk, options),
    (options) => disk.extents(0, 1, options),
    (options) =>
      rescueDisk(disk, other, new RescueMap(64 * 512), {
        ...options,
        save: () => Promise.resolve(),
      }),
  ];
  for (const wait of waits) {
    const reason = new Error("enough");
    const stop = new AbortController();
    const waited = wait({ signal: stop.signal });
    stop.abort(reason);
    assertStrictEquals(await assertRejects(() => waited), reason);
  }
  held.resolve();
  await resized;
});

Deno.test("VirtualDisk.resize() leaves the old size if the backend fails, and requests go on", async () => {
  const store = new MemoryBackend({ sectors: 64 });
  const failing = altered(store, {
    resize: () => Promise.reject(new DiskError("no-space", "Full")),
  });
  await using disk = VirtualDisk.over(failing);
  const resized = disk.resize(128);
  const beyond = disk.write(100, sector(1));
  const within = disk.write(1, sector(1));
  await refused(() => resized, "no-space", /Full/);
  await refused(() => beyond, "range", /64 sectors/);
  await within;
  assertEquals(disk.sectors, 64);
});

Deno.test("VirtualDisk.slice() of what was cut away is told so", async () => {
  await using disk = VirtualDisk.memory({ sectors: 128 });
  const inside = disk.slice(0, 64);
  const across = disk.slice(32, 64);
  const outside = disk.slice(96, 32);
  await disk.resize(64, { force: true });
  await inside.write(0, sector(1, 64));
  await across.write(0, sector(1, 32));
  assertEquals([across.sectors, outside.sectors], [64, 32]);
  for (
    const gone of [
      () => across.read(0, 64),
      () => across.write(32, sector(1)),
      () => outside.read(0, 1),
      () => outside.discard(0, 1),
      () => outside.extents(),
      () => outside.readable().getReader().read(),
    ]
  ) await refused(gone, "range", /the disk has 64 sectors/);
  assertThrows(() => disk.slice(60, 8), DiskError, "64 sectors");
});

Deno.test("VirtualDisk.onResized() tells whoever shows the disk, until that ends", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const seen: number[] = [];
  const forget = disk.onResized((sectors) => seen.push(sectors, disk.sectors));
  await disk.resize(64);
  await disk.resize(128);
  await assertRejects(() => disk.resize(64), DiskError);
  forget();
  await disk.resize(256);
  assertEquals(seen, [128, 128]);
});

Deno.test("VirtualDisk.resize() goes through layers that keep nothing of a size", async () => {
  const layers: ((base: Backend) => Backend)[] = [
    (base) => latency(base),
    (base) => trace(base, () => {}),
    (base) => readahead(base),
    (base) => faults(base, ["flush=kept off"]),
    (base) => trace(faults(readahead(base), []), () => {}),
  ];
  for (const layer of layers) {
    await using disk = VirtualDisk.over(
      layer(new MemoryBackend({ sectors: 64 })),
    );
    await disk.write(0, sector(1, 64));
    // Read ahead, or held back: none of it may come again.
    for (let i = 0; i < 64; i++) await disk.read(i, 1);
    await disk.resize(8, { force: true });
    await disk.resize(64);
    const expected = new Uint8Array(64 * 512);
    expected.fill(1, 0, 8 * 512);
    assertEquals(await disk.read(0, 64), expected, disk.info.backend);
    await disk.flush();
    assertEquals(await disk.read(0, 64), expected, disk.info.backend);
  }
});

Deno.test("VirtualDisk.resize() gives faults() new sectors that are well, whatever was cut off", async () => {
  for (const rules of [[], ["flush=kept off"]]) {
    const faulty = faults(new MemoryBackend({ sectors: 64 }), rules);
    await using disk = VirtualDisk.over(faulty);
    for (const at of [7, 40, 41]) faulty.damage(at);
    for (const at of [6, 50, 51]) faulty.corrupt(at);
    // Where there is a cache, it is damaged below what that has.
    for (const at of [41, 51]) await disk.write(at, sector(1));
    await disk.resize(8, { force: true });
    await disk.resize(64);
    faulty.powerCut();
    assertEquals(await disk.read(8, 56), sector(0, 56));
    assertEquals(faulty.badSectors, [{ sector: 7, count: 1 }]);
    assertEquals(faulty.corruptSectors, [6]);
  }
});

Deno.test("VirtualDisk.resize() is refused by what has the size of something else", async () => {
  const base = new MemoryBackend({ sectors: 64 });
  const shared = { ownsBase: false };
  const { fileSectors } = layoutOf(64);
  const file = new MemoryBackend({ sectors: fileSectors });
  const backends: [Backend, RegExp][] = [
    [observe(base, shared), /observed, sector by sector/],
    [overlay(base, shared), /an overlay has the size of its base/],
    [await overlay(base, { file, ...shared }), /an overlay has the size/],
    [verify(base, new MemoryBackend({ sectors: 64 }), shared), /compared/],
    [latency(observe(base, shared), shared), /observed, sector by sector/],
    [latency(altered(base, {}), shared), /only raw image files/],
    [altered(base, { close: async () => {} }), /only raw image files/],
  ];
  for (const [backend, words] of backends) {
    await using disk = VirtualDisk.over(backend);
    for (const to of [128, 32]) {
      for (const force of [false, true]) {
        await refused(() => disk.resize(to, { force }), "unsupported", words);
      }
    }
    await disk.resize(64);
    await disk.read(0, 64);
  }
  assertEquals(base.geometry.sectors, 64);
});

Deno.test("VirtualDisk.resize() cuts off nothing that is protected", async () => {
  const base = new MemoryBackend({ sectors: 64 });
  const ranges = [{ sector: 8, count: 8 }];
  await using disk = VirtualDisk.over(protect(base, ranges));
  await disk.resize(128);
  await disk.resize(16, { force: true });
  await refused(
    () => disk.resize(15, { force: true }),
    "protected",
    /cut off what is protected/,
  );
  assertEquals(disk.sectors, 16);
});

Deno.test("VirtualDisk.sync() sees a new size, and none that is to come", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const now = disk.sync();
  const resized = disk.resize(128);
  for (
    const call of [
      () => now.read(0, 1),
      () => now.read(100, 1),
      () => now.write(100, sector(1)),
      () => now.zero(100, 1),
    ]
  ) assertEquals(assertThrows(call, DiskError).kind, "busy");
  await resized;
  assertEquals(now.sectors, 128);
  now.write(127, sector(1));
  await disk.resize(32, { force: true });
  assertThrows(() => now.read(127, 1), DiskError, "has 32 sectors");
});

Deno.test("VirtualDisk.resize() is refused after a flush that failed", async () => {
  await using disk = VirtualDisk.over(
    faults(new MemoryBackend({ sectors: 64 }), ["flush error=EIO"]),
  );
  await assertRejects(() => disk.flush(), DiskError);
  await refused(() => disk.resize(128), "latched", /earlier flush failed/);
});

Deno.test(
  "VirtualDisk.resize() is refused by a device",
  needs("root", "losetup"),
  async () => {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 1 << 20);
    await using loop = await loopDevice(path);
    for (const backend of ["direct", "portable"] as const) {
      await using disk = await VirtualDisk.open(loop.path, { backend });
      for (const to of [4096, 1024]) {
        await refused(() => disk.resize(to), "unsupported", /size of its own/);
      }
      assertEquals(disk.sectors, 2048);
    }
  },
);

Deno.test("NbdServer keeps to clients what they were told, and tells new ones the new size", async () => {
  await using dir = await tempDir();
  await using disk = VirtualDisk.memory({ sectors: 128 });
  await using server = NbdServer.listen({
    path: dir.join("disk.sock"),
    exports: [{ disk }],
  });
  await using old = VirtualDisk.over(await openBackend(server.uri()));
  await refused(() => old.resize(256), "unsupported", /only raw image files/);
  await disk.resize(256);
  assertEquals(old.sectors, 128);
  await old.write(127, sector(1));
  {
    await using fresh = VirtualDisk.over(await openBackend(server.uri()));
    assertEquals(fresh.sectors, 256);
    await fresh.write(255, sector(2));
  }
  await disk.resize(64, { force: true });
  await refused(() => old.write(100, sector(1)), "no-space", /ENOSPC/);
  const error = await assertRejects(() => old.read(100, 1), DiskError);
  assertEquals(error.code, "EINVAL");
  await old.write(63, sector(1));
});
