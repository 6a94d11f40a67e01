/**
 * Whatever looks at a disk sees every write that was made before, awaited or
 * not: on every backend, with every engine, through the layers.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backend, Complete } from "../src/backend.ts";
import { MemoryBackend } from "../src/backends/memory.ts";
import { isZero } from "../src/buffer.ts";
import { compareDisks, copyDisk } from "../src/disk/copy.ts";
import { VirtualDisk } from "../src/disk/disk.ts";
import { DiskError } from "../src/errors.ts";
import type { OpenOptions } from "../src/disk/open.ts";
import { Random } from "../src/random.ts";
import type { Request } from "../src/request.ts";
import { assertDisksEqual, assertZeroes } from "../src/crash/mod.ts";
import {
  faults,
  latency,
  overlay,
  readahead,
  verify,
} from "../src/testing/mod.ts";
import { LONG, type TempDir, tempDir } from "./helpers.ts";

const SECTORS = 8192;

/** Carries out requests only when told to, and the last one first. */
class Held implements Backend {
  readonly #model = new MemoryBackend({ sectors: SECTORS });
  readonly geometry = this.#model.geometry;
  readonly abilities = this.#model.abilities;
  readonly limits = this.#model.limits;
  readonly info = this.#model.info;
  readonly counters = this.#model.counters;
  readonly held: [Request, Complete][] = [];
  closed = false;

  submit(batch: readonly Request[], complete: Complete): void {
    for (const request of batch) this.held.push([request, complete]);
  }

  release(): void {
    for (const [request, complete] of this.held.splice(0).reverse()) {
      this.#model.submit([request], complete);
    }
  }

  extents(sector: number, count: number) {
    assert(!this.closed, "It is closed");
    return this.#model.extents(sector, count);
  }

  allocate(byteLength: number) {
    return this.#model.allocate(byteLength);
  }

  close() {
    this.closed = true;
    return this.#model.close();
  }
}

/** A disk of its own in a folder; `null` where there is no such engine. */
type Make = (dir: TempDir, name: string) => Promise<VirtualDisk | null>;

function onFile(options: OpenOptions): Make {
  return async (dir, name) => {
    const path = dir.join(name);
    try {
      return await VirtualDisk.create(path, { sectors: SECTORS, ...options });
    } catch (error) {
      if (!(error instanceof DiskError) || error.kind !== "platform") {
        throw error;
      }
      console.warn(`A variant is skipped: ${error.message}`);
      return null;
    }
  };
}

/** A disk in memory that answers late and in any order. */
function slow(seed: number): Backend {
  const model = new MemoryBackend({ sectors: SECTORS });
  const spikes = [{ ratio: { numerator: 1, denominator: 4 }, ms: 0.2 }];
  return latency(model, { seed, spikes });
}

const LAYERS: Record<string, (backend: Backend) => Backend> = {
  "a slow disk": (backend) => backend,
  overlay: (backend) => overlay(backend, { ownsBase: true }),
  readahead: (backend) => readahead(backend),
  "faults with a small cache": (backend) =>
    faults(backend, ["flush=kept off"], { cacheBytes: 65_536 }),
  verify: (backend) => verify(backend, slow(2)),
};

const DISKS: [string, Make][] = [
  ...(["io_uring", "libaio", "sync"] as const).map((engine) =>
    [engine, onFile({ engine })] as [string, Make]
  ),
  ["portable", onFile({ backend: "portable" })],
  ["memory", () => Promise.resolve(VirtualDisk.memory({ sectors: SECTORS }))],
  ...Object.entries(LAYERS).map(([name, layer]): [string, Make] => [
    name,
    () => Promise.resolve(VirtualDisk.over(layer(slow(1)))),
  ]),
];

const bytes = (sectors: number, value = 7) =>
  new Uint8Array(sectors * 512).fill(value);

/** The sectors that are said to be holes. */
async function holes(disk: VirtualDisk): Promise<Set<number>> {
  const all = new Set<number>();
  for (const { sector, count, hole } of await disk.extents()) {
    for (let i = 0; hole && i < count; i++) all.add(sector + i);
  }
  return all;
}

for (const [name, make] of DISKS) {
  const test = (
    title: string,
    body: (make: (name: string) => Promise<VirtualDisk>) => Promise<void>,
  ) =>
    Deno.test({
      name: `${title}, on ${name}`,
      async fn() {
        await using stack = new AsyncDisposableStack();
        const dir = stack.use(await tempDir());
        const first = await make(dir, "first");
        if (first === null) return;
        const disks = [stack.use(first)];
        await body(async (file) => {
          const next = disks.pop() ?? stack.use((await make(dir, file))!);
          return next;
        });
      },
    });

  test("copyDisk() takes writes along that were not awaited", async (make) => {
    const [source, target] = [await make("a"), await make("b")];
    const write = source.write(4096, source.allocate(2048).fill(7));
    await copyDisk(source, target);
    await write;
    assertEquals(await target.read(4096, 2048), bytes(2048));
    // And what was on its way to the target when the copy began is under it.
    const old = target.write(0, target.allocate(2048).fill(9));
    const zeroes = source.writeZeroes(4096, 2048, { unmap: true });
    await copyDisk(source, target);
    await Promise.all([old, zeroes]);
    assert(isZero(await target.read(0, SECTORS)));
  });

  test("compareDisks() sees writes that were not awaited", async (make) => {
    const [a, b] = [await make("a"), await make("b")];
    const write = a.write(4096, a.allocate(2048).fill(7));
    assertEquals(await compareDisks(a, b), {
      sector: 4096,
      offset: 0,
      end: false,
    });
    const same = b.write(4096, b.allocate(2048).fill(7));
    assertEquals(await compareDisks(a, b), null);
    await Promise.all([write, same]);
  });

  test("assertZeroes() and assertDisksEqual() see writes that were not awaited", async (make) => {
    const [a, b] = [await make("a"), await make("b")];
    const write = a.write(4096, a.allocate(8).fill(7));
    await assertRejects(() => assertZeroes(a), Error, "sector 4096");
    const again = a.write(6000, a.allocate(8).fill(7));
    await assertRejects(() => assertDisksEqual(a, b), Error, "sector 4096");
    await Promise.all([write, again]);
  });

  test("VirtualDisk.extents() sees every write before it, whatever is in flight", async (make) => {
    const disk = await make("a");
    const random = new Random(20_260_101);
    const model = new Uint8Array(SECTORS);
    for (let round = 0; round < (LONG ? 100 : 8); round++) {
      const writes: Promise<unknown>[] = [];
      for (let i = random.between(1, 160); i > 0; i--) {
        const count = random.between(1, 64);
        const sector = random.below(SECTORS - count);
        if (random.chance(1, 3)) {
          const unmap = random.chance(1, 2);
          writes.push(disk.writeZeroes(sector, count, { unmap }));
          model.fill(0, sector, sector + count);
        } else {
          writes.push(disk.write(sector, bytes(count, 1 + random.below(255))));
          model.fill(1, sector, sector + count);
        }
      }
      const found = await holes(disk);
      for (const [sector, data] of model.entries()) {
        assert(
          data === 0 || !found.has(sector),
          `Round ${round}: sector ${sector} is data and said to be a hole`,
        );
      }
      await Promise.all(writes);
    }
  });
}

Deno.test("VirtualDisk.extents() waits for the writes that overlap it, and for no others", async () => {
  const backend = new Held();
  const disk = VirtualDisk.over(backend);
  const far = disk.write(4096, bytes(128));
  const reading = disk.read(0, 128);
  disk.kick();
  assertEquals(await disk.extents(0, 128), [
    { sector: 0, count: 128, hole: true },
  ]);
  let seen = false;
  const near = disk.slice(4000, 1000).extents(96, 128).then((extents) => {
    seen = true;
    return extents;
  });
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals(seen, false);
  backend.release();
  assertEquals(await near, [{ sector: 96, count: 128, hole: false }]);
  await Promise.all([far, reading]);
  await disk.close();
});

Deno.test("VirtualDisk.extents() waits for writes that stand in line", async () => {
  const backend = new Held();
  const disk = VirtualDisk.over(backend, { queueSize: 2 });
  const writes = [0, 1, 2, 3, 4, 5].map((i) => disk.write(i * 256, bytes(128)));
  const extents = disk.extents(0, 1536);
  for (let i = 0; i < 6; i++) {
    disk.kick();
    await new Promise((resolve) => setTimeout(resolve));
    backend.release();
  }
  assertEquals((await extents).filter(({ hole }) => !hole).length, 6);
  await Promise.all(writes);
  await disk.close();
});

Deno.test("VirtualDisk.extents() may be asked 20,000 times while one write is in flight", async () => {
  const backend = new Held();
  const disk = VirtualDisk.over(backend);
  const write = disk.write(0, bytes(8));
  const extents = Array.from({ length: 20_000 }, () => disk.extents(0, 8));
  disk.kick();
  backend.release();
  await Promise.all([write, ...extents]);
  await disk.close();
});

Deno.test("VirtualDisk.extents() listens to a signal once, however often it is asked", async () => {
  const backend = new Held();
  const disk = VirtualDisk.over(backend);
  const { signal } = new AbortController();
  const calls: string[] = [];
  for (const name of ["addEventListener", "removeEventListener"] as const) {
    const original = signal[name];
    signal[name] = (...args: Parameters<typeof original>) => {
      calls.push(name);
      original.apply(signal, args);
    };
  }
  const write = disk.write(0, bytes(8), { signal });
  const looks = Array.from({ length: 9 }, () => disk.extents(0, 8, { signal }));
  disk.kick();
  backend.release();
  await Promise.all([write, ...looks]);
  await disk.close();
  assertEquals(calls, ["addEventListener", "removeEventListener"]);
});

Deno.test("VirtualDisk.extents() goes on if a write before it fails or is withdrawn", async () => {
  const backend = new Held();
  const disk = VirtualDisk.over(backend, { queueSize: 1 });
  const controller = new AbortController();
  const { signal } = controller;
  const first = disk.write(0, bytes(128));
  const second = assertRejects(() => disk.write(64, bytes(128), { signal }));
  const third = assertRejects(() => disk.write(9000, bytes(1)), DiskError);
  const extents = disk.extents(0, 256);
  disk.kick();
  controller.abort(new Error("Enough"));
  backend.release();
  assertEquals(await extents, [
    { sector: 0, count: 128, hole: false },
    { sector: 128, count: 128, hole: true },
  ]);
  await Promise.all([first, second, third]);
  await disk.close();
});

Deno.test("VirtualDisk.extents() made before close() is answered, and no closed backend asked", async () => {
  const backend = new Held();
  const disk = VirtualDisk.over(backend);
  const write = disk.write(0, bytes(128));
  const extents = disk.extents(0, 128);
  disk.kick();
  const closing = disk.close();
  backend.release();
  assertEquals(await extents, [{ sector: 0, count: 128, hole: false }]);
  await Promise.all([write, closing]);
  const error = await assertRejects(() => disk.extents(), DiskError);
  assertEquals(error.kind, "closed");
});

Deno.test("VirtualDisk.extents() rejects with the signal's reason, at once", async () => {
  const backend = new Held();
  const disk = VirtualDisk.over(backend);
  const write = disk.write(0, bytes(128));
  const controller = new AbortController();
  const { signal } = controller;
  const waiting = disk.extents(0, 128, { signal });
  disk.kick();
  controller.abort(new Error("Enough"));
  await assertRejects(() => waiting, Error, "Enough");
  await assertRejects(
    () => disk.extents(0, 128, { signal }),
    Error,
    "Enough",
  );
  // So do those who ask on others' behalf.
  await assertRejects(
    () => compareDisks(disk, disk, { signal }),
    Error,
    "Enough",
  );
  backend.release();
  await write;
  await disk.close();
});
