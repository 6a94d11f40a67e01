import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { ByteView } from "../../src/image/byte_view.ts";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { parseTraceLine, trace } from "../../src/layers/trace.ts";
import { Random } from "../../src/random.ts";
import { tempDir } from "../helpers.ts";

/** A disk whose answers come late and in any order. */
function jittery(blockSize: number, seed: number): VirtualDisk {
  const base = new MemoryBackend({ size: 65_536, blockSize });
  const spikes = [{ ratio: { numerator: 1, denominator: 4 }, ms: 0.05 }];
  return VirtualDisk.over(latency(base, { seed, spikes }));
}

for (const blockSize of [512, 4096]) {
  Deno.test(`ByteView does as an array of bytes does, blocks of ${blockSize}`, async () => {
    const seed = 0x5eed + blockSize;
    const random = new Random(seed);
    await using disk = jittery(blockSize, seed);
    const model = new Uint8Array(65_536);
    const view = new ByteView(disk);
    const reads: Promise<void>[] = [];
    const writes: Promise<unknown>[] = [];
    for (let i = 0; i < 400; i++) {
      // Around few places, so that they meet; some on blocks, some within one.
      const near = random.below(8) * 8192 + random.below(3) * 512;
      const odd = random.chance(1, 3) ? 0 : random.below(600);
      const offset = Math.min(near + odd, 65_535);
      const most = Math.min(65_536 - offset, random.chance(1, 2) ? 300 : 9000);
      const length = 1 + random.below(most);
      const skip = random.below(5);
      if (random.chance(1, 2)) {
        const memory = random.bytes(skip + length + 3);
        const before = memory.slice();
        model.set(memory.subarray(skip, skip + length), offset);
        writes.push(
          view.write(memory, skip, length, offset).then((result) => {
            assertEquals(result.bytesWritten, length);
            assert(result.buffer === memory);
            assertEquals(memory, before);
          }),
        );
      } else {
        const memory = new Uint8Array(skip + length + 3).fill(0xee);
        const expected = memory.slice();
        expected.set(model.subarray(offset, offset + length), skip);
        reads.push(
          view.read(memory, skip, length, offset).then((result) => {
            assertEquals(result.bytesRead, length);
            assertEquals(memory, expected, `seed ${seed}, operation ${i}`);
          }),
        );
      }
      if (random.chance(1, 20)) await Promise.all([...reads, ...writes]);
    }
    await Promise.all([...reads, ...writes]);
    assertEquals(await disk.read(0, 128), model, `seed ${seed}`);
  });
}

Deno.test("ByteView loses no byte of neighbours that are written at once", async () => {
  await using disk = jittery(4096, 3);
  // A partition that is opened twice is two slices, and both are of the disk.
  const views = [
    new ByteView(disk),
    new ByteView(disk.slice(0, disk.sectors)),
  ];
  const second = new ByteView(disk.slice(8, 8));
  const bytes = Array.from({ length: 300 }, (_, i) => i % 255 + 1);
  await Promise.all(
    bytes.map((byte, i) => {
      const data = new Uint8Array([byte]);
      return i % 3 === 2 && i >= 96
        ? second.write(data, 0, 1, i - 96)
        : views[i % 2]!.write(data, 0, 1, 4000 + i);
    }),
  );
  const { buffer } = await views[0]!.read(new Uint8Array(302), 0, 302, 3999);
  assertEquals([...buffer], [0, ...bytes, 0]);
});

Deno.test("ByteView.flush() covers writes that are not awaited", async () => {
  const order: string[] = [];
  const backend = trace(new MemoryBackend({ sectors: 64 }), (line) => {
    const event = parseTraceLine(line);
    if (event.event === "submit") order.push(event.operation);
  });
  await using disk = VirtualDisk.over(backend);
  const view = new ByteView(disk);
  await Promise.all([
    view.write(new Uint8Array(10), 0, 10, 100),
    view.write(new Uint8Array(10), 0, 10, 5000),
    view.flush(),
  ]);
  assertEquals(order.at(-1), "flush");
  assertEquals(order.filter((operation) => operation === "write").length, 2);
});

Deno.test("ByteView reads up to the end of the disk, and writes no further", async () => {
  await using disk = VirtualDisk.memory({ sectors: 2 });
  const view = new ByteView(disk);
  const memory = new Uint8Array(8).fill(7);
  await view.write(memory, 0, 8, 1016);
  const read = async (offset: number) => {
    const { bytesRead, buffer } = await view.read(
      new Uint8Array(4).fill(1),
      0,
      4,
      offset,
    );
    return [bytesRead, ...buffer];
  };
  assertEquals(await read(1020), [4, 7, 7, 7, 7]);
  assertEquals(await read(1022), [2, 7, 7, 1, 1]);
  assertEquals(await read(1024), [0, 1, 1, 1, 1]);
  assertEquals(await read(2 ** 52), [0, 1, 1, 1, 1]);
  const before = await disk.read(0, 2);
  for (const offset of [1017, 1024, 2 ** 52]) {
    const error = await assertRejects(
      () => view.write(new Uint8Array(8), 0, 8, offset),
      DiskError,
      `Cannot write 8 bytes at byte ${offset} as the disk has 1024 bytes`,
    );
    assertEquals(error.kind, "range");
  }
  assertEquals(await disk.read(0, 2), before);
  assertEquals((await view.write(memory, 8, 0, 1024)).bytesWritten, 0);
  assertEquals((await view.read(memory, 8, 0, 5)).bytesRead, 0);
  assertEquals(await view.getCapacity(), 1024);
});

Deno.test("ByteView of a slice stays within it", async () => {
  await using disk = VirtualDisk.memory({ sectors: 16 });
  const view = new ByteView(disk.slice(4, 2));
  assertEquals(await view.getCapacity(), 1024);
  await view.write(new Uint8Array(1024).fill(1), 0, 1024, 0);
  await view.write(new Uint8Array(3).fill(2), 0, 3, 511);
  await assertRejects(
    () => view.write(new Uint8Array(2), 0, 2, 1023),
    DiskError,
  );
  const all = await disk.read(0, 16);
  assertEquals(all.indexOf(1), 4 * 512);
  assertEquals(all.lastIndexOf(1), 6 * 512 - 1);
  assertEquals(all.indexOf(2), 4 * 512 + 511);
});

Deno.test("ByteView refuses what are no bytes and no numbers", async () => {
  await using disk = VirtualDisk.memory({ sectors: 2 });
  const view = new ByteView(disk);
  const good = new Uint8Array(8);
  for (const bad of [NaN, -1, 0.5, 2 ** 53, "1", null, undefined]) {
    const number = bad as number;
    for (
      const call of [
        () => view.read(good, number, 1, 0),
        () => view.read(good, 0, number, 0),
        () => view.read(good, 0, 1, number),
        () => view.write(good, number, 1, 0),
        () => view.write(good, 0, number, 0),
        () => view.write(good, 0, 1, number),
        () => view.discard(number, 1),
        () => view.discard(0, number),
      ]
    ) await assertRejects<Error>(call, RangeError, "current value is");
  }
  for (
    const bad of [
      null,
      "text",
      [1],
      new Uint16Array(8),
      new DataView(good.buffer),
    ]
  ) {
    const memory = bad as unknown as Uint8Array;
    await assertRejects(() => view.read(memory, 0, 1, 0), TypeError);
    await assertRejects(() => view.write(memory, 0, 1, 0), TypeError);
  }
  await assertRejects(() => view.read(good, 4, 5, 0), RangeError);
  await assertRejects(() => view.write(good, 4, 5, 0), RangeError);
  assertEquals(disk.counters.requests, 0);
});

Deno.test("ByteView fails as the disk does, and goes on", async () => {
  const faulty = faults(new MemoryBackend({ sectors: 16 }));
  await using disk = VirtualDisk.over(faulty);
  const view = new ByteView(disk);
  const bytes = new Uint8Array(100).fill(1);
  faulty.damage(3);
  const write = () => view.write(bytes, 0, 100, 3 * 512 + 500);
  const error = await assertRejects(write, DiskError);
  assertEquals([error.kind, error.sector], ["io", 3]);
  await assertRejects(() => view.read(bytes, 0, 1, 3 * 512), DiskError);
  // Nothing holds the blocks any more; whole ones need no read.
  await view.write(new Uint8Array(512).fill(2), 0, 512, 3 * 512);
  await write();
  const { buffer } = await view.read(new Uint8Array(2), 0, 2, 3 * 512 + 499);
  assertEquals([...buffer], [2, 1]);
  await using readOnly = VirtualDisk.memory({ sectors: 2, readOnly: true });
  const refused = await assertRejects(
    () => new ByteView(readOnly).write(bytes, 0, 1, 1),
    DiskError,
  );
  assertEquals(refused.kind, "read-only");
});

Deno.test("ByteView takes memory that goes for what it was, or fails", async () => {
  await using disk = jittery(512, 9);
  const view = new ByteView(disk);
  const edge = new Uint8Array(100).fill(5);
  const write = view.write(edge, 0, 100, 10);
  structuredClone(edge, { transfer: [edge.buffer] });
  await write;
  assertEquals((await disk.read(0, 1)).subarray(9, 111).indexOf(5), 1);
  assertEquals((await disk.read(0, 1)).lastIndexOf(5), 109);
  for (const length of [100, 2000]) {
    const target = new Uint8Array(length);
    const read = view.read(target, 0, length, 10);
    structuredClone(target, { transfer: [target.buffer] });
    const error = await assertRejects(() => read, DiskError);
    assertEquals(error.kind, "argument");
  }
});

Deno.test("ByteView fails if memory goes that waits for its blocks, and writes none of it", async () => {
  // It goes while a write holds the blocks, or as soon as reads have begun.
  const gone = (length: number, left: number, later: boolean) => {
    const buffer = new ArrayBuffer(length + 2, { maxByteLength: length + 2 });
    const shrink = () => buffer.resize(left);
    if (later) queueMicrotask(shrink);
    return { memory: new Uint8Array(buffer, 2, length).fill(5), shrink, later };
  };
  for (const later of [false, true]) {
    for (const left of [0, 500]) {
      for (const offset of [0, 1024, 100, 300]) {
        for (const length of [100, 512, 900, 3000]) {
          if (left >= length + 2) continue;
          await using disk = VirtualDisk.memory({ sectors: 64 });
          const view = new ByteView(disk);
          const before = new Uint8Array(64 * 512).fill(7);
          await disk.write(0, before);
          const ahead = later ? null : view.write(before, 0, 4001, 0);
          const { memory, shrink } = gone(length, left, later);
          const read = view.read(memory, 0, length, offset);
          if (!later) shrink();
          const error = await assertRejects(() => read, DiskError);
          assertEquals(error.kind, "argument", error.message);
          // Once they have begun, the disk has a word for its own part.
          const what = later ? "" : `${length} bytes at byte ${offset} as the `;
          assertStringIncludes(error.message, `Cannot read ${what}`);
          await ahead;
          if (later) continue;
          const holds = view.write(before, 0, 4001, 0);
          const taken = gone(length, left, later);
          const write = view.write(taken.memory, 0, length, offset);
          taken.shrink();
          await holds;
          const failed = await write.then(() => null, (error) => error);
          // An edge was copied when it was given; whole blocks were not.
          const whole = Math.floor((offset + length) / 512) -
            Math.ceil(offset / 512);
          const expected = before.slice();
          if (whole <= 0) expected.fill(5, offset, offset + length);
          assertEquals(failed?.kind, whole > 0 ? "argument" : undefined);
          assertEquals(await disk.read(0, 64), expected);
        }
      }
    }
  }
});

Deno.test("ByteView.discard() gives up whole blocks only, or says it cannot", async () => {
  await using disk = VirtualDisk.memory({ size: 65_536, blockSize: 4096 });
  const view = new ByteView(disk);
  await disk.write(0, new Uint8Array(65_536).fill(1));
  await view.discard(100, 3000);
  assert((await disk.read(0, 128)).every((byte) => byte === 1));
  await view.discard(4095, 8194);
  const left = await disk.read(0, 128);
  assertEquals(left.findIndex((byte) => byte !== 1), 4096);
  assertEquals(left.findLastIndex((byte) => byte !== 1), 12_287);
  await view.discard(65_536, 0);
  await assertRejects(() => view.discard(65_000, 1000), DiskError);

  await using dir = await tempDir();
  const path = await dir.file("disk.img", 65_536);
  await using portable = await VirtualDisk.open(path, { backend: "portable" });
  const error = await assertRejects(
    () => new ByteView(portable).discard(0, 512),
    DiskError,
  );
  assertInstanceOf(error, DiskError);
  assertEquals(error.kind, "unsupported");
});
