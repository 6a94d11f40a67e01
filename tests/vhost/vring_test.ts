import { assertEquals, assertThrows } from "@std/assert";
import { noCounts } from "../../src/vhost/counters.ts";
import { inflightBytes, InflightRegion } from "../../src/vhost/inflight.ts";
import { MemoryMap } from "../../src/vhost/memory_map.ts";
import { VhostProtocolError } from "../../src/vhost/messages.ts";
import { MappedMemory } from "../../src/vhost/region_memory.ts";
import { Vring } from "../../src/vhost/vring.ts";
import type { Watcher } from "../../src/vhost/watcher.ts";

const MEMORY_BYTES = 65_536;
const DESCRIPTORS = 0x1000;
const AVAILABLE = 0x2000;
const USED = 0x3000;
const TABLE = 0x4000;
const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

/** A ring whose requests are answered by hand. */
class Bench {
  readonly buffer = new ArrayBuffer(MEMORY_BYTES);
  readonly view = new DataView(this.buffer);
  readonly memory = new MemoryMap([{
    guestAddress: 0,
    userAddress: 0,
    byteLength: MEMORY_BYTES,
    memory: new MappedMemory(this.buffer, 0, () => {}),
  }]);
  readonly answers: PromiseWithResolvers<number>[] = [];
  readonly broken: Error[] = [];
  readonly closed: number[] = [];
  readonly ring: Vring;

  constructor(
    watcher: Partial<Watcher> = {},
    inflight: InflightRegion | null = null,
  ) {
    const none = { arm() {}, raise() {}, close() {} };
    this.ring = new Vring({
      block: {
        carryOut: () => {
          this.answers.push(Promise.withResolvers());
          return this.answers.at(-1)!.promise;
        },
      },
      watcher: {
        socket: () => none,
        counter: () => none,
        signal: () => none,
        flush() {},
        close: () => Promise.resolve(),
        ...watcher,
      },
      memory: this.memory,
      inflight,
      eventIndex: false,
      indirect: true,
      counters: noCounts(),
      closeDescriptor: (fd) => this.closed.push(fd),
      kickDisk() {},
      onBroken: (error) => this.broken.push(error),
    }, 0);
  }

  put(at: number, length: number, flags: number, next: number): void {
    this.view.setBigUint64(at, 0x8000n, true);
    this.view.setUint32(at + 8, length, true);
    this.view.setUint16(at + 12, flags, true);
    this.view.setUint16(at + 14, next, true);
  }

  offer(at: number, head: number): void {
    this.view.setUint16(AVAILABLE + 4 + 2 * at, head, true);
    this.view.setUint16(AVAILABLE + 2, at + 1, true);
  }

  get used(): number {
    return this.view.getUint16(USED + 2, true);
  }

  setUp(): void {
    this.ring.setSize(8);
    this.ring.setBase(0);
    this.ring.setAddresses({
      index: 0,
      descriptors: DESCRIPTORS,
      available: AVAILABLE,
      used: USED,
    });
    this.ring.enable(true);
  }
}

async function turn(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
}

Deno.test("Vring takes no more requests while those in flight have many pieces", async () => {
  const bench = new Bench();
  // A table of 1,000 buffers, for each of the descriptors.
  for (let i = 0; i < 1000; i++) {
    bench.put(TABLE + 16 * i, 1, i < 999 ? WRITE | NEXT : WRITE, i + 1);
  }
  for (let head = 0; head < 8; head++) {
    bench.put(DESCRIPTORS + 16 * head, 16_000, INDIRECT, 0);
    bench.view.setBigUint64(DESCRIPTORS + 16 * head, BigInt(TABLE), true);
    bench.offer(head, head);
  }
  bench.setUp();
  bench.ring.setKick(3);
  assertEquals(bench.answers.length, 5);
  bench.answers[2]!.resolve(1);
  await turn();
  assertEquals([bench.used, bench.answers.length], [1, 6]);
  for (let i = 0; i < 8; i++) {
    bench.answers[i]!.resolve(1);
    await turn();
  }
  assertEquals([bench.used, bench.answers.length], [8, 8]);
  assertEquals(bench.broken, []);
  await bench.ring.close();
});

Deno.test("Vring closes each descriptor once, also those that cannot be watched", async () => {
  let refuses = false;
  const watch = <T>(watched: T) => () => {
    if (refuses) throw new RangeError("Cannot watch");
    return watched;
  };
  const bench = new Bench({
    counter: watch({ arm() {}, close() {} }),
    signal: watch({ raise() {}, close() {} }),
  });
  bench.setUp();
  bench.ring.setKick(3);
  bench.ring.setCall(4);
  bench.ring.setError(5);
  refuses = true;
  assertThrows(() => bench.ring.setKick(6), RangeError);
  assertThrows(() => bench.ring.setCall(7), RangeError);
  assertThrows(() => bench.ring.setError(8), RangeError);
  await bench.ring.close();
  assertEquals(bench.closed.toSorted(), [3, 4, 5, 6, 7, 8]);
});

Deno.test("Vring is not started anew after it broke before its requests are over", async () => {
  const bench = new Bench();
  const { answers, broken, ring } = bench;
  for (const index of [0, 1]) {
    bench.put(DESCRIPTORS + 16 * index, 512, WRITE, 0);
  }
  bench.setUp();
  bench.offer(0, 0);
  ring.setKick(3);
  assertEquals(answers.length, 1);
  // A head that there is not, while the first request is in flight.
  bench.offer(1, 99);
  ring.enable(true);
  assertEquals(broken.length, 1);
  // The request may still write where the driver has put something else.
  bench.offer(1, 1);
  assertThrows(
    () => ring.setKick(4),
    VhostProtocolError,
    "must be stopped first, while requests are in flight: current value is 1",
  );
  assertEquals([answers.length, ring.busy, bench.closed], [1, true, [3, 4]]);
  answers[0]!.resolve(1);
  await turn();
  assertEquals([bench.used, ring.busy], [0, false]);
  // Started anew, with another request: the answer was for nobody any more.
  ring.setKick(5);
  assertEquals(answers.length, 2);
  answers[1]!.resolve(1);
  await turn();
  assertEquals([bench.used, bench.view.getUint32(USED + 4, true)], [1, 1]);
  assertEquals(broken.length, 1);
  await ring.close();
});

Deno.test("Vring.stop() carries out what a device before it took, enabled or not", async () => {
  const shape = { queues: 1, queueSize: 8, fileOffset: 0 };
  const byteLength = inflightBytes(shape);
  const notes = new MappedMemory(new ArrayBuffer(byteLength), 0, () => {});
  const region = new InflightRegion(notes, { ...shape, byteLength });
  const before = region.queue(0, 8);
  before.recover(0);
  const bench = new Bench({}, region);
  for (const [at, head] of [2, 0, 1].entries()) {
    bench.put(DESCRIPTORS + 16 * head, 512, WRITE, 0);
    bench.offer(at, head);
    before.begin(head);
  }
  // One that is not answered by a device before it, but made available.
  bench.offer(3, 3);
  bench.setUp();
  bench.ring.enable(false);
  bench.ring.setKick(3);
  assertEquals(bench.answers.length, 0);
  const stopped = bench.ring.stop();
  assertEquals(bench.answers.length, 3);
  for (const answer of bench.answers) answer.resolve(1);
  assertEquals(await stopped, 3);
  assertEquals(bench.used, 3);
  assertEquals(
    [0, 1, 2].map((i) => bench.view.getUint32(USED + 4 + 8 * i, true)),
    [2, 0, 1],
  );
  assertEquals(region.queue(0, 8).recover(3), []);
  assertEquals([bench.answers.length, bench.broken], [3, []]);
});
