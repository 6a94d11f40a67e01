/**
 * The request queue over a backend that records what it is given and answers
 * when told, so that every order can be played out.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { timeoutError } from "../src/backends/rbd/errors.ts";
import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Limits,
  refuseChanged,
} from "../src/backend.ts";
import { MemoryBackend } from "../src/backends/memory.ts";
import { DiskError, type DiskErrorKind } from "../src/errors.ts";
import { type Geometry, makeGeometry, SECTOR_BYTES } from "../src/geometry.ts";
import type { BackendInfo } from "../src/info.ts";
import { Outcome, RequestQueue } from "../src/queue.ts";
import type { QueueOptions } from "../src/queue_options.ts";
import {
  discardRequest,
  flushRequest,
  ID_BYTES,
  readRequest,
  Request,
  RequestFlag,
  RequestType,
  Status,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../src/request.ts";
import { altered } from "./fake_backend.ts";

/** Records batches; answers only when told. */
class ScriptedBackend implements Backend {
  readonly geometry: Geometry = makeGeometry(1024);
  readonly abilities: Abilities = {
    readOnly: false,
    flush: "native",
    fua: "native",
    discard: "native",
    writeZeroes: "native",
    secureErase: "native",
  };
  readonly limits: Limits;
  readonly info: BackendInfo;
  readonly counters: BackendCounters = {
    systemCalls: 0,
    bounced: 0,
    readModifyWrites: 0,
  };
  /** Every batch so far. */
  readonly batches: Request[][] = [];
  /** What is not answered yet, in the order it came. */
  readonly held = new Map<Request, Complete>();
  /** What `cancel` was called for. */
  readonly cancelled: Request[] = [];
  /** Called at the end of `submit`. */
  onSubmit: ((batch: readonly Request[]) => void) | null = null;
  closes = 0;

  constructor(limits: Partial<Limits> = {}) {
    this.limits = { maxSegments: 16, maxBytes: 65_536, ...limits };
    this.info = new MemoryBackend({ sectors: 8 }).info;
  }

  submit(batch: readonly Request[], complete: Complete): void {
    this.batches.push([...batch]);
    for (const request of batch) this.held.set(request, complete);
    this.onSubmit?.(batch);
  }

  cancel(request: Request): void {
    this.cancelled.push(request);
  }

  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(byteLength);
  }

  close(): Promise<void> {
    this.closes++;
    return Promise.resolve();
  }

  /** Answers one request that is held. */
  answer(
    request: Request,
    error: DiskError | null = refuseChanged(request),
  ): void {
    const complete = this.held.get(request)!;
    this.held.delete(request);
    complete(request, error);
  }

  /** Answers everything that is held, and what comes of it, until nothing is. */
  async drain(): Promise<void> {
    await turn();
    while (this.held.size > 0) {
      for (const request of [...this.held.keys()]) this.answer(request);
      await turn();
    }
  }

  /** The batches in short, such as `[["out 0+1", "flush"]]`. */
  get log(): string[][] {
    return this.batches.map((batch) => batch.map(inShort));
  }
}

const NAMES: Record<number, string> = {
  [RequestType.In]: "in",
  [RequestType.Out]: "out",
  [RequestType.Flush]: "flush",
  [RequestType.GetId]: "id",
  [RequestType.Discard]: "discard",
  [RequestType.WriteZeroes]: "zeroes",
  [RequestType.SecureErase]: "erase",
};

function inShort(request: Request): string {
  const name = NAMES[request.type]!;
  return request.count === 0
    ? name
    : `${name} ${request.sector}+${request.count}`;
}

/** Lets everything happen that a turn of the event loop brings about. */
async function turn(): Promise<void> {
  // The queue knows no timers: microtasks are all there is.
  for (let i = 0; i < 100; i++) await null;
}

function sectors(count: number): Uint8Array {
  return new Uint8Array(count * SECTOR_BYTES);
}

const read = (sector: number, count = 1) => readRequest(sector, sectors(count));
const write = (sector: number, count = 1) =>
  writeRequest(sector, sectors(count));
const fua = (sector: number, count = 1) =>
  writeFuaRequest(sector, sectors(count));
const id = () =>
  new Request(RequestType.GetId, 0, 0, 0, new Uint8Array(ID_BYTES));

const eio = (operation = "write") =>
  new DiskError("io", "Cannot do it: Input/output error (EIO)", {
    operation,
    errno: 5,
    code: "EIO",
  });

interface Rig {
  backend: ScriptedBackend;
  queue: RequestQueue;
  /** Submits for a status. */
  put(request: Request, signal?: AbortSignal): Promise<unknown>;
}

function rig(options: QueueOptions = {}, limits: Partial<Limits> = {}): Rig {
  const backend = new ScriptedBackend(limits);
  const queue = new RequestQueue(backend, options);
  return {
    backend,
    queue,
    put: (request, signal) => queue.submit(request, Outcome.Status, signal),
  };
}

/** Whether a promise is settled within a turn of the event loop. */
async function settled(promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  const mark = () => void (done = true);
  promise.then(mark, mark);
  await turn();
  return done;
}

async function kindOf(promise: Promise<unknown>): Promise<DiskErrorKind> {
  return (await assertRejects(() => promise, DiskError)).kind;
}

// Setting up

Deno.test("RequestQueue refuses a size that is no power of two up to 1,024", () => {
  for (const queueSize of [0, -1, 3, 1.5, 2048, NaN, Infinity]) {
    assertThrows(
      () => rig({ queueSize }),
      RangeError,
      "must be a power of two up to 1024",
    );
  }
  assertEquals(rig({ queueSize: 1 }).queue.size, 1);
  assertEquals(rig({ queueSize: 1024 }).queue.size, 1024);
  assertEquals(rig().queue.size, 128);
});

Deno.test("RequestQueue refuses a write cache that it does not know", () => {
  assertThrows(
    () => rig({ writeCache: "write-through" as "writethrough" }),
    TypeError,
    '"writeback", "writethrough"',
  );
});

Deno.test("RequestQueue holds refusals and queries, and no request, as long as throttle() says", async () => {
  const held = Promise.withResolvers<void>();
  let throttle: () => Promise<void> | null = () => held.promise;
  const { backend, queue, put } = rig({ throttle: () => throttle() });
  const refused = put(read(1e9));
  const rejected = queue.reject(new DiskError("argument", "Cannot"));
  const query = queue.query(() => ({ sector: 0, count: 1 }), () => "answer");
  const taken = put(read(0));
  await backend.drain();
  assertEquals(await taken, Status.Ok);
  for (const promise of [refused, rejected, query]) {
    assertEquals(await settled(promise), false);
  }
  held.resolve();
  assertEquals(await refused, Status.IoErr);
  assertEquals(await kindOf(rejected), "argument");
  assertEquals(await query, "answer");

  const reason = new Error("Enough");
  throttle = () => Promise.reject(reason);
  assertEquals(await put(read(1e9)), Status.IoErr);
  const error = await assertRejects(
    () => queue.query(() => ({ sector: 0, count: 1 }), () => "answer"),
  );
  assertStrictEquals(error, reason);

  throttle = () => null;
  assertEquals(await put(read(1e9)), Status.IoErr);
  assertEquals(
    await queue.query(() => ({ sector: 0, count: 1 }), () => "answer"),
    "answer",
  );
  await queue.close();
});

Deno.test("RequestQueue answers once what is aborted while throttle() holds its refusal", async () => {
  const held = Promise.withResolvers<void>();
  const grown = Promise.withResolvers<void>();
  const memory = new MemoryBackend({ sectors: 64 });
  const backend = altered(memory, {
    resize: () => grown.promise.then(() => memory.resize(128)),
  });
  const queue = new RequestQueue(backend, { throttle: () => held.promise });
  const resized = queue.resize(128, false);
  const abort = new AbortController();
  const request = readRequest(200, new Uint8Array(512));
  const refused = queue.submit(request, Outcome.Void, abort.signal);
  grown.resolve();
  await resized;
  // What waited for the new size is refused by now, and that is held.
  await settled(refused);
  abort.abort("enough");
  assertEquals(await refused.catch(String), "enough");
  held.resolve();
  await settled(refused);
  await queue.close();
});

// Batches

Deno.test("submit() makes one batch of one turn of the event loop", async () => {
  const { backend, put } = rig();
  put(read(0));
  put(read(8));
  await Promise.resolve();
  put(write(16));
  assertEquals(backend.batches.length, 0);
  await turn();
  assertEquals(backend.log, [["in 0+1", "in 8+1", "out 16+1"]]);
  await backend.drain();
});

Deno.test("submit() makes one batch of what answers of one batch wake up", async () => {
  const { backend, put } = rig();
  const loop = async (start: number) => {
    for (let i = 0; i < 3; i++) await put(read(start + i * 100));
  };
  const loops = [loop(0), loop(2), loop(4), loop(6)];
  await backend.drain();
  await Promise.all(loops);
  assertEquals(backend.batches.map((batch) => batch.length), [4, 4, 4]);
});

Deno.test("kick() hands on what was submitted at once", async () => {
  const { backend, queue, put } = rig();
  put(read(0));
  queue.kick();
  assertEquals(backend.log, [["in 0+1"]]);
  queue.kick();
  await turn();
  assertEquals(backend.batches.length, 1);
  await backend.drain();
});

Deno.test("kick() from inside of the backend's submit hands nothing over twice", async () => {
  const { backend, queue, put } = rig();
  backend.onSubmit = () => queue.kick();
  const requests = [read(0), read(8), write(16)];
  const answers = requests.map((request) => put(request));
  await turn();
  assertEquals(backend.log, [["in 0+1", "in 8+1", "out 16+1"]]);
  await backend.drain();
  assertEquals(await Promise.all(answers), [Status.Ok, Status.Ok, Status.Ok]);
});

Deno.test("kick() from inside of an answer in submit hands nothing over twice", async () => {
  const { backend, queue, put } = rig({ queueSize: 2 });
  backend.onSubmit = (batch) => {
    for (const request of batch) {
      backend.answer(request);
      queue.kick();
    }
  };
  const answers = [0, 8, 16, 24, 32].map((sector) => put(read(sector)));
  assertEquals(await Promise.all(answers), answers.map(() => Status.Ok));
  assertEquals(backend.batches.flat().length, 5);
});

// Memory that changes

Deno.test("submit() fails a request that lost its memory in line, and merges the others", async () => {
  const { backend, put } = rig();
  const requests = [write(0), write(1), write(2), write(3), write(4)];
  const answers = requests.map((request) => put(request));
  (requests[2]!.data!.buffer as ArrayBuffer).transfer();
  await turn();
  assertEquals(backend.log, [["out 0+2", "out 2+1", "out 3+2"]]);
  await backend.drain();
  const [ok, failed] = [Status.Ok, Status.IoErr];
  assertEquals(await Promise.all(answers), [ok, ok, failed, ok, ok]);
  assertEquals(requests[2]!.error?.kind, "argument");
});

Deno.test("submit() fails requests that share a buffer once it is gone", async () => {
  const { backend, queue, put } = rig();
  const memory = sectors(4);
  const parts = [0, 1, 2, 3].map((i) =>
    writeRequest(i, memory.subarray(i * SECTOR_BYTES, (i + 1) * SECTOR_BYTES))
  );
  const answers = parts.map((part) => put(part));
  (memory.buffer as ArrayBuffer).transfer();
  await backend.drain();
  assertEquals(await Promise.all(answers), parts.map(() => Status.IoErr));
  assertEquals(backend.batches, [parts]);
  assertEquals(queue.pending, 0);
  const later = put(write(0));
  await backend.drain();
  assertEquals(await later, Status.Ok);
});

Deno.test("submit() fails a read whose memory is gone when it is answered", async () => {
  const { backend, put } = rig();
  const [lost, kept] = [read(0), read(1)];
  const answers = [put(lost), put(kept)];
  await turn();
  assertEquals(backend.log, [["in 0+2"]]);
  (lost.data!.buffer as ArrayBuffer).transfer();
  await backend.drain();
  assertEquals(await Promise.all(answers), [Status.IoErr, Status.Ok]);
  assertEquals(lost.error?.kind, "argument");
});

// Merging

Deno.test("submit() merges neighbours of one kind in the order of their sectors", async () => {
  const { backend, queue, put } = rig();
  const parts = [write(0, 1), write(1, 2), write(3, 1)];
  const answers = parts.map((part) => put(part));
  await turn();
  assertEquals(backend.log, [["out 0+4"]]);
  const merged = backend.batches[0]![0]!;
  assertEquals(merged.segmentCount, 3);
  parts.forEach((part, i) => {
    assertStrictEquals(merged.segment(i), part.data);
  });
  backend.answer(merged);
  assertEquals(await Promise.all(answers), [Status.Ok, Status.Ok, Status.Ok]);
  assertEquals(queue.counters.merged, 3);
  assertEquals(queue.counters.requests, 3);
});

Deno.test("submit() merges all segments of its parts", async () => {
  const { backend, put } = rig();
  put(readRequest(0, sectors(1), sectors(2)));
  put(readRequest(3, sectors(1)));
  put(readRequest(4, sectors(1), sectors(1), sectors(1)));
  await turn();
  assertEquals(backend.log, [["in 0+7"]]);
  assertEquals(backend.batches[0]![0]!.segmentCount, 6);
  await backend.drain();
});

const UNMERGED: [title: string, requests: () => Request[]][] = [
  ["a gap between them", () => [write(0), write(2)]],
  ["falling sectors", () => [write(1), write(0)]],
  ["different types", () => [read(0), write(1)]],
  ["different flags", () => [write(0), fua(1)]],
  ["discards", () => [discardRequest(0, 1), discardRequest(1, 1)]],
  ["zeroes", () => [writeZeroesRequest(0, 1), writeZeroesRequest(1, 1)]],
  ["something between them", () => [write(0), read(64), write(1)]],
];

for (const [title, requests] of UNMERGED) {
  Deno.test(`submit() does not merge requests with ${title}`, async () => {
    const { backend, queue, put } = rig();
    const all = requests();
    for (const request of all) put(request);
    await turn();
    assertEquals(backend.batches, [all]);
    assertEquals(queue.counters.merged, 0);
    await backend.drain();
  });
}

Deno.test("submit() does not merge a request that has a signal", async () => {
  for (const position of [0, 1, 2]) {
    const { backend, put } = rig();
    for (let i = 0; i < 3; i++) {
      put(
        write(i),
        i === position ? new AbortController().signal : undefined,
      );
    }
    await turn();
    assertEquals(backend.log, [
      [["out 0+1", "out 1+2"], ["out 0+1", "out 1+1", "out 2+1"], [
        "out 0+2",
        "out 2+1",
      ]][position]!,
    ]);
    await backend.drain();
  }
});

Deno.test("submit() merges up to the backend's segments", async () => {
  const { backend, put } = rig({}, { maxSegments: 3 });
  for (let i = 0; i < 7; i++) put(read(i));
  await turn();
  assertEquals(backend.log, [["in 0+3", "in 3+3", "in 6+1"]]);
  await backend.drain();
});

Deno.test("submit() merges up to the backend's bytes", async () => {
  const { backend, put } = rig({}, { maxBytes: 4 * SECTOR_BYTES });
  for (let i = 0; i < 6; i += 3) put(read(i, 3));
  put(read(6, 1));
  put(read(7, 1));
  put(read(8, 9));
  await turn();
  assertEquals(backend.log, [["in 0+3", "in 3+4", "in 7+1", "in 8+9"]]);
  await backend.drain();
});

Deno.test("submit() merges nothing where the backend takes one segment", async () => {
  const { backend, put } = rig({}, { maxSegments: 1 });
  put(read(0));
  put(read(1));
  await turn();
  assertEquals(backend.log, [["in 0+1", "in 1+1"]]);
  await backend.drain();
});

// Order

const READS: [string, () => Request][] = [["a read", () => read(4, 4)]];
const WRITES: [string, () => Request][] = [
  ["a write", () => write(4, 4)],
  ["a FUA write", () => fua(4, 4)],
  ["a discard", () => discardRequest(4, 4)],
  ["zeroes", () => writeZeroesRequest(4, 4)],
  [
    "a secure erase",
    () => new Request(RequestType.SecureErase, 4, 4),
  ],
];

for (const [firstName, first] of [...READS, ...WRITES]) {
  for (const [thenName, then] of [...READS, ...WRITES]) {
    const waits = firstName !== "a read" || thenName !== "a read";
    Deno.test(
      `submit() ${
        waits ? "holds" : "does not hold"
      } ${thenName} behind ${firstName} of the same sectors`,
      async () => {
        const { backend, put } = rig();
        const [a, b] = [first(), then()];
        put(a);
        put(b);
        await turn();
        assertEquals(backend.held.size, waits ? 1 : 2);
        backend.answer(a);
        await turn();
        assert(backend.held.has(b));
        await backend.drain();
      },
    );
  }
}

Deno.test("submit() holds a request that overlaps by one sector, on either side", async () => {
  for (
    const [sector, count, waits] of [
      [7, 2, false],
      [8, 2, false],
      [9, 2, true],
      [12, 1, true],
      [19, 5, true],
      [20, 5, false],
      [0, 64, true],
    ] as const
  ) {
    const { backend, put } = rig();
    put(write(10, 10));
    put(read(sector, count));
    await turn();
    assertEquals(backend.held.size, waits ? 1 : 2, `${sector}+${count}`);
    await backend.drain();
  }
});

Deno.test("submit() lets a request that overlaps nothing pass one that waits", async () => {
  const { backend, put } = rig();
  put(write(0));
  put(write(0));
  put(write(8));
  await turn();
  assertEquals(backend.log, [["out 0+1", "out 8+1"]]);
  await backend.drain();
});

Deno.test("submit() keeps a chain of overlapping requests in order", async () => {
  const { backend, put } = rig();
  const chain = [
    write(0, 4),
    read(2, 4),
    write(4, 4),
    discardRequest(6, 4),
    read(8, 4),
  ];
  for (const request of chain) put(request);
  for (const request of chain) {
    await turn();
    assertEquals([...backend.held.keys()], [request]);
    backend.answer(request);
  }
});

Deno.test("submit() holds a write behind every read that it overlaps", async () => {
  const { backend, put } = rig();
  const reads = [read(0, 2), read(4, 2)];
  const late = write(0, 8);
  put(reads[0]!);
  put(reads[1]!);
  put(late);
  await turn();
  assertEquals([...backend.held.keys()], reads);
  backend.answer(reads[0]!);
  await turn();
  assertEquals([...backend.held.keys()], [reads[1]!]);
  backend.answer(reads[1]!);
  await turn();
  assertEquals([...backend.held.keys()], [late]);
  await backend.drain();
});

Deno.test("submit() keeps the identity out of every order", async () => {
  const { backend, put } = rig();
  put(write(0));
  put(id());
  put(flushRequest());
  await turn();
  assertEquals(backend.log, [["out 0+1", "id"]]);
  await backend.drain();
});

// Flush

Deno.test("submit() holds a flush behind every earlier write, awaited or not", async () => {
  const { backend, put } = rig();
  const writes = [write(0), discardRequest(8, 1), writeZeroesRequest(16, 1)];
  for (const request of writes) put(request);
  await turn();
  const flush = flushRequest();
  const answer = put(flush);
  for (const request of writes) {
    await turn();
    assert(!backend.held.has(flush));
    backend.answer(request);
  }
  await turn();
  assertEquals([...backend.held.keys()], [flush]);
  backend.answer(flush);
  assertEquals(await answer, Status.Ok);
});

Deno.test("submit() holds a flush behind writes that still stand in line", async () => {
  const { backend, put } = rig({ queueSize: 2 });
  for (let i = 0; i < 5; i++) put(write(i * 2));
  put(flushRequest());
  await turn();
  assertEquals(backend.log, [["out 0+1", "out 2+1"]]);
  await backend.drain();
  assertEquals(backend.log.at(-1), ["flush"]);
  assertEquals(backend.log.flat().length, 6);
});

Deno.test("submit() holds a flush behind the write that a held write waits for", async () => {
  const { backend, put } = rig();
  const [first, second, flush] = [write(0), write(0), flushRequest()];
  put(first);
  put(second);
  put(flush);
  await turn();
  assertEquals([...backend.held.keys()], [first]);
  backend.answer(first);
  await turn();
  assertEquals([...backend.held.keys()], [second]);
  backend.answer(second);
  await turn();
  assertEquals([...backend.held.keys()], [flush]);
  await backend.drain();
});

Deno.test("submit() does not hold reads and writes behind a flush", async () => {
  const { backend, put } = rig();
  put(flushRequest());
  put(write(0));
  put(read(8));
  await turn();
  assertEquals(backend.log, [["flush", "out 0+1", "in 8+1"]]);
  await backend.drain();
});

Deno.test("submit() does not hold a flush behind reads", async () => {
  const { backend, put } = rig();
  put(read(0));
  put(flushRequest());
  await turn();
  assertEquals(backend.log, [["in 0+1", "flush"]]);
  await backend.drain();
});

Deno.test("submit() answers flushes of one turn by one flush of the backend", async () => {
  const { backend, queue, put } = rig();
  put(write(0));
  const answers = [put(flushRequest()), put(flushRequest())];
  put(read(8));
  answers.push(put(flushRequest()));
  await backend.drain();
  assertEquals(await Promise.all(answers), [0, 0, 0]);
  assertEquals(backend.log, [["out 0+1", "in 8+1"], ["flush"]]);
  assertEquals(queue.counters.flushes, 1);
  assertEquals(queue.counters.requests, 5);
});

Deno.test("submit() does not share a flush across a write", async () => {
  const { backend, queue, put } = rig();
  const flushes = [flushRequest(), flushRequest()];
  const between = write(0);
  put(flushes[0]!);
  put(between);
  const last = put(flushes[1]!);
  await turn();
  assertEquals([...backend.held.keys()], [flushes[0]!, between]);
  backend.answer(flushes[0]!);
  assert(!await settled(last));
  backend.answer(between);
  await turn();
  assertEquals([...backend.held.keys()], [flushes[1]!]);
  backend.answer(flushes[1]!);
  assertEquals(await last, Status.Ok);
  assertEquals(queue.counters.flushes, 2);
});

Deno.test("submit() does not share a flush that is with the backend already", async () => {
  const { backend, queue, put } = rig();
  put(flushRequest());
  await turn();
  put(flushRequest());
  await backend.drain();
  assertEquals(queue.counters.flushes, 2);
});

Deno.test("submit() has no two flushes with the backend at once", async () => {
  // The system reports a failed write-back once: to one of two flushes.
  const { backend, put } = rig();
  const first = flushRequest();
  const early = put(first);
  await turn();
  put(write(0));
  const late = put(flushRequest());
  await turn();
  for (const request of [...backend.held.keys()]) {
    if (request !== first) backend.answer(request);
  }
  await turn();
  assertEquals([...backend.held.keys()], [first]);
  backend.answer(first, eio("flush"));
  assertEquals(await early, Status.IoErr);
  assertEquals(await late, Status.IoErr);
  assertEquals(backend.log.flat().filter((name) => name === "flush").length, 1);
});

// FUA, write-through

Deno.test("submit() hands FUA on", async () => {
  const { backend, put } = rig();
  put(fua(0));
  await turn();
  assert(backend.batches[0]![0]!.fua);
  await backend.drain();
});

Deno.test("writethrough makes every kind of write durable, and no read", async () => {
  const { backend, queue, put } = rig({ writeCache: "writethrough" });
  assert(queue.writeThrough);
  const writes = [
    write(0),
    fua(8),
    discardRequest(16, 1),
    writeZeroesRequest(24, 1, RequestFlag.Unmap),
  ];
  for (const request of writes) put(request);
  const other = read(32);
  put(other);
  await turn();
  assertEquals(writes.map((request) => request.flags), [
    RequestFlag.Fua,
    RequestFlag.Fua,
    RequestFlag.Fua,
    RequestFlag.Fua | RequestFlag.Unmap,
  ]);
  assertEquals(other.flags, 0);
  await backend.drain();
});

// Failures

Deno.test("submit() carries out each part alone after a merged request failed", async () => {
  const { backend, queue, put } = rig();
  const parts = [write(0), write(1), write(2), write(3)];
  const answers = parts.map((part) => put(part));
  await turn();
  backend.answer(backend.batches[0]![0]!, eio());
  await turn();
  assertEquals(backend.batches[1], parts);
  const own = eio();
  for (const part of parts) {
    backend.answer(part, part === parts[2] ? own : null);
  }
  assertEquals(await Promise.all(answers), [0, 0, Status.IoErr, 0]);
  assertStrictEquals(parts[2]!.error, own);
  assertEquals(queue.failure, null);
  assertEquals(queue.counters.errors, 1);
});

Deno.test("submit() keeps what overlaps behind the parts of a failed merged request", async () => {
  const { backend, put } = rig();
  const parts = [write(0), write(1)];
  for (const part of parts) put(part);
  const later = read(1);
  put(later);
  await turn();
  backend.answer(backend.batches[0]![0]!, eio());
  await turn();
  assertEquals([...backend.held.keys()], parts);
  backend.answer(parts[1]!, eio());
  await turn();
  assertEquals([...backend.held.keys()], [parts[0]!, later]);
  await backend.drain();
});

Deno.test("submit() does not repeat a merged FUA write that failed", async () => {
  const { backend, queue, put } = rig();
  const answers = [put(fua(0)), put(fua(1))];
  await turn();
  assertEquals(backend.log, [["out 0+2"]]);
  const error = eio();
  backend.answer(backend.batches[0]![0]!, error);
  assertEquals(await Promise.all(answers), [Status.IoErr, Status.IoErr]);
  await turn();
  assertEquals(backend.batches.length, 1);
  // Each tells its own place, and what happened to all of them.
  assertStrictEquals(queue.failure?.cause, error);
  assertEquals(queue.failure.sector, 0);
});

Deno.test("submit() does not repeat a merged request that took too long", async () => {
  const { backend, queue, put } = rig();
  const parts = [write(0), write(1)];
  const answers = parts.map((part) => put(part));
  await turn();
  const code = "ETIMEDOUT";
  const merged = backend.batches[0]![0]!;
  backend.answer(merged, timeoutError(merged, 1500, "rbd:pool/img"));
  assertEquals(await Promise.all(answers), [Status.IoErr, Status.IoErr]);
  await turn();
  assertEquals(backend.batches.length, 1);
  for (const { error, sector } of parts) {
    assertEquals([error?.code, error?.sector], ["ETIMEDOUT", sector]);
  }
  // Writes without a flush: nothing that was durable is in doubt.
  assertEquals(queue.failure, null);
  // That of a device is about a place on it.
  const others = [write(8), write(9)];
  for (const other of others) put(other);
  await turn();
  const slow = new DiskError("io", "Cannot write", { code, errno: 110 });
  backend.answer(backend.batches[1]![0]!, slow);
  await turn();
  assertEquals(backend.batches[2], others);
  await backend.drain();
});

Deno.test("submit() rejects with the backend's error, or tells it by status", async () => {
  const { backend, queue, put } = rig();
  const error = eio("read");
  const thrown = queue.submit(read(0), Outcome.Void);
  const told = read(8);
  const status = put(told);
  const unsupported = discardRequest(16, 1);
  const unsupportedStatus = put(unsupported);
  await turn();
  const [first] = backend.batches[0]!;
  backend.answer(first!, error);
  backend.answer(told, error);
  backend.answer(unsupported, new DiskError("unsupported", "Cannot"));
  assertStrictEquals(await assertRejects(() => thrown), error);
  assertEquals(await status, Status.IoErr);
  assertStrictEquals(told.error, error);
  assertEquals(told.status, Status.IoErr);
  assertEquals(await unsupportedStatus, Status.Unsupp);
});

Deno.test("submit() resolves with the data for Outcome.Data", async () => {
  const { backend, queue } = rig();
  const request = read(0);
  const answer = queue.submit(request, Outcome.Data);
  await backend.drain();
  assertStrictEquals(await answer, request.data);
});

// Latch

Deno.test("A failed flush refuses writes and flushes from then on, not reads", async () => {
  const { backend, queue, put } = rig();
  const error = eio("flush");
  const flush = flushRequest();
  const failed = queue.submit(flush, Outcome.Void);
  await turn();
  backend.answer(flush, error);
  assertStrictEquals(await assertRejects(() => failed), error);
  assertStrictEquals(queue.failure, error);

  const refused = [
    write(0),
    fua(1),
    flushRequest(),
    discardRequest(8, 1),
    writeZeroesRequest(9, 1),
    new Request(RequestType.SecureErase, 10, 1),
  ];
  for (const request of refused) {
    const thrown = await assertRejects(
      () => queue.submit(request, Outcome.Void),
      DiskError,
      "(EIO)",
    );
    assertEquals(thrown.kind, "latched");
    assertStrictEquals(thrown.cause, error);
    assertEquals(thrown.operation === "flush", thrown.sector === undefined);
  }
  const reading = [put(read(0)), put(id())];
  await backend.drain();
  assertEquals(await Promise.all(reading), [Status.Ok, Status.Ok]);
  assertEquals(backend.log, [["flush"], ["in 0+1", "id"]]);
  assertStrictEquals(queue.failure, error);
});

Deno.test("A failed flush refuses what waited behind it, and the backend sees it once", async () => {
  const { backend, put } = rig({ queueSize: 4 });
  const flush = flushRequest();
  const first = write(0);
  put(first);
  const answers = [
    put(flush),
    put(flushRequest()),
    put(write(0)),
    put(write(0)),
    put(flushRequest()),
    put(write(32)),
  ];
  const reading = put(read(0));
  await turn();
  // Write 32 is in line; the other writes wait for the first one.
  backend.answer(first);
  await turn();
  backend.answer(flush, eio("flush"));
  await backend.drain();
  const statuses = await Promise.all(answers);
  assertEquals(statuses.slice(0, 2), [Status.IoErr, Status.IoErr]);
  assertEquals(statuses.slice(4), [Status.IoErr, Status.IoErr]);
  assertEquals(await reading, Status.Ok);
  assertEquals(backend.log.flat().filter((name) => name === "flush").length, 1);
  assert(!backend.log.flat().includes("out 32+1"));
});

const LATCHING: [kind: DiskErrorKind, code: string][] = [
  ["io", "EIO"],
  ["no-space", "ENOSPC"],
  ["no-space", "EDQUOT"],
  ["read-only", "EROFS"],
  ["permission", "EPERM"],
];

for (const [kind, code] of LATCHING) {
  for (
    const [name, make] of [
      ["flush", flushRequest],
      ["FUA write", () => fua(0)],
      ["FUA write of zeroes", () => writeZeroesRequest(0, 1, RequestFlag.Fua)],
    ] as const
  ) {
    Deno.test(`A ${name} that fails with ${code} is latched`, async () => {
      const { backend, queue, put } = rig();
      const request = make();
      const error = new DiskError(kind, "Cannot", { errno: 1, code });
      const answer = put(request);
      await turn();
      backend.answer(request, error);
      assertEquals(await answer, Status.IoErr);
      assertStrictEquals(queue.failure, error);
      assertEquals(
        await kindOf(queue.submit(write(0), Outcome.Void)),
        "latched",
      );
      assertEquals(backend.batches.length, 1);
    });
  }
}

Deno.test("A write that fails, or a flush that is not to be had, is not latched", async () => {
  const { backend, queue, put } = rig();
  const first = write(0);
  const flush = flushRequest();
  put(first);
  put(read(8));
  await turn();
  backend.answer(first, eio());
  await backend.drain();
  const answer = put(flush);
  await turn();
  backend.answer(flush, new DiskError("unsupported", "Cannot"));
  assertEquals(await answer, Status.Unsupp);
  assertEquals(queue.failure, null);
  put(write(0));
  await turn();
  assertEquals(backend.log.at(-1), ["out 0+1"]);
  await backend.drain();
});

// Bounds

Deno.test("The backend never has more requests than the queue's size", async () => {
  const { backend, queue, put } = rig({ queueSize: 4 });
  const answers: Promise<unknown>[] = [];
  for (let i = 0; i < 64; i++) answers.push(put(read(i * 2)));
  assertEquals(queue.pending, 64);
  await turn();
  assertEquals(backend.held.size, 4);
  while (backend.held.size > 0) {
    backend.answer([...backend.held.keys()].at(-1)!);
    await turn();
    assert(backend.held.size <= 4);
  }
  assertEquals(await Promise.all(answers), answers.map(() => Status.Ok));
  assertEquals(queue.pending, 0);
});

Deno.test("full and ready tell when there is room", async () => {
  const { backend, queue, put } = rig({ queueSize: 2 });
  assert(!queue.full);
  await queue.ready;
  put(read(0));
  assert(!queue.full);
  put(read(8));
  put(read(16));
  assert(queue.full);
  const ready = queue.ready;
  assertStrictEquals(queue.ready, ready);
  assert(!await settled(ready));
  backend.answer([...backend.held.keys()][0]!);
  assert(!await settled(ready));
  assertEquals(backend.held.size, 2);
  backend.answer([...backend.held.keys()][0]!);
  assert(await settled(ready));
  assert(!queue.full);
  assertNotStrictEquals(queue.ready, ready);
  await backend.drain();
});

Deno.test("ready settles when the requests in line are withdrawn", async () => {
  const { queue, put } = rig({ queueSize: 2 });
  const abort = new AbortController();
  put(read(0), abort.signal);
  put(read(8), abort.signal);
  const { ready } = queue;
  abort.abort();
  assert(await settled(ready));
});

// Abort

const ABORTED = new Error("Enough");

Deno.test("submit() refuses what is aborted already", async () => {
  const { backend, queue } = rig();
  const error = await assertRejects(() =>
    queue.submit(read(0), Outcome.Void, AbortSignal.abort(ABORTED))
  );
  assertStrictEquals(error, ABORTED);
  await turn();
  assertEquals(backend.batches, []);
});

Deno.test("submit() reports a fault of the request rather than its abort", async () => {
  const { queue } = rig();
  const refused = queue.submit(
    read(4096),
    Outcome.Void,
    AbortSignal.abort(ABORTED),
  );
  assertEquals(await kindOf(refused), "range");
});

Deno.test("An abort withdraws a request that stands in line at once", async () => {
  const { backend, queue } = rig({ queueSize: 1 });
  const first = queue.submit(read(0), Outcome.Void);
  const abort = new AbortController();
  const request = write(8);
  const answer = queue.submit(request, Outcome.Void, abort.signal);
  const last = queue.submit(read(16), Outcome.Void);
  await turn();
  abort.abort(ABORTED);
  assertStrictEquals(await assertRejects(() => answer), ABORTED);
  assertEquals(request.error?.kind, "aborted");
  assertEquals(request.owner, null);
  await backend.drain();
  await Promise.all([first, last]);
  assertEquals(backend.log, [["in 0+1"], ["in 16+1"]]);
});

Deno.test("An abort of many tells each of them its own place", async () => {
  const { put } = rig({ queueSize: 1 });
  const abort = new AbortController();
  const all = Array.from({ length: 100 }, (_, i) => write(i));
  const answers = all.map((request) => put(request, abort.signal));
  abort.abort(ABORTED);
  assertEquals(
    await Promise.all(answers),
    all.map(() => Status.IoErr),
  );
  const [first] = all;
  assertStrictEquals(first!.error, first!.error);
  for (const [sector, { error }] of all.entries()) {
    assertInstanceOf(error, DiskError);
    assertEquals([error.kind, error.sector, error.count], [
      "aborted",
      sector,
      1,
    ]);
    assertEquals(
      error.message,
      `Cannot write 1 sector at sector ${sector} as it was aborted`,
    );
    assertStrictEquals(error.cause, ABORTED);
  }
});

Deno.test("An abort withdraws a held request, and what waited for it goes on", async () => {
  const { backend, queue } = rig();
  const first = write(0);
  const done = queue.submit(first, Outcome.Void);
  const abort = new AbortController();
  const held = queue.submit(write(0, 4), Outcome.Void, abort.signal);
  const after = queue.submit(write(3, 4), Outcome.Void);
  await turn();
  abort.abort(ABORTED);
  assertStrictEquals(await assertRejects(() => held), ABORTED);
  backend.answer(first);
  await done;
  await turn();
  assertEquals(backend.log, [["out 0+1"], ["out 3+4"]]);
  await backend.drain();
  await after;
});

Deno.test("An aborted request in flight rejects only once the backend answers", async () => {
  for (const error of [null, eio()]) {
    const { backend, queue } = rig();
    const abort = new AbortController();
    const request = write(0);
    const answer = queue.submit(request, Outcome.Void, abort.signal);
    await turn();
    abort.abort(ABORTED);
    assertEquals(backend.cancelled, [request]);
    assert(!await settled(answer));
    assertNotStrictEquals(request.owner, null);
    backend.answer(request, error);
    assertStrictEquals(await assertRejects(() => answer), ABORTED);
    assertEquals(request.error?.kind, "aborted");
    assertEquals(request.status, Status.IoErr);
  }
});

Deno.test("An aborted request in flight still holds what overlaps it", async () => {
  const { backend, put } = rig();
  const abort = new AbortController();
  const first = write(0);
  const answer = put(first, abort.signal);
  const later = write(0);
  put(later);
  await turn();
  abort.abort(ABORTED);
  await turn();
  assertEquals([...backend.held.keys()], [first]);
  backend.answer(first);
  assertEquals(await answer, Status.IoErr);
  await turn();
  assertEquals([...backend.held.keys()], [later]);
  await backend.drain();
});

Deno.test("An aborted flush leaves the flushes that it was asked with alone", async () => {
  for (const position of [0, 1, 2]) {
    const { backend, put } = rig();
    const abort = new AbortController();
    const first = write(0);
    put(first);
    const answers = [0, 1, 2].map((i) =>
      put(flushRequest(), i === position ? abort.signal : undefined)
    );
    await turn();
    abort.abort(ABORTED);
    assertEquals(await answers[position], Status.IoErr);
    await backend.drain();
    assertEquals(
      await Promise.all(answers),
      [0, 1, 2].map((i) => i === position ? Status.IoErr : Status.Ok),
    );
    assertEquals(backend.log, [["out 0+1"], ["flush"]]);
  }
});

Deno.test("A flush that fails after its abort is latched all the same", async () => {
  const { backend, queue, put } = rig();
  const abort = new AbortController();
  const flush = flushRequest();
  const answer = put(flush, abort.signal);
  await turn();
  abort.abort(ABORTED);
  const error = eio("flush");
  backend.answer(flush, error);
  await answer;
  assertEquals(flush.error?.kind, "aborted");
  assertStrictEquals(queue.failure, error);
});

Deno.test("An abort after the answer does nothing", async () => {
  const { backend, put } = rig();
  const abort = new AbortController();
  const request = read(0);
  const answer = put(request, abort.signal);
  await backend.drain();
  assertEquals(await answer, Status.Ok);
  abort.abort(ABORTED);
  assertEquals(request.status, Status.Ok);
  assertEquals(backend.cancelled, []);
});

Deno.test("submit() listens once to a signal, for however many requests", async () => {
  const { backend, queue, put } = rig();
  const abort = new AbortController();
  let listeners = 0;
  let most = 0;
  const { signal } = abort;
  const add = signal.addEventListener.bind(signal);
  const remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = (...args: Parameters<typeof add>) => {
    most = Math.max(most, ++listeners);
    add(...args);
  };
  signal.removeEventListener = (...args: Parameters<typeof remove>) => {
    listeners--;
    remove(...args);
  };
  const first = Array.from({ length: 300 }, (_, i) => put(read(i), signal));
  await backend.drain();
  await Promise.all(first);
  assertEquals([most, listeners], [1, 0]);
  const second = Array.from({ length: 300 }, (_, i) => put(read(i), signal));
  await turn();
  abort.abort(ABORTED);
  await backend.drain();
  assertEquals(await Promise.all(second), second.map(() => Status.IoErr));
  assertEquals([most, listeners], [1, 0]);
  assertEquals(queue.pending, 0);
});

Deno.test("Aborted requests leave no slot behind", async () => {
  const { backend, queue, put } = rig({ queueSize: 4 });
  for (let round = 0; round < 100; round++) {
    const abort = new AbortController();
    const inFlight = write(0);
    const answers = [
      put(inFlight, abort.signal),
      put(write(0), abort.signal),
      put(flushRequest(), abort.signal),
      put(write(0), abort.signal),
      put(read(0), abort.signal),
      put(read(8), abort.signal),
    ];
    if (round % 2 === 0) await turn();
    abort.abort(ABORTED);
    await backend.drain();
    assertEquals(await Promise.all(answers), answers.map(() => Status.IoErr));
    assertEquals(queue.pending, 0);
  }
  const reads = [0, 2, 4, 6].map((sector) => put(read(sector)));
  await turn();
  assertEquals(backend.held.size, 4);
  await backend.drain();
  assertEquals(await Promise.all(reads), [0, 0, 0, 0]);
});

// Close

Deno.test("close() refuses, waits for what was taken, and closes the backend once", async () => {
  const { backend, queue, put } = rig({ queueSize: 1 });
  const answers = [put(write(0)), put(write(0)), put(flushRequest())];
  assert(!queue.closed);
  const closing = queue.close();
  assert(queue.closed);
  assertStrictEquals(queue.close(), closing);
  assertEquals(await kindOf(queue.submit(read(0), Outcome.Void)), "closed");
  const told = flushRequest();
  assertEquals(await put(told), Status.IoErr);
  assertEquals(told.error?.kind, "closed");
  assert(!await settled(closing));
  assertEquals(backend.closes, 0);
  await backend.drain();
  await closing;
  assertEquals(await Promise.all(answers), [0, 0, 0]);
  assertEquals(backend.closes, 1);
  await queue.close();
  assertEquals(backend.closes, 1);
});

Deno.test("close() of an idle queue closes the backend", async () => {
  const { backend, queue } = rig();
  await queue.close();
  assertEquals(backend.closes, 1);
  assertEquals(backend.batches, []);
});

Deno.test("close() ends although the last requests were withdrawn", async () => {
  for (const late of [false, true]) {
    const { backend, queue, put } = rig({ queueSize: 2 });
    const abort = new AbortController();
    const first = write(0);
    if (late) put(first);
    const answers = [0, 0, 0, 8].map((sector) =>
      put(write(sector), abort.signal)
    );
    if (late) await turn();
    abort.abort(ABORTED);
    const closing = queue.close();
    await backend.drain();
    assert(await settled(closing));
    assertEquals(await Promise.all(answers), answers.map(() => Status.IoErr));
    assertEquals(backend.closes, 1);
  }
});

Deno.test("close() after a failed flush ends", async () => {
  const { backend, queue, put } = rig();
  const flush = flushRequest();
  put(flush);
  const late = put(write(0));
  await turn();
  const closing = queue.close();
  backend.answer(flush, eio("flush"));
  await backend.drain();
  await closing;
  await late;
  assertEquals(backend.closes, 1);
});

// One answer each

Deno.test("submit() refuses a request that is in flight, and takes it again after", async () => {
  const { backend, queue, put } = rig();
  const request = read(0);
  const answer = put(request);
  assertEquals(await kindOf(queue.submit(request, Outcome.Void)), "argument");
  await turn();
  assertEquals(await kindOf(queue.submit(request, Outcome.Void)), "argument");
  await backend.drain();
  assertEquals(await answer, Status.Ok);
  const again = put(request);
  assertEquals(request.status, undefined);
  await backend.drain();
  assertEquals(await again, Status.Ok);
  assertEquals(backend.log, [["in 0+1"], ["in 0+1"]]);
});

Deno.test("A backend that answers twice is told so", async () => {
  const { backend, put } = rig();
  const request = read(0);
  put(request);
  await turn();
  const complete = backend.held.get(request)!;
  backend.answer(request);
  assertThrows(() => complete(request, null), Error, "not in flight");
});

Deno.test("A backend that throws fails what it did not answer, each once", async () => {
  const { backend, queue } = rig();
  backend.onSubmit = (batch) => {
    if (batch.length === 3) backend.answer(batch[0]!);
    throw new Error("Out of order");
  };
  const answers = [
    queue.submit(read(0), Outcome.Void),
    queue.submit(read(8), Outcome.Void),
    queue.submit(write(16), Outcome.Void),
    queue.submit(write(17), Outcome.Void),
  ];
  await Promise.allSettled(answers);
  await answers[0];
  for (const answer of answers.slice(1)) {
    const error = await assertRejects(() => answer, DiskError, "Out of order");
    assertEquals(error.kind, "io");
    assertInstanceOf(error.cause, Error);
  }
  assertEquals(queue.pending, 0);
  backend.onSubmit = null;
  backend.held.clear();
  const last = queue.submit(read(0), Outcome.Void);
  await backend.drain();
  await last;
});

// Refusals before anything happens

const REFUSED: [string, DiskErrorKind, () => Request][] = [
  ["sectors past the end", "range", () => read(1024)],
  ["sectors across the end", "range", () => write(1020, 8)],
  ["a negative sector", "argument", () => read(-1)],
  ["a sector that is no number", "argument", () => read(NaN)],
  ["a sector that is no safe integer", "argument", () => read(2 ** 53)],
  ["no sectors", "argument", () => new Request(RequestType.In, 0, 0)],
  [
    "a count that is a BigInt",
    "argument",
    () =>
      new Request(RequestType.In, 0, 1n as unknown as number, 0, sectors(1)),
  ],
  ["no memory", "argument", () => new Request(RequestType.In, 0, 1)],
  [
    "too little memory",
    "argument",
    () => new Request(RequestType.Out, 0, 2, 0, sectors(1)),
  ],
  [
    "memory that is no whole sectors",
    "alignment",
    () => writeRequest(0, new Uint8Array(100)),
  ],
  [
    "segments that are no whole sectors",
    "alignment",
    () => writeRequest(0, new Uint8Array(256), new Uint8Array(256)),
  ],
  [
    "a small buffer for the identity",
    "argument",
    () => new Request(RequestType.GetId, 0, 0, 0, new Uint8Array(19)),
  ],
  [
    "a type that there is not",
    "unsupported",
    () => new Request(99 as RequestType, 0, 1),
  ],
];

for (const [title, kind, request] of REFUSED) {
  Deno.test(`submit() refuses ${title} before the backend sees it`, async () => {
    const { backend, queue, put } = rig();
    assertEquals(await kindOf(queue.submit(request(), Outcome.Data)), kind);
    const told = request();
    assertEquals(
      await put(told),
      kind === "unsupported" ? Status.Unsupp : Status.IoErr,
    );
    assertEquals(told.error?.kind, kind);
    assertStringIncludes(told.error!.message, "Cannot ");
    await turn();
    assertEquals(backend.batches, []);
    assertEquals(queue.pending, 0);
  });
}

// Counters

Deno.test("counters count what happened", async () => {
  const { backend, queue, put } = rig();
  const bad = write(64);
  put(read(0, 3));
  put(write(8, 2));
  put(write(10, 1));
  put(bad);
  put(writeZeroesRequest(32, 8));
  put(flushRequest());
  put(flushRequest());
  put(read(2000));
  await turn();
  backend.answer(bad, eio());
  await backend.drain();
  assertEquals(queue.counters, {
    requests: 8,
    batches: 2,
    merged: 2,
    flushes: 1,
    bytesRead: 3 * SECTOR_BYTES,
    bytesWritten: 3 * SECTOR_BYTES,
    errors: 2,
  });
});

// Everything at once, against a model

/** A small generator of numbers from a seed (mulberry32). */
function randomFrom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** What the model knows of one request. */
interface Known {
  request: Request;
  order: number;
  /** When the backend got it, in events; −1 while it has not. */
  started: number;
  /** When it was over for the backend. */
  ended: number;
  answered: boolean;
  abort: AbortController | null;
}

function overlaps(a: Request, b: Request): boolean {
  return (a.writes || b.writes) && a.sector < b.sector + b.count &&
    b.sector < a.sector + a.count;
}

async function playOut(seed: number): Promise<void> {
  const random = randomFrom(seed);
  const size = 1 << random(6);
  const { backend, queue, put } = rig(
    { queueSize: size },
    { maxSegments: 1 + random(8), maxBytes: SECTOR_BYTES * (1 + random(32)) },
  );
  const all: Known[] = [];
  const byMemory = new Map<Uint8Array, Known>();
  const byRequest = new Map<Request, Known>();
  const answers: Promise<void>[] = [];
  const flushes: { started: number; ended: number; ok: boolean }[] = [];
  const flushOf = new Map<Request, { started: number }>();
  let clock = 0;
  let broken = false;
  const say = (what: string) => `${what} (seed ${seed})`;

  const partsOf = (request: Request): Known[] => {
    const own = byRequest.get(request);
    if (own !== undefined) return [own];
    const parts: Known[] = [];
    for (let i = 0; i < request.segmentCount; i++) {
      parts.push(byMemory.get(request.segment(i))!);
    }
    let next = request.sector;
    for (const part of parts) {
      assertEquals(part.request.sector, next, say("merged in disorder"));
      assertEquals(part.request.type, request.type, say("merged types"));
      assertEquals(part.request.flags, request.flags, say("merged flags"));
      assertEquals(part.abort, null, say("merged one with a signal"));
      next += part.request.count;
    }
    assertEquals(next, request.sector + request.count, say("merged count"));
    assert(parts.length <= backend.limits.maxSegments, say("segments"));
    assert(request.count * SECTOR_BYTES <= backend.limits.maxBytes);
    return parts;
  };

  // The queue takes what a backend throws for a failure of its own.
  let fault: unknown = null;
  backend.onSubmit = (batch) => {
    try {
      check(batch);
    } catch (error) {
      fault ??= error;
    }
  };
  const check = (batch: readonly Request[]) => {
    for (const request of batch) {
      for (const part of partsOf(request)) {
        part.started = clock++;
        for (const earlier of all) {
          if (earlier.order >= part.order || earlier.ended >= 0) continue;
          // Withdrawn before the backend had it.
          if (earlier.started < 0 && earlier.request.status !== undefined) {
            continue;
          }
          const waits = part.request.type === RequestType.Flush
            ? earlier.request.writes
            : earlier.request.count > 0 && part.request.count > 0 &&
              overlaps(earlier.request, part.request);
          assert(
            !waits,
            say(
              `${inShort(part.request)} overtook ${inShort(earlier.request)}`,
            ),
          );
        }
        if (part.request.type === RequestType.Flush) {
          assert(!broken, say("flushed again"));
          flushOf.set(request, { started: part.started });
        }
        if (part.request.writes) assert(!broken, say("wrote after failure"));
      }
    }
    let parts = 0;
    for (const request of backend.held.keys()) parts += partsOf(request).length;
    assert(parts <= size, say("more than the queue's size"));
  };

  const answerOne = () => {
    if (fault !== null) throw fault;
    const held = [...backend.held.keys()];
    const request = held[random(held.length)]!;
    const parts = partsOf(request);
    const fails = random(24) === 0 &&
      (request.type !== RequestType.Flush && !request.fua || random(16) === 0);
    const split = fails && parts.length > 1 && !request.fua;
    for (const part of parts) {
      if (split) part.started = -1;
      else part.ended = clock++;
    }
    const started = flushOf.get(request)?.started;
    if (started !== undefined) {
      flushes.push({ started, ended: clock++, ok: !fails });
    }
    if (fails && (request.type === RequestType.Flush || request.fua)) {
      broken = true;
    }
    backend.answer(request, fails ? eio() : null);
  };

  const make = (): Request => {
    const sector = random(48);
    const count = 1 + random(6);
    switch (random(12)) {
      case 0:
      case 1:
        return flushRequest();
      case 2:
        return discardRequest(sector, count);
      case 3:
        return writeZeroesRequest(sector, count);
      case 4:
        return fua(sector, count);
      case 5:
        return id();
      case 6:
      case 7:
      case 8:
        return read(sector, count);
      default:
        return write(sector, count);
    }
  };

  for (let step = 0; step < 400; step++) {
    const what = random(16);
    if (what < 9) {
      // Runs of neighbours, so that there is something to merge.
      const run = random(4) === 0 ? 1 + random(6) : 1;
      let request = make();
      for (let i = 0; i < run; i++) {
        const abort = random(8) === 0 ? new AbortController() : null;
        const known: Known = {
          request,
          order: all.length,
          started: -1,
          ended: -1,
          answered: false,
          abort,
        };
        all.push(known);
        byRequest.set(request, known);
        if (request.data !== null) byMemory.set(request.data, known);
        const submitted = clock++;
        const wasSubmitted = request;
        answers.push(
          put(request, abort?.signal).then((status) => {
            assert(!known.answered, say("answered twice"));
            known.answered = true;
            if (
              wasSubmitted.type === RequestType.Flush && status === Status.Ok
            ) {
              // Some flush of the backend covers every write before this one.
              const since = Math.max(
                submitted,
                ...all.slice(0, known.order)
                  .filter(({ request }) => request.writes)
                  .map(({ ended }) => ended),
              );
              assert(
                flushes.some(({ started, ok }) => ok && started > since),
                say("a flush that covers nothing"),
              );
            }
          }),
        );
        const next = request.sector + request.count;
        if (request.count === 0 || next > 900) break;
        request = request.type === RequestType.In ? read(next) : write(next);
      }
    } else if (what < 14) {
      if (backend.held.size > 0) answerOne();
    } else if (what === 14) {
      const known = all[random(Math.max(1, all.length))];
      known?.abort?.abort(ABORTED);
    } else if (random(2) === 0) queue.kick();
    else await turn();
  }
  const closing = queue.close();
  for (let idle = 0; idle < 3;) {
    await turn();
    if (backend.held.size === 0) idle++;
    while (backend.held.size > 0) answerOne();
  }
  assert(await settled(closing), say("does not close"));
  await Promise.all(answers);
  if (fault !== null) throw fault;
  assertEquals(queue.pending, 0);
  assertEquals(queue.counters.requests, all.length);
}

Deno.test("RequestQueue keeps every order, whatever is asked of it", async () => {
  const base = crypto.getRandomValues(new Uint32Array(1))[0]!;
  for (let i = 0; i < 120; i++) {
    // A failure names its seed, and the first ones are the same in every run.
    await playOut(i < 40 ? i : (base + i) >>> 0);
  }
});

Deno.test("RequestQueue.query() ends with its signal also while a resize is waited for", async () => {
  const grown = Promise.withResolvers<void>();
  const memory = new MemoryBackend({ sectors: 64 });
  const backend = altered(memory, {
    resize: () => grown.promise.then(() => memory.resize(128)),
  });
  const queue = new RequestQueue(backend);
  const resized = queue.resize(128, false);
  const abort = new AbortController();
  const range = { sector: 0, count: 1 };
  const asked = queue.query(() => range, () => "answer", abort.signal);
  const other = queue.query(() => range, () => "answer");
  abort.abort("enough");
  assertEquals(await asked.catch(String), "enough");
  const late = queue.query(() => range, () => "answer", abort.signal);
  assertEquals(await late.catch(String), "enough");
  grown.resolve();
  await resized;
  assertEquals(await other, "answer");
  await queue.close();
});
