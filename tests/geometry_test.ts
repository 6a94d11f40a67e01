import { assert, assertEquals, assertFalse, assertThrows } from "@std/assert";
import { checkBlockSize, isPowerOfTwo, makeGeometry } from "../src/geometry.ts";

Deno.test("makeGeometry() fills in what is not given", () => {
  assertEquals(makeGeometry(16), {
    sectors: 16,
    blockSize: 512,
    physicalBlockSize: 512,
    minimumIoSize: 0,
    optimalIoSize: 0,
  });
  assertEquals(makeGeometry(0).sectors, 0);
  assertEquals(
    makeGeometry(256, 4096, { optimalIoSize: 65_536 }).optimalIoSize,
    65_536,
  );
});

Deno.test("makeGeometry() has no physical block smaller than a block", () => {
  const { physicalBlockSize } = makeGeometry(16, 4096, {
    physicalBlockSize: 512,
  });
  assertEquals(physicalBlockSize, 4096);
});

Deno.test("makeGeometry() refuses sectors that no disk has", () => {
  for (const sectors of [-1, 0.5, NaN, Infinity, 2 ** 44 + 1, 2 ** 53]) {
    assertThrows(() => makeGeometry(sectors), RangeError, String(sectors));
  }
  assertEquals(makeGeometry(2 ** 43).sectors, 2 ** 43);
  assertThrows(() => makeGeometry(9, 4096), RangeError, "whole blocks");
});

Deno.test("checkBlockSize() takes powers of two from 512 to 65,536", () => {
  for (let size = 512; size <= 65_536; size *= 2) checkBlockSize(size);
  for (const size of [0, 1, 256, 511, 513, 768, 131_072, -512, NaN, 512.5]) {
    assertThrows(() => checkBlockSize(size), RangeError, String(size));
  }
});

Deno.test("isPowerOfTwo() tells them up to 2^30", () => {
  for (let bit = 0; bit <= 30; bit++) assert(isPowerOfTwo(2 ** bit));
  for (const value of [0, -1, -2, 3, 6, 0.5, NaN, Infinity, 2 ** 31, 2 ** 32]) {
    assertFalse(isPowerOfTwo(value), String(value));
  }
});
