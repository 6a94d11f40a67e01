/**
 * What lets one thread wait for a disk and for sockets at once, against the
 * kernel: a ring that watches a descriptor, and a bell that announces what the
 * ring has.
 *
 * @module
 */

import { assert, assertEquals, assertFalse } from "@std/assert";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { IORING_OP, IoUring } from "../../../ffi/io_uring.ts";
import { openLibc } from "../../../ffi/libc.ts";
import { addressOf, alignedMemory, IoVector } from "../../../ffi/memory.ts";
import { SocketPair } from "../../../ffi/socket_pair.ts";
import { Bell } from "../../../src/backends/direct/bell.ts";
import {
  Operation,
  OperationCode,
} from "../../../src/backends/direct/engine.ts";
import { IoUringQueue } from "../../../src/backends/direct/io_uring_queue.ts";
import { tempDir } from "../../helpers.ts";
import { hasEngine } from "./harness.ts";

const ignore = !hasEngine("io_uring");
const SECOND_US = 1e6;

/** A pair of sockets; `received` counts the bytes that came, and takes them. */
function openPair() {
  const libc = openLibc();
  const pair = SocketPair.open(libc);
  assert(typeof pair !== "number");
  const memory = alignedMemory(64, 8);
  const vector = new IoVector(1);
  vector.set(0, addressOf(memory), memory.length);
  return {
    pair,
    // An offset of −1 makes it readv(2); the socket does not block.
    received: (): number =>
      Math.max(0, libc.preadv2(pair.otherFd, vector.address, 1, -1, 0)),
    [Symbol.dispose](): void {
      pair.close();
      libc.close(pair.otherFd);
    },
  };
}

/** A ring with a bell; `silence` takes the bell away. */
function ringWithBell() {
  const sockets = openPair();
  const ring = IoUring.setup(openLibc(), { entries: 8, flags: 0 });
  assert(typeof ring !== "number");
  const bell = Bell.make(openLibc(), sockets.pair);
  assert(bell !== null);
  let silent = false;
  const silence = () => {
    if (!silent) bell.close();
    silent = true;
  };
  return {
    ring,
    received: sockets.received,
    arm: () => bell.arm(ring.fd),
    silence,
    [Symbol.dispose](): void {
      silence();
      ring.close();
      sockets[Symbol.dispose]();
    },
  };
}

function complete(ring: IoUring): void {
  ring.fill(IORING_OP.NOP, 0, -1, 0, 0, 0, 0, 1);
  ring.enter(0, 0);
}

Deno.test({
  name: "Bell rings once when the ring has completions",
  ignore,
  fn: () => {
    using bell = ringWithBell();
    assert(bell.arm());
    // Armed is armed: this adds no second byte.
    assert(bell.arm());
    assertEquals(bell.received(), 0);
    complete(bell.ring);
    assertEquals(bell.received(), 1);
    complete(bell.ring);
    assertEquals(bell.received(), 0);
  },
});

Deno.test({
  name: "Bell rings at once for completions that are there, each time anew",
  ignore,
  fn: () => {
    using bell = ringWithBell();
    complete(bell.ring);
    for (let i = 0; i < 10; i++) {
      assert(bell.arm());
      assertEquals(bell.received(), 1);
    }
  },
});

Deno.test({
  name: "Bell is silent once it was closed",
  ignore,
  fn: () => {
    using bell = ringWithBell();
    assert(bell.arm());
    bell.silence();
    complete(bell.ring);
    assertEquals(bell.received(), 0);
  },
});

/** A queue, and sockets that it may watch. */
function openWatched() {
  const sockets = openPair();
  const queue = IoUringQueue.open(openLibc(), 8);
  assert(typeof queue !== "string");
  return {
    queue,
    watch: () => queue.watch(sockets.pair.otherFd),
    send: () => sockets.pair.send(),
    [Symbol.dispose](): void {
      queue.close();
      sockets[Symbol.dispose]();
    },
  };
}

/** A file, and the operation that flushes it. */
async function scratchFile(): Promise<
  { readonly sync: Operation } & AsyncDisposable
> {
  const dir = await tempDir();
  const sync = new Operation();
  sync.code = OperationCode.Sync;
  sync.fd = openSync(join(dir.path, "file"), "w");
  return {
    sync,
    async [Symbol.asyncDispose]() {
      closeSync(sync.fd);
      await dir[Symbol.asyncDispose]();
    },
  };
}

Deno.test({
  name: "IoUringQueue ends a wait when what it watches is readable",
  ignore,
  fn: () => {
    using watched = openWatched();
    const { queue } = watched;
    let answers = 0;
    const reap = () => queue.reap(() => answers++, 8);
    watched.watch();
    queue.enter(0, 0);
    assertFalse(queue.ready || queue.alerted);
    watched.send();
    const start = performance.now();
    queue.enter(1, 10 * SECOND_US);
    assert(performance.now() - start < 5000);
    // It is no answer to anybody.
    assertFalse(queue.ready);
    assertEquals(reap(), 0);
    assert(queue.alerted);
    assertEquals(answers, 0);
  },
});

Deno.test({
  name: "IoUringQueue counts answers, and no alerts among them",
  ignore,
  fn: async () => {
    using watched = openWatched();
    const { queue } = watched;
    await using file = await scratchFile();
    watched.watch();
    watched.send();
    queue.enter(1, SECOND_US);
    for (let slot = 0; slot < 3; slot++) {
      assert(queue.fill(file.sync, slot));
      queue.enter(0, 0);
    }
    const slots: number[] = [];
    for (let i = 0; i < 1000 && slots.length < 3; i++) {
      queue.enter(1, SECOND_US / 100);
      const before = slots.length;
      const count = queue.reap((slot) => slots.push(slot), 1);
      assertEquals(count, slots.length - before);
    }
    assertEquals(slots.toSorted(), [0, 1, 2]);
    assert(queue.alerted);
  },
});

Deno.test({
  name: "IoUringQueue takes no notice of an alert that is known",
  ignore,
  fn: () => {
    using watched = openWatched();
    const { queue } = watched;
    watched.watch();
    queue.enter(0, 0);
    watched.send();
    queue.ignoreAlert();
    queue.enter(0, 0);
    assertFalse(queue.ready || queue.alerted);
    // The byte is still there: whoever watches anew hears of it.
    watched.watch();
    queue.enter(1, SECOND_US);
    assertFalse(queue.ready);
    assert(queue.alerted);
  },
});

Deno.test({
  name: "IoUringQueue watches anew as soon as an alert is known",
  ignore,
  fn: () => {
    using watched = openWatched();
    const { queue } = watched;
    watched.watch();
    queue.enter(0, 0);
    watched.send();
    queue.ignoreAlert();
    assertFalse(queue.alerted);
    watched.watch();
    queue.enter(1, SECOND_US);
    assertFalse(queue.ready);
    assert(queue.alerted);
  },
});

Deno.test({
  name: "IoUringQueue hears of an alert that comes after ignoreAlert()",
  ignore,
  fn: () => {
    using watched = openWatched();
    const { queue } = watched;
    watched.watch();
    queue.enter(0, 0);
    // Nothing has come so far that could be known.
    queue.ignoreAlert();
    watched.send();
    queue.enter(1, SECOND_US);
    assertFalse(queue.ready);
    assert(queue.alerted);
  },
});

Deno.test({
  name: "IoUringQueue takes no notice of a known alert behind an answer",
  ignore,
  fn: async () => {
    using watched = openWatched();
    const { queue } = watched;
    await using file = await scratchFile();
    assert(queue.fill(file.sync, 0));
    for (let i = 0; i < 100 && !queue.ready; i++) {
      queue.enter(1, SECOND_US / 10);
    }
    assert(queue.ready);
    watched.watch();
    watched.send();
    queue.enter(0, 0);
    queue.ignoreAlert();
    assertEquals(queue.reap(() => {}, 8), 1);
    assertFalse(queue.ready || queue.alerted);
    // Only that one: the next one counts.
    watched.watch();
    queue.enter(1, SECOND_US);
    assertFalse(queue.ready);
    assert(queue.alerted);
  },
});
