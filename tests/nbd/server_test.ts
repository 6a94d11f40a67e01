import {
  assert,
  assertEquals,
  AssertionError,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { NbdServer } from "../../src/nbd/mod.ts";
import { viewOf } from "../../src/bytes.ts";
import { readU64 } from "../../src/protocol/nbd/big_endian.ts";
import {
  Command,
  CommandFlag,
  ExportFlag,
  Info,
  Option,
  OptionReply,
} from "../../src/protocol/nbd/numbers.ts";
import { Random } from "../../src/random.ts";
import { sleepSync } from "../../src/sleep_sync.ts";
import { catchThrown, Thrown } from "../contract.ts";
import { altered, holding } from "../fake_backend.ts";
import { tempDir } from "../helpers.ts";
import {
  goData,
  metaData,
  optionMessage,
  RawClient,
  requestMessage,
  serveDisk,
} from "./harness.ts";

const { Read, Write, Flush, Trim, Cache, WriteZeroes, BlockStatus } = Command;

Deno.test("NbdServer takes no disk that is closed", async () => {
  const disk = VirtualDisk.memory({ sectors: 8 });
  await using whole = VirtualDisk.memory({ sectors: 8 });
  const slice = whole.slice(0, 4);
  await disk.close();
  await slice.close();
  for (const closed of [disk, slice]) {
    const exports = [{ disk: whole }, { name: "closed", disk: closed }];
    for (
      const serve of [
        () => NbdServer.listen({ port: 0, exports }),
        () => NbdServer.detached({ exports }),
      ]
    ) {
      const error = assertThrows(serve, DiskError);
      assertEquals(
        [error.kind, error.message],
        ["closed", "Cannot serve the disk as it is closed"],
      );
    }
  }
});

Deno.test("NbdServer answers every command in simple replies", async () => {
  const disk = VirtualDisk.memory({ sectors: 2048 });
  await using served = await serveDisk(disk);
  using client = await RawClient.attach(served.socket);
  const data = new Random(1).bytes(8192);
  assertEquals((await client.ask(Write, 4096, 8192, data)).error, 0);
  assertEquals((await client.ask(Read, 4096, 8192)).data, data);
  assertEquals((await client.ask(Flush, 0, 0)).error, 0);
  assertEquals((await client.ask(Cache, 0, 512)).error, 0);
  assertEquals((await client.ask(WriteZeroes, 4096, 512)).error, 0);
  assertEquals((await client.ask(Read, 4096, 512)).data, new Uint8Array(512));
  assertEquals(
    (await client.ask(Trim, 4608, 512, undefined, CommandFlag.Fua)).error,
    0,
  );
  assertEquals((await client.ask(Read, 0, 0)).error, 0);
  assertEquals((await client.ask(Write, 0, 0)).error, 0);
  // Without a chosen context there is no status.
  assertEquals((await client.ask(BlockStatus, 0, 512)).error, 22);
  await client.send(requestMessage(Command.Disconnect, 0, 0));
  assertEquals(await client.drain(), 0);
  assertEquals(served.faults, []);
});

Deno.test("NbdServer refuses what is out of range or malformed", async () => {
  const disk = VirtualDisk.memory({ sectors: 2048 });
  await using served = await serveDisk(disk, { maxPayload: 65_536 });
  using client = await RawClient.attach(served.socket);
  const size = 2048 * 512;
  const cases: [number, number, number, number, number][] = [
    [Read, size, 512, 0, 22],
    [Read, size - 512, 1024, 0, 22],
    [Read, 2 ** 53, 512, 0, 22],
    [Read, 0, 65_536 + 512, 0, 22],
    [Read, 0, 512, CommandFlag.DontFragment, 22],
    [Read, 0, 512, 1 << 15, 22],
    [Write, size, 512, 0, 28],
    [Write, size - 512, 1024, 0, 28],
    [Write, 0, 65_536 + 512, 0, 22],
    [WriteZeroes, size - 512, 1024, 0, 28],
    [WriteZeroes, 0, 512, CommandFlag.RequestOne, 22],
    [Trim, size, 1, 0, 22],
    [Flush, 512, 0, 0, 22],
    [99, 0, 0, 0, 22],
  ];
  for (const [type, offset, length, flags, error] of cases) {
    const payload = type === Write
      ? new Uint8Array(length).fill(0xff)
      : undefined;
    const reply = await client.ask(type, offset, length, payload, flags);
    assertEquals(reply.error, error, `${[type, offset, length, flags]}`);
  }
  assertEquals(disk.counters.bytesWritten, 0);
  assert((await disk.read(0, 2048)).every((byte) => byte === 0));
});

Deno.test({
  name: "NbdServer names a path that is too long for a socket",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using disk = VirtualDisk.memory({ sectors: 8 });
    // Of two bytes each.
    const path = `/tmp/${"\u00e9".repeat(60)}`;
    const error = assertThrows(
      () => NbdServer.listen({ path, exports: [{ disk }] }),
      RangeError,
      path,
    );
    assert(error.message.startsWith("Cannot listen at a path"), error.message);
  },
});

Deno.test("NbdServer refuses writes to what is read-only", async () => {
  const disk = VirtualDisk.memory({ sectors: 64 });
  await using served = await serveDisk(disk, {
    exports: [{ disk, readOnly: true, name: "r" }, { disk, name: "w" }],
  });
  using client = await RawClient.attach(served.socket, "r");
  assertEquals(
    (await client.ask(Write, 0, 512, new Uint8Array(512).fill(1))).error,
    1,
  );
  assertEquals((await client.ask(Trim, 0, 512)).error, 1);
  assertEquals((await client.ask(WriteZeroes, 0, 512)).error, 1);
  assertEquals((await client.ask(Read, 0, 512)).data, new Uint8Array(512));
  using writer = await RawClient.attach(served.socket, "w");
  await writer.ask(Write, 0, 512, new Uint8Array(512).fill(1));
  assertEquals((await client.ask(Read, 0, 512)).data[0], 1);
});

Deno.test("NbdServer carries out what is not whole blocks, alone", async () => {
  for (const blockSize of [512, 4096]) {
    const disk = VirtualDisk.memory({ sectors: 2048, blockSize });
    await using served = await serveDisk(disk);
    const clients = await Promise.all(
      Array.from({ length: 4 }, () => RawClient.attach(served.socket)),
    );
    const random = new Random(blockSize);
    const model = new Uint8Array(2048 * 512);
    // Each client has bytes of its own in every block, and all write at once.
    const share = blockSize / clients.length;
    for (let round = 0; round < 40; round++) {
      await Promise.all(clients.map(async (client, i) => {
        const block = random.below(8);
        const start = block * blockSize + i * share + random.below(share / 2);
        const end = start + 1 + random.below(share / 2 - 1);
        if (random.chance(1, 4)) {
          model.fill(0, start, end);
          const { error } = await client.ask(WriteZeroes, start, end - start);
          assertEquals(error, 0);
        } else {
          const data = random.bytes(end - start);
          model.set(data, start);
          const { error } = await client.ask(Write, start, data.length, data);
          assertEquals(error, 0);
        }
      }));
    }
    const at = random.below(blockSize);
    const length = 5 * blockSize - 13;
    const { data } = await clients[0]!.ask(Read, at, length);
    assertEquals(data, model.subarray(at, at + length));
    assertEquals(
      await disk.read(0, 8 * blockSize / 512),
      model.slice(0, 8 * blockSize),
    );
    // A trim gives up whole blocks only.
    await clients[0]!.ask(
      Write,
      0,
      3 * blockSize,
      model.fill(9).slice(0, 3 * blockSize),
    );
    await clients[0]!.ask(Trim, 1, 2 * blockSize);
    assertEquals((await disk.read(0, blockSize / 512))[1], 9);
    assertEquals((await clients[0]!.ask(Read, 2 * blockSize, 1)).data[0], 9);
    for (const client of clients) client[Symbol.dispose]();
  }
});

Deno.test("NbdServer asks for no block size, and says which is preferred", async () => {
  const disk = VirtualDisk.memory({ sectors: 2048, blockSize: 4096 });
  await using served = await serveDisk(disk);
  using client = await RawClient.connect(served.socket);
  await client.send(optionMessage(Option.Go, goData("", Info.BlockSize)));
  const item = await client.answer();
  assertEquals(item.type, OptionReply.Info);
  assertEquals(readU64(viewOf(item.data), 2), 2048 * 512);
  const flags = viewOf(item.data).getUint16(10);
  assert((flags & ExportFlag.CanMultiConn) !== 0);
  assertEquals(flags & ExportFlag.SendDf, 0);
  const sizes = viewOf((await client.answer()).data);
  assertEquals(
    [sizes.getUint32(2), sizes.getUint32(6), sizes.getUint32(10)],
    [1, 4096, 32 << 20],
  );
  assertEquals((await client.answer()).type, OptionReply.Ack);
  const data = new Uint8Array([1, 2, 3]);
  assertEquals((await client.ask(Write, 4095, 3, data)).error, 0);
  assertEquals(
    (await client.ask(Read, 4094, 5)).data,
    new Uint8Array([0, 1, 2, 3, 0]),
  );
  assertEquals(served.server.counters.unaligned, 2);
  assertEquals((await client.ask(Read, 4096, 4096)).error, 0);
  assertEquals(served.server.counters.unaligned, 2);
});

Deno.test("NbdServer negotiates as the protocol says", async () => {
  const disk = VirtualDisk.memory({ sectors: 64 });
  await using served = await serveDisk(disk, {
    exports: [
      { disk, name: "one", description: "the first" },
      { disk, name: "two" },
    ],
  });
  using client = await RawClient.connect(served.socket);
  const ask = async (option: number, data?: Uint8Array) => {
    await client.send(optionMessage(option, data));
    const answers = [];
    for (;;) {
      const answer = await client.answer();
      assertEquals(answer.option, option);
      answers.push(answer);
      if (
        answer.type === OptionReply.Ack ||
        answer.type >= OptionReply.ErrUnsupported
      ) return answers;
    }
  };
  const types = async (option: number, data?: Uint8Array) =>
    (await ask(option, data)).map(({ type }) => type);
  const { Ack, ErrInvalid, ErrUnknown, ErrUnsupported, ErrTooBig } =
    OptionReply;

  assertEquals(await types(Option.List), [2, 2, Ack]);
  assertEquals(await types(Option.List, new Uint8Array(1)), [ErrInvalid]);
  assertEquals(await types(Option.StartTls), [ErrUnsupported]);
  assertEquals(await types(12_345, new Uint8Array(100)), [ErrUnsupported]);
  assertEquals(await types(Option.List, new Uint8Array(20_000)), [ErrTooBig]);
  assertEquals(await types(Option.Info, goData("three")), [ErrUnknown]);
  assertEquals(await types(Option.Go, goData("three")), [ErrUnknown]);
  assertEquals(await types(Option.Info, goData("one", 1, 2, 3, 77)), [
    3,
    3,
    3,
    3,
    Ack,
  ]);
  const broken = goData("one");
  viewOf(broken).setUint32(0, 2 ** 32 - 1);
  assertEquals(await types(Option.Info, broken), [ErrInvalid]);
  assertEquals(await types(Option.Go, new Uint8Array(5)), [ErrInvalid]);
  // Contexts need structured replies.
  const wanted = metaData("one", "base:allocation", "qemu:dirty-bitmap:x");
  assertEquals(await types(Option.SetMetaContext, wanted), [ErrInvalid]);
  assertEquals(await types(Option.StructuredReply, new Uint8Array(1)), [
    ErrInvalid,
  ]);
  assertEquals(await types(Option.StructuredReply), [Ack]);
  assertEquals(await types(Option.SetMetaContext, wanted), [4, Ack]);
  assertEquals(await types(Option.ListMetaContext, metaData("one")), [4, Ack]);
  assertEquals(
    await types(Option.ListMetaContext, metaData("one", "base:")),
    [4, Ack],
  );
  assertEquals(
    await types(Option.SetMetaContext, metaData("three", "base:allocation")),
    [ErrUnknown],
  );
  const cut = wanted.subarray(0, wanted.length - 1);
  assertEquals(await types(Option.SetMetaContext, cut), [ErrInvalid]);
  await client.send(optionMessage(Option.Abort));
  assertEquals((await client.answer()).type, Ack);
  assertEquals(await client.drain(), 0);

  // EXPORT_NAME cannot say no but by hanging up.
  using lost = await RawClient.connect(served.socket);
  await lost.send(
    optionMessage(Option.ExportName, new TextEncoder().encode("three")),
  );
  assertEquals(await lost.drain(), 0);
  // And has 124 zeroes if the client wants them.
  using old = await RawClient.connect(served.socket, 1);
  await old.send(
    optionMessage(Option.ExportName, new TextEncoder().encode("two")),
  );
  assertEquals(readU64(viewOf(await old.read(134)), 0), 64 * 512);
  assertEquals((await old.ask(Read, 0, 512)).error, 0);
});

Deno.test("NbdServer answers out of order, and flushes what others wrote", async () => {
  // Reads wait until they are let go; everything else is done at once.
  const memory = new MemoryBackend({ sectors: 64 });
  let flushed = 0;
  const { backend: slow, held } = holding(memory, ({ type, sector }) => {
    if (type === 4) flushed++;
    return type === 0 && sector === 0;
  });
  const disk = VirtualDisk.over(slow);
  await using served = await serveDisk(disk);
  using one = await RawClient.attach(served.socket);
  using two = await RawClient.attach(served.socket);
  await one.send(
    requestMessage(Read, 0, 512, 0, 1),
    requestMessage(Read, 512, 512, 0, 2),
  );
  const first = viewOf(await one.read(16));
  assertEquals(first.getUint32(12), 2);
  await one.read(512);
  await one.send(requestMessage(Write, 1024, 512, 0, 3), new Uint8Array(512));
  assertEquals(viewOf(await one.read(16)).getUint32(12), 3);
  assertEquals((await two.ask(Flush, 0, 0)).error, 0);
  assertEquals(flushed, 1);
  held.forEach((go) => go());
  assertEquals(viewOf(await one.read(16)).getUint32(12), 1);
  await one.read(512);
});

Deno.test("NbdServer tells a disk's errors in the protocol's numbers", async () => {
  const memory = new MemoryBackend({ sectors: 64 });
  let kind: DiskError["kind"] = "io";
  const failing = altered(memory, {
    submit(batch, complete) {
      for (const request of batch) {
        complete(request, new DiskError(kind, "Cannot do that"));
      }
    },
  });
  const disk = VirtualDisk.over(failing);
  await using served = await serveDisk(disk);
  using client = await RawClient.attach(served.socket);
  for (
    const [next, number] of [
      ["no-space", 28],
      ["read-only", 1],
      ["permission", 1],
      ["closed", 108],
      ["unsupported", 22],
      ["io", 5],
    ] as const
  ) {
    kind = next;
    const data = new Uint8Array(512);
    assertEquals((await client.ask(Write, 0, 512, data)).error, number);
  }
  assertEquals((await client.ask(Flush, 0, 0)).error, 5);
  // From now on it is latched, and says so.
  assertEquals((await client.ask(WriteZeroes, 0, 512)).error, 5);
});

Deno.test("NbdServer.close() answers what was asked for", async () => {
  const disk = VirtualDisk.memory({ sectors: 2048 });
  await using served = await serveDisk(disk);
  using busy = await RawClient.attach(served.socket);
  using idle = await RawClient.connect(served.socket);
  const asked = Array.from(
    { length: 50 },
    (_, i) => requestMessage(Read, i * 512, 512, 0, i),
  );
  await busy.send(...asked);
  // The first answer means that the server has begun.
  await busy.read(16 + 512);
  const closed = served.server.close();
  const rest = await busy.drain();
  assertEquals(rest % (16 + 512), 0);
  assertEquals(await idle.drain(), 0);
  await closed;
  await served.server.close();
  await assertRejects(() =>
    Deno.connect({ transport: "unix", path: served.socket })
  );
  assertEquals(served.server.connectionCount, 0);
  // The disk is not the server's.
  await disk.write(0, new Uint8Array(512));
});

Deno.test("NbdServer.close() refuses with ESHUTDOWN until clients leave", async () => {
  // Writes wait until they are let go.
  const memory = new MemoryBackend({ sectors: 64 });
  const { backend: slow, held } = holding(memory);
  const disk = VirtualDisk.over(slow);
  await using served = await serveDisk(disk);
  using busy = await RawClient.attach(served.socket);
  using choosy = await RawClient.connect(served.socket);
  const data = new Uint8Array(512).fill(7);
  await busy.send(requestMessage(Write, 0, 512, 0, 1), data);
  while (held.length === 0) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  let finished = false;
  served.server.finished.then(() => finished = true);
  const closed = served.server.close(60_000);
  // What was asked for is done; what comes now is not, and is said so.
  await choosy.send(optionMessage(Option.List));
  assertEquals((await choosy.answer()).type, OptionReply.ErrShutdown);
  await choosy.send(optionMessage(Option.Go, goData("")));
  assertEquals((await choosy.answer()).type, OptionReply.ErrShutdown);
  await choosy.send(optionMessage(Option.Abort));
  assertEquals((await choosy.answer()).type, OptionReply.Ack);
  assertEquals(await choosy.drain(), 0);
  assertEquals((await busy.ask(Write, 512, 512, data)).error, 108);
  assertEquals((await busy.ask(Read, 0, 512)).error, 108);
  assertEquals((await busy.ask(Flush, 0, 0)).error, 108);
  assertEquals(held.length, 1);
  held[0]!();
  const last = viewOf(await busy.read(16));
  assertEquals([last.getUint32(4), last.getUint32(12)], [0, 1]);
  assertEquals(finished, false);
  await busy.send(requestMessage(Command.Disconnect, 0, 0));
  assertEquals(await busy.drain(), 0);
  await closed;
  assert(finished);
  assertEquals(served.faults, []);
});

Deno.test("NbdServer does not send clients away for time in which it had no turn", async () => {
  const disk = VirtualDisk.memory({ sectors: 64 });
  await using served = await serveDisk(disk, { handshakeMs: 200 });
  using client = await RawClient.connect(served.socket);
  sleepSync(300);
  await client.send(optionMessage(Option.List));
  assertEquals((await client.answer()).type, OptionReply.Server);
  assertEquals((await client.answer()).type, OptionReply.Ack);
  // Nor when it says good-bye.
  await client.send(optionMessage(Option.ExportName));
  await client.read(10);
  const closed = served.server.close(60_000);
  while ((await client.ask(Read, 0, 512)).error !== 108);
  for (let i = 0; i < 2; i++) {
    sleepSync(100);
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  assertEquals((await client.ask(Read, 0, 512)).error, 108);
  await client.send(requestMessage(Command.Disconnect, 0, 0));
  assertEquals(await client.drain(), 0);
  await closed;
});

Deno.test("NbdServer.close() waits neither for clients nor for the disk for ever", async () => {
  const memory = new MemoryBackend({ sectors: 64 });
  const { backend: stuck, held } = holding(memory);
  const disk = VirtualDisk.over(stuck);
  await using served = await serveDisk(disk);
  using waiting = await RawClient.attach(served.socket);
  using asking = await RawClient.attach(served.socket);
  waiting.sendAll(requestMessage(Read, 0, 512));
  while (held.length === 0) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  const endless = (async () => {
    for (;;) {
      assertEquals((await asking.ask(Read, 0, 512)).error, 108);
    }
  })();
  const closed = served.server.close(100);
  const ended = await endless.catch((error) => error);
  await closed;
  const asked = held.splice(0);
  asked.forEach((go) => go());
  // It hung up in the middle of a request or of an answer.
  assert(!(ended instanceof AssertionError), ended);
  assertEquals(asked.length, 1);
});

Deno.test("NbdServer with once stops when the last client has left", async () => {
  const disk = VirtualDisk.memory({ sectors: 64 });
  await using served = await serveDisk(disk, { once: true });
  // Whoever never came to use an export does not count.
  (await RawClient.connect(served.socket))[Symbol.dispose]();
  const first = await RawClient.attach(served.socket);
  const second = await RawClient.attach(served.socket);
  assertEquals((await first.ask(Read, 0, 512)).error, 0);
  first[Symbol.dispose]();
  assertEquals((await second.ask(Read, 0, 512)).error, 0);
  second[Symbol.dispose]();
  await served.server.finished;
  await assertRejects(() => RawClient.dial(served.socket));
  // The disk is not the server's.
  await disk.write(0, new Uint8Array(512));
});

Deno.test("NbdServer throws on options that make no sense", async () => {
  await using disk = VirtualDisk.memory({ sectors: 8 });
  const make = (options: object) =>
    NbdServer.detached({ exports: [{ disk }], ...options });
  assertThrows(() => make({ maxRequests: 0 }), RangeError);
  assertThrows(() => make({ maxBytes: 0.5 }), RangeError);
  assertThrows(() => make({ maxPayload: 1000 }), RangeError);
  assertThrows(() => make({ maxPayload: 64 << 20 }), RangeError);
  assertThrows(() => make({ maxMemory: 1000 }), RangeError);
  assertThrows(
    () => make({ maxMemory: 64 << 20, maxPayload: 32 << 20 }),
    RangeError,
  );
  // Parts of large blocks take more than their data.
  await using coarse = VirtualDisk.memory({ size: "4MiB", blockSize: 65_536 });
  const exports = [{ disk: coarse }];
  assertThrows(() => make({ exports, maxMemory: 262_144 }), RangeError);
  assertThrows(() => make({ stallMs: 0 }), RangeError);
  // A timer that cannot wait for so long would send everybody away at once.
  assertThrows(() => make({ stallMs: 2 ** 31 }), RangeError);
  assertThrows(() => make({ handshakeMs: 2 ** 31 }), RangeError);
  for (const graceMs of [2 ** 31, Infinity, NaN, -1]) {
    await assertRejects(() => make({}).close(graceMs), RangeError, "graceMs");
  }
  assertThrows(() => make({ exports: [{ disk }, { disk }] }), TypeError);
  assertThrows(
    () => make({ exports: [{ disk, name: "x".repeat(4097) }] }),
    RangeError,
  );
  assertThrows(() => make({}).uri(), TypeError);
  assertEquals(make({}).address, null);
});

Deno.test({
  name:
    "NbdServer.listen() tells why it cannot listen at a path by the system's code",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using dir = await tempDir();
    await Deno.writeTextFile(dir.join("file"), "");
    await using disk = VirtualDisk.memory({ sectors: 8 });
    for (
      const [name, code] of [
        ["none/socket", "ENOENT"],
        ["file/socket", "ENOTDIR"],
        ["file", "EADDRINUSE"],
      ] as const
    ) {
      const path = dir.join(name);
      const error = assertThrows(
        () => NbdServer.listen({ path, exports: [{ disk }] }),
        Error,
      );
      assertEquals((error as Error & { code?: unknown }).code, code, name);
    }
  },
});

Deno.test("NbdServer answers any request within the least memory, whatever the blocks", async () => {
  for (const blockSize of [512, 4096, 32_768, 65_536]) {
    const disk = VirtualDisk.memory({ size: "4MiB", blockSize });
    const exports = [{ disk }];
    let maxMemory = 131_072;
    for (;; maxMemory += 65_536) {
      try {
        NbdServer.detached({ exports, maxMemory });
        break;
      } catch (error) {
        assert(error instanceof RangeError);
      }
    }
    // With more of it, the default of maxPayload is what there is memory for.
    for (let more = maxMemory; more < 2 << 20; more += 65_536) {
      NbdServer.detached({ exports, maxMemory: more });
    }
    await using served = await serveDisk(disk, { maxMemory });
    const clients = [
      await RawClient.attach(served.socket),
      await RawClient.attach(served.socket),
    ];
    await Promise.all(clients.map(async (client) => {
      for (let i = 0; i < 3; i++) {
        const data = new Uint8Array(65_536);
        assertEquals((await client.ask(Write, 1, 65_536, data)).error, 0);
        assertEquals((await client.ask(WriteZeroes, 1, 10)).error, 0);
        assertEquals((await client.ask(Read, 1, 65_536)).error, 0);
      }
    }));
    for (const client of clients) client[Symbol.dispose]();
  }
});

Deno.test("NbdServer fails what it has no memory for, and goes on", async () => {
  const memory = new MemoryBackend({ sectors: 4096 });
  let isFull = true;
  const disk = VirtualDisk.over(altered(memory, {
    allocate(byteLength) {
      if (isFull) throw new RangeError("Array buffer allocation failed");
      return memory.allocate(byteLength);
    },
  }));
  await using served = await serveDisk(disk);
  using client = await RawClient.attach(served.socket);
  const data = new Uint8Array(4096).fill(1);
  const EIO = 5;
  assertEquals((await client.ask(Read, 0, 4096)).error, EIO);
  assertEquals((await client.ask(Write, 0, 4096, data)).error, EIO);
  assertEquals((await client.ask(Write, 1, 4096, data)).error, EIO);
  assertEquals((await client.ask(WriteZeroes, 1, 4096)).error, EIO);
  isFull = false;
  assertEquals((await client.ask(Write, 0, 4096, data)).error, 0);
  assertEquals((await client.ask(Read, 0, 4096)).data, data);
  assertEquals(served.faults, []);
});

Deno.test("NbdServer ends in good order though onError throws", async () => {
  using uncaught = catchThrown();
  await using served = await serveDisk(VirtualDisk.memory({ sectors: 64 }), {
    once: true,
    onError: () => {
      throw new Thrown();
    },
  });
  using client = await RawClient.attach(served.socket);
  await client.send(new Uint8Array(28).fill(0xff));
  await served.server.finished;
  assertEquals(uncaught.count, 1);
});
