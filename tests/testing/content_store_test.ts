/**
 * Contents of blocks: each once, and the same bytes back, from memory, from a
 * file, and through the cache.
 *
 * @module
 */

import { Random } from "@platter/disk/testing";
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { crc32 } from "node:zlib";
import { ContentStore } from "../../src/testing/content_store.ts";
import { Int32List } from "../../src/testing/int32_list.ts";
import { TemporaryContents } from "../../src/testing/temporary_contents.ts";

/** Takes blocks, several at once, and says what number each has. */
function take(store: ContentStore, blocks: readonly Uint8Array[]): number[] {
  const size = blocks[0]!.length;
  const all = Uint8Array.from(blocks.flatMap((block) => [...block]));
  const numbers = new Int32List();
  store.take(blocks.length, (from, target) => {
    assertEquals(from % size, 0);
    target.set(all.subarray(from, from + target.length));
  }, numbers);
  return Array.from({ length: numbers.length }, (_, i) => numbers.at(i));
}

for (const blockSize of [512, 4096, 65_536]) {
  for (const mostBytes of [0, 128 << 10, Infinity]) {
    Deno.test(`ContentStore gives back blocks of ${blockSize} bytes with ${mostBytes} bytes of memory`, () => {
      const file = new TemporaryContents(blockSize);
      const store = new ContentStore(blockSize, file, mostBytes);
      const random = new Random(blockSize);
      const contents = new Map<string, number>();
      const byNumber = [new Uint8Array(blockSize)];
      const rounds = (2 << 20) / blockSize / 5;
      for (let round = 0; round < rounds; round++) {
        const blocks = Array.from({ length: 1 + random.below(9) }, () => {
          const kind = random.below(4);
          if (kind === 0) return new Uint8Array(blockSize);
          if (kind === 1) return byNumber[random.below(byNumber.length)]!;
          return random.bytes(blockSize);
        });
        for (const [i, number] of take(store, blocks).entries()) {
          const block = blocks[i]!;
          const key = `${crc32(block)}/${crc32(block, 1)}/${block.at(-1)}`;
          if (block.every((byte) => byte === 0)) assertEquals(number, 0);
          else if (contents.has(key)) assertEquals(number, contents.get(key));
          else {
            assertEquals(number, byNumber.length);
            contents.set(key, number);
            byNumber.push(block);
          }
        }
      }
      assertEquals(store.inMemory, mostBytes === Infinity);
      store.seal();
      const hashes = new Set<string>();
      for (let i = 0; i < byNumber.length; i++) {
        const number = random.below(byNumber.length);
        assertEquals(store.read(number), byNumber[number]);
        hashes.add(`${store.high(i)}/${store.low(i)}`);
      }
      assertEquals(hashes.size, byNumber.length);
      store.close();
    });
  }
}

Deno.test("ContentStore with a full cache loads no segments for whoever reads here and there", () => {
  const loads: number[] = [];
  class Counted extends TemporaryContents {
    override load(first: number, target: Uint8Array): void {
      loads.push(target.length);
      super.load(first, target);
    }
  }
  const store = new ContentStore(4096, new Counted(4096), 0);
  const random = new Random(3);
  const blocks = Array.from({ length: 300 * 16 }, () => random.bytes(4096));
  for (const block of blocks) store.add(block);
  /** Reads the first block of a segment. */
  const read = (segment: number) =>
    assertEquals(store.read(segment * 16 + 1), blocks[segment * 16]);
  for (let segment = 0; segment < 256; segment++) read(segment);
  assertEquals(loads, Array(256).fill(65_536));
  loads.length = 0;
  for (const segment of [3, 270, 271, 270, 255, 272]) read(segment);
  assertEquals(loads, Array(4).fill(4096));
  loads.length = 0;
  read(272);
  assertEquals(loads, [65_536]);
  for (let i = 2; i <= 16; i++) store.read(272 * 16 + i);
  assertEquals(store.readSome(270 * 16 + 15, 9).length, 8192);
  assertEquals(loads, [65_536, 8192]);
  store.close();
});

Deno.test("ContentStore tells contents of one CRC-32 apart", () => {
  const store = new ContentStore(512, new TemporaryContents(512), Infinity);
  const one = new Random(1).bytes(512);
  // Its generator polynomial, with its 33 coefficients in order of the bits,
  // added anywhere leaves the sum as it is.
  const other = one.slice();
  for (const [i, byte] of [0x41, 0x06, 0x71, 0xdb, 0x01].entries()) {
    other[100 + i]! ^= byte;
  }
  assertEquals(crc32(one), crc32(other));
  const [first, second, third] = take(store, [one, other, one]);
  assertNotEquals(first, second);
  assertEquals(third, first);
  assertEquals(store.read(second!), other);
  assert(store.high(first!) !== store.high(second!));
});
