/**
 * Requests of any byte: what is no whole block is read, changed and written by
 * the server, exact to the byte, whoever else is there.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { ByteView } from "../../src/image/byte_view.ts";
import { latency } from "../../src/layers/latency.ts";
import { NbdServer } from "../../src/nbd/server.ts";
import { viewOf } from "../../src/bytes.ts";
import { ChunkType, Command, Option } from "../../src/protocol/nbd/numbers.ts";
import { Random } from "../../src/random.ts";
import { altered, holding } from "../fake_backend.ts";
import { LONG, needs, run, tempDir } from "../helpers.ts";
import {
  goData,
  mountNbdfuse,
  optionMessage,
  RawClient,
  requestMessage,
  serveDisk,
} from "./harness.ts";
import { joined } from "./wire.ts";

const { Read, Write, Flush, Trim, Cache, WriteZeroes } = Command;

const SIZE = 1 << 20;

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A difference of so many bytes takes minutes to be drawn. */
function assertSame(actual: Uint8Array, expected: Uint8Array): void {
  assertEquals(actual.length, expected.length);
  const at = actual.findIndex((byte, i) => byte !== expected[i]);
  assertEquals(at, -1, `byte ${at}: ${actual[at]}, not ${expected[at]}`);
}

/** Sends requests at once and waits for all of their answers. */
async function all(client: RawClient, requests: Uint8Array[]): Promise<void> {
  client.sendAll(joined(requests));
  for (const _ of requests) {
    const view = viewOf(await client.read(16));
    assertEquals(view.getUint32(4), 0);
  }
}

for (const medium of ["memory", "image"] as const) {
  for (const blockSize of [512, 4096]) {
    Deno.test(`NbdServer does as a model does with any bytes, ${medium}, blocks of ${blockSize}`, async () => {
      await using dir = await tempDir();
      const sectors = SIZE / 512;
      const disk = medium === "memory"
        ? VirtualDisk.memory({ sectors, blockSize })
        : await VirtualDisk.create(dir.join("disk.img"), {
          sectors,
          blockSize,
        });
      await using served = await serveDisk(disk);
      const clients = await Promise.all(
        Array.from({ length: 3 }, () => RawClient.attach(served.socket)),
      );
      const random = new Random(blockSize);
      const model = new Uint8Array(SIZE);
      const rounds = LONG ? 2000 : 100;
      for (let round = 0; round < rounds; round++) {
        // Each client changes bytes of its own, which share blocks with those
        // of others; among them, its requests overlap as they like.
        await Promise.all(clients.map(async (client, i) => {
          const share = Math.floor(SIZE / 3) + 1;
          const [first, last] = [i * share, Math.min(SIZE, (i + 1) * share)];
          const near = random.between(first, last - 1);
          const requests = Array.from({ length: 8 }, () => {
            const start = random.between(
              Math.max(first, near - 3 * blockSize),
              Math.min(last - 1, near + 3 * blockSize),
            );
            const whole = random.chance(1, 4);
            const at = whole ? start - start % blockSize : start;
            const size = whole
              ? blockSize * random.between(1, 3)
              : random.between(1, random.pick([3, 600, 9000]));
            if (at < first || at + size > last) return null;
            if (random.chance(1, 3)) {
              model.fill(0, at, at + size);
              return requestMessage(WriteZeroes, at, size);
            }
            const data = random.bytes(size);
            model.set(data, at);
            return joined([requestMessage(Write, at, size), data]);
          });
          await all(client, requests.filter((one) => one !== null));
        }));
        const at = random.below(SIZE);
        const size = random.between(1, Math.min(SIZE - at, 50_000));
        const { data } = await random.pick(clients).ask(Read, at, size);
        assertSame(data, model.subarray(at, at + size));
        if (round % 10 > 0) continue;
        const client = random.pick(clients);
        assertEquals((await client.ask(Cache, at, size)).error, 0);
        assertEquals((await client.ask(Flush, 0, 0)).error, 0);
        // A trim is rounded inward; what it leaves is anything.
        assertEquals((await client.ask(Trim, at, size)).error, 0);
        const [from, to] = [
          Math.ceil(at / blockSize) * blockSize,
          Math.floor((at + size) / blockSize) * blockSize,
        ];
        if (from < to) {
          const now = await disk.read(from / 512, (to - from) / 512);
          model.set(now, from);
        }
      }
      assertSame(await disk.read(0, sectors), model);
      for (const client of clients) client[Symbol.dispose]();
      assert(served.server.counters.unaligned > rounds);
      assertEquals(served.faults, []);
    });
  }
}

Deno.test("NbdServer lets nobody change a block while another changes a part", async () => {
  // Reads wait until they are let go.
  const memory = new MemoryBackend({ sectors: 64, blockSize: 4096 });
  const { backend: slow, held } = holding(memory, ({ type }) => type === 0);
  const disk = VirtualDisk.over(slow);
  await using served = await serveDisk(disk);
  using one = await RawClient.attach(served.socket);
  using two = await RawClient.attach(served.socket);
  const reads = async () => {
    while (held.length === 0) await pause(1);
  };
  for (
    const [message, value] of [
      [
        joined([requestMessage(Write, 0, 8192), new Uint8Array(8192).fill(7)]),
        7,
      ],
      [requestMessage(WriteZeroes, 0, 8192), 0],
      [
        joined([requestMessage(Write, 5000, 9), new Uint8Array(9).fill(5)]),
        undefined,
      ],
      [requestMessage(Trim, 0, 8192), undefined],
    ] as const
  ) {
    // A part of each of two blocks.
    one.sendAll(
      joined([requestMessage(Write, 4090, 10), new Uint8Array(10).fill(1)]),
    );
    await reads();
    two.sendAll(message);
    // Somewhere else, nobody waits.
    const other = await one.ask(Write, 16_384, 4096, new Uint8Array(4096));
    assertEquals(other.error, 0);
    let answered = false;
    const answer = two.read(16).then(() => answered = true);
    await pause(5);
    assertEquals(answered, false);
    const timer = setInterval(() => held.splice(0).forEach((go) => go()), 1);
    await one.read(16);
    await answer;
    if (value !== undefined) {
      const { data } = await two.ask(Read, 4090, 10);
      assertEquals(data, new Uint8Array(10).fill(value));
    }
    clearInterval(timer);
  }
});

Deno.test("NbdServer keeps parts of a block that several ways lead to", async () => {
  const disk = VirtualDisk.over(
    latency(new MemoryBackend({ sectors: 64, blockSize: 4096 }), {
      seed: 1,
      spikes: [{ ratio: { numerator: 1, denominator: 2 }, ms: 1 }],
    }),
  );
  const slice = disk.slice(8, 16);
  await using served = await serveDisk(disk, {
    exports: [
      { disk, name: "whole" },
      { disk, name: "again" },
      { disk: slice, name: "part" },
    ],
  });
  await using other = await serveDisk(slice);
  const ways: [client: RawClient, at: number][] = [
    [await RawClient.attach(served.socket, "whole"), 4096],
    [await RawClient.attach(served.socket, "again"), 4096],
    [await RawClient.attach(served.socket, "part"), 0],
    [await RawClient.attach(other.socket), 0],
  ];
  const view = new ByteView(disk);
  for (let round = 1; round <= 20; round++) {
    const data = new Uint8Array(16).fill(round);
    await Promise.all([
      ...ways.map(async ([client, at], i) => {
        const answer = await client.ask(Write, at + 16 * i, 16, data);
        assertEquals(answer.error, 0);
      }),
      view.write(data, 0, 16, 4096 + 16 * ways.length),
    ]);
    const length = 16 * (ways.length + 1);
    assertSame(
      (await disk.read(8, 8)).subarray(0, length),
      new Uint8Array(length).fill(round),
    );
  }
  for (const [client] of ways) client[Symbol.dispose]();
});

Deno.test("NbdServer keeps a read's memory until all of its parts are done", async () => {
  // Of a sparse disk the data is read in parts: one fails, one takes its time.
  const memory = new MemoryBackend({ sectors: 2048 });
  const late: (() => void)[] = [];
  const parted = altered(memory, {
    limits: { ...memory.limits, maxSegments: 1 },
    submit(batch, complete) {
      for (const request of batch) {
        if (request.type === 0 && request.sector === 0) {
          complete(request, new DiskError("io", "Cannot read that"));
        } else if (request.type === 0 && request.sector === 64) {
          late.push(() => memory.submit([request], complete));
        } else memory.submit([request], complete);
      }
    },
    extents: (sector, count) =>
      [
        { sector: 0, count: 32, hole: false },
        { sector: 32, count: 32, hole: true },
        { sector: 64, count: 1984, hole: false },
      ].flatMap((run) => {
        const from = Math.max(sector, run.sector);
        const to = Math.min(sector + count, run.sector + run.count);
        return from < to
          ? [{ sector: from, count: to - from, hole: run.hole }]
          : [];
      }),
  });
  const disk = VirtualDisk.over(parted);
  await disk.write(64, new Uint8Array(65_536).fill(9));
  await using served = await serveDisk(disk);
  using reader = await RawClient.connect(served.socket);
  await reader.send(
    optionMessage(Option.StructuredReply),
    optionMessage(Option.Go, goData("")),
  );
  for (const _ of Array(3)) await reader.answer();
  using writer = await RawClient.attach(served.socket);
  reader.sendAll(requestMessage(Read, 0, 65_536));
  while (late.length === 0) await pause(1);
  // The same amount of memory; it must not be the same memory.
  const data = new Uint8Array(65_536).fill(1);
  await writer.send(requestMessage(Write, 524_288, 65_536));
  await writer.send(data.subarray(1));
  await pause(20);
  late.forEach((go) => go());
  assertEquals(viewOf(await reader.read(20)).getUint16(6), ChunkType.Error);
  await writer.send(data.subarray(0, 1));
  assertEquals(viewOf(await writer.read(16)).getUint32(4), 0);
  assertSame(await disk.read(1024, 128), data);
});

Deno.test({
  name: "dd writes sixteen bytes at a time, and one, through nbdfuse",
  ...needs("root", "nbdfuse", "fusermount3", "dd", "cmp"),
  async fn() {
    const disk = VirtualDisk.memory({ sectors: SIZE / 512, blockSize: 4096 });
    await using served = await serveDisk(disk);
    {
      await using stack = new AsyncDisposableStack();
      const file = await mountNbdfuse(served, stack);
      const model = new Uint8Array(SIZE);
      for (const [size, count, at] of [[16, 64, 333], [1, 40, 8190]] as const) {
        const bytes = new Random(size).bytes(size * count);
        const from = await served.dir.file(`from${size}`, bytes);
        await run("dd", [
          `if=${from}`,
          `of=${file}`,
          `bs=${size}`,
          `seek=${at}`,
          "conv=notrunc",
          "status=none",
        ]);
        model.set(bytes, size * at);
      }
      const whole = await served.dir.file("model", model);
      await run("cmp", [whole, file]);
      assertSame(await disk.read(0, disk.sectors), model);
      assert(served.server.counters.unaligned > 0);
    }
    assertEquals(served.faults, []);
  },
});

Deno.test({
  name: "qemu-io finds what it wrote on any byte",
  ...needs("qemu-io"),
  async fn() {
    const disk = VirtualDisk.memory({ sectors: SIZE / 512, blockSize: 4096 });
    await using served = await serveDisk(disk);
    const commands: string[] = [];
    const random = new Random(16);
    for (let i = 0; i < 100; i++) {
      const at = i * 9001;
      const size = random.between(1, 9000);
      const pattern = random.between(1, 255);
      commands.push(`write -P ${pattern} ${at} ${size}`);
      if (i % 3 === 0) commands.push(`write -z ${at} ${size}`);
      commands.push(`read -P ${i % 3 === 0 ? 0 : pattern} ${at} ${size}`);
    }
    const output = await run("qemu-io", [
      "-f",
      "raw",
      ...commands.flatMap((command) => ["-c", command]),
      served.uri,
    ]);
    assert(!/fail|error|invalid/i.test(output), output);
    assert(served.server.counters.unaligned > 100);
    assertEquals(served.faults, []);
  },
});

Deno.test("NbdServer makes zeroes of what is trimmed if its export says so", async () => {
  for (const blockSize of [512, 4096]) {
    await using dir = await tempDir();
    await using disk = VirtualDisk.memory({ size: "64KiB", blockSize });
    const socket = dir.join("nbd.sock");
    await using server = NbdServer.listen({
      path: socket,
      exports: [{ disk, trimToZeroes: true }],
    });
    using client = await RawClient.attach(socket);
    const model = new Uint8Array(65_536).fill(7);
    await disk.write(0, model);
    for (
      const [at, size] of [[1, 3], [4095, 2], [5000, 20_000], [40_960, 8192]]
    ) {
      assertEquals((await client.ask(Trim, at!, size!)).error, 0);
      model.fill(0, at!, at! + size!);
    }
    assertSame(await disk.read(0, disk.sectors), model);
    assertEquals((await client.ask(Trim, 65_535, 2)).error, 22);
    assertEquals(server.counters.errors, 1);
  }
});
