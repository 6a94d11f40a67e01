import { assert, assertEquals, assertRejects } from "@std/assert";
import { VirtualDisk } from "../../src/disk.ts";
import { Command, Option } from "../../src/nbd_wire.ts";
import {
  goData,
  optionMessage,
  RawClient,
  requestMessage,
  type Served,
  serveDisk,
  u32,
} from "./harness.ts";
import { runMutations } from "./mutations.ts";

const MIB = 1 << 20;

/** A client who makes sense gets what it asks for. */
async function assertServes(served: Served): Promise<void> {
  using client = await RawClient.attach(served.socket);
  assertEquals((await client.ask(Command.Read, 0, 4096)).error, 0);
  await client.send(requestMessage(Command.Disconnect, 0, 0));
  await client.drain();
}

async function waitFor(condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    if (i === 500) throw new Error("Cannot wait any longer");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

Deno.test("NbdServer drops clients that break the protocol", async () => {
  const disk = VirtualDisk.memory({ sectors: 2048 });
  await using served = await serveDisk(disk);
  using bystander = await RawClient.attach(served.socket);
  const options = (...parts: Uint8Array[]) => async () => {
    const client = await RawClient.connect(served.socket);
    await client.send(...parts);
    return client;
  };
  const requests = (...parts: Uint8Array[]) => async () => {
    const client = await RawClient.attach(served.socket);
    await client.send(...parts);
    return client;
  };
  const broken = optionMessage(Option.List);
  broken[0] = 0;
  const absurd = requestMessage(Command.Write, 0, 2 ** 32 - 1);
  const noRequest = requestMessage(Command.Read, 0, 512);
  noRequest[3] = 0;
  const cases: [string, () => Promise<RawClient>][] = [
    ["unknown flags", () => RawClient.connect(served.socket, 0xff)],
    ["HTTP", options(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"))],
    ["an option without its magic number", options(broken)],
    [
      "an option of 4 GiB",
      options(optionMessage(Option.List, undefined, 2 ** 32 - 1)),
    ],
    [
      "a name of 16 MiB",
      options(optionMessage(Option.ExportName, undefined, 16 * MIB)),
    ],
    ["an option after GO", requests(optionMessage(Option.Go, goData("")))],
    ["a request without its magic number", requests(noRequest)],
    ["a write of 4 GiB", requests(absurd)],
  ];
  for (const [title, connect] of cases) {
    const before = served.server.counters.dropped;
    using client = await connect();
    await client.drain();
    await waitFor(() => served.server.counters.dropped === before + 1);
    assertEquals(
      (await bystander.ask(Command.Read, 0, 512)).error,
      0,
      title,
    );
  }
  assertEquals(served.faults.length, cases.length);
  assert(served.faults.every(({ name }) => name === "ProtocolError"));
  assertEquals(disk.counters.bytesWritten, 0);
});

Deno.test("NbdServer finishes with clients that hang up half-way", async () => {
  const disk = VirtualDisk.memory({ sectors: 2048 });
  await using served = await serveDisk(disk);
  // Half closed: what was asked for is answered.
  {
    using client = await RawClient.attach(served.socket);
    await client.send(
      requestMessage(Command.Read, 0, 4096, 0, 1),
      requestMessage(Command.Flush, 0, 0, 0, 2),
    );
    await client.closeWrite();
    assertEquals(await client.drain(), 16 + 4096 + 16);
  }
  // In the middle of everything.
  const write = requestMessage(Command.Write, 0, 65_536);
  for (
    const part of [
      new Uint8Array(),
      u32(3).subarray(0, 2),
    ]
  ) {
    const client = await RawClient.connect(served.socket);
    await client.send(part);
    client[Symbol.dispose]();
  }
  for (
    const part of [
      write.subarray(0, 13),
      write,
      new Uint8Array([...write, ...new Uint8Array(30_000)]),
    ]
  ) {
    const client = await RawClient.attach(served.socket);
    await client.send(part);
    client[Symbol.dispose]();
  }
  await waitFor(() => served.server.connectionCount === 0);
  assertEquals(disk.counters.bytesWritten, 0);
  await assertServes(served);
  assertEquals(served.faults, []);
});

Deno.test("NbdServer sends clients away that never get to the point", async () => {
  const disk = VirtualDisk.memory({ sectors: 2048 });
  await using served = await serveDisk(disk, { handshakeMs: 100 });
  using idle = await RawClient.connect(served.socket);
  using talker = await RawClient.connect(served.socket);
  const talking = (async () => {
    for (;;) {
      await talker.send(optionMessage(Option.List));
      await talker.answer();
      await talker.answer();
    }
  })();
  await assertRejects(() => talking);
  assertEquals(await idle.drain(), 0);
  await waitFor(() => served.server.connectionCount === 0);
  await assertServes(served);
});

Deno.test("NbdServer takes no more from a client that never reads", async () => {
  const disk = VirtualDisk.memory({ sectors: 64 * MIB / 512 });
  await disk.write(0, new Uint8Array(MIB).fill(1));
  await using served = await serveDisk(disk, { maxBytes: 8 * MIB });
  const before = disk.counters.bytesRead;
  using client = await RawClient.attach(served.socket);
  const requests = new Uint8Array(28 * 2000);
  for (let i = 0; i < 2000; i++) {
    requests.set(requestMessage(Command.Read, 0, MIB, 0, i), i * 28);
  }
  const sending = client.send(requests).catch(() => {});
  await waitFor(() => disk.counters.bytesRead > before);
  let last = -1;
  // Until nothing more happens.
  while (last !== disk.counters.bytesRead) {
    last = disk.counters.bytesRead;
    await new Promise((resolve) => setTimeout(resolve, 100));
    await assertServes(served);
    last += 4096;
  }
  assert(disk.counters.bytesRead - before < 12 * MIB, `${last}`);
  // Small requests are bounded by their replies as well.
  client[Symbol.dispose]();
  await sending;
  await waitFor(() => served.server.connectionCount === 0);
  await assertServes(served);
});

Deno.test("NbdServer has room for a thousand clients, and turns more away", async () => {
  const disk = VirtualDisk.memory({ sectors: 2048 });
  await using served = await serveDisk(disk, { maxConnections: 1000 });
  const clients: RawClient[] = [];
  try {
    while (clients.length < 1000) {
      // The backlog of a socket is some 128.
      clients.push(
        ...await Promise.all(
          Array.from({ length: 50 }, () => RawClient.attach(served.socket)),
        ),
      );
    }
    assertEquals(served.server.connectionCount, 1000);
    await assertRejects(() => RawClient.connect(served.socket));
    const replies = await Promise.all(
      clients.map((client, i) => client.ask(Command.Read, i * 512, 512)),
    );
    assert(replies.every(({ error }) => error === 0));
  } finally {
    for (const client of clients) client[Symbol.dispose]();
  }
  await waitFor(() => served.server.connectionCount === 0);
  await assertServes(served);
});

Deno.test("NbdServer survives mutated sessions", async () => {
  const outcome = await runMutations(5000, 0x6e62_6431);
  assert(outcome.dropped > 500, JSON.stringify(outcome));
  assert(outcome.requests > 5000, JSON.stringify(outcome));
  assert(outcome.errors > 100, JSON.stringify(outcome));
});
