import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertThrows,
} from "@std/assert";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import {
  addressOf,
  alignedMemory,
  IoVector,
  memoryAt,
  readU64,
  structMemory,
  withMemory,
  writeU64,
} from "../../ffi/memory.ts";

Deno.test("alignedMemory() begins at a multiple of the alignment", () => {
  for (const alignment of [1, 8, 512, 4096, 65536]) {
    for (const byteLength of [0, 1, 511, 4096, 1_000_003]) {
      const memory = alignedMemory(byteLength, alignment);
      assertEquals(memory.byteLength, byteLength);
      assertEquals(addressOf(memory) % alignment, 0);
      assert(addressOf(memory) > 0);
      assert(memory.every((byte) => byte === 0));
    }
  }
});

Deno.test("alignedMemory() aligns to a page unless told otherwise", () => {
  assertEquals(addressOf(alignedMemory(1)) % 4096, 0);
});

Deno.test("alignedMemory() throws on a length or alignment that cannot be", () => {
  for (const byteLength of [-1, 1.5, NaN, Infinity]) {
    assertThrows(() => alignedMemory(byteLength), RangeError, "length");
  }
  for (const alignment of [0, -8, 3, 4095, 2 ** 31, NaN]) {
    assertThrows(() => alignedMemory(8, alignment), RangeError, "alignment");
  }
});

Deno.test("addressOf() counts from the memory's own address in a subarray", () => {
  const memory = alignedMemory(8192);
  assertEquals(addressOf(memory.subarray(513)), addressOf(memory) + 513);
  assertEquals(
    addressOf(new DataView(memory.buffer, memory.byteOffset + 7)),
    addressOf(memory) + 7,
  );
});

Deno.test("addressOf() is the address that Deno gives", () => {
  const memory = alignedMemory(64);
  const pointer = Deno.UnsafePointer.of(memory);
  assertEquals(BigInt(addressOf(memory)), Deno.UnsafePointer.value(pointer));
});

Deno.test("addressOf() is 0 for memory that was not made here", () => {
  assertEquals(addressOf(new Uint8Array(4096)), 0);
  assertEquals(addressOf(new Uint8Array(new SharedArrayBuffer(16))), 0);
});

Deno.test("alignedMemory() cannot be detached in any way that there is", () => {
  const { port1, port2 } = new MessageChannel();
  const transfers: ((buffer: ArrayBuffer) => unknown)[] = [
    (buffer) => buffer.transfer(),
    (buffer) => buffer.transfer(0),
    (buffer) => buffer.transferToFixedLength(),
    (buffer) => structuredClone(buffer, { transfer: [buffer] }),
    (buffer) => port1.postMessage(buffer, [buffer]),
    (buffer) =>
      new ReadableStream({
        type: "bytes",
        pull: (controller) => controller.enqueue(new Uint8Array(buffer)),
      }).getReader({ mode: "byob" }).read(new Uint8Array(1)),
  ];
  for (const transfer of transfers) {
    const memory = alignedMemory(4096).fill(7);
    const address = addressOf(memory);
    try {
      const answer = transfer(memory.buffer);
      if (answer instanceof Promise) answer.catch(() => {});
    } catch {
      // Most say that they cannot; what counts is that they did not.
    }
    assertEquals(memory.length, 4096, String(transfer));
    assertFalse(memory.buffer.detached);
    assertEquals(addressOf(memory), address);
    assert(memory.every((byte) => byte === 7));
  }
  port1.close();
  port2.close();
});

Deno.test("alignedMemory() never begins where its buffer does", () => {
  for (let i = 0; i < 100; i++) {
    for (const alignment of [1, 8, 4096]) {
      assert(alignedMemory(4096 * i, alignment).byteOffset > 0);
    }
  }
});

/** Collects garbage now; undefined where that cannot be asked for. */
const collect = ((): (() => void) | undefined => {
  try {
    setFlagsFromString("--expose-gc");
    return runInNewContext("gc");
  } catch {
    return undefined;
  }
})();

Deno.test({
  name: "withMemory() keeps the memory that an address alone would lose",
  ignore: collect === undefined,
  fn() {
    const length = 16 << 20;
    const held = () => {
      // Twice, as what is found to be garbage is given back later.
      for (let i = 0; i < 2; i++) collect!();
      return Deno.memoryUsage().external;
    };
    // Only code that was optimised forgets what it does not need.
    for (let i = 0; i < 20_000; i++) withMemory(1, () => i);
    const before = held();
    const lose = () => addressOf(alignedMemory(length));
    assertGreater(lose(), 0);
    assertLess(held() - before, length / 2);
    assertGreaterOrEqual(withMemory(length, held) - before, length / 2);
    assertLess(held() - before, length / 2);
  },
});

Deno.test("withMemory() lends zeroed memory, aligned, and passes on what is thrown", () => {
  const found = withMemory(8192, (address) => [
    address % 4096,
    new Uint8Array(memoryAt(address, 8192)).some((byte) => byte !== 0),
  ]);
  assertEquals(found, [0, false]);
  assertThrows(
    () =>
      withMemory(1, () => {
        throw new RangeError("Mine");
      }),
    RangeError,
    "Mine",
  );
});

Deno.test("memoryAt() shows the same bytes", () => {
  const memory = alignedMemory(16);
  const shown = new Uint8Array(memoryAt(addressOf(memory), 16));
  shown[3] = 7;
  assertEquals(memory[3], 7);
  memory[4] = 9;
  assertEquals(shown[4], 9);
});

Deno.test("memoryAt() throws on address 0", () => {
  assertThrows(() => memoryAt(0, 16), TypeError, "must not be 0");
});

Deno.test("writeU64() and readU64() carry every safe integer", () => {
  const view = new DataView(new ArrayBuffer(16));
  for (
    const value of [
      0,
      1,
      2 ** 31,
      2 ** 32 - 1,
      2 ** 32,
      2 ** 45 + 5,
      2 ** 53 - 1,
    ]
  ) {
    writeU64(view, 8, value);
    assertEquals(view.getBigUint64(8, true), BigInt(value));
    assertEquals(readU64(view, 8), value);
  }
});

Deno.test("writeU64() writes negative integers in two's complement", () => {
  const view = new DataView(new ArrayBuffer(8));
  for (const value of [-1, -(2 ** 31), -(2 ** 32), -(2 ** 40) - 7]) {
    writeU64(view, 0, value);
    assertEquals(view.getBigInt64(0, true), BigInt(value));
  }
});

Deno.test("structMemory() gives zeroes at a multiple of 8 each time", () => {
  const first = structMemory(32);
  assertEquals(first.address % 8, 0);
  assertEquals(first.view.byteLength, 32);
  first.view.setUint32(0, 7);
  assertEquals(structMemory(32).view.getUint32(0), 0);
});

Deno.test("structMemory() throws on a length beyond its memory", () => {
  assertThrows(() => structMemory(513), RangeError, "at most 512");
});

Deno.test("IoVector lays out struct iovec", () => {
  const vector = new IoVector(3);
  assertEquals(vector.capacity, 3);
  assertEquals(vector.address % 16, 0);
  const address = 0x7f12_3456_7890;
  vector.set(1, address, 2 ** 33 + 512);
  const view = new DataView(memoryAt(vector.address, 48));
  assertEquals(view.getBigUint64(0, true), 0n);
  assertEquals(view.getBigUint64(16, true), BigInt(address));
  assertEquals(view.getBigUint64(24, true), 2n ** 33n + 512n);
  assertEquals(view.getBigUint64(32, true), 0n);
});

Deno.test("IoVector throws on an index or a capacity that cannot be", () => {
  const vector = new IoVector(2);
  for (const index of [-1, 2, NaN]) {
    assertThrows(() => vector.set(index, 1, 1), RangeError, "below 2");
  }
  for (const capacity of [0, -1, 1.5]) {
    assertThrows(() => new IoVector(capacity), RangeError, "integer from 1");
  }
});
