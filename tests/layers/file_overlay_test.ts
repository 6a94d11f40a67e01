/**
 * Overlays in files: by the contract, against a model, with files that are
 * damaged or another's, and with bases that are.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertRejects,
  assertThrows,
} from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { openBackend } from "../../src/disk/open.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { type FileOverlayOptions, overlay } from "../../src/disk/overlay.ts";
import { DiskError } from "../../src/errors.ts";
import { faults } from "../../src/layers/faults.ts";
import type { FileOverlay } from "../../src/layers/file_overlay.ts";
import { latency } from "../../src/layers/latency.ts";
import { MAX_PAGES } from "../../src/layers/overlay_file/change_map.ts";
import {
  layoutOf,
  MAP_SECTOR,
  PAGE_BITS,
} from "../../src/layers/overlay_file/format.ts";
import { trace } from "../../src/layers/trace.ts";
import { Random } from "../../src/random.ts";
import {
  discardRequest,
  flushRequest,
  readRequest,
  RequestType,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import {
  assertContent,
  carryOut,
  contractSuite,
  readDisk,
  readSectors,
  submitAll,
} from "../contract.ts";
import { altered } from "../fake_backend.ts";
import { LONG, tempDir } from "../helpers.ts";
import { memory, SECTORS } from "./stacks.ts";

/** Bytes of a base of which samples are not all. */
const MANY_SAMPLES = 4 << 20;

const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

/** Makes sure that a change is seen where clocks tick slowly. */
async function touch(path: string): Promise<void> {
  const later = new Date(Date.now() + 60_000);
  await Deno.utime(path, later, later);
}

/** A file in memory for the overlay of a disk; it stays when it is closed. */
function fileFor(
  sectors = SECTORS,
): { backend: () => Backend; store: MemoryBackend } {
  const store = new MemoryBackend({ sectors: layoutOf(sectors).fileSectors });
  return {
    store,
    backend: () =>
      altered(store, {
        extents: (sector, count) => store.extents(sector, count),
        close: async () => {},
      }),
  };
}

function open(
  base: Backend,
  file: FileOverlayOptions["file"],
  more: Partial<FileOverlayOptions> = {},
): Promise<FileOverlay> {
  return overlay(base, { file, ownsBase: false, ...more });
}

/** Opens a base with something on it and an overlay in memory. */
async function opened(): Promise<{
  base: MemoryBackend;
  file: ReturnType<typeof fileFor>;
  changes: FileOverlay;
}> {
  const base = memory();
  await carryOut(base, writeRequest(0, sector(1, 64)));
  const file = fileFor();
  return { base, file, changes: await open(base, file.backend()) };
}

for (
  const [name, options] of [
    ["direct", { backend: "direct" }],
    ["portable", { backend: "portable", direct: "never" }],
  ] as const
) {
  contractSuite(`overlay() in a file, ${name}`, async () => {
    const dir = await tempDir();
    const base = memory();
    const make = () => open(base, dir.join("disk.overlay"), options);
    return {
      backend: await make(),
      reopen: make,
      cleanup: () => dir[Symbol.asyncDispose](),
    };
  }, {
    ignore: name === "direct" ? Deno.build.os !== "linux" : !LONG,
    readOnly: async () => {
      const dir = await tempDir();
      const base = memory();
      const file = dir.join("disk.overlay");
      await (await open(base, file, options)).close();
      return {
        backend: await open(base, file, { ...options, readOnly: true }),
        cleanup: () => dir[Symbol.asyncDispose](),
      };
    },
  });
}
contractSuite("overlay() in a file, slow and in blocks of 4096", async () => {
  const base = latency(memory({ blockSize: 4096 }), { fixedMs: 0.02 });
  const { backend } = fileFor();
  const slow = () => latency(backend(), { fixedMs: 0.03 });
  return {
    backend: await open(base, slow()),
    reopen: () => open(base, slow()),
  };
}, { ignore: !LONG });

Deno.test("overlay() in a file keeps changes, and leaves its base as it is", async () => {
  const { base, file, changes } = await opened();
  await carryOut(
    changes,
    writeRequest(3, sector(2)),
    writeZeroesRequest(5, 2),
    discardRequest(9, 1),
  );
  await carryOut(changes, flushRequest());
  assertEquals(changes.changed, true);
  await changes.close();
  assertEquals(await readSectors(base, 0, 16), sector(1, 16));
  const again = await open(base, file.backend());
  const seen = await readSectors(again, 0, 16);
  assertEquals(
    Array.from({ length: 16 }, (_, i) => seen[i * 512]),
    [1, 1, 1, 2, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1],
  );
  assertEquals(
    (await again.changes()).map(({ sector, count }) => [sector, count]),
    [[3, 1], [5, 2], [9, 1]],
  );
  await again.discard();
  assertEquals(await readSectors(again, 0, 16), sector(1, 16));
  assertEquals([again.changed, await again.changes()], [false, []]);
  await again.close();
  const empty = await open(base, file.backend());
  assertEquals(await readSectors(empty, 0, 16), sector(1, 16));
  await empty.close();
});

Deno.test("overlay() in a file writes down on close what was not flushed", async () => {
  const { base, file, changes } = await opened();
  await carryOut(changes, writeRequest(3, sector(2)));
  await changes.close();
  const again = await open(base, file.backend());
  assertEquals((await readSectors(again, 3, 1))[0], 2);
  await again.close();
});

Deno.test("overlay() in a file flushes data before marks, and then marks", async () => {
  const base = memory();
  const lines: string[] = [];
  const { store, backend } = fileFor();
  const file = trace(backend(), (line) => lines.push(line));
  const changes = await open(base, file);
  const { dataSector } = layoutOf(SECTORS);
  const steps = () =>
    lines.splice(0).map((line) => JSON.parse(line)).filter(({ event }) =>
      event === "submit"
    ).map(({ operation, sector }) =>
      operation === "write"
        ? (sector < dataSector ? "mark" : "data")
        : operation
    );
  await carryOut(changes, writeRequest(8, sector(1)));
  steps();
  await carryOut(changes, flushRequest());
  // The header tells of the base first, both copies of it.
  assertEquals(steps(), [
    "flush",
    "mark",
    "flush",
    "mark",
    "flush",
    "mark",
    "flush",
  ]);
  await carryOut(changes, writeRequest(9, sector(1)));
  await carryOut(changes, flushRequest());
  assertEquals(steps(), ["data", "flush", "mark", "flush"]);
  await carryOut(changes, writeRequest(9, sector(2)));
  await carryOut(changes, flushRequest());
  assertEquals(steps(), ["data", "flush"]);
  await carryOut(changes, writeFuaRequest(9, sector(3)));
  assertEquals(steps(), ["data"]);
  await changes.close();
  await store.close();
});

Deno.test("overlay() in a file refuses writes to be made durable after a flush that failed", async () => {
  const base = memory();
  const { backend } = fileFor();
  const bad = faults(backend(), []);
  const changes = await open(base, bad);
  await carryOut(changes, writeRequest(0, sector(1)));
  const rule = bad.add("flush error=EIO once");
  const [error] = await submitAll(changes, [flushRequest()]);
  assertEquals([error?.kind, error?.code], ["io", "EIO"]);
  bad.remove(rule);
  const [latched] = await submitAll(changes, [flushRequest()]);
  assertEquals(latched?.kind, "latched");
  const [durable] = await submitAll(changes, [writeFuaRequest(0, sector(1))]);
  assertEquals(durable?.kind, "latched");
  // What it could not make durable is not marked.
  await changes.close();
  const again = await open(base, backend());
  assertEquals(again.changed, false);
  await again.close();
});

Deno.test("overlay() in a file latches no flush that its file has not, as its disk does not", async () => {
  const { backend } = fileFor();
  const file = faults(backend(), []);
  const disk = VirtualDisk.over(await open(memory(), file));
  await disk.write(0, sector(1));
  const rule = file.add("flush error=ENOTSUP");
  for (let i = 0; i < 2; i++) {
    const error = await assertRejects(() => disk.flush(), DiskError);
    assertEquals([error.kind, disk.failure], ["unsupported", null]);
  }
  file.remove(rule);
  await disk.flush();
  await disk.close();
});

Deno.test("overlay() in a file tells a write that fails by the place on the disk", async () => {
  const { backend } = fileFor();
  const bad = faults(backend(), []);
  const changes = await open(memory(), bad);
  const { dataSector } = layoutOf(SECTORS);
  bad.add(`write sector=${dataSector + 7} error=ENOSPC`);
  const [error] = await submitAll(changes, [writeRequest(4, sector(1, 8))]);
  assertEquals(
    [error?.kind, error?.code, error?.sector, error?.count],
    ["no-space", "ENOSPC", 4, 8],
  );
  assertEquals((await readSectors(changes, 4, 8))[0], 0);
  await changes.close();
});

Deno.test("FileOverlay.commit() moves changes to the base, and empties the file after its flush", async () => {
  const base = memory();
  const lines: string[] = [];
  const order = (name: string) => (line: string) => {
    const { event, operation } = JSON.parse(line);
    if (event === "submit" && operation !== "read") {
      lines.push(`${name} ${operation}`);
    }
  };
  const { backend } = fileFor();
  const changes = await open(
    trace(base, order("base")),
    trace(backend(), order("file")),
  );
  await carryOut(
    changes,
    writeRequest(0, sector(1, 5000)),
    writeZeroesRequest(8, 8),
  );
  lines.length = 0;
  await changes.commit();
  const flushed = lines.indexOf("base flush");
  assertGreater(flushed, 0);
  assertEquals(lines.filter((line) => line === "base flush").length, 1);
  assert(lines.lastIndexOf("base write") < flushed);
  assert(lines.indexOf("base write") > lines.indexOf("file flush"));
  const header = lines.indexOf("file write", flushed);
  assertGreater(header, flushed);
  assertEquals(changes.changed, false);
  const expected = sector(1, 5000);
  expected.fill(0, 8 * 512, 16 * 512);
  assertContent(await readSectors(base, 0, 5000), expected, "base");
  assertContent(await readSectors(changes, 0, 5000), expected, "overlay");
  await changes.close();
});

Deno.test("FileOverlay.commit() that failed is repeated, and takes a base that has changed", async () => {
  const store = memory();
  const base = faults(store, []);
  const { backend } = fileFor();
  let changes = await open(base, backend());
  await carryOut(changes, writeRequest(0, sector(5, 5000)));
  const rule = base.add("write nth=2 error=EIO");
  await assertRejects(() => changes.commit(), DiskError, "EIO");
  assertEquals((await readSectors(store, 0, 1))[0], 5);
  const other = await changes.fork(fileFor().backend());
  for (const wrong of [() => changes.discard(), () => changes.restore(other)]) {
    await assertRejects(wrong, DiskError, "a commit was begun");
  }
  await other.close();
  await changes.close();
  base.remove(rule);
  changes = await open(base, backend());
  assertContent(await readSectors(changes, 0, 5000), sector(5, 5000), "all");
  await changes.commit();
  await changes.close();
  assertContent(await readSectors(store, 0, 5000), sector(5, 5000), "base");
  changes = await open(base, backend());
  assertEquals(changes.changed, false);
  await changes.close();
});

Deno.test("overlay() in a file refuses another base once a commit was begun, before and after more writes", async () => {
  const store = memory();
  // Beside what is changed, what tells it from another one.
  await carryOut(store, writeRequest(SECTORS - 1, sector(9)));
  const base = faults(store, []);
  const { backend } = fileFor();
  let changes = await open(base, backend());
  await carryOut(changes, writeRequest(0, sector(5, 5000)));
  const rule = base.add("write nth=2 times=99 error=EIO");
  await assertRejects(() => changes.commit(), DiskError, "EIO");
  await changes.close();
  const other = memory();
  for (const readOnly of [false, true]) {
    await assertRejects(
      () => open(other, backend(), { readOnly }),
      DiskError,
      "a commit to its base was begun, and this is another base",
    );
  }
  assertContent(await readSectors(other, 0, 5000), sector(0, 5000), "other");
  // A mark that is made later does not keep the right one out.
  changes = await open(base, backend());
  await carryOut(
    changes,
    writeRequest(SECTORS - 1, sector(7)),
    flushRequest(),
  );
  await changes.close();
  // Nor does it let another one in.
  await carryOut(other, writeRequest(SECTORS - 2, sector(3)));
  await assertRejects(() => open(other, backend()), DiskError, "another base");
  changes = await open(base, backend());
  await assertRejects(() => changes.commit(), DiskError, "EIO");
  await changes.close();
  await assertRejects(() => open(other, backend()), DiskError, "another base");
  changes = await open(other, backend(), { acceptBase: true });
  await changes.close();
  await assertRejects(() => open(base, backend()), DiskError, "another base");
  changes = await open(base, backend(), { acceptBase: true });
  base.remove(rule);
  await changes.commit();
  await changes.close();
  assertContent(await readSectors(store, 0, 5000), sector(5, 5000), "base");
  assertContent(await readSectors(store, SECTORS - 1, 1), sector(7), "last");
});

Deno.test("FileOverlay.commit() to another disk copies changes and keeps them, zeroes as holes", async () => {
  const { changes } = await opened();
  const copy = memory();
  await carryOut(
    changes,
    writeRequest(3, sector(9)),
    writeZeroesRequest(0, 2),
    writeZeroesRequest(1024, 2048),
  );
  await carryOut(copy, writeRequest(0, sector(4, 4096)));
  await changes.commit(copy);
  assertEquals((await readSectors(copy, 3, 1))[0], 9);
  assertEquals(await readSectors(copy, 0, 2), sector(0, 2));
  assertEquals(await readSectors(copy, 1024, 2048), sector(0, 2048));
  assertEquals(copy.extents(1024, 2048).some(({ hole }) => hole), true);
  assert(changes.changed);
  for (
    const target of [
      memory({ readOnly: true }),
      memory({ sectors: 8 }),
      memory({ blockSize: 4096 }),
    ]
  ) {
    await assertRejects(
      () => changes.commit(target),
      DiskError,
      "Cannot commit as the target must be writable, of at least 8192 sectors",
    );
  }
  const reason = new Error("Enough");
  await assertRejects(
    () => changes.commit(copy, AbortSignal.abort(reason)),
    Error,
    "Enough",
  );
  await changes.close();
  await assertRejects(() => changes.commit(), DiskError, "closed");
});

Deno.test("FileOverlay.commit() lets reads go on, and what is written meanwhile follows", async () => {
  const base = latency(memory(), { fixedMs: 1 });
  const changes = await open(base, fileFor().backend());
  await carryOut(changes, writeRequest(0, sector(1, 8192)));
  const order: string[] = [];
  const commit = changes.commit().then(() => order.push("commit"));
  const write = carryOut(changes, writeRequest(7, sector(2))).then(() =>
    order.push("write")
  );
  const flush = carryOut(changes, flushRequest()).then(() =>
    order.push("flush")
  );
  assertEquals((await readSectors(changes, 7, 1))[0], 1);
  order.push("read");
  await Promise.all([commit, write, flush]);
  assertEquals(order[0], "read");
  assertEquals((await readSectors(base, 7, 1))[0], 1);
  assertEquals((await readSectors(changes, 7, 1))[0], 2);
  assertEquals(
    (await changes.changes()).map(({ sector, count }) => [sector, count]),
    [[7, 1]],
  );
  await changes.close();
});

Deno.test("FileOverlay.fork() and restore() go back to a mid-point", async () => {
  const { base, file, changes } = await opened();
  await carryOut(changes, writeRequest(0, sector(2, 8)));
  const middle = fileFor();
  const fork = await changes.fork(middle.backend());
  await carryOut(changes, writeRequest(4, sector(3, 8)));
  await carryOut(fork, writeRequest(20, sector(4)));
  const at = async (from: FileOverlay, place: number) =>
    (await readSectors(from, place, 1))[0];
  assertEquals([await at(changes, 4), await at(fork, 4)], [3, 2]);
  assertEquals([await at(changes, 20), await at(fork, 20)], [1, 4]);
  await changes.restore(fork);
  assertEquals([await at(changes, 4), await at(changes, 9)], [2, 1]);
  assertEquals(await at(changes, 20), 4);
  // Both ways at once: neither waits for the other for ever.
  await Promise.all([changes.restore(fork), fork.restore(changes)]);
  await changes.restore(changes);
  assertThrows(
    () => void changes.restore(strange),
    TypeError,
    "the fork must have the same base",
  );
  await fork.close();
  await changes.close();
  for (const each of [file, middle]) {
    const again = await open(base, each.backend());
    assertEquals([await at(again, 4), await at(again, 20)], [2, 4]);
    await again.close();
  }
});

const strange = await open(memory(), fileFor().backend());

Deno.test("FileOverlay.changes() leaves the map alone that is begun anew meanwhile", async () => {
  const { base, file, changes } = await opened();
  await carryOut(changes, writeRequest(5, sector(2)));
  await changes.close();
  // What is read of the map is answered late.
  const held: (() => void)[] = [];
  const late = altered(file.backend(), {
    submit: (batch, complete) =>
      file.store.submit(batch, (request, error) => {
        const { type, sector } = request;
        if (type === RequestType.In && sector === MAP_SECTOR) {
          held.push(() => complete(request, error));
        } else complete(request, error);
      }),
    extents: (sector, count) => file.store.extents(sector, count),
  });
  const again = await open(base, late);
  const runs = again.changes();
  assertEquals(held.length, 1);
  await again.discard();
  await carryOut(again, writeRequest(10, sector(3)));
  await carryOut(again, flushRequest());
  held.pop()!();
  await runs;
  assertEquals((await readSectors(again, 10, 1))[0], 3);
  await carryOut(again, writeRequest(11, sector(4)));
  await again.close();
  const last = await open(base, file.backend());
  assertEquals(await last.changes(), [{ sector: 10, count: 2, hole: false }]);
  assertEquals((await readSectors(last, 10, 1))[0], 3);
  await last.close();
});

Deno.test("FileOverlay.fork() makes a file of its own, and takes none with changes", async () => {
  await using dir = await tempDir();
  const base = memory();
  const changes = await open(base, dir.join("one.overlay"));
  await carryOut(changes, writeRequest(0, sector(2, 8)));
  const fork = await changes.fork(dir.join("two.overlay"));
  await assertRejects(
    () => changes.fork(dir.join("two.overlay")),
    DiskError,
    "holds it",
  );
  await fork.close();
  await assertRejects(
    () => changes.fork(dir.join("two.overlay")),
    DiskError,
    "its file must have no changes yet",
  );
  await carryOut(changes, writeRequest(0, sector(5)));
  await changes.close();
  const again = await open(base, dir.join("two.overlay"));
  assertEquals((await readSectors(again, 0, 1))[0], 2);
  await again.close();
});

Deno.test("FileOverlay.restore() that failed is refused to be read, until it is restored or discarded", async () => {
  const { base, file, changes } = await opened();
  await changes.close();
  const bad = faults(file.backend(), []);
  const broken = await open(base, bad);
  await carryOut(broken, writeRequest(0, sector(2, 8)));
  const fork = await broken.fork(fileFor().backend());
  await carryOut(broken, writeRequest(0, sector(3, 8)));
  const { dataSector } = layoutOf(SECTORS);
  const rule = bad.add(`write sector=${dataSector + 2} error=EIO`);
  await assertRejects(() => broken.restore(fork), DiskError, "EIO");
  const [error] = await submitAll(broken, [readRequest(0, sector(0))]);
  assertEquals(error?.message.includes("a restore failed"), true);
  // A part of the fork's changes is no state of anything.
  const target = fileFor().backend();
  for (
    const use of [
      () => broken.commit(),
      () => broken.commit(memory()),
      () => broken.fork(target),
      () => fork.restore(broken),
    ]
  ) await assertRejects(use, DiskError, "a restore failed");
  assertEquals((await readSectors(base, 0, 1))[0], 1);
  bad.remove(rule);
  await broken.restore(fork);
  assertEquals((await readSectors(broken, 0, 1))[0], 2);
  const again = bad.add(`write sector=${dataSector + 2} error=EIO`);
  await assertRejects(() => broken.restore(fork), DiskError, "EIO");
  await broken.close();
  bad.remove(again);
  await assertRejects(
    () => open(base, file.backend()),
    DiskError,
    "a fork or restore to it was interrupted",
  );
  const fresh = await open(base, file.backend(), { reset: true });
  assertEquals((await readSectors(fresh, 0, 1))[0], 1);
  await fresh.restore(fork);
  assertEquals((await readSectors(fresh, 0, 1))[0], 2);
  await fork.close();
  await fresh.close();
});

Deno.test("overlay() in a file does as a model does, with forks, restores and commits", async () => {
  const seed = 20_261_126;
  const random = new Random(seed);
  const sectors = 512;
  const base = new MemoryBackend({ sectors });
  await carryOut(base, writeRequest(0, random.bytes(sectors * 512)));
  let model = await readDisk(base);
  const files = [fileFor(sectors), fileFor(sectors)];
  let changes = await open(base, files[0]!.backend());
  let fork: { overlay: FileOverlay; model: Uint8Array<ArrayBuffer> } | null =
    null;
  let baseModel = model.slice();
  const rounds = LONG ? 5000 : 700;
  for (let round = 0; round < rounds; round++) {
    const at = random.below(sectors);
    const count = random.between(1, Math.min(sectors - at, 40));
    const end = (at + count) * 512;
    const what = random.below(40);
    if (what < 14) {
      const data = random.bytes(count * 512);
      model.set(data, at * 512);
      await carryOut(
        changes,
        random.chance(1, 4)
          ? writeFuaRequest(at, data)
          : writeRequest(at, data),
      );
    } else if (what < 18) {
      model.fill(0, at * 512, end);
      await carryOut(
        changes,
        random.chance(1, 2)
          ? writeZeroesRequest(at, count)
          : discardRequest(at, count),
      );
    } else if (what < 22) await carryOut(changes, flushRequest());
    else if (what === 22) {
      await changes.commit();
      baseModel = model.slice();
      assertContent(await readDisk(base), model, `seed ${seed}, base`);
      // What a commit changes shows through in a fork.
      await fork?.overlay.close();
      fork = null;
    } else if (what === 23) {
      await changes.discard();
      model = baseModel.slice();
    } else if (what === 24) {
      await changes.close();
      changes = await open(base, files[0]!.backend());
    } else if (what === 25 && fork === null) {
      files[1] = fileFor(sectors);
      fork = {
        overlay: await changes.fork(files[1].backend()),
        model: model.slice(),
      };
    } else if (what === 26 && fork !== null) {
      await changes.restore(fork.overlay);
      model = fork.model.slice();
    } else if (what === 27 && fork !== null) {
      await fork.overlay.close();
      fork = null;
    } else {
      const actual = new Uint8Array(count * 512);
      const cut = random.below(count) * 512;
      await carryOut(
        changes,
        readRequest(at, actual.subarray(0, cut), actual.subarray(cut)),
      );
      assertContent(
        actual,
        model.subarray(at * 512, end),
        `seed ${seed}, round ${round}`,
      );
    }
  }
  assertContent(await readDisk(changes), model, `seed ${seed}`);
  await fork?.overlay.close();
  await changes.close();
});

Deno.test("overlay() in a file of a base of 8 TiB keeps little of its map in memory", async () => {
  const sectors = 2 ** 34;
  const base = new MemoryBackend({ sectors });
  const { store } = fileFor(sectors);
  const { dataSector } = layoutOf(sectors);
  let mapReads = 0;
  // Without extents: any page of the map may be there.
  const file = () =>
    altered(store, {
      close: async () => {},
      submit(batch, complete) {
        for (const { type, sector } of batch) {
          if (type === RequestType.In && sector < dataSector) mapReads++;
        }
        store.submit(batch, complete);
      },
    });
  await (await open(
    base,
    altered(store, {
      extents: (sector, count) => [{ sector, count, hole: true }],
      close: async () => {},
    }),
  )).close();
  let changes = await open(base, file());
  const random = new Random(3);
  // Places far apart: each has a page of the map for itself.
  const places = Array.from(
    { length: 200 },
    () => 2 ** 33 + random.below(2 ** 30) * 8,
  );
  const pages = new Set(places.map((at) => Math.floor(at / PAGE_BITS)));
  for (const at of places) {
    await carryOut(changes, writeRequest(at, sector(at / 8 % 251 + 1)));
  }
  await changes.close();
  const check = async () => {
    for (const at of places) {
      const data = new Uint8Array(1024);
      await carryOut(changes, readRequest(at, data));
      assertEquals([data[0], data[512]], [at / 8 % 251 + 1, 0]);
    }
  };
  changes = await open(base, file());
  mapReads = 0;
  await check();
  assertEquals(mapReads, pages.size);
  await check();
  assertEquals(mapReads, pages.size);
  // So many others that none of these can be in memory any more.
  const others = MAX_PAGES + pages.size;
  for (let i = 0; i < others; i++) {
    await carryOut(changes, readRequest(i * PAGE_BITS, new Uint8Array(512)));
  }
  mapReads = 0;
  await check();
  assertEquals(mapReads, pages.size);
  await changes.close();
  // Known holes are not read, however many.
  changes = await open(
    base,
    altered(store, {
      extents: (sector, count) => store.extents(sector, count),
      close: async () => {},
    }),
  );
  const found = await changes.changes();
  assertEquals(
    found.map(({ sector, count }) => [sector, count]),
    [...new Set(places)].sort((a, b) => a - b).map((at) => [at, 1]),
  );
  // More of the map than may wait to be written, a part of it at a time.
  await carryOut(changes, writeZeroesRequest(8, 2 ** 25));
  assertEquals((await changes.changes(8, 2 ** 25)).length, 1);
  await changes.close();
});

Deno.test("overlay() in a file is refused with another base, or one that was changed", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", sector(1, 4096));
  const file = dir.join("disk.overlay");
  const openBase = () => openBackend(path, { readOnly: true });
  const base = await openBase();
  const changes = await overlay(base, { file });
  await carryOut(changes, writeRequest(0, sector(2)), flushRequest());
  await assertRejects(() => open(base, file), DiskError, "holds it");
  await changes.close();
  const tries: [string, (base: Backend) => Promise<void> | void, string][] = [
    ["longer", () => Deno.truncate(path, 4097 * 512), "a base of 4096 sectors"],
    [
      "other content",
      () => Deno.writeFile(path, sector(3, 4096)),
      "modified since or is another one",
    ],
    [
      "touched",
      async () => {
        await Deno.writeFile(path, sector(1, 4096));
        await Deno.utime(path, 1000, 1000);
      },
      "modified since, or copied",
    ],
  ];
  for (const [name, spoil, words] of tries) {
    const before = await Deno.readFile(file);
    await spoil(base);
    const spoiled = await openBase();
    await assertRejects(() => open(spoiled, file), DiskError, words, name);
    assertEquals(await Deno.readFile(file), before);
    await spoiled.close();
  }
  const same = await openBase();
  const taken = await overlay(same, { file, acceptBase: true });
  assertEquals((await readSectors(taken, 0, 2))[0], 2);
  await taken.close();
  // It is known from then on.
  const known = await overlay(await openBase(), { file });
  await known.discard();
  await known.close();
  // Without changes, any base of that size will do.
  await Deno.writeFile(path, sector(5, 4096));
  const any = await overlay(await openBase(), { file });
  assertEquals((await readSectors(any, 0, 1))[0], 5);
  await any.close();
});

Deno.test("overlay() in a file is refused with a base that was changed or replaced while it was open", async () => {
  for (const way of ["before the first flush", "after it", "by another file"]) {
    await using dir = await tempDir();
    const image = dir.join("base.img");
    await Deno.writeFile(image, new Uint8Array(MANY_SAMPLES));
    const file = dir.join("disk.overlay");
    const openBase = () => openBackend(image, { readOnly: true });
    const changes = await overlay(await openBase(), { file });
    if (way === "after it") {
      await carryOut(changes, writeRequest(0, sector(7)), flushRequest());
    }
    // Where no sample is, so that nothing but the time tells.
    if (way === "by another file") {
      await Deno.writeFile(dir.join("new.img"), new Uint8Array(MANY_SAMPLES));
      await Deno.rename(dir.join("new.img"), image);
    } else {
      using written = await Deno.open(image, { write: true });
      await written.seek(100_000, Deno.SeekMode.Start);
      await written.write(sector(9));
    }
    await touch(image);
    await carryOut(changes, writeRequest(8, sector(7)), flushRequest());
    await changes.close();
    const again = await openBase();
    await assertRejects(
      () => overlay(again, { file }),
      DiskError,
      "the base was modified since",
      way,
    );
    // Nothing is lost: the changes are there for who takes the base.
    const taken = await overlay(again, { file, acceptBase: true });
    assertEquals((await readSectors(taken, 8, 1))[0], 7);
    await taken.close();
  }
});

Deno.test("FileOverlay.fork() has changes to the base that was seen, not to what it is now", async () => {
  await using dir = await tempDir();
  const image = dir.join("base.img");
  await Deno.writeFile(image, new Uint8Array(MANY_SAMPLES));
  const [file, forked] = [dir.join("disk.overlay"), dir.join("fork.overlay")];
  const openBase = () => openBackend(image, { readOnly: true });
  const changes = await overlay(await openBase(), { file });
  await carryOut(changes, writeRequest(8, sector(7)), flushRequest());
  {
    using written = await Deno.open(image, { write: true });
    await written.seek(100_000, Deno.SeekMode.Start);
    await written.write(sector(9));
  }
  await touch(image);
  const fork = await changes.fork(forked);
  await fork.close();
  await changes.close();
  const again = await openBase();
  for (const stale of [file, forked]) {
    await assertRejects(
      () => overlay(again, { file: stale }),
      DiskError,
      "the base was modified since",
      stale,
    );
  }
  await again.close();
});

Deno.test("overlay() in a file knows its base again after a commit", async () => {
  await using dir = await tempDir();
  const image = await dir.file("base.img", MANY_SAMPLES);
  const file = dir.join("disk.overlay");
  {
    const changes = await overlay(await openBackend(image), { file });
    await carryOut(changes, writeRequest(200, sector(7)));
    await changes.commit();
    await carryOut(changes, writeRequest(201, sector(8)));
    await changes.close();
  }
  const changes = await overlay(await openBackend(image), { file });
  assertEquals((await readSectors(changes, 200, 2))[512], 8);
  await changes.close();
});

Deno.test("overlay() in a file over another one is refused after that one has changed", async () => {
  await using dir = await tempDir();
  const image = await dir.file("base.img", MANY_SAMPLES);
  const openInner = async () =>
    await overlay(await openBackend(image, { readOnly: true }), {
      file: dir.join("inner.overlay"),
    });
  const openOuter = async (base: FileOverlay) => {
    try {
      return await overlay(base, { file: dir.join("outer.overlay") });
    } catch (error) {
      await base.close();
      throw error;
    }
  };
  const outer = await openOuter(await openInner());
  assertEquals(outer.info.otherFiles?.map(({ name }) => name), [
    dir.join("inner.overlay"),
    dir.join("outer.overlay"),
  ]);
  await carryOut(outer, writeRequest(200, sector(1)), flushRequest());
  await outer.close();
  const same = await openOuter(await openInner());
  assertEquals((await readSectors(same, 200, 1))[0], 1);
  await same.close();
  const inner = await openInner();
  await carryOut(inner, writeRequest(201, sector(2)), flushRequest());
  await inner.close();
  await touch(dir.join("inner.overlay"));
  await assertRejects(
    async () => await openOuter(await openInner()),
    DiskError,
    "the base was modified since",
  );
});

Deno.test("overlay() takes no link to another file for its own, and none that leads nowhere", async () => {
  await using dir = await tempDir();
  const image = dir.join("base.img");
  await Deno.writeFile(image, sector(5, 4096));
  await Deno.symlink("base.img", dir.join("link"));
  await Deno.link(image, dir.join("name"));
  await Deno.symlink("nothing", dir.join("dangling"));
  const base = await openBackend(image, { readOnly: true });
  for (const file of ["base.img", "link", "name"]) {
    await assertRejects(
      () => overlay(base, { file: dir.join(file) }),
      DiskError,
      "must begin as one does",
    );
  }
  const missing = await assertRejects(
    () => overlay(base, { file: dir.join("dangling") }),
    DiskError,
  );
  assertEquals(missing.kind, "not-found");
  await base.close();
  assertEquals(await Deno.readFile(image), sector(5, 4096));
  const left = await Array.fromAsync(
    Deno.readDir(dir.path),
    ({ name }) => name,
  );
  assertEquals(left.sort(), ["base.img", "dangling", "link", "name"]);
});

Deno.test("overlay() in a file that is none leaves it as it is", async () => {
  await using dir = await tempDir();
  const base = memory();
  const file = dir.join("some.img");
  const contents = [
    sector(7, 64),
    new Uint8Array(0),
    new Uint8Array(700),
    new TextEncoder().encode("PLTOVLAY".padEnd(8192)),
  ];
  for (const content of contents) {
    await Deno.writeFile(file, content);
    for (const more of [{}, { reset: true }, { readOnly: true }]) {
      const error = await assertRejects(
        () => open(base, file, more),
        DiskError,
      );
      assertEquals(error.kind, "geometry");
      assertEquals(await Deno.readFile(file), content);
    }
  }
  await Deno.remove(file);
  const missing = await assertRejects(
    () => open(base, file, { create: false }),
    DiskError,
    "no such file",
  );
  assertEquals([missing.kind, missing.code], ["not-found", "ENOENT"]);
  await assertRejects(() => open(base, file, { readOnly: true }), DiskError);
  await assertRejects(
    () => open(base, dir.join("none/x.overlay")),
    DiskError,
  );
  assertEquals((await Array.fromAsync(Deno.readDir(dir.path))).length, 0);
  const large = new MemoryBackend({ sectors: 64, blockSize: 4096 });
  await assertRejects(
    () => open(base, large),
    DiskError,
    "blocks of 512 bytes",
  );
});

Deno.test("overlay() in a file that is read-only shows its changes and takes none", async () => {
  const { base, file, changes } = await opened();
  await carryOut(changes, writeRequest(0, sector(2)));
  await changes.close();
  const reader = await open(base, file.backend(), { readOnly: true });
  assertEquals((await readSectors(reader, 0, 1))[0], 2);
  const [error] = await submitAll(reader, [writeRequest(0, sector(1))]);
  assertEquals(error?.kind, "read-only");
  await carryOut(reader, flushRequest());
  for (const act of [() => reader.discard(), () => reader.commit()]) {
    assertEquals((await assertRejects(act, DiskError)).kind, "read-only");
  }
  await reader.close();
});

Deno.test("overlay() in a file passes on how the file is opened", async () => {
  await using dir = await tempDir();
  const file = `nbd+unix:///?socket=${dir.path}/none`;
  for (const name of ["openTimeoutMs", "closeTimeoutMs", "requestTimeoutMs"]) {
    await assertRejects(
      () => overlay(memory(), { file, [name]: 0 }),
      RangeError,
      `${name} must be`,
    );
  }
  for (const name of ["stallMs", "pollMs"]) {
    await assertRejects(
      () => overlay(memory(), { file: `${dir.path}/none`, [name]: -1 }),
      RangeError,
      `${name} must be`,
    );
  }
});

Deno.test("FileOverlay.fork() is not bound by the signal of its opening", async () => {
  await using dir = await tempDir();
  const controller = new AbortController();
  const { signal } = controller;
  const changes = await overlay(memory(), { file: `${dir.path}/one`, signal });
  controller.abort();
  const fork = await changes.fork(`${dir.path}/two`);
  await fork.close();
  await changes.close();
});
