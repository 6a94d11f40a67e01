/**
 * Writes to a page cache: which of them are blocking calls, and what becomes of
 * the others while the cache is slow.
 *
 * @module
 */

import { assert, assertEquals, assertLess, assertThrows } from "@std/assert";
import { closeSync, openSync } from "node:fs";
import { openLibc } from "../../../ffi/libc.ts";
import { CachedWrites } from "../../../src/backends/direct/cached_writes.ts";
import {
  type Engine,
  Operation,
  OperationCode,
} from "../../../src/backends/direct/engine.ts";
import { chooseEngine } from "../../../src/backends/direct/choose_engine.ts";
import { PosixHost } from "../../../src/backends/direct/posix_host.ts";
import { probe } from "../../../src/backends/direct/probe.ts";
import type { Turns } from "../../../src/backends/direct/loop_turn.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { Random } from "../../../src/random.ts";
import { loopDevice, needs, tempDir } from "../../helpers.ts";
import { hasEngine } from "./harness.ts";

/** An engine over a cache whose writes take so many ms by a clock of its own. */
function engineOver(tookMs: () => number, onKick = () => {}) {
  let now = 0;
  const called: Operation[] = [];
  const rest: Operation[] = [];
  const answered: [operation: Operation, result: number][] = [];
  let kicks = 0;
  let closed = false;
  const turns: Turns = {
    systemCalls: 0,
    asks: false,
    request: () => {},
    canPark: false,
    park: () => {},
    unpark: () => {},
    findLoop: () => null,
    stop: () => {},
    close: () => Promise.resolve(),
  };
  const under: Engine<Operation> = {
    info: { name: "io_uring", reason: null },
    systemCalls: 0,
    push: (operation) => void rest.push(operation),
    kick: () => {
      kicks++;
      onKick();
    },
    close: () => {
      closed = true;
      return Promise.resolve();
    },
  };
  const host = {
    makeTurns: () => turns,
    perform: (operation: Operation) => {
      called.push(operation);
      now += tookMs();
      return operation.length;
    },
  };
  const engine = new CachedWrites<Operation>(
    host,
    under,
    (operation, result) => void answered.push([operation, result]),
    Infinity,
    () => now,
  );
  const push = (fields: Partial<Operation>) => {
    const operation = Object.assign(new Operation(), fields);
    engine.push(operation);
    return operation;
  };
  return {
    engine,
    push,
    called,
    rest,
    answered,
    kicks: () => kicks,
    closed: () => closed,
  };
}

const WRITE = { code: OperationCode.Write, length: 4096 } as const;

Deno.test("CachedWrites writes by blocking calls, in order, and leaves all else", async () => {
  const { engine, push, called, rest, answered, closed } = engineOver(() => 0);
  const writes = [
    push(WRITE),
    push({ ...WRITE, code: OperationCode.WriteVector, length: 1 << 20 }),
    push(WRITE),
  ];
  const others = [
    push({ ...WRITE, code: OperationCode.Read }),
    push({ code: OperationCode.Sync }),
    push({ ...WRITE, durable: true }),
    push({ ...WRITE, length: (1 << 20) + 1 }),
    push({ ...WRITE, code: OperationCode.Allocate }),
  ];
  engine.kick();
  assertEquals(called, writes);
  assertEquals(answered.map(([one]) => one), writes);
  assertEquals(answered.map(([, result]) => result), [4096, 1 << 20, 4096]);
  assertEquals(rest, others);
  await engine.close();
  assert(closed());
});

Deno.test("CachedWrites hands writes over while calls are slow, and tries again", () => {
  let tookMs = 200;
  const { engine, push, called, rest, answered, kicks } = engineOver(() =>
    tookMs
  );
  for (let i = 0; i < 500; i++) {
    push(WRITE);
    engine.kick();
  }
  // As BackOff has it: 0, 0, 1, 3, 7, 15, 31, 63, and then 64 each time are left
  // out between them.
  assertLess(called.length, 16);
  assertEquals(called.length + rest.length, 500);
  assertEquals(answered.length, called.length);
  // Each was handed over with a kick, beside those of the caller's.
  assertEquals(kicks(), 500 + rest.length);

  tookMs = 0.1;
  for (let i = 0; i < 200; i++) push(WRITE);
  const before = rest.length;
  engine.kick();
  assertLess(rest.length - before, 65);
  push(WRITE);
  engine.kick();
  assertEquals(called.length + rest.length, 701);
  assertEquals(answered.length, called.length);
});

Deno.test("CachedWrites hands over what was queued behind a slow call", () => {
  const { engine, push, called, rest } = engineOver(() => 200);
  for (let i = 0; i < 8; i++) push(WRITE);
  engine.kick();
  assertEquals([called.length, rest.length], [4, 4]);
});

Deno.test("CachedWrites.kick() writes if an answer of the other engine throws", () => {
  const { engine, push, called } = engineOver(() => 0, () => {
    throw new Error("wrong");
  });
  push(WRITE);
  assertThrows(() => engine.kick(), Error, "wrong");
  assertEquals(called.length, 1);
});

Deno.test({
  name:
    "chooseEngine() has CachedWrites on the page cache of a local disk only",
  ignore: !hasEngine("io_uring"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 1 << 20);
    const libc = openLibc();
    const host = new PosixHost(libc);
    const fd = openSync(path, "r+");
    try {
      const found = probe(libc, fd, { method: null, reason: null });
      assert(typeof found !== "number");
      const options = { depth: 4, stallMs: 0.2, pollMs: 0 };
      for (const active of [false, true]) {
        for (const onLocalDisk of [false, true]) {
          for (const engine of ["auto", "io_uring", "sync"] as const) {
            const direct = { ...found.direct, active };
            const probed = {
              ...found,
              ...{ direct, onLocalDisk, fileSystem: "ext4" },
            };
            const make = chooseEngine<Operation>(host, libc, fd, path, probed, {
              ...options,
              engine,
            });
            const made = make(() => {});
            assertEquals(
              made instanceof CachedWrites,
              !active && onLocalDisk && made.info.name === "io_uring",
            );
            await made.close();
          }
        }
      }
    } finally {
      closeSync(fd);
    }
  },
});

Deno.test({
  name: "probe() tells a local disk from what a program may be behind",
  ...needs("root", "losetup"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 1 << 20);
    await using loop = await loopDevice(path, 512);
    const libc = openLibc();
    const isLocal = (path: string) => {
      const fd = openSync(path, "r");
      try {
        const found = probe(libc, fd, { method: null, reason: null });
        assert(typeof found !== "number");
        return found.onLocalDisk;
      } finally {
        closeSync(fd);
      }
    };
    assertEquals(isLocal(loop.path), false);
    // A file of the kernel's own is on no disk.
    assertEquals(isLocal("/proc/self/status"), false);
  },
});

Deno.test({
  name: "VirtualDisk.open() with direct: never has what was written",
  ignore: !hasEngine("io_uring"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 1 << 20);
    const content = new Random(1).bytes(1 << 20);
    {
      await using disk = await VirtualDisk.open(path, {
        backend: "direct",
        engine: "io_uring",
        direct: "never",
      });
      await Promise.all(Array.from({ length: 16 }, (_, i) =>
        disk.write(
          i * 128,
          content.subarray(i << 16, (i + 1) << 16),
          { fua: i === 7 },
        )));
      assertEquals(await disk.read(0, 2048), content);
    }
    assertEquals(await Deno.readFile(path), content);
  },
});
