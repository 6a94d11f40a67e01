/**
 * What a device notes of its requests in flight, and what the next one makes of
 * it: a queue that ends after each of its stores in turn, in plain memory.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { Random } from "../../src/random.ts";
import { inflightBytes, InflightRegion } from "../../src/vhost/inflight.ts";
import { MemoryMap, type RegionMemory } from "../../src/vhost/memory_map.ts";
import { VhostProtocolError } from "../../src/vhost/messages.ts";
import { MappedMemory } from "../../src/vhost/region_memory.ts";
import {
  type InflightLog,
  Virtqueue,
  VirtqueueError,
} from "../../src/vhost/virtqueue.ts";

const SIZE = 8;
const MEMORY_BYTES = 4096;
const AVAILABLE = 0x400;
const USED = 0x800;
const DATA = 0xc00;

/** The process has ended. */
class Killed extends Error {}

/** Memory of which so many stores are made, by all that share the count. */
class MortalMemory extends MappedMemory implements RegionMemory {
  readonly #left: { stores: number };

  constructor(buffer: ArrayBuffer, left: { stores: number }) {
    super(buffer, 0, () => {});
    this.#left = left;
  }

  override write(at: number, source: Uint8Array<ArrayBuffer>): void {
    this.#count();
    super.write(at, source);
  }

  override storeU16(at: number, value: number): void {
    this.#count();
    super.storeU16(at, value);
  }

  #count(): void {
    if (this.#left.stores-- <= 0) throw new Killed();
  }
}

/** A driver's side of a ring, and what it waits for. */
class Driver {
  readonly buffer = new ArrayBuffer(MEMORY_BYTES);
  readonly region = new ArrayBuffer(
    inflightBytes({ queues: 1, queueSize: SIZE }),
  );
  readonly view = new DataView(this.buffer);
  /** What was offered and not used, in order, by head. */
  waiting: number[] = [];
  #free = Array.from({ length: SIZE }, (_, head) => head);
  #offered: number;
  #seen: number;
  #left = { stores: 0 };
  #log: InflightLog | null = null;

  constructor(base: number) {
    this.#offered = base;
    this.#seen = base;
    this.view.setUint16(AVAILABLE + 2, base, true);
    this.view.setUint16(USED + 2, base, true);
    for (let head = 0; head < SIZE; head++) {
      this.view.setBigUint64(16 * head, BigInt(DATA), true);
      this.view.setUint32(16 * head + 8, 16 + head, true);
    }
  }

  get free(): number {
    return this.#free.length;
  }

  offer(random: Random): void {
    const [head] = this.#free.splice(random.below(this.#free.length), 1);
    const slot = this.#offered % SIZE;
    this.view.setUint16(AVAILABLE + 4 + 2 * slot, head!, true);
    this.#offered = (this.#offered + 1) & 0xffff;
    this.view.setUint16(AVAILABLE + 2, this.#offered, true);
    this.waiting.push(head!);
  }

  get usedIndex(): number {
    return this.view.getUint16(USED + 2, true);
  }

  /** Takes answers, none of which may be to what it does not wait for. */
  reap(): void {
    for (
      ;
      this.#seen !== this.usedIndex;
      this.#seen = this.#seen + 1 & 0xffff
    ) {
      const head = this.view.getUint32(
        USED + 4 + 8 * (this.#seen % SIZE),
        true,
      );
      const at = this.waiting.indexOf(head);
      assert(at >= 0, `descriptor ${head} was answered twice`);
      this.waiting.splice(at, 1);
      this.#free.push(head);
    }
  }

  /** A device's side, which ends after so many stores. */
  attach(stores: number): Virtqueue {
    this.#left = { stores };
    const notes = new MortalMemory(this.region, this.#left);
    this.#log = regionOf(this.region, notes).queue(0, SIZE);
    return this.move(this.usedIndex);
  }

  /** The same device's side, in memory that was given to it anew. */
  move(from: number | Virtqueue): Virtqueue {
    const map = new MemoryMap([{
      guestAddress: 0,
      userAddress: 0,
      byteLength: MEMORY_BYTES,
      memory: new MortalMemory(this.buffer, this.#left),
    }]);
    return new Virtqueue(
      map,
      {
        size: SIZE,
        descriptors: 0,
        available: AVAILABLE,
        used: USED,
        eventIndex: false,
        indirect: false,
      },
      from,
      this.#log,
    );
  }
}

function regionOf(
  buffer: ArrayBuffer,
  memory: RegionMemory = new MappedMemory(buffer, 0, () => {}),
): InflightRegion {
  return new InflightRegion(memory, {
    byteLength: buffer.byteLength,
    fileOffset: 0,
    queues: 1,
    queueSize: SIZE,
  });
}

/** Takes all there is. */
function takeAll(queue: Virtqueue, taken: number[]): void {
  for (let chain = queue.take(); chain !== null; chain = queue.take()) {
    assertEquals(chain.readable[0]!.length, 16 + chain.head);
    taken.push(chain.head);
  }
}

/** Works until the device ends; answers come in any order. */
function work(driver: Driver, queue: Virtqueue, random: Random): void {
  const taken: number[] = [];
  takeAll(queue, taken);
  // What was in flight comes first and in order, and nothing is left out.
  assertEquals(taken, driver.waiting);
  for (let round = 0; round < 4; round++) {
    for (let i = random.below(driver.free + 1); i > 0; i--) {
      driver.offer(random);
    }
    takeAll(queue, taken);
    for (let i = random.below(taken.length + 1); i > 0; i--) {
      const [head] = taken.splice(random.below(taken.length), 1);
      queue.put(head!, 1);
    }
    queue.publish();
    driver.reap();
    assertEquals(taken, driver.waiting);
  }
}

Deno.test("Virtqueue goes on with exactly what was in flight, whichever store was the last", () => {
  let most = 0;
  for (let last = 0; last <= 160; last++) {
    const random = new Random(last % 13);
    // The indices wrap in some of them.
    const driver = new Driver(last % 2 === 0 ? 0 : 0xfffd);
    for (let stores = last;; stores = random.below(60)) {
      try {
        work(driver, driver.attach(stores), random);
        break;
      } catch (error) {
        if (!(error instanceof Killed)) throw error;
        most = Math.max(most, last);
        driver.reap();
      }
    }
  }
  // Or else the last of them were all the same.
  assert(most > 100);
});

Deno.test("Virtqueue begins where it is told with memory in which nothing was noted", () => {
  const driver = new Driver(7);
  driver.offer(new Random(1));
  const queue = driver.attach(Infinity);
  assertEquals(queue.nextAvailable, 7);
  takeAll(queue, []);
  assertEquals(queue.nextAvailable, 8);
  // The same again, by another device.
  assertEquals(driver.attach(Infinity).nextAvailable, 8);
});

Deno.test("Virtqueue refuses notes that cannot be", () => {
  const notes: [title: string, at: number, value: number][] = [
    ["version", 8, 2],
    ["index far behind", 14, 0x8000],
    ["last answer to no descriptor", 12, SIZE],
  ];
  for (const [title, at, value] of notes) {
    const driver = new Driver(0);
    const random = new Random(1);
    const queue = driver.attach(Infinity);
    driver.offer(random);
    takeAll(queue, []);
    queue.put(driver.waiting[0]!, 1);
    queue.publish();
    const view = new DataView(driver.region);
    view.setUint16(14, 0, true);
    view.setUint16(at, value, true);
    assertThrows(
      () => driver.attach(Infinity),
      VirtqueueError,
      undefined,
      title,
    );
  }
  // More in flight than there ever was: the ring is found out when it is used.
  const driver = new Driver(0);
  driver.attach(Infinity);
  const view = new DataView(driver.region);
  for (let head = 0; head < SIZE; head++) view.setUint8(16 + 16 * head, 1);
  const queue = driver.attach(Infinity);
  assertThrows(() => takeAll(queue, []), VirtqueueError);
});

Deno.test("InflightRegion refuses memory that is too small, and rings that are not in it", () => {
  const buffer = new ArrayBuffer(256);
  const memory = new MappedMemory(buffer, 0, () => {});
  const shape = { fileOffset: 0, queues: 1, queueSize: SIZE };
  // 16 bytes, and 16 for each descriptor, to a multiple of 64.
  for (const byteLength of [0, 191]) {
    assertThrows(
      () => new InflightRegion(memory, { ...shape, byteLength }),
      VhostProtocolError,
    );
  }
  for (
    const wrong of [
      { queues: 0 },
      // As many as there can be at all.
      { queues: 65 },
      { queues: 65_535 },
      { queueSize: 0 },
      { queueSize: 1025 },
    ]
  ) {
    assertThrows(
      () =>
        new InflightRegion(memory, { ...shape, byteLength: 2 ** 40, ...wrong }),
      VhostProtocolError,
      "there must be 1 to 64 rings of 1 to 1024 descriptors",
    );
  }
  const region = new InflightRegion(memory, { ...shape, byteLength: 192 });
  assertThrows(() => region.queue(1, SIZE), VhostProtocolError);
  assertThrows(() => region.queue(0, 2 * SIZE), VhostProtocolError);
});

Deno.test("Virtqueue leaves in flight what it put back and could not show before it was moved", () => {
  const driver = new Driver(0);
  const random = new Random(1);
  for (let i = 0; i < 3; i++) driver.offer(random);
  const [lost, shown] = driver.waiting as [number, number];
  const queue = driver.attach(Infinity);
  for (let i = 0; i < 3; i++) queue.take();
  queue.put(lost, 1);
  // Nothing of it was shown: the ring's memory was cut by then.
  const moved = driver.move(queue);
  moved.put(shown, 1);
  moved.publish();
  const [, , open] = driver.waiting;
  const again: number[] = [];
  takeAll(driver.attach(Infinity), again);
  assertEquals(again, [lost, open]);
});

Deno.test("InflightRegion.writeback is what was noted, and off after a device that notes none", () => {
  const region = regionOf(
    new ArrayBuffer(inflightBytes({ queues: 1, queueSize: SIZE })),
  );
  assertEquals(region.writeback, null);
  region.noteWriteback(true);
  assertEquals(region.writeback, true);
  region.noteWriteback(false);
  assertEquals(region.writeback, false);
  // As libvhost-user makes it, which has no room for more.
  const other = new InflightRegion(
    new MappedMemory(new ArrayBuffer(192), 0, () => {}),
    { byteLength: 192, fileOffset: 0, queues: 1, queueSize: SIZE },
  );
  other.noteWriteback(true);
  assertEquals(other.writeback, null);
  other.queue(0, SIZE).recover(0);
  assertEquals(other.writeback, false);
});
