/**
 * Linux AIO against the kernel: order, limits, refusals, waiting.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLessOrEqual,
} from "@std/assert";
import { Random } from "../../src/random.ts";
import { AioContext } from "../../ffi/aio.ts";
import { LINUX_ERRNO } from "../../ffi/errno.ts";
import { openLibc } from "../../ffi/libc.ts";
import {
  addressOf as bareAddressOf,
  alignedMemory,
  IoVector,
} from "../../ffi/memory.ts";
import { waitReadable } from "../../ffi/poll.ts";
import { tempDir } from "../helpers.ts";
import { fakeLibc } from "./fake_library.ts";

const { EAGAIN, EBADF, EINVAL, EMFILE } = LINUX_ERRNO;

/** Whether there is AIO; some kernels are built without. */
const ignore = (() => {
  if (Deno.build.os !== "linux") return true;
  const context = AioContext.setup(openLibc(), 1);
  if (typeof context === "number") {
    console.warn(`Some tests are skipped as io_setup gives ${context}`);
    return true;
  }
  context.close();
  return false;
})();

const kept = new Set<ArrayBufferView>();

/** The address of memory that stays: an address alone would not keep it. */
function addressOf(view: ArrayBufferView): number {
  kept.add(view);
  return bareAddressOf(view);
}

function setup(depth: number): AioContext {
  const context = AioContext.setup(openLibc(), depth);
  assert(typeof context !== "number", `io_setup gave ${context}`);
  return context;
}

/** Waits for so many completions, which must come. */
function awaited(context: AioContext, count: number): [number, number][] {
  const all: [number, number][] = [];
  for (let i = 0; i < 1000 && all.length < count; i++) {
    context.getEvents(1, 100_000, (slot, result) => all.push([slot, result]));
  }
  assertEquals(all.length, count);
  return all;
}

/** Event counters that are open. The runtime closes some of its own at times. */
function openCounters(): number {
  return Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${name}`);
    } catch {
      return "";
    }
  }).filter((link) => link.includes("eventfd")).length;
}

function test(title: string, fn: () => void | Promise<void>): void {
  Deno.test({ name: `AioContext ${title}`, ignore, fn });
}

interface Image extends AsyncDisposable {
  content: Uint8Array;
  fd: number;
}

/** A file of 64 KiB, with direct I/O where that is to be had. */
async function image(direct = true): Promise<Image> {
  const dir = await tempDir();
  const libc = openLibc();
  const content = new Random(3).bytes(65_536);
  const path = await dir.file("disk.img", content);
  const { O_RDWR, O_DIRECT } = libc.abi.open;
  const fd = libc.open(path, O_RDWR | (direct ? O_DIRECT ?? 0 : 0));
  assert(fd >= 0);
  return {
    content,
    fd,
    async [Symbol.asyncDispose]() {
      libc.close(fd);
      await dir[Symbol.asyncDispose]();
    },
  };
}

// Round and round

test("answers thousands of operations in 8 slots, each its own", async () => {
  await using file = await image(false);
  const context = setup(8);
  try {
    const random = new Random(1);
    const memory = Array.from({ length: 8 }, () => alignedMemory(512));
    const wanted: number[] = [];
    for (let round = 0; round < 1500; round++) {
      // Lined up in any order of slots, and submitted in two parts.
      const slots = random.shuffle([0, 1, 2, 3, 4, 5, 6, 7])
        .slice(0, random.between(1, 8));
      for (const [i, slot] of slots.entries()) {
        const sector = wanted[slot] = random.below(128);
        const address = addressOf(memory[slot]!);
        context.prepareRead(file.fd, address, 512, sector * 512, slot);
        if (i === 3) assertEquals(context.submit(), 4);
      }
      assertEquals(context.prepared, slots.length - (slots.length > 3 ? 4 : 0));
      if (context.prepared > 0) context.submit();
      assertEquals(context.prepared, 0);
      const all = awaited(context, slots.length);
      assertEquals(
        all.map(([slot]) => slot).toSorted(),
        slots.toSorted(),
      );
      for (const [slot, result] of all) {
        assertEquals(result, 512);
        const at = wanted[slot]! * 512;
        assertEquals(memory[slot]!, file.content.slice(at, at + 512));
      }
    }
  } finally {
    context.close();
  }
});

test("writes, gathers and makes durable", async () => {
  await using file = await image();
  const context = setup(4);
  try {
    const data = alignedMemory(8192).fill(0x5a);
    const back = [alignedMemory(4096), alignedMemory(4096)];
    const vector = new IoVector(2);
    vector.set(0, addressOf(data), 4096);
    vector.set(1, addressOf(data) + 4096, 4096);
    const RWF_DSYNC = 2;
    context.prepareWritev(file.fd, vector.address, 2, 8192, RWF_DSYNC, 0);
    context.submit();
    assertEquals(awaited(context, 1), [[0, 8192]]);
    context.prepareFdatasync(file.fd, 1);
    context.submit();
    assertEquals(awaited(context, 1), [[1, 0]]);
    vector.set(0, addressOf(back[0]!), 4096);
    vector.set(1, addressOf(back[1]!), 4096);
    context.prepareReadv(file.fd, vector.address, 2, 4096, 2);
    context.submit();
    // The array is the caller's again.
    vector.set(0, 0, 0);
    assertEquals(awaited(context, 1), [[2, 8192]]);
    assertEquals(back[0], file.content.slice(4096, 8192));
    assertEquals(back[1], data.slice(0, 4096));
  } finally {
    context.close();
  }
});

// Refusals

test("says EAGAIN where the system's limit is reached", async () => {
  const limit = Number(await Deno.readTextFile("/proc/sys/fs/aio-max-nr"));
  const open = openCounters();
  assertEquals(AioContext.setup(openLibc(), limit + 1), -EAGAIN);
  assertEquals(AioContext.setup(openLibc(), 0), -EINVAL);
  assertLessOrEqual(openCounters(), open);
});

test("says EAGAIN where its own ring is full, and loses nothing", async () => {
  await using file = await image(false);
  // The kernel's ring is a page or more, whatever the depth: fs/aio.c,
  // `aio_setup_ring`. Slots are used again here before they are free.
  const context = setup(16);
  try {
    const memory = alignedMemory(512);
    let submitted = 0;
    let result = 0;
    while (result >= 0 && submitted < 100_000) {
      for (let slot = 0; slot < 16; slot++) {
        context.prepareRead(file.fd, addressOf(memory), 512, 0, slot);
      }
      while (context.prepared > 0 && result >= 0) {
        result = context.submit();
        if (result > 0) submitted += result;
      }
    }
    assertEquals(result, -EAGAIN);
    assertGreater(context.prepared, 0);
    assertGreaterOrEqual(submitted, 16);
    const left = context.prepared;
    assertEquals(context.firstPrepared, 16 - left);
    assertEquals(awaited(context, submitted).length, submitted);
    assertEquals(context.submit(), left);
    assertEquals(
      awaited(context, left).map(([slot]) => slot),
      Array.from({ length: left }, (_, i) => 16 - left + i),
    );
  } finally {
    context.close();
  }
});

test("names the operation that the kernel refuses, and goes on without", async () => {
  await using file = await image(false);
  const context = setup(4);
  try {
    const address = addressOf(alignedMemory(512));
    context.prepareRead(file.fd, address, 512, 0, 2);
    context.prepareRead(9999, address, 512, 0, 0);
    // More vectors than IOV_MAX (include/uapi/linux/uio.h).
    context.prepareReadv(file.fd, address, 2000, 0, 3);
    context.prepareRead(file.fd, address, 512, 512, 1);
    assertEquals(context.submit(), 1);
    assertEquals([context.prepared, context.firstPrepared], [3, 0]);
    assertEquals(context.submit(), -EBADF);
    context.dropFirst();
    assertEquals([context.prepared, context.firstPrepared], [2, 3]);
    assertEquals(context.submit(), -EINVAL);
    context.dropFirst();
    assertEquals(context.submit(), 1);
    assertEquals(context.submit(), 0);
    assertEquals(awaited(context, 2).toSorted(), [[1, 512], [2, 512]]);
  } finally {
    context.close();
  }
});

test("brings back -EINVAL for what is misaligned", async () => {
  await using file = await image();
  const context = setup(4);
  try {
    const address = addressOf(alignedMemory(4096));
    context.prepareRead(file.fd, address, 4096, 0, 0);
    context.prepareRead(file.fd, address, 100, 1, 1);
    const results = new Map<number, number>();
    // Some kernels refuse it at once, others answer it.
    while (context.prepared > 0) {
      const result = context.submit();
      if (result >= 0) continue;
      results.set(context.firstPrepared, result);
      context.dropFirst();
    }
    for (const [slot, result] of awaited(context, 2 - results.size)) {
      results.set(slot, result);
    }
    // Where O_DIRECT is taken and ignored, nothing is misaligned.
    if (results.get(1) !== 100) assertEquals(results.get(1), -EINVAL);
    assertEquals(results.get(0), 4096);
  } finally {
    context.close();
  }
});

// Waiting

test("ends a wait when nothing comes, or when there is something", async () => {
  await using file = await image(false);
  const context = setup(2);
  try {
    const none = () => assert(false);
    assertEquals(context.getEvents(0, 0, none), 0);
    assertEquals(context.getEvents(1, 1, none), 0);
    assertEquals(context.getEvents(1, 20_000, none), 0);
    const address = addressOf(alignedMemory(512));
    context.prepareRead(file.fd, address, 512, 0, 1);
    context.submit();
    const all: number[] = [];
    assertEquals(
      context.getEvents(1, 3_600e6 + 999_999, (slot) => all.push(slot)),
      1,
    );
    assertEquals(all, [1]);
  } finally {
    context.close();
  }
});

test("makes its descriptor readable with a completion, until drained", async () => {
  await using file = await image(false);
  const libc = openLibc();
  const context = setup(2);
  const vector = new IoVector(1);
  const counter = alignedMemory(8, 8);
  vector.set(0, addressOf(counter), 8);
  /** How often it was signalled since the last time. */
  const count = (): number => {
    const result = libc.preadv2(context.eventFd, vector.address, 1, -1, 0);
    if (result === -EAGAIN) return 0;
    assertEquals(result, 8);
    return new DataView(counter.buffer, counter.byteOffset).getUint32(0, true);
  };
  try {
    assertEquals(count(), 0);
    const address = addressOf(alignedMemory(512));
    for (const slot of [0, 1]) {
      context.prepareRead(file.fd, address, 512, 0, slot);
    }
    context.submit();
    await waitReadable(libc, context.eventFd, 10_000);
    awaited(context, 2);
    assertEquals(count(), 2);
    for (let i = 0; i < 300; i++) context.signal();
    assertGreaterOrEqual(count(), 300);
    assertEquals(count(), 0);
    context.signal();
    context.clearSignal();
    assertEquals(count(), 0);
    context.clearSignal();
    // A signal ends a wait that began before it.
    const waiting = waitReadable(libc, context.eventFd, 60_000);
    context.signal();
    await waiting;
    assertEquals(count() > 0, true);
  } finally {
    context.close();
  }
});

// Setting up, and closing

test("leaves nothing behind when it is closed", async () => {
  await using file = await image(false);
  const used = async () =>
    Number(await Deno.readTextFile("/proc/sys/fs/aio-nr"));
  const open = openCounters();
  const address = addressOf(alignedMemory(512));
  const limit = Number(await Deno.readTextFile("/proc/sys/fs/aio-max-nr"));
  // More than there may be at once.
  for (let i = 0; i * 4096 < limit + 8192; i++) {
    const context = setup(4096);
    // Whatever is in flight is waited for.
    context.prepareRead(file.fd, address, 512, 0, 0);
    context.submit();
    context.close();
  }
  assertLessOrEqual(openCounters(), open);
  assert(await used() < limit);
});

Deno.test("AioContext destroys its context if there is no descriptor left", () => {
  const destroyed: number[] = [];
  const { libc, abi, setErrno } = fakeLibc("linux", "x86_64", {
    syscall: (number, context) => {
      if (Number(number) === abi.syscalls!.io_destroy) {
        destroyed.push(Number(context));
      }
      if (Number(number) !== abi.syscalls!.eventfd2) return 0;
      setErrno(EMFILE);
      return -1;
    },
  });
  assertEquals(AioContext.setup(libc, 4), -EMFILE);
  assertEquals(destroyed.length, 1);
});

Deno.test("AioContext is not to be had without Linux", () => {
  const { libc } = fakeLibc("freebsd", "x86_64");
  const context = AioContext.setup(libc, 4);
  assertEquals(context, -libc.abi.errno.ENOSYS);
});

test("brings events without a call", async () => {
  await using opened = await image();
  const context = setup(2);
  const memory = alignedMemory(4096, 4096);
  const all: [number, number][] = [];
  const drain = () => context.drain((slot, result) => all.push([slot, result]));
  assertEquals(drain(), 0);
  context.prepareRead(opened.fd, addressOf(memory), 4096, 0, 0);
  assertEquals(context.submit(), 1);
  const { systemCalls } = context;
  for (let i = 0; i < 60_000 && drain() === 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  assertEquals(all, [[0, 4096]]);
  assertEquals(drain(), 0);
  assertEquals(context.systemCalls, systemCalls);
  context.close();
});

test("takes completions from the ring in memory, as often as it goes round", async () => {
  await using file = await image();
  const context = setup(4);
  try {
    const memory = alignedMemory(4096);
    for (let round = 0; round < 300; round++) {
      for (let slot = 0; slot < 4; slot++) {
        const at = (round + slot) % 16 * 4096;
        context.prepareRead(file.fd, addressOf(memory), 4096, at, slot);
      }
      assertEquals(context.submit(), 4);
      const all: [number, number][] = [];
      const take = () =>
        context.drain((slot, result) => all.push([slot, result]));
      while (all.length < 4) {
        // By turns with the call that does the same.
        if (round % 3 === 0) all.push(...awaited(context, 4));
        else take();
      }
      assertEquals(
        all.sort(([a], [b]) => a - b),
        [0, 1, 2, 3].map((slot) => [slot, 4096]),
      );
      assertEquals(take(), 0);
    }
  } finally {
    context.close();
  }
});
