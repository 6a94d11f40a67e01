/**
 * Streams over a disk that answers when told, and over one in memory.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { Random } from "../../src/random.ts";
import {
  readableStream,
  type StreamableDisk,
  writableStream,
  type WritableStreamOptions,
} from "../../src/disk/streams.ts";
import { altered } from "../fake_backend.ts";

interface Held {
  kind: "read" | "write" | "flush";
  sector: number;
  count: number;
  data: Uint8Array;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** A disk that holds every request until it is told to answer. */
class HeldDisk implements StreamableDisk {
  readonly sectors: number;
  readonly blockSize: number;
  readonly held: Held[] = [];
  /** Everything asked for, such as `"read 0+4"`. */
  readonly log: string[] = [];
  allocated = 0;
  most = 0;

  constructor(sectors: number, blockSize = 512) {
    this.sectors = sectors;
    this.blockSize = blockSize;
  }

  allocate(sectors: number): Uint8Array<ArrayBuffer> {
    this.allocated++;
    return new Uint8Array(sectors * 512);
  }

  readInto(
    sector: number,
    data: Uint8Array,
    options?: { signal?: AbortSignal },
  ): Promise<void> {
    return this.#hold("read", sector, data, options?.signal);
  }

  write(
    sector: number,
    data: Uint8Array,
    options?: { signal?: AbortSignal },
  ): Promise<void> {
    return this.#hold("write", sector, data, options?.signal);
  }

  flush(): Promise<void> {
    return this.#hold("flush", 0, new Uint8Array());
  }

  #hold(
    kind: Held["kind"],
    sector: number,
    data: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const count = data.length / 512;
    this.log.push(count === 0 ? kind : `${kind} ${sector}+${count}`);
    const held = { kind, sector, count, data, resolve, reject };
    this.held.push(held);
    this.most = Math.max(this.most, this.held.length);
    signal?.addEventListener("abort", () => {
      this.held.splice(this.held.indexOf(held), 1);
      reject(signal.reason);
    }, { once: true });
    return promise;
  }

  /** Answers one that is held. */
  answer(index: number = 0, error: unknown = undefined): void {
    const [held] = this.held.splice(index, 1);
    if (held!.kind === "read") held!.data.fill(held!.sector + 1);
    if (error === undefined) held!.resolve();
    else held!.reject(error);
  }

  /** Answers everything until nothing more comes. */
  async drain(): Promise<void> {
    await turn();
    while (this.held.length > 0) {
      this.answer();
      await turn();
    }
  }
}

async function turn(): Promise<void> {
  for (let i = 0; i < 200; i++) await null;
}

const eio = () => new DiskError("io", "Cannot read (EIO)", { code: "EIO" });

async function filled(sectors: number, seed = 1) {
  const disk = VirtualDisk.memory({ sectors });
  const content = new Random(seed).bytes(sectors * 512);
  await disk.write(0, content);
  return { disk, content };
}

async function collect(stream: ReadableStream<Uint8Array>) {
  const chunks = await Array.fromAsync(stream);
  const all = new Uint8Array(chunks.reduce((sum, c) => sum + c.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return { chunks, all };
}

// Reading

Deno.test("readable() gives a disk's content in chunks", async () => {
  const { disk, content } = await filled(100);
  const { chunks, all } = await collect(disk.readable({ chunkSectors: 16 }));
  assertEquals(chunks.map(({ length }) => length / 512), [
    ...Array(6).fill(16),
    4,
  ]);
  assertEquals(all, content);
  assertEquals(new Set(chunks.map(({ buffer }) => buffer)).size, 7);
  await disk.close();
});

Deno.test("readable() gives a range", async () => {
  const { disk, content } = await filled(100);
  for (
    const [sector, count] of [[0, 1], [7, 33], [99, 1], [50, 50], [100, 0]]
  ) {
    const { all } = await collect(
      disk.readable({ sector: sector!, count: count!, chunkSectors: 8 }),
    );
    assertEquals(
      all,
      content.subarray(sector! * 512, (sector! + count!) * 512),
    );
  }
  const { all } = await collect(disk.slice(10, 20).readable({ sector: 5 }));
  assertEquals(all, content.subarray(15 * 512, 30 * 512));
  await disk.close();
});

Deno.test("readable() rounds chunks up to whole blocks", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64, blockSize: 4096 });
  const { chunks } = await collect(disk.readable({ chunkSectors: 9 }));
  assertEquals(chunks.map(({ length }) => length / 512), [16, 16, 16, 16]);
});

Deno.test("readable() reads ahead as deep as asked, and no deeper", async () => {
  for (const depth of [1, 2, 4]) {
    const disk = new HeldDisk(1000);
    const stream = readableStream(disk, { chunkSectors: 10, depth });
    const reader = stream.getReader();
    await turn();
    assertEquals(disk.held.length, depth);
    // Nobody takes a chunk: one waits in the stream, the rest is ahead.
    await disk.drain();
    const idle = disk.log.length;
    assert(idle <= depth + 1, `${idle} reads at depth ${depth}`);
    assertEquals(disk.most, depth);
    const { value } = await reader.read();
    assertEquals(value![0], 1);
    await disk.drain();
    assert(disk.log.length > idle && disk.log.length <= idle + 2);
    assertEquals(disk.most, depth);
    await reader.cancel();
    await disk.drain();
  }
});

Deno.test("readable() keeps the order of chunks that are read in another one", async () => {
  const disk = new HeldDisk(40);
  const all = collect(readableStream(disk, { chunkSectors: 10, depth: 4 }));
  await turn();
  assertEquals(disk.held.length, 4);
  for (const index of [3, 1, 1, 0]) {
    disk.answer(index);
    await turn();
  }
  const { chunks } = await all;
  assertEquals(chunks.map((chunk) => chunk[0]), [1, 11, 21, 31]);
});

Deno.test("readable() fails where the disk does, after what was before it", async () => {
  const disk = new HeldDisk(100);
  const reader = readableStream(disk, { chunkSectors: 10, depth: 3 })
    .getReader();
  await turn();
  const error = eio();
  disk.answer(1, error);
  disk.answer(0);
  assertEquals((await reader.read()).value!.length, 5120);
  assertStrictEquals(await assertRejects(() => reader.read()), error);
  await disk.drain();
});

Deno.test("readable() that is cancelled asks for nothing more", async () => {
  const disk = new HeldDisk(1000);
  const stream = readableStream(disk, { chunkSectors: 10, depth: 4 });
  const reader = stream.getReader();
  await turn();
  const cancelled = reader.cancel();
  await disk.drain();
  await cancelled;
  assertEquals(disk.log.length, 4);
  assertEquals((await reader.read()).done, true);
});

Deno.test("readable() ends with its signal's reason", async () => {
  const disk = new HeldDisk(1000);
  const abort = new AbortController();
  const reader = readableStream(disk, {
    chunkSectors: 10,
    signal: abort.signal,
  }).getReader();
  await turn();
  const reason = new Error("Enough");
  abort.abort(reason);
  assertStrictEquals(await assertRejects(() => reader.read()), reason);
  assertEquals(disk.held.length, 0);
});

Deno.test("readable() ends with its signal's reason, also once all is read ahead", async () => {
  for (const [read, left] of [[0, 4], [1, 3], [3, 1], [4, 0]]) {
    const disk = new HeldDisk(16);
    const controller = new AbortController();
    const reader = readableStream(disk, {
      chunkSectors: 4,
      signal: controller.signal,
    }).getReader();
    await disk.drain();
    for (let i = 0; i < read!; i++) {
      assertEquals((await reader.read()).done, false);
    }
    await disk.drain();
    const reason = new Error("Enough");
    controller.abort(reason);
    // One is ready, and no more come; all that were read are a whole stream.
    if (left! > 0) assertEquals((await reader.read()).done, false);
    if (read === 4) assertEquals((await reader.read()).done, true);
    else assertStrictEquals(await assertRejects(() => reader.read()), reason);
  }
});

Deno.test("A loop over readable() that is left cancels it", async () => {
  const { disk } = await filled(1000);
  for await (const chunk of disk.readable({ chunkSectors: 10 })) {
    assertEquals(chunk.length, 5120);
    break;
  }
  assert(disk.counters.bytesRead < 100 * 512);
  await disk.close();
});

const REFUSED: [string, Record<string, number>, string][] = [
  ["a range past the end", { sector: 60, count: 16 }, "range"],
  ["a start past the end", { sector: 72, count: 8 }, "range"],
  ["a start off a block", { sector: 4 }, "alignment"],
  ["a count of no whole blocks", { count: 4 }, "alignment"],
];

for (const [title, options, kind] of REFUSED) {
  Deno.test(`readable() and writable() refuse ${title}`, () => {
    const disk = VirtualDisk.memory({ sectors: 64, blockSize: 4096 });
    for (
      const make of [
        () => disk.readable(options),
        () => disk.writable(options),
      ]
    ) assertEquals(assertThrows(make, DiskError).kind, kind);
  });
}

Deno.test("readable() and writable() refuse numbers that make no sense", () => {
  const disk = VirtualDisk.memory({ sectors: 64 });
  for (
    const options of [
      { sector: -1 },
      { sector: 0.5 },
      { count: -1 },
      { count: NaN },
      { chunkSectors: 0 },
      { chunkSectors: 1.5 },
      { depth: 0 },
      { depth: Infinity },
      ...([null, true, "", "1", [], 1n, Symbol("sector")] as unknown[]).flatMap(
        (value) => [
          { sector: value as number },
          { count: value as number },
          { sector: 100, count: value as number },
        ],
      ),
    ]
  ) {
    assertThrows(() => disk.readable(options), RangeError);
    assertThrows(() => disk.writable(options), RangeError);
  }
  for (const options of [{ sector: 65 }, { sector: 65, count: 0 }]) {
    assertThrows(() => disk.readable(options), DiskError, "64 sectors");
    assertThrows(() => disk.writable(options), DiskError, "64 sectors");
  }
});

// Writing

Deno.test("writable() packs chunks of any length into whole ones", async () => {
  const random = new Random(3);
  for (const blockSize of [512, 4096]) {
    await using disk = VirtualDisk.memory({ sectors: 256, blockSize });
    const content = random.bytes(256 * 512);
    const writer = disk.writable({ chunkSectors: 24, depth: 3 }).getWriter();
    for (let at = 0; at < content.length;) {
      const length = random.pick([0, 1, 3, 511, 512, 513, 5000, 40_000]);
      const chunk = content.slice(at, at + length);
      at += chunk.length;
      const done = writer.write(chunk);
      // Its memory is free again once it is taken.
      done.then(() => chunk.fill(0));
      if (random.chance(1, 2)) await done;
    }
    await writer.close();
    assertEquals(await disk.read(0, 256), content);
    assertEquals(disk.counters.flushes, 1);
  }
});

Deno.test("writable() writes a range, and less than all of it", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const writer = disk.writable({ sector: 8, count: 16, chunkSectors: 4 })
    .getWriter();
  await writer.write(new Uint8Array(7 * 512).fill(3));
  await writer.close();
  const now = await disk.read(0, 64);
  assertEquals([now[7 * 512], now[8 * 512], now[15 * 512 - 1], now[15 * 512]], [
    0,
    3,
    3,
    0,
  ]);
});

Deno.test("writable() does not flush if it is not to", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const writer = disk.writable({ flush: false }).getWriter();
  await writer.write(new Uint8Array(512));
  await writer.close();
  assertEquals(disk.counters.flushes, 0);
});

Deno.test("writable() flushes after its last write is done", async () => {
  const disk = new HeldDisk(64);
  const writer = writableStream(disk, { chunkSectors: 8 }).getWriter();
  const all = [writer.write(new Uint8Array(12 * 512)), writer.close()];
  await turn();
  assertEquals(disk.log, ["write 0+8", "write 8+4"]);
  disk.answer();
  await turn();
  assertEquals(disk.log.length, 2);
  disk.answer();
  await turn();
  assertEquals(disk.log.at(-1), "flush");
  disk.answer();
  await Promise.all(all);
});

Deno.test("writable() refuses what does not fit its range, and writes none of it", async () => {
  await using disk = VirtualDisk.memory({ sectors: 64 });
  const writer = disk.writable({ sector: 8, count: 8, chunkSectors: 4 })
    .getWriter();
  await writer.write(new Uint8Array(7 * 512).fill(1));
  const error = await assertRejects(
    () => writer.write(new Uint8Array(513).fill(2)),
    DiskError,
  );
  assertEquals(error.kind, "range");
  await assertRejects(() => writer.closed, DiskError);
  const now = await disk.read(0, 64);
  assert(now.every((byte) => byte !== 2));
});

Deno.test("writable() refuses to end inside a block", async () => {
  for (const [blockSize, length] of [[512, 700], [4096, 4608], [512, 1]]) {
    await using disk = VirtualDisk.memory({
      sectors: 64,
      blockSize: blockSize!,
    });
    const writer = disk.writable({ chunkSectors: 8 }).getWriter();
    await writer.write(new Uint8Array(length!));
    const error = await assertRejects(() => writer.close(), DiskError);
    assertEquals(error.kind, "alignment");
    assertEquals(disk.counters.flushes, 0);
  }
});

Deno.test("writable() fails with the first failed write, and does not flush", async () => {
  for (const late of [false, true]) {
    const disk = new HeldDisk(64);
    const writer = writableStream(disk, { chunkSectors: 4, depth: 2 })
      .getWriter();
    await writer.write(new Uint8Array(8 * 512));
    assertEquals(disk.held.length, 2);
    const error = eio();
    disk.answer(1, error);
    disk.answer(0, eio());
    await turn();
    const next = late ? writer.close() : writer.write(new Uint8Array(512));
    assertStrictEquals(await assertRejects(() => next), error);
    await assertRejects(() => writer.closed);
    assertEquals(disk.log, ["write 0+4", "write 4+4"]);
  }
});

Deno.test("writable() fails if the flush at its end does", async () => {
  const disk = new HeldDisk(64);
  const writer = writableStream(disk).getWriter();
  const closing = writer.close();
  await turn();
  const error = eio();
  disk.answer(0, error);
  assertStrictEquals(await assertRejects(() => closing), error);
  await assertRejects(() => writer.closed);
});

Deno.test("writable() that is aborted waits for what is in flight, and stops", async () => {
  const disk = new HeldDisk(64);
  const writer = writableStream(disk, { chunkSectors: 4 }).getWriter();
  await writer.write(new Uint8Array(6 * 512));
  let over = false;
  const aborting = writer.abort(new Error("Enough")).then(() => over = true);
  await turn();
  assertEquals(over, false);
  await disk.drain();
  await aborting;
  await assertRejects(() => writer.closed, Error, "Enough");
  assertEquals(disk.log, ["write 0+4"]);
});

Deno.test("writable() ends with its signal's reason", async () => {
  const disk = new HeldDisk(64);
  const abort = new AbortController();
  const writer = writableStream(disk, { chunkSectors: 4, signal: abort.signal })
    .getWriter();
  await writer.write(new Uint8Array(4 * 512));
  const reason = new Error("Enough");
  abort.abort(reason);
  await turn();
  assertStrictEquals(
    await assertRejects(() => writer.write(new Uint8Array(512))),
    reason,
  );
  await assertRejects(() => writer.closed);
});

Deno.test("writable() ends with its signal's reason at its close, also once all is written", async () => {
  for (const chunks of [0, 1, 2, 4]) {
    const disk = new HeldDisk(16);
    const controller = new AbortController();
    const writer = writableStream(disk, {
      chunkSectors: 4,
      signal: controller.signal,
    }).getWriter();
    writer.closed.catch(() => {});
    for (let i = 0; i < chunks; i++) {
      await writer.write(new Uint8Array(4 * 512));
    }
    await disk.drain();
    const reason = new Error("Enough");
    controller.abort(reason);
    assertStrictEquals(await assertRejects(() => writer.close()), reason);
    assertEquals(disk.log.includes("flush"), false);
  }
});

Deno.test("writable() takes memory for no more than its range", async () => {
  for (const chunkSectors of [2 ** 40, 5, 2]) {
    const { disk, content } = await filled(64);
    const allocated: number[] = [];
    const watched: StreamableDisk = {
      sectors: disk.sectors,
      blockSize: disk.blockSize,
      allocate(sectors) {
        allocated.push(sectors);
        return disk.allocate(sectors);
      },
      readInto: (sector, data) => disk.readInto(sector, data),
      write: (sector, data) => disk.write(sector, data),
      flush: () => disk.flush(),
    };
    const writer = writableStream(watched, {
      sector: 8,
      count: 8,
      chunkSectors,
    })
      .getWriter();
    for (let i = 0; i < 8; i++) await writer.write(new Uint8Array(512).fill(i));
    await writer.close();
    for (let i = 0; i < 8; i++) content.fill(i, (8 + i) * 512, (9 + i) * 512);
    assertEquals(await disk.read(0, 64), content);
    assertEquals(Math.max(...allocated), Math.min(chunkSectors, 8));
    let read = 0;
    const options = { sector: 8, count: 8, chunkSectors };
    for await (const chunk of readableStream(watched, options)) {
      read += chunk.length;
    }
    assertEquals(read, 8 * 512);
    await disk.close();
  }
});

Deno.test("writable() has no more memory and writes than its depth", async () => {
  for (const depth of [1, 2, 4]) {
    const disk = new HeldDisk(1000);
    const writer = writableStream(disk, { chunkSectors: 10, depth })
      .getWriter();
    let taken = 0;
    const all = Array.from(
      { length: 100 },
      () => writer.write(new Uint8Array(5120)).then(() => taken++),
    );
    await turn();
    assertEquals(disk.held.length, depth);
    // Nothing is answered: no more than the writes in flight are taken.
    assertEquals(taken, depth);
    await disk.drain();
    await Promise.all(all);
    const closing = writer.close();
    await disk.drain();
    await closing;
    assertEquals(disk.most, depth);
    assertEquals(disk.allocated, depth);
  }
});

Deno.test("writable() refuses chunks that are no bytes", async () => {
  for (const chunk of ["text", new ArrayBuffer(512), [1, 2, 3], null]) {
    await using disk = VirtualDisk.memory({ sectors: 64 });
    const writer = disk.writable().getWriter();
    await assertRejects(
      () => writer.write(chunk as unknown as Uint8Array),
      TypeError,
    );
    await assertRejects(() => writer.closed, TypeError);
  }
});

Deno.test("readable() piped into writable() copies a disk", async () => {
  const { disk, content } = await filled(1000, 9);
  await using target = VirtualDisk.memory({ sectors: 1000, blockSize: 4096 });
  await disk.readable({ chunkSectors: 33 }).pipeTo(
    target.writable({ chunkSectors: 64 }),
  );
  assertEquals(await target.read(0, 1000), content);
  await disk.close();
});

/** What happens to a chunk before it is written, or while it is. */
const CHANGES: Record<string, (chunk: Uint8Array<ArrayBuffer>) => void> = {
  detached: (chunk) => void chunk.buffer.transfer(),
  resized: (chunk) => chunk.buffer.resize(512),
};

for (const [what, change] of Object.entries(CHANGES)) {
  for (const isTaken of [false, true]) {
    Deno.test(
      `writable() writes nothing out of its place if a chunk is ${what} ${
        isTaken ? "while it is written" : "while it waits"
      }`,
      async () => {
        const disk = new HeldDisk(64);
        const stream = writableStream(disk, { chunkSectors: 1, depth: 1 });
        const writer = stream.getWriter();
        const buffer = new ArrayBuffer(2048, { maxByteLength: 4096 });
        const chunk = new Uint8Array(buffer);
        const writes = [new Uint8Array(isTaken ? 0 : 2048), chunk]
          .map((bytes) => writer.write(bytes));
        writes.push(writer.write(new Uint8Array(512)), writer.close());
        const outcomes = Promise.allSettled(writes);
        await turn();
        change(chunk);
        await disk.drain();
        const [first, ...others] = await outcomes;
        assertEquals(first!.status, "fulfilled");
        for (const outcome of others) {
          assert(outcome.status === "rejected");
          assertEquals((outcome.reason as DiskError).kind, "argument");
        }
        const written = disk.log.filter((one) => one.startsWith("write"));
        assertEquals(
          written,
          written.map((_, i) => `write ${i}+1`).slice(0, 4),
        );
        assert(!disk.log.includes("flush"));
      },
    );
  }
}

Deno.test("writable() ends on a disk that cannot flush, unless it must", async () => {
  const memory = new MemoryBackend({ sectors: 64 });
  const { abilities } = memory;
  const backend = altered(memory, {
    abilities: { ...abilities, flush: "none", fua: "none" },
  });
  await using disk = VirtualDisk.over(backend);
  const write = async (options: WritableStreamOptions) => {
    const writer = disk.writable(options).getWriter();
    await writer.write(new Uint8Array(512));
    await writer.close();
  };
  await write({});
  const error = await assertRejects(() => write({ flush: true }), DiskError);
  assertEquals(error.kind, "unsupported");
});
