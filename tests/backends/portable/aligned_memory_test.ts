import { assert, assertEquals } from "@std/assert";
import {
  addressInPages,
  Arena,
  BOUNCE_BYTES,
  giveBounce,
  PAGE_BYTES,
  takeBounce,
  zeroes,
} from "../../../src/backends/portable/aligned_memory.ts";
import { isZero } from "../../../src/buffer.ts";

/** Whether memory is known to be on a page, so many bytes from its start. */
function isPageAligned(memory: Uint8Array, from: number): boolean {
  const address = addressInPages(memory);
  return address >= 0 && (address + from) % PAGE_BYTES === 0;
}

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

Deno.test("addressInPages() knows pages from other places", () => {
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
