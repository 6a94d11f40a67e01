/**
 * The direct and the portable backend on Windows itself, or under Wine
 * (`deno task wine`), with a check that refuses what Windows refuses.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertRejects,
} from "@std/assert";
import { openWindows, Windows } from "../../../../ffi/windows.ts";
import type { EngineName } from "../../../../src/engines/choose_engine.ts";
import { openOnWindows } from "../../../../src/backends/direct/windows/mod.ts";
import { openPortable } from "../../../../src/backends/portable/mod.ts";
import { VirtualDisk } from "../../../../src/disk/disk.ts";
import { DiskError } from "../../../../src/errors.ts";
import { SECTOR_BYTES } from "../../../../src/geometry.ts";
import {
  flushRequest,
  readRequest,
  writeFuaRequest,
} from "../../../../src/request.ts";
import {
  carryOut,
  type ContractSubject,
  contractSuite,
  readSectors,
} from "../../../contract.ts";
import { checkedWindows } from "../../../ffi/checked_windows.ts";
import { fuzz } from "../../../fuzz.ts";
import { LONG, tempDir } from "../../../helpers.ts";

const ignore = Deno.build.os !== "windows";

const SIZE_BYTES = 4 * 1_048_576;

/** Reads and writes that were checked. */
const seen = { require: 0, never: 0 };

function file(
  engine: EngineName,
  direct: "require" | "never",
  sector: number,
): () => Promise<ContractSubject> {
  return async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const path = dir.join("disk.img");
    const checked = checkedWindows(sector);
    const windows = new Windows(checked.openLibrary);
    const open = (create = {}) =>
      openOnWindows(
        path,
        { readOnly: false, direct, lock: "auto", blockSize: sector, ...create },
        { engine, depth: 64, stallMs: 0.1, pollMs: 0.1 },
        windows,
      );
    const backend = await open({
      create: { sizeBytes: SIZE_BYTES, overwrite: false },
    });
    assertEquals(backend.info.engine.name, engine);
    assertEquals(backend.info.direct.active, direct === "require");
    const kept = stack.move();
    return {
      backend,
      reopen: () => open(),
      cleanup: async () => {
        assertEquals(checked.refused, 0);
        if (direct === "never") assertEquals(checked.direct, 0);
        seen[direct] += checked.direct;
        await kept.disposeAsync();
      },
    };
  };
}

for (
  const [engine, direct] of [
    ["iocp", "require"],
    ["sync", "require"],
    ["iocp", "never"],
  ] as const
) {
  const isFirst = engine === "iocp" && direct === "require";
  contractSuite(
    `Windows, ${engine}, direct: ${direct}`,
    file(engine, direct, 512),
    { ignore: ignore || !isFirst && !LONG },
  );
}

Deno.test({
  name: "the checks of Windows saw reads and writes without a buffer",
  ignore,
  fn: () => assertGreater(seen.require, 1000),
});

for (const backend of ["direct", "portable"] as const) {
  Deno.test({
    name: `fuzz() finds nothing on Windows: ${backend}`,
    ignore,
    async fn() {
      await using dir = await tempDir();
      const path = dir.join("disk.img");
      const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
      const requests = Number(Deno.env.get("PLATTER_FUZZ_REQUESTS") ?? 2000);
      console.log(`${backend}: seed ${seed}, ${requests} requests`);
      const disk = await VirtualDisk.create(path, { backend, sectors: 8192 });
      await fuzz({
        disk,
        start: 0,
        content: async () => await Deno.readFile(path),
        [Symbol.asyncDispose]: () => disk.close(),
      }, { seed, requests, phase: 500 });
      await disk.close();
    },
  });
}

async function kindOf(promise: Promise<unknown>): Promise<string> {
  const error = await assertRejects(() => promise, DiskError);
  return `${error.kind}: ${error.message.replace(/"[^"]*"/, "it")}`;
}

Deno.test({
  name:
    "VirtualDisk.open() keeps a second writer out on Windows, whatever it is",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("disk.img");
    const first = await VirtualDisk.create(path, { sectors: 64 });
    assertEquals(first.info.backend, "direct");
    assertEquals(first.info.lock, { method: "share mode", reason: null });
    for (const backend of ["direct", "portable"] as const) {
      const message = await kindOf(VirtualDisk.open(path, { backend }));
      assert(message.startsWith("locked: Cannot open it for writing"), message);
      const reader = await VirtualDisk.open(path, { backend, readOnly: true });
      await reader.close();
      const alone = await kindOf(
        VirtualDisk.open(path, { backend, readOnly: true, lock: "exclusive" }),
      );
      assert(alone.startsWith("locked:"), alone);
    }
    // A program that knows nothing of Platter.
    assertEquals((await Deno.readFile(path)).length, 64 * SECTOR_BYTES);
    await assertRejects(() => Deno.open(path, { write: true }));
    await first.close();
    await (await VirtualDisk.open(path)).close();
  },
});

Deno.test({
  name: "openPortable() keeps out writers on Windows by a byte that it locks",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 65_536);
    const first = await openPortable(path);
    assertEquals(first.info.lock.method, "LockFileEx");
    const message = await kindOf(openPortable(path));
    assert(message.startsWith("locked:"), message);
    // The lock is on no content.
    await carryOut(first, writeFuaRequest(0, new Uint8Array(65_536).fill(7)));
    assertEquals((await readSectors(first, 127, 1))[511], 7);
    const direct = await kindOf(VirtualDisk.open(path, { backend: "direct" }));
    assert(direct.startsWith("locked:"), direct);
    await first.close();
    const alone = await openPortable(path, {
      readOnly: true,
      lock: "exclusive",
    });
    assertEquals(alone.info.lock.method, "LockFileEx");
    const writer = await kindOf(openPortable(path));
    assert(writer.startsWith("locked:"), writer);
    await alone.close();
  },
});

Deno.test({
  name: "VirtualDisk reads and writes the ends of 1 TiB on Windows",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const backends = ["direct", "portable"] as const;
    for (const backend of backends) {
      const path = dir.join(`${backend}.img`);
      const sectors = 2 ** 40 / SECTOR_BYTES;
      const disk = await VirtualDisk.create(path, { backend, sectors });
      const data = new Uint8Array(4096).fill(9);
      await disk.write(sectors - 8, data, { fua: true });
      await disk.write(2 ** 32 / SECTOR_BYTES, data);
      await disk.flush();
      assertEquals(await disk.read(sectors - 8, 8), data);
      assertEquals(await disk.read(2 ** 32 / SECTOR_BYTES, 8), data);
      assertEquals(await disk.read(0, 8), new Uint8Array(4096));
      await disk.close();
      await Deno.remove(path);
    }
  },
});

Deno.test({
  name: "DirectBackend overlaps reads on Windows, and finds each its own",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const blocks = 4096;
    const content = new Uint8Array(blocks * 4096);
    const view = new DataView(content.buffer);
    for (let i = 0; i < blocks; i++) view.setUint32(i * 4096, i, true);
    const path = await dir.file("disk.img", content);
    const backend = await openOnWindows(
      path,
      { readOnly: true, direct: "require", lock: "auto" },
      { engine: "iocp", depth: 32, stallMs: 0.2, pollMs: 0.1 },
    );
    let wrong = 0;
    let left = blocks;
    await new Promise<void>((resolve) => {
      let next = 0;
      const one = (memory: Uint8Array<ArrayBuffer>) => {
        const block = next++ * 1021 % blocks;
        backend.submit([readRequest(block * 8, memory)], (_, error) => {
          const found = new DataView(memory.buffer, memory.byteOffset)
            .getUint32(0, true);
          if (error !== null || found !== block) wrong++;
          if (--left === 0) resolve();
          else if (next < blocks) one(memory);
        });
      };
      for (let i = 0; i < 32; i++) one(backend.allocate(4096));
    });
    assertEquals(wrong, 0);
    assertGreater(backend.counters.systemCalls, blocks);
    // Windows flushes for writers alone, and nothing is to be flushed.
    await carryOut(backend, flushRequest());
    await backend.close();
  },
});

Deno.test({
  name: "Windows finds what it needs in its libraries",
  ignore,
  fn() {
    const memory = openWindows().mapMemory(4096);
    assertEquals(memory.bytes.every((byte) => byte === 0), true);
    assertEquals(memory.address % 4096, 0);
    memory.release();
  },
});
