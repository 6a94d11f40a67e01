import { assertEquals } from "@std/assert";
import { MemoryMap } from "../../src/vhost/memory_map.ts";
import { MappedMemory } from "../../src/vhost/region_memory.ts";
import { Vring } from "../../src/vhost/vring.ts";

const MEMORY_BYTES = 65_536;
const DESCRIPTORS = 0x1000;
const AVAILABLE = 0x2000;
const USED = 0x3000;
const WRITE = 2;

Deno.test("Vring puts no answer into a ring that was started anew after it broke", async () => {
  const buffer = new ArrayBuffer(MEMORY_BYTES);
  const view = new DataView(buffer);
  const memory = new MemoryMap([{
    guestAddress: 0,
    userAddress: 0,
    byteLength: MEMORY_BYTES,
    memory: new MappedMemory(buffer, 0, () => {}),
  }]);
  const answers: PromiseWithResolvers<number>[] = [];
  const broken: Error[] = [];
  const none = { arm() {}, raise() {}, close() {} };
  const ring = new Vring({
    block: {
      carryOut() {
        answers.push(Promise.withResolvers());
        return answers.at(-1)!.promise;
      },
    },
    watcher: {
      socket: () => none,
      counter: () => none,
      signal: () => none,
      flush() {},
      close: () => Promise.resolve(),
    },
    memory,
    eventIndex: false,
    indirect: false,
    counters: {
      frontEnds: 0,
      dropped: 0,
      brokenRings: 0,
      requests: 0,
      errors: 0,
      bytesRead: 0,
      bytesWritten: 0,
      lent: 0,
      bounced: 0,
      kicks: 0,
      calls: 0,
    },
    closeDescriptor() {},
    kickDisk() {},
    onBroken: (error) => broken.push(error),
  }, 0);
  const offer = (at: number, head: number) => {
    view.setUint16(AVAILABLE + 4 + 2 * at, head, true);
    view.setUint16(AVAILABLE + 2, at + 1, true);
  };
  const used = () => view.getUint16(USED + 2, true);
  for (const index of [0, 1]) {
    view.setBigUint64(DESCRIPTORS + 16 * index, 0x8000n, true);
    view.setUint32(DESCRIPTORS + 16 * index + 8, 512, true);
    view.setUint16(DESCRIPTORS + 16 * index + 12, WRITE, true);
  }
  ring.setSize(8);
  ring.setBase(0);
  ring.setAddresses({
    index: 0,
    descriptors: DESCRIPTORS,
    available: AVAILABLE,
    used: USED,
  });
  ring.enable(true);
  offer(0, 0);
  ring.setKick(3);
  assertEquals(answers.length, 1);
  // A head that there is not, while the first request is in flight.
  offer(1, 99);
  ring.enable(true);
  assertEquals(broken.length, 1);
  // Started anew, with another request.
  offer(1, 1);
  ring.setKick(4);
  assertEquals(answers.length, 2);
  answers[0]!.resolve(1);
  await new Promise((resolve) => setTimeout(resolve, 0));
  assertEquals(used(), 0);
  answers[1]!.resolve(1);
  await new Promise((resolve) => setTimeout(resolve, 0));
  assertEquals([used(), view.getUint32(USED + 4, true)], [1, 1]);
  assertEquals(broken.length, 1);
  await ring.close();
});
