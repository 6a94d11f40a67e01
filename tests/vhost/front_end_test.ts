/**
 * One front end over a pair of sockets: messages with descriptors, which are the
 * device's from then on.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { VirtualDisk } from "../../mod.ts";
import { type Libc, openLibc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory } from "../../ffi/memory.ts";
import { SocketPair } from "../../ffi/socket_pair.ts";
import { MessageSocket } from "../../ffi/unix_socket.ts";
import { BouncePool } from "../../src/vhost/bounce_pool.ts";
import { noCounts } from "../../src/vhost/counters.ts";
import { FrontEnd } from "../../src/vhost/front_end.ts";
import { GuestFault } from "../../src/vhost/memory_map.ts";
import { VhostProtocolError } from "../../src/vhost/messages.ts";
import { PollWatcher } from "../../src/vhost/poll_watcher.ts";
import { RingWatcher } from "../../src/vhost/ring_watcher.ts";

const ignore = Deno.build.os !== "linux";

const GET_FEATURES = 1;
const SET_MEM_TABLE = 5;
const SET_VRING_CALL = 13;
const SET_PROTOCOL_FEATURES = 16;
const SET_BACKEND_REQ_FD = 21;
const SET_CONFIG = 25;
const GET_INFLIGHT_FD = 31;
const SET_INFLIGHT_FD = 32;
const RESET_DEVICE = 34;
const NEED_REPLY = 8;
const REPLY_ACK = 1n << 3n;

/** The other side of a front end: what a virtual machine monitor has. */
class Monitor {
  readonly libc: Libc;
  readonly socket: MessageSocket;
  readonly #bytes = alignedMemory(1024);

  constructor(libc: Libc, fd: number) {
    this.libc = libc;
    this.socket = new MessageSocket(libc, fd);
  }

  tell(
    request: number,
    payload: Uint8Array = new Uint8Array(0),
    { flags = 1, fd }: { flags?: number; fd?: number } = {},
  ): void {
    const message = this.#bytes.subarray(0, 12 + payload.length);
    const view = new DataView(message.buffer, message.byteOffset, 12);
    [request, flags, payload.length].forEach((value, i) =>
      view.setUint32(4 * i, value, true)
    );
    message.set(payload, 12);
    assertEquals(this.socket.send(message, fd), message.length);
  }

  /** The next message; `null` at the end of the connection. */
  async hear(
    socket: MessageSocket = this.socket,
  ): Promise<DataView<ArrayBuffer> | null> {
    const { EAGAIN, ECONNRESET } = this.libc.abi.errno;
    const memory = alignedMemory(1024);
    for (;;) {
      const count = socket.receive(memory, []);
      // The latter if there was more to be read.
      if (count === 0 || count === -ECONNRESET) return null;
      if (count !== -EAGAIN) {
        assert(count >= 12, `${count}`);
        return new DataView(memory.buffer, memory.byteOffset, count);
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  ask(...message: Parameters<Monitor["tell"]>) {
    this.tell(...message);
    return this.hear();
  }
}

function withFrontEnd(
  title: string,
  fn: (monitor: Monitor, frontEnd: FrontEnd, errors: Error[]) => Promise<void>,
): void {
  Deno.test(title, { ignore }, async () => {
    const libc = openLibc();
    const watcher = RingWatcher.open(libc) ?? PollWatcher.open(libc)!;
    await using disk = VirtualDisk.memory({ sectors: 2048 });
    const pair = SocketPair.open(libc);
    assert(typeof pair !== "number");
    const monitor = new Monitor(libc, pair.fd);
    const errors: Error[] = [];
    const frontEnd = new FrontEnd(pair.otherFd, {
      libc,
      watcher,
      disk,
      readOnly: false,
      queues: 2,
      bounces: new BouncePool(),
      counters: noCounts(),
      onError: (error) => errors.push(error),
    });
    try {
      await fn(monitor, frontEnd, errors);
    } finally {
      await frontEnd.end();
      await watcher.close();
      pair.close();
    }
  });
}

function u64(value: bigint): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new BigUint64Array([value]).buffer);
}

/** A table of one region of a page. */
function table(byteLength = 4096n): Uint8Array<ArrayBuffer> {
  return new Uint8Array(
    new BigUint64Array([1n, 0n, byteLength, 0x1000n, 0n]).buffer,
  );
}

/** What notes of requests in flight are for: rings, and descriptors of each. */
function inflight(queues: number, size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(24);
  new Uint16Array(bytes.buffer).set([queues, size], 8);
  return bytes;
}

function memfd(libc: Libc): number {
  const name = alignedMemory(8);
  const { memfd_create } = libc.abi.syscalls!;
  const fd = libc.syscall(memfd_create, addressOf(name), 0);
  assertEquals(libc.ftruncate(fd, 4096), 0);
  return fd;
}

/** Sends a socket with a message; what is left sees whether it is closed. */
function sendSocket(
  monitor: Monitor,
  request: number,
  payload?: Uint8Array,
): MessageSocket {
  const pair = SocketPair.open(monitor.libc);
  assert(typeof pair !== "number");
  monitor.tell(request, payload, { fd: pair.otherFd });
  monitor.libc.close(pair.otherFd);
  return new MessageSocket(monitor.libc, pair.fd);
}

withFrontEnd(
  "FrontEnd.announceConfig() tells by the socket that was sent for it",
  async (monitor, frontEnd) => {
    // Nobody has asked for it yet.
    frontEnd.announceConfig();
    monitor.tell(SET_PROTOCOL_FEATURES, u64(1n << 5n));
    const back = sendSocket(monitor, SET_BACKEND_REQ_FD);
    await monitor.ask(GET_FEATURES);
    frontEnd.announceConfig();
    const message = (await monitor.hear(back))!;
    assertEquals([0, 4, 8].map((at) => message.getUint32(at, true)), [2, 1, 0]);
    await frontEnd.end();
    assertEquals(await monitor.hear(back), null);
    back.close();
  },
);

withFrontEnd(
  "FrontEnd.announceConfig() tells nobody any more once it has ended",
  async (monitor, frontEnd) => {
    monitor.tell(SET_PROTOCOL_FEATURES, u64(1n << 5n));
    const back = sendSocket(monitor, SET_BACKEND_REQ_FD);
    await monitor.ask(GET_FEATURES);
    const ended = frontEnd.end();
    // What was closed by now gives its number to another one.
    const pairs = Array.from(
      { length: 4 },
      () => SocketPair.open(monitor.libc),
    );
    frontEnd.announceConfig();
    for (const pair of pairs) {
      assert(typeof pair !== "number");
      for (const fd of [pair.fd, pair.otherFd]) {
        const count = new MessageSocket(monitor.libc, fd)
          .receive(alignedMemory(16), []);
        assertEquals(count, -monitor.libc.abi.errno.EAGAIN);
      }
      pair.close();
      monitor.libc.close(pair.otherFd);
    }
    await ended;
    back.close();
  },
);

withFrontEnd(
  "FrontEnd sends away who gives it no Unix socket for its messages",
  async (monitor, frontEnd, errors) => {
    monitor.tell(SET_PROTOCOL_FEATURES, u64(1n << 5n));
    const fd = memfd(monitor.libc);
    monitor.tell(SET_BACKEND_REQ_FD, undefined, { fd });
    monitor.libc.close(fd);
    assertEquals(await monitor.hear(), null);
    await frontEnd.ended;
    assert(errors[0] instanceof VhostProtocolError);
    assertMatch(errors[0].message, /must be a Unix socket/);
  },
);

withFrontEnd(
  "FrontEnd ends in peace when the other side does not wait for an answer",
  async (monitor, frontEnd, errors) => {
    monitor.tell(GET_FEATURES);
    monitor.socket.shutDown();
    await frontEnd.ended;
    assertEquals(errors, []);
  },
);

withFrontEnd(
  "FrontEnd tells whoever asks that memory cannot be used, and goes on",
  async (monitor, frontEnd, errors) => {
    monitor.tell(SET_PROTOCOL_FEATURES, u64(REPLY_ACK));
    const flags = 1 | NEED_REPLY;
    const fd = memfd(monitor.libc);
    const refused = (await monitor.ask(SET_MEM_TABLE, table(8192n), {
      flags,
      fd,
    }))!;
    assertEquals(refused.getBigUint64(12, true), 1n);
    assertEquals([errors.length, errors[0] instanceof GuestFault], [1, true]);
    const taken = (await monitor.ask(SET_MEM_TABLE, table(), { flags, fd }))!;
    assertEquals(taken.getBigUint64(12, true), 0n);
    assert(frontEnd.memory !== null);
    monitor.libc.close(fd);
  },
);

withFrontEnd(
  "FrontEnd sends whoever does not ask away for memory that cannot be used",
  async (monitor, frontEnd, errors) => {
    const fd = memfd(monitor.libc);
    monitor.tell(SET_MEM_TABLE, table(8192n), { fd });
    monitor.libc.close(fd);
    assertEquals(await monitor.hear(), null);
    await frontEnd.ended;
    assert(errors[0] instanceof GuestFault);
  },
);

for (
  const [title, request, payload] of [
    ["a question", GET_FEATURES, undefined],
    ["a number", SET_PROTOCOL_FEATURES, u64(REPLY_ACK)],
    // Bit 8: without a descriptor.
    ["a ring that is to have none", SET_VRING_CALL, u64(1n << 8n)],
  ] as const
) {
  withFrontEnd(
    `FrontEnd sends away who gives it a descriptor with ${title}, and closes it`,
    async (monitor, frontEnd, errors) => {
      const sent = sendSocket(monitor, request, payload);
      // Whoever is not sent away is answered.
      monitor.tell(GET_FEATURES);
      assertEquals(await monitor.hear(), null);
      assertEquals(await monitor.hear(sent), null);
      await frontEnd.ended;
      assert(errors[0] instanceof VhostProtocolError);
      assertMatch(
        errors[0].message,
        /must come with no more descriptors: current value is 1$/,
      );
      sent.close();
    },
  );
}

for (
  const [title, request, payload] of [
    ["GET_INFLIGHT_FD", GET_INFLIGHT_FD, inflight(1, 128)],
    ["SET_INFLIGHT_FD", SET_INFLIGHT_FD, inflight(1, 128)],
    ["SET_BACKEND_REQ_FD", SET_BACKEND_REQ_FD, undefined],
    ["SET_CONFIG", SET_CONFIG, new Uint8Array(13)],
    ["RESET_DEVICE", RESET_DEVICE, undefined],
  ] as const
) {
  withFrontEnd(
    `FrontEnd sends away whose ${title} was not agreed on`,
    async (monitor, frontEnd, errors) => {
      monitor.tell(request, payload);
      monitor.tell(GET_FEATURES);
      assertEquals(await monitor.hear(), null);
      await frontEnd.ended;
      assertMatch(errors[0]!.message, /as it was not agreed on$/);
    },
  );
}

withFrontEnd(
  "FrontEnd makes no notes of more rings than there are",
  async (monitor, frontEnd, errors) => {
    monitor.tell(SET_PROTOCOL_FEATURES, u64(1n << 12n));
    const made = (await monitor.ask(GET_INFLIGHT_FD, inflight(64, 1024)))!;
    assertEquals(made.getUint16(12 + 16, true), 64);
    monitor.tell(GET_INFLIGHT_FD, inflight(65, 1));
    assertEquals(await monitor.hear(), null);
    await frontEnd.ended;
    assertMatch(errors[0]!.message, /current values are 65 and 1$/);
  },
);

withFrontEnd(
  "FrontEnd gives all descriptors back when it has gone",
  async (monitor, frontEnd) => {
    const [first, other, second] = [0n, 1n, 0n].map((index) =>
      sendSocket(monitor, SET_VRING_CALL, u64(index))
    );
    // The second one for the same ring takes the place of the first.
    assertEquals(await monitor.hear(first), null);
    const { EAGAIN } = monitor.libc.abi.errno;
    for (const kept of [other!, second!]) {
      assertEquals(kept.receive(alignedMemory(8), []), -EAGAIN);
    }
    await frontEnd.end();
    for (const socket of [other, second, undefined]) {
      assertEquals(await monitor.hear(socket), null);
    }
    for (const socket of [first, other, second]) socket!.close();
  },
);

withFrontEnd(
  "FrontEnd refuses regions that overlap, by either address",
  async (monitor, frontEnd, errors) => {
    const region = (guest: bigint, user: bigint) => [guest, 4096n, user, 0n];
    const payload = new Uint8Array(
      new BigUint64Array([
        2n,
        ...region(0n, 0n),
        ...region(4095n, 0x10_0000n),
      ]).buffer,
    );
    const fd = memfd(monitor.libc);
    monitor.tell(SET_MEM_TABLE, payload, { fd });
    monitor.libc.close(fd);
    await frontEnd.ended;
    assert(errors[0] instanceof VhostProtocolError);
    assertMatch(errors[0].message, /two regions must not overlap/);
  },
);
