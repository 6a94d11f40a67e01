import { assertEquals, assertThrows } from "@std/assert";
import {
  formatConfig,
  formatMessage,
  formatU64,
  formatVringState,
  FrontEndMessage,
  HEADER_BYTES,
  MAX_PAYLOAD_BYTES,
  parseConfig,
  parseEmpty,
  parseHeader,
  parseMemoryTable,
  parseU64,
  parseVringAddresses,
  parseVringDescriptor,
  parseVringState,
  VhostProtocolError,
} from "../../src/vhost/messages.ts";
import { Random } from "../../src/random.ts";

/** Little-endian numbers one after the other: bytes and value of each. */
function pack(...fields: [bytes: number, value: bigint | number][]) {
  const length = fields.reduce((sum, [bytes]) => sum + bytes, 0);
  const packed = new Uint8Array(length);
  let at = 0;
  for (const [bytes, value] of fields) {
    for (let i = 0; i < bytes; i++) {
      packed[at++] = Number(BigInt(value) >> BigInt(8 * i) & 0xffn);
    }
  }
  return packed;
}

function header(request: number, flags: number, size: number) {
  return parseHeader(
    new DataView(pack([4, request], [4, flags], [4, size]).buffer),
  );
}

Deno.test("parseHeader() reads a request of version 1", () => {
  assertEquals(header(24, 1, 69), {
    request: 24,
    needsReply: false,
    size: 69,
  });
  assertEquals(header(5, 9, 0), { request: 5, needsReply: true, size: 0 });
});

Deno.test("parseHeader() refuses another version, a reply and a long payload", () => {
  for (
    const [flags, size] of [[0, 0], [2, 0], [5, 0], [1, MAX_PAYLOAD_BYTES + 1]]
  ) {
    assertThrows(() => header(1, flags!, size!), VhostProtocolError);
  }
});

Deno.test("formatMessage() makes a reply that QEMU takes: flags are exactly 5", () => {
  const target = new Uint8Array(64);
  const length = formatMessage(
    target,
    FrontEndMessage.GetFeatures,
    true,
    formatU64(0x1_4000_0000n),
  );
  assertEquals(length, HEADER_BYTES + 8);
  assertEquals(
    target.subarray(0, length),
    pack([4, 1], [4, 5], [4, 8], [8, 0x1_4000_0000n]),
  );
});

Deno.test("formatMessage() makes a message of ours without the reply flag", () => {
  const target = new Uint8Array(64);
  assertEquals(formatMessage(target, 2, false, new Uint8Array(0)), 12);
  assertEquals(target.subarray(0, 12), pack([4, 2], [4, 1], [4, 0]));
});

Deno.test("parseU64() and parseEmpty() want their length", () => {
  assertEquals(parseU64(formatU64(2n ** 63n)), 2n ** 63n);
  parseEmpty(new Uint8Array(0));
  assertThrows(() => parseU64(new Uint8Array(7)), VhostProtocolError);
  assertThrows(() => parseEmpty(new Uint8Array(1)), VhostProtocolError);
});

Deno.test("parseMemoryTable() reads the regions that QEMU sends for 512 MiB", () => {
  const payload = pack(
    [4, 2],
    [4, 0],
    [8, 0],
    [8, 0xa0000],
    [8, 0x7f00_0000_0000],
    [8, 0],
    [8, 0xc0000],
    [8, 0x1ff4_0000],
    [8, 0x7f00_000c_0000],
    [8, 0xc0000],
  );
  assertEquals(parseMemoryTable(payload), [
    {
      guestAddress: 0,
      byteLength: 0xa0000,
      userAddress: 0x7f00_0000_0000,
      fileOffset: 0,
    },
    {
      guestAddress: 0xc0000,
      byteLength: 0x1ff4_0000,
      userAddress: 0x7f00_000c_0000,
      fileOffset: 0xc0000,
    },
  ]);
});

Deno.test("parseMemoryTable() refuses no region, nine, a short payload and 2^53", () => {
  const region = (value: bigint) =>
    [[8, 0], [8, value], [8, 0], [8, 0]] as [number, bigint | number][];
  for (
    const payload of [
      pack([4, 0], [4, 0]),
      pack([4, 9], [4, 0], ...Array(9).fill(region(1n)).flat()),
      pack([4, 2], [4, 0], ...region(1n)),
      pack([4, 1], [4, 0], ...region(2n ** 53n)),
      new Uint8Array(7),
    ]
  ) assertThrows(() => parseMemoryTable(payload), VhostProtocolError);
});

Deno.test("parseVringState() and formatVringState() are each other's inverse", () => {
  const state = { index: 3, value: 0xffff };
  assertEquals(parseVringState(formatVringState(state)), state);
});

Deno.test("parseVringAddresses() knows that used comes before available", () => {
  assertEquals(
    parseVringAddresses(
      pack([4, 1], [4, 0], [8, 0x1000], [8, 0x3000], [8, 0x2000], [8, 0]),
    ),
    { index: 1, descriptors: 0x1000, used: 0x3000, available: 0x2000 },
  );
});

Deno.test("parseVringDescriptor() tells whether a descriptor came", () => {
  assertEquals(parseVringDescriptor(pack([8, 2])), {
    index: 2,
    hasDescriptor: true,
  });
  assertEquals(parseVringDescriptor(pack([8, 0x102])), {
    index: 2,
    hasDescriptor: false,
  });
});

Deno.test("parseConfig() reads what formatConfig() writes", () => {
  const bytes = new Uint8Array([1, 2, 3]);
  assertEquals(parseConfig(formatConfig(32, bytes)), {
    offset: 32,
    size: 3,
    bytes,
  });
});

Deno.test("parseConfig() refuses what leaves the configuration space or is cut", () => {
  for (
    const payload of [
      pack([4, 250], [4, 7], [4, 0], [7, 0]),
      pack([4, 0xffff_ffff], [4, 0], [4, 0]),
      pack([4, 0], [4, 4], [4, 0], [3, 0]),
      new Uint8Array(11),
    ]
  ) assertThrows(() => parseConfig(payload), VhostProtocolError);
});

Deno.test("parsers throw nothing but VhostProtocolError, whatever comes", () => {
  const random = new Random(13);
  const parsers = [
    parseConfig,
    parseEmpty,
    parseMemoryTable,
    parseU64,
    parseVringAddresses,
    parseVringDescriptor,
    parseVringState,
  ];
  for (let i = 0; i < 5000; i++) {
    const payload = new Uint8Array(random.below(80));
    for (let at = 0; at < payload.length; at++) {
      payload[at] = random.below(2) === 0 ? 0 : random.below(256);
    }
    for (const parse of parsers) {
      try {
        parse(payload);
      } catch (error) {
        if (!(error instanceof VhostProtocolError)) throw error;
      }
    }
  }
});
