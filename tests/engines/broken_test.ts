/**
 * Engines that break with requests in flight, and those that never worked: all
 * requests are answered, each with what became of it, and the disk goes on with
 * blocking calls and says why.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { openLibc } from "../../ffi/libc.ts";
import { PosixHost } from "../../src/engines/posix_host.ts";
import { AsyncEngine } from "../../src/engines/async_engine.ts";
import {
  type KernelQueue,
  NOT_TAKEN,
  type Visit,
} from "../../src/engines/kernel_queue.ts";
import { Operation, OperationCode } from "../../src/engines/engine.ts";
import { Random } from "../../src/random.ts";
import { LONG, needs, tempDir } from "../helpers.ts";
import {
  ASYNC_ENGINES,
  ENGINES,
  hasEngine,
  pause,
  program,
  SERVED_TOOLS,
  slowFile,
} from "../backends/direct/harness.ts";
import { inThreads } from "../backends/direct/seccomp.ts";

const MIB = 1_048_576;

/** What the kernel, or a filter, may say to a call that worked before. */
const CODES = LONG
  ? ["EPERM", "ENOSYS", "EBADF", "EFAULT", "EIO"]
  : ["EPERM", "EBADF"];

const CALLS: [engine: "io_uring" | "libaio", call: string, codes: string[]][] =
  [
    ["io_uring", "io_uring_enter", [
      ...CODES,
      "EBADR",
      ...(LONG ? ["EINVAL", "EEXIST"] : []),
    ]],
    ["libaio", "io_submit", CODES],
    ["libaio", "io_getevents", CODES],
  ];

/** Writes, reads and flushes much while a call begins to fail. */
const MUCH = `
  const disk = await VirtualDisk.open(path, {
    backend: "direct", engine: given.engine, queueSize: 64,
  });
  const wrong = [];
  const round = async (value, options) => {
    const all = [];
    for (let i = 0; i < 96; i++) {
      all.push(disk.write(i * 16, disk.allocate(8).fill(value + i), options));
      // Begun before the calls fail, and after.
      if (i === 70 && given.call !== undefined && value === 20) {
        await Promise.resolve();
        disk.kick();
        deny({ call: given.call, code: given.code });
      }
    }
    all.push(disk.flush());
    await Promise.all(all.map((one, i) => one.catch((error) =>
      wrong.push([i, tell(error)]))));
    const back = await Promise.all(Array.from(
      { length: 96 }, (_, i) => disk.read(i * 16, 8)));
    back.forEach((bytes, i) => {
      if (bytes.some((byte) => byte !== (value + i) % 256)) wrong.push(i);
    });
  };
  await round(10);
  const before = disk.info.engine;
  for (const value of [20, 30]) await round(value);
  await round(50, { fua: true });
  // Completions that are there already need no call, so that it may come late.
  for (let i = 0; i < 100 && disk.info.engine.name === before.name; i++) {
    await round(60 + i);
  }
  const after = disk.info.engine;
  const failure = disk.failure;
  await disk.close();
  return { wrong, before: before.name, after, failure };
`;

for (const [engine, call, codes] of CALLS) {
  Deno.test({
    name: `${engine} goes on with blocking calls where ${call} fails in use`,
    ignore: !hasEngine(engine),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", new Random(1).bytes(MIB));
      const all = await inThreads<unknown, Record<string, unknown>>(
        MUCH,
        path,
        codes.map((code) => ({ engine, call, code })),
      );
      all.forEach((found, i) => {
        const { after, ...rest } = found;
        assertEquals(
          rest,
          { wrong: [], before: engine, failure: null },
          codes[i],
        );
        const { name, reason } = after as { name: string; reason: string };
        assertEquals(name, "sync", codes[i]);
        assertMatch(
          reason,
          new RegExp(
            `^${engine} broke in use: ${call} failed with ${codes[i]}`,
          ),
        );
      });
    },
  });
}

Deno.test({
  name: "io_uring gives up where the kernel takes nothing for long",
  ignore: !hasEngine("io_uring") || !hasEngine("libaio"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(MIB));
    const all = await inThreads<unknown, Record<string, unknown>>(MUCH, path, [
      { engine: "io_uring", call: "io_uring_enter", code: "EAGAIN" },
      { engine: "libaio", call: "io_submit", code: "EAGAIN" },
    ]);
    for (const { wrong, after } of all) {
      assertEquals(wrong, []);
      assertEquals((after as { name: string }).name, "sync");
    }
  },
});

for (const engine of ASYNC_ENGINES) {
  const calls = engine === "io_uring"
    ? ["io_uring_enter"]
    : ["io_submit", "io_getevents"];

  Deno.test({
    name: `${engine} waits for what a broken queue still has`,
    ignore: !hasEngine(engine) || needs(...SERVED_TOOLS).ignore,
    async fn() {
      const content = new Random(3).bytes(MIB);
      await using file = await slowFile(content, 150);
      // In the main thread, where the kernel has the caller's memory.
      const found = await program<Record<string, unknown>>(
        `
        const { deny } = await import(${
          JSON.stringify(import.meta.resolve("../backends/direct/seccomp.ts"))
        });
        const disk = await VirtualDisk.open(path, {
          backend: "direct", engine: ${JSON.stringify(engine)}, queueSize: 8,
        });
        const order = [];
        const memory = Array.from({ length: 12 }, () => disk.allocate(8));
        const all = memory.map((bytes, i) => (i % 3 === 2
          ? disk.write(i * 64, bytes.fill(0xd0 + i))
          : disk.readInto(i * 64, bytes)).then(() => order.push(i)));
        await pause(40);
        deny(...${
          JSON.stringify(calls.map((call) => ({ call, code: "EPERM" })))
        });
        all.push(disk.readInto(1024, disk.allocate(8)), disk.flush());
        await Promise.all(all);
        const sums = memory.map((bytes) => bytes.reduce((a, b) => a + b));
        const { engine } = disk.info;
        await disk.close();
        return { sums, engine, answered: order.length };
        `,
        { args: [file.path] },
      );
      const now = await Deno.readFile(file.behind);
      assertEquals(
        found.sums,
        Array.from({ length: 12 }, (_, i) => {
          const bytes = i % 3 === 2
            ? new Uint8Array(4096).fill(0xd0 + i)
            : content.subarray(i * 64 * 512, i * 64 * 512 + 4096);
          assertEquals(now.subarray(i * 64 * 512, i * 64 * 512 + 4096), bytes);
          return bytes.reduce((a, b) => a + b);
        }),
      );
      assertEquals(found.answered, 12);
      assertEquals((found.engine as { name: string }).name, "sync");
    },
  });
}

/** A queue whose kernel answers when it is told to, and breaks. */
class Fragile implements KernelQueue<Operation> {
  readonly depth = 8;
  broken: string | null = null;
  lost = 0;
  /** In the kernel. */
  readonly inside: number[] = [];
  /** Done, with their results. */
  readonly done: [slot: number, result: number][] = [];
  readonly #filled: number[] = [];
  #closed = false;
  /** Times that the kernel was entered. */
  systemCalls = 0;

  prepare(_operation: Operation, slot: number): boolean {
    this.#filled.push(slot);
    return true;
  }

  enter(): number {
    this.systemCalls++;
    for (const slot of this.#filled.splice(0)) {
      if (this.broken === null) this.inside.push(slot);
      else this.done.push([slot, NOT_TAKEN]);
    }
    return 0;
  }

  drain(visit: Visit): number {
    assert(!this.#closed, "looked at after it was closed");
    const { length } = this.done;
    for (const [slot, result] of this.done.splice(0)) visit(slot, result);
    return length;
  }

  waitOffThread(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, 1));
  }

  endOffThreadWait(): void {}
  close(): void {
    this.#closed = true;
  }
}

/** Operations of each kind, the kernel's word on them, and their engine. */
function fragile() {
  const queue = new Fragile();
  const answers = new Map<Operation, number>();
  const { promise: answered, resolve } = Promise.withResolvers<void>();
  let expected = 0;
  const engine = new AsyncEngine<Operation>(
    new PosixHost(openLibc()),
    queue,
    (operation, result) => {
      assert(!answers.has(operation), "answered twice");
      answers.set(operation, result);
      if (answers.size === expected) resolve();
    },
    { info: { name: "fragile", reason: null }, stallMs: 0.1, pollMs: 0 },
  );
  const EBADF = openLibc().abi.errno.EBADF;
  return {
    queue,
    engine,
    answers,
    answered,
    /** What a blocking call with descriptor −1 answers. */
    redone: -EBADF,
    add(code: OperationCode, durable = false): Operation {
      const operation = new Operation();
      operation.code = code;
      operation.durable = durable;
      expected++;
      engine.push(operation);
      return operation;
    },
  };
}

Deno.test("AsyncEngine repeats what the kernel lost, but for what makes durable", async () => {
  const { queue, engine, answers, answered, redone, add } = fragile();
  const read = add(OperationCode.Read);
  const write = add(OperationCode.Write);
  const durable = add(OperationCode.Write, true);
  const sync = add(OperationCode.Sync);
  engine.kick();
  assertEquals(queue.inside.length, 4);
  // It tells that it lost something; then the first one is answered after all.
  queue.broken = "it said so";
  engine.cancel(() => false);
  assertEquals(engine.info, {
    name: "sync",
    reason: "fragile broke in use: it said so",
  });
  queue.done.push([queue.inside[0]!, 42]);
  queue.lost = 2;
  while (answers.size === 0) await pause(1);
  await pause(20);
  // Which two of three it is cannot be known.
  assertEquals([...answers], [[read, 42]]);
  queue.lost = 3;
  await answered;
  const EIO = openLibc().abi.errno.EIO;
  assertEquals(
    [read, write, durable, sync].map((one) => answers.get(one)),
    [42, redone, -EIO, -EIO],
  );
  await engine.close();
});

Deno.test("AsyncEngine carries out what a broken queue never took, in order, and enters it no more", async () => {
  const { queue, engine, answers, answered, redone, add } = fragile();
  const first = add(OperationCode.Read);
  engine.kick();
  // More than there are slots for.
  const more = Array.from({ length: 12 }, () => add(OperationCode.Write));
  queue.broken = "it said so";
  engine.kick();
  const { systemCalls } = queue;
  const late = [add(OperationCode.Sync), add(OperationCode.Write, true)];
  engine.kick();
  // All but the one that the kernel has.
  while (answers.size < 14) await pause(1);
  await pause(20);
  assertEquals(answers.size, 14);
  queue.done.push([queue.inside[0]!, 4096]);
  await answered;
  assertEquals(answers.get(first), 4096);
  for (const one of [...more, ...late]) assertEquals(answers.get(one), redone);
  assertEquals(queue.systemCalls, systemCalls);
  await engine.close();
});

Deno.test("AsyncEngine gives its turns back though its queue does not close", async () => {
  const queue = new Fragile();
  queue.close = () => {
    throw new Error("It does not close");
  };
  const host = new PosixHost(openLibc());
  let closed = 0;
  const makeTurns = host.makeTurns.bind(host);
  host.makeTurns = (callback) => {
    const turns = makeTurns(callback);
    const close = turns.close.bind(turns);
    turns.close = () => {
      closed++;
      return close();
    };
    return turns;
  };
  const engine = new AsyncEngine<Operation>(host, queue, () => {}, {
    info: { name: "fragile", reason: null },
    stallMs: 0.1,
    pollMs: 0,
  });
  await assertRejects(() => engine.close(), Error, "It does not close");
  assertEquals(closed, 1);
});

Deno.test("AsyncEngine does not look at a broken queue once it is closed", async () => {
  const { queue, engine, answered, add } = fragile();
  queue.broken = "it said so";
  engine.cancel(() => false);
  add(OperationCode.Read);
  engine.kick();
  await answered;
  await engine.close();
  await new Promise((resolve) => setTimeout(resolve, 20));
});

for (const engine of ENGINES) {
  Deno.test({
    name: `${engine} answers the others where one who is answered throws`,
    ignore: !hasEngine(engine),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", new Random(1).bytes(MIB));
      const found = await program<Record<string, unknown>>(
        `
        const { flushRequest, readRequest, writeRequest } = await import(${
          JSON.stringify(import.meta.resolve("../../src/request.ts"))
        });
        let thrown = 0;
        const mistake = new Error("a mistake");
        const swallow = (event) => {
          if ((event.error ?? event.reason) !== mistake) return;
          event.preventDefault();
        };
        globalThis.addEventListener("error", swallow);
        globalThis.addEventListener("unhandledrejection", swallow);
        const disk = await openWith(path, ${JSON.stringify(engine)}, 16,
          { blockSize: 512 });
        let answered = 0;
        const everyone = Promise.withResolvers();
        const complete = (request, error) => {
          if (error !== null) everyone.reject(error);
          if (++answered === 200) everyone.resolve();
          if (answered % 3 === 0) {
            thrown++;
            throw mistake;
          }
        };
        for (let i = 0; i < 200; i++) {
          const data = disk.allocate(4096);
          const request = i % 7 < 3
            ? flushRequest()
            : i % 2 === 0
            ? readRequest(i * 8, data)
            : writeRequest(i * 8, data);
          try {
            disk.submit([request], complete);
          } catch (error) {
            if (error !== mistake) throw error;
          }
        }
        const late = pause(120_000).then(() => "waits for ever");
        const first = await Promise.race([everyone.promise, late]);
        const last = await Promise.race([disk.close(), late]);
        Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(
          { answered, first: first ?? null, last: last ?? null, thrown })));
        Deno.exit();
        `,
        { args: [path] },
      );
      assertEquals(found, {
        answered: 200,
        first: null,
        last: null,
        thrown: 66,
      });
    },
  });
}
