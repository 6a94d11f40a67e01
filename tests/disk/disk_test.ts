/**
 * What a disk promises, over memory: every method, and every refusal.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertMatch,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import type { Complete } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { isZero } from "../../src/buffer.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError, type DiskErrorKind } from "../../src/errors.ts";
import {
  discardRequest,
  flushRequest,
  readRequest,
  Request,
  RequestFlag,
  RequestType,
  Status,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import { altered } from "../fake_backend.ts";

/** A disk in memory that shows what its backend is given. */
function recorded(
  options: Partial<ConstructorParameters<typeof MemoryBackend>[0]> = {},
) {
  const inner = new MemoryBackend({ sectors: 64, ...options });
  const log: Request[] = [];
  const failing = new Map<number, DiskError>();
  const backend = altered(inner, {
    submit(batch: readonly Request[], complete: Complete) {
      for (const request of batch) {
        log.push(request);
        const error = failing.get(request.type);
        if (error === undefined) inner.submit([request], complete);
        else complete(request, error);
      }
    },
    extents: (sector, count) => inner.extents(sector, count),
  });
  return { disk: VirtualDisk.over(backend), backend, log, failing };
}

async function kindOf(promise: () => Promise<unknown>): Promise<DiskErrorKind> {
  return (await assertRejects(promise, DiskError)).kind;
}

const bytes = (sectors: number, value = 1) =>
  new Uint8Array(sectors * 512).fill(value);

Deno.test("VirtualDisk.write() is read back by read() and readInto()", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  await disk.write(3, bytes(2, 7));
  assertEquals(await disk.read(3, 2), bytes(2, 7));
  const buffer = bytes(4, 9);
  await disk.readInto(2, buffer);
  assertEquals(buffer.subarray(0, 512), bytes(1, 0));
  assertEquals(buffer.subarray(512, 1536), bytes(2, 7));
  assertEquals(buffer.subarray(1536), bytes(1, 0));
});

Deno.test("VirtualDisk.read() gives memory of its own every time", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const [first, second] = await Promise.all([disk.read(0, 1), disk.read(0, 1)]);
  assertNotStrictEquals(first.buffer, second.buffer);
  assertEquals(first.byteLength, 512);
});

Deno.test("VirtualDisk takes overlapping operations in their order, unawaited", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const before = disk.read(0, 1);
  const writes = [disk.write(0, bytes(4, 1)), disk.write(2, bytes(4, 2))];
  const between = disk.read(1, 2);
  writes.push(disk.writeZeroes(3, 1));
  const after = disk.read(3, 1);
  assertEquals((await before)[0], 0);
  assertEquals([(await between)[0], (await between)[512]], [1, 2]);
  assertEquals((await after)[0], 0);
  await Promise.all(writes);
});

Deno.test("VirtualDisk.write() with fua asks for a durable write", async () => {
  const { disk, log } = recorded();
  await disk.write(0, bytes(1), { fua: true });
  await disk.write(0, bytes(1), { fua: false });
  await disk.write(0, bytes(1));
  assertEquals(log.map((request) => request.flags), [RequestFlag.Fua, 0, 0]);
  await disk.close();
});

Deno.test("VirtualDisk.writeZeroes() hands on unmap and fua", async () => {
  const { disk, log } = recorded();
  await disk.write(0, bytes(8));
  for (const unmap of [false, true]) {
    for (const fua of [false, true]) {
      await disk.writeZeroes(2, 2, { unmap, fua });
    }
  }
  await disk.writeZeroes(2, 2);
  assertEquals(log.slice(1).map((request) => request.flags), [0, 1, 2, 3, 0]);
  const now = await disk.read(0, 8);
  assertEquals(now.subarray(0, 1024), bytes(2));
  assert(isZero(now.subarray(1024, 2048)));
  assertEquals(now.subarray(2048), bytes(4));
  await disk.close();
});

Deno.test("VirtualDisk.discard() and flush() reach the backend", async () => {
  const { disk, log } = recorded();
  await disk.discard(8, 4);
  await disk.flush();
  assertEquals(log.map(({ type, sector, count }) => [type, sector, count]), [
    [RequestType.Discard, 8, 4],
    [RequestType.Flush, 0, 0],
  ]);
  await disk.close();
});

Deno.test("VirtualDisk.id() tells up to 20 characters", async () => {
  for (const id of ["x", "platter", "01234567890123456789"]) {
    await using disk = VirtualDisk.memory({ sectors: 8, id });
    assertEquals(await disk.id(), id);
    assertEquals(disk.info.id, id);
  }
});

Deno.test("VirtualDisk.submit() tells a status, and the error on the request", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64, blockSize: 4096 });
  const head = bytes(3, 0);
  const body = bytes(5, 0);
  await disk.write(8, bytes(8, 5));
  assertEquals(await disk.submit(readRequest(8, head, body)), Status.Ok);
  assertEquals([head, body], [bytes(3, 5), bytes(5, 5)]);
  const cases: [Request, DiskErrorKind][] = [
    [readRequest(1, bytes(8)), "alignment"],
    [readRequest(64, bytes(8)), "range"],
    [readRequest(-8, bytes(8)), "argument"],
    [readRequest(8), "argument"],
  ];
  for (const [request, kind] of cases) {
    assertEquals(await disk.submit(request), Status.IoErr);
    assertEquals(request.error?.kind, kind);
    assertEquals(request.status, Status.IoErr);
  }
  const unknown = new Request(77 as RequestType, 0, 8);
  assertEquals(await disk.submit(unknown), Status.Unsupp);
});

Deno.test("VirtualDisk.submit() says what is no request", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  for (const value of ["x", {}, null, undefined, 5, bytes(1)] as unknown[]) {
    const request = value as Request;
    for (const on of [disk, disk.slice(8, 8)]) {
      const says = "must be a Request: current value is ";
      const error = await assertRejects(
        async () => await on.submit(request),
        DiskError,
        says,
      );
      assertEquals(error.kind, "argument");
      assertThrows(() => on.sync().submit(request), DiskError, says);
    }
  }
});

Deno.test("VirtualDisk.write() has no count of what is no memory", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const error = await assertRejects(
    () => disk.write(0, "x" as unknown as Uint8Array),
    DiskError,
  );
  assertEquals(
    error.message,
    "Cannot write as its memory must be bytes in a Uint8Array: current value is a string",
  );
});

Deno.test("VirtualDisk.submit() carries out what has no method", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  await disk.write(0, bytes(8));
  const erase = new Request(RequestType.SecureErase, 0, 4);
  assertEquals(await disk.submit(erase), Status.Ok);
  assertEquals(await disk.submit(flushRequest()), Status.Ok);
  assertEquals(await disk.submit(discardRequest(4, 2)), Status.Ok);
  assertEquals(await disk.submit(writeZeroesRequest(6, 2)), Status.Ok);
});

Deno.test("VirtualDisk.kick() hands on at once", async () => {
  const { disk, log } = recorded();
  const done = disk.write(0, bytes(1));
  assertEquals(log.length, 0);
  disk.kick();
  assertEquals(log.length, 1);
  await done;
  await disk.close();
});

// Refusals

interface Call {
  title: string;
  kind: DiskErrorKind;
  sector: number;
  count: number;
}

const CALLS: Call[] = [
  { title: "past the end", kind: "range", sector: 64, count: 8 },
  { title: "over the end", kind: "range", sector: 56, count: 16 },
  { title: "far away", kind: "range", sector: 2 ** 52, count: 8 },
  { title: "for ever", kind: "argument", sector: 0, count: Infinity },
  { title: "below zero", kind: "argument", sector: -8, count: 8 },
  { title: "at no number", kind: "argument", sector: NaN, count: 8 },
  { title: "of no number", kind: "argument", sector: 0, count: NaN },
  { title: "of nothing", kind: "argument", sector: 0, count: 0 },
  { title: "of less than nothing", kind: "argument", sector: 8, count: -8 },
  { title: "at a fraction", kind: "argument", sector: 0.25, count: 8 },
  { title: "off a block", kind: "alignment", sector: 1, count: 8 },
  { title: "of a part of a block", kind: "alignment", sector: 0, count: 4 },
];

for (const { title, kind, sector, count } of CALLS) {
  Deno.test(`VirtualDisk refuses a range ${title} as ${kind}, at once`, async () => {
    const { disk, log } = recorded({ blockSize: 4096 });
    const calls: [string, () => Promise<unknown>][] = [
      ["read", () => disk.read(sector, count)],
      ["discard", () => disk.discard(sector, count)],
      ["writeZeroes", () => disk.writeZeroes(sector, count)],
    ];
    if (Number.isInteger(count) && count >= 0) {
      calls.push(
        ["readInto", () => disk.readInto(sector, bytes(count))],
        ["write", () => disk.write(sector, bytes(count))],
      );
    }
    for (const [name, call] of calls) {
      const error = await assertRejects(call, DiskError);
      assertEquals(error.kind, kind, name);
      assertEquals(error.sector, sector);
      assertEquals(error.count, count);
      assertMatch(error.message, /^Cannot [a-z].*[^.]$/);
    }
    assertEquals(log.length, 0);
    await disk.close();
  });
}

/** What programs without types give for a number. */
const NO_NUMBERS: unknown[] = [
  null,
  undefined,
  true,
  "",
  "1",
  [],
  [8],
  {},
  8n,
  Symbol("sector"),
];

Deno.test("VirtualDisk refuses sectors and counts that are no numbers, as its slices do", async () => {
  const { disk, log } = recorded();
  for (const on of [disk, disk.slice(16, 16)]) {
    for (const value of NO_NUMBERS as number[]) {
      const calls: (() => Promise<unknown>)[] = [
        () => on.read(value, 1),
        () => on.readInto(value, bytes(1)),
        () => on.write(value, bytes(1)),
        () => on.discard(value, 1),
        () => on.writeZeroes(value, 1),
        () => on.read(0, value),
        () => on.discard(0, value),
        () => on.writeZeroes(0, value),
        async () => await on.slice(value, 1).close(),
        async () => await on.slice(0, value).close(),
      ];
      // Without them, these are about the whole disk.
      if (value !== undefined) {
        calls.push(
          () => on.extents(value),
          () => on.extents(value, 1),
          () => on.extents(0, value),
          () => on.firstExtents(value),
          () => on.firstExtents(0, value),
        );
      }
      for (const call of calls) {
        const error = await assertRejects(call, DiskError, "safe integers");
        assertEquals(error.kind, "argument", `${call} of ${String(value)}`);
      }
      for (
        const request of [
          writeRequest(value, bytes(1)),
          discardRequest(value, 1),
          discardRequest(0, value),
        ]
      ) {
        assertEquals(await on.submit(request), Status.IoErr);
        assertEquals(request.error?.kind, "argument");
      }
    }
  }
  assertEquals(log.length, 0);
  await disk.close();
});

Deno.test("VirtualDisk refuses them as well while it is resized", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const resized = disk.resize(128);
  for (const value of NO_NUMBERS as number[]) {
    assertEquals(await kindOf(() => disk.write(value, bytes(1))), "argument");
  }
  await resized;
  assert(isZero(await disk.read(0, 128)));
});

Deno.test("VirtualDisk refuses parts of sectors where there is no memory to have them", async () => {
  const { disk, log } = recorded();
  for (
    const call of [
      () => disk.read(0, 1.5),
      () => disk.discard(0, 1.5),
      () => disk.writeZeroes(0, 1.5),
      () => disk.extents(0.5, 1),
      () => disk.extents(0, 1.5),
      () => disk.firstExtents(0.5),
    ]
  ) assertEquals(await kindOf(call), "argument", `${call}`);
  assertEquals(log.length, 0);
  await disk.close();
});

Deno.test("VirtualDisk.extents() of no sectors has no runs, but on the disk only", async () => {
  const disk = VirtualDisk.memory({ sectors: 64 });
  for (const on of [disk, disk.slice(0, 64)]) {
    assertEquals(await on.extents(8, 0), []);
    assertEquals(await on.extents(64), []);
    assertEquals(await kindOf(() => on.extents(65, 0)), "range");
    assertEquals(await kindOf(() => on.extents(65)), "range");
    assertEquals(await kindOf(() => on.extents(NaN, 0)), "argument");
    assertEquals(await kindOf(() => on.extents(-1, 0)), "argument");
  }
  await disk.close();
  assertEquals(await kindOf(() => disk.extents(8, 0)), "closed");
});

Deno.test("VirtualDisk refuses memory that is no whole sectors", async () => {
  const { disk, log } = recorded();
  for (const length of [1, 511, 513, 1000]) {
    const memory = new Uint8Array(length);
    assertEquals(await kindOf(() => disk.write(0, memory)), "alignment");
    assertEquals(await kindOf(() => disk.readInto(0, memory)), "alignment");
  }
  assertEquals(await kindOf(() => disk.write(0, new Uint8Array())), "argument");
  assertEquals(log.length, 0);
  await disk.close();
});

Deno.test("VirtualDisk refuses memory that is no bytes, and the rest goes on", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const wrong = [null, undefined, "x".repeat(512), [1], { length: 512 }, 512];
  for (const value of [...wrong, new Uint16Array(512), new ArrayBuffer(512)]) {
    const bad = value as Uint8Array;
    const good = disk.write(0, new Uint8Array(512).fill(7));
    for (const refused of [disk.write(1, bad), disk.readInto(1, bad)]) {
      const error = await assertRejects(() => refused, DiskError, "Uint8Array");
      assertEquals([error.kind, error.sector], ["argument", 1]);
    }
    const request = writeRequest(1, bad);
    assertEquals(await disk.submit(request), Status.IoErr);
    assertEquals(request.error?.kind, "argument");
    await good;
  }
  assertEquals(
    (await disk.read(0, 2)).filter((byte) => byte === 7).length,
    512,
  );
});

Deno.test("VirtualDisk.read() rejects if there is no memory for so much", async () => {
  await using disk = VirtualDisk.memory({ sectors: 2 ** 43 });
  assertEquals(await kindOf(() => disk.read(0, 2 ** 43)), "argument");
});

Deno.test("VirtualDisk refuses writes if it is read-only", async () => {
  const { disk, log } = recorded({ readOnly: true });
  assert(disk.readOnly);
  assert(disk.info.readOnly);
  for (
    const call of [
      () => disk.write(0, bytes(1)),
      () => disk.write(0, bytes(1), { fua: true }),
      () => disk.discard(0, 1),
      () => disk.writeZeroes(0, 1),
    ]
  ) assertEquals(await kindOf(call), "read-only");
  assertEquals(log.length, 0);
  await disk.flush();
  await disk.read(0, 1);
  await disk.close();
});

Deno.test("VirtualDisk refuses everything once it is closed", async () => {
  const { disk, log } = recorded();
  const last = disk.write(0, bytes(1));
  await disk.close();
  await last;
  const seen = log.length;
  for (
    const call of [
      () => disk.read(0, 1),
      () => disk.readInto(0, bytes(1)),
      () => disk.write(0, bytes(1)),
      () => disk.flush(),
      () => disk.discard(0, 1),
      () => disk.writeZeroes(0, 1),
      () => disk.id(),
    ]
  ) assertEquals(await kindOf(call), "closed");
  const request = readRequest(0, bytes(1));
  assertEquals(await disk.submit(request), Status.IoErr);
  assertEquals(request.error?.kind, "closed");
  const mapping = await assertRejects(() => disk.extents(), DiskError);
  assertEquals(mapping.kind, "closed");
  assertEquals(log.length, seen);
  await disk.close();
});

Deno.test("VirtualDisk is closed at the end of await using", async () => {
  let kept: VirtualDisk;
  {
    await using disk = VirtualDisk.memory({ sectors: 8 });
    kept = disk;
  }
  assertEquals(await kindOf(() => kept.read(0, 1)), "closed");
});

Deno.test("VirtualDisk.memory() refuses what is no disk", () => {
  for (const sectors of [-1, 0.5, NaN, 2 ** 53]) {
    assertThrows(() => VirtualDisk.memory({ sectors }), RangeError);
  }
  for (const blockSize of [0, 256, 513, 131_072]) {
    assertThrows(
      () => VirtualDisk.memory({ sectors: 1024, blockSize }),
      RangeError,
    );
  }
  assertThrows(
    () => VirtualDisk.memory({ sectors: 9, blockSize: 4096 }),
    RangeError,
  );
});

// Failure, abort

Deno.test("VirtualDisk.failure is the error of the flush that failed first", async () => {
  const { disk, failing } = recorded();
  assertEquals(disk.failure, null);
  const first = new DiskError("io", "Cannot flush", { errno: 5, code: "EIO" });
  failing.set(RequestType.Flush, first);
  assertStrictEquals(await assertRejects(() => disk.flush()), first);
  failing.clear();
  assertStrictEquals(disk.failure, first);
  const error = await assertRejects(() => disk.write(0, bytes(1)), DiskError);
  assertEquals(error.kind, "latched");
  assertStrictEquals(error.cause, first);
  const request = writeRequest(0, bytes(1));
  assertEquals(await disk.submit(request), Status.IoErr);
  assertEquals(request.error?.kind, "latched");
  await disk.read(0, 1);
  assertEquals(await kindOf(() => disk.slice(0, 8).flush()), "latched");
  await disk.close();
});

Deno.test("VirtualDisk rejects with the signal's reason", async () => {
  const { disk, log } = recorded();
  const reason = new TypeError("Enough");
  const signal = AbortSignal.abort(reason);
  for (
    const call of [
      () => disk.read(0, 1, { signal }),
      () => disk.readInto(0, bytes(1), { signal }),
      () => disk.write(0, bytes(1), { signal }),
      () => disk.flush({ signal }),
      () => disk.discard(0, 1, { signal }),
      () => disk.writeZeroes(0, 1, { signal }),
    ]
  ) assertStrictEquals(await assertRejects(call), reason);
  const request = readRequest(0, bytes(1));
  assertEquals(await disk.submit(request, { signal }), Status.IoErr);
  assertEquals(request.error?.kind, "aborted");
  assertEquals(log.length, 0);
  await disk.close();
});

// Slices

Deno.test("VirtualDisk.slice() is a part of the disk", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const slice = disk.slice(16, 32);
  assertEquals(slice.sectors, 32);
  assertEquals(slice.info.sectors, 32);
  assertEquals(slice.blockSize, 512);
  await slice.write(0, bytes(1, 5));
  await slice.write(31, bytes(1, 6));
  assertEquals((await disk.read(16, 1))[0], 5);
  assertEquals((await disk.read(47, 1))[0], 6);
  assert(isZero(await disk.read(0, 16)));
  assert(isZero(await disk.read(48, 16)));
  assertEquals((await slice.read(31, 1))[0], 6);
});

Deno.test("VirtualDisk.slice() of a slice counts from where that starts", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const inner = disk.slice(16, 32).slice(8, 8);
  await inner.writeZeroes(0, 8);
  await inner.write(3, bytes(1, 9));
  assertEquals((await disk.read(27, 1))[0], 9);
  assertEquals(inner.slice(3, 1).sectors, 1);
  assertEquals((await inner.slice(3, 1).read(0, 1))[0], 9);
});

Deno.test("VirtualDisk.slice() does not reach beyond itself", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const slice = disk.slice(16, 32);
  assertEquals(await kindOf(() => slice.read(32, 1)), "range");
  assertEquals(await kindOf(() => slice.write(31, bytes(2))), "range");
  assertEquals(await kindOf(() => slice.discard(0, 33)), "range");
  assertEquals(await kindOf(() => slice.writeZeroes(-1, 2)), "argument");
  // As it is: counted on the whole disk.
  for (const sector of [0, 15, 48, 63]) {
    const request = writeRequest(sector, bytes(1));
    assertEquals(await slice.submit(request), Status.IoErr);
    assertEquals(request.error?.kind, "range");
    assertEquals(request.error?.sector, sector);
  }
  assertEquals(await slice.submit(writeRequest(16, bytes(1))), Status.Ok);
  assertEquals(await slice.submit(flushRequest()), Status.Ok);
  assert(isZero(await disk.read(0, 16)));
});

Deno.test("VirtualDisk.slice() refuses what is no part of the disk", () => {
  const disk = VirtualDisk.memory({ sectors: 64, blockSize: 4096 });
  for (
    const [start, count, kind] of [
      [0, 72, "range"],
      [64, 8, "range"],
      [-8, 8, "argument"],
      [0, 0, "argument"],
      [NaN, 8, "argument"],
      [4, 8, "alignment"],
      [0, 12, "alignment"],
      [0.5, 8, "argument"],
    ] as const
  ) {
    const error = assertThrows(() => disk.slice(start, count), DiskError);
    assertEquals(error.kind, kind, `${start} ${count}`);
  }
});

Deno.test("VirtualDisk.slice() is closed alone, and ends with the disk", async () => {
  const disk = VirtualDisk.memory({ sectors: 64 });
  const first = disk.slice(0, 8);
  const second = disk.slice(8, 8);
  await first.close();
  await first.close();
  assertEquals(await kindOf(() => first.read(0, 1)), "closed");
  const request = readRequest(0, bytes(1));
  assertEquals(await first.submit(request), Status.IoErr);
  assertEquals(request.error?.kind, "closed");
  await assertRejects(() => first.extents(), DiskError);
  await second.read(0, 1);
  await disk.read(0, 1);
  await disk.close();
  assertEquals(await kindOf(() => second.read(0, 1)), "closed");
});

Deno.test("VirtualDisk.flush() of a slice covers the whole disk's writes", async () => {
  const { disk, log } = recorded();
  const write = disk.write(0, bytes(1));
  await disk.slice(32, 8).flush();
  await write;
  assertEquals(log.map(({ type }) => type), [
    RequestType.Out,
    RequestType.Flush,
  ]);
  await disk.close();
});

// Extents, memory

Deno.test("VirtualDisk.extents() tells data and holes in turn", async () => {
  await using disk = VirtualDisk.memory({ sectors: 1024 });
  assertEquals(await disk.extents(), [{ sector: 0, count: 1024, hole: true }]);
  await disk.write(256, bytes(1));
  assertEquals(await disk.extents(), [
    { sector: 0, count: 256, hole: true },
    { sector: 256, count: 128, hole: false },
    { sector: 384, count: 640, hole: true },
  ]);
  assertEquals(await disk.extents(300, 10), [{
    sector: 300,
    count: 10,
    hole: false,
  }]);
  assertEquals(await disk.extents(1000), [{
    sector: 1000,
    count: 24,
    hole: true,
  }]);
  assertEquals(await disk.slice(128, 512).extents(64, 128), [
    { sector: 64, count: 64, hole: true },
    { sector: 128, count: 64, hole: false },
  ]);
  assertEquals(await disk.extents(8, 0), []);
  assertEquals(
    (await assertRejects(() => disk.extents(1000, 100), DiskError)).kind,
    "range",
  );
});

Deno.test("VirtualDisk.extents() calls everything data if the backend cannot tell", async () => {
  const { backend } = recorded();
  const { extents: _, ...rest } = backend;
  const disk = VirtualDisk.over(rest);
  assertEquals(await disk.slice(8, 8).extents(), [
    { sector: 0, count: 8, hole: false },
  ]);
  await disk.close();
});

Deno.test("VirtualDisk.extents() joins neighbours of one kind", async () => {
  const { backend } = recorded();
  const disk = VirtualDisk.over({
    ...backend,
    extents: (sector, count) => [
      { sector, count: 1, hole: true },
      { sector: sector + 1, count: 1, hole: true },
      { sector: sector + 2, count: count - 2, hole: false },
    ],
  });
  assertEquals(await disk.extents(4, 8), [
    { sector: 4, count: 2, hole: true },
    { sector: 6, count: 6, hole: false },
  ]);
  await disk.close();
});

Deno.test("VirtualDisk.extents() goes on from where an answer ends, and others have their turn", async () => {
  const { backend } = recorded({ sectors: 1 << 20 });
  let asked = 0;
  let closed = false;
  const disk = VirtualDisk.over({
    ...backend,
    extents(sector, count) {
      assertEquals(closed, false);
      asked++;
      // A long look; a wait as short as a timer's would not show.
      const until = performance.now() + 5;
      while (performance.now() < until);
      return [{
        sector,
        count: Math.min(count, (1 << 16) - sector % (1 << 16)),
        hole: Math.floor(sector / (1 << 16)) % 4 === 0,
      }];
    },
    close() {
      closed = true;
      return backend.close();
    },
  });
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  const extents = await disk.extents(5, (1 << 19) - 5);
  clearInterval(timer);
  assertEquals(extents, [
    { sector: 5, count: (1 << 16) - 5, hole: true },
    { sector: 1 << 16, count: 3 << 16, hole: false },
    { sector: 1 << 18, count: 1 << 16, hole: true },
    { sector: 5 << 16, count: 3 << 16, hole: false },
  ]);
  assertEquals(asked, 8);
  assertGreater(turns, 0);
  // The first answer only, on a slice as well.
  assertEquals(await disk.firstExtents(1 << 18), [
    { sector: 1 << 18, count: 1 << 16, hole: true },
  ]);
  assertEquals(await disk.slice(1 << 16, 1 << 17).firstExtents(7), [
    { sector: 7, count: (1 << 16) - 7, hole: false },
  ]);
  assertEquals(await disk.firstExtents(8, 0), []);
  const wrong = await assertRejects(() => disk.firstExtents(-1), DiskError);
  assertEquals(wrong.kind, "argument");
  // A signal ends it between two answers, and what was asked ends before close().
  const controller = new AbortController();
  const { signal } = controller;
  const aborted = disk.extents(0, 1 << 20, { signal });
  const late = disk.extents();
  controller.abort(new Error("Enough"));
  await assertRejects(() => aborted, Error, "Enough");
  await disk.close();
  assertEquals((await late).length, 8);
});

Deno.test("VirtualDisk.extents() calls data what the backend gives no answer for", async () => {
  const { backend } = recorded();
  const answers = [[{ sector: 0, count: 8, hole: true }], [], []];
  const disk = VirtualDisk.over({
    ...backend,
    extents: () => answers.shift()!,
  });
  assertEquals(await disk.extents(), [
    { sector: 0, count: 8, hole: true },
    { sector: 8, count: 56, hole: false },
  ]);
  assertEquals(await disk.firstExtents(1, 3), [
    { sector: 1, count: 3, hole: false },
  ]);
  await disk.close();
});

Deno.test("VirtualDisk.allocate() gives zeroed sectors", () => {
  const disk = VirtualDisk.memory({ sectors: 8 });
  assertEquals(disk.allocate(3), bytes(3, 0));
  for (const sectors of [0, -1, 0.5, NaN, Infinity]) {
    assertThrows(() => disk.allocate(sectors), RangeError);
  }
});

// What it is

Deno.test("VirtualDisk.info survives JSON", async () => {
  await using disk = VirtualDisk.memory({
    sectors: 64,
    blockSize: 4096,
    physicalBlockSize: 8192,
    queueSize: 16,
    writeCache: "writethrough",
  });
  const { info } = disk;
  assertEquals(JSON.parse(JSON.stringify(info)), info);
  assertEquals(info.blockSize, 4096);
  assertEquals(info.physicalBlockSize, 8192);
  assertEquals(info.queueSize, 16);
  assertEquals(info.writeCache, "writethrough");
  assertEquals(info.backend, "memory");
  assertEquals(info.abilities.flush, "native");
});

Deno.test("VirtualDisk.counters are plain data of now", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const before = disk.counters;
  await disk.write(0, bytes(2));
  await disk.read(0, 1);
  await disk.flush();
  await assertRejects(() => disk.read(0, 1, { signal: AbortSignal.abort() }));
  const after = disk.counters;
  assertEquals(before.requests, 0);
  assertEquals(JSON.parse(JSON.stringify(after)), after);
  assertEquals(after.requests, 4);
  assertEquals(after.errors, 1);
  assertEquals(after.bytesWritten, 1024);
  assertEquals(after.bytesRead, 512);
  assertEquals(after.flushes, 1);
});

Deno.test("VirtualDisk.ready bounds what is made unawaited", async () => {
  await using disk = VirtualDisk.memory({ sectors: 1024, queueSize: 4 });
  const all: Promise<void>[] = [];
  for (let i = 0; i < 100; i++) {
    await disk.ready;
    all.push(disk.write(i, bytes(1, i + 1)));
  }
  await Promise.all(all);
  assertEquals((await disk.read(99, 1))[0], 100);
});

Deno.test("DiskError tells its class and place", async () => {
  await using disk = VirtualDisk.memory({ sectors: 8 });
  const error = await assertRejects(() => disk.read(8, 1), DiskError);
  assertInstanceOf(error, Error);
  assertEquals(error.name, "DiskError");
  assertEquals(error.operation, "read");
});

Deno.test("VirtualDisk is sent to no other thread, nor is what it is made of", async () => {
  const backend = new MemoryBackend({ sectors: 8 });
  await using disk = VirtualDisk.over(backend);
  const { port1, port2 } = new MessageChannel();
  const sent: unknown[] = [disk, disk.slice(0, 4), { deep: [disk] }, backend];
  for (const value of sent) {
    for (
      const send of [
        () => structuredClone(value),
        () => port1.postMessage(value),
      ]
    ) {
      const error = assertThrows(send, DOMException, "belongs to its thread");
      assertEquals(error.name, "DataCloneError");
    }
  }
  port1.close();
  port2.close();
  // What is plain data still goes.
  assertEquals(structuredClone(disk.info), disk.info);
  assertEquals(JSON.parse(JSON.stringify(disk)), { sectors: 8 });
});

Deno.test("VirtualDisk shows what it is when it is printed", async () => {
  const disk = VirtualDisk.memory({ sectors: 4096, blockSize: 4096 });
  assertEquals(
    Deno.inspect(disk, { breakLength: Infinity, compact: true }),
    'VirtualDisk { sectors: 4096, size: "2 MiB", blockSize: 4096, ' +
      'backend: "memory", engine: "memory", direct: false, readOnly: false }',
  );
  assertMatch(
    Deno.inspect(disk.slice(8, 16)),
    /^VirtualDisk \{\n {2}start: 8,\n {2}sectors: 16,/,
  );
  await disk.close();
  assertMatch(Deno.inspect(disk), /closed: true/);
  assertEquals(Deno.inspect({ disk }).includes("Symbol"), false);
});

Deno.test("VirtualDisk.slice() says of what its sectors are", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  assertEquals(disk.start, 0);
  const slice = disk.slice(16, 32).slice(8, 1);
  assertEquals(slice.start, 24);
  const error = await assertRejects(
    () => slice.read(1, 1),
    DiskError,
    "Cannot read 1 sector at sector 1 of the slice as the slice has 1 sector",
  );
  // As in every error, from the start of the whole disk.
  assertEquals(error.sector, 25);
});
