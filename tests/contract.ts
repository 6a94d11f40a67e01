/**
 * The backend contract as tests: every backend and every layer passes them. The
 * lines are those of `src/backend.ts`; the memory backend is the model.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertNotStrictEquals,
  assertThrows,
} from "@std/assert";
import process from "node:process";
import type { Backend } from "../src/backend.ts";
import { MemoryBackend } from "../src/backends/memory.ts";
import { isZero } from "../src/buffer.ts";
import { DiskError, type DiskErrorKind } from "../src/errors.ts";
import { SECTOR_BYTES } from "../src/geometry.ts";
import { Random } from "../src/random.ts";
import {
  discardRequest,
  flushRequest,
  ID_BYTES,
  readRequest,
  Request,
  RequestFlag,
  RequestType,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../src/request.ts";
import { encodeId } from "../src/virtio.ts";

/** A backend under test, over a fresh image of its own. */
export interface ContractSubject {
  /** The backend: of at least 2 MiB, and small enough to be read whole. */
  backend: Backend;
  /** Opens the same image anew, after the backend was closed. */
  reopen?: () => Promise<Backend>;
  /** Removes the image; every backend is closed by then. */
  cleanup?: () => PromiseLike<void>;
}

/** What the suite should know of a backend. */
export interface ContractOptions {
  /** Whether to skip all of it. */
  ignore?: boolean;
  /** Makes a disk that is open for reading only. */
  readOnly?: () => Promise<ContractSubject>;
  /** Whether fresh images read as zeroes; `true` if not given. */
  freshIsZero?: boolean;
  /** Whether memory of `allocate` may be copied; `false` if not given. */
  copiesAllocated?: boolean;
}

/** Seeds of the random parts; a failure names the one it had. */
const SEEDS = [1, 0xbadc0de, 20_240_229];

/** How long a test may take. */
// An emulated processor takes its time: PLATTER_PATIENCE is how many times that.
const DEADLINE_MS = 60_000 * Number(Deno.env.get("PLATTER_PATIENCE") ?? 1);

/**
 * Submits requests as one batch.
 *
 * @returns What each was answered with, in the order of the requests.
 * @throws If one is answered twice.
 */
export function submitAll(
  backend: Backend,
  requests: readonly Request[],
): Promise<(DiskError | null)[]> {
  const { promise, resolve, reject } = Promise.withResolvers<
    (DiskError | null)[]
  >();
  const answers = new Map<Request, DiskError | null>();
  if (requests.length === 0) resolve([]);
  backend.submit(requests, (request, error) => {
    if (answers.has(request)) reject(new Error("Answered twice"));
    answers.set(request, error);
    if (answers.size === requests.length) {
      resolve(requests.map((each) => answers.get(each)!));
    }
  });
  return promise;
}

/** Submits requests, all of which must succeed. */
export async function carryOut(
  backend: Backend,
  ...requests: Request[]
): Promise<void> {
  for (const error of await submitAll(backend, requests)) {
    if (error !== null) throw error;
  }
}

/** What a test's callbacks throw. */
export class Thrown extends Error {
  /** Always `"Thrown"`. */
  override readonly name = "Thrown";
}

/** Catches what was thrown where nobody could, until it is disposed of. */
export function catchThrown(): Disposable & { readonly count: number } {
  let count = 0;
  const listener = (event: ErrorEvent) => {
    if (!(event.error instanceof Thrown)) return;
    event.preventDefault();
    count++;
  };
  const onUncaught = (error: unknown) => {
    if (!(error instanceof Thrown)) throw error;
    count++;
  };
  const isDeno = "Deno" in globalThis && "addEventListener" in globalThis;
  if (isDeno) globalThis.addEventListener("error", listener);
  else process.on("uncaughtException", onUncaught);
  return {
    get count() {
      return count;
    },
    [Symbol.dispose]() {
      if (isDeno) globalThis.removeEventListener("error", listener);
      else process.off("uncaughtException", onUncaught);
    },
  };
}

/** Reads sectors. */
export async function readSectors(
  backend: Backend,
  sector: number,
  count: number,
): Promise<Uint8Array<ArrayBuffer>> {
  // Not zero, so that zeroes are known to come from the disk.
  const data = new Uint8Array(count * SECTOR_BYTES).fill(0xee);
  await carryOut(backend, readRequest(sector, data));
  return data;
}

/** Reads the whole disk. */
export function readDisk(backend: Backend): Promise<Uint8Array<ArrayBuffer>> {
  return readSectors(backend, 0, backend.geometry.sectors);
}

/** Submits one request that must be refused. */
export async function assertRefused(
  backend: Backend,
  request: Request,
  kind: DiskErrorKind,
): Promise<DiskError> {
  const [error] = await submitAll(backend, [request]);
  assertInstanceOf(error, DiskError);
  assertEquals(error.kind, kind, error.message);
  return error;
}

/**
 * Compares large content with a short message.
 *
 * @throws If it differs, with the first sector that does.
 */
export function assertContent(
  actual: Uint8Array,
  expected: Uint8Array,
  message: string,
): void {
  assertEquals(actual.length, expected.length, message);
  for (let i = 0; i < actual.length; i++) {
    if (actual[i] === expected[i]) continue;
    const sector = Math.floor(i / SECTOR_BYTES);
    throw new Error(
      `${message}: sector ${sector} differs at byte ${i % SECTOR_BYTES}, is ${
        actual[i]
      } and must be ${expected[i]}`,
    );
  }
}

/**
 * Registers the suite.
 *
 * @param name What is tested, for the titles.
 * @param make Makes a disk on a fresh image, once for every test.
 * @param options What to know of it.
 */
export function contractSuite(
  name: string,
  make: () => Promise<ContractSubject>,
  options: ContractOptions = {},
): void {
  const test = (
    title: string,
    body: (subject: Required<ContractSubject>) => Promise<void>,
    from: () => Promise<ContractSubject> = make,
  ) =>
    Deno.test({
      name: `${name}: ${title}`,
      ignore: options.ignore ?? false,
      async fn() {
        const subject = await from();
        const open: Backend[] = [subject.backend];
        try {
          await inTime(body({
            backend: subject.backend,
            cleanup: subject.cleanup ?? (() => Promise.resolve()),
            async reopen() {
              // A backend that cannot be opened anew shows what it has.
              if (subject.reopen === undefined) return subject.backend;
              await subject.backend.close();
              const again = await subject.reopen();
              open.push(again);
              return again;
            },
          }));
        } finally {
          try {
            for (const backend of open) await inTime(backend.close());
          } finally {
            await subject.cleanup?.();
          }
        }
      },
    });

  test("answers every request exactly once, good or bad", async (subject) => {
    const { backend } = subject;
    const { sectors } = backend.geometry;
    const block = blockSectors(backend);
    const bytes = backend.geometry.blockSize;
    const requests: Request[] = [];
    for (let i = 0; i < 32; i++) {
      requests.push(
        readRequest(i * block, new Uint8Array(bytes)),
        writeRequest((i + 64) * block, new Uint8Array(bytes).fill(i)),
        readRequest(sectors, new Uint8Array(bytes)),
        flushRequest(),
        discardRequest((i + 128) * block, block),
        writeZeroesRequest((i + 192) * block, block),
        new Request(99 as RequestType, 0, 1),
        idRequest(new Uint8Array(ID_BYTES)),
      );
    }
    const counts = new Map<Request, number>();
    const { promise, resolve } = Promise.withResolvers<void>();
    backend.submit(requests, (request) => {
      counts.set(request, (counts.get(request) ?? 0) + 1);
      if (counts.size === requests.length) resolve();
    });
    await promise;
    await backend.close();
    assertEquals(requests.map((r) => counts.get(r)), requests.map(() => 1));
  });

  test("takes the batch's array for the call only", async ({ backend }) => {
    const bytes = backend.geometry.blockSize;
    const batch = [0, 1, 2, 3].map((i) =>
      writeRequest(i * blockSectors(backend), new Uint8Array(bytes).fill(i + 1))
    );
    const done = submitAll(backend, batch.slice());
    const { promise, resolve } = Promise.withResolvers<void>();
    let left = batch.length;
    backend.submit(batch, () => --left === 0 && resolve());
    batch.length = 0;
    await Promise.all([promise, done]);
    await submitAll(backend, []);
  });

  test("goes on where callbacks throw, each of which is heard of by itself", async (subject) => {
    const { backend } = subject;
    using uncaught = catchThrown();
    const data = new Uint8Array(4096).fill(7);
    const requests = [
      new Request(RequestType.GetId, 0, 0, 0, new Uint8Array(ID_BYTES)),
      readRequest(backend.geometry.sectors, new Uint8Array(512)),
      ...Array.from(
        { length: 40 },
        (_, i) =>
          i % 2 === 0 ? writeRequest(8 * i, data) : readRequest(
            8 * i,
            new Uint8Array(4096),
          ),
      ),
      flushRequest(),
    ];
    const answers = new Map<Request, number>();
    const all = Promise.withResolvers<void>();
    // It never throws itself.
    backend.submit(requests, (request) => {
      answers.set(request, (answers.get(request) ?? 0) + 1);
      if (answers.size === requests.length) all.resolve();
      throw new Thrown();
    });
    await all.promise;
    for (const request of requests) assertEquals(answers.get(request), 1);
    await carryOut(backend, writeRequest(0, data));
    assertEquals(await readSectors(backend, 0, 8), data);
    await backend.close();
    assertEquals(uncaught.count, requests.length);
  });

  test("may be given more from within an answer", async ({ backend }) => {
    const bytes = backend.geometry.blockSize;
    const data = new Uint8Array(bytes).fill(7);
    const back = new Uint8Array(bytes);
    const { promise, resolve } = Promise.withResolvers<void>();
    backend.submit([writeRequest(0, data)], (_, error) => {
      assertEquals(error, null);
      backend.submit([readRequest(0, back)], (_, error) => {
        assertEquals(error, null);
        resolve();
      });
    });
    await promise;
    assertEquals(back, data);
  });

  if (options.freshIsZero ?? true) {
    test("reads zeroes where nothing was written", async ({ backend }) => {
      assert(isZero(await readDisk(backend)));
    });
  }

  test("reads back what it wrote, and its neighbours", async ({ backend }) => {
    const { sectors, blockSize } = backend.geometry;
    const block = blockSectors(backend);
    const random = new Random(SEEDS[0]!);
    const last = sectors - block;
    const middle = Math.floor(sectors / block / 2) * block;
    for (const sector of [0, block, 7 * block, middle, last - block, last]) {
      const before = await readDisk(backend);
      const data = random.bytes(blockSize);
      await carryOut(backend, writeRequest(sector, data));
      before.set(data, sector * SECTOR_BYTES);
      assertContent(await readDisk(backend), before, `after ${sector}`);
      assertEquals(await readSectors(backend, sector, block), data);
    }
  });

  test("reads and writes the whole disk at once", async (subject) => {
    const { backend } = subject;
    const data = pattern(backend.geometry.sectors * SECTOR_BYTES, 3);
    await carryOut(backend, writeRequest(0, data));
    assertContent(await readDisk(backend), data, "at once");
    const again = await subject.reopen();
    if (again !== backend) {
      assertContent(await readDisk(again), data, "opened anew");
    }
  });

  test("moves large requests from and to odd places", async ({ backend }) => {
    const block = blockSectors(backend);
    const size = largeBytes(backend);
    const data = pattern(size + 1, 5).subarray(1);
    await carryOut(backend, writeRequest(3 * block, data));
    const expected = new Uint8Array(
      backend.geometry.sectors * SECTOR_BYTES,
    );
    expected.set(data, 3 * block * SECTOR_BYTES);
    assertContent(await readDisk(backend), expected, "whole");
    const back = new Uint8Array(size + 3).subarray(3);
    await carryOut(backend, readRequest(3 * block, back));
    assertContent(back, data, "alone");
  });

  test("gathers and scatters segments", async ({ backend }) => {
    const random = new Random(SEEDS[1]!);
    const block = blockSectors(backend);
    for (const blocks of [1, 2, 5, 64]) {
      const size = blocks * backend.geometry.blockSize;
      const data = random.bytes(size);
      const at = 5 * block;
      await carryOut(
        backend,
        writeRequest(at, ...segmentsOf(data, random)),
      );
      assertContent(
        await readSectors(backend, at, size / SECTOR_BYTES),
        data,
        "gathered",
      );
      const back = new Uint8Array(size);
      await carryOut(backend, readRequest(at, ...segmentsOf(back, random)));
      assertContent(back, data, "scattered");
    }
  });

  test("gathers and scatters large segments", async ({ backend }) => {
    const random = new Random(SEEDS[2]!);
    const size = largeBytes(backend);
    const data = pattern(size, 11);
    const half = Math.floor(size / 3 / SECTOR_BYTES) * SECTOR_BYTES;
    await carryOut(
      backend,
      writeRequest(0, data.subarray(0, half), data.subarray(half)),
    );
    const back = new Uint8Array(size);
    await carryOut(backend, readRequest(0, ...segmentsOf(back, random, 2048)));
    assertContent(back, data, "both ways");
  });

  test("takes memory at any address and keeps beside it off", async ({ backend }) => {
    const { blockSize } = backend.geometry;
    const size = 3 * blockSize;
    for (const offset of [1, 3, 8, 511, 513, 4095]) {
      const data = pattern(size, offset);
      const memory = new Uint8Array(size + 8192).fill(0xa5);
      memory.set(data, offset);
      const slice = memory.subarray(offset, offset + size);
      await carryOut(backend, writeRequest(0, slice));
      slice.fill(0);
      await carryOut(backend, readRequest(0, slice));
      assertEquals(slice, data);
      assert(memory.subarray(0, offset).every((byte) => byte === 0xa5));
      assert(memory.subarray(offset + size).every((byte) => byte === 0xa5));
    }
  });

  test("allocates memory that is zeroed and moves as it is", async ({ backend }) => {
    for (const size of [512, 4096, 65_536, 1 << 20]) {
      const memory = backend.allocate(size);
      assertEquals(memory.length, size);
      assert(isZero(memory));
      memory.fill(1);
    }
    const bounced = backend.counters.bounced;
    const memory = backend.allocate(65_536);
    memory.set(pattern(65_536, 1));
    await carryOut(backend, writeRequest(0, memory));
    const back = backend.allocate(65_536);
    await carryOut(backend, readRequest(0, back));
    assertEquals(back, memory);
    if (!(options.copiesAllocated ?? false)) {
      assertEquals(backend.counters.bounced, bounced);
    }
  });

  test("allocates memory that never begins where its buffer does", ({ backend }) => {
    for (const size of [512, 512, 4096, 65_536, 5 << 20]) {
      const { byteOffset, buffer } = backend.allocate(size);
      assert(byteOffset > 0);
      assert(buffer.byteLength >= byteOffset + size);
    }
    return Promise.resolve();
  });

  test("refuses what is no memory, and does nothing", async ({ backend }) => {
    const { blockSize } = backend.geometry;
    const block = blockSectors(backend);
    const content = pattern(4 * blockSize, 11);
    await carryOut(backend, writeRequest(0, content));
    const good = new Uint8Array(blockSize);
    const wrong: [string, unknown][] = [
      ["null", null],
      ["undefined", undefined],
      ["a string", "x".repeat(blockSize)],
      ["an array", Array.from({ length: blockSize }, () => 1)],
      ["a length", { length: blockSize }],
      ["wide elements", new Uint16Array(blockSize)],
      ["a few wide elements", new Float64Array(blockSize / 8)],
      ["a view", new DataView(new ArrayBuffer(blockSize))],
      ["a buffer", new ArrayBuffer(blockSize)],
    ];
    for (const [title, value] of wrong) {
      const bad = value as Uint8Array;
      for (const type of [RequestType.In, RequestType.Out]) {
        const requests = [
          new Request(type, 0, block, 0, bad),
          new Request(type, 0, 2 * block, 0, good, [bad]),
          new Request(type, 0, block, 0, good, (bad ?? "") as unknown as []),
        ];
        for (const request of requests) {
          const error = await assertRefused(backend, request, "argument");
          assert(error.message.includes("current value is"), title);
        }
      }
    }
    const back = new Uint8Array(4 * blockSize);
    await carryOut(backend, readRequest(0, back));
    assertEquals(back, content);
  });

  test("fails what lost its memory, and nothing beside it", async ({ backend }) => {
    const { blockSize } = backend.geometry;
    const block = blockSectors(backend);
    const before = new Uint8Array(6 * blockSize).fill(0x11);
    await carryOut(backend, writeRequest(0, before));
    const gone = new Uint8Array(blockSize).fill(0xee);
    const half = new Uint8Array(blockSize).fill(0xee);
    const requests = [
      writeRequest(0, new Uint8Array(blockSize).fill(1)),
      writeRequest(block, gone),
      writeRequest(2 * block, half, new Uint8Array(blockSize).fill(3)),
      readRequest(4 * block, gone),
      writeRequest(5 * block, new Uint8Array(blockSize).fill(4)),
    ];
    gone.buffer.transfer();
    half.buffer.transfer();
    const errors = await submitAll(backend, requests);
    assertEquals(
      errors.map((error) => error?.kind ?? null),
      [null, "argument", "argument", "argument", null],
    );
    const back = new Uint8Array(6 * blockSize);
    await carryOut(backend, readRequest(0, back));
    assert(!back.includes(0xee));
    assertEquals(back[0], 1);
    assertEquals(back[5 * blockSize], 4);
  });

  test("keeps neighbours that are written at once apart", async ({ backend }) => {
    const { blockSize } = backend.geometry;
    const block = blockSectors(backend);
    const random = new Random(SEEDS[0]!);
    for (let round = 1; round <= 4; round++) {
      const expected = random.bytes(96 * blockSize);
      // Runs of one to three blocks, from the second block on.
      const requests: Request[] = [];
      for (let at = 1; at < 96;) {
        const run = Math.min(96 - at, random.between(1, 3));
        const end = (at + run) * blockSize;
        requests.push(
          writeRequest(at * block, expected.subarray(at * blockSize, end)),
        );
        at += run;
      }
      await carryOut(backend, ...random.shuffle(requests));
      assertContent(
        await readSectors(backend, block, 95 * block),
        expected.subarray(blockSize),
        `round ${round}`,
      );
    }
  });

  test("leaves nothing old where overlapping writes meet", async ({ backend }) => {
    const { blockSize } = backend.geometry;
    const block = blockSectors(backend);
    const old = new Uint8Array(16 * blockSize).fill(1);
    for (let round = 0; round < 8; round++) {
      await carryOut(backend, writeRequest(0, old));
      await carryOut(
        backend,
        writeRequest(3 * block, new Uint8Array(blockSize).fill(2)),
        writeRequest(0, new Uint8Array(16 * blockSize).fill(3)),
        writeRequest(5 * block, new Uint8Array(blockSize).fill(4)),
      );
      const now = await readSectors(backend, 0, 16 * block);
      for (let i = 0; i < 16; i++) {
        const value = now[i * blockSize]!;
        const may = i === 3 ? [2, 3] : i === 5 ? [3, 4] : [3];
        assert(may.includes(value), `block ${i} is ${value}, not of ${may}`);
        const whole = now.subarray(i * blockSize, (i + 1) * blockSize);
        assert(whole.every((byte) => byte === value), `block ${i} is torn`);
      }
    }
  });

  for (const seed of SEEDS) {
    test(`does as the model does, seed ${seed}`, async (subject) => {
      const { backend } = subject;
      const model = new MemoryBackend({
        sectors: backend.geometry.sectors,
        blockSize: backend.geometry.blockSize,
      });
      if (!(options.freshIsZero ?? true)) {
        await carryOut(model, writeRequest(0, await readDisk(backend)));
      }
      const random = new Random(seed);
      for (let round = 0; round < 24; round++) {
        const batches: Promise<void>[] = [];
        const places = placesOf(backend, random);
        while (places.length > 0) {
          // Several batches at once, no two requests of them overlapping.
          const pairs = places.splice(0, random.between(1, 12)).map((
            [sector, count],
          ) => requestPair(backend, sector, count, random));
          const both = Promise.all([
            carryOut(backend, ...pairs.map(([own]) => own)),
            carryOut(model, ...pairs.map(([, other]) => other)),
          ]);
          batches.push(both.then(() => {
            for (const [own, other] of pairs) {
              if (own.type !== RequestType.In) continue;
              assertContent(
                joined(own),
                joined(other),
                `seed ${seed}, round ${round}, read at ${own.sector}`,
              );
            }
          }));
        }
        await Promise.all(batches);
      }
      await carryOut(backend, flushRequest());
      const expected = await readDisk(model);
      assertContent(await readDisk(backend), expected, `seed ${seed}`);
      const again = await subject.reopen();
      assertContent(await readDisk(again), expected, `seed ${seed}, reopened`);
    });
  }

  test("refuses what is no request of this disk, and does nothing", async ({ backend }) => {
    const { sectors, blockSize } = backend.geometry;
    const block = blockSectors(backend);
    const content = pattern(sectors * SECTOR_BYTES, 9);
    await carryOut(backend, writeRequest(0, content));
    const calls = backend.counters.systemCalls;
    const cases: [string, DiskErrorKind, number, number, number][] = [
      ["at the end", "range", sectors, block, blockSize],
      ["over the end", "range", sectors - block, 2 * block, 2 * blockSize],
      ["far away", "range", 2 ** 43, block, blockSize],
      ["at no integer", "argument", 0.5, block, blockSize],
      ["at no number", "argument", NaN, block, blockSize],
      ["beyond safe integers", "argument", 2 ** 53, block, blockSize],
      ["of nothing", "argument", 0, 0, 0],
      ["of less memory", "argument", 0, 2 * block, blockSize],
      ["of more memory", "argument", 0, block, 2 * blockSize],
    ];
    if (block > 1) {
      cases.push(
        ["at a part of a block", "alignment", 1, block, blockSize],
        ["of a part of a block", "alignment", 0, 1, SECTOR_BYTES],
      );
    }
    for (const [title, kind, sector, count, bytes] of cases) {
      for (const type of [RequestType.In, RequestType.Out]) {
        const data = new Uint8Array(bytes).fill(0x5a);
        const error = await assertRefused(
          backend,
          new Request(type, sector, count, 0, data),
          kind,
        ).catch((error) => {
          throw new Error(`${title}: ${error.message}`);
        });
        assertEquals(error.sector, sector);
        assertEquals(error.count, count);
        assert(data.every((byte) => byte === 0x5a), title);
      }
      if (title.endsWith("memory")) continue;
      for (const type of [RequestType.Discard, RequestType.WriteZeroes]) {
        await assertRefused(backend, new Request(type, sector, count), kind);
      }
    }
    for (const sector of [-block, -1, Number.MIN_SAFE_INTEGER]) {
      const [error] = await submitAll(backend, [
        readRequest(sector, new Uint8Array(blockSize)),
      ]);
      assert(error?.kind === "argument" || error?.kind === "alignment");
    }
    const torn = new Uint8Array(blockSize + 100);
    await assertRefused(backend, writeRequest(0, torn), "alignment");
    await assertRefused(
      backend,
      writeRequest(0, torn.subarray(0, 100), torn.subarray(0, blockSize - 100)),
      "alignment",
    );
    await assertRefused(backend, readRequest(0), "argument");
    await assertRefused(
      backend,
      new Request(RequestType.Out, 0, block),
      "argument",
    );
    await assertRefused(
      backend,
      new Request(99 as RequestType, 0, block),
      "unsupported",
    );
    assertEquals(backend.counters.systemCalls, calls);
    assertContent(await readDisk(backend), content, "after refusals");
  });

  test("says unsupported to what it cannot do, and does nothing", async ({ backend }) => {
    const block = blockSectors(backend);
    const data = pattern(8 * backend.geometry.blockSize, 2);
    await carryOut(backend, writeRequest(0, data));
    const { discard, writeZeroes, secureErase } = backend.abilities;
    const types = [
      [RequestType.Discard, discard],
      [RequestType.WriteZeroes, writeZeroes],
      [RequestType.SecureErase, secureErase],
    ] as const;
    for (const [type, ability] of types) {
      if (ability !== "none") continue;
      await assertRefused(
        backend,
        new Request(type, 0, 4 * block),
        "unsupported",
      );
    }
    if (types.every(([, ability]) => ability !== "none")) return;
    assertEquals(await readSectors(backend, 0, 8 * block), data);
  });

  const { readOnly } = options;
  if (readOnly !== undefined) {
    test("refuses every write if it is read-only", async ({ backend }) => {
      const block = blockSectors(backend);
      const before = await readDisk(backend);
      assert(backend.abilities.readOnly);
      const data = new Uint8Array(backend.geometry.blockSize).fill(1);
      for (
        const request of [
          writeRequest(0, data),
          writeFuaRequest(0, data),
          discardRequest(0, block),
          writeZeroesRequest(0, block),
          new Request(RequestType.SecureErase, 0, block),
        ]
      ) await assertRefused(backend, request, "read-only");
      await carryOut(backend, flushRequest());
      assertContent(await readDisk(backend), before, "after refusals");
    }, readOnly);
  }

  test("lets go of memory when it answers", async ({ backend }) => {
    const size = 16 * backend.geometry.blockSize;
    const count = size / SECTOR_BYTES;
    for (const memory of [new Uint8Array(size), backend.allocate(size)]) {
      const data = pattern(size, 4);
      memory.set(data);
      await carryOut(backend, writeRequest(0, memory));
      memory.fill(0x77);
      assertEquals(await readSectors(backend, 0, count), data);
      await carryOut(backend, readRequest(0, memory));
      memory.fill(0x77);
      await readSectors(backend, 0, count);
      assert(memory.every((byte) => byte === 0x77));
    }
  });

  test("drains when closed, closes once, refuses afterwards", async (subject) => {
    const { backend } = subject;
    const block = blockSectors(backend);
    const { blockSize } = backend.geometry;
    const data = pattern(64 * blockSize, 6);
    let answered = 0;
    const errors: DiskError[] = [];
    const requests: Request[] = [];
    for (let i = 0; i < 64; i++) {
      const part = data.subarray(i * blockSize, (i + 1) * blockSize);
      requests.push(writeRequest(i * block, part));
    }
    backend.submit(requests, (_, error) => {
      answered++;
      if (error !== null) errors.push(error);
    });
    const closed = backend.close();
    await Promise.all([closed, backend.close()]);
    await backend.close();
    assertEquals(errors, []);
    assertEquals(answered, 64);
    for (
      const request of [
        readRequest(0, new Uint8Array(blockSize)),
        writeRequest(0, new Uint8Array(blockSize)),
        flushRequest(),
        discardRequest(0, block),
        writeZeroesRequest(0, block),
        idRequest(new Uint8Array(ID_BYTES)),
      ]
    ) await assertRefused(backend, request, "closed");
    const again = await subject.reopen();
    if (again === backend) return;
    assertEquals(await readSectors(again, 0, 64 * block), data);
  });

  test("flushes, and writes durably", async (subject) => {
    const { backend } = subject;
    const block = blockSectors(backend);
    const data = pattern(4 * backend.geometry.blockSize, 8);
    const parts = [0, 1, 2, 3].map((i) =>
      data.subarray(
        i * backend.geometry.blockSize,
        (i + 1) * backend.geometry.blockSize,
      )
    );
    if (backend.abilities.flush === "none") {
      await assertRefused(backend, flushRequest(), "unsupported");
      return;
    }
    await carryOut(backend, flushRequest());
    await carryOut(
      backend,
      writeFuaRequest(0, parts[0]!),
      writeFuaRequest(block, parts[1]!),
      flushRequest(),
      writeRequest(2 * block, parts[2]!),
      writeFuaRequest(3 * block, parts[3]!),
      flushRequest(),
    );
    await carryOut(backend, ...Array.from({ length: 8 }, flushRequest));
    const again = await subject.reopen();
    assertEquals(await readSectors(again, 0, 4 * block), data);
  });

  for (const unmap of [false, true]) {
    const flags = unmap ? RequestFlag.Unmap : 0;
    test(`writes zeroes, unmap ${unmap}`, async (subject) => {
      const { backend } = subject;
      if (backend.abilities.writeZeroes === "none") return;
      const block = blockSectors(backend);
      const { sectors } = backend.geometry;
      const blocks = sectors / block;
      const content = pattern(sectors * SECTOR_BYTES, 10);
      await carryOut(backend, writeRequest(0, content));
      const zero = async (first: number, count: number, fua = 0) => {
        const sector = first * block;
        await carryOut(
          backend,
          writeZeroesRequest(sector, count * block, flags | fua),
        );
        content.fill(
          0,
          sector * SECTOR_BYTES,
          (sector + count * block) * SECTOR_BYTES,
        );
        assertContent(
          await readDisk(backend),
          content,
          `${count} blocks at ${first}`,
        );
      };
      await zero(1, 1);
      await zero(blocks - 1, 1, RequestFlag.Fua);
      await zero(13, 200);
      await zero(301, Math.floor(blocks / 2) - 301);
      await zero(0, blocks);
      const again = await subject.reopen();
      assert(isZero(await readDisk(again)));
    });
  }

  test("discards to something that stays", async (subject) => {
    const { backend } = subject;
    const { discard, secureErase } = backend.abilities;
    const block = blockSectors(backend);
    const size = 256 * backend.geometry.blockSize;
    for (
      const [type, ability] of [
        [RequestType.Discard, discard],
        [RequestType.SecureErase, secureErase],
      ] as const
    ) {
      if (ability === "none") continue;
      const data = pattern(size, 12);
      await carryOut(backend, writeRequest(0, data));
      await carryOut(backend, new Request(type, 3 * block, 200 * block));
      const first = await readSectors(backend, 0, 256 * block);
      const second = await readSectors(backend, 0, 256 * block);
      assertContent(second, first, "read twice");
      const { blockSize } = backend.geometry;
      data.set(
        first.subarray(3 * blockSize, 203 * blockSize),
        3 * blockSize,
      );
      assertContent(first, data, "neighbours");
      await carryOut(backend, writeRequest(3 * block, data.subarray(0, 8192)));
      assertEquals(
        await readSectors(backend, 3 * block, 16),
        data.subarray(0, 8192),
      );
    }
  });

  test("tells its identity in 20 bytes", async ({ backend }) => {
    const memory = new Uint8Array(ID_BYTES + 12).fill(0xcc);
    await carryOut(backend, idRequest(memory));
    assertEquals(memory.subarray(0, ID_BYTES), encodeId(backend.info.id));
    assert(memory.subarray(ID_BYTES).every((byte) => byte === 0xcc));
    await assertRefused(
      backend,
      idRequest(new Uint8Array(ID_BYTES - 1)),
      "argument",
    );
    await assertRefused(
      backend,
      new Request(RequestType.GetId, 0, 0),
      "argument",
    );
  });

  test("tells what it is as plain data", async ({ backend }) => {
    assertEquals(JSON.parse(JSON.stringify(backend.info)), backend.info);
    const { direct } = backend.info;
    if (!direct.active) assertNotStrictEquals(direct.reason, null);
    const { counters, limits, geometry } = backend;
    assert(Object.values(counters).every(Number.isSafeInteger));
    assert(limits.maxSegments >= 1);
    assert(limits.maxBytes >= geometry.blockSize);
    assertEquals(geometry.sectors % blockSectors(backend), 0);
    await Promise.resolve();
  });

  test("is cloned into nothing that looks like it", ({ backend }) => {
    const error = assertThrows(() => structuredClone(backend), DOMException);
    assertEquals(error.name, "DataCloneError");
    return Promise.resolve();
  });

  test("maps extents that adjoin, and whose holes read zeroes", async ({ backend }) => {
    if (backend.extents === undefined) return;
    const { sectors, blockSize } = backend.geometry;
    const block = blockSectors(backend);
    const at = Math.floor(sectors / block / 2) * block;
    await carryOut(backend, writeRequest(at, pattern(blockSize, 1)));
    for (
      const [first, count] of [
        [0, sectors],
        [at, block],
        [block, sectors - 2 * block],
      ] as const
    ) {
      let next = first;
      while (next < first + count) {
        // An answer may end early, but never before it has begun.
        const extents = backend.extents(next, first + count - next);
        assert(extents.length > 0);
        for (const extent of extents) {
          assertEquals(extent.sector, next);
          assert(extent.count > 0);
          next += extent.count;
          if (extent.hole) {
            assertFalse(extent.sector <= at && at < next);
            assert(
              isZero(await readSectors(backend, extent.sector, extent.count)),
            );
          }
        }
      }
      assertEquals(next, first + count);
    }
  });
}

/**
 * Fails what never ends: a test that waits for ever would never get to remove
 * its loop devices either.
 */
async function inTime<T>(work: Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => reject(new Error(`No answer for ${DEADLINE_MS / 1000} seconds`)),
    DEADLINE_MS,
  );
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}

function blockSectors(backend: Backend): number {
  return backend.geometry.blockSize / SECTOR_BYTES;
}

/** More than 4 MiB where the disk has them, in whole blocks. */
function largeBytes(backend: Backend): number {
  const { sectors, blockSize } = backend.geometry;
  const most = sectors * SECTOR_BYTES - 16 * blockSize;
  const wanted = Math.min(most, (4 << 20) + 5 * blockSize);
  return wanted - wanted % blockSize;
}

function idRequest(memory: Uint8Array): Request {
  return new Request(RequestType.GetId, 0, 0, 0, memory);
}

/** Bytes that differ from sector to sector, none of them zero. */
function pattern(length: number, salt: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) {
    bytes[i] = (i + (i >>> 9) * 31 + salt * 17) % 255 + 1;
  }
  return bytes;
}

/** Cuts memory into segments of whole sectors. */
function segmentsOf(
  memory: Uint8Array,
  random: Random,
  maxSectors = 9,
): Uint8Array[] {
  const segments: Uint8Array[] = [];
  for (let at = 0; at < memory.length;) {
    const size = random.between(1, maxSectors) * SECTOR_BYTES;
    segments.push(memory.subarray(at, at + size));
    at += size;
  }
  return segments;
}

/** Places that do not overlap: some in a crowd, some far and wide. */
function placesOf(backend: Backend, random: Random): [number, number][] {
  const block = blockSectors(backend);
  const blocks = backend.geometry.sectors / block;
  const places: [number, number][] = [];
  for (let at = random.below(8); at < blocks;) {
    const count = Math.min(
      blocks - at,
      random.chance(1, 8) ? random.between(1, 600) : random.between(1, 6),
    );
    places.push([at * block, count * block]);
    if (places.length === 40) break;
    at += count + (random.chance(3, 4) ? 0 : random.below(blocks >> 4));
  }
  return random.shuffle(places);
}

/** The same request for the backend and for the model. */
function requestPair(
  backend: Backend,
  sector: number,
  count: number,
  random: Random,
): [own: Request, other: Request] {
  const size = count * SECTOR_BYTES;
  if (random.chance(1, 3)) {
    const memory = random.chance(1, 2)
      ? backend.allocate(size)
      : new Uint8Array(size + 5).subarray(5);
    return [
      random.chance(1, 3)
        ? readRequest(sector, ...segmentsOf(memory, random))
        : readRequest(sector, memory),
      readRequest(sector, new Uint8Array(size)),
    ];
  }
  if (backend.abilities.writeZeroes !== "none" && random.chance(1, 6)) {
    const flags = random.chance(1, 2) ? RequestFlag.Unmap : 0;
    return [
      writeZeroesRequest(sector, count, flags),
      writeZeroesRequest(sector, count, flags),
    ];
  }
  const data = random.bytes(size);
  const memory = random.chance(1, 2)
    ? backend.allocate(size)
    : new Uint8Array(size);
  memory.set(data);
  const own = random.chance(1, 3)
    ? writeRequest(sector, ...segmentsOf(memory, random))
    : random.chance(1, 20)
    ? writeFuaRequest(sector, memory)
    : writeRequest(sector, memory);
  return [own, writeRequest(sector, data)];
}

/** A request's segments in one piece. */
function joined(request: Request): Uint8Array {
  const bytes = new Uint8Array(request.count * SECTOR_BYTES);
  let at = 0;
  for (let i = 0; i < request.segmentCount; i++) {
    bytes.set(request.segment(i), at);
    at += request.segment(i).length;
  }
  return bytes;
}
