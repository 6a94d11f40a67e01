/**
 * Overlays in files that fail: whatever goes wrong, every request is answered,
 * and what is open is closed.
 *
 * @module
 */

import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { overlay } from "../../src/disk/overlay.ts";
import { DiskError } from "../../src/errors.ts";
import { faults } from "../../src/layers/faults.ts";
import type { FileOverlay } from "../../src/layers/file_overlay.ts";
import {
  HEADER_SECTORS,
  layoutOf,
  PAGE_BIT_BYTES,
} from "../../src/layers/overlay_file/format.ts";
import {
  flushRequest,
  readRequest,
  RequestType,
  writeFuaRequest,
  writeRequest,
} from "../../src/request.ts";
import { carryOut, readSectors, submitAll } from "../contract.ts";
import { altered, holding } from "../fake_backend.ts";
import { sector, values } from "./faulty.ts";
import { memory, SECTORS } from "./stacks.ts";

const turn = () => new Promise((resolve) => setTimeout(resolve));

/** A file in memory, which stays when it is closed. */
function fileWith(changes: Partial<Backend> = {}): Backend {
  const { fileSectors } = layoutOf(SECTORS);
  const store = new MemoryBackend({ sectors: fileSectors });
  return altered(store, {
    extents: (sector, count) => store.extents(sector, count),
    close: async () => {},
    ...changes,
  });
}

const open = (base: Backend, file: Backend): Promise<FileOverlay> =>
  overlay(base, { file, ownsBase: false });

/** A file that has memory as long as a test lets it. */
function forgetful(): { file: Backend; free: { left: boolean } } {
  const free = { left: true };
  const file = fileWith({
    allocate(byteLength) {
      if (!free.left) throw new RangeError("Array buffer allocation failed");
      return new Uint8Array(byteLength);
    },
  });
  return { file, free };
}

Deno.test("overlay() in a file fails a flush for which there is no memory, and closes", async () => {
  const { file, free } = forgetful();
  const changes = await open(memory(), file);
  await carryOut(changes, writeRequest(0, sector(1)));
  free.left = false;
  const [error] = await submitAll(changes, [flushRequest()]);
  assertEquals(error?.kind, "io");
  assertStringIncludes(error!.message, "allocation failed");
  free.left = true;
  const [latched] = await submitAll(changes, [flushRequest()]);
  assertEquals(latched?.kind, "latched");
  await changes.close();
});

Deno.test("overlay() in a file fails a read for whose map there is no memory, and no other one", async () => {
  const { file, free } = forgetful();
  const base = memory();
  const first = await open(base, file);
  await carryOut(first, writeRequest(0, sector(1)));
  await first.close();
  const changes = await open(base, file);
  free.left = false;
  const [error] = await submitAll(changes, [readRequest(0, sector(0))]);
  assertEquals([error?.kind, error?.sector, error?.count], ["io", 0, 1]);
  await assertRejects(() => changes.changes(), DiskError, "allocation failed");
  free.left = true;
  assertEquals((await readSectors(changes, 0, 1))[0], 1);
  await changes.commit();
  await changes.close();
});

Deno.test("overlay() in a file fails a write for whose map there is no memory, and no other one", async () => {
  const changes = await open(memory(), fileWith());
  const { Uint8Array: Original } = globalThis;
  const data = sector(2);
  const requests = [readRequest(0, sector(0)), writeRequest(0, data)];
  // As if the system had no more.
  globalThis.Uint8Array = new Proxy(Original, {
    construct(target, args) {
      if (args[0] === PAGE_BIT_BYTES) throw new RangeError("Allocation failed");
      return Reflect.construct(target, args);
    },
  });
  let errors: (DiskError | null)[];
  try {
    errors = await submitAll(changes, requests);
  } finally {
    globalThis.Uint8Array = Original;
  }
  assertEquals(errors.map((error) => error?.kind), [undefined, "io"]);
  await carryOut(changes, writeRequest(0, data));
  await changes.commit();
  await changes.close();
});

Deno.test("overlay() in a file closes its base also if its file fails, and says what failed first", async () => {
  const closed: string[] = [];
  for (const flushes of [true, false]) {
    const base = altered(memory(), {
      close() {
        closed.push("base");
        return Promise.resolve();
      },
    });
    const file = faults(
      fileWith({
        close() {
          closed.push("file");
          throw new DiskError("io", "Cannot close", { operation: "close" });
        },
      }),
      [],
    );
    const changes = await overlay(base, { file });
    await carryOut(changes, writeRequest(0, sector(1)));
    if (!flushes) file.add("flush error=EIO");
    const error = await assertRejects(() => changes.close(), DiskError);
    assertStringIncludes(error.message, flushes ? "Cannot close" : "EIO");
    assertEquals(closed.splice(0), ["file", "base"]);
  }
});

Deno.test("FileOverlay.commit() that cannot say that it begins leaves the file to be opened again", async () => {
  for (const copy of HEADER_SECTORS) {
    const base = memory();
    const store = fileWith();
    const file = faults(store, []);
    const changes = await open(base, file);
    await carryOut(changes, writeRequest(0, sector(1)), flushRequest());
    const rule = file.add(`write sector=${copy} error=EIO`);
    await assertRejects(() => changes.commit(), DiskError, "EIO");
    file.remove(rule);
    assertEquals((await readSectors(base, 0, 1))[0], 0);
    // No write is durable either, of sectors that the map has already.
    const [durable] = await submitAll(changes, [
      writeFuaRequest(0, sector(3)),
    ]);
    assertEquals(durable?.kind, "latched");
    // Which base the file is of is not known: nothing is marked in it.
    await carryOut(changes, writeRequest(5, sector(2)));
    const [latched] = await submitAll(changes, [flushRequest()]);
    assertEquals(latched?.kind, "latched");
    await carryOut(changes, writeRequest(0, sector(1)));
    await assertRejects(() => changes.commit(), DiskError, "EIO");
    await changes.close();
    const again = await open(base, store);
    assertEquals(await values(again, 0, 6), [1, 0, 0, 0, 0, 0]);
    await again.commit();
    assertEquals(await values(base, 0, 6), [1, 0, 0, 0, 0, 0]);
    await again.close();
  }
});

Deno.test("FileOverlay.discard() is taken after a commit that could not say that it begins", async () => {
  // Wherever it failed: it writes two copies, and flushes after each.
  for (
    const rule of ["write nth=1", "write nth=2", "flush nth=2", "flush nth=3"]
  ) {
    for (const reopens of [false, true]) {
      const base = memory();
      const store = fileWith();
      const file = faults(store, []);
      const changes = await open(base, file);
      await carryOut(changes, writeRequest(0, sector(1)), flushRequest());
      const added = file.add(`${rule} error=EIO`);
      await assertRejects(() => changes.commit(), DiskError, "EIO");
      file.remove(added);
      assertEquals(await values(base, 0, 1), [0]);
      if (reopens) await changes.close();
      const again = reopens ? await open(base, store) : changes;
      assertEquals(await values(again, 0, 1), [1]);
      await again.discard();
      assertEquals(await values(again, 0, 1), [0]);
      await again.close();
    }
  }
});

Deno.test("FileOverlay.commit() that failed has ended: no piece goes on", async () => {
  let pieces = 0;
  const { backend, held } = holding(
    memory(),
    ({ type }) => type === RequestType.Out,
  );
  const target = altered(backend, {
    allocate(byteLength) {
      if (++pieces === 2) {
        throw new RangeError("Array buffer allocation failed");
      }
      return new Uint8Array(byteLength);
    },
  });
  const changes = await open(memory(), fileWith());
  await carryOut(changes, writeRequest(0, sector(1, 4096)));
  let ended = false;
  const commit = assertRejects(() => changes.commit(target), RangeError)
    .then(() => ended = true);
  while (held.length === 0) await turn();
  await turn();
  assertEquals(ended, false);
  held.splice(0).forEach((carryOut) => carryOut());
  await commit;
  await changes.close();
});
