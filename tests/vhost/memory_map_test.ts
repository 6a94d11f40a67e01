import { assertEquals, assertThrows } from "@std/assert";
import {
  GuestFault,
  MemoryMap,
  overlap,
  type Piece,
} from "../../src/vhost/memory_map.ts";
import { MappedMemory } from "../../src/vhost/region_memory.ts";

/** Three regions: two that adjoin as the guest sees them, and one apart. */
function makeMap() {
  const released: string[] = [];
  const region = (
    name: string,
    guestAddress: number,
    userAddress: number,
    byteLength: number,
  ) => {
    const buffer = new ArrayBuffer(byteLength + 64);
    const memory = new MappedMemory(buffer, 64, () => released.push(name));
    return { guestAddress, userAddress, byteLength, memory };
  };
  const regions = [
    region("low", 0, 0x7000_0000, 4096),
    region("next", 4096, 0x9000_0000, 8192),
    region("high", 0x1_0000_0000, 0x8000_0000, 4096),
  ];
  return { map: new MemoryMap(regions), regions, released };
}

function find(map: MemoryMap, address: number, length: number) {
  const pieces: Piece[] = [];
  map.find(address, length, pieces);
  return pieces;
}

Deno.test("MemoryMap.find() gives one piece within a region", () => {
  const { map, regions } = makeMap();
  assertEquals(find(map, 0x1_0000_0010, 16), [
    { memory: regions[2]!.memory, at: 16, length: 16 },
  ]);
  assertEquals(find(map, 4095, 1), [
    { memory: regions[0]!.memory, at: 4095, length: 1 },
  ]);
});

Deno.test("MemoryMap.find() splits a range where one region ends and the next begins", () => {
  const { map, regions } = makeMap();
  assertEquals(find(map, 4000, 200), [
    { memory: regions[0]!.memory, at: 4000, length: 96 },
    { memory: regions[1]!.memory, at: 0, length: 104 },
  ]);
});

Deno.test("MemoryMap.find() finds no byte outside of the regions", () => {
  const { map } = makeMap();
  for (
    const [address, length] of [
      [12_288, 1],
      [12_287, 2],
      [0xffff_ffff, 2],
      [0x1_0000_1000, 1],
      [0x1_0000_0fff, 0xffff_ffff],
      [2 ** 64, 1],
    ]
  ) assertThrows(() => find(map, address!, length!), GuestFault);
});

Deno.test("MemoryMap.findByUser() wants all of it in one region", () => {
  const { map, regions } = makeMap();
  assertEquals(map.findByUser(0x9000_0000, 8192), {
    memory: regions[1]!.memory,
    at: 0,
    length: 8192,
  });
  for (const [address, length] of [[0x7000_0fff, 2], [0, 1], [2 ** 64, 1]]) {
    assertThrows(() => map.findByUser(address!, length!), GuestFault);
  }
});

Deno.test("MemoryMap.release() gives the memory back with the last holder", () => {
  const { map, released } = makeMap();
  map.hold();
  map.hold();
  map.release();
  map.release();
  assertEquals(released, []);
  map.release();
  assertEquals(released, ["low", "next", "high"]);
});

Deno.test("MappedMemory reads, writes and lends from where the region begins", () => {
  const buffer = new ArrayBuffer(8192);
  const memory = new MappedMemory(buffer, 100, () => {});
  for (const length of [3, 64, 65, 4096]) {
    const bytes = Uint8Array.from({ length }, (_, i) => i * 7);
    memory.write(10, bytes);
    assertEquals(new Uint8Array(buffer, 110, length), bytes);
    const back = new Uint8Array(length);
    memory.read(10, back);
    assertEquals(back, bytes);
    assertEquals(memory.lend(10, length), bytes);
  }
  memory.storeU16(2, 0x1234);
  assertEquals(new DataView(buffer).getUint16(102, true), 0x1234);
  assertEquals(memory.loadU16(2), 0x1234);
  assertThrows(() => memory.loadU16(3), GuestFault);
});

Deno.test("overlap() is about common addresses, not about neighbours", () => {
  assertEquals(overlap(0, 10, 10, 10), false);
  assertEquals(overlap(0, 11, 10, 10), true);
  assertEquals(overlap(15, 1, 10, 10), true);
});
