/**
 * Ranges that must not be changed: what is refused, what is not, and what is
 * noted.
 *
 * @module
 */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { overlay } from "../../src/layers/overlay.ts";
import {
  outsideOf,
  protect,
  type Violation,
} from "../../src/layers/protect.ts";
import { Random } from "../../src/random.ts";
import { Request, RequestType, writeRequest } from "../../src/request.ts";
import { contractSuite } from "../contract.ts";
import { LONG } from "../helpers.ts";
import { layerContract, memory } from "./stacks.ts";

// It is the same code over any base.
contractSuite("protect() that notes", () =>
  Promise.resolve({
    backend: protect(memory(), [{ sector: 0 }], { action: "note" }),
  }), {
  readOnly: () =>
    Promise.resolve({
      backend: protect(memory({ readOnly: true }), [{ sector: 0 }], {
        action: "note",
      }),
    }),
});
if (LONG) {
  layerContract("protect() of nothing", (backend) => protect(backend, []));
  layerContract("protect() switched off", (backend) => {
    const layer = protect(backend, [{ sector: 0 }]);
    layer.enabled = false;
    return layer;
  });
}

const ones = (sectors: number) => new Uint8Array(sectors * 512).fill(1);

Deno.test("protect() refuses whatever changes a sector of a range", async () => {
  const layer = protect(memory({ sectors: 64 }), [
    { sector: 8, count: 8 },
    { name: "the end", sector: 56 },
  ]);
  await using disk = VirtualDisk.over(layer);
  const secureErase = async () => {
    const request = new Request(RequestType.SecureErase, 0, 64);
    await disk.submit(request);
    throw request.error;
  };
  const works: [kind: string, () => Promise<unknown>, reason: string][] = [
    ["write", () => disk.write(15, ones(2)), "sectors 8 to 15 are protected"],
    ["write zeroes", () => disk.writeZeroes(0, 9), "sectors 8 to 15 are"],
    ["discard", () => disk.discard(63, 1), "the end is protected"],
    ["secure erase", secureErase, "sectors 8 to 15 are"],
  ];
  for (const [operation, work, reason] of works) {
    const error = await assertRejects(work, DiskError, reason);
    assertEquals(
      [error.kind, error.code, error.operation],
      ["protected", undefined, operation],
    );
  }
  assertEquals(layer.violationCount, works.length);
  assertEquals(layer.violations[2], {
    operation: "discard",
    sector: 63,
    count: 1,
    range: { name: "the end", sector: 56 },
  });
  // Nothing of them was done, what lies beside a range is free, and so are reads.
  assertEquals(await disk.read(0, 64), new Uint8Array(64 * 512));
  await disk.write(0, ones(8));
  await disk.write(16, ones(40));
  await disk.flush();
  assertEquals(layer.violationCount, works.length);
  layer.enabled = false;
  await disk.write(8, ones(8));
  assertEquals((await disk.read(8, 1))[0], 1);
});

Deno.test("protect() fails of merged neighbours only those in a range", async () => {
  await using disk = VirtualDisk.over(
    protect(memory({ sectors: 64 }), [{ sector: 10, count: 1 }]),
  );
  const writes = Array.from(
    { length: 20 },
    (_, sector) => disk.write(sector, ones(1)),
  );
  const ends = await Promise.allSettled(writes);
  assertEquals(
    ends.flatMap(({ status }, sector) => status === "rejected" ? [sector] : []),
    [10],
  );
  assertEquals(
    (await disk.read(9, 3)).filter((byte) => byte === 1).length,
    1024,
  );
});

Deno.test("protect() notes each of merged neighbours once, durable ones together", async () => {
  const layer = protect(memory({ sectors: 64 }), [{ sector: 10, count: 2 }]);
  await using disk = VirtualDisk.over(layer);
  const write = async (fua: boolean) => {
    await Promise.allSettled(
      [8, 9, 10, 11, 12].map((sector) => disk.write(sector, ones(1), { fua })),
    );
    return layer.violations.map(({ sector, count }) => [sector, count]);
  };
  assertEquals(await write(false), [[10, 1], [11, 1]]);
  assertEquals(disk.counters.merged, 5);
  assertEquals(layer.violationCount, 2);
  assertEquals(await write(true), [[10, 1], [11, 1], [8, 5]]);
});

Deno.test("protect() does not latch a disk by a refused durable write", async () => {
  await using disk = VirtualDisk.over(
    protect(memory({ sectors: 64 }), [{ sector: 0, count: 1 }]),
  );
  await assertRejects(() => disk.write(0, ones(1), { fua: true }), DiskError);
  await disk.write(1, ones(1), { fua: true });
  await disk.flush();
});

Deno.test("protect() that notes carries out and tells", async () => {
  const told: Violation[] = [];
  const layer = protect(memory({ sectors: 64 }), [{ sector: 3, count: 1 }], {
    action: "note",
    onViolation: (violation) => told.push(violation),
  });
  await using disk = VirtualDisk.over(layer);
  await disk.write(2, ones(2));
  assertEquals((await disk.read(3, 1))[0], 1);
  assertEquals(told, [{
    operation: "write",
    sector: 2,
    count: 2,
    range: { sector: 3, count: 1 },
  }]);
  // However often it happens, no more is kept than fits.
  for (let i = 0; i < 1500; i++) {
    layer.submit([writeRequest(3, ones(1))], () => {});
  }
  assertEquals([layer.violationCount, layer.violations.length], [1501, 1000]);
});

Deno.test("protect() refuses ranges that are not on the disk", () => {
  for (
    const range of [
      { sector: -1 },
      { sector: 64 },
      { sector: 0, count: 0 },
      { sector: 60, count: 5 },
      { sector: 0.5, count: 1 },
      { sector: 0, count: NaN },
    ]
  ) {
    assertThrows(
      () => protect(memory({ sectors: 64 }), [range]),
      RangeError,
      "Cannot protect a range as it must be at least one sector and lie on the disk",
    );
    assertThrows(() => outsideOf([range], 64), RangeError);
  }
  assertThrows(
    // deno-lint-ignore no-explicit-any
    () => protect(memory(), [], { action: "warn" as any }),
    TypeError,
    `current value is "warn"`,
  );
});

Deno.test("protect() with outsideOf() leaves only the ranges writable", async () => {
  const random = new Random(15);
  for (let round = 0; round < 20; round++) {
    const ranges = Array.from({ length: 3 }, () => {
      const sector = random.below(64);
      return { sector, count: 1 + random.below(64 - sector) };
    });
    const changes = overlay(memory({ sectors: 64 }));
    await using disk = VirtualDisk.over(
      protect(changes, outsideOf(ranges, 64)),
    );
    await Promise.allSettled(
      Array.from({ length: 64 }, (_, sector) => disk.write(sector, ones(1))),
    );
    const written = (await disk.read(0, 64)).filter((_, i) => i % 512 === 0);
    assertEquals(
      Array.from(written, (byte) => byte === 1),
      Array.from(
        { length: 64 },
        (_, sector) =>
          ranges.some((range) =>
            sector >= range.sector && sector < range.sector + range.count
          ),
      ),
    );
  }
});
