/**
 * Clients that mean ill, or know no better. Whatever one does: the server
 * lives, an honest client is served meanwhile, no more memory is taken than
 * there may be, and nothing waits for ever.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { viewOf } from "../../src/bytes.ts";
import {
  Command,
  CommandFlag,
  Info,
  Option,
  OptionReply,
} from "../../src/protocol/nbd/numbers.ts";
import { NbdServer } from "../../src/nbd/mod.ts";
import { Random } from "../../src/random.ts";
import { altered } from "../fake_backend.ts";
import {
  goData,
  metaData,
  optionMessage,
  patiently,
  RawClient,
  requestMessage,
  type Served,
  serveDisk,
} from "./harness.ts";
import { joined, u32 } from "./wire.ts";
import { runMutations } from "./mutations.ts";

const {
  Read,
  Write,
  Flush,
  Trim,
  Cache,
  WriteZeroes,
  BlockStatus,
  Disconnect,
} = Command;

const MIB = 1 << 20;

/** Bytes of the export; the first MiB is the honest client's. */
const SIZE = 64 * MIB;

/** What is left of a server's memory to all clients of a test. */
const MAX_MEMORY = 32 * MIB;

/** The longest that anything may take; nothing is expected to. */
const DEADLINE_MS = 120_000;

async function waitFor(condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    if (i === DEADLINE_MS / 10) throw new Error("Cannot wait any longer");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Rejects if something takes too long. */
async function inTime<T>(work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new Error("Cannot wait any longer")),
    DEADLINE_MS,
  );
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** What the honest client does, again and again. */
async function assertServes(client: RawClient, seed = 1): Promise<void> {
  const data = new Random(seed).bytes(4096);
  assertEquals((await client.ask(Write, 8192, 4096, data)).error, 0);
  assertEquals((await client.ask(Read, 8192, 4096)).data, data);
}

/** What becomes of a connection. */
type Fate =
  /** The server ends it, and says what the client did wrong. */
  | "dropped"
  /** The server ends it, as the client never gets to the point. */
  | "late"
  /** It ends, as the client leaves. */
  | "left"
  /** It stays for as long as the client likes. */
  | "stays";

/** Something that a client does. */
interface Behaviour {
  readonly title: string;
  readonly fate: Fate;
  readonly act: (served: Served) => Promise<RawClient>;
}

const text = (words: string) => new TextEncoder().encode(words);

/** Connects and says something, without listening. */
function says(...parts: Uint8Array[]): Behaviour["act"] {
  return async (served) => {
    const client = await RawClient.connect(served.socket);
    client.sendAll(...parts);
    return await Promise.resolve(client);
  };
}

/** Comes to an agreement and says something, without listening. */
function asks(...parts: Uint8Array[]): Behaviour["act"] {
  return async (served) => {
    const client = await RawClient.attach(served.socket);
    client.sendAll(...parts);
    return client;
  };
}

/** Connects, says an option, and looks at the type of the answer. */
function hears(
  option: number,
  data: Uint8Array,
  ...types: number[]
): Behaviour["act"] {
  return async (served) => {
    const client = await RawClient.connect(served.socket);
    client.sendAll(optionMessage(option, data));
    for (const type of types) {
      const answer = await client.answer();
      assertEquals(answer.type, type);
      assertPrintable(new TextDecoder().decode(answer.data), type);
    }
    return client;
  };
}

/** Comes to an agreement, asks for something and looks at the error. */
function refused(
  error: number,
  ...[type, offset, length, payload, flags]: Parameters<RawClient["ask"]>
): Behaviour["act"] {
  return async (served) => {
    const client = await RawClient.attach(served.socket);
    const reply = await client.ask(type, offset, length, payload, flags);
    assertEquals(reply.error, error);
    await assertServes(client, 2);
    return client;
  };
}

function assertPrintable(words: string, type: number = OptionReply.ErrUnknown) {
  if (type < OptionReply.ErrUnsupported) return;
  // deno-lint-ignore no-control-regex
  assert(!/[\x00-\x1f\x7f-\x9f\u202e]/.test(words), JSON.stringify(words));
}

const broken = (message: Uint8Array) => {
  message[0]! ^= 0xff;
  return message;
};

const many = (count: number, make: (i: number) => Uint8Array) =>
  joined(Array.from({ length: count }, (_, i) => make(i)));

/** What a terminal would carry out, and what would spoil a log. */
const EVIL = "\x1b]0;owned\x07\x1b[2J\nplatter: all is well\u202e";

const wrongName = goData("");
viewOf(wrongName).setUint32(0, 2 ** 32 - 1);

const wrongCount = metaData("", "base:allocation");
viewOf(wrongCount).setUint32(4, 2 ** 32 - 1);

const BEHAVIOURS: Behaviour[] = [
  {
    title: "says nothing at all",
    fate: "late",
    act: (served) => RawClient.dial(served.socket),
  },
  {
    title: "hangs up without reading the greeting",
    fate: "left",
    async act(served) {
      const client = await RawClient.dial(served.socket);
      client[Symbol.dispose]();
      return client;
    },
  },
  {
    title: "sends half of its flags",
    fate: "late",
    async act(served) {
      const client = await RawClient.dial(served.socket);
      client.sendAll(u32(3).subarray(0, 2));
      return client;
    },
  },
  {
    title: "has flags that nobody knows",
    fate: "dropped",
    act: (served) => RawClient.connect(served.socket, 0xff),
  },
  {
    title: "begins with TLS",
    fate: "dropped",
    async act(served) {
      const client = await RawClient.dial(served.socket);
      client.sendAll(new Uint8Array([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]));
      return client;
    },
  },
  {
    title: "speaks HTTP",
    fate: "dropped",
    act: says(text("GET / HTTP/1.1\r\n\r\n")),
  },
  {
    title: "sends back what the server says",
    fate: "dropped",
    async act(served) {
      const client = await RawClient.dial(served.socket);
      client.sendAll(await client.read(18));
      return client;
    },
  },
  {
    title: "begins an option with a wrong number",
    fate: "dropped",
    act: says(broken(optionMessage(Option.List))),
  },
  {
    title: "sends half of an option's header",
    fate: "late",
    act: says(optionMessage(Option.List).subarray(0, 11)),
  },
  {
    title: "announces an option and sends half of it",
    fate: "late",
    act: says(optionMessage(Option.Go, new Uint8Array(8000), 16_384)),
  },
  {
    title: "announces an option of 4 GiB",
    fate: "dropped",
    act: says(optionMessage(Option.List, undefined, 2 ** 32 - 1)),
  },
  {
    title: "sends an option of 1 MiB",
    fate: "stays",
    act: hears(Option.Info, new Uint8Array(MIB), OptionReply.ErrTooBig),
  },
  {
    title: "announces an option of 1 MiB and stalls",
    fate: "late",
    act: says(optionMessage(12_345, new Uint8Array(100_000), MIB)),
  },
  {
    title: "names an export of 16 MiB",
    fate: "dropped",
    act: says(optionMessage(Option.ExportName, undefined, 16 * MIB)),
  },
  {
    title: "names an export that a terminal would carry out",
    fate: "dropped",
    act: says(optionMessage(Option.ExportName, text(EVIL))),
  },
  {
    title: "names an export of 16 KiB of escapes",
    fate: "dropped",
    act: says(
      optionMessage(Option.ExportName, new Uint8Array(16_384).fill(27)),
    ),
  },
  {
    title: "names an export that is no text",
    fate: "dropped",
    act: says(
      optionMessage(Option.ExportName, new Uint8Array([0xff, 0x9b, 0x80])),
    ),
  },
  {
    title: "names an export with a NUL in it",
    fate: "dropped",
    act: says(optionMessage(Option.ExportName, text("a\0b"))),
  },
  {
    title: "goes for an export that a terminal would carry out",
    fate: "stays",
    act: hears(Option.Go, goData(EVIL), OptionReply.ErrUnknown),
  },
  {
    title: "goes for a name longer than its option",
    fate: "stays",
    act: hears(Option.Go, wrongName, OptionReply.ErrInvalid),
  },
  {
    title: "wants eight thousand kinds of information",
    fate: "stays",
    act: hears(
      Option.Info,
      goData("", ...new Array<number>(8000).fill(Info.Name)),
      OptionReply.Info,
      OptionReply.Info,
      OptionReply.Ack,
    ),
  },
  {
    title: "asks for more contexts than its option has",
    fate: "stays",
    act: hears(Option.ListMetaContext, wrongCount, OptionReply.ErrInvalid),
  },
  {
    title: "asks for three thousand contexts",
    fate: "stays",
    act: hears(
      Option.ListMetaContext,
      metaData("", ...new Array<string>(3000).fill("x")),
      OptionReply.Ack,
    ),
  },
  {
    title: "chooses a context before structured replies",
    fate: "stays",
    act: hears(
      Option.SetMetaContext,
      metaData("", "base:allocation"),
      OptionReply.ErrInvalid,
    ),
  },
  {
    title: "wants TLS, and begins with it all the same",
    fate: "dropped",
    async act(served) {
      const act = hears(
        Option.StartTls,
        new Uint8Array(),
        OptionReply.ErrUnsupported,
      );
      const client = await act(served);
      client.sendAll(new Uint8Array(64).fill(0x16));
      return client;
    },
  },
  {
    title: "sends ten thousand options and reads none of the answers",
    fate: "late",
    act: says(many(10_000, (i) => optionMessage(i % 2 ? Option.List : 99))),
  },
  {
    title: "negotiates without end",
    fate: "dropped",
    async act(served) {
      const client = await RawClient.connect(served.socket);
      client.sendAll(many(10_000, () => optionMessage(99)));
      client.drain();
      return client;
    },
  },
  {
    title: "sends options byte by byte",
    fate: "stays",
    async act(served) {
      const client = await RawClient.connect(served.socket);
      for (const byte of optionMessage(Option.List)) {
        await client.send(new Uint8Array([byte]));
      }
      await client.answer();
      return client;
    },
  },
  {
    title: "gives up and goes on all the same",
    fate: "left",
    act: says(optionMessage(Option.Abort), many(99, () => u32(7))),
  },
  {
    title: "begins a request with a wrong number",
    fate: "dropped",
    act: asks(broken(requestMessage(Read, 0, 512))),
  },
  {
    title: "sends an option where a request belongs",
    fate: "dropped",
    act: asks(optionMessage(Option.Go, goData(""))),
  },
  {
    title: "sends replies to the server",
    fate: "dropped",
    act: asks(
      new Uint8Array([0x67, 0x44, 0x66, 0x98, ...new Array(24).fill(0)]),
    ),
  },
  {
    title: "sends half of a request",
    fate: "stays",
    act: asks(requestMessage(Read, 0, 512).subarray(0, 27)),
  },
  {
    title: "uses one cookie for all of its requests",
    fate: "stays",
    async act(served) {
      const client = await RawClient.attach(served.socket);
      client.sendAll(many(300, (i) => requestMessage(Read, i, 1, 0, 5)));
      for (let i = 0; i < 300; i++) {
        assertEquals(viewOf(await client.read(17)).getUint32(12), 5);
      }
      return client;
    },
  },
  {
    title: "asks for a command that there is not",
    fate: "stays",
    act: refused(22, 99, 0, 512),
  },
  {
    title: "asks for the last of all commands",
    fate: "stays",
    act: refused(22, 65_535, 0, 512),
  },
  {
    title: "sets every flag",
    fate: "stays",
    act: refused(22, WriteZeroes, MIB, 512, undefined, 0xffff),
  },
  {
    title: "reads past the end",
    fate: "stays",
    act: refused(22, Read, SIZE - 1, 2),
  },
  {
    title: "reads where no number reaches",
    fate: "stays",
    act: refused(22, Read, 2 ** 63, 512),
  },
  {
    title: "reads more than may be read at once",
    fate: "stays",
    act: refused(22, Read, 0, 2 ** 32 - 1),
  },
  {
    title: "writes past the end",
    fate: "stays",
    act: refused(28, Write, SIZE - 512, 1024, new Uint8Array(1024)),
  },
  {
    title: "writes more than may be written at once",
    fate: "stays",
    act: refused(22, Write, 0, 48 * MIB, new Uint8Array(48 * MIB)),
  },
  {
    title: "announces a write of 4 GiB",
    fate: "dropped",
    act: asks(requestMessage(Write, 0, 2 ** 32 - 1)),
  },
  {
    title: "zeroes past the end",
    fate: "stays",
    act: refused(28, WriteZeroes, MIB, 2 ** 32 - 1),
  },
  {
    title: "trims past the end",
    fate: "stays",
    act: refused(22, Trim, MIB, 2 ** 32 - 1),
  },
  {
    title: "caches past the end",
    fate: "stays",
    act: refused(22, Cache, SIZE, 1),
  },
  {
    title: "flushes a place",
    fate: "stays",
    act: refused(22, Flush, 512, 512),
  },
  {
    title: "asks where data is, which was not agreed on",
    fate: "stays",
    act: refused(22, BlockStatus, 0, MIB),
  },
  {
    title: "wants whole replies, which was not agreed on",
    fate: "stays",
    act: refused(22, Read, 0, 512, undefined, CommandFlag.DontFragment),
  },
  {
    title: "sends ten thousand requests for nothing",
    fate: "stays",
    async act(served) {
      const client = await RawClient.attach(served.socket);
      client.sendAll(many(10_000, (i) => requestMessage(Write, i, 0)));
      await client.read(16 * 10_000);
      return client;
    },
  },
  {
    title: "sends a hundred thousand requests and reads no answer",
    fate: "stays",
    act: asks(many(100_000, () => requestMessage(99, 0, 0))),
  },
  {
    title: "reads two thousand MiB and takes none of them",
    fate: "stays",
    act: asks(many(2000, (i) => requestMessage(Read, 0, MIB, 0, i))),
  },
  {
    title: "reads bytes that are no blocks, and takes none of them",
    fate: "stays",
    act: asks(many(2000, (i) => requestMessage(Read, 1, 8 * MIB - 2, 0, i))),
  },
  {
    title: "stalls in the middle of a payload",
    fate: "stays",
    act: asks(requestMessage(Write, MIB, 8 * MIB), new Uint8Array(MIB)),
  },
  {
    title: "hangs up in the middle of a payload",
    fate: "left",
    async act(served) {
      const client = await RawClient.attach(served.socket);
      await client.send(requestMessage(Write, 0, MIB), new Uint8Array(99_999));
      client[Symbol.dispose]();
      return client;
    },
  },
  {
    title: "hangs up in the middle of a payload that is refused",
    fate: "left",
    async act(served) {
      const client = await RawClient.attach(served.socket);
      await client.send(
        requestMessage(Write, SIZE, MIB),
        new Uint8Array(99_999),
      );
      client[Symbol.dispose]();
      return client;
    },
  },
  {
    title: "writes over its own bytes, none on blocks, all at once",
    fate: "stays",
    async act(served) {
      const client = await RawClient.attach(served.socket);
      const data = new Uint8Array(1000);
      client.sendAll(many(500, (i) =>
        joined([
          requestMessage(Write, 2 * MIB + i, 1000, 0, i),
          data.fill(i).slice(),
        ])));
      await client.read(16 * 500);
      const { data: back } = await client.ask(Read, 2 * MIB, 499);
      assertEquals(back, Uint8Array.from(back, (_, i) => i));
      return client;
    },
  },
  {
    title: "zeroes parts of one block, all at once",
    fate: "stays",
    async act(served) {
      const client = await RawClient.attach(served.socket);
      client.sendAll(
        many(
          2000,
          (i) => requestMessage(WriteZeroes, 3 * MIB + i % 500, 7, 0, i),
        ),
      );
      await client.read(16 * 2000);
      return client;
    },
  },
  {
    title: "leaves and asks for more all the same",
    fate: "left",
    act: asks(
      requestMessage(Disconnect, 0, 0),
      many(100, () => requestMessage(WriteZeroes, 0, MIB)),
    ),
  },
  {
    title: "says that it is done, and waits for its answers",
    fate: "left",
    async act(served) {
      const client = await RawClient.attach(served.socket);
      await client.send(
        requestMessage(Read, 0, 4096, 0, 1),
        requestMessage(Flush, 0, 0, 0, 2),
      );
      await client.closeWrite();
      assertEquals(await client.drain(), 16 + 4096 + 16);
      return client;
    },
  },
  {
    title: "asks for much and is gone before it is there",
    fate: "left",
    async act(served) {
      const client = await RawClient.attach(served.socket);
      await client.send(many(100, () => requestMessage(Read, 0, MIB)));
      client[Symbol.dispose]();
      return client;
    },
  },
];

const onTime = BEHAVIOURS.filter(({ fate }) => fate !== "late");
const late = BEHAVIOURS.filter(({ fate }) => fate === "late");

Deno.test("NbdServer lives with hostile clients, and others with it", async (t) => {
  const disk = VirtualDisk.memory({ sectors: SIZE / 512 });
  await using served = await serveDisk(disk, {
    maxMemory: MAX_MEMORY,
    // Nobody is sent away for what the machine does meanwhile.
    handshakeMs: 10 * DEADLINE_MS,
    stallMs: 10 * DEADLINE_MS,
  });
  const { server, faults } = served;
  using honest = await RawClient.attach(served.socket);
  for (const [i, { title, fate, act }] of onTime.entries()) {
    await t.step(`a client ${title}: ${fate}`, async () => {
      const { dropped } = server.counters;
      const before = faults.length;
      using client = await inTime(act(served));
      await inTime(assertServes(honest, i));
      if (fate === "stays") {
        assertEquals(server.connectionCount, 2);
        client[Symbol.dispose]();
      }
      await waitFor(() => server.connectionCount === 1);
      await inTime(assertServes(honest, i));
      assertEquals(server.counters.dropped - dropped, +(fate === "dropped"));
      assertEquals(faults.length - before, +(fate === "dropped"));
    });
  }
  for (const { name, message } of faults) {
    assertEquals(name, "ProtocolError");
    assertPrintable(message);
    assert(message.length < 2500, message);
  }
  const { peakMemory } = server.counters;
  // Answers are small, but are made before anybody can say no.
  assert(peakMemory <= MAX_MEMORY + MIB, `${peakMemory}`);
  assert(peakMemory > 8 * MIB, `${peakMemory}`);
});

Deno.test("NbdServer sends clients away that never get to the point", async (t) => {
  const disk = VirtualDisk.memory({ sectors: 2048 });
  await using served = await serveDisk(disk, {
    handshakeMs: 1000,
    exports: [{ disk, description: "x".repeat(2000) }],
  });
  using honest = await patiently(() => RawClient.attach(served.socket));
  const clients = await Promise.all(
    late.map(({ act }) => patiently(() => act(served))),
  );
  await inTime(assertServes(honest));
  for (const [i, { title }] of late.entries()) {
    await t.step(`a client ${title}`, async () => {
      await inTime(clients[i]!.drain());
    });
  }
  await waitFor(() => served.server.connectionCount === 1);
  for (const client of clients) client[Symbol.dispose]();
  await inTime(assertServes(honest));
  assertEquals(served.faults, []);
});

/** A listener that fails first, with these codes or errors. */
function failingListener(codes: (string | Error)[]): Disposable {
  const { listen } = Deno;
  const fake = (options: Deno.ListenOptions & { transport: "tcp" }) => {
    const listener = listen(options);
    const accept = listener.accept.bind(listener);
    listener.accept = () => {
      const code = codes.shift();
      if (code === undefined) return accept();
      return Promise.reject(
        typeof code === "string"
          ? Object.assign(new Error(code), { code })
          : code,
      );
    };
    return listener;
  };
  Deno.listen = fake as typeof Deno.listen;
  return { [Symbol.dispose]: () => Deno.listen = listen };
}

Deno.test("NbdServer keeps nobody waiting for connections that were reset", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const faults: Error[] = [];
  const resets = ["ENOTCONN", "ECONNABORTED", "ECONNRESET", "EPROTO", "EPERM"];
  const count = 2000;
  const codes = Array.from({ length: count }, (_, i) => resets[i % 5]!);
  using _failing = failingListener(codes);
  await using server = NbdServer.listen({
    port: 0,
    exports: [{ disk }],
    onError: (error) => faults.push(error),
  });
  await using honest = await inTime(VirtualDisk.open(server.uri()));
  assertEquals((await honest.read(0, 1))[0], 0);
  assertEquals(server.counters.resets, count);
  assertEquals(faults, []);
});

Deno.test("NbdServer says once that it is short of descriptors, and goes on", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const faults: Error[] = [];
  // Deno has no code for ENFILE.
  const full = new Error("Too many open files in system (os error 23)");
  using _failing = failingListener(["EMFILE", "ENFILE", full, "EMFILE"]);
  await using server = NbdServer.listen({
    port: 0,
    exports: [{ disk }],
    onError: (error) => faults.push(error),
  });
  await using honest = await inTime(VirtualDisk.open(server.uri()));
  assertEquals((await honest.read(0, 1))[0], 0);
  assertEquals(faults.map(({ message }) => message), ["EMFILE"]);
  assertEquals(server.counters.resets, 0);
});

/** A disk whose every other sector is a hole, and which is slow to say so. */
function fragmented(asked: number[]): VirtualDisk {
  const memory = new MemoryBackend({ sectors: 1 << 20 });
  const backend = altered(memory, {
    extents(sector, count) {
      asked.push(count);
      const until = performance.now() + 1;
      while (performance.now() < until);
      return Array.from(
        { length: count },
        (_, i) => ({ sector: sector + i, count: 1, hole: i % 2 === 1 }),
      );
    },
  });
  return VirtualDisk.over(backend);
}

Deno.test("NbdServer maps no more than is asked for, and others have their turn", async () => {
  const asked: number[] = [];
  const disk = fragmented(asked);
  await using served = await serveDisk(disk);
  using honest = await RawClient.attach(served.socket);
  using client = await RawClient.connect(served.socket);
  await client.send(
    optionMessage(Option.StructuredReply),
    optionMessage(Option.SetMetaContext, metaData("", "base:allocation")),
    optionMessage(Option.Go, goData("")),
  );
  for (const _ of Array(5)) await client.answer();
  const status = (flags: number) =>
    requestMessage(BlockStatus, 0, (1 << 29) - 512, flags);
  const extents = async () => {
    const length = viewOf(await client.read(20)).getUint32(16);
    return ((await client.read(length)).length - 4) / 8;
  };
  // One extent: one piece, and not all of the disk.
  client.sendAll(status(CommandFlag.RequestOne));
  assertEquals(await extents(), 1);
  assertEquals(asked.length, 1);
  // As many as fit.
  client.sendAll(status(0));
  assertEquals(await extents(), 1024);
  assert(asked.length < 20);
  assert(asked.every((count) => count <= 8192), `${asked}`);
  // Reads look as far as they can use it.
  asked.length = 0;
  await client.send(requestMessage(Read, 0, 8 * MIB));
  await client.read(20 + 8 + 8 * MIB);
  assertEquals(asked.length, 1);
  // Others need not wait for all of it.
  asked.length = 0;
  client.sendAll(many(30, () => status(0)));
  await waitFor(() => asked.length > 0);
  await assertServes(honest);
  const before = asked.length;
  for (let i = 0; i < 30; i++) await extents();
  assert(asked.length > before, `${asked.length} of ${before}`);
});

Deno.test("NbdServer has room for a thousand clients, and turns more away", async () => {
  const disk = VirtualDisk.memory({ sectors: 2048 });
  await using served = await serveDisk(disk, { maxConnections: 1000 });
  await using clients = await thousand(served);
  assertEquals(served.server.connectionCount, 1000);
  await assertRejects(() => RawClient.connect(served.socket));
  const replies = await Promise.all(
    clients.all.map((client, i) => client.ask(Read, i * 512, 512)),
  );
  assert(replies.every(({ error }) => error === 0));
  await clients[Symbol.asyncDispose]();
  await waitFor(() => served.server.connectionCount === 0);
  using honest = await RawClient.attach(served.socket);
  await assertServes(honest);
});

/** So many clients that have come to an agreement. */
async function thousand(
  served: Served,
): Promise<AsyncDisposable & { all: RawClient[] }> {
  const all: RawClient[] = [];
  const clients = {
    all,
    [Symbol.asyncDispose]() {
      for (const client of all) client[Symbol.dispose]();
      return Promise.resolve();
    },
  };
  while (all.length < 1000) {
    // The backlog of a socket is some 128.
    all.push(
      ...await Promise.all(
        Array.from({ length: 50 }, () => RawClient.attach(served.socket)),
      ),
    );
  }
  return clients;
}

Deno.test("NbdServer serves the honest while a thousand clients hold memory", async () => {
  const disk = VirtualDisk.memory({ sectors: SIZE / 512 });
  await using served = await serveDisk(disk, {
    maxMemory: MAX_MEMORY,
    stallMs: 40,
  });
  const { server } = served;
  using honest = await RawClient.attach(served.socket);
  const external = Deno.memoryUsage().external;
  await using clients = await thousand(served);
  // Half of them want what they never take, half announce what never comes.
  for (const [i, client] of clients.all.entries()) {
    client.sendAll(
      i % 2 === 0
        ? many(64, () => requestMessage(Read, 0, MIB))
        : joined([requestMessage(Write, MIB, MIB), new Uint8Array(9000)]),
    );
  }
  // Small requests have a share of their own.
  await inTime(assertServes(honest));
  // Large ones wait until somebody is sent away. Who asks for them comes again if
  // it was too slow itself, with so little time and so busy a machine.
  const large = (...asked: Parameters<RawClient["ask"]>) =>
    inTime(patiently(async () => {
      using client = await RawClient.attach(served.socket);
      return await client.ask(...asked);
    }));
  assertEquals((await large(Read, 0, 8 * MIB)).error, 0);
  const data = new Random(3).bytes(8 * MIB);
  assertEquals((await large(Write, 8 * MIB, data.length, data)).error, 0);
  await inTime(assertServes(honest, 3));
  assertEquals(await disk.read(16_384, 16_384), data);
  assert(server.counters.evicted > 0);
  const { peakMemory } = server.counters;
  assert(peakMemory <= MAX_MEMORY + MIB, `${peakMemory}`);
  const grown = Deno.memoryUsage().external - external;
  assert(grown < 1024 * MIB, `${grown}`);
});

Deno.test("NbdServer leaves clients alone that stall while nobody needs memory", async () => {
  const disk = VirtualDisk.memory({ sectors: SIZE / 512 });
  await using served = await serveDisk(disk, {
    maxMemory: MAX_MEMORY,
    stallMs: 20,
  });
  using stalled = await RawClient.attach(served.socket);
  using honest = await RawClient.attach(served.socket);
  await stalled.send(requestMessage(Write, MIB, 8 * MIB));
  for (let i = 0; i < 20; i++) {
    await assertServes(honest, i);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  await stalled.send(new Random(4).bytes(8 * MIB));
  assertEquals(viewOf(await stalled.read(16)).getUint32(4), 0);
  assertEquals(served.server.counters.evicted, 0);
});

Deno.test("NbdServer survives mutated sessions", async () => {
  const outcome = await runMutations(5000, 0x6e62_6431);
  assert(outcome.dropped > 500, JSON.stringify(outcome));
  assert(outcome.requests > 5000, JSON.stringify(outcome));
  assert(outcome.errors > 100, JSON.stringify(outcome));
});
