/**
 * One io_uring: set up, filled, entered, drained. It knows the ring protocol and
 * nothing of what the operations are for.
 *
 * The ring memory is shared with the kernel. Atomics order what lies in it:
 * loads and stores through them are sequentially consistent, which covers the
 * acquire and release that the protocol asks for (liburing, src/queue.c). The
 * kernel is entered after every new tail, so that there is a barrier in any
 * case; a kernel thread that polls the ring (SQPOLL) is not used.
 *
 * Source of numbers and layouts: include/uapi/linux/io_uring.h.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { addressOf, alignedMemory, memoryAt, writeU64 } from "./memory.ts";

/** Operations (`enum io_uring_op`). */
export const IORING_OP = {
  /** Nothing. */
  NOP: 0,
  /** preadv2. */
  READV: 1,
  /** pwritev2. */
  WRITEV: 2,
  /** fsync or fdatasync. */
  FSYNC: 3,
  /** One-shot poll of a descriptor. */
  POLL_ADD: 6,
  /** Cancel by user data. */
  ASYNC_CANCEL: 14,
  /** fallocate: the length in `address`, the mode in `length`. */
  FALLOCATE: 17,
  /** pread. */
  READ: 22,
  /** pwrite. */
  WRITE: 23,
  /** send: the flags of send(2) as flags of the operation. */
  SEND: 26,
  /** A command of the file's driver. */
  URING_CMD: 46,
} as const;

/** Command of block devices: discard (Linux 6.12; include/uapi/linux/blkdev.h). */
const BLOCK_URING_CMD_DISCARD = 0x1200;

/** Flags of io_uring_setup. */
export const IORING_SETUP = {
  /** Poll the device for completions. */
  IOPOLL: 0x1,
  /** The completion ring's size is given. */
  CQSIZE: 0x8,
  /** Lower sizes that are too large. */
  CLAMP: 0x10,
  /** Go on after a submission that fails. */
  SUBMIT_ALL: 0x80,
  /** Do not interrupt the thread to post completions. */
  COOP_TASKRUN: 0x100,
  /** Tell in the ring when an interrupt left work for the thread. */
  TASKRUN_FLAG: 0x200,
  /** Only one thread submits. */
  SINGLE_ISSUER: 0x1000,
  /** Post completions only when the thread asks for them. */
  DEFER_TASKRUN: 0x2000,
} as const;

/** Features that the kernel reports (`IORING_FEAT_*`). */
export const IORING_FEAT = {
  /** One mapping holds both rings. */
  SINGLE_MMAP: 0x1,
  /** Completions are never dropped. */
  NODROP: 0x2,
  /** What a submission points to may change once it was submitted. */
  SUBMIT_STABLE: 0x4,
  /** io_uring_enter takes a timeout. */
  EXT_ARG: 0x100,
  /** io_uring_enter takes a time to wait for more completions. */
  MIN_TIMEOUT: 0x8000,
} as const;

/** Flags of one submission (`IOSQE_*`). */
export const IOSQE = {
  /** What follows begins when this one has succeeded. */
  IO_LINK: 0x4,
  /** What follows begins when this one is over, however it ended (Linux 5.5). */
  IO_HARDLINK: 0x8,
  /** Hand it to a thread of the kernel without trying first. */
  ASYNC: 0x10,
} as const;

/** Operation of io_uring_register: ask which operations there are. */
const REGISTER_PROBE = 8;

/** Flag of fsync: as fdatasync does it. */
const FSYNC_DATASYNC = 1;

/** Whatever descriptor has that user data: what a cancellation looks for. */
const NO_FD = -1;

const ENTER_GETEVENTS = 0x1;
const ENTER_EXT_ARG = 0x8;
const OFF_SQ_RING = 0;
const OFF_CQ_RING = 0x8000000;
const OFF_SQES = 0x10000000;
const PARAMS_BYTES = 120;
const SQE_BYTES = 64;
const SQE_WORDS = SQE_BYTES / 4;
const CQE_BYTES = 16;
const CQE_WORDS = CQE_BYTES / 4;
const PROBE_OPS = 256;
const PROBE_BYTES = 16 + 8 * PROBE_OPS;
const PROBE_SUPPORTED = 1;
const GETEVENTS_ARG_BYTES = 24;
const TIMESPEC_BYTES = 16;
const SQ_CQ_OVERFLOW = 0x2;
const SQ_TASKRUN = 0x4;
const TWO_32 = 2 ** 32;

/** How a ring is set up. */
export interface IoUringOptions {
  /** Submissions between two calls, a power of two up to 32,768. */
  readonly entries: number;
  /** Flags of {@linkcode IORING_SETUP}. */
  readonly flags: number;
}

/** A piece of mapped memory. */
interface Mapping {
  address: number;
  length: number;
}

/** One io_uring of the thread that made it. */
export class IoUring {
  readonly #libc: Libc;
  readonly #mappings: Mapping[];
  /** Its file descriptor. */
  readonly fd: number;
  /** Bits of {@linkcode IORING_FEAT}. */
  readonly features: number;
  /** Flags that it was set up with. */
  readonly flags: number;
  /** Submissions that fit between two calls. */
  readonly entries: number;
  /** Completions that fit before the kernel keeps a list of its own. */
  readonly completionEntries: number;

  readonly #sq: Int32Array;
  readonly #sqHead: number;
  readonly #sqTail: number;
  readonly #sqFlags: number;
  readonly #sqes: Uint32Array;
  readonly #cq: Int32Array;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqMask: number;
  readonly #cqOverflow: number;
  readonly #cqes: number;
  /** Where the next submission goes: what the kernel does not see yet. */
  #tail: number;
  /** Submissions prepared and not taken by the kernel yet. */
  #unsubmitted = 0;
  /** Calls of io_uring_enter so far. */
  systemCalls = 0;

  /** struct io_uring_getevents_arg and the timespec that it points to. */
  readonly #waitArgument: Uint8Array<ArrayBuffer>;
  readonly #waitView: DataView;
  readonly #waitAddress: number;

  private constructor(
    libc: Libc,
    fd: number,
    params: DataView,
    flags: number,
    mappings: Mapping[],
  ) {
    const [sqMap, cqMap, sqesMap] = mappings as [Mapping, Mapping, Mapping];
    this.#libc = libc;
    this.fd = fd;
    this.flags = flags;
    this.#mappings = mappings;
    this.entries = params.getUint32(0, true);
    this.completionEntries = params.getUint32(4, true);
    this.features = params.getUint32(20, true);
    const sqOffset = (at: number) => params.getUint32(40 + at, true) / 4;
    const cqOffset = (at: number) => params.getUint32(80 + at, true) / 4;
    this.#sq = new Int32Array(memoryAt(sqMap.address, sqMap.length));
    this.#sqHead = sqOffset(0);
    this.#sqTail = sqOffset(4);
    this.#sqFlags = sqOffset(16);
    this.#cq = cqMap.address === sqMap.address
      ? this.#sq
      : new Int32Array(memoryAt(cqMap.address, cqMap.length));
    this.#cqHead = cqOffset(0);
    this.#cqTail = cqOffset(4);
    this.#cqMask = this.completionEntries - 1;
    this.#cqOverflow = cqOffset(16);
    this.#cqes = cqOffset(20);
    this.#sqes = new Uint32Array(memoryAt(sqesMap.address, sqesMap.length));
    // Slot i of the array names submission i, once and for all: submissions
    // are filled in the order of the ring.
    const array = sqOffset(24);
    for (let i = 0; i < this.entries; i++) this.#sq[array + i] = i;
    this.#tail = Atomics.load(this.#sq, this.#sqTail);

    this.#waitArgument = alignedMemory(
      GETEVENTS_ARG_BYTES + TIMESPEC_BYTES,
      64,
    );
    this.#waitAddress = addressOf(this.#waitArgument);
    this.#waitView = new DataView(
      this.#waitArgument.buffer,
      this.#waitArgument.byteOffset,
      this.#waitArgument.length,
    );
    writeU64(this.#waitView, 16, this.#waitAddress + GETEVENTS_ARG_BYTES);
  }

  /**
   * Sets a ring up: io_uring_setup(2) and its mappings.
   *
   * @param libc The C library.
   * @param options Its size and flags.
   * @returns The ring, or −errno (EPERM or ENOSYS where it is switched off or
   * filtered, EINVAL where the kernel does not know a flag).
   */
  static setup(libc: Libc, options: IoUringOptions): IoUring | number {
    const { syscalls, mmap } = libc.abi;
    if (syscalls === undefined) return -libc.abi.errno.ENOSYS;
    const memory = alignedMemory(PARAMS_BYTES, 8);
    const params = new DataView(
      memory.buffer,
      memory.byteOffset,
      PARAMS_BYTES,
    );
    params.setUint32(8, options.flags, true);
    const made = libc.syscall(
      syscalls.io_uring_setup,
      options.entries,
      addressOf(memory),
    );
    if (made < 0) return made;
    const fd = libc.keep(made);

    const entries = params.getUint32(0, true);
    const completions = params.getUint32(4, true);
    const sqBytes = params.getUint32(40 + 24, true) + entries * 4;
    const cqBytes = params.getUint32(80 + 20, true) + completions * CQE_BYTES;
    const single = (params.getUint32(20, true) & IORING_FEAT.SINGLE_MMAP) !== 0;
    const mappings: Mapping[] = [];
    const map = (length: number, offset: number): boolean => {
      const address = libc.mmap(
        0,
        length,
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_SHARED | (mmap.MAP_POPULATE ?? 0),
        fd,
        offset,
      );
      if (address < 0) {
        failure = address;
        return false;
      }
      mappings.push({ address, length });
      return true;
    };
    let failure = 0;
    let mapped = map(
      single ? Math.max(sqBytes, cqBytes) : sqBytes,
      OFF_SQ_RING,
    );
    if (mapped && single) mappings.push(mappings[0]!);
    else if (mapped) mapped = map(cqBytes, OFF_CQ_RING);
    mapped &&= map(entries * SQE_BYTES, OFF_SQES);
    if (!mapped) {
      for (const { address, length } of new Set(mappings)) {
        libc.munmap(address, length);
      }
      libc.closeKept(fd);
      return failure;
    }
    return new IoUring(libc, fd, params, options.flags, mappings);
  }

  /**
   * Asks which operations the kernel has.
   *
   * @returns For each operation number whether it is there; empty where the
   * kernel does not say (before Linux 5.6).
   */
  operations(): boolean[] {
    const memory = alignedMemory(PROBE_BYTES, 8);
    const result = this.#libc.syscall(
      this.#libc.abi.syscalls!.io_uring_register,
      this.fd,
      REGISTER_PROBE,
      addressOf(memory),
      PROBE_OPS,
    );
    if (result < 0) return [];
    const view = new DataView(memory.buffer, memory.byteOffset, PROBE_BYTES);
    const found: boolean[] = [];
    for (let i = 0; i < view.getUint8(1); i++) {
      found.push(
        (view.getUint16(16 + i * 8 + 2, true) & PROBE_SUPPORTED) !== 0,
      );
    }
    return found;
  }

  /** Submissions prepared and not taken by the kernel yet. */
  get unsubmitted(): number {
    return this.#unsubmitted;
  }

  /** Whether the kernel keeps completions that do not fit into the ring. */
  get overflown(): boolean {
    return (Atomics.load(this.#sq, this.#sqFlags) & SQ_CQ_OVERFLOW) !== 0;
  }

  /**
   * Completions that are lost, as the kernel found neither a place for them in
   * the ring nor memory: io_uring_enter reports it once, by EBADR.
   */
  get lost(): number {
    return Atomics.load(this.#cq, this.#cqOverflow) >>> 0;
  }

  /**
   * Takes back what was prepared and not taken by the kernel.
   *
   * @param visit Called with the user data of each.
   */
  takeBack(visit: (userData: number) => void): void {
    const head = (this.#tail - this.#unsubmitted) | 0;
    const tail = this.#tail;
    this.#tail = head;
    this.#unsubmitted = 0;
    // Without SQPOLL, the kernel reads this when it is entered.
    Atomics.store(this.#sq, this.#sqTail, head);
    for (let i = head; i !== tail; i = (i + 1) | 0) {
      visit(this.#sqes[(i & (this.entries - 1)) * SQE_WORDS + 8]!);
    }
  }

  // Each of the following describes one operation to the kernel, without a call
  // and without allocating, and returns whether there was room. User data is
  // what the completion has, up to 2^32 − 1; flags are bits of IOSQE. Their
  // arguments are in the order of liburing's io_uring_prep_*().

  /** Prepares an operation that does nothing. */
  prepareNop(userData: number, flags = 0): boolean {
    return this.#prepare(IORING_OP.NOP, flags, NO_FD, 0, 0, 0, 0, userData);
  }

  /** Prepares pread(2). */
  prepareRead(
    fd: number,
    address: number,
    length: number,
    offset: number,
    userData: number,
    flags = 0,
  ): boolean {
    const { READ } = IORING_OP;
    return this.#prepare(READ, flags, fd, offset, address, length, 0, userData);
  }

  /** Prepares pwritev2(2) of one buffer; `rwFlags` are RWF_*. */
  prepareWrite(
    fd: number,
    address: number,
    length: number,
    offset: number,
    rwFlags: number,
    userData: number,
    flags = 0,
  ): boolean {
    const { WRITE } = IORING_OP;
    return this.#prepare(
      WRITE,
      flags,
      fd,
      offset,
      address,
      length,
      rwFlags,
      userData,
    );
  }

  /** Prepares preadv(2) into the `count` buffers of an iovec array. */
  prepareReadv(
    fd: number,
    vectors: number,
    count: number,
    offset: number,
    userData: number,
    flags = 0,
  ): boolean {
    const { READV } = IORING_OP;
    return this.#prepare(READV, flags, fd, offset, vectors, count, 0, userData);
  }

  /** Prepares pwritev2(2) of the `count` buffers of an iovec array. */
  prepareWritev(
    fd: number,
    vectors: number,
    count: number,
    offset: number,
    rwFlags: number,
    userData: number,
    flags = 0,
  ): boolean {
    const { WRITEV } = IORING_OP;
    return this.#prepare(
      WRITEV,
      flags,
      fd,
      offset,
      vectors,
      count,
      rwFlags,
      userData,
    );
  }

  /** Prepares fdatasync(2). */
  prepareFdatasync(fd: number, userData: number): boolean {
    const { FSYNC } = IORING_OP;
    return this.#prepare(FSYNC, 0, fd, 0, 0, 0, FSYNC_DATASYNC, userData);
  }

  /** Prepares fallocate(2). */
  prepareFallocate(
    fd: number,
    mode: number,
    offset: number,
    length: number,
    userData: number,
  ): boolean {
    // The length is where others have an address, the mode where a length.
    const { FALLOCATE } = IORING_OP;
    return this.#prepare(FALLOCATE, 0, fd, offset, length, mode, 0, userData);
  }

  /** Prepares a discard of a range of a block device, in bytes. */
  prepareDiscard(
    fd: number,
    start: number,
    length: number,
    userData: number,
  ): boolean {
    const at = this.#next;
    const { URING_CMD } = IORING_OP;
    const command = BLOCK_URING_CMD_DISCARD;
    if (!this.#prepare(URING_CMD, 0, fd, command, start, 0, 0, userData)) {
      return false;
    }
    this.#sqes[at + 12] = length;
    this.#sqes[at + 13] = length / TWO_32;
    return true;
  }

  /** Prepares one poll(2) of a descriptor for some events. */
  preparePoll(
    fd: number,
    events: number,
    userData: number,
    flags = 0,
  ): boolean {
    const { POLL_ADD } = IORING_OP;
    return this.#prepare(POLL_ADD, flags, fd, 0, 0, 0, events, userData);
  }

  /** Prepares send(2); `sendFlags` are MSG_*. */
  prepareSend(
    fd: number,
    address: number,
    length: number,
    sendFlags: number,
    userData: number,
  ): boolean {
    const { SEND } = IORING_OP;
    return this.#prepare(SEND, 0, fd, 0, address, length, sendFlags, userData);
  }

  /** Prepares the cancellation of the operation with some user data. */
  prepareCancel(target: number, userData: number): boolean {
    const { ASYNC_CANCEL } = IORING_OP;
    return this.#prepare(ASYNC_CANCEL, 0, NO_FD, 0, target, 0, 0, userData);
  }

  /** Where the next submission goes, in words. */
  get #next(): number {
    return (this.#tail & (this.entries - 1)) * SQE_WORDS;
  }

  #prepare(
    opcode: number,
    flags: number,
    fd: number,
    offset: number,
    address: number,
    length: number,
    operationFlags: number,
    userData: number,
  ): boolean {
    if (this.#unsubmitted === this.entries) return false;
    const sqes = this.#sqes;
    // Stores into a Uint32Array take the value modulo 2^32.
    const at = this.#next;
    sqes[at] = opcode | flags << 8;
    sqes[at + 1] = fd;
    sqes[at + 2] = offset;
    sqes[at + 3] = offset / TWO_32;
    sqes[at + 4] = address;
    sqes[at + 5] = address / TWO_32;
    sqes[at + 6] = length;
    sqes[at + 7] = operationFlags;
    sqes[at + 8] = userData;
    sqes[at + 9] = 0;
    sqes[at + 10] = 0;
    sqes[at + 11] = 0;
    sqes[at + 12] = 0;
    sqes[at + 13] = 0;
    sqes[at + 14] = 0;
    sqes[at + 15] = 0;
    this.#tail = (this.#tail + 1) | 0;
    this.#unsubmitted++;
    return true;
  }

  /**
   * Enters the kernel: submits what was prepared, and waits if asked to.
   *
   * @param waitFor Completions to wait for; 0 does not wait.
   * @param timeoutUs The longest wait, in µs; needs `EXT_ARG`.
   * @returns Submissions that the kernel took, or −errno (ETIME when the wait
   * ended with nothing submitted).
   */
  enter(waitFor: number, timeoutUs: number): number {
    const submit = this.#unsubmitted;
    Atomics.store(this.#sq, this.#sqTail, this.#tail);
    let flags = 0;
    let address = 0;
    let size = 0;
    if (waitFor > 0) {
      flags = ENTER_GETEVENTS | ENTER_EXT_ARG;
      const view = this.#waitView;
      const seconds = Math.floor(timeoutUs / 1e6);
      view.setUint32(GETEVENTS_ARG_BYTES, seconds, true);
      view.setUint32(
        GETEVENTS_ARG_BYTES + 8,
        (timeoutUs - seconds * 1e6) * 1e3,
        true,
      );
      address = this.#waitAddress;
      size = GETEVENTS_ARG_BYTES;
    } else if (
      (this.flags & IORING_SETUP.DEFER_TASKRUN) !== 0 && submit === 0 ||
      this.overflown
    ) {
      flags = ENTER_GETEVENTS;
    }
    this.systemCalls++;
    const result = this.#libc.ioUringEnter(
      this.fd,
      submit,
      waitFor,
      flags,
      address,
      size,
    );
    // What the kernel took is known by its head, also when it returns an error
    // for the wait.
    const head = Atomics.load(this.#sq, this.#sqHead);
    this.#unsubmitted = (this.#tail - head) | 0;
    return result;
  }

  /**
   * Whether the next call into the kernel posts completions; known for rings that
   * were set up with {@linkcode IORING_SETUP} `TASKRUN_FLAG`.
   */
  get hasWork(): boolean {
    return (Atomics.load(this.#sq, this.#sqFlags) & SQ_TASKRUN) !== 0;
  }

  /** Whether there are completions in the ring. */
  get hasCompletions(): boolean {
    return Atomics.load(this.#cq, this.#cqTail) !==
      this.#cq[this.#cqHead]!;
  }

  /**
   * Takes the completions out of the ring.
   *
   * @param visit Called with the user data and the result (−errno on failure)
   * of each; by then its place in the ring is free.
   * @returns How many were taken.
   */
  drain(visit: (userData: number, result: number) => void): number {
    const cq = this.#cq;
    let head = cq[this.#cqHead]!;
    const tail = Atomics.load(cq, this.#cqTail);
    let count = 0;
    while (head !== tail) {
      const at = this.#cqes + (head & this.#cqMask) * CQE_WORDS;
      const userData = cq[at]! >>> 0;
      const result = cq[at + 2]!;
      head = (head + 1) | 0;
      Atomics.store(cq, this.#cqHead, head);
      count++;
      visit(userData, result);
    }
    return count;
  }

  /** Closes the ring. Nothing may be in flight; the views must not be used. */
  close(): void {
    for (const { address, length } of new Set(this.#mappings)) {
      this.#libc.munmap(address, length);
    }
    this.#libc.closeKept(this.fd);
  }
}
