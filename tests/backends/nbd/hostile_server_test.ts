/**
 * Servers that hang, lie and break off, by the table: whatever they do, opening
 * and requests end with a typed error (or succeed where that is right), closing
 * ends, and nothing is left open (each case is a test, and tests look).
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStringIncludes,
} from "@std/assert";
import type { Backend } from "../../../src/backend.ts";
import { MemoryBackend } from "../../../src/backends/memory.ts";
import { openNbd } from "../../../src/backends/nbd/mod.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError, type DiskErrorKind } from "../../../src/errors.ts";
import {
  faults,
  latency,
  overlay,
  readahead,
  trace,
  verify,
} from "../../../src/layers/mod.ts";
import { viewOf } from "../../../src/bytes.ts";
import {
  ChunkType,
  Command,
  ExportFlag,
  Info,
  Option,
  OptionReply,
} from "../../../src/protocol/nbd/numbers.ts";
import { flushRequest } from "../../../src/request.ts";
import { pause } from "../../helpers.ts";
import { catchThrown, Thrown } from "../../contract.ts";
import { joined, u16, u32, u64 } from "../../nbd/wire.ts";
import {
  ALL_FLAGS,
  blockInfo,
  chunk,
  errorPayload,
  exportInfo,
  greeting,
  optionReply,
  type RawPeer,
  RawServer,
  type SeenRequest,
  simpleReply,
} from "./raw_server.ts";

/** How long a server may be silent in these tests, in ms. */
const PATIENCE_MS = 150;

/** After this something hangs, in ms: no case takes a second. */
const DEADLINE_MS = 30_000;

/** Bytes that are read. */
const LENGTH = 8192;

async function inTime<T>(what: string, work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new Error(`Never ended: ${what}`)),
    DEADLINE_MS,
  );
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Runs something against a server; it must fail, with a text fit to print. */
async function failureOf(work: Promise<unknown>): Promise<DiskError> {
  const outcome = await inTime(
    "a request",
    work.then(() => "success", (error) => error),
  );
  assertInstanceOf(outcome, DiskError, String(outcome));
  assert(/^[^\p{Cc}]*$/u.test(outcome.message), outcome.message);
  return outcome;
}

/**
 * Lets what is on its way arrive: so many turns of the event loop, as time may
 * pass without one on a busy machine.
 */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await pause(1);
}

function open(uri: string, openTimeoutMs = DEADLINE_MS): Promise<VirtualDisk> {
  return VirtualDisk.open(uri, { openTimeoutMs, closeTimeoutMs: PATIENCE_MS });
}

/** Says nothing more until the client leaves. */
async function silence(peer: RawPeer): Promise<void> {
  await peer.rest();
}

// --- Opening -------------------------------------------------------------

const REFUSALS: [name: string, number: number, kind: DiskErrorKind][] = [
  ["POLICY", 2, "permission"],
  ["INVALID", 3, "io"],
  ["PLATFORM", 4, "platform"],
  ["TLS_REQD", 5, "permission"],
  ["UNKNOWN", 6, "not-found"],
  ["SHUTDOWN", 7, "io"],
  ["BLOCK_SIZE_REQD", 8, "platform"],
  ["TOO_BIG", 9, "io"],
  ["EXT_HEADER_REQD", 10, "platform"],
];

/** Answers GO with information, and agrees. */
const says = (...infos: Uint8Array[]) => async (peer: RawPeer) => {
  await peer.untilGo();
  for (const info of infos) {
    await peer.reply(Option.Go, OptionReply.Info, info);
  }
  await peer.reply(Option.Go, OptionReply.Ack);
  await silence(peer);
};

const answers = (reply: Uint8Array) => async (peer: RawPeer) => {
  await peer.untilGo();
  await peer.send(reply);
  await silence(peer);
};

const OPENINGS: [
  what: string,
  script: (peer: RawPeer) => Promise<void>,
  kind: DiskErrorKind,
  message: RegExp,
][] = [
  ["never greets", silence, "io", /has not answered for 150 ms/],
  [
    "greets by half",
    async (peer) => {
      await peer.send(greeting(3).subarray(0, 9));
      await silence(peer);
    },
    "io",
    /has not answered/,
  ],
  [
    "says nothing after its greeting",
    async (peer) => {
      await peer.greet();
      await silence(peer);
    },
    "io",
    /has not answered/,
  ],
  [
    "says nothing to GO",
    async (peer) => {
      await peer.untilGo();
      await silence(peer);
    },
    "io",
    /has not answered/,
  ],
  [
    "stops within an answer to an option",
    answers(optionReply(Option.Go, OptionReply.Ack).subarray(0, 11)),
    "io",
    /has not answered/,
  ],
  [
    "stops within the data of an answer",
    answers(optionReply(Option.Go, OptionReply.Info, exportInfo(), 50)),
    "io",
    /has not answered/,
  ],
  [
    "describes the export and never agrees",
    answers(optionReply(Option.Go, OptionReply.Info, exportInfo())),
    "io",
    /has not answered/,
  ],
  [
    "hangs up at once",
    (peer) => Promise.resolve(peer.close()),
    "io",
    /hung up/,
  ],
  [
    "hangs up within its greeting",
    async (peer) => {
      await peer.send(greeting(3).subarray(0, 17));
      peer.close();
    },
    "io",
    /hung up|reset/,
  ],
  [
    "hangs up after its greeting",
    async (peer) => {
      await peer.greet();
      peer.close();
    },
    "io",
    /hung up|reset|pipe/,
  ],
  [
    "hangs up instead of answering GO",
    async (peer) => {
      await peer.untilGo();
      peer.close();
    },
    "io",
    /hung up/,
  ],
  [
    "hangs up within an answer",
    async (peer) => {
      await peer.untilGo();
      await peer.send(
        optionReply(Option.Go, OptionReply.Info, exportInfo(), 60),
      );
      peer.close();
    },
    "io",
    /hung up/,
  ],
  [
    "hangs up before it agrees",
    async (peer) => {
      await peer.untilGo();
      await peer.reply(Option.Go, OptionReply.Info, exportInfo());
      peer.close();
    },
    "io",
    /hung up/,
  ],
  [
    "speaks HTTP",
    (peer) =>
      peer.send(new TextEncoder().encode("HTTP/1.1 400 Bad Request\r\n\r\n")),
    "platform",
    /no NBD server/,
  ],
  [
    "is of the old style",
    (peer) =>
      peer.send(
        new TextEncoder().encode("NBDMAGIC"),
        u32(0x42_0281),
        u32(0x86_1253),
        new Uint8Array(160),
      ),
    "platform",
    /fixed newstyle/,
  ],
  [
    "is not of the fixed newstyle",
    (peer) => peer.send(greeting(2)),
    "platform",
    /fixed newstyle/,
  ],
  [
    "answers without the magic number",
    answers(new Uint8Array(64).fill(7)),
    "io",
    /does not answer as NBD servers do/,
  ],
  [
    "answers another option",
    answers(optionReply(Option.List, OptionReply.Ack)),
    "io",
    /does not answer as NBD servers do/,
  ],
  [
    "answers with 4 GiB",
    answers(
      optionReply(Option.Go, OptionReply.Info, exportInfo(), 2 ** 32 - 1),
    ),
    "io",
    /does not answer as NBD servers do/,
  ],
  [
    "agrees with data",
    answers(optionReply(Option.Go, OptionReply.Ack, exportInfo())),
    "io",
    /does not answer as NBD servers do/,
  ],
  [
    "does not stop answering",
    async (peer) => {
      await peer.untilGo();
      const flood = joined(
        Array.from(
          { length: 1000 },
          () => optionReply(Option.Go, OptionReply.Info, u16(99)),
        ),
      );
      for (;;) await peer.send(flood);
    },
    "io",
    /does not stop answering/,
  ],
  [
    "gives an answer that nobody asked for",
    answers(optionReply(Option.Go, OptionReply.MetaContext, u32(1))),
    "io",
    /nobody asked for \(0x4\)/,
  ],
  ...REFUSALS.map((
    [name, number, kind],
  ): typeof OPENINGS[number] => [
    `refuses with ${name}`,
    answers(
      optionReply(
        Option.Go,
        2 ** 31 + number,
        new TextEncoder().encode("not \x1b[2Jtoday\r\n"),
      ),
    ),
    kind,
    new RegExp(`NBD_REP_ERR_${name}.*not .*today`),
  ]),
  [
    "wants TLS before anything else",
    async (peer) => {
      await peer.greet();
      await peer.option();
      await peer.reply(Option.StructuredReply, OptionReply.ErrTlsRequired);
      await silence(peer);
    },
    "permission",
    /TLS.*NBD_REP_ERR_TLS_REQD/,
  ],
  [
    "refuses for a reason without a name",
    answers(optionReply(Option.Go, 2 ** 31 + 0x1234)),
    "io",
    /0x80001234/,
  ],
  [
    "has information without a type",
    says(new Uint8Array(1)),
    "io",
    /no type/,
  ],
  [
    "has information of a wrong length on the export",
    says(exportInfo().subarray(0, 11)),
    "io",
    /must be 12 bytes/,
  ],
  [
    "has information of a wrong length on block sizes",
    says(exportInfo(), joined([blockInfo(1, 4096, 65_536), u16(0)])),
    "io",
    /must be 14 bytes/,
  ],
  ["agrees without a word on the export", says(), "io", /does not say what/],
  [
    "says two things of the export",
    says(exportInfo(), exportInfo({ size: 512 })),
    "io",
    /two things/,
  ],
  ["has no flags", says(exportInfo({ flags: 0 })), "io", /contradict/],
  [
    "has zeroes that are fast but no zeroes",
    says(
      exportInfo({ flags: ExportFlag.HasFlags | ExportFlag.SendFastZero }),
    ),
    "io",
    /contradict/,
  ],
  [
    "does not fragment, but has no chunks",
    async (peer) => {
      await peer.attach({
        structured: false,
        flags: ALL_FLAGS | ExportFlag.SendDf,
      });
      await silence(peer);
    },
    "io",
    /contradict/,
  ],
  ...[
    [0, 4096, 65_536],
    [3, 4096, 65_538],
    [131_072, 131_072, 1 << 20],
    [4096, 512, 65_536],
    [1, 1000, 65_536],
    [1, 0, 65_536],
    [1, 65_536, 4096],
    [4096, 4096, 4097],
  ].map((sizes): typeof OPENINGS[number] => [
    `has blocks of ${sizes.join(", ")} bytes`,
    says(exportInfo(), blockInfo(sizes[0]!, sizes[1]!, sizes[2]!)),
    "geometry",
    /block sizes make no sense/,
  ]),
  [
    "has no whole blocks",
    says(exportInfo({ size: 8192 + 512 }), blockInfo(4096, 4096, 65_536)),
    "geometry",
    /whole blocks/,
  ],
  [
    "has no whole sectors",
    says(exportInfo({ size: 1000 })),
    "geometry",
    /whole blocks/,
  ],
  [
    "has 2^53 bytes",
    says(exportInfo({ size: 2 ** 53 })),
    "geometry",
    /smaller than 8 PiB/,
  ],
  [
    "has a negative size",
    says(
      joined([
        u16(Info.Export),
        u32(2 ** 32 - 1),
        u32(2 ** 32 - 512),
        u16(ALL_FLAGS),
      ]),
    ),
    "geometry",
    /smaller than 8 PiB/,
  ],
  [
    "knows no GO and hangs up",
    async (peer) => {
      await peer.untilGo();
      await peer.reply(Option.Go, OptionReply.ErrUnsupported);
      await peer.option();
      peer.close();
    },
    "io",
    /hung up: it may have no export ""/,
  ],
  [
    "knows no GO and says nothing",
    async (peer) => {
      await peer.untilGo();
      await peer.reply(Option.Go, OptionReply.ErrUnsupported);
      await silence(peer);
    },
    "io",
    /has not answered/,
  ],
];

for (const [what, script, kind, message] of OPENINGS) {
  Deno.test(`VirtualDisk.open() fails at a server that ${what}`, async () => {
    await using server = await RawServer.start(script);
    const hangs = /not answered/.test(message.source);
    const error = await failureOf(
      open(server.uri, hangs ? PATIENCE_MS : DEADLINE_MS),
    );
    assertEquals(error.kind, kind, error.message);
    assert(message.test(error.message), error.message);
  });
}

Deno.test("VirtualDisk.open() says ABORT or DISC when it fails", async () => {
  const heard = async (
    script: (peer: RawPeer) => Promise<void>,
    openTimeoutMs: number,
    signal?: AbortSignal,
  ) => {
    const rest = Promise.withResolvers<Uint8Array>();
    // It may have no waiter yet, or none at all.
    rest.promise.catch(() => {});
    await using server = await RawServer.start(async (peer) => {
      try {
        await script(peer);
        rest.resolve(await peer.rest());
      } catch (error) {
        rest.reject(error);
      }
    });
    const outcome = await inTime(
      "opening",
      VirtualDisk.open(server.uri, {
        openTimeoutMs,
        ...(signal === undefined ? {} : { signal }),
      }).then(() => null, (error) => error),
    );
    assert(outcome !== null);
    return await inTime("hanging up", rest.promise);
  };
  const abort = (bytes: Uint8Array) => {
    assertEquals(bytes.length, 16);
    assertEquals(viewOf(bytes).getUint32(8), Option.Abort);
  };
  // A client that was held up may leave before the server has got that far.
  for (let timeoutMs = 4 * PATIENCE_MS;; timeoutMs *= 10) {
    try {
      abort(await heard((peer) => peer.untilGo(), timeoutMs));
      break;
    } catch (error) {
      if (timeoutMs > DEADLINE_MS) throw error;
    }
  }
  abort(
    await heard(async (peer) => {
      await peer.untilGo();
      await peer.reply(Option.Go, OptionReply.ErrPolicy);
    }, DEADLINE_MS),
  );
  const controller = new AbortController();
  abort(
    await heard(
      async (peer) => {
        await peer.untilGo();
        controller.abort();
      },
      DEADLINE_MS,
      controller.signal,
    ),
  );
  const disc = await heard(
    (peer) => peer.attach({ size: 1000 }),
    DEADLINE_MS,
  );
  assertEquals(disc.length, 28);
  assertEquals(viewOf(disc).getUint16(6), Command.Disconnect);
});

// --- Requests ------------------------------------------------------------

const ERROR = ChunkType.Error;

/** A read is answered with that. */
const READS: [
  what: string,
  reply: (peer: RawPeer, request: SeenRequest) => Promise<unknown>,
  message: RegExp,
  structured?: boolean,
][] = [
  [
    "hangs up",
    (peer) => Promise.resolve(peer.close()),
    /connection.*lost/,
  ],
  [
    "hangs up within a header",
    async (peer, request) => {
      await peer.send(simpleReply(request.cookie).subarray(0, 7));
      peer.close();
    },
    /hung up/,
  ],
  [
    "hangs up within data",
    async (peer, { cookie, offset }) => {
      await peer.send(
        chunk(
          cookie,
          ChunkType.OffsetData,
          joined([u64(offset), new Uint8Array(100)]),
          true,
          LENGTH + 8,
        ),
      );
      peer.close();
    },
    /hung up/,
  ],
  [
    "hangs up between two chunks",
    async (peer, request) => {
      await peer.data(request, 0, 4096, false);
      peer.close();
    },
    /hung up/,
  ],
  [
    "answers without the magic number",
    (peer) => peer.send(new Uint8Array(64).fill(9)),
    /magic number/,
  ],
  [
    "answers without chunks, having agreed on them",
    (peer, request) => peer.simple(request),
    /without chunks/,
  ],
  [
    "answers in chunks that nobody agreed on",
    (peer, request) => peer.data(request, 0, LENGTH, true),
    /magic number/,
    false,
  ],
  [
    "answers what nobody asked",
    (peer) => peer.send(simpleReply(u64(77))),
    /to no request/,
  ],
  [
    "brings a cookie back that is too large",
    (peer, { cookie }) =>
      peer.send(simpleReply(joined([u32(1), cookie.subarray(4)]))),
    /to no request/,
  ],
  [
    "floods with chunks that nobody asked for",
    async (peer) => {
      const flood = joined(
        Array.from(
          { length: 1000 },
          () => chunk(u64(99), ChunkType.None, new Uint8Array(), false),
        ),
      );
      for (;;) await peer.send(flood);
    },
    /to no request/,
  ],
  [
    "sends the first half twice and the second one never",
    async (peer, request) => {
      await peer.data(request, 0, 4096, false);
      await peer.data(request, 0, 4096, true);
    },
    /same data twice/,
  ],
  [
    "sends everything twice",
    async (peer, request) => {
      await peer.data(request, 0, LENGTH, false);
      await peer.data(request, 0, LENGTH, true);
    },
    /same data twice/,
  ],
  [
    "sends a part and then everything",
    async (peer, request) => {
      await peer.data(request, 512, 512, false);
      await peer.data(request, 0, LENGTH, true);
    },
    /same data twice/,
  ],
  [
    "lays a hole over data",
    async (peer, request) => {
      await peer.data(request, 0, 4096, false);
      await peer.chunk(
        request,
        ChunkType.OffsetHole,
        joined([u64(request.offset + 4095), u32(4097)]),
      );
    },
    /same data twice/,
  ],
  [
    "lays data over a later chunk",
    async (peer, request) => {
      await peer.data(request, 4096, 4096, false);
      await peer.data(request, 0, 4097, true);
    },
    /same data twice/,
  ],
  [
    "leaves out the end",
    (peer, request) => peer.data(request, 0, LENGTH - 1, true),
    /less data/,
  ],
  [
    "leaves out the middle",
    async (peer, request) => {
      await peer.data(request, 0, 4096, false);
      await peer.data(request, 4097, 4095, true);
    },
    /less data/,
  ],
  [
    "succeeds without any data",
    (peer, request) => peer.chunk(request, ChunkType.None),
    /less data/,
  ],
  [
    "goes on after the last chunk",
    async (peer, request) => {
      await peer.send(
        chunk(
          request.cookie,
          ChunkType.OffsetData,
          joined([u64(request.offset), new Uint8Array(4096)]),
          true,
        ),
      );
      await peer.data(request, 4096, 4096, true);
    },
    /less data/,
  ],
  [
    "sends data from before the request",
    (peer, { cookie, offset }) =>
      peer.send(
        chunk(
          cookie,
          ChunkType.OffsetData,
          joined([u64(offset - 1), new Uint8Array(100)]),
          true,
        ),
      ),
    /nobody asked for/,
  ],
  [
    "sends data from behind the request",
    (peer, request) => peer.data(request, 1, LENGTH, true),
    /nobody asked for/,
  ],
  [
    "sends data from the end of the world",
    (peer, { cookie }) =>
      peer.send(
        chunk(
          cookie,
          ChunkType.OffsetData,
          joined([new Uint8Array(8).fill(255), new Uint8Array(100)]),
          true,
        ),
      ),
    /nobody asked for/,
  ],
  [
    "sends a chunk of 4 GiB",
    (peer, { cookie, offset }) =>
      peer.send(
        chunk(
          cookie,
          ChunkType.OffsetData,
          u64(offset),
          true,
          2 ** 32 - 1,
        ),
      ),
    /nobody asked for/,
  ],
  [
    "sends data of no bytes",
    (peer, request) => peer.data(request, 0, 0, false),
    /nobody asked for/,
  ],
  [
    "sends data without a place",
    (peer, request) =>
      peer.chunk(request, ChunkType.OffsetData, new Uint8Array(7)),
    /too short/,
  ],
  [
    "sends a hole of no bytes",
    (peer, request) =>
      peer.chunk(
        request,
        ChunkType.OffsetHole,
        joined([u64(request.offset), u32(0)]),
      ),
    /nobody asked for/,
  ],
  [
    "sends a hole beyond the request",
    (peer, request) =>
      peer.chunk(
        request,
        ChunkType.OffsetHole,
        joined([u64(request.offset), u32(LENGTH + 1)]),
      ),
    /nobody asked for/,
  ],
  [
    "sends a hole of a wrong length",
    (peer, request) =>
      peer.chunk(request, ChunkType.OffsetHole, new Uint8Array(13)),
    /wrong length/,
  ],
  [
    "scatters its data",
    async (peer, request) => {
      for (let at = 0; at < LENGTH; at += 2) {
        await peer.send(
          chunk(
            request.cookie,
            ChunkType.OffsetData,
            joined([u64(request.offset + LENGTH - 1 - at), u16(0).subarray(1)]),
            false,
          ),
        );
      }
      await peer.data(request, 0, 1, true);
    },
    // 4,096 single bytes with gaps between them are just allowed.
    /less data|scattered/,
  ],
  [
    "sends nothing, and not as the last one",
    (peer, request) =>
      peer.chunk(request, ChunkType.None, new Uint8Array(), false),
    /nobody asked for/,
  ],
  [
    "sends nothing, with something in it",
    (peer, request) => peer.chunk(request, ChunkType.None, new Uint8Array(4)),
    /nobody asked for/,
  ],
  [
    "tells where data is",
    (peer, request) =>
      peer.chunk(request, ChunkType.BlockStatus, new Uint8Array(12)),
    /nobody asked for/,
  ],
  [
    "sends a kind of chunk that there is not",
    (peer, request) => peer.chunk(request, 77, new Uint8Array(12)),
    /nobody asked for/,
  ],
  [
    "sends an error that is too short",
    (peer, request) => peer.chunk(request, ERROR, new Uint8Array(5)),
    /too short/,
  ],
  [
    "sends an error whose text is longer than it",
    (peer, request) =>
      peer.chunk(request, ERROR, joined([u32(5), u16(100), u32(0)])),
    /too short/,
  ],
  [
    "sends an error of 4 GiB",
    (peer, { cookie }) =>
      peer.send(chunk(cookie, ERROR, u32(5), true, 2 ** 32 - 1)),
    /too long/,
  ],
  [
    "fails with no error",
    (peer, request) => peer.chunk(request, ERROR, errorPayload(0)),
    /with no error/,
  ],
  [
    "fails somewhere else",
    (peer, request) =>
      peer.chunk(
        request,
        ChunkType.ErrorOffset,
        joined([errorPayload(5), u64(request.offset + LENGTH)]),
      ),
    /where nothing was asked for/,
  ],
  [
    "fails at a place that it leaves out",
    (peer, request) =>
      peer.chunk(request, ChunkType.ErrorOffset, errorPayload(5)),
    /too short/,
  ],
  [
    "does not stop failing",
    async (peer, request) => {
      for (;;) await peer.chunk(request, ERROR, errorPayload(5), false);
    },
    /does not stop/,
  ],
  [
    "fails with escape sequences",
    (peer, request) =>
      peer.chunk(
        request,
        ERROR,
        errorPayload(5, "bad \x1b]0;title\x07 disk\r\n\x9b2J"),
      ),
    /the server says EIO: bad .*disk/,
  ],
  [
    "fails with a number that there is not",
    (peer, request) => peer.chunk(request, ERROR, errorPayload(0xdead_beef)),
    /the server says error 3735928559/,
  ],
  [
    "fails halfway",
    async (peer, request) => {
      await peer.data(request, 0, 4096, false);
      await peer.chunk(
        request,
        ChunkType.ErrorOffset,
        joined([errorPayload(5), u64(request.offset + 4096)]),
      );
    },
    /the server says EIO/,
  ],
  [
    "fails in a simple reply",
    (peer, request) => peer.simple(request, 5),
    /the server says EIO/,
    false,
  ],
];

for (const [what, reply, message, structured = true] of READS) {
  Deno.test(`VirtualDisk.read() fails at a server that ${what}`, async () => {
    await using server = await RawServer.start(async (peer) => {
      await peer.attach({ structured });
      await reply(peer, await peer.request());
      await silence(peer);
    });
    const disk = await open(server.uri);
    const memory = new Uint8Array(LENGTH).fill(0xab);
    const error = await failureOf(disk.readInto(16, memory));
    assertEquals(error.kind, "io");
    assert(message.test(error.message), error.message);
    assertEquals([error.sector, error.count], [16, 16]);
    await inTime("close()", disk.close());
  });
}

Deno.test("VirtualDisk.read() takes chunks in any order, and holes", async () => {
  await using server = await RawServer.start(async (peer) => {
    await peer.attach();
    for (;;) {
      const request = await peer.request();
      if (request.type === Command.Disconnect) break;
      await peer.data(request, 6144, 2047, false, 4);
      await peer.data(request, 0, 1, false, 1);
      await peer.chunk(
        request,
        ChunkType.OffsetHole,
        joined([u64(request.offset + 2048), u32(4096)]),
        false,
      );
      await peer.data(request, 1, 2047, false, 2);
      await peer.data(request, LENGTH - 1, 1, false, 5);
      await peer.chunk(request, ChunkType.None);
    }
  });
  const disk = await open(server.uri);
  const wanted = new Uint8Array(LENGTH).fill(2, 0, 2048).fill(4, 6144);
  wanted[0] = 1;
  wanted[LENGTH - 1] = 5;
  assertEquals(await disk.read(16, 16), wanted);
  await disk.close();
});

/** What else is asked for, and answered by that. */
const OTHERS: [
  what: string,
  ask: (disk: VirtualDisk) => Promise<unknown>,
  reply: (peer: RawPeer, request: SeenRequest) => Promise<unknown>,
  message: RegExp,
][] = [
  [
    "answers a write with data",
    (disk) => disk.write(0, new Uint8Array(512)),
    (peer, request) => peer.data(request, 0, 512, true),
    /nobody asked for/,
  ],
  [
    "answers a flush with a hole",
    (disk) => disk.flush(),
    (peer, request) =>
      peer.chunk(
        request,
        ChunkType.OffsetHole,
        joined([u64(0), u32(512)]),
      ),
    /nobody asked for/,
  ],
  [
    "answers a discard twice",
    async (disk) => {
      await disk.discard(0, 8);
      await disk.read(0, 8);
    },
    async (peer, request) => {
      await peer.simple(request);
      await peer.simple(request);
    },
    /to no request/,
  ],
  [
    "answers zeroes with no space",
    (disk) => disk.writeZeroes(0, 8),
    (peer, request) => peer.simple(request, 28),
    /the server says ENOSPC/,
  ],
];

for (const [what, ask, reply, message] of OTHERS) {
  Deno.test(`VirtualDisk fails at a server that ${what}`, async () => {
    await using server = await RawServer.start(async (peer) => {
      await peer.attach();
      await reply(peer, await peer.request());
      await silence(peer);
    });
    const disk = await open(server.uri);
    const error = await failureOf(ask(disk));
    assert(message.test(error.message), error.message);
    await inTime("close()", disk.close());
  });
}

// --- Silence -------------------------------------------------------------

/** Requests that are never answered. */
const SILENT: [
  what: string,
  ask: (disk: VirtualDisk, signal?: AbortSignal) => Promise<unknown>,
  reply: (peer: RawPeer) => Promise<unknown>,
  survives: boolean,
][] = [
  [
    "a read",
    (disk, signal) => disk.read(0, 16, signal && { signal }),
    async (peer) => await peer.request(),
    true,
  ],
  [
    "a read, half of whose header came",
    (disk, signal) => disk.read(0, 16, signal && { signal }),
    async (peer) => {
      const { cookie } = await peer.request();
      await peer.send(simpleReply(cookie).subarray(0, 9));
    },
    true,
  ],
  [
    "a large read, some of whose data came",
    (disk, signal) => disk.read(0, 2048, signal && { signal }),
    async (peer) => {
      const { cookie } = await peer.request();
      await peer.send(
        chunk(
          cookie,
          ChunkType.OffsetData,
          joined([u64(0), new Uint8Array(100_000)]),
          true,
          (1 << 20) + 8,
        ),
      );
    },
    false,
  ],
  [
    "a small write",
    (disk, signal) => disk.write(0, new Uint8Array(4096), signal && { signal }),
    async (peer) => await peer.request(),
    true,
  ],
  [
    "a large write that it takes",
    (disk, signal) =>
      disk.write(0, new Uint8Array(4 << 20), signal && { signal }),
    async (peer) => await peer.request(),
    true,
  ],
  [
    "a large write that it does not take",
    (disk, signal) =>
      disk.write(0, new Uint8Array(4 << 20), signal && { signal }),
    () => Promise.resolve(),
    false,
  ],
  [
    "a flush",
    (disk, signal) => disk.flush(signal && { signal }),
    async (peer) => await peer.request(),
    true,
  ],
  [
    "zeroes",
    (disk, signal) => disk.writeZeroes(0, 16, signal && { signal }),
    async (peer) => await peer.request(),
    true,
  ],
];

for (const [what, ask, reply, survives] of SILENT) {
  /** It stops reading as well: what is in flight stays in flight. */
  const begin = async () => {
    const replied = Promise.withResolvers<void>();
    const stop = Promise.withResolvers<void>();
    const server = await RawServer.start(async (peer) => {
      await peer.attach();
      await reply(peer);
      replied.resolve();
      await stop.promise;
    });
    const disk = await open(server.uri);
    return {
      disk,
      /** Until what is to come has come. */
      async underWay() {
        await replied.promise;
        await turns(20);
      },
      async [Symbol.asyncDispose]() {
        stop.resolve();
        await server[Symbol.asyncDispose]();
      },
    };
  };

  Deno.test(`a signal ends what a server never answers: ${what}`, async () => {
    await using silent = await begin();
    const { disk } = silent;
    const controller = new AbortController();
    const asked = ask(disk, controller.signal)
      .then(() => "success", (error) => error);
    await silent.underWay();
    controller.abort(new Error("Enough"));
    const reason = await inTime("the request", asked);
    assertInstanceOf(reason, Error, String(reason));
    assertEquals(reason.message, "Enough");
    // What comes later is bounded as well, by its own signal on a connection that
    // is left, and by the end of the connection otherwise.
    const signal = survives ? AbortSignal.timeout(PATIENCE_MS) : undefined;
    const later = await inTime(
      "a later request",
      disk.read(4096, 1, signal && { signal })
        .then(() => null, (error) => error),
    );
    assertEquals(later instanceof DiskError, !survives, String(later));
    await inTime("close()", disk.close());
  });

  Deno.test(`close() ends what a server never answers: ${what}`, async () => {
    await using silent = await begin();
    const asked = failureOf(ask(silent.disk));
    await silent.underWay();
    await inTime("close()", silent.disk.close());
    const error = await asked;
    assertEquals(error.kind, "io");
    assert(/answered nothing for 150 ms/.test(error.message), error.message);
  });
}

/** What lies over a disk behind a silent server. */
const LAYERS: [name: string, lay: (backend: Backend) => Backend][] = [
  ["overlay", (backend) => overlay(backend, { ownsBase: true })],
  ["latency", (backend) => latency(backend)],
  ["faults", (backend) => faults(backend, [])],
  ["trace", (backend) => trace(backend, () => {})],
  ["readahead", (backend) => readahead(backend)],
  ["verify", (backend) => verify(backend, twin(backend))],
  ["verify, as the second disk", (backend) => verify(twin(backend), backend)],
];

function twin({ geometry }: Backend): Backend {
  return new MemoryBackend({ sectors: geometry.sectors });
}

for (const [name, lay] of LAYERS) {
  Deno.test(`a signal and close() end what a server never answers, through ${name}`, async () => {
    for (const aborts of [true, false]) {
      const reached = Promise.withResolvers<void>();
      await using server = await RawServer.start(async (peer) => {
        await peer.attach();
        // So far that a reader is known as one, and read ahead for.
        for (;;) {
          const request = await peer.request();
          if (request.offset >= 16 * 512) {
            reached.resolve();
            continue;
          }
          await peer.chunk(
            request,
            ChunkType.OffsetHole,
            joined([u64(request.offset), u32(request.length)]),
          );
        }
      });
      const disk = VirtualDisk.over(lay(
        await openNbd(server.uri, {
          readOnly: false,
          closeTimeoutMs: PATIENCE_MS,
        }),
      ));
      await inTime("a read", disk.read(0, 8));
      await inTime("a read", disk.read(8, 8));
      const controller = new AbortController();
      const { signal } = controller;
      const options = aborts ? { signal } : {};
      const asked = Promise.allSettled([
        disk.read(16, 8, options),
        disk.read(24, 8, options),
        disk.read(2048, 8, options),
      ]);
      await reached.promise;
      await turns(10);
      if (aborts) controller.abort(new Error("Enough"));
      else await inTime("close()", disk.close());
      for (const outcome of await inTime("the requests", asked)) {
        assert(outcome.status === "rejected");
        if (aborts) assertEquals(outcome.reason.message, "Enough");
        else assertInstanceOf(outcome.reason, DiskError);
      }
      await inTime("close()", disk.close());
    }
  });
}

Deno.test("VirtualDisk.close() waits for a server that is slow but answers", async () => {
  await using server = await RawServer.start(async (peer) => {
    await peer.attach();
    for (;;) {
      const request = await peer.request();
      if (request.type === Command.Disconnect) break;
      await new Promise((resolve) => setTimeout(resolve, 60));
      await peer.simple(request);
    }
  });
  const disk = await VirtualDisk.open(server.uri, { closeTimeoutMs: 300 });
  const writes = Array.from(
    { length: 12 },
    (_, i) => disk.write(16 * i, new Uint8Array(512)),
  );
  await disk.close();
  await Promise.all(writes);
});

Deno.test("VirtualDisk.open() refuses blocks that a server does not take at once", async () => {
  await using server = await RawServer.start(says(
    exportInfo(),
    blockInfo(1, 512, 4096),
  ));
  const error = await failureOf(
    VirtualDisk.open(server.uri, { blockSize: 65_536 }),
  );
  assertEquals(error.kind, "geometry");
  assertStringIncludes(error.message, "takes 4096 bytes at once");
});

/** Silent at once, or after the first answer, with what is asked before close(). */
const SILENT_CLOSES: [
  name: string,
  answered: number,
  ask: (disk: VirtualDisk) => Promise<unknown>[],
][] = [
  ["a write", 0, (disk) => [disk.write(0, new Uint8Array(512))]],
  ["a read", 0, (disk) => [disk.read(0, 1)]],
  ["a flush", 0, (disk) => [disk.flush()]],
  ["a flush after a write", 1, (disk) => [
    disk.write(0, new Uint8Array(512)),
    disk.flush(),
  ]],
];

for (const [name, answered, ask] of SILENT_CLOSES) {
  for (const isLate of [false, true]) {
    Deno.test(`VirtualDisk.close() ends though ${name} is never answered, ${isLate ? "asked before" : "in the same turn"}`, async () => {
      await using server = await RawServer.start(async (peer) => {
        await peer.attach();
        for (let i = 0; i < answered; i++) {
          await peer.simple(await peer.request());
        }
        await silence(peer);
      });
      const disk = await VirtualDisk.open(server.uri, { closeTimeoutMs: 300 });
      const asked = Promise.allSettled(ask(disk));
      if (isLate) await turns(20);
      await inTime("close()", disk.close().catch(() => {}));
      const outcomes = await inTime("the requests", asked);
      assertEquals(
        outcomes.map(({ status }) => status),
        outcomes.map((_, i) => i < answered ? "fulfilled" : "rejected"),
      );
    });
  }
}

// --- What aborted requests leave behind ----------------------------------

Deno.test("NbdBackend.close() ends though the last completion throws", async () => {
  const asked = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  await using server = await RawServer.start(async (peer) => {
    await peer.attach();
    const request = await peer.request();
    asked.resolve();
    await go.promise;
    await peer.simple(request);
    await silence(peer);
  });
  const backend = await openNbd(server.uri, { readOnly: false });
  using uncaught = catchThrown();
  backend.submit([flushRequest()], () => {
    throw new Thrown();
  });
  await asked.promise;
  const closed = backend.close();
  go.resolve();
  await inTime("close()", closed);
  const errors: (DiskError | null)[] = [];
  backend.submit(
    [flushRequest()],
    (_, error) => errors.push(error),
  );
  assertEquals(errors.map((error) => error?.kind), ["closed"]);
  assertEquals(uncaught.count, 1);
});

Deno.test("an aborted write keeps its place before what overlaps it", async () => {
  const seen: string[] = [];
  const release = Promise.withResolvers<void>();
  const got = Promise.withResolvers<void>();
  await using server = await RawServer.start(async (peer) => {
    await peer.attach({ structured: false });
    const first = await peer.request();
    got.resolve();
    const serve = async () => {
      for (;;) {
        const request = await peer.request();
        if (request.type === Command.Disconnect) return;
        seen.push(`${request.type} at ${request.offset / 512}`);
        await peer.simple(request);
        if (request.type === Command.Read) {
          await peer.send(new Uint8Array(request.length));
        }
      }
    };
    const serving = serve();
    await release.promise;
    seen.push("answer");
    await peer.simple(first);
    await serving;
  });
  const disk = await open(server.uri);
  const controller = new AbortController();
  const write = disk.write(8, new Uint8Array(512), {
    signal: controller.signal,
  }).catch(() => "aborted");
  await got.promise;
  controller.abort();
  assertEquals(await write, "aborted");
  const waiting = [
    disk.write(8, new Uint8Array(512).fill(1)),
    disk.read(4, 8),
    disk.flush(),
    disk.write(100, new Uint8Array(512), { fua: true }),
  ];
  const withdrawn = disk.read(8, 1, { signal: AbortSignal.timeout(20) })
    .catch(() => "aborted");
  // Others go by.
  await disk.write(32, new Uint8Array(512));
  await disk.read(64, 1);
  assertEquals(await withdrawn, "aborted");
  assertEquals(seen, ["1 at 32", "0 at 64"]);
  release.resolve();
  await Promise.all(waiting);
  assertEquals(seen[2], "answer");
  assertEquals(seen.length, 7);
  await disk.close();
});

Deno.test("a flush that fails after it was aborted fails the next one", async () => {
  const got = Promise.withResolvers<void>();
  const release = Promise.withResolvers<void>();
  let flushes = 0;
  await using server = await RawServer.start(async (peer) => {
    await peer.attach();
    for (;;) {
      const request = await peer.request();
      if (request.type === Command.Disconnect) return;
      if (request.type !== Command.Flush) {
        await peer.simple(request);
        continue;
      }
      flushes++;
      got.resolve();
      await release.promise;
      await peer.simple(request, 5);
    }
  });
  const disk = await open(server.uri);
  const controller = new AbortController();
  const flush = disk.flush({ signal: controller.signal }).catch(() => null);
  await got.promise;
  controller.abort();
  await flush;
  const next = failureOf(disk.flush());
  release.resolve();
  const error = await next;
  assertEquals(error.kind, "io");
  assertEquals(error.code, "EIO");
  assert(/which was aborted, failed/.test(error.message), error.message);
  assertEquals(
    (await failureOf(disk.write(0, new Uint8Array(512)))).kind,
    "latched",
  );
  assertEquals(flushes, 1);
  await disk.close();
});

Deno.test("the data of an aborted read goes nowhere", async () => {
  const got = Promise.withResolvers<void>();
  const release = Promise.withResolvers<void>();
  await using server = await RawServer.start(async (peer) => {
    await peer.attach();
    const first = await peer.request();
    got.resolve();
    await release.promise;
    await peer.data(first, 0, first.length, true, 0x11);
    const second = await peer.request();
    await peer.data(second, 0, second.length, true, 0x22);
    await silence(peer);
  });
  const disk = await open(server.uri);
  const controller = new AbortController();
  const memory = new Uint8Array(64 << 10).fill(0xab);
  const read = disk.readInto(0, memory, { signal: controller.signal })
    .catch(() => "aborted");
  await got.promise;
  controller.abort();
  assertEquals(await read, "aborted");
  release.resolve();
  assertEquals(await disk.read(0, 8), new Uint8Array(4096).fill(0x22));
  assertEquals(memory, new Uint8Array(64 << 10).fill(0xab));
  await disk.close();
});

Deno.test("requests that are aborted by the thousand do not pile up", async () => {
  await using server = await RawServer.start(async (peer) => {
    await peer.attach();
    await silence(peer);
  });
  const disk = await open(server.uri);
  let dropped: DiskError | null = null;
  for (let round = 0; round < 100 && dropped === null; round++) {
    const controller = new AbortController();
    const reads = Array.from(
      { length: 100 },
      (_, i) => disk.read(i, 1, { signal: controller.signal }),
    );
    const outcomes = Promise.allSettled(reads);
    await new Promise((resolve) => setTimeout(resolve, 0));
    controller.abort();
    for (const outcome of await inTime("reads", outcomes)) {
      assert(outcome.status === "rejected");
      if (outcome.reason instanceof DiskError) dropped = outcome.reason;
    }
  }
  assertEquals(dropped?.kind, "io");
  await inTime("close()", disk.close());
});

// --- Shutting down -------------------------------------------------------

Deno.test("VirtualDisk leaves a server softly that says ESHUTDOWN", async () => {
  const left = Promise.withResolvers<SeenRequest>();
  await using server = await RawServer.start(async (peer) => {
    await peer.attach();
    const first = await peer.request();
    const second = await peer.request();
    await peer.chunk(
      first,
      ERROR,
      errorPayload(108, "\x1b[1mcome back later"),
    );
    // It owes one more answer, and gives it.
    await peer.simple(second);
    left.resolve(await peer.request());
  });
  const disk = await open(server.uri);
  const read = failureOf(disk.read(0, 8));
  const write = disk.write(100, new Uint8Array(512));
  const error = await read;
  assertEquals(error.code, "ESHUTDOWN");
  assertEquals(error.kind, "io");
  assert(/come back later/.test(error.message), error.message);
  const refused = await failureOf(disk.read(8, 8));
  assertEquals(refused.code, "ESHUTDOWN");
  assert(
    /shutting down.*open the disk anew/.test(refused.message),
    refused.message,
  );
  await inTime("the write", write);
  const { type } = await inTime("leaving", left.promise);
  assertEquals(type, Command.Disconnect);
  assertEquals((await failureOf(disk.read(8, 8))).code, "ESHUTDOWN");
  await disk.close();
});

// --- Memory that changes -------------------------------------------------

Deno.test("a write whose memory goes away is not sent, and harms no neighbour", async () => {
  const seen: SeenRequest[] = [];
  const start = Promise.withResolvers<void>();
  await using server = await RawServer.start(async (peer) => {
    await peer.attach({ size: 64 << 20 });
    // Nothing is taken at first, so that writes wait in line.
    await start.promise;
    for (;;) {
      const request = await peer.request();
      if (request.type === Command.Disconnect) return;
      seen.push(request);
      await peer.simple(request);
    }
  });
  const disk = await open(server.uri);
  const large = 1 << 20;
  const first = disk.write(0, new Uint8Array(4 * large).fill(1));
  await turns(10);
  const gone = new Uint8Array(large).fill(2);
  const shrunk = new Uint8Array(
    new ArrayBuffer(large, { maxByteLength: large }),
  ).fill(3);
  const writes = [
    disk.write(8192, gone),
    disk.write(16_384, shrunk),
    disk.write(24_576, new Uint8Array(512).fill(4)),
    disk.write(32_768, new Uint8Array(large).fill(5)),
  ];
  const small = new Uint8Array(4096).fill(6);
  writes.push(disk.write(40_960, small));
  await turns(10);
  const theirs = structuredClone(gone.buffer, { transfer: [gone.buffer] });
  new Uint8Array(theirs).fill(0xee);
  (shrunk.buffer as ArrayBuffer).resize(512);
  structuredClone(small.buffer, { transfer: [small.buffer] });
  start.resolve();
  const [a, ...others] = await inTime("writes", Promise.allSettled(writes));
  await first;
  assert(a!.status === "rejected");
  assertInstanceOf(a!.reason, DiskError);
  assertEquals(a!.reason.kind, "argument");
  // What was copied when it was submitted is what was submitted.
  assert(others.every(({ status }) => status === "fulfilled"));
  await disk.close();
  assertEquals(
    seen.map(({ offset, payload }) => [offset / 512, payload[0]]),
    [[0, 1], [16_384, 3], [24_576, 4], [32_768, 5], [40_960, 6]],
  );
  for (const { payload } of seen) {
    assert(payload.every((byte) => byte === payload[0]));
  }
});

Deno.test("a write whose memory goes away halfway costs the connection, and is told that it is why", async () => {
  const rest = Promise.withResolvers<Uint8Array>();
  const start = Promise.withResolvers<void>();
  await using server = await RawServer.start(async (peer) => {
    await peer.attach({ size: 64 << 20 });
    await start.promise;
    rest.resolve(await peer.rest());
  });
  const disk = await open(server.uri);
  const data = new Uint8Array(16 << 20).fill(7);
  const write = failureOf(disk.write(0, data));
  const neighbour = failureOf(disk.write(100_000, new Uint8Array(512).fill(9)));
  await turns(20);
  new Uint8Array(
    structuredClone(data.buffer, { transfer: [data.buffer] }),
  ).fill(0xee);
  start.resolve();
  const [error, innocent] = [await write, await neighbour];
  assertEquals(error.kind, "argument");
  assert(/detached or resized/.test(error.message), error.message);
  assertEquals([innocent.kind, innocent.code], ["io", "ENOTCONN"]);
  assert(/resized while it was sent$/.test(innocent.message));
  // Never were other bytes taken for its payload: it is short.
  const bytes = await inTime("hanging up", rest.promise);
  assert(bytes.length < (16 << 20));
  await disk.close();
});

Deno.test("a read whose memory goes away fails, and harms no neighbour", async () => {
  const large = 1 << 20;
  for (const length of [4096, large]) {
    for (const when of ["before", "halfway"]) {
      const got = Promise.withResolvers<void>();
      const start = Promise.withResolvers<void>();
      await using server = await RawServer.start(async (peer) => {
        await peer.attach({ structured: false });
        const first = await peer.request();
        const second = await peer.request();
        const half = when === "halfway" ? length / 2 : 0;
        if (half > 0) {
          await peer.send(simpleReply(first.cookie));
          await peer.send(new Uint8Array(half).fill(0x11));
        }
        got.resolve();
        await start.promise;
        if (half === 0) await peer.send(simpleReply(first.cookie));
        await peer.send(new Uint8Array(length - half).fill(0x11));
        await peer.simple(second);
        await peer.send(new Uint8Array(second.length).fill(0x22));
        await silence(peer);
      });
      const disk = await open(server.uri);
      const memory = new Uint8Array(length);
      const read = failureOf(disk.readInto(0, memory));
      const neighbour = disk.read(8192, 8);
      await got.promise;
      await turns(5);
      structuredClone(memory.buffer, { transfer: [memory.buffer] });
      start.resolve();
      assertEquals((await read).kind, "argument");
      assertEquals(await neighbour, new Uint8Array(4096).fill(0x22));
      await disk.close();
    }
  }
});

Deno.test("requests take memory that can be resized or is shared", async () => {
  const stored = new Uint8Array(8 << 20);
  await using server = await RawServer.start(async (peer) => {
    await peer.attach();
    for (;;) {
      const request = await peer.request();
      const { type, offset, length, payload } = request;
      if (type === Command.Disconnect) return;
      if (type === Command.Write) {
        stored.set(payload, offset);
        await peer.simple(request);
      } else {
        await peer.chunk(
          request,
          ChunkType.OffsetData,
          joined([u64(offset), stored.subarray(offset, offset + length)]),
        );
      }
    }
  });
  const disk = await open(server.uri);
  const size = 1 << 20;
  for (
    const memory of [
      new Uint8Array(new ArrayBuffer(size, { maxByteLength: 2 * size })),
      new Uint8Array(new SharedArrayBuffer(size)) as Uint8Array,
      new Uint8Array(
        new WebAssembly.Memory({ initial: 16, maximum: 16 }).buffer,
      ),
    ]
  ) {
    memory.fill(7).fill(8, 5000);
    await disk.write(0, memory as Uint8Array<ArrayBuffer>);
    const before = memory.slice();
    memory.fill(0);
    await disk.readInto(0, memory as Uint8Array<ArrayBuffer>);
    assertEquals(memory.slice(), before);
  }
  await disk.close();
});
