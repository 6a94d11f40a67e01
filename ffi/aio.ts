/**
 * Linux kernel AIO: one context, filled, submitted, drained. It knows control
 * blocks and events and nothing of what the operations are for.
 *
 * Source of numbers and layouts: include/uapi/linux/aio_abi.h, io_submit(2),
 * io_getevents(2).
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import {
  addressOf,
  alignedMemory,
  memoryAt,
  readU64,
  writeU64,
} from "./memory.ts";

/** Operations (`IOCB_CMD_*`); FDSYNC is Linux 4.18. */
const IOCB_CMD = { PREAD: 0, PWRITE: 1, FDSYNC: 3, PREADV: 7, PWRITEV: 8 };

const IOCB_BYTES = 64;
const IOCB_WORDS = IOCB_BYTES / 4;
const EVENT_BYTES = 32;
const EVENT_WORDS = EVENT_BYTES / 4;
const TIMESPEC_BYTES = 16;
const RESFD = 1;
const TWO_32 = 2 ** 32;
// struct aio_ring of fs/aio.c, in words of 32 bits.
const RING_HEADER_BYTES = 32;
const RING_HEADER_WORDS = RING_HEADER_BYTES / 4;
const RING_EVENTS = 1;
const RING_HEAD = 2;
const RING_TAIL = 3;
const RING_MAGIC = 4;
const RING_INCOMPATIBLE = 6;
const RING_HEADER_LENGTH = 7;
const AIO_RING_MAGIC = 0xa10a10a1 | 0;

/** One AIO context of the process. */
export class AioContext {
  readonly #libc: Libc;
  readonly #context: number;
  /** Operations that may be in flight at once. */
  readonly depth: number;
  /** One control block for each slot. */
  readonly #blocks: Uint8Array<ArrayBuffer>;
  readonly #words: Uint32Array;
  /** Pointers to the control blocks that were prepared. */
  readonly #pointers: Uint8Array<ArrayBuffer>;
  readonly #pointerWords: Uint32Array;
  #prepared = 0;
  /** `struct aio_ring`, which the kernel maps: id, nr, head, tail, magic, … */
  readonly #ring: Int32Array;
  /** Whether it looks as it is known here. */
  readonly #isKnown: boolean;
  readonly #events: Uint8Array<ArrayBuffer>;
  readonly #eventWords: Int32Array;
  readonly #timespec: Uint8Array<ArrayBuffer>;
  readonly #timespecView: DataView;
  /** What is read from and written to the event descriptor: a u64. */
  readonly #counter: Uint8Array<ArrayBuffer>;
  /** Counts completions when they arrive, for those who wait elsewhere. */
  readonly eventFd: number;
  /** Calls of io_submit, io_getevents, and on the event descriptor, so far. */
  systemCalls = 0;

  private constructor(
    libc: Libc,
    context: number,
    depth: number,
    eventFd: number,
  ) {
    this.#libc = libc;
    this.#context = context;
    this.depth = depth;
    this.eventFd = eventFd;
    const header = new Int32Array(memoryAt(context, RING_HEADER_BYTES));
    this.#isKnown = header[RING_MAGIC] === AIO_RING_MAGIC &&
      header[RING_INCOMPATIBLE] === 0 &&
      header[RING_HEADER_LENGTH] === RING_HEADER_BYTES;
    this.#ring = this.#isKnown
      ? new Int32Array(
        memoryAt(
          context,
          RING_HEADER_BYTES + header[RING_EVENTS]! * EVENT_BYTES,
        ),
      )
      : header;
    this.#blocks = alignedMemory(depth * IOCB_BYTES, 64);
    this.#words = new Uint32Array(
      this.#blocks.buffer,
      this.#blocks.byteOffset,
      depth * IOCB_WORDS,
    );
    this.#pointers = alignedMemory(depth * 8, 64);
    this.#pointerWords = new Uint32Array(
      this.#pointers.buffer,
      this.#pointers.byteOffset,
      depth * 2,
    );
    this.#events = alignedMemory(depth * EVENT_BYTES, 64);
    this.#eventWords = new Int32Array(
      this.#events.buffer,
      this.#events.byteOffset,
      depth * EVENT_WORDS,
    );
    this.#counter = alignedMemory(8, 8);
    this.#timespec = alignedMemory(TIMESPEC_BYTES, 16);
    this.#timespecView = new DataView(
      this.#timespec.buffer,
      this.#timespec.byteOffset,
      TIMESPEC_BYTES,
    );
  }

  /**
   * Sets a context up: io_setup(2).
   *
   * @param libc The C library.
   * @param depth Operations that may be in flight at once.
   * @returns The context, or −errno (EAGAIN when fs.aio-max-nr is reached).
   */
  static setup(libc: Libc, depth: number): AioContext | number {
    const { syscalls, errno } = libc.abi;
    if (syscalls === undefined) return -errno.ENOSYS;
    const memory = alignedMemory(8, 8);
    const result = libc.syscall(syscalls.io_setup, depth, addressOf(memory));
    if (result < 0) return result;
    const context = readU64(
      new DataView(memory.buffer, memory.byteOffset, 8),
      0,
    );
    const EFD_CLOEXEC = 0x80000;
    const EFD_NONBLOCK = 0x800;
    const eventFd = libc.syscall(
      syscalls.eventfd2,
      0,
      EFD_CLOEXEC | EFD_NONBLOCK,
    );
    if (eventFd < 0) {
      libc.syscall(syscalls.io_destroy, context);
      return eventFd;
    }
    return new AioContext(libc, context, depth, libc.keep(eventFd));
  }

  // Each of the following fills the control block of a slot, which is free and
  // below `depth`, and lines it up for submission. The event has the slot.

  /** Prepares pread(2). */
  prepareRead(
    fd: number,
    address: number,
    length: number,
    offset: number,
    slot: number,
  ): void {
    this.#prepare(slot, IOCB_CMD.PREAD, fd, address, length, offset, 0);
  }

  /** Prepares pwritev2(2) of one buffer; `rwFlags` are RWF_*. */
  prepareWrite(
    fd: number,
    address: number,
    length: number,
    offset: number,
    rwFlags: number,
    slot: number,
  ): void {
    this.#prepare(slot, IOCB_CMD.PWRITE, fd, address, length, offset, rwFlags);
  }

  /** Prepares preadv(2) into the `count` buffers of an iovec array. */
  prepareReadv(
    fd: number,
    vectors: number,
    count: number,
    offset: number,
    slot: number,
  ): void {
    this.#prepare(slot, IOCB_CMD.PREADV, fd, vectors, count, offset, 0);
  }

  /** Prepares pwritev2(2) of the `count` buffers of an iovec array. */
  prepareWritev(
    fd: number,
    vectors: number,
    count: number,
    offset: number,
    rwFlags: number,
    slot: number,
  ): void {
    this.#prepare(slot, IOCB_CMD.PWRITEV, fd, vectors, count, offset, rwFlags);
  }

  /** Prepares fdatasync(2). */
  prepareFdatasync(fd: number, slot: number): void {
    this.#prepare(slot, IOCB_CMD.FDSYNC, fd, 0, 0, 0, 0);
  }

  /**
   * Prepares to add 1 to an event counter, eventfd(2), within the submission: it
   * never waits for room in the counter, as write(2) does. The kernel refuses a
   * descriptor that is no event counter (EINVAL). The event's result means nothing.
   */
  prepareSignal(counter: number, slot: number): void {
    // A read that is shorter than a counter, which fails and touches none.
    this.#prepare(slot, IOCB_CMD.PREAD, this.eventFd, 0, 0, 0, 0);
    this.#words[slot * IOCB_WORDS + 15] = counter;
  }

  #prepare(
    slot: number,
    command: number,
    fd: number,
    address: number,
    length: number,
    offset: number,
    flags: number,
  ): void {
    const words = this.#words;
    const at = slot * IOCB_WORDS;
    words[at] = slot;
    words[at + 1] = 0;
    words[at + 2] = 0;
    words[at + 3] = flags;
    words[at + 4] = command;
    words[at + 5] = fd;
    words[at + 6] = address;
    words[at + 7] = address / TWO_32;
    words[at + 8] = length;
    words[at + 9] = length / TWO_32;
    words[at + 10] = offset;
    words[at + 11] = offset / TWO_32;
    words[at + 12] = 0;
    words[at + 13] = 0;
    words[at + 14] = RESFD;
    words[at + 15] = this.eventFd;
    const block = addressOf(this.#blocks) + slot * IOCB_BYTES;
    this.#pointerWords[this.#prepared * 2] = block;
    this.#pointerWords[this.#prepared * 2 + 1] = block / TWO_32;
    this.#prepared++;
  }

  /** Operations prepared and not taken by the kernel yet. */
  get prepared(): number {
    return this.#prepared;
  }

  /** The slot of the operation that the kernel would take next. */
  get firstPrepared(): number {
    const pointer = readU64(
      new DataView(this.#pointers.buffer, this.#pointers.byteOffset, 8),
      0,
    );
    return (pointer - addressOf(this.#blocks)) / IOCB_BYTES;
  }

  /** Takes the next operation out of the line, as the kernel refuses it. */
  dropFirst(): void {
    this.#take(1);
  }

  /**
   * Submits what was prepared: io_submit(2).
   *
   * @returns Operations that the kernel took, or −errno for the first of those
   * that are left.
   */
  submit(): number {
    if (this.#prepared === 0) return 0;
    this.systemCalls++;
    const result = this.#libc.syscall(
      this.#libc.abi.syscalls!.io_submit,
      this.#context,
      this.#prepared,
      addressOf(this.#pointers),
    );
    if (result > 0) this.#take(result);
    return result;
  }

  #take(count: number): void {
    this.#pointerWords.copyWithin(0, count * 2, this.#prepared * 2);
    this.#prepared -= count;
  }

  /** Whether {@linkcode drain} sees what is in the kernel's ring. */
  get isDrainable(): boolean {
    return this.#isKnown;
  }

  /**
   * Takes the completions that are in the kernel's ring, without a call, as
   * QEMU does (block/linux-aio.c).
   *
   * @param visit Called with the slot and the result of each (−errno on
   * failure); by then its place in the ring is free.
   * @returns How many there were.
   */
  drain(visit: (slot: number, result: number) => void): number {
    if (!this.#isKnown) return 0;
    const ring = this.#ring;
    let count = 0;
    for (;;) {
      const head = Atomics.load(ring, RING_HEAD);
      if (head === Atomics.load(ring, RING_TAIL)) return count;
      const at = RING_HEADER_WORDS + head * EVENT_WORDS;
      const slot = ring[at]!;
      const result = ring[at + 4]!;
      Atomics.store(ring, RING_HEAD, (head + 1) % ring[RING_EVENTS]!);
      count++;
      visit(slot, result);
    }
  }

  /**
   * Waits for completions and takes them: io_getevents(2).
   *
   * @param atLeast Completions to wait for; 0 does not wait.
   * @param timeoutUs The longest wait, in µs.
   * @param visit Called with the slot and the result of each (−errno on
   * failure).
   * @returns How many there were, or −errno.
   */
  getEvents(
    atLeast: number,
    timeoutUs: number,
    visit: (slot: number, result: number) => void,
  ): number {
    const seconds = Math.floor(timeoutUs / 1e6);
    writeU64(this.#timespecView, 0, seconds);
    writeU64(this.#timespecView, 8, (timeoutUs - seconds * 1e6) * 1e3);
    this.systemCalls++;
    const count = this.#libc.syscall(
      this.#libc.abi.syscalls!.io_getevents,
      this.#context,
      atLeast,
      this.depth,
      addressOf(this.#events),
      addressOf(this.#timespec),
    );
    for (let i = 0; i < count; i++) {
      const at = i * EVENT_WORDS;
      visit(this.#eventWords[at]!, this.#eventWords[at + 4]!);
    }
    return count;
  }

  /** Makes the event descriptor readable. */
  signal(): void {
    this.#counter[0] = 1;
    const { write } = this.#libc.abi.syscalls!;
    this.systemCalls++;
    this.#libc.syscall(write, this.eventFd, addressOf(this.#counter), 8);
  }

  /** Makes the event descriptor wait for the next completion. */
  clearSignal(): void {
    const { read } = this.#libc.abi.syscalls!;
    this.systemCalls++;
    this.#libc.syscall(read, this.eventFd, addressOf(this.#counter), 8);
  }

  /** Destroys the context; waits for what is in flight. */
  close(): void {
    this.#libc.syscall(this.#libc.abi.syscalls!.io_destroy, this.#context);
    this.#libc.closeKept(this.eventFd);
  }
}
