/** @module */

import { VirtualDisk } from "@platter/disk";
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
