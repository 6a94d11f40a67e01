import {
  assert,
  assertEquals,
  assertLess,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import type { Backend, Complete, Extent } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { assertDisksEqual } from "../../src/crash/assertions/assert_disks_equal.ts";
import { compareDisks, copyDisk } from "../../src/disk/copy.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { SyncDisk } from "../../src/disk/sync_disk.ts";
import { DiskError } from "../../src/errors.ts";
import { Random } from "../../src/random.ts";
import { type Request, RequestType } from "../../src/request.ts";

/** A memory disk that shows its requests and can fail or answer late. */
class Watched implements Backend {
  readonly model: MemoryBackend;
  readonly geometry;
  readonly limits = { maxSegments: 1, maxBytes: 0 };
  readonly info;
  readonly counters;
  abilities;
  /** Every request that reached it. */
  readonly requests: Request[] = [];
  /** Sectors of the requests not yet answered. */
  busySectors = 0;
  maxBusySectors = 0;
  /** Fails a request, or spoils what it carries. */
  intervene: (request: Request) => DiskError | null = () => null;
  /** Milliseconds that a request takes. */
  delayOf: (request: Request) => number = () => 0;

  constructor(sectors: number, blockSize = 512) {
    this.model = new MemoryBackend({ sectors, blockSize });
    this.geometry = this.model.geometry;
    this.info = this.model.info;
    this.counters = this.model.counters;
    this.abilities = this.model.abilities;
  }

  submit(batch: readonly Request[], complete: Complete): void {
    for (const request of batch) {
      this.requests.push(request);
      this.busySectors += request.count;
      this.maxBusySectors = Math.max(this.maxBusySectors, this.busySectors);
      const answer: Complete = (request, error) => {
        this.busySectors -= request.count;
        complete(request, error);
      };
      const carryOut = () => {
        const error = this.intervene(request);
        if (error !== null) answer(request, error);
        else this.model.submit([request], answer);
      };
      const delayMs = this.delayOf(request);
      if (delayMs === 0) queueMicrotask(carryOut);
      else setTimeout(carryOut, delayMs);
    }
  }

  extents(sector: number, count: number): Extent[] {
    return this.model.extents(sector, count);
  }

  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return this.model.allocate(byteLength);
  }

  close(): Promise<void> {
    return this.model.close();
  }

  of(type: RequestType): [sector: number, count: number][] {
    return this.requests.filter((request) => request.type === type)
      .map(({ sector, count }) => [sector, count]);
  }
}

function filled(sectors: number, byte: number): Uint8Array {
  return new Uint8Array(sectors * 512).fill(byte);
}

function ioError(sector: number): DiskError {
  return new DiskError("io", `Cannot read sector ${sector}`, { sector });
}

Deno.test("copyDisk() copies data and skips zeroes if the target is zero", async () => {
  const backend = new Watched(8192);
  await using source = VirtualDisk.memory({ sectors: 8192 });
  await using target = VirtualDisk.over(backend);
  await source.write(5, filled(3, 1));
  await source.write(8191, filled(1, 2));

  const result = await copyDisk(source, target, { targetIsZero: true });

  assertEquals(result, {
    sectors: 8192,
    written: 256,
    zeroed: 0,
    skipped: 8192 - 256,
    verified: false,
  });
  assertEquals(await target.read(0, 8192), await source.read(0, 8192));
  assertEquals(backend.of(RequestType.Out).toSorted((a, b) => a[0] - b[0]), [
    [0, 128],
    [8064, 128],
  ]);
  assertEquals(backend.of(RequestType.WriteZeroes), []);
  assertEquals(backend.of(RequestType.Flush).length, 1);
});

Deno.test("copyDisk() makes zeroes of what a used target had", async () => {
  await using source = VirtualDisk.memory({ sectors: 8192 });
  await using target = VirtualDisk.memory({ sectors: 9000 });
  await target.write(0, filled(9000, 9));
  await source.write(4096, filled(2, 1));

  const result = await copyDisk(source, target, { verify: true });

  assertEquals(result, {
    sectors: 8192,
    written: 128,
    zeroed: 8064,
    skipped: 0,
    verified: true,
  });
  assertEquals(await target.read(0, 8192), await source.read(0, 8192));
  assertEquals(await target.read(8192, 808), filled(808, 9));
});

Deno.test("copyDisk() finds zeroes inside of data", async () => {
  const backend = new Watched(4096);
  await using source = VirtualDisk.memory({ sectors: 4096 });
  await using target = VirtualDisk.over(backend);
  await source.write(0, filled(4096, 0));
  await source.write(300, filled(1, 1));

  const { written } = await copyDisk(source, target, { targetIsZero: true });

  assertEquals(written, 128);
  assertEquals(backend.of(RequestType.Out), [[256, 128]]);
});

Deno.test("copyDisk() writes every sector if sparse is false", async () => {
  const backend = new Watched(5000);
  await using source = VirtualDisk.memory({ sectors: 5000 });
  await using target = VirtualDisk.over(backend);

  const result = await copyDisk(source, target, {
    sparse: false,
    targetIsZero: true,
  });

  assertEquals(result.written, 5000);
  assertEquals(backend.of(RequestType.Out), [
    [0, 2048],
    [2048, 2048],
    [4096, 904],
  ]);
});

for (const when of ["it says so", "a request says so"]) {
  Deno.test(`copyDisk() writes zeroes as data if the target cannot, and ${when}`, async () => {
    const backend = new Watched(8192);
    if (when === "it says so") {
      backend.abilities = { ...backend.abilities, writeZeroes: "none" };
    } else {
      backend.intervene = (request) =>
        request.type === RequestType.WriteZeroes
          ? new DiskError("unsupported", "Cannot write zeroes")
          : null;
    }
    await using source = VirtualDisk.memory({ sectors: 8192 });
    await using target = VirtualDisk.over(backend);
    await target.write(0, filled(8192, 9));

    const { zeroed } = await copyDisk(source, target);

    assertEquals(zeroed, 8192);
    assertEquals(await target.read(0, 8192), filled(8192, 0));
  });
}

Deno.test("copyDisk() copies disks of different block sizes and odd ends", async () => {
  const backend = new Watched(8 * 129, 4096);
  await using source = VirtualDisk.memory({ sectors: 8 * 129 });
  await using target = VirtualDisk.over(backend);
  await source.write(8 * 129 - 3, filled(3, 7));
  await copyDisk(source, target, { verify: true });
  assertEquals(await target.read(0, 8 * 129), await source.read(0, 8 * 129));
});

Deno.test("copyDisk() equals the source for random content", async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = new Random(seed);
    const below = (end: number) => random.below(end);
    const sectors = 1 + below(20_000);
    await using source = VirtualDisk.memory({ sectors });
    await using target = VirtualDisk.memory({ sectors });
    for (const disk of [source, target]) {
      for (let i = below(12); i > 0; i--) {
        const sector = below(sectors);
        const count = Math.min(1 + below(3000), sectors - sector);
        await disk.write(sector, filled(count, below(3)));
      }
    }
    const options = { chunkSectors: 1 + below(4000), depth: 1 + below(8) };
    const result = await copyDisk(source, target, options);
    const { written, zeroed, skipped } = result;
    assertEquals(written + zeroed + skipped, sectors, `seed ${seed}`);
    const difference = await compareDisks(source, target);
    assertEquals(difference, null, `seed ${seed}`);
    assertEquals(
      await target.read(0, sectors),
      await source.read(0, sectors),
      `seed ${seed}`,
    );
  }
});

Deno.test("copyDisk() has no more than depth chunks in flight", async () => {
  const backend = new Watched(65_536);
  backend.delayOf = () => 1;
  await using source = VirtualDisk.over(backend);
  await using target = VirtualDisk.memory({ sectors: 65_536 });
  await source.write(0, filled(65_536, 1));
  backend.maxBusySectors = 0;
  await copyDisk(source, target, { depth: 3, chunkSectors: 1024 });
  assertEquals(backend.maxBusySectors, 3 * 1024);
});

Deno.test("copyDisk() and compareDisks() begin no more transfers than there is work for", async () => {
  await using source = VirtualDisk.memory({ sectors: 4096 });
  await source.write(0, filled(4096, 1));
  await using target = VirtualDisk.memory({ sectors: 4096 });
  const depth = Number.MAX_SAFE_INTEGER;
  await copyDisk(source, target, { depth, verify: true });
  assertEquals(await compareDisks(source, target, { depth }), null);
});

Deno.test("copyDisk() reports progress up to the whole in both phases", async () => {
  await using source = VirtualDisk.memory({ sectors: 10_000 });
  await using target = VirtualDisk.memory({ sectors: 10_000 });
  await source.write(0, filled(9000, 1));
  const seen: Record<string, number[]> = { copy: [], verify: [] };
  await copyDisk(source, target, {
    verify: true,
    onProgress(done, total, phase) {
      assertEquals(total, 10_000);
      seen[phase]!.push(done);
    },
  });
  for (const phase of ["copy", "verify"]) {
    const numbers = seen[phase]!;
    assertEquals(numbers, numbers.toSorted((a, b) => a - b));
    assertEquals(numbers.at(-1), 10_000);
  }
});

Deno.test("copyDisk() refuses a target that is too small, before it writes", async () => {
  const backend = new Watched(99);
  await using source = VirtualDisk.memory({ sectors: 100 });
  await using target = VirtualDisk.over(backend);
  const error = await assertRejects(
    () => copyDisk(source, target),
    DiskError,
    "Cannot copy 100 sectors as the target has only 99",
  );
  assertEquals(error.kind, "range");
  assertEquals(backend.requests, []);
});

Deno.test("copyDisk() refuses a source that is no whole blocks of the target", async () => {
  await using source = VirtualDisk.memory({ sectors: 100 });
  await using target = VirtualDisk.memory({ sectors: 104, blockSize: 4096 });
  const error = await assertRejects(
    () => copyDisk(source, target),
    DiskError,
    "whole blocks of 4096 bytes",
  );
  assertEquals(error.kind, "geometry");
});

Deno.test("copyDisk() refuses options that are no counts", async () => {
  await using source = VirtualDisk.memory({ sectors: 8 });
  await using target = VirtualDisk.memory({ sectors: 8 });
  for (const options of [{ depth: 0 }, { depth: 1.5 }, { chunkSectors: -1 }]) {
    const error = await assertRejects(
      () => copyDisk(source, target, options),
      DiskError,
      "must be an integer from 1",
    );
    assertEquals(error.kind, "argument");
  }
});

Deno.test("copyDisk() fails with the first error on the disk and leaves nothing in flight", async () => {
  const backend = new Watched(65_536);
  await using source = VirtualDisk.over(backend);
  await using target = VirtualDisk.memory({ sectors: 65_536 });
  await source.write(0, filled(65_536, 1));
  backend.requests.length = 0;
  // The later one fails sooner.
  backend.delayOf = ({ sector }) => sector === 4096 ? 20 : 1;
  backend.intervene = ({ sector }) =>
    sector === 4096 || sector === 6144 ? ioError(sector) : null;

  const error = await assertRejects(() => copyDisk(source, target), DiskError);

  assertEquals(error.sector, 4096);
  assertEquals(backend.busySectors, 0);
  assertLess(backend.requests.length, 16);
});

Deno.test("copyDisk() rejects with the signal's reason, before and during the copy", async () => {
  await using source = VirtualDisk.memory({ sectors: 65_536 });
  const backend = new Watched(65_536);
  await using target = VirtualDisk.over(backend);
  await source.write(0, filled(65_536, 1));

  const before = AbortSignal.abort(new Error("never mind"));
  await assertRejects(
    () => copyDisk(source, target, { signal: before }),
    Error,
    "never mind",
  );
  assertEquals(backend.requests, []);

  const controller = new AbortController();
  const reason = new Error("enough");
  const caught = await assertRejects(() =>
    copyDisk(source, target, {
      signal: controller.signal,
      onProgress: () => controller.abort(reason),
    })
  );
  assertStrictEquals(caught, reason);
  assertEquals(backend.of(RequestType.Flush), []);
  assertLess(backend.requests.length, 16);
});

Deno.test("copyDisk() does not confirm a target that lost a write", async () => {
  const backend = new Watched(8192);
  await using source = VirtualDisk.memory({ sectors: 8192 });
  await using target = VirtualDisk.over(backend);
  await source.write(0, filled(8192, 1));
  backend.intervene = (request) => {
    if (request.type === RequestType.Out && request.sector === 2048) {
      request.data![700] = 2;
    }
    return null;
  };
  const error = await assertRejects(
    () => copyDisk(source, target, { verify: true }),
    DiskError,
    "byte 188 of sector 2049 does not read back as it was written",
  );
  assertEquals(error.kind, "io");
  assertEquals(error.sector, 2049);
});

Deno.test("copyDisk() copies slices", async () => {
  await using disk = VirtualDisk.memory({ sectors: 400 });
  await disk.write(100, filled(10, 3));
  await copyDisk(disk.slice(100, 100), disk.slice(250, 150));
  assertEquals(await disk.read(250, 10), filled(10, 3));
  assertEquals(await disk.read(350, 50), filled(50, 0));
});

Deno.test("copyDisk() refuses slices of one disk that overlap, and the disk itself", async () => {
  await using disk = VirtualDisk.memory({ sectors: 4096 });
  const content = new Random(8).bytes(4096 * 512);
  await disk.write(0, content);
  const [low, high] = [disk.slice(0, 2048), disk.slice(2047, 2049)];
  for (
    const [source, target] of [[disk, disk], [low, high], [low, disk], [
      disk.slice(2047, 2048),
      low,
    ]] as const
  ) {
    const error = await assertRejects(
      () => copyDisk(source, target),
      DiskError,
      "must not overlap",
    );
    assertEquals(error.kind, "argument");
  }
  assertEquals((await disk.read(0, 4096)).toHex(), content.toHex());
  // What the target has beyond that does not count.
  await copyDisk(disk.slice(2048, 1024), disk);
  assertEquals(
    (await disk.read(0, 1024)).toHex(),
    content.slice(2048 * 512, 3072 * 512).toHex(),
  );
});

Deno.test("copyDisk() and compareDisks() take disks only, and call nothing else equal", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const others: unknown[] = [
    new MemoryBackend({ sectors: 64 }),
    SyncDisk.memory({ sectors: 64 }),
    {},
    null,
    undefined,
  ];
  for (const other of others as VirtualDisk[]) {
    for (const [a, b] of [[other, other], [disk, other], [other, disk]]) {
      for (const call of [compareDisks, copyDisk, assertDisksEqual]) {
        await assertRejects(
          async () => await call(a!, b!),
          TypeError,
          "must be a VirtualDisk: current value is ",
        );
      }
    }
  }
});

Deno.test("compareDisks() finds the first of several differences", async () => {
  const backend = new Watched(65_536);
  await using a = VirtualDisk.over(backend);
  await using b = VirtualDisk.memory({ sectors: 65_536 });
  for (const sector of [4100, 7000, 60_000]) {
    const data = filled(1, 0);
    data[sector % 512] = 1;
    await b.write(sector, data);
  }
  // The chunk with the first difference is the last to be read.
  backend.delayOf = ({ sector }) => sector === 4096 ? 20 : 1;
  assertEquals(await compareDisks(a, b), {
    sector: 4100,
    offset: 4,
    end: false,
  });
});

Deno.test("compareDisks() compares what two disks of different sizes share", async () => {
  await using a = VirtualDisk.memory({ sectors: 104, blockSize: 4096 });
  await using b = VirtualDisk.memory({ sectors: 99 });
  await a.write(0, filled(8, 1));
  await b.write(0, filled(8, 1));
  const end = { sector: 99, offset: 0, end: true };
  assertEquals(await compareDisks(a, b), end);
  assertEquals(await compareDisks(b, a), end);
  await b.write(98, filled(1, 1));
  assertEquals(await compareDisks(a, b), { sector: 98, offset: 0, end: false });
});

Deno.test("compareDisks() reads nothing where both disks have holes", async () => {
  const [left, right] = [new Watched(2 ** 31), new Watched(2 ** 31)];
  await using a = VirtualDisk.over(left);
  await using b = VirtualDisk.over(right);
  await a.write(2 ** 30, filled(1, 0));
  assertEquals(await compareDisks(a, b), null);
  assertEquals(left.of(RequestType.In), [[2 ** 30, 128]]);
  assertEquals(right.of(RequestType.In), [[2 ** 30, 128]]);
});

Deno.test("compareDisks() prefers a difference to an error after it", async () => {
  const backend = new Watched(65_536);
  await using a = VirtualDisk.over(backend);
  await using b = VirtualDisk.memory({ sectors: 65_536 });
  await b.write(0, filled(65_536, 1));
  backend.delayOf = ({ sector }) => sector === 0 ? 20 : 1;
  backend.intervene = ({ sector }) => sector === 2048 ? ioError(sector) : null;
  assertEquals(await compareDisks(a, b), { sector: 0, offset: 0, end: false });

  backend.intervene = ({ sector }) => sector === 0 ? ioError(sector) : null;
  const error = await assertRejects(() => compareDisks(a, b), DiskError);
  assertEquals(error.sector, 0);
});

Deno.test("compareDisks() does not confuse memory left of an earlier chunk", async () => {
  await using a = VirtualDisk.memory({ sectors: 2048 + 5 });
  await using b = VirtualDisk.memory({ sectors: 2048 + 5 });
  await a.write(0, filled(2053, 1));
  await b.write(0, filled(2053, 1));
  const differences = [];
  for (const sector of [2052, 2048, 2047, 0]) {
    await b.write(sector, filled(1, 2));
    differences.push((await compareDisks(a, b, { depth: 1 }))?.sector);
  }
  assertEquals(differences, [2052, 2048, 2047, 0]);
  assert(await compareDisks(a, a) === null);
});
