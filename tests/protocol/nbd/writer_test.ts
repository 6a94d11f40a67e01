import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import type { ByteStream } from "../../../src/platform/byte_stream.ts";
import { StreamWriter } from "../../../src/protocol/nbd/writer.ts";
import { Random } from "../../../src/random.ts";
import { joined } from "../../nbd/wire.ts";

/** Takes what is written, in pieces as it likes, when it is let. */
class Sink implements ByteStream {
  readonly #parts: Uint8Array[] = [];
  readonly #most: () => number;
  #gate: Promise<void> = Promise.resolve();
  /** Lengths of what was handed over, call by call. */
  readonly calls: number[] = [];

  constructor(most: () => number = () => Infinity) {
    this.#most = most;
  }

  /** Holds writes back until what is returned is called. */
  hold(): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#gate = promise;
    return resolve;
  }

  get received(): Uint8Array {
    return joined(this.#parts);
  }

  read(): Promise<number | null> {
    throw new Error("Nothing is read here");
  }

  async write(source: Uint8Array): Promise<number> {
    this.calls.push(source.length);
    // The memory may be gone by the time that the gate opens.
    const taken = source.slice(0, this.#most());
    await this.#gate;
    this.#parts.push(taken);
    return taken.length;
  }

  close(): void {}
}

/** A writer that must not fail. */
function writerTo(sink: Sink): StreamWriter {
  return new StreamWriter(sink, () => {}, (error) => {
    throw error;
  });
}

function reserve(writer: StreamWriter, bytes: Uint8Array): void {
  const at = writer.reserve(bytes.length);
  new Uint8Array(writer.view.buffer).set(bytes, at);
}

function detach({ buffer }: Uint8Array): void {
  structuredClone(buffer, { transfer: [buffer as ArrayBuffer] });
}

const filled = (length: number, value: number) =>
  new Uint8Array(length).fill(value);

function assertSame(actual: Uint8Array, expected: Uint8Array): void {
  assertEquals(actual.length, expected.length);
  const at = actual.findIndex((byte, i) => byte !== expected[i]);
  assertEquals(at, -1, `byte ${at}: ${actual[at]}, not ${expected[at]}`);
}

Deno.test("StreamWriter writes what is pushed in order, whatever the stream takes at once", async () => {
  const seed = Math.floor(Math.random() * 2 ** 32);
  console.log(`seed ${seed}`);
  const random = new Random(seed);
  for (let round = 0; round < 10; round++) {
    const sink = new Sink(() =>
      random.chance(1, 4) ? random.between(1, 700) : 60_000
    );
    let progress = 0;
    const writer = new StreamWriter(sink, () => progress++, (error) => {
      throw error;
    });
    const expected: Uint8Array[] = [];
    let freed = 0;
    let pushed = 0;
    for (let i = 0; i < 60; i++) {
      const make = () => {
        const size = random.pick([1, 28, 500, 16_384, 20_000, 33_000, 70_000]);
        const bytes = filled(size, random.below(256));
        expected.push(bytes.slice());
        return bytes;
      };
      if (random.chance(1, 3)) {
        writer.begin(() => {
          throw new Error("Dropped");
        });
        reserve(writer, make());
        const parts = Array.from({ length: random.between(1, 3) }, make);
        for (const part of parts) writer.push(part);
        const message = writer.end();
        assertEquals(
          message !== null,
          parts.some(({ length }) => length > 32_768),
        );
        if (message !== null) assert(!message.dropped);
      } else if (random.chance(1, 2)) {
        const bytes = filled(random.between(1, 40), i);
        expected.push(bytes);
        reserve(writer, bytes);
      } else {
        pushed++;
        writer.push(make(), () => freed++);
      }
      if (random.chance(1, 5)) await Promise.resolve();
    }
    const total = joined(expected);
    assertEquals(writer.writtenBytes + writer.pendingBytes, total.length);
    assert(writer.copiedBytes <= writer.pendingBytes);
    await writer.settled();
    assertSame(sink.received, total);
    assertEquals(
      [writer.pendingBytes, writer.copiedBytes, writer.writtenBytes, freed],
      [0, 0, total.length, pushed],
    );
    assert(progress > 0);
  }
});

Deno.test("StreamWriter joins the small messages of one turn, and of one write", async () => {
  const sink = new Sink();
  const writer = writerTo(sink);
  const go = sink.hold();
  for (let i = 0; i < 100; i++) reserve(writer, filled(16, i));
  await Promise.resolve();
  for (let i = 0; i < 50; i++) {
    writer.begin(() => {});
    reserve(writer, filled(28, i));
    writer.push(filled(4096, i));
    assertEquals(writer.end(), null);
  }
  go();
  await writer.settled();
  // The second lot lies in more than one piece of memory.
  assertEquals(sink.calls[0], 1600);
  assert(sink.calls.length <= 3, `${sink.calls}`);
  assertEquals(sink.received.length, 1600 + 50 * 4124);
});

Deno.test("StreamWriter drops a message whose memory changes before it is sent, and nothing beside it", async () => {
  for (const how of ["detach", "release"]) {
    const sink = new Sink();
    const writer = writerTo(sink);
    const go = sink.hold();
    const dropped: string[] = [];
    reserve(writer, filled(10, 1));
    const message = (value: number) => {
      const data = filled(40_000, value);
      writer.begin(() => dropped.push(`message ${value}`));
      reserve(writer, filled(28, value));
      // Copied; then lent; its end is held back.
      writer.push(filled(512, value));
      writer.push(data);
      return { data, outgoing: writer.end()! };
    };
    const wrong = message(2);
    reserve(writer, filled(20, 3));
    const right = message(4);
    reserve(writer, filled(30, 5));
    if (how === "detach") detach(wrong.data);
    else assertEquals(writer.release(wrong.outgoing), null);
    go();
    await writer.settled();
    assertEquals(dropped, how === "detach" ? ["message 2"] : []);
    assert(wrong.outgoing.dropped);
    assert(!right.outgoing.dropped);
    assertSame(
      sink.received,
      joined([
        filled(10, 1),
        filled(20, 3),
        filled(28 + 512 + 40_000, 4),
        filled(30, 5),
      ]),
    );
    assertEquals([writer.pendingBytes, writer.copiedBytes], [0, 0]);
  }
});

Deno.test("StreamWriter fails if memory changes while a message is sent, and never sends its end", async () => {
  for (const released of [false, true]) {
    const sink = new Sink(() => 30_000);
    const failures: unknown[] = [];
    const writer = new StreamWriter(
      sink,
      () => {},
      (error) => failures.push(error),
    );
    const data = filled(50_000, 7);
    writer.begin(() => {
      throw new Error("Dropped");
    });
    reserve(writer, filled(28, 7));
    writer.push(data);
    const message = writer.end()!;
    // Its beginning is sent, and some of the data is with the system.
    while (sink.calls.length < 2) await Promise.resolve();
    const go = sink.hold();
    while (sink.calls.length < 3) await Promise.resolve();
    const wait = released ? writer.release(message) : null;
    detach(data);
    go();
    await wait;
    await writer.settled();
    assertEquals(failures.length, 1);
    assertInstanceOf(failures[0], Error);
    assert(/detached or resized while it was sent/.test(failures[0].message));
    assert(sink.received.length < 28 + 50_000 - 511);
  }
});

Deno.test("StreamWriter.release() sends the rest of a message from a copy", async () => {
  const sink = new Sink(() => 30_000);
  const writer = writerTo(sink);
  const data = filled(100_000, 7);
  const more = filled(40_000, 8);
  writer.begin(() => {
    throw new Error("Dropped");
  });
  reserve(writer, filled(28, 7));
  writer.push(data);
  writer.push(more);
  const message = writer.end()!;
  while (sink.calls.length < 2) await Promise.resolve();
  const go = sink.hold();
  while (sink.calls.length < 3) await Promise.resolve();
  let over = false;
  const wait = writer.release(message)!.then(() => over = true);
  // The system still has it.
  for (let i = 0; i < 20; i++) await Promise.resolve();
  assertEquals(over, false);
  go();
  await wait;
  data.fill(1);
  detach(more);
  await writer.settled();
  assertSame(
    sink.received,
    joined([filled(100_028, 7), filled(40_000, 8)]),
  );
  assertEquals(writer.release(message), null);
});

Deno.test("StreamWriter.release() sends a message of which only the end is left, as the next one is dropped", async () => {
  const sink = new Sink();
  const writer = writerTo(sink);
  const message = (value: number, onDropped: () => void) => {
    const data = filled(40_000, value);
    writer.begin(onDropped);
    reserve(writer, filled(28, value));
    writer.push(data);
    return { data, outgoing: writer.end()! };
  };
  const kept = message(2, () => {});
  // Its beginning lies beside the end of the one before.
  const wrong = message(3, () => {
    assertEquals(writer.release(kept.outgoing), null);
  });
  detach(wrong.data);
  await writer.settled();
  assertEquals(
    [kept.outgoing.dropped, wrong.outgoing.dropped],
    [false, true],
  );
  assertSame(sink.received, filled(40_028, 2));
});

Deno.test("StreamWriter.abandon() writes nothing more, and waits for what is with the system", async () => {
  const sink = new Sink();
  const writer = writerTo(sink);
  const go = sink.hold();
  writer.push(filled(20_000, 1));
  await Promise.resolve();
  const data = filled(40_000, 2);
  let dropped = false;
  writer.begin(() => dropped = true);
  writer.push(data);
  writer.end();
  writer.abandon();
  detach(data);
  const stopped = writer.stopped();
  assert(stopped !== null);
  go();
  await stopped;
  assertEquals(writer.stopped(), null);
  // What all have lost is told by whoever abandons it.
  assertEquals(dropped, false);
  assertEquals(sink.received.length, 20_000);
  assertEquals(writer.pendingBytes, 0);
});

Deno.test("StreamWriter gives memory back that it never sends, and takes none after abandon()", async () => {
  for (const isBusy of [false, true]) {
    const sink = new Sink();
    let progress = 0;
    const writer = new StreamWriter(sink, () => progress++, (error) => {
      throw error;
    });
    const go = sink.hold();
    let free = 0;
    const push = () => writer.push(filled(20_000, 1), () => free++);
    push();
    push();
    reserve(writer, filled(28, 2));
    if (isBusy) await Promise.resolve();
    writer.abandon();
    // What the system has is not free.
    assertEquals([free, progress], isBusy ? [0, 0] : [2, 1]);
    const { pendingBytes, copiedBytes } = writer;
    push();
    reserve(writer, filled(28, 3));
    let dropped = false;
    writer.begin(() => dropped = true);
    writer.push(filled(40_000, 4));
    assertEquals(writer.end(), null);
    assertEquals(
      [free, dropped, writer.pendingBytes, writer.copiedBytes],
      [isBusy ? 1 : 3, false, pendingBytes, copiedBytes],
    );
    go();
    await writer.stopped();
    await writer.settled();
    assertEquals([writer.pendingBytes, writer.copiedBytes], [0, 0]);
    assertEquals(free, 3);
    assertEquals(sink.calls.length, isBusy ? 1 : 0);
  }
});
