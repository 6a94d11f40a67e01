/**
 * The synchronous disk: by the contract of backends, and beside the asynchronous
 * disk on the same queue, whose words, checks and counters it must have.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { openBackend, type OpenOptions } from "../../src/disk/open.ts";
import { SyncDisk } from "../../src/disk/sync_disk.ts";
import { DiskError } from "../../src/errors.ts";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { observe } from "../../src/layers/observe.ts";
import { overlay } from "../../src/layers/overlay.ts";
import { protect } from "../../src/layers/protect.ts";
import { readahead } from "../../src/layers/readahead.ts";
import { parseTraceLine, trace } from "../../src/layers/trace.ts";
import { verify } from "../../src/layers/verify.ts";
import { NbdServer } from "../../src/nbd/mod.ts";
import {
  readRequest,
  Request,
  RequestType,
  Status,
  writeRequest,
} from "../../src/request.ts";
import { Random } from "../../src/random.ts";
import { hasEngine } from "../backends/direct/harness.ts";
import { type ContractSubject, contractSuite } from "../contract.ts";
import { LONG, loopDevice, needs, tempDir } from "../helpers.ts";
import { answerRequest } from "../../src/throw_later.ts";

const SIZE = 4 << 20;
const SECTORS = SIZE / 512;
const linux = Deno.build.os === "linux";

/** A synchronous disk as a backend: it answers before `submit` returns. */
function asBackend(disk: SyncDisk): Backend {
  const { info } = disk;
  return {
    geometry: disk.geometry,
    abilities: info.abilities,
    limits: { maxSegments: 1024, maxBytes: 1 << 20 },
    info,
    get counters() {
      return disk.counters;
    },
    submit(batch, complete) {
      for (const request of batch) {
        const status = disk.submit(request);
        assertEquals(status === Status.Ok, request.error === null);
        answerRequest(request, request.error, complete);
      }
    },
    allocate: (byteLength) => disk.allocate(byteLength / 512),
    close: () => disk.close(),
  };
}

function inMemory(
  layer: (backend: Backend) => Backend,
  options: { readOnly?: boolean; blockSize?: number } = {},
): () => Promise<ContractSubject> {
  return () => {
    const base = new MemoryBackend({ sectors: SECTORS, ...options });
    return Promise.resolve({ backend: asBackend(SyncDisk.over(layer(base))) });
  };
}

function onFile(
  options: OpenOptions,
  open = SyncDisk.open,
): () => Promise<ContractSubject> {
  return async () => {
    const dir = await tempDir();
    const path = await dir.file("disk.img", SIZE);
    const reopen = async () => asBackend(await open(path, options));
    return {
      backend: await reopen(),
      reopen,
      cleanup: () => dir[Symbol.asyncDispose](),
    };
  };
}

/** A device of large sectors under a disk of small ones: read-modify-write. */
function onDevice(options: OpenOptions): () => Promise<ContractSubject> {
  return async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const path = await dir.file("disk.img", SIZE);
    const loop = stack.use(await loopDevice(path, 4096));
    const reopen = async () =>
      asBackend(
        await SyncDisk.open(loop.path, { blockSize: 512, ...options }),
      );
    const backend = await reopen();
    const kept = stack.move();
    return { backend, reopen, cleanup: () => kept.disposeAsync() };
  };
}

/** Disks of io_uring's, whose synchronous view makes blocking calls. */
async function viewOfAsync(
  path: string | URL,
  options?: OpenOptions,
): Promise<SyncDisk> {
  const disk = await VirtualDisk.open(path, options);
  const view = disk.sync();
  return Object.assign(view, { close: () => disk.close() });
}

for (const blockSize of LONG ? [512, 4096] : [512]) {
  contractSuite(
    `SyncDisk over memory, blocks of ${blockSize}`,
    inMemory((backend) => backend, { blockSize }),
    { readOnly: inMemory((backend) => backend, { blockSize, readOnly: true }) },
  );
}

contractSuite(
  "SyncDisk over layers over memory",
  inMemory((backend) =>
    trace(
      verify(
        observe(protect(overlay(faults(backend, ["flush=kept off"])), [])),
        latency(new MemoryBackend({ sectors: SECTORS })),
      ),
      () => {},
    )
  ),
);

for (const backend of ["direct", "portable"] as const) {
  const ignore = backend === "direct" && !linux;
  contractSuite(`SyncDisk over ${backend}`, onFile({ backend }), {
    ignore,
    readOnly: onFile({ backend, readOnly: true }),
  });
  contractSuite(
    `SyncDisk over ${backend}, blocks of 512 bytes on a device with 4,096`,
    onDevice({ backend }),
    { ignore: ignore || !LONG || needs("root", "losetup").ignore },
  );
}

contractSuite(
  "VirtualDisk.sync() of a disk with io_uring",
  onFile({ engine: "io_uring" }, viewOfAsync),
  { ignore: !LONG || !hasEngine("io_uring") },
);

for (const backend of ["direct", "portable"] as const) {
  Deno.test({
    name:
      `SyncDisk over ${backend} keeps what surrounds parts of a device's block`,
    ignore: needs("root", "losetup").ignore || !linux,
    async fn() {
      const { backend: disk, cleanup } = await onDevice({ backend })();
      const carryOut = (request: Request) =>
        disk.submit([request], (_, error) => assertEquals(error, null));
      try {
        const random = new Random(4096);
        const model = new Uint8Array(256 * 512);
        for (let i = 0; i < 60; i++) {
          const sector = random.below(240);
          const count = 1 + random.below(16);
          const data = random.bytes(count * 512);
          model.set(data, sector * 512);
          carryOut(writeRequest(sector, data));
        }
        const back = new Uint8Array(model.length);
        carryOut(readRequest(0, back));
        assertEquals(back, model);
        assert(disk.counters.readModifyWrites > 40);
      } finally {
        await disk.close();
        await cleanup?.();
      }
    },
  });

  Deno.test({
    name: `SyncDisk over ${backend} refuses what an image that was cut hides`,
    ignore: backend === "direct" && !linux,
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", SIZE);
      await using disk = await SyncDisk.open(path, { backend });
      disk.write(0, new Uint8Array(4096).fill(1));
      await Deno.truncate(path, SIZE / 2);
      const last = new Uint8Array(4096);
      const cut = "it was cut while open";
      assertThrows(() => disk.write(SECTORS - 8, last), DiskError, cut);
      assertThrows(() => disk.read(SECTORS - 8, 8), DiskError, cut);
      assertThrows(() => disk.flush(), DiskError, cut);
      assertThrows(() => disk.flush(), DiskError, "reopen the disk");
      assertEquals(disk.read(0, 1)[0], 1);
    },
  });
}

Deno.test("SyncDisk fails with the words of the asynchronous disk", async () => {
  await using whole = VirtualDisk.memory({
    sectors: 64,
    blockSize: 1024,
    readOnly: true,
  });
  const bad = "text" as unknown as Uint8Array;
  for (const disk of [whole, whole.slice(16, 8)]) {
    const now = disk.sync();
    const cases: [() => Promise<unknown>, () => unknown][] = [
      [() => disk.read(64, 2), () => now.read(64, 2)],
      [() => disk.read(7, 2), () => now.read(7, 2)],
      [() => disk.read(-2, 2), () => now.read(-2, 2)],
      [() => disk.read(0, NaN), () => now.read(0, NaN)],
      ...[null, true, "", "1", [], 1n, Symbol("sector"), 0.5].flatMap(
        (value): [() => Promise<unknown>, () => unknown][] => {
          const no = value as number;
          const data = new Uint8Array(1024);
          return [
            [() => disk.read(no, 2), () => now.read(no, 2)],
            [() => disk.read(0, no), () => now.read(0, no)],
            [() => disk.readInto(no, data), () => now.readInto(no, data)],
            [() => disk.write(no, data), () => now.write(no, data)],
            [() => disk.discard(no, 2), () => now.discard(no, 2)],
            [() => disk.discard(0, no), () => now.discard(0, no)],
            [() => disk.writeZeroes(no, 2), () => now.zero(no, 2)],
          ];
        },
      ),
      [() => disk.read(0, 1), () => now.read(0, 1)],
      [() => disk.read(1, 2), () => now.read(1, 2)],
      [() => disk.readInto(0, bad), () => now.readInto(0, bad)],
      [
        () => disk.readInto(0, new Uint8Array(500)),
        () => now.readInto(0, new Uint8Array(500)),
      ],
      [
        () => disk.write(0, new Uint8Array(1024)),
        () => now.write(0, new Uint8Array(1024)),
      ],
      [
        () => disk.write(0, new Uint8Array(0)),
        () => now.write(0, new Uint8Array(0)),
      ],
      [() => disk.write(0, bad), () => now.write(0, bad)],
      [() => disk.discard(0, 2), () => now.discard(0, 2)],
      [() => disk.writeZeroes(0, 2), () => now.zero(0, 2)],
      [() => disk.writeZeroes(0, 200), () => now.zero(0, 200)],
    ];
    for (const [later, atOnce] of cases) {
      const expected = await assertRejects(later, DiskError);
      const { kind, sector, count } = expected;
      const found = assertThrows(atOnce, DiskError, expected.message);
      assertEquals([found.kind, found.sector, found.count], [
        kind,
        sector,
        count,
      ]);
      assertEquals(found.message, expected.message);
    }
  }
});

Deno.test("SyncDisk counts as the asynchronous disk does", async () => {
  await using one = VirtualDisk.memory({ sectors: 64 });
  await using other = VirtualDisk.memory({ sectors: 64 });
  const data = new Uint8Array(1024);
  await one.write(0, data);
  await one.read(0, 2);
  await one.flush();
  await one.discard(0, 8);
  const request = readRequest(63, data);
  assertEquals(await one.submit(request), Status.IoErr);
  const now = other.sync();
  now.write(0, data);
  now.read(0, 2);
  now.flush();
  now.discard(0, 8);
  assertEquals(now.submit(readRequest(63, data)), Status.IoErr);
  // A refused request is part of no batch.
  assertEquals(now.counters, one.counters);
  assertEquals(other.counters, one.counters);
});

Deno.test("SyncDisk refuses while asynchronous requests are in flight", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const now = disk.sync();
  const write = disk.write(8, new Uint8Array(512).fill(3));
  for (
    const call of [
      () => now.read(0, 1),
      () => now.write(40, new Uint8Array(512)),
      () => now.flush(),
      () => now.zero(0, 1),
      () => now.discard(0, 1),
      () => now.id(),
    ]
  ) {
    const { kind, message } = assertThrows(call, DiskError);
    assertEquals(kind, "busy");
    assertStringIncludes(message, "await them first");
  }
  await write;
  assertEquals(now.read(8, 1)[0], 3);
  // The other way round there is nothing to refuse: it has begun by then.
  const [data] = await Promise.all([disk.read(8, 1), disk.flush()]);
  assertEquals(data[0], 3);
  assertEquals(now.id(), "memory");
});

Deno.test("SyncDisk refuses while a base that is shared has requests in flight", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", SIZE);
  const base = await openBackend(path, { backend: "portable" });
  await using below = VirtualDisk.over(base);
  await using above = SyncDisk.over(overlay(base, { ownsBase: false }));
  const read = below.read(0, 8);
  below.kick();
  const { kind } = assertThrows(() => above.read(0, 8), DiskError);
  assertEquals(kind, "busy");
  await read;
  assertEquals(above.read(0, 8).length, 4096);
});

Deno.test("SyncDisk refuses from within a request, and lets an asynchronous one wait", async () => {
  let disk: VirtualDisk | null = null;
  const kinds: unknown[] = [];
  const asked: Promise<unknown>[] = [];
  const lines: string[] = [];
  const backend = trace(new MemoryBackend({ sectors: 8 }), (line) => {
    lines.push(line);
    if (disk === null || asked.length > 0) return;
    const now = disk.sync();
    kinds.push(assertThrows(() => now.read(0, 1), DiskError).kind);
    asked.push(disk.read(0, 1));
    disk.kick();
  });
  await using opened = disk = VirtualDisk.over(backend);
  opened.sync().write(0, new Uint8Array(512).fill(9));
  assertEquals(kinds, ["busy"]);
  // The disk, the write and its answer: the read comes after.
  const events = () =>
    lines.map((line) => parseTraceLine(line)).map((event) =>
      "operation" in event ? event.operation : event.event
    );
  assertEquals(events(), ["disk", "write", "complete"]);
  const [data] = await Promise.all(asked) as [Uint8Array];
  assertEquals(data[0], 9);
  assertEquals(events().slice(3), ["read", "complete"]);
});

Deno.test("SyncDisk shares the latch of a failed flush with its asynchronous disk", async () => {
  for (const first of ["sync", "async"]) {
    const faulty = faults(new MemoryBackend({ sectors: 64 }), ["flush=kept"]);
    await using disk = VirtualDisk.over(faulty);
    const now = disk.sync();
    const data = new Uint8Array(512).fill(1);
    now.write(0, data);
    const failure = first === "sync"
      ? assertThrows(() => now.flush(), DiskError)
      : await assertRejects(() => disk.flush(), DiskError);
    assertEquals(failure.kind, "io");
    assert(now.failure === failure && disk.failure === failure);
    faulty.clear();
    const calls: (() => void)[] = [
      () => now.flush(),
      () => now.write(8, data),
      () => now.zero(8, 1),
      () => now.discard(8, 1),
    ];
    for (const call of calls) {
      const { kind, cause } = assertThrows(call, DiskError);
      assertEquals([kind, cause], ["latched", failure]);
    }
    await assertRejects(() => disk.flush(), DiskError, "reopen the disk");
    assertEquals(now.read(0, 1), data);
  }
  const faulty = faults(new MemoryBackend({ sectors: 64 }), [
    "write error=EIO",
  ]);
  await using disk = SyncDisk.over(faulty);
  const data = new Uint8Array(512);
  assertThrows(() => disk.write(0, data), DiskError, "EIO");
  assertEquals(disk.failure, null);
  assertThrows(() => disk.write(0, data, { fua: true }), DiskError, "EIO");
  assertThrows(() => disk.flush(), DiskError, "an earlier write failed");
});

Deno.test("SyncDisk of a write-through disk makes every write durable", async () => {
  const durable: unknown[] = [];
  const backend = trace(new MemoryBackend({ sectors: 64 }), (line) => {
    const event = parseTraceLine(line);
    if (event.event === "submit") durable.push([event.operation, event.fua]);
  });
  await using disk = SyncDisk.over(backend, { writeCache: "writethrough" });
  disk.write(0, new Uint8Array(512));
  disk.zero(0, 1);
  disk.read(0, 1);
  assertEquals(durable, [
    ["write", true],
    ["write zeroes", true],
    ["read", undefined],
  ]);
  assertEquals(disk.info.writeCache, "writethrough");
});

Deno.test("SyncDisk of a slice stays within it, and ends with it", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const slice = disk.slice(16, 8);
  const now = slice.sync();
  now.write(0, new Uint8Array(8 * 512).fill(5));
  now.zero(7, 1);
  now.flush();
  assertEquals(now.id(), "memory");
  assertEquals(now.geometry.sectors, 8);
  const all = disk.sync().read(0, 64);
  assertEquals(all.findIndex((byte) => byte === 5), 16 * 512);
  assertEquals(all.findLastIndex((byte) => byte === 5), 23 * 512 - 1);
  const outside = new Request(RequestType.Discard, 15, 1);
  assertEquals(now.submit(outside), Status.IoErr);
  assertEquals(outside.error?.kind, "range");
  await slice.close();
  assertThrows(() => now.read(0, 1), DiskError, "the slice is closed");
  assertThrows(() => slice.sync(), DiskError, "closed");
  assertEquals(disk.sync().read(16, 1)[0], 5);
});

Deno.test("SyncDisk.close() refuses from then on, and leaves a shared disk open", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const view = disk.sync();
  await view.close();
  assert(view.closed);
  assertThrows(() => view.flush(), DiskError, "the disk is closed");
  disk.sync().flush();
  await disk.flush();
  const other = disk.sync();
  await disk.close();
  assert(other.closed);
  const { kind } = assertThrows(() => other.read(0, 1), DiskError);
  assertEquals(kind, "closed");
  assertThrows(() => disk.sync(), DiskError, "closed");

  await using dir = await tempDir();
  const path = await dir.file("disk.img", SIZE);
  const own = await SyncDisk.open(path);
  const closing = own.close();
  const error = assertThrows(() => own.read(0, 1), DiskError);
  assertEquals(error.kind, "closed");
  assertStringIncludes(error.message, path);
  await Promise.all([closing, own.close()]);
});

Deno.test("SyncDisk.open() refuses a disk behind a server, and closes it", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  await using dir = await tempDir();
  const path = dir.join("nbd.sock");
  await using server = NbdServer.listen({ exports: [{ disk }], path });
  const error = await assertRejects(
    () => SyncDisk.open(server.uri()),
    DiskError,
    "an NBD server answers through a socket",
  );
  assertEquals(error.kind, "unsupported");
});

Deno.test("SyncDisk.over() refuses a layer that works in the background", () => {
  const base = new MemoryBackend({ sectors: 64 });
  for (
    const [backend, reason] of [
      [readahead(base), "the layer readahead reads in the background"],
      [trace(readahead(base), () => {}), "the layer readahead"],
      [verify(base, readahead(base)), "the layer readahead"],
      [{ ...plain(base) }, 'the backend "plain" has no blocking calls'],
    ] as [Backend, string][]
  ) {
    const error = assertThrows(() => SyncDisk.over(backend), DiskError, reason);
    assertEquals(error.kind, "unsupported");
    assertThrows(() => VirtualDisk.over(backend).sync(), DiskError, reason);
  }
});

/** A backend of somebody's own, which hands down what it knows of. */
function plain(below: MemoryBackend): Backend {
  return {
    geometry: below.geometry,
    abilities: below.abilities,
    limits: below.limits,
    info: { ...below.info, backend: "plain" },
    counters: below.counters,
    submit: (batch, complete) => below.submit(batch, complete),
    allocate: (byteLength) => below.allocate(byteLength),
    close: () => below.close(),
  };
}

Deno.test("SyncDisk over verify() waits for both disks", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", SIZE);
  const file = await openBackend(path, { backend: "portable" });
  const memory = new MemoryBackend({ sectors: SECTORS });
  await using disk = SyncDisk.over(verify(memory, file));
  const data = new Uint8Array(1024).fill(6);
  disk.write(7, data);
  disk.zero(100, 8);
  disk.flush();
  assertEquals(disk.read(7, 2), data);
  VirtualDisk.over(memory).sync().write(8, new Uint8Array(512));
  assertThrows(() => disk.read(7, 2), DiskError);
  disk.write(8, data);
  assertEquals(disk.read(7, 2), data);
});

Deno.test("SyncDisk takes no backend's word that answers late, or throws", async () => {
  const base = new MemoryBackend({ sectors: 64 });
  const run = (run: () => void) => {
    run();
    return true;
  };
  const late: Backend = {
    ...plain(base),
    synchronously: run,
    submit: (batch, complete) =>
      batch.forEach((request) =>
        queueMicrotask(() => base.submit([request], complete))
      ),
  };
  await using disk = SyncDisk.over(late);
  const error = assertThrows(() => disk.write(0, new Uint8Array(512)));
  assertInstanceOf(error, DiskError);
  assertStringIncludes(error.message, "has not answered at once");
  await using broken = SyncDisk.over({
    ...plain(base),
    synchronously: run,
    submit: () => {
      throw new Error("a bug");
    },
  });
  assertThrows(() => broken.read(0, 1), DiskError, "the backend threw");
  assertThrows(() => broken.read(0, 1), DiskError, "the backend threw");
});

Deno.test("SyncDisk is held up by the layers that make a disk slow", async () => {
  const base = new MemoryBackend({ sectors: 64 });
  for (
    const slow of [
      latency(base, { fixedMs: 3 }),
      faults(base, ["read delay=3ms"]),
    ]
  ) {
    await using disk = SyncDisk.over(overlay(slow, { ownsBase: false }));
    const start = performance.now();
    disk.read(0, 1);
    assert(performance.now() - start >= 3);
  }
});

Deno.test("SyncDisk carries out faults as the asynchronous disk does", async () => {
  const rules = [
    "write nth=3 torn=1",
    "write nth=5 lost",
    "read nth=2 bad",
    "write ratio=1/3 corrupt",
    "flush=reverted nth=3",
  ];
  const make = () =>
    faults(new MemoryBackend({ sectors: 64 }), rules, { seed: 5 });
  await using one = VirtualDisk.over(make());
  await using other = SyncDisk.over(make());
  const log = async (call: () => unknown) => {
    try {
      return await call();
    } catch (error) {
      return (error as Error).message;
    }
  };
  for (let i = 0; i < 24; i++) {
    const sector = i * 7 % 60;
    const data = new Uint8Array(1024).fill(i + 1);
    assertEquals(
      await log(() => other.write(sector, data)),
      await log(() => one.write(sector, data)),
    );
    assertEquals(
      await log(() => other.read(sector, 4)),
      await log(() => one.read(sector, 4)),
    );
    if (i % 6 === 5) {
      assertEquals(
        await log(() => other.flush()),
        await log(() => one.flush()),
      );
    }
  }
  assert(one.failure !== null);
  assertEquals(
    await log(() => other.read(0, 64)),
    await log(() => one.read(0, 64)),
  );
});
