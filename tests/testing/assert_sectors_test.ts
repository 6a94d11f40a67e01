/** @module */

import { DiskError, VirtualDisk } from "@platter/disk";
import {
  assertDisksEqual,
  assertSectors,
  assertSectorsEqual,
  assertZeroes,
  DiskAssertionError,
} from "@platter/disk/testing";
import { assertEquals, assertRejects, assertThrows } from "@std/assert";

Deno.test("assertSectorsEqual() shows the lines that differ, sector by sector", () => {
  const expected = new Uint8Array(4 * 512);
  const actual = expected.slice();
  actual.set(new TextEncoder().encode("journal"), 512 + 30);
  actual[3 * 512 + 511] = 0xff;
  const error = assertThrows(
    () =>
      assertSectorsEqual(actual, expected, {
        sector: 100,
        message: "The journal must be gone",
      }),
    DiskAssertionError,
  );
  assertEquals(
    error.message,
    `The journal must be gone
2 sectors differ (- is there, + should be):
sector 101: 7 bytes differ, from byte 30 on
  - 010  00 00 00 00 00 00 00 00 00 00 00 00 00 00 6a 6f  |..............jo|
  + 010  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  |................|
  - 020  75 72 6e 61 6c 00 00 00 00 00 00 00 00 00 00 00  |urnal...........|
  + 020  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  |................|
sector 103: 1 byte differs, from byte 511 on
  - 1f0  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ff  |................|
  + 1f0  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  |................|`,
  );
  assertEquals(error.sectors, [101, 103]);
  assertEquals(error.name, "AssertionError");
  assertSectorsEqual(actual, actual.slice());
});

Deno.test("assertSectorsEqual() says how much there is if lengths differ", () => {
  assertThrows(
    () => assertSectorsEqual(new Uint8Array(512), new Uint8Array(1024)),
    DiskAssertionError,
    "There are 512 bytes, and there should be 1024",
  );
});

Deno.test("assertSectorsEqual() takes memory only, and calls nothing else equal", () => {
  const sector = new Uint8Array(512);
  for (const value of [{}, 5, null, undefined, "", [], new Uint16Array(256)]) {
    const other = value as Uint8Array;
    for (const [a, b] of [[other, other], [sector, other], [other, sector]]) {
      assertThrows(
        () => assertSectorsEqual(a!, b!),
        TypeError,
        "must be a Uint8Array: current value is ",
      );
    }
  }
});

Deno.test("assertSectors() and assertZeroes() read what they are told", async () => {
  await using disk = VirtualDisk.memory({ sectors: 2 ** 33 });
  await disk.write(2 ** 32, new Uint8Array(512).fill(5));
  await assertSectors(disk, 2 ** 32, new Uint8Array(512).fill(5));
  await assertRejects(
    () => assertSectors(disk, 2 ** 32 - 1, new Uint8Array(1024)),
    DiskAssertionError,
    `sector ${2 ** 32}: 512 bytes differ`,
  );
  await assertZeroes(disk, 0, 2 ** 32);
  await assertRejects(() => assertZeroes(disk), DiskAssertionError);
  await assertZeroes(disk, disk.sectors);
  await assertZeroes(disk, 8, 0);
  for (const [sector, count] of [[disk.sectors + 1, 0], [NaN, 0], [0, NaN]]) {
    await assertRejects(() => assertZeroes(disk, sector, count), DiskError);
  }
  await assertRejects(() => assertZeroes(disk, disk.sectors + 1), DiskError);
});

Deno.test("assertDisksEqual() shows some sectors and counts the others", async () => {
  await using a = VirtualDisk.memory({ sectors: 10_000 });
  await using b = VirtualDisk.memory({ sectors: 10_000 });
  await assertDisksEqual(a, b);
  for (const sector of [5, 4000, 4001, 9000]) {
    await a.write(sector, new Uint8Array(512).fill(1));
  }
  const error = await assertRejects(
    () => assertDisksEqual(a, b, { maxSectors: 2 }),
    DiskAssertionError,
    "… and 2 more, up to sector 9000",
  );
  assertEquals(error.sectors, [5, 4000, 4001, 9000]);
  await using short = VirtualDisk.memory({ sectors: 4 });
  await assertRejects(
    () => assertDisksEqual(short, b),
    DiskAssertionError,
    "The disk has 4 sectors, and should have 10000",
  );
});

Deno.test("assertSectors() shows what is alike once, lines and sectors", async () => {
  await using disk = VirtualDisk.memory({ sectors: 4096 });
  await disk.write(8, new Uint8Array(2048 * 512).fill(0xee));
  const expected = new Uint8Array(2048 * 512);
  const error = await assertRejects(
    () => assertSectors(disk, 8, expected, { maxSectors: Infinity }),
    DiskAssertionError,
  );
  assertEquals(
    error.message,
    `2048 sectors differ (- is there, + should be):
sector 8 (and, alike, up to 2055): 512 bytes differ, from byte 0 on
  - 000  ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee  |................|
  + 000  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  |................|
  * 31 more of the same`,
  );
  assertEquals(error.sectors.length, 2048);
  await assertRejects(
    () => assertSectors(disk, 8, expected),
    DiskAssertionError,
    "… and 2044 more, up to sector 2055, all alike",
  );
});

Deno.test("assertSectors() and its kin say what the sectors of a slice are of", async () => {
  await using disk = VirtualDisk.memory({ sectors: 4096 });
  await using equal = VirtualDisk.memory({ sectors: 64 });
  const slice = disk.slice(2048, 64);
  await disk.write(2053, new Uint8Array(512).fill(1));
  const words = "sector 5 of the slice (sector 2053 of the disk): 512 bytes";
  const checks = [
    () => assertSectors(slice, 4, new Uint8Array(1024)),
    () => assertZeroes(slice),
    () => assertDisksEqual(slice, equal),
  ];
  for (const check of checks) {
    const error = await assertRejects(check, DiskAssertionError, words);
    assertEquals(error.sectors, [5]);
  }
  // One that begins where the disk does needs no second number.
  const error = await assertRejects(
    () => assertZeroes(disk.slice(0, 4096)),
    DiskAssertionError,
  );
  assertEquals(error.message.includes("slice"), false);
});
