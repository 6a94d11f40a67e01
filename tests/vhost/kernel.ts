/**
 * What a vhost-user front end needs of the kernel: memory that can be given
 * away (memfd), descriptors sent over a Unix socket (SCM_RIGHTS), eventfds, and
 * waiting for several of them. Linux on x86-64 and arm64.
 *
 * Written apart from what the device uses, so that a mistake in one of them is
 * not made by the other as well.
 *
 * @module
 */

import { type Libc, openLibc } from "../../ffi/libc.ts";
import { libcFileNames } from "../../ffi/library.ts";
import { mapMemory, type MappedMemory } from "../../ffi/mapped_memory.ts";
import { memoryAt, structMemory, writeU64 } from "../../ffi/memory.ts";

// arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h.
const NUMBERS = {
  x86_64: {
    socket: 41,
    connect: 42,
    sendmsg: 46,
    recvmsg: 47,
    shutdown: 48,
    setsockopt: 54,
  },
  aarch64: {
    socket: 198,
    connect: 203,
    sendmsg: 211,
    recvmsg: 212,
    shutdown: 210,
    setsockopt: 208,
  },
} as const;

// include/linux/socket.h.
const AF_UNIX = 1;
const AF_INET = 2;
const SO_LINGER = 13;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0x80000;
const SHUT_WR = 1;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;

// include/uapi/linux/memfd.h, include/uapi/linux/eventfd.h.
const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const EFD_CLOEXEC = 0x80000;
const EFD_NONBLOCK = 0x800;

// include/uapi/asm-generic/poll.h.
const POLLIN = 1;
const POLLERR = 8;
const POLLHUP = 16;
const POLLRDHUP = 0x2000;

/** Seals of a memfd (include/uapi/linux/fcntl.h). */
export const Seal = { Seal: 1, Shrink: 2, Grow: 4 } as const;

/** After struct msghdr, of 56 bytes; struct iovec has 16, struct cmsghdr 16. */
const IOVEC_AT = 64;
const CONTROL_AT = 128;
const CONTROL_HEADER_BYTES = 16;

/** SCM_MAX_FD is 253; vhost-user sends at most 8. Some more for hostile tests. */
const MAX_FDS = 32;

/** Bytes of one message, at most: the protocol's are below 400. */
const MESSAGE_BYTES = 65_536;

/** A call into the kernel that failed. */
export class KernelError extends Error {
  /** The error's number. */
  readonly errno: number;

  /**
   * @param call What was called.
   * @param errno The error's number.
   */
  constructor(call: string, errno: number) {
    super(`Cannot ${call}: errno ${errno}`);
    this.name = "KernelError";
    this.errno = errno;
  }
}

/** Bytes, and the descriptors that came with them. */
export interface Received {
  /** Bytes; none at the end of the stream. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Descriptors: the caller's to close. */
  readonly fds: number[];
}

/** The kernel, as a front end calls it. */
export class Kernel {
  /** The C library. */
  readonly libc: Libc = openLibc();
  readonly #numbers = NUMBERS[Deno.build.arch as keyof typeof NUMBERS];
  readonly #message: MappedMemory = mapMemory(this.libc, MESSAGE_BYTES + 4096);

  /** Gives the memory for messages back. */
  close(): void {
    this.#message.release();
  }

  /**
   * Makes a file in memory.
   *
   * @param byteLength Its size.
   * @param seals Bits of {@linkcode Seal} that are set on it.
   * @returns Its descriptor.
   */
  memfd(byteLength: number, seals = 0): number {
    const { address, view } = structMemory(16);
    "guest".split("").forEach((letter, i) =>
      view.setUint8(i, letter.charCodeAt(0))
    );
    const { abi } = this.libc;
    const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    const fd = this.#check(
      "make a memfd",
      this.libc.syscall(abi.syscalls!.memfd_create, address, flags),
    );
    this.#check("size a memfd", this.libc.ftruncate(fd, byteLength));
    if (seals !== 0) {
      const result = this.libc.fcntl(fd, abi.fcntl.F_ADD_SEALS!, seals);
      this.#check("seal a memfd", result);
    }
    return fd;
  }

  /**
   * Maps a memfd, shared.
   *
   * @param fd Its descriptor.
   * @param byteLength Bytes, from its start.
   * @returns The memory.
   */
  map(fd: number, byteLength: number): MappedMemory {
    const { PROT_READ, PROT_WRITE, MAP_SHARED } = this.libc.abi.mmap;
    const address = this.#check(
      "map a memfd",
      this.libc.mmap(0, byteLength, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
    );
    return {
      bytes: new Uint8Array(memoryAt(address, byteLength)),
      address,
      release: () => void this.libc.munmap(address, byteLength),
    };
  }

  /**
   * Makes an eventfd that never blocks.
   *
   * @returns Its descriptor.
   */
  eventfd(): number {
    return this.#check(
      "make an eventfd",
      this.libc.syscall(
        this.libc.abi.syscalls!.eventfd2,
        0,
        EFD_CLOEXEC | EFD_NONBLOCK,
      ),
    );
  }

  /** Adds 1 to an eventfd. */
  signal(fd: number): void {
    const { address, view } = structMemory(8);
    writeU64(view, 0, 1);
    this.libc.syscall(this.libc.abi.syscalls!.write, fd, address, 8);
  }

  /**
   * Takes what an eventfd counted.
   *
   * @param fd Its descriptor.
   * @returns Whether there was anything.
   */
  drain(fd: number): boolean {
    const { address } = structMemory(8);
    return this.libc.syscall(this.libc.abi.syscalls!.read, fd, address, 8) ===
      8;
  }

  /**
   * Connects to a Unix socket.
   *
   * @param path Its path.
   * @returns The connection's descriptor.
   */
  connect(path: string): number {
    const fd = this.#check(
      "make a socket",
      this.libc.syscall(
        this.#numbers.socket,
        AF_UNIX,
        SOCK_STREAM | SOCK_CLOEXEC,
        0,
      ),
    );
    // struct sockaddr_un: u16 family, char path[108].
    const { address, view } = structMemory(110);
    view.setUint16(0, AF_UNIX, true);
    new TextEncoder().encode(path).forEach((byte, i) =>
      view.setUint8(2 + i, byte)
    );
    const result = this.libc.syscall(this.#numbers.connect, fd, address, 110);
    if (result < 0) {
      this.libc.close(fd);
      throw new KernelError(`connect to ${path}`, -result);
    }
    return fd;
  }

  /**
   * Makes a TCP connection that is full of bytes, and whose close waits until the
   * other side has taken them (SO_LINGER).
   *
   * @param port Where to, on this machine.
   * @param seconds The longest that its close waits.
   * @returns Its descriptor.
   */
  lingering(port: number, seconds: number): number {
    const { syscall } = this.libc;
    const call = syscall.bind(this.libc);
    const { socket, connect, setsockopt } = this.#numbers;
    const fd = this.#check(
      "make a socket",
      call(socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
    );
    // struct linger: int onoff@0, int seconds@4.
    const linger = structMemory(8);
    linger.view.setInt32(0, 1, true);
    linger.view.setInt32(4, seconds, true);
    this.#check(
      "make a socket linger",
      call(setsockopt, fd, SOL_SOCKET, SO_LINGER, linger.address, 8),
    );
    // struct sockaddr_in: u16 family@0, be16 port@2, be32 address@4.
    const { address, view } = structMemory(16);
    view.setUint16(0, AF_INET, true);
    view.setUint16(2, port);
    view.setUint32(4, 0x7f00_0001);
    this.#check("connect", call(connect, fd, address, 16));
    try {
      for (;;) this.send(fd, new Uint8Array(4096));
    } catch (error) {
      // No more goes in.
      if (!(error instanceof KernelError)) throw error;
    }
    return fd;
  }

  /** Ends what is sent over a connection, and goes on receiving. */
  shutDown(fd: number): void {
    const result = this.libc.syscall(this.#numbers.shutdown, fd, SHUT_WR);
    this.#check("shut a socket down", result);
  }

  /**
   * Sends bytes, and descriptors with them. It does not wait.
   *
   * @param fd The connection.
   * @param bytes The bytes.
   * @param fds The descriptors; they stay the caller's.
   * @throws {KernelError} If they do not go out whole.
   */
  send(fd: number, bytes: Uint8Array, fds: readonly number[] = []): void {
    const { bytes: memory, address } = this.#header(bytes.length);
    const view = new DataView(memory.buffer);
    memory.set(bytes, 4096);
    if (fds.length > 0) {
      const length = CONTROL_HEADER_BYTES + 4 * fds.length;
      writeU64(view, 32, address + CONTROL_AT);
      writeU64(view, 40, length + length % 8);
      writeU64(view, CONTROL_AT, length);
      view.setInt32(CONTROL_AT + 8, SOL_SOCKET, true);
      view.setInt32(CONTROL_AT + 12, SCM_RIGHTS, true);
      fds.forEach((one, i) =>
        view.setInt32(CONTROL_AT + CONTROL_HEADER_BYTES + 4 * i, one, true)
      );
    }
    const sent = this.#check(
      "send a message",
      this.libc.syscall(
        this.#numbers.sendmsg,
        fd,
        address,
        MSG_DONTWAIT | MSG_NOSIGNAL,
      ),
    );
    if (sent !== bytes.length) throw new KernelError("send a whole message", 0);
  }

  /**
   * Receives what there is, without waiting.
   *
   * @param fd The connection.
   * @param byteLength Bytes at most.
   * @returns What came; `null` if nothing did so far.
   */
  receive(fd: number, byteLength: number): Received | null {
    const { bytes: memory, address } = this.#header(byteLength);
    const view = new DataView(memory.buffer);
    writeU64(view, 32, address + CONTROL_AT);
    writeU64(view, 40, CONTROL_HEADER_BYTES + 4 * MAX_FDS);
    const result = this.libc.syscall(
      this.#numbers.recvmsg,
      fd,
      address,
      MSG_DONTWAIT | MSG_CMSG_CLOEXEC,
    );
    const { EAGAIN, ECONNRESET } = this.libc.abi.errno;
    if (result === -EAGAIN) return null;
    if (result === -ECONNRESET) return { bytes: new Uint8Array(0), fds: [] };
    this.#check("receive a message", result);
    const fds: number[] = [];
    if (view.getUint32(40, true) > 0) {
      const length = view.getUint32(CONTROL_AT, true);
      for (let at = CONTROL_HEADER_BYTES; at + 4 <= length; at += 4) {
        fds.push(view.getInt32(CONTROL_AT + at, true));
      }
    }
    return { bytes: memory.slice(4096, 4096 + result), fds };
  }

  /** A message's header, for bytes that begin at 4096. */
  #header(byteLength: number): MappedMemory {
    if (byteLength > MESSAGE_BYTES) {
      throw new RangeError(
        `Cannot move a message as it must be at most ${MESSAGE_BYTES} bytes: current value is ${byteLength}`,
      );
    }
    const { bytes, address } = this.#message;
    bytes.fill(0, 0, 4096);
    const view = new DataView(bytes.buffer);
    writeU64(view, 16, address + IOVEC_AT);
    writeU64(view, 24, 1);
    writeU64(view, IOVEC_AT, address + 4096);
    writeU64(view, IOVEC_AT + 8, byteLength);
    return this.#message;
  }

  #check(what: string, result: number): number {
    if (result < 0) throw new KernelError(what, -result);
    return result;
  }
}

/** Waits for descriptors on a thread of Deno's pool, so that the loop turns. */
export class Poller {
  readonly #kernel: Kernel;
  readonly #library;
  readonly #memory: MappedMemory;
  readonly #wake: number;
  #waiting: Promise<unknown> | null = null;

  /**
   * @param kernel The kernel.
   */
  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    this.#library = openPoll(kernel.libc);
    this.#memory = mapMemory(kernel.libc, 4096);
    this.#wake = kernel.eventfd();
  }

  /**
   * Waits until one of them has something, or has hung up.
   *
   * @param fds Descriptors.
   * @param timeoutMs The longest wait, in ms.
   * @param hangUps Descriptors of which only the end is waited for.
   * @returns Those that have; none after {@linkcode Poller.wake} or in the end.
   */
  async wait(
    fds: readonly number[],
    timeoutMs: number,
    hangUps: readonly number[] = [],
  ): Promise<number[]> {
    if (this.#waiting !== null) throw new Error("There is a wait already");
    const view = new DataView(this.#memory.bytes.buffer);
    const all = [this.#wake, ...fds, ...hangUps];
    all.forEach((fd, i) => {
      const events = i <= fds.length ? POLLIN | POLLRDHUP : POLLRDHUP;
      view.setInt32(i * 8, fd, true);
      view.setInt16(i * 8 + 4, events, true);
      view.setInt16(i * 8 + 6, 0, true);
    });
    this.#waiting = this.#library.symbols.poll(
      BigInt(this.#memory.address),
      BigInt(all.length),
      timeoutMs,
    );
    await this.#waiting;
    this.#waiting = null;
    this.#kernel.drain(this.#wake);
    return [...fds, ...hangUps].filter((_, i) =>
      (view.getInt16((i + 1) * 8 + 6, true) &
        (POLLIN | POLLERR | POLLHUP | POLLRDHUP)) !== 0
    );
  }

  /** Ends the wait that goes on. */
  wake(): void {
    this.#kernel.signal(this.#wake);
  }

  /** Ends the wait, and gives everything back. */
  async close(): Promise<void> {
    this.wake();
    await this.#waiting;
    this.#memory.release();
    this.#kernel.libc.close(this.#wake);
    this.#library.close();
  }
}

function openPoll(libc: Libc) {
  const [name] = libcFileNames(libc.abi);
  return Deno.dlopen(
    name!,
    {
      // int poll(struct pollfd *fds, nfds_t count, int timeout)
      poll: {
        parameters: ["usize", "usize", "i32"],
        result: "i32",
        nonblocking: true,
      },
    } as const,
  );
}
