/**
 * Both ways of waiting, on descriptors of every kind: they must tell what they
 * were armed for, exactly once, and hold up nobody.
 */

import { assert, assertEquals } from "@std/assert";
import { type Libc, openLibc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory } from "../../ffi/memory.ts";
import { SocketPair } from "../../ffi/socket_pair.ts";
import { PollWatcher } from "../../src/vhost/poll_watcher.ts";
import { RingWatcher } from "../../src/vhost/ring_watcher.ts";
import type { Watcher } from "../../src/vhost/watcher.ts";

const ignore = Deno.build.os !== "linux";

/** eventfd(2): blocking unless told otherwise. */
const EFD_NONBLOCK = 0x800;

function eventFd(libc: Libc, flags = 0): number {
  const fd = libc.syscall(libc.abi.syscalls!.eventfd2, 0, flags);
  assert(fd >= 0);
  return fd;
}

function add(libc: Libc, fd: number, value: number): void {
  const memory = alignedMemory(8, 8);
  new DataView(memory.buffer, memory.byteOffset).setUint32(0, value, true);
  const { write } = libc.abi.syscalls!;
  assertEquals(libc.syscall(write, fd, addressOf(memory), 8), 8);
}

/** What is in a counter; 0 if nothing is. */
function take(libc: Libc, fd: number): number {
  const memory = alignedMemory(8, 8);
  const { read } = libc.abi.syscalls!;
  const count = libc.syscall(read, fd, addressOf(memory), 8);
  return count === 8
    ? new DataView(memory.buffer, memory.byteOffset).getUint32(0, true)
    : 0;
}

function makeBlocking(libc: Libc, fd: number): void {
  const { F_GETFL, F_SETFL } = libc.abi.fcntl;
  const flags = libc.fcntl(fd, F_GETFL);
  libc.fcntl(fd, F_SETFL, flags & ~libc.abi.open.O_NONBLOCK);
}

/** The C library, with some of its functions in another way. */
function libcWith(
  libc: Libc,
  others: Partial<Pick<Libc, "syscall" | "ioUringEnter">>,
): Libc {
  return new Proxy(libc, {
    get(target, name) {
      const other = Reflect.get(others, name);
      if (other !== undefined) return other;
      const value = Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** Lets everything happen that is on its way. */
async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

const KINDS: [name: string, open: (libc: Libc) => Watcher | null][] = [
  ["RingWatcher", (libc) => RingWatcher.open(libc)],
  ["PollWatcher", (libc) => PollWatcher.open(libc)],
];

for (const [name, open] of KINDS) {
  const withWatcher = (
    title: string,
    fn: (watcher: Watcher, libc: Libc) => Promise<void>,
  ) => {
    Deno.test(`${name} ${title}`, { ignore }, async () => {
      const libc = openLibc();
      const watcher = open(libc);
      // A container may have no io_uring.
      if (watcher === null) return;
      try {
        await fn(watcher, libc);
      } finally {
        await watcher.close();
      }
    });
  };

  for (const [kind, flags] of [["blocks", 0], ["does not", EFD_NONBLOCK]]) {
    withWatcher(
      `.counter() tells once for each arming, of a counter that ${kind}`,
      async (watcher, libc) => {
        const fd = eventFd(libc, flags as number);
        let told: ((isCounter: boolean) => void) | null = null;
        let count = 0;
        const watched = watcher.counter(fd, (isCounter) => {
          count++;
          told?.(isCounter);
        });
        for (const isFirst of [false, true, false]) {
          const heard = new Promise<boolean>((resolve) => told = resolve);
          if (isFirst) add(libc, fd, 3);
          watched.arm();
          watched.arm();
          watcher.flush();
          if (!isFirst) add(libc, fd, 1);
          assertEquals(await heard, true);
        }
        // Not armed, it keeps its value.
        add(libc, fd, 5);
        await settle();
        assertEquals([count, take(libc, fd)], [3, 5]);
        watched.close();
        libc.close(fd);
      },
    );
  }

  withWatcher(
    ".counter() tells that a descriptor is no counter",
    async (watcher, libc) => {
      const path = await Deno.makeTempFile();
      const { O_RDONLY } = libc.abi.open;
      const fd = libc.open(path, O_RDONLY);
      const heard = new Promise<boolean>((resolve) => {
        const watched = watcher.counter(fd, (isCounter) => {
          watched.close();
          resolve(isCounter);
        });
        watched.arm();
        watcher.flush();
      });
      assertEquals(await heard, false);
      libc.close(fd);
      await Deno.remove(path);
    },
  );

  withWatcher(
    ".counter() reads nothing of a descriptor that is no counter",
    async (watcher, libc) => {
      const pair = SocketPair.open(libc);
      assert(typeof pair !== "number");
      for (let i = 0; i < 8; i++) pair.send();
      const heard = new Promise<boolean>((resolve) => {
        watcher.counter(pair.otherFd, resolve).arm();
        watcher.flush();
      });
      assertEquals(await heard, false);
      const memory = alignedMemory(16, 8);
      const { read } = libc.abi.syscalls!;
      const count = libc.syscall(read, pair.otherFd, addressOf(memory), 16);
      assertEquals(count, 8);
      pair.close();
      libc.close(pair.otherFd);
    },
  );

  withWatcher(
    ".signal() writes nothing to a file",
    async (watcher, libc) => {
      const path = await Deno.makeTempFile();
      const fd = libc.open(path, libc.abi.open.O_RDWR);
      assert(fd >= 0);
      const signal = watcher.signal(fd);
      signal.raise();
      watcher.flush();
      await settle();
      assertEquals((await Deno.stat(path)).size, 0);
      signal.close();
      libc.close(fd);
      await Deno.remove(path);
    },
  );

  withWatcher(
    ".signal() tells by a Unix socket, and does not wait if that is full",
    async (watcher, libc) => {
      const pair = SocketPair.open(libc);
      assert(typeof pair !== "number");
      makeBlocking(libc, pair.otherFd);
      const signal = watcher.signal(pair.otherFd);
      signal.raise();
      watcher.flush();
      await settle();
      assertEquals(take(libc, pair.fd), 1);
      assertEquals(take(libc, pair.fd), 0);
      for (let i = 0; i < 100_000; i++) signal.raise();
      watcher.flush();
      await settle();
      let left = 0;
      while (take(libc, pair.fd) === 1) left++;
      assert(left > 0 && left < 100_000);
      signal.close();
      pair.close();
      libc.close(pair.otherFd);
    },
  );

  withWatcher(
    ".counter() tells of each of many that come at once",
    async (watcher, libc) => {
      const fds = Array.from({ length: 200 }, () => eventFd(libc));
      const told = fds.map(() => 0);
      const watched = fds.map((fd, i) => watcher.counter(fd, () => told[i]!++));
      for (let round = 1; round <= 3; round++) {
        for (const one of watched) one.arm();
        watcher.flush();
        for (const fd of fds) add(libc, fd, 1);
        for (let i = 0; i < 1000 && told.includes(round - 1); i++) {
          await settle();
        }
        assertEquals(told, fds.map(() => round));
      }
      for (const one of watched) one.close();
      for (const fd of fds) libc.close(fd);
    },
  );

  withWatcher(
    ".signal() holds nobody up where a full counter was made to block",
    async (watcher, libc) => {
      const fd = eventFd(libc);
      const signal = watcher.signal(fd);
      makeBlocking(libc, fd);
      const full = alignedMemory(8, 8).fill(0xff);
      full[0] = 0xfe;
      const { write } = libc.abi.syscalls!;
      assertEquals(libc.syscall(write, fd, addressOf(full), 8), 8);
      signal.raise();
      watcher.flush();
      await settle();
      signal.close();
      watcher.flush();
      libc.close(fd);
    },
  );

  withWatcher(
    ".counter() tells of nothing once it is closed",
    async (watcher, libc) => {
      const fd = eventFd(libc, EFD_NONBLOCK);
      let count = 0;
      const watched = watcher.counter(fd, () => count++);
      watched.arm();
      watcher.flush();
      await settle();
      watched.close();
      add(libc, fd, 1);
      await settle();
      assertEquals([count, take(libc, fd)], [0, 1]);
      // The number of the descriptor goes to another counter, of its own.
      const made = eventFd(libc, EFD_NONBLOCK);
      const other = libc.dup3(made, fd, 0);
      libc.close(made);
      assertEquals(other, fd);
      const heard = new Promise<boolean>((resolve) => {
        const again = watcher.counter(other, resolve);
        again.arm();
        watcher.flush();
      });
      add(libc, other, 1);
      assertEquals([await heard, count], [true, 0]);
      libc.close(other);
    },
  );

  withWatcher(
    ".socket() tells of a byte and of the end",
    async (watcher, libc) => {
      const pair = SocketPair.open(libc);
      assert(typeof pair !== "number");
      let told = () => {};
      const watched = watcher.socket(pair.otherFd, () => told());
      const memory = alignedMemory(8, 8);
      const { read } = libc.abi.syscalls!;
      const next = () =>
        new Promise<number>((resolve) => {
          told = () =>
            resolve(libc.syscall(read, pair.otherFd, addressOf(memory), 8));
          watched.arm();
          watcher.flush();
        });
      const byte = next();
      pair.send();
      assertEquals(await byte, 1);
      const end = next();
      pair.close();
      assertEquals(await end, 0);
      watched.close();
      libc.close(pair.otherFd);
    },
  );

  withWatcher(
    ".signal() adds to a counter, and holds nobody up where it cannot",
    async (watcher, libc) => {
      const fd = eventFd(libc);
      const signal = watcher.signal(fd);
      for (let i = 0; i < 3; i++) {
        signal.raise();
        watcher.flush();
      }
      await settle();
      assertEquals(take(libc, fd), 3);
      // A counter that is full: read(2) gives 2^64 − 2.
      const full = alignedMemory(8, 8).fill(0xff);
      full[0] = 0xfe;
      const { write } = libc.abi.syscalls!;
      assertEquals(libc.syscall(write, fd, addressOf(full), 8), 8);
      for (let i = 0; i < 3; i++) {
        signal.raise();
        watcher.flush();
      }
      signal.close();
      watcher.flush();
      libc.close(fd);
    },
  );
}

Deno.test(
  "RingWatcher.signal() waits in the kernel, for a counter that was made to block",
  {
    ignore,
  },
  async () => {
    const libc = openLibc();
    const watcher = RingWatcher.open(libc);
    if (watcher === null) return;
    const fd = eventFd(libc);
    const signal = watcher.signal(fd);
    const { F_GETFL, F_SETFL } = libc.abi.fcntl;
    const flags = libc.fcntl(fd, F_GETFL);
    libc.fcntl(fd, F_SETFL, flags & ~libc.abi.open.O_NONBLOCK);
    const full = alignedMemory(8, 8).fill(0xff);
    full[0] = 0xfe;
    assertEquals(
      libc.syscall(libc.abi.syscalls!.write, fd, addressOf(full), 8),
      8,
    );
    signal.raise();
    watcher.flush();
    await settle();
    // Once there is room, it is written.
    assertEquals(take(libc, fd), 0xffff_fffe);
    for (let i = 0; i < 1000; i++) {
      await settle();
      const poll = libc.fcntl(fd, F_SETFL, flags);
      assertEquals(poll, 0);
      if (take(libc, fd) === 1) break;
      assert(i < 999, "The signal has not come");
    }
    signal.close();
    libc.close(fd);
    await watcher.close();
  },
);

Deno.test(
  "RingWatcher hands over later what the kernel refuses, but nothing of what was closed",
  { ignore },
  async () => {
    const libc = openLibc();
    let refuses = false;
    const { EAGAIN } = libc.abi.errno;
    const watcher = RingWatcher.open(libcWith(libc, {
      ioUringEnter: (...args) => refuses ? -EAGAIN : libc.ioUringEnter(...args),
    }));
    if (watcher === null) return;
    const kept = eventFd(libc);
    let told = 0;
    const watched = watcher.counter(kept, () => told++);
    const gone = eventFd(libc);
    const signal = watcher.signal(gone);
    const others = Array.from({ length: 100 }, () => eventFd(libc));
    const signals = others.map((fd) => watcher.signal(fd));
    refuses = true;
    watched.arm();
    signal.raise();
    watcher.flush();
    // More than there is room for at once.
    for (const one of signals) one.raise();
    watcher.flush();
    signal.close();
    // The number goes to another counter.
    const other = eventFd(libc, EFD_NONBLOCK);
    const made = libc.dup3(other, gone, 0);
    libc.close(other);
    assertEquals(made, gone);
    refuses = false;
    add(libc, kept, 1);
    for (let i = 0; i < 1000 && told === 0; i++) await settle();
    await settle();
    assertEquals([told, take(libc, made)], [1, 0]);
    assertEquals(others.map((fd) => take(libc, fd)), others.map(() => 1));
    watched.close();
    for (const one of signals) one.close();
    for (const fd of [kept, made, ...others]) libc.close(fd);
    await watcher.close();
  },
);

Deno.test(
  "PollWatcher.counter() holds nobody up where a counter is emptied before it is read",
  { ignore },
  async () => {
    const libc = openLibc();
    let empties = false;
    const fd = eventFd(libc);
    const watcher = PollWatcher.open(libcWith(libc, {
      syscall(number, ...args) {
        const result = libc.syscall(number, ...args);
        if (
          empties && number === libc.abi.syscalls!.epoll_pwait && result > 0
        ) {
          empties = false;
          take(libc, fd);
          makeBlocking(libc, fd);
        }
        return result;
      },
    }))!;
    let told = 0;
    const watched = watcher.counter(fd, (isCounter) => {
      assert(isCounter);
      told++;
    });
    watched.arm();
    watcher.flush();
    empties = true;
    add(libc, fd, 1);
    for (let i = 0; i < 1000 && empties; i++) await settle();
    await settle();
    assertEquals(told, 0);
    add(libc, fd, 1);
    for (let i = 0; i < 1000 && told === 0; i++) await settle();
    assertEquals(told, 1);
    watched.close();
    libc.close(fd);
    await watcher.close();
  },
);

Deno.test("RingWatcher.close() ends what is armed, and is idempotent", {
  ignore,
}, async () => {
  const libc = openLibc();
  const watcher = RingWatcher.open(libc);
  if (watcher === null) return;
  const fds = Array.from({ length: 100 }, () => eventFd(libc, EFD_NONBLOCK));
  for (const fd of fds) watcher.counter(fd, () => {}).arm();
  watcher.flush();
  await watcher.close();
  await watcher.close();
  for (const fd of fds) {
    add(libc, fd, 1);
    assertEquals(take(libc, fd), 1);
    libc.close(fd);
  }
});
