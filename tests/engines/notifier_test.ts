/**
 * What lets one thread wait for a disk and for sockets at once, against the
 * kernel: a ring that polls a descriptor, and a notifier that tells what the
 * ring has.
 *
 * @module
 */

import { assert, assertEquals, assertFalse } from "@std/assert";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { IoUring } from "../../ffi/io_uring.ts";
import { openLibc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory, IoVector } from "../../ffi/memory.ts";
import { SocketPair } from "../../ffi/socket_pair.ts";
import { Notifier } from "../../src/engines/notifier.ts";
import { Operation, OperationCode } from "../../src/engines/engine.ts";
import type { Visit } from "../../src/engines/kernel_queue.ts";
import { IoUringQueue } from "../../src/engines/io_uring_queue.ts";
import { tempDir } from "../helpers.ts";
import { hasEngine } from "../backends/direct/harness.ts";

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

/** A ring with a notifier; `silence` takes the notifier away. */
function ringWithNotifier() {
  const sockets = openPair();
  const ring = IoUring.setup(openLibc(), { entries: 8, flags: 0 });
  assert(typeof ring !== "number");
  const notifier = Notifier.make(openLibc(), sockets.pair);
  assert(notifier !== null);
  let silent = false;
  const silence = () => {
    if (!silent) notifier.close();
    silent = true;
  };
  return {
    ring,
    received: sockets.received,
    arm: () => notifier.arm(ring.fd),
    silence,
    [Symbol.dispose](): void {
      silence();
      ring.close();
      sockets[Symbol.dispose]();
    },
  };
}

function complete(ring: IoUring): void {
  ring.prepareNop(1);
  ring.enter(0, 0);
}

Deno.test({
  name: "Notifier sends a byte once when the ring has completions",
  ignore,
  fn: () => {
    using notified = ringWithNotifier();
    assert(notified.arm());
    // Armed is armed: this adds no second byte.
    assert(notified.arm());
    assertEquals(notified.received(), 0);
    complete(notified.ring);
    assertEquals(notified.received(), 1);
    complete(notified.ring);
    assertEquals(notified.received(), 0);
  },
});

Deno.test({
  name:
    "Notifier sends a byte at once for completions that are there, each time anew",
  ignore,
  fn: () => {
    using notified = ringWithNotifier();
    complete(notified.ring);
    for (let i = 0; i < 10; i++) {
      assert(notified.arm());
      assertEquals(notified.received(), 1);
    }
  },
});

Deno.test({
  name: "Notifier sends nothing once it was closed",
  ignore,
  fn: () => {
    using notified = ringWithNotifier();
    assert(notified.arm());
    notified.silence();
    complete(notified.ring);
    assertEquals(notified.received(), 0);
  },
});

/** A queue, and sockets that it may watch. */
function openWatched() {
  const sockets = openPair();
  const queue = IoUringQueue.open(openLibc(), 8);
  assert(typeof queue !== "string");
  // What is watched here is no event loop, but may be waited for like one.
  const watch = queue.watchLoop(sockets.pair.otherFd, sockets.pair);
  assert(watch !== null);
  return {
    queue,
    watch,
    /** Forgets what was seen so far, also what lies in the ring. */
    forget: (visit: Visit = () => {}): number => {
      const count = queue.drain(visit);
      watch.clear();
      return count;
    },
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
    const { queue, watch } = watched;
    let answers = 0;
    const drain = () => queue.drain(() => answers++);
    watch.arm();
    queue.enter(0, 0);
    assertEquals(drain(), 0);
    assertFalse(watch.fired);
    watched.send();
    const start = performance.now();
    queue.enter(1, 120 * SECOND_US);
    assert(performance.now() - start < 60_000);
    // It is no answer to anybody.
    assertEquals(drain(), 0);
    assert(watch.fired);
    assertEquals(answers, 0);
  },
});

Deno.test({
  name: "IoUringQueue counts completions, and not what it watches among them",
  ignore,
  fn: async () => {
    using watched = openWatched();
    const { queue, watch } = watched;
    await using file = await scratchFile();
    watch.arm();
    watched.send();
    queue.enter(1, SECOND_US);
    for (let slot = 0; slot < 3; slot++) {
      assert(queue.prepare(file.sync, slot));
      queue.enter(0, 0);
    }
    const slots: number[] = [];
    for (let i = 0; i < 12_000 && slots.length < 3; i++) {
      queue.enter(1, SECOND_US / 100);
      const before = slots.length;
      const count = queue.drain((slot) => slots.push(slot));
      assertEquals(count, slots.length - before);
    }
    assertEquals(slots.toSorted(), [0, 1, 2]);
    assert(watch.fired);
  },
});

Deno.test({
  name: "IoUringQueue forgets that what it watches was readable",
  ignore,
  fn: () => {
    using watched = openWatched();
    const { queue, watch } = watched;
    watch.arm();
    queue.enter(0, 0);
    watched.send();
    watched.forget();
    queue.enter(0, 0);
    assertEquals(queue.drain(() => {}), 0);
    assertFalse(watch.fired);
    // The byte is still there: a new poll finds it.
    watch.arm();
    queue.enter(1, SECOND_US);
    assertEquals(queue.drain(() => {}), 0);
    assert(watch.fired);
  },
});

Deno.test({
  name: "IoUringQueue does not forget what becomes readable later",
  ignore,
  fn: () => {
    using watched = openWatched();
    const { queue, watch } = watched;
    watch.arm();
    queue.enter(0, 0);
    // Nothing has come so far that could be forgotten.
    watched.forget();
    watched.send();
    queue.enter(1, SECOND_US);
    assertEquals(queue.drain(() => {}), 0);
    assert(watch.fired);
  },
});

Deno.test({
  name: "IoUringQueue forgets what lies in the ring behind a completion",
  ignore,
  fn: async () => {
    using watched = openWatched();
    const { queue, watch } = watched;
    await using file = await scratchFile();
    const slots: number[] = [];
    assert(queue.prepare(file.sync, 0));
    queue.enter(0, 0);
    watch.arm();
    watched.send();
    for (let i = 0; i < 1200 && slots.length === 0; i++) {
      queue.enter(1, SECOND_US / 10);
      watched.forget((slot) => slots.push(slot));
    }
    assertEquals(slots, [0]);
    watched.forget();
    assertFalse(watch.fired);
    // Only that one: the next one counts.
    watch.arm();
    queue.enter(1, SECOND_US);
    assertEquals(queue.drain(() => {}), 0);
    assert(watch.fired);
  },
});

Deno.test({
  name: "IoUringQueue counts the calls of its notifier",
  ignore,
  fn: () => {
    using watched = openWatched();
    const { queue, watch } = watched;
    const before = queue.systemCalls;
    assert(watch.notify());
    assert(queue.systemCalls > before);
  },
});
