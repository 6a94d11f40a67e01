import { assert, assertEquals } from "@std/assert";
import {
  Arena,
  BOUNCE_BYTES,
  giveBounce,
  isPageAligned,
  PAGE_BYTES,
  roundDown,
  roundUp,
  takeBounce,
  zeroes,
} from "../../../src/backends/portable/aligned_memory.ts";
import { isZero } from "../../../src/buffer.ts";

Deno.test("Arena hands out pages that do not overlap", () => {
  const arena = new Arena();
  const all: Uint8Array[] = [];
  for (const size of [1, 512, 4096, 4097, 1 << 20, 5 << 20, 512, 0]) {
    const memory = arena.allocate(size);
    assertEquals(memory.length, size);
    assert(isPageAligned(memory, 0));
    assert(isZero(memory));
    memory.fill(all.length + 1);
    all.push(memory);
  }
  for (const [i, memory] of all.entries()) {
    assert(memory.every((byte) => byte === i + 1));
  }
});

Deno.test("isPageAligned() knows pages from other places", () => {
  const memory = new Arena().allocate(2 * PAGE_BYTES);
  assert(isPageAligned(memory, PAGE_BYTES));
  assert(isPageAligned(memory.subarray(PAGE_BYTES), 0));
  assertEquals(isPageAligned(memory, 512), false);
  assertEquals(isPageAligned(memory.subarray(512), 0), false);
  assert(isPageAligned(memory.subarray(512), PAGE_BYTES - 512));
  assertEquals(isPageAligned(new Uint8Array(PAGE_BYTES), 0), false);
});

Deno.test("takeBounce() waits when all are in use", async () => {
  const taken: Uint8Array[] = [];
  for (let i = 0; i < 32; i++) taken.push(await takeBounce());
  assertEquals(new Set(taken.map((each) => each.byteOffset)).size, 32);
  for (const each of taken) {
    assertEquals(each.length, BOUNCE_BYTES);
    assert(isPageAligned(each, 0));
  }
  let came = false;
  const next = takeBounce().then((bounce) => {
    came = true;
    return bounce;
  });
  await Promise.resolve();
  assertEquals(came, false);
  giveBounce(taken[5]!);
  assertEquals(await next, taken[5]!);
  for (const each of taken) giveBounce(each);
});

Deno.test("zeroes() are zeroes on a page", () => {
  assertEquals(zeroes().length, BOUNCE_BYTES);
  assert(isPageAligned(zeroes(), 0));
  assert(isZero(zeroes()));
});

Deno.test("roundDown() and roundUp() hold beyond 32 bits", () => {
  assertEquals(roundDown(2 ** 45 + 511, 512), 2 ** 45);
  assertEquals(roundUp(2 ** 45 + 1, 4096), 2 ** 45 + 4096);
  assertEquals(roundUp(0, 512), 0);
  assertEquals(roundDown(512, 512), 512);
  assertEquals(roundUp(512, 512), 512);
  assertEquals(roundUp(7, 1), 7);
});
