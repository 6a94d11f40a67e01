import { assert, assertEquals, assertThrows } from "@std/assert";
import { type Extent, MAX_EXTENTS } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import {
  discardRequest,
  Request,
  RequestFlag,
  RequestType,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import { carryOut, contractSuite, readSectors } from "../contract.ts";

for (const blockSize of [512, 4096]) {
  const make = (more = {}) =>
    Promise.resolve({
      backend: new MemoryBackend({ sectors: 16_384, blockSize, ...more }),
    });
  contractSuite(`MemoryBackend, blocks of ${blockSize}`, make, {
    readOnly: () => make({ readOnly: true }),
  });
}

const TERABYTE = 2 ** 31;

Deno.test("MemoryBackend.extents() ends after so many that others have waited enough", async () => {
  const chunk = 128;
  const disk = new MemoryBackend({ sectors: TERABYTE });
  const data = new Uint8Array(512);
  for (let i = 0; i < 600; i++) {
    await carryOut(disk, writeRequest(2 * i * chunk, data));
  }
  const answers: Extent[][] = [];
  for (let at = 0; at < TERABYTE;) {
    const found = disk.extents(at, TERABYTE - at);
    answers.push(found);
    at = found.at(-1)!.sector + found.at(-1)!.count;
  }
  assertEquals(answers.length, 5);
  assert(answers.every(({ length }) => length <= MAX_EXTENTS));
  assertEquals(
    answers.flat(),
    Array.from({ length: 1200 }, (_, i) => ({
      sector: i * chunk,
      count: i === 1199 ? TERABYTE - 1199 * chunk : chunk,
      hole: i % 2 === 1,
    })),
  );
});

Deno.test("MemoryBackend of 1 TiB costs what was written", async () => {
  const disk = new MemoryBackend({ sectors: TERABYTE });
  assertEquals(disk.storedBytes, 0);
  assertEquals(disk.extents(0, TERABYTE), [
    { sector: 0, count: TERABYTE, hole: true },
  ]);
  await carryOut(disk, writeRequest(TERABYTE - 1, new Uint8Array(512).fill(1)));
  assertEquals(disk.storedBytes, 65_536);
  assertEquals(disk.extents(0, TERABYTE), [
    { sector: 0, count: TERABYTE - 128, hole: true },
    { sector: TERABYTE - 128, count: 128, hole: false },
  ]);
  await carryOut(disk, discardRequest(0, TERABYTE));
  assertEquals(disk.storedBytes, 0);
  await disk.close();
});

Deno.test("MemoryBackend drops whole chunks and zeroes parts", async () => {
  const disk = new MemoryBackend({ sectors: 1024 });
  await carryOut(disk, writeRequest(0, new Uint8Array(4 * 65_536).fill(1)));
  await carryOut(disk, discardRequest(64, 128));
  assertEquals(disk.storedBytes, 4 * 65_536);
  assertEquals((await readSectors(disk, 63, 1))[511], 1);
  assertEquals((await readSectors(disk, 64, 1))[0], 0);
  assertEquals((await readSectors(disk, 191, 1))[511], 0);
  assertEquals((await readSectors(disk, 192, 1))[0], 1);
  await carryOut(disk, writeZeroesRequest(0, 256));
  assertEquals(disk.storedBytes, 4 * 65_536);
  await carryOut(disk, writeZeroesRequest(0, 256, RequestFlag.Unmap));
  assertEquals(disk.storedBytes, 2 * 65_536);
  await carryOut(disk, new Request(RequestType.SecureErase, 256, 256));
  assertEquals(disk.storedBytes, 0);
  await disk.close();
});

Deno.test("MemoryBackend answers before submit returns", () => {
  const disk = new MemoryBackend({ sectors: 8 });
  let answers = 0;
  disk.submit([writeRequest(0, new Uint8Array(512))], () => answers++);
  assertEquals(answers, 1);
});

Deno.test("MemoryBackend throws on a shape that no disk has", () => {
  const make = (options: Partial<{ sectors: number; blockSize: number }>) =>
    new MemoryBackend({ sectors: 8, ...options });
  assertThrows(() => make({ sectors: -1 }), RangeError);
  assertThrows(() => make({ sectors: 1.5 }), RangeError);
  assertThrows(() => make({ sectors: 2 ** 53 }), RangeError);
  assertThrows(() => make({ sectors: 9, blockSize: 4096 }), RangeError);
  assertThrows(() => make({ blockSize: 513 }), RangeError);
  assertThrows(
    () => new MemoryBackend({ sectors: 8, id: "x".repeat(21) }),
    RangeError,
  );
  assertEquals(make({ sectors: 0 }).extents(0, 0), []);
});
