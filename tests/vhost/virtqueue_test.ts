import { assert, assertEquals, assertThrows } from "@std/assert";
import { Random } from "../../src/random.ts";
import { GuestFault, MemoryMap } from "../../src/vhost/memory_map.ts";
import { MappedMemory } from "../../src/vhost/region_memory.ts";
import { Virtqueue, VirtqueueError } from "../../src/vhost/virtqueue.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

const MEMORY_BYTES = 65_536;
/** The front end knows the memory under another address. */
const USER = 0x7f00_0000_0000;
const DESCRIPTORS = 0x1000;
const AVAILABLE = 0x2000;
const USED = 0x3000;
const TABLE = 0x4000;
const DATA = 0x8000;

type Descriptor = [
  address: number,
  length: number,
  flags: number,
  next?: number,
];

/** A driver's side of a queue, in plain memory. */
class Ring {
  readonly size: number;
  readonly view: DataView;
  readonly queue: Virtqueue;
  #available = 0;

  constructor(
    size: number,
    options: { eventIndex?: boolean; indirect?: boolean; base?: number } = {},
  ) {
    const { eventIndex = false, indirect = true, base = 0 } = options;
    this.size = size;
    const buffer = new ArrayBuffer(MEMORY_BYTES);
    this.view = new DataView(buffer);
    this.#available = base;
    this.view.setUint16(AVAILABLE + 2, base, true);
    this.view.setUint16(USED + 2, base, true);
    const map = new MemoryMap([{
      guestAddress: 0,
      userAddress: USER,
      byteLength: MEMORY_BYTES,
      memory: new MappedMemory(buffer, 0, () => {}),
    }]);
    this.queue = new Virtqueue(map, {
      size,
      descriptors: USER + DESCRIPTORS,
      available: USER + AVAILABLE,
      used: USER + USED,
      eventIndex,
      indirect,
    }, base);
  }

  describe(index: number, descriptor: Descriptor, table = DESCRIPTORS) {
    const at = table + 16 * index;
    const [address, length, flags, next = 0] = descriptor;
    this.view.setBigUint64(at, BigInt(address), true);
    this.view.setUint32(at + 8, length, true);
    this.view.setUint16(at + 12, flags, true);
    this.view.setUint16(at + 14, next, true);
  }

  offer(head: number) {
    this.view.setUint16(
      AVAILABLE + 4 + 2 * (this.#available % this.size),
      head,
      true,
    );
    this.#available = (this.#available + 1) & 0xffff;
    this.view.setUint16(AVAILABLE + 2, this.#available, true);
  }

  /** Elements that are shown as used, from an index on. */
  used(from: number): [number, number][] {
    const found: [number, number][] = [];
    const end = this.view.getUint16(USED + 2, true);
    for (let i = from; i !== end; i = (i + 1) & 0xffff) {
      const at = USED + 4 + 8 * (i % this.size);
      found.push([
        this.view.getUint32(at, true),
        this.view.getUint32(at + 4, true),
      ]);
    }
    return found;
  }

  set usedEvent(index: number) {
    this.view.setUint16(AVAILABLE + 4 + 2 * this.size, index, true);
  }

  get availEvent(): number {
    return this.view.getUint16(USED + 4 + 8 * this.size, true);
  }
}

/** Where pieces are and how long. */
function places(pieces: readonly { at: number; length: number }[]) {
  return pieces.map(({ at, length }) => [at, length]);
}

Deno.test("Virtqueue.take() gives what is read and what is written, in order", () => {
  const ring = new Ring(8);
  assertEquals(ring.queue.take(), null);
  ring.describe(3, [DATA, 16, NEXT, 5]);
  ring.describe(5, [DATA + 512, 1024, NEXT | WRITE, 0]);
  ring.describe(0, [DATA + 16, 1, WRITE]);
  ring.offer(3);
  const chain = ring.queue.take()!;
  assertEquals(chain.head, 3);
  assertEquals(places(chain.readable), [[DATA, 16]]);
  assertEquals(places(chain.writable), [[DATA + 512, 1024], [DATA + 16, 1]]);
  assertEquals(ring.queue.take(), null);
});

Deno.test("Virtqueue.take() follows a table, alone and after other descriptors", () => {
  const ring = new Ring(4);
  ring.describe(0, [TABLE, 32, INDIRECT | WRITE]);
  ring.describe(0, [DATA, 16, NEXT, 1], TABLE);
  ring.describe(1, [DATA + 16, 1, WRITE], TABLE);
  ring.offer(0);
  const alone = ring.queue.take()!;
  assertEquals(places(alone.readable), [[DATA, 16]]);
  assertEquals(places(alone.writable), [[DATA + 16, 1]]);
  ring.describe(1, [DATA, 16, NEXT, 2]);
  ring.describe(2, [TABLE + 16, 16, INDIRECT]);
  ring.offer(1);
  const after = ring.queue.take()!;
  assertEquals(places(after.readable), [[DATA, 16]]);
  assertEquals(places(after.writable), [[DATA + 16, 1]]);
});

Deno.test("Virtqueue.take() follows a table that is longer than the queue", () => {
  const ring = new Ring(2);
  const entries = 128;
  for (let i = 0; i < entries; i++) {
    const flags = i === entries - 1 ? WRITE : NEXT;
    ring.describe(i, [DATA + i, 1, flags, i + 1], TABLE);
  }
  ring.describe(0, [TABLE, 16 * entries, INDIRECT]);
  ring.offer(0);
  assertEquals(ring.queue.take()!.readable.length, entries - 1);
});

const BROKEN: [title: string, spoil: (ring: Ring) => void][] = [
  ["an index that jumps", (ring) => {
    ring.describe(0, [DATA, 16, 0]);
    ring.view.setUint16(AVAILABLE + 2, 9, true);
  }],
  ["a head beyond the queue", (ring) => ring.offer(8)],
  ["a head that is in use", (ring) => {
    ring.describe(1, [DATA, 16, 0]);
    ring.offer(1);
    ring.queue.take();
    ring.offer(1);
  }],
  ["a loop", (ring) => {
    ring.describe(0, [DATA, 16, NEXT, 1]);
    ring.describe(1, [DATA, 16, NEXT, 0]);
    ring.offer(0);
  }],
  ["a descriptor that is its own next", (ring) => {
    ring.describe(0, [DATA, 16, NEXT | WRITE, 0]);
    ring.offer(0);
  }],
  ["a next descriptor beyond the queue", (ring) => {
    ring.describe(0, [DATA, 16, NEXT, 8]);
    ring.offer(0);
  }],
  ["a buffer without a byte", (ring) => {
    ring.describe(0, [DATA, 0, 0]);
    ring.offer(0);
  }],
  ["a readable buffer after a writable one", (ring) => {
    ring.describe(0, [DATA, 16, NEXT | WRITE, 1]);
    ring.describe(1, [DATA, 16, 0]);
    ring.offer(0);
  }],
  ["a buffer outside of the memory", (ring) => {
    ring.describe(0, [MEMORY_BYTES - 8, 9, 0]);
    ring.offer(0);
  }],
  ["a buffer at the end of all addresses", (ring) => {
    ring.describe(0, [2 ** 64 - 2048, 0xffff_ffff, WRITE]);
    ring.offer(0);
  }],
  ["a table that is no multiple of a descriptor", (ring) => {
    ring.describe(0, [TABLE, 24, INDIRECT]);
    ring.offer(0);
  }],
  ["a table without a descriptor", (ring) => {
    ring.describe(0, [TABLE, 0, INDIRECT]);
    ring.offer(0);
  }],
  ["a table of more than there can be", (ring) => {
    ring.describe(0, [0, 16 * 1025, INDIRECT]);
    ring.offer(0);
  }],
  ["a table that has a next descriptor", (ring) => {
    ring.describe(0, [TABLE, 16, INDIRECT | NEXT, 1]);
    ring.offer(0);
  }],
  ["a table in a table", (ring) => {
    ring.describe(0, [TABLE, 16, INDIRECT]);
    ring.describe(0, [TABLE, 16, INDIRECT], TABLE);
    ring.offer(0);
  }],
  ["a loop in a table", (ring) => {
    ring.describe(0, [TABLE, 32, INDIRECT]);
    ring.describe(0, [DATA, 16, NEXT, 1], TABLE);
    ring.describe(1, [DATA, 16, NEXT, 0], TABLE);
    ring.offer(0);
  }],
  ["a next descriptor beyond its table", (ring) => {
    ring.describe(0, [TABLE, 16, INDIRECT]);
    ring.describe(0, [DATA, 16, NEXT, 1], TABLE);
    ring.offer(0);
  }],
  ["a table outside of the memory", (ring) => {
    ring.describe(0, [MEMORY_BYTES - 16, 32, INDIRECT]);
    ring.offer(0);
  }],
];

for (const [title, spoil] of BROKEN) {
  Deno.test(`Virtqueue.take() refuses ${title}`, () => {
    const ring = new Ring(8);
    spoil(ring);
    const error = assertThrows(() => ring.queue.take());
    assert(error instanceof VirtqueueError || error instanceof GuestFault);
  });
}

Deno.test("Virtqueue.take() refuses a table that was not agreed on", () => {
  const ring = new Ring(8, { indirect: false });
  ring.describe(0, [TABLE, 16, INDIRECT]);
  ring.offer(0);
  assertThrows(() => ring.queue.take(), VirtqueueError);
});

Deno.test("Virtqueue wants a size, an alignment and memory that there can be", () => {
  const buffer = new ArrayBuffer(4096);
  const memory = new MappedMemory(buffer, 0, () => {});
  const map = new MemoryMap([
    { guestAddress: 0, userAddress: 0, byteLength: 4096, memory },
  ]);
  const options = {
    size: 8,
    descriptors: 0,
    available: 512,
    used: 1024,
    eventIndex: false,
    indirect: false,
  };
  new Virtqueue(map, options, 0);
  for (
    const change of [
      { size: 0 },
      { size: 7 },
      { size: 2048 },
      { descriptors: 8 },
      { available: 513 },
      { used: 1026 },
    ]
  ) {
    assertThrows(
      () => new Virtqueue(map, { ...options, ...change }, 0),
      VirtqueueError,
    );
  }
  for (
    const change of [
      { descriptors: 4096 - 16 },
      { available: 4096 - 20 },
      { used: 4096 - 64 },
    ]
  ) {
    assertThrows(
      () => new Virtqueue(map, { ...options, ...change }, 0),
      GuestFault,
    );
  }
});

Deno.test("Virtqueue.put() shows nothing before publish()", () => {
  const ring = new Ring(4, { base: 0xffff });
  for (const head of [2, 0]) {
    ring.describe(head, [DATA, 16, WRITE]);
    ring.offer(head);
  }
  assertEquals([ring.queue.take()!.head, ring.queue.take()!.head], [2, 0]);
  ring.queue.put(0, 7);
  ring.queue.put(2, 9);
  assertEquals(ring.used(0xffff), []);
  assertEquals(ring.queue.publish(), true);
  assertEquals(ring.used(0xffff), [[0, 7], [2, 9]]);
  assertEquals(ring.queue.publish(), false);
  // A head that was put back may come again.
  ring.offer(2);
  assertEquals(ring.queue.take()!.head, 2);
  assertEquals(ring.queue.nextAvailable, 2);
});

Deno.test("Virtqueue.publish() heeds the driver's wish not to be told", () => {
  const ring = new Ring(4);
  const round = () => {
    ring.describe(0, [DATA, 16, WRITE]);
    ring.offer(0);
    ring.queue.put(ring.queue.take()!.head, 1);
    return ring.queue.publish();
  };
  ring.view.setUint16(AVAILABLE, 1, true);
  // The first one after a start is told in any case.
  assertEquals([round(), round()], [true, false]);
  ring.view.setUint16(AVAILABLE, 0, true);
  assertEquals(round(), true);
});

Deno.test("Virtqueue.publish() tells when it goes past used_event, across 2^16", () => {
  const ring = new Ring(4, { eventIndex: true, base: 0xfffd });
  const round = (count: number) => {
    for (let head = 0; head < count; head++) {
      ring.describe(head, [DATA, 16, WRITE]);
      ring.offer(head);
    }
    for (let i = 0; i < count; i++) {
      ring.queue.put(ring.queue.take()!.head, 1);
    }
    return ring.queue.publish();
  };
  assertEquals(round(1), true);
  // From 0xfffe: told when the one at used_event is used.
  ring.usedEvent = 0xffff;
  assertEquals(round(1), false);
  assertEquals(round(1), true);
  ring.usedEvent = 2;
  assertEquals(round(2), false);
  assertEquals(round(3), true);
});

Deno.test("Virtqueue.wantKick() names the next chain, and sees one that came before", () => {
  const ring = new Ring(4, { eventIndex: true });
  ring.queue.stopKicks();
  assertEquals(ring.queue.wantKick(), false);
  assertEquals(ring.availEvent, 0);
  ring.describe(0, [DATA, 16, WRITE]);
  ring.offer(0);
  assertEquals(ring.queue.wantKick(), true);
  ring.queue.take();
  assertEquals(ring.queue.wantKick(), false);
  assertEquals(ring.availEvent, 1);
});

Deno.test("Virtqueue.stopKicks() says so in the flags where there are no events", () => {
  const ring = new Ring(4);
  ring.queue.stopKicks();
  assertEquals(ring.view.getUint16(USED, true), 1);
  ring.queue.wantKick();
  assertEquals(ring.view.getUint16(USED, true), 0);
});

Deno.test("Virtqueue.take() ends with a chain, nothing or its own errors, whatever the ring holds", () => {
  const random = new Random(4711);
  let chains = 0;
  let refused = 0;
  for (let round = 0; round < 3000; round++) {
    const ring = new Ring(8, { eventIndex: random.chance(1, 2) });
    for (let i = 0; i < 8; i++) {
      for (const table of [DESCRIPTORS, TABLE]) {
        ring.describe(i, [
          random.pick([DATA, TABLE, 0, MEMORY_BYTES - 16, 2 ** 63]),
          random.pick([1, 16, 32, 512, 128, 0, 0xffff_fff0]),
          random.pick([0, NEXT, NEXT, WRITE, NEXT | WRITE, INDIRECT, 7]),
          random.below(10),
        ], table);
      }
    }
    for (let i = random.below(10); i > 0; i--) ring.offer(random.below(9));
    try {
      for (let i = 0; i < 20; i++) {
        const chain = ring.queue.take();
        if (chain === null) break;
        chains++;
        for (const { at, length } of [...chain.readable, ...chain.writable]) {
          assert(at >= 0 && length > 0 && at + length <= MEMORY_BYTES);
        }
      }
    } catch (error) {
      refused++;
      if (
        !(error instanceof VirtqueueError) && !(error instanceof GuestFault)
      ) throw error;
    }
  }
  assert(chains > 100 && refused > 100);
});
