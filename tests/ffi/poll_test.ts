/**
 * Waiting on another thread: it ends, it holds nobody, it leaves nothing.
 *
 * @module
 */

import { assert, assertEquals, assertGreater } from "@std/assert";
import { type Libc, openLibc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory, IoVector } from "../../ffi/memory.ts";
import { waitReadable } from "../../ffi/poll.ts";

/** An eventfd, and a way to make it readable. */
function eventFd(libc: Libc): { fd: number; signal: () => void } {
  const EFD_NONBLOCK = 0x800;
  const fd = libc.syscall(libc.abi.syscalls!.eventfd2, 0, EFD_NONBLOCK);
  assert(fd >= 0);
  const one = alignedMemory(8, 8);
  one[0] = 1;
  const vector = new IoVector(1);
  vector.set(0, addressOf(one), 8);
  return {
    fd,
    signal: () => {
      assertEquals(libc.pwritev2(fd, vector.address, 1, -1, 0), 8);
    },
  };
}

function test(title: string, fn: () => Promise<void>): void {
  Deno.test({
    name: `waitReadable() ${title}`,
    ignore: Deno.build.os !== "linux",
    fn,
  });
}

test("ends at once where there is something, or no such descriptor", async () => {
  const libc = openLibc();
  const { fd, signal } = eventFd(libc);
  try {
    signal();
    await waitReadable(libc, fd, 3_600_000);
    await waitReadable(libc, 9999, 0);
  } finally {
    libc.close(fd);
  }
  await waitReadable(libc, fd, 3_600_000);
});

test("ends when there is something, and others have their turn", async () => {
  const libc = openLibc();
  const { fd, signal } = eventFd(libc);
  try {
    let turns = 0;
    const timer = setInterval(() => {
      if (++turns === 5) signal();
    }, 1);
    await waitReadable(libc, fd, 3_600_000);
    clearInterval(timer);
    assertGreater(turns, 4);
  } finally {
    libc.close(fd);
  }
});

test("ends when the time is over", async () => {
  const libc = openLibc();
  const { fd } = eventFd(libc);
  try {
    await waitReadable(libc, fd, 0);
    await waitReadable(libc, fd, 30);
    await Promise.all(
      Array.from({ length: 20 }, () => waitReadable(libc, fd, 20)),
    );
  } finally {
    libc.close(fd);
  }
});

test("may be left by a Worker that is terminated meanwhile", async () => {
  const source = `
    import { openLibc } from ${
    JSON.stringify(import.meta.resolve("../../ffi/libc.ts"))
  };
    import { waitReadable } from ${
    JSON.stringify(import.meta.resolve("../../ffi/poll.ts"))
  };
    const libc = openLibc();
    const fd = libc.syscall(libc.abi.syscalls.eventfd2, 0, 0x800);
    for (let i = 0; i < 8; i++) void waitReadable(libc, fd, 150);
    postMessage(fd);
  `;
  const libc = openLibc();
  for (let round = 0; round < 2; round++) {
    const url = URL.createObjectURL(
      new Blob([source], { type: "text/javascript" }),
    );
    const worker = new Worker(url, { type: "module" });
    const fd = await new Promise<number>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = reject;
    });
    worker.terminate();
    URL.revokeObjectURL(url);
    // What the Worker had goes to others now, and must stay as they made it.
    const others = Array.from({ length: 2000 }, () => new Uint8Array(512));
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert(others.every((bytes) => bytes.every((byte) => byte === 0)));
    libc.close(fd);
  }
});
