import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStringIncludes,
} from "@std/assert";
import type { ByteStream } from "../../../src/platform/byte_stream.ts";
import { MessageReader } from "../../../src/protocol/nbd/reader.ts";

/** Gives pieces as they are, then nothing more. */
class PieceStream implements ByteStream {
  readonly #pieces: Uint8Array[];
  /** Memory that was read into. */
  readonly targets: Uint8Array[] = [];

  constructor(pieces: readonly Uint8Array[]) {
    this.#pieces = pieces.filter((piece) => piece.length > 0);
  }

  async read(target: Uint8Array): Promise<number | null> {
    await Promise.resolve();
    this.targets.push(target);
    const piece = this.#pieces.shift();
    if (piece === undefined) return null;
    const count = Math.min(piece.length, target.length);
    target.set(piece.subarray(0, count));
    if (count < piece.length) this.#pieces.unshift(piece.subarray(count));
    return count;
  }

  write(): Promise<number> {
    throw new Error("Nothing is written here");
  }

  close(): void {}
}

/** A message: its type, its length and as many bytes as that. */
interface Message {
  readonly type: number;
  readonly payload: Uint8Array;
}

const Type = { Small: 1, Payload: 2, Unwanted: 3 } as const;
const HEAD_BYTES = 5;

function bytesFrom(seed: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (seed + i * 7) & 0xff);
}

function encode(messages: readonly Message[]): Uint8Array {
  const total = messages.reduce(
    (sum, { payload }) => sum + HEAD_BYTES + payload.length,
    0,
  );
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const { type, payload } of messages) {
    view.setUint8(at, type);
    view.setUint32(at + 1, payload.length);
    bytes.set(payload, at + HEAD_BYTES);
    at += HEAD_BYTES + payload.length;
  }
  return bytes;
}

/** Reads as client and server do, until the end; what is unwanted is missing. */
async function readAll(reader: MessageReader): Promise<Message[]> {
  const messages: Message[] = [];
  let filling: Message | null = null;
  let filled = 0;
  const takeNext = (): boolean => {
    if (filling !== null) {
      const { payload } = filling;
      const count = Math.min(payload.length - filled, reader.available);
      const at = reader.take(count);
      payload.set(reader.bytes.subarray(at, at + count), filled);
      filled += count;
      if (filled < payload.length) return false;
      messages.push(filling);
      filling = null;
      return true;
    }
    if (reader.available < HEAD_BYTES) return false;
    const type = reader.view.getUint8(reader.at);
    const length = reader.view.getUint32(reader.at + 1);
    if (type === Type.Small) {
      if (reader.available < HEAD_BYTES + length) return false;
      const at = reader.take(HEAD_BYTES + length) + HEAD_BYTES;
      messages.push({ type, payload: reader.bytes.slice(at, at + length) });
      return true;
    }
    reader.take(HEAD_BYTES);
    if (type === Type.Unwanted) reader.drain(length);
    else {
      filling = { type, payload: new Uint8Array(length) };
      filled = 0;
    }
    return true;
  };
  for (;;) {
    while (takeNext());
    const target: Uint8Array | null = filling !== null &&
        reader.canGoStraight(
          (filling as Message).payload.length - filled,
        )
      ? (filling as Message).payload.subarray(filled)
      : null;
    const count = await reader.fill(target);
    if (count === null) break;
    if (target !== null) filled += count;
  }
  assertEquals(filling, null);
  return messages;
}

Deno.test("MessageReader gives the same messages wherever they are split", async () => {
  const messages: Message[] = [
    { type: Type.Small, payload: bytesFrom(1, 0) },
    { type: Type.Small, payload: bytesFrom(2, 11) },
    { type: Type.Payload, payload: bytesFrom(3, 29) },
    { type: Type.Unwanted, payload: bytesFrom(4, 37) },
    { type: Type.Payload, payload: bytesFrom(5, 1) },
    { type: Type.Unwanted, payload: bytesFrom(6, 0) },
    { type: Type.Small, payload: bytesFrom(7, 16) },
  ];
  const wanted = messages.filter(({ type }) => type !== Type.Unwanted);
  const wire = encode(messages);
  const read = async (pieces: readonly Uint8Array[], capacity: number) => {
    const reader = new MessageReader(new PieceStream(pieces), capacity);
    assertEquals(await readAll(reader), wanted);
    assertEquals(reader.receivedBytes, wire.length);
    assertEquals(reader.available, 0);
  };
  for (const capacity of [HEAD_BYTES + 16, 64, 4096]) {
    await read([wire], capacity);
    await read([...wire].map((byte) => Uint8Array.of(byte)), capacity);
    for (let first = 1; first < wire.length; first++) {
      for (let second = first; second < wire.length; second++) {
        await read([
          wire.subarray(0, first),
          wire.subarray(first, second),
          wire.subarray(second),
        ], capacity);
      }
    }
  }
});

Deno.test("MessageReader reads large payloads to where they belong, in any pieces", async () => {
  const messages: Message[] = [
    { type: Type.Payload, payload: bytesFrom(1, 8191) },
    { type: Type.Payload, payload: bytesFrom(2, 300_000) },
    { type: Type.Unwanted, payload: bytesFrom(3, 200_000) },
    { type: Type.Small, payload: bytesFrom(4, 3) },
    { type: Type.Payload, payload: bytesFrom(5, 65_536) },
  ];
  const wanted = messages.filter(({ type }) => type !== Type.Unwanted);
  const wire = encode(messages);
  for (const size of [1000, 8192, 65_536, 100_003, wire.length]) {
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < wire.length; at += size) {
      pieces.push(wire.subarray(at, at + size));
    }
    const stream = new PieceStream(pieces);
    const reader = new MessageReader(stream);
    assertEquals(await readAll(reader), wanted);
    assertEquals(reader.receivedBytes, wire.length);
    assertEquals(
      stream.targets.some(({ buffer }) => buffer !== reader.bytes.buffer),
      true,
    );
  }
});

Deno.test("MessageReader goes straight only when nothing waits to be taken", async () => {
  const reader = new MessageReader(new PieceStream([Uint8Array.of(1, 2)]));
  assert(reader.canGoStraight(8192));
  assert(!reader.canGoStraight(8191));
  assertEquals(await reader.fill(), 2);
  assert(!reader.canGoStraight(8192));
  assertEquals(reader.peek(), Uint8Array.of(1, 2));
  assertEquals(reader.take(2), 0);
  assert(reader.canGoStraight(8192));
});

Deno.test("MessageReader.fill() says when the stream ends, and leaves what has come", async () => {
  const reader = new MessageReader(new PieceStream([Uint8Array.of(1, 2, 3)]));
  assertEquals(await reader.fill(), 3);
  reader.take(1);
  assertEquals(await reader.fill(), null);
  assertEquals(reader.peek(), Uint8Array.of(2, 3));
  assertEquals(await reader.fill(), null);
  reader.drain(10);
  assertEquals(reader.available, 0);
  assertEquals(await reader.fill(), null);
  assertEquals(await reader.fill(new Uint8Array(8192)), null);
});

Deno.test("MessageReader.fill() says why nothing comes if the stream fails or a message has no room", async () => {
  const failing = new PieceStream([]);
  failing.read = () => Promise.reject(new Error("Gone"));
  const failed = new MessageReader(failing);
  assertEquals(await failed.fill(), null);
  assertInstanceOf(failed.failure, Error);
  assertEquals(failed.failure.message, "Gone");
  const reader = new MessageReader(
    new PieceStream([new Uint8Array(5)]),
    4,
  );
  assertEquals(await reader.fill(), 4);
  assertEquals(await reader.fill(), null);
  assertInstanceOf(reader.failure, Error);
  assertStringIncludes(reader.failure.message, "longer than the room");
  reader.take(1);
  assertEquals(await reader.fill(), 1);
});

Deno.test("MessageReader.resize() and switchTo() keep what has come", async () => {
  const reader = new MessageReader(
    new PieceStream([Uint8Array.of(1, 2, 3, 4)]),
    4,
  );
  await reader.fill();
  reader.take(1);
  reader.resize(16);
  assertEquals(reader.peek(), Uint8Array.of(2, 3, 4));
  assertEquals(reader.view.getUint8(reader.at), 2);
  reader.switchTo(new PieceStream([bytesFrom(0, 20)]));
  assertEquals(await reader.fill(), 13);
  assertEquals(reader.peek().subarray(3), bytesFrom(0, 13));
  assertEquals(reader.receivedBytes, 17);
});
