/**
 * io_uring as a queue for operations: which operation is which opcode.
 *
 * @module
 */

import { errnoName, RWF } from "../../ffi/abi.ts";
import {
  IORING_FEAT,
  IORING_OP,
  IORING_SETUP,
  IOSQE,
  IoUring,
} from "../../ffi/io_uring.ts";
import { type Libc, MAX_TRANSFER } from "../../ffi/libc.ts";
import { POLLIN, waitReadable } from "../../ffi/poll.ts";
import type { SocketPair } from "../../ffi/socket_pair.ts";
import { type Operation, OperationCode } from "./engine.ts";
import {
  type KernelQueue,
  type LoopWatch,
  NOT_TAKEN,
  STUCK_MS,
  type Visit,
} from "./kernel_queue.ts";
import { Notifier } from "./notifier.ts";

/** User data of operations whose result does not matter. */
const IGNORED = 0xffff_ffff;

/** `IORING_MAX_ENTRIES` (io_uring/io_uring.h). */
const MOST_ENTRIES = 32_768;

/** User data of the poll of the event loop's descriptor. */
const WATCH = 0xffff_fffe;

/**
 * Ways to set a ring up, best first; older kernels refuse the flags that they
 * do not know. SINGLE_ISSUER is Linux 6.0, COOP_TASKRUN 5.19.
 */
const SETUPS = [
  IORING_SETUP.SINGLE_ISSUER | IORING_SETUP.COOP_TASKRUN |
  IORING_SETUP.TASKRUN_FLAG | IORING_SETUP.SUBMIT_ALL,
  IORING_SETUP.COOP_TASKRUN | IORING_SETUP.TASKRUN_FLAG |
  IORING_SETUP.SUBMIT_ALL,
  0,
];

/** Operations without which the ring is of no use here. */
const NEEDED = [
  IORING_OP.READ,
  IORING_OP.WRITE,
  IORING_OP.READV,
  IORING_OP.WRITEV,
  IORING_OP.FSYNC,
];

/** The longest wait for an operation that does nothing, in µs. */
const TRIAL_US = 500_000;

/** How often the kernel may refuse to take it. */
const MOST_REFUSALS = 8;

/**
 * How often a thread of the kernel is waited for, 10 s in all: where 30 programs
 * wanted two processors, one had had no turn after 4 waits.
 */
const MOST_WAITS = 20;

/** Operations over io_uring. */
export class IoUringQueue<T extends Operation> implements KernelQueue<T> {
  readonly #libc: Libc;
  readonly #ring: IoUring;
  readonly #operations: boolean[];
  /** Flags of every submission that moves data. */
  readonly #flags: number;
  #watch: RingWatch | null = null;
  /** Operations in flight whose result does not matter. */
  #ignored = 0;
  /** The result of the last one of them. */
  #ignoredResult = 0;
  /** Slots that the kernel never took. */
  readonly #left: number[] = [];
  /** Since when the kernel has taken nothing, in ms; 0 while it does. */
  #stuckSince = 0;
  #drainedCount = 0;
  #visit: Visit = () => {};
  /** Why the ring cannot be entered any more; `null` as long as it can. */
  broken: string | null = null;
  /** Operations that may be in flight at once. */
  readonly depth: number;

  private constructor(
    libc: Libc,
    ring: IoUring,
    flags: number,
    depth: number,
  ) {
    this.#libc = libc;
    this.#ring = ring;
    this.#operations = ring.operations();
    this.#flags = flags;
    this.depth = depth;
  }

  /**
   * Sets a queue up and makes sure that it works.
   *
   * @param libc The C library.
   * @param depth Operations that may be in flight at once.
   * @param blocks Whether operations may block where they are submitted,
   * so that threads of the kernel have to submit them.
   * @returns The queue, or why there is none.
   */
  static open<T extends Operation>(
    libc: Libc,
    depth: number,
    blocks = false,
  ): IoUringQueue<T> | string {
    let refused = 0;
    for (const flags of SETUPS) {
      // One more for the watch, so that every operation has its place.
      const entries = Math.min(depth + 1, MOST_ENTRIES);
      const ring = IoUring.setup(libc, { entries, flags });
      if (typeof ring !== "number") {
        const submissionFlags = blocks ? IOSQE.ASYNC : 0;
        const queue = new IoUringQueue<T>(libc, ring, submissionFlags, depth);
        const fault = queue.#tryOut();
        if (fault === null) return queue;
        ring.close();
        return fault;
      }
      refused = ring;
      if (ring !== -libc.abi.errno.EINVAL) break;
    }
    const { EPERM, ENOSYS, ENOMEM } = libc.abi.errno;
    return refused === -EPERM
      ? "io_uring_setup is not permitted (seccomp, or kernel.io_uring_disabled)"
      : refused === -ENOSYS
      ? "the kernel has no io_uring, or a filter hides it"
      : refused === -ENOMEM
      ? "io_uring_setup hit RLIMIT_MEMLOCK or found no memory"
      : `io_uring_setup failed with ${errnoName(libc.abi, -refused)}`;
  }

  /**
   * Why the ring is of no use: it lacks something, or does not carry out an
   * operation that does nothing in a thread of the kernel, where all that would
   * block is done, and every flush.
   */
  #tryOut(): string | null {
    if (
      NEEDED.some((operation) => !this.#operations[operation]) ||
      (this.#ring.features & IORING_FEAT.EXT_ARG) === 0
    ) {
      return "io_uring lacks operations that are needed (before Linux 5.11, or restricted)";
    }
    // The first is carried out where it is submitted, on a processor of ours.
    return this.#tryNop(0, 1) ?? this.#tryNop(IOSQE.ASYNC, MOST_WAITS);
  }

  #tryNop(flags: number, mostWaits: number): string | null {
    if (this.#ring.prepareNop(IGNORED, flags)) this.#ignored++;
    let waits = 0;
    let refusals = 0;
    while (this.#ignored > 0) {
      // What is not taken for lack of memory, or for a signal, is taken later.
      const left = this.enter(1, TRIAL_US);
      this.drain(() => {});
      if (this.broken !== null) return this.broken;
      if (this.#ignoredResult === -this.#libc.abi.errno.ECANCELED) {
        return "io_uring finds no thread of the kernel (RLIMIT_NPROC)";
      }
      if (this.#ignored === 0) break;
      if (left > 0) refusals++;
      else waits++;
      if (waits === mostWaits || refusals === MOST_REFUSALS) {
        return flags === IOSQE.ASYNC
          ? "io_uring's thread of the kernel does nothing"
          : "io_uring_enter does nothing";
      }
    }
    return null;
  }

  /** Calls into the kernel so far. */
  get systemCalls(): number {
    return this.#ring.systemCalls + (this.#watch?.systemCalls ?? 0);
  }

  /** Describes an operation. */
  prepare(operation: T, slot: number): boolean {
    const ring = this.#ring;
    const flags = this.#flags;
    const { code, fd, address, vectorCount: count, offset } = operation;
    // A submission's length has 32 bits; what it says is cut to this in any
    // case (MAX_RW_COUNT).
    const length = code <= OperationCode.Write
      ? Math.min(operation.length, MAX_TRANSFER)
      : operation.length;
    const rw = operation.durable ? RWF.DSYNC : 0;
    switch (code) {
      case OperationCode.Read:
        return ring.prepareRead(fd, address, length, offset, slot, flags);
      case OperationCode.Write:
        return ring.prepareWrite(fd, address, length, offset, rw, slot, flags);
      case OperationCode.ReadVector:
        return ring.prepareReadv(fd, address, count, offset, slot, flags);
      case OperationCode.WriteVector:
        return ring.prepareWritev(fd, address, count, offset, rw, slot, flags);
      case OperationCode.Sync:
        return ring.prepareFdatasync(fd, slot);
      case OperationCode.Allocate:
        return this.#operations[IORING_OP.FALLOCATE] === true &&
          ring.prepareFallocate(fd, operation.mode, offset, length, slot);
      case OperationCode.Discard:
        return this.#operations[IORING_OP.URING_CMD] === true &&
          ring.prepareDiscard(fd, offset, length, slot);
      case OperationCode.SecureErase:
        return false;
    }
  }

  /** Submits what was prepared, and waits. */
  enter(completions: number, timeoutUs: number): number {
    const ring = this.#ring;
    if (this.broken === null) {
      const before = ring.unsubmitted;
      const result = ring.enter(completions, timeoutUs);
      if (result < 0) this.#failed(result, before);
      else this.#stuckSince = 0;
    }
    if (this.broken !== null) this.#takeBack();
    return ring.unsubmitted;
  }

  /**
   * Tells what passes from what does not: `fs/io_uring` says EAGAIN, EBUSY and
   * ENOMEM for what it may take later, EINTR and ETIME of a wait.
   */
  #failed(result: number, before: number): void {
    const { errno } = this.#libc.abi;
    const { EAGAIN, EBUSY, EINTR, ENOMEM } = errno;
    if (result === -errno.ETIME!) return;
    const passes = [-EAGAIN, -EBUSY, -EINTR, -ENOMEM].includes(result);
    const unsubmitted = this.#ring.unsubmitted;
    if (passes && (unsubmitted === 0 || unsubmitted < before)) {
      this.#stuckSince = 0;
      return;
    }
    const now = performance.now();
    if (this.#stuckSince === 0) this.#stuckSince = now;
    if (passes && now - this.#stuckSince < STUCK_MS) return;
    const code = errnoName(this.#libc.abi, -result);
    this.broken = `io_uring_enter failed with ${code}`;
  }

  /** What the kernel never took is not its any more. */
  #takeBack(): void {
    this.#ring.takeBack((userData) => {
      if (userData === WATCH) this.#watch!.completed(0);
      else if (userData === IGNORED) this.#ignored--;
      else this.#left.push(userData);
    });
  }

  /** Operations whose completions will never come, as far as can be told. */
  get lost(): number {
    const others = this.#ignored + (this.#watch?.isArmed === true ? 1 : 0);
    return Math.max(0, this.#ring.lost - others);
  }

  /** Takes every completion. */
  drain(visit: Visit): number {
    const ring = this.#ring;
    if (!ring.hasCompletions) {
      // A ring that is broken gets its completions by any other call.
      if (ring.hasWork && this.broken === null) this.enter(0, 0);
      if (!ring.hasCompletions && this.#left.length === 0) return 0;
    }
    this.#visit = visit;
    this.#drainedCount = 0;
    ring.drain(this.#onCompletion);
    for (const slot of this.#left.splice(0)) {
      this.#drainedCount++;
      visit(slot, NOT_TAKEN);
    }
    return this.#drainedCount;
  }

  readonly #onCompletion = (userData: number, result: number): void => {
    if (userData === WATCH) this.#watch!.completed(result);
    else if (userData === IGNORED) {
      this.#ignored--;
      this.#ignoredResult = result;
    } else {
      this.#drainedCount++;
      this.#visit(userData, result);
    }
  };

  /** Waits for the event loop as well from now on. */
  watchLoop(fd: number, pair: SocketPair): LoopWatch | null {
    try {
      const notifier = Notifier.make(this.#libc, pair);
      if (notifier !== null) {
        this.#watch = new RingWatch(this.#ring, fd, notifier);
      }
    } catch {
      // FFI was given up with the disk open.
    }
    return this.#watch;
  }

  /** Waits on another thread. */
  waitOffThread(timeoutMs: number): Promise<void> {
    return waitReadable(this.#libc, this.#ring.fd, timeoutMs);
  }

  /** Asks for an operation to be given up. */
  cancel(slot: number): void {
    if (this.#ring.prepareCancel(slot, IGNORED)) this.#ignored++;
    this.enter(0, 0);
  }

  /** Ends a wait on another thread. */
  endOffThreadWait(): void {
    if (this.#ring.prepareNop(IGNORED)) this.#ignored++;
    this.enter(0, 0);
  }

  /** Closes the ring. */
  close(): void {
    this.#watch?.close();
    this.#ring.close();
  }
}

/** A ring that also waits for the event loop. */
class RingWatch implements LoopWatch {
  readonly #ring: IoUring;
  readonly #fd: number;
  readonly #notifier: Notifier;
  /** Whether the poll is in flight. */
  isArmed = false;
  /** Whether the loop has something to do. */
  fired = false;

  constructor(ring: IoUring, fd: number, notifier: Notifier) {
    this.#ring = ring;
    this.#fd = fd;
    this.#notifier = notifier;
  }

  get systemCalls(): number {
    return this.#notifier.systemCalls;
  }

  arm(): void {
    if (this.isArmed) return;
    this.isArmed = this.#ring.preparePoll(this.#fd, POLLIN, WATCH);
  }

  /** The poll is over. */
  completed(result: number): void {
    this.isArmed = false;
    this.fired = result > 0;
  }

  clear(): void {
    this.fired = false;
  }

  notify(): boolean {
    return this.#notifier.arm(this.#ring.fd);
  }

  close(): void {
    this.#notifier.close();
  }
}
