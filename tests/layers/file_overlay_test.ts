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
import { VirtualDisk } from "../../src/disk/disk.ts";
import { openBackend } from "../../src/disk/open.ts";
import { type FileOverlayOptions, overlay } from "../../src/disk/overlay.ts";
import { DiskError } from "../../src/errors.ts";
import { faults } from "../../src/layers/faults.ts";
import type { FileOverlay } from "../../src/layers/file_overlay.ts";
import { latency } from "../../src/layers/latency.ts";
import { layoutOf } from "../../src/layers/overlay_file/format.ts";
import { trace } from "../../src/layers/trace.ts";
import { Random } from "../../src/random.ts";
import {
  discardRequest,
  flushRequest,
  readRequest,
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

const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

/** A file in memory for the overlay of a disk; it stays when it is closed. */
function fileFor(
  sectors = SECTORS,
): { backend: () => Backend; store: Backend } {
  const store = new MemoryBackend({ sectors: layoutOf(sectors).fileSectors });
  return {
    store,
    backend: () =>
      altered(store, {
        extents: (sector, count) => store.extents!(sector, count),
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
    ignore: name === "direct" && Deno.build.os !== "linux",
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
});

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
