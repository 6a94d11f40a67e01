/**
 * io_uring as a queue for operations: which operation is which opcode.
 *
 * @module
 */

import { errnoName, RWF } from "../../../ffi/abi.ts";
import {
  IORING_FEAT,
  IORING_OP,
  IORING_SETUP,
  IOSQE,
  IoUring,
} from "../../../ffi/io_uring.ts";
import { type Libc, MAX_TRANSFER } from "../../../ffi/libc.ts";
import { POLLIN, waitReadable } from "../../../ffi/poll.ts";
import type { SocketPair } from "../../../ffi/socket_pair.ts";
import { type KernelQueue, NOT_TAKEN, STUCK_MS } from "./async_engine.ts";
import { Bell } from "./bell.ts";
import { type Operation, OperationCode } from "./engine.ts";

const FSYNC_DATASYNC = 1;

/** Brought back by operations whose result nobody waits for. */
const NOBODY = 0xffff_ffff;

/** `IORING_MAX_ENTRIES` (io_uring/io_uring.h). */
const MOST_ENTRIES = 32_768;

/** Brought back by the watch over a descriptor. */
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
const TRIAL_US = 1_000_000;

/** How often the kernel is asked to take it. */
const MOST_TRIALS = 8;

/** Operations over io_uring. */
export class IoUringQueue<T extends Operation> implements KernelQueue<T> {
  readonly #libc: Libc;
  readonly #ring: IoUring;
  readonly #operations: boolean[];
  /** Flags of every submission that moves data. */
  readonly #flags: number;
  #watching = false;
  /** Whether the next alert is known already. */
  #known = false;
  #bell: Bell | null = null;
  /** Operations on their way whose answer nobody waits for. */
  #nobodys = 0;
  /** Told of such answers after all. */
  #onNobody: ((result: number) => void) | null = null;
  /** Slots that the kernel never took. */
  readonly #left: number[] = [];
  /** Since when the kernel has taken nothing, in ms; 0 while it does. */
  #stuckSince = 0;
  /** Operations that were answered in this call, and by what. */
  #answered = 0;
  #visit: (slot: number, result: number) => void = () => {};
  /** Why the ring cannot be entered any more; `null` as long as it can. */
  broken: string | null = null;
  /** Whether the watched descriptor was found readable. */
  alerted = false;
  /** Operations that may be in flight at once. */
  readonly depth: number;

  private constructor(
    libc: Libc,
    ring: IoUring,
    operations: boolean[],
    flags: number,
    depth: number,
  ) {
    this.#libc = libc;
    this.#ring = ring;
    this.#operations = operations;
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
      if (typeof ring === "number") {
        refused = ring;
        if (ring === -libc.abi.errno.EINVAL) continue;
        break;
      }
      const operations = ring.operations();
      const missing = NEEDED.find((operation) => !operations[operation]);
      if (
        missing === undefined && (ring.features & IORING_FEAT.EXT_ARG) !== 0
      ) {
        const submissionFlags = blocks ? IOSQE.ASYNC : 0;
        const queue = new IoUringQueue<T>(
          libc,
          ring,
          operations,
          submissionFlags,
          depth,
        );
        const fault = queue.#tryOut();
        if (fault === null) return queue;
        ring.close();
        return fault;
      }
      ring.close();
      return "io_uring lacks operations that are needed (before Linux 5.11, or restricted)";
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
   * Why the ring does nothing, by an operation that does nothing, in a thread of
   * the kernel: whatever would block is done there, and every flush.
   */
  #tryOut(): string | null {
    let result = 0;
    this.#onNobody = (value) => result = value;
    this.#fillForNobody(IORING_OP.NOP, 0, IOSQE.ASYNC);
    for (let tries = 0; this.#nobodys > 0; tries++) {
      // What is not taken for lack of memory, or for a signal, is taken later.
      const left = this.enter(1, TRIAL_US);
      this.reap(() => {}, 1);
      if (this.broken !== null) return this.broken;
      if (result === -this.#libc.abi.errno.ECANCELED) {
        return "io_uring finds no thread of the kernel (RLIMIT_NPROC)";
      }
      if (left === 0 && this.#nobodys > 0 || tries === MOST_TRIALS) {
        return "io_uring_enter does nothing";
      }
    }
    this.#onNobody = null;
    return null;
  }

  #fillForNobody(opcode: number, address: number, flags = 0): void {
    if (this.#ring.fill(opcode, flags, -1, 0, address, 0, 0, NOBODY)) {
      this.#nobodys++;
    }
  }

  /** Describes an operation. */
  fill(operation: T, slot: number): boolean {
    const ring = this.#ring;
    const { code, fd, address, offset } = operation;
    // A submission's length has 32 bits; what it says is cut to this in any
    // case (MAX_RW_COUNT).
    const length = code <= OperationCode.Write
      ? Math.min(operation.length, MAX_TRANSFER)
      : operation.length;
    const durable = operation.durable ? RWF.DSYNC : 0;
    switch (code) {
      case OperationCode.Read:
        return ring.fill(
          IORING_OP.READ,
          this.#flags,
          fd,
          offset,
          address,
          length,
          0,
          slot,
        );
      case OperationCode.Write:
        return ring.fill(
          IORING_OP.WRITE,
          this.#flags,
          fd,
          offset,
          address,
          length,
          durable,
          slot,
        );
      case OperationCode.ReadVector:
        return ring.fill(
          IORING_OP.READV,
          this.#flags,
          fd,
          offset,
          address,
          operation.vectorCount,
          0,
          slot,
        );
      case OperationCode.WriteVector:
        return ring.fill(
          IORING_OP.WRITEV,
          this.#flags,
          fd,
          offset,
          address,
          operation.vectorCount,
          durable,
          slot,
        );
      case OperationCode.Sync:
        return ring.fill(
          IORING_OP.FSYNC,
          0,
          fd,
          0,
          0,
          0,
          FSYNC_DATASYNC,
          slot,
        );
      case OperationCode.Allocate:
        return this.#operations[IORING_OP.FALLOCATE] === true &&
          ring.fill(
            IORING_OP.FALLOCATE,
            0,
            fd,
            offset,
            length,
            operation.mode,
            0,
            slot,
          );
      case OperationCode.Discard:
        return this.#operations[IORING_OP.URING_CMD] === true &&
          ring.fillDiscard(fd, offset, length, slot);
      case OperationCode.SecureErase:
        return false;
    }
  }

  /** Hands over what was filled, and waits. */
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
      if (userData === WATCH) this.#watching = false;
      else if (userData === NOBODY) this.#nobodys--;
      else this.#left.push(userData);
    });
  }

  /** Operations whose completions will never come, as far as can be told. */
  get lost(): number {
    const others = this.#nobodys + (this.#watching ? 1 : 0);
    return Math.max(0, this.#ring.lost - others);
  }

  /** Looks for completions. */
  get ready(): boolean {
    const ring = this.#ring;
    if (!ring.hasCompletions) {
      // A ring that is broken gets its completions by any other call.
      if (!ring.hasWork || this.broken !== null) return false;
      this.enter(0, 0);
    }
    this.#reapWatch();
    return ring.hasCompletions;
  }

  /** Takes what the watch brought, if that is next. */
  #reapWatch(): void {
    const ring = this.#ring;
    if (ring.next === WATCH) ring.reap(this.#onCompletion, 1);
  }

  /** Takes the completions. */
  reap(
    visit: (slot: number, result: number) => void,
    most: number,
  ): number {
    this.#visit = visit;
    this.#answered = 0;
    while (this.#answered < most && this.#ring.hasCompletions) {
      this.#ring.reap(this.#onCompletion, most - this.#answered);
    }
    while (this.#answered < most && this.#left.length > 0) {
      this.#answered++;
      visit(this.#left.shift()!, NOT_TAKEN);
    }
    return this.#answered;
  }

  readonly #onCompletion = (userData: number, result: number): void => {
    if (userData === WATCH) {
      this.#watching = false;
      this.alerted = result > 0 && !this.#known;
      this.#known = false;
    } else if (userData === NOBODY) {
      this.#nobodys--;
      this.#onNobody?.(result);
    } else {
      this.#answered++;
      this.#visit(userData, result);
    }
  };

  /** Watches a descriptor until it is readable. */
  watch(fd: number): void {
    if (this.#watching) return;
    this.#watching = this.#ring.fill(
      IORING_OP.POLL_ADD,
      0,
      fd,
      0,
      0,
      0,
      POLLIN,
      WATCH,
    );
  }

  /** Takes no notice of alerts so far. */
  ignoreAlert(): void {
    if (this.#watching) {
      const ring = this.#ring;
      if (ring.hasWork) this.enter(0, 0);
      this.#reapWatch();
      this.#known = ring.brings(WATCH);
    }
    this.alerted = false;
  }

  /** Sends a byte once there are completions. */
  announce(pair: SocketPair): boolean {
    this.#bell ??= Bell.make(this.#libc, pair);
    return this.#bell?.arm(this.#ring.fd) ?? false;
  }

  /** Waits on another thread. */
  waitAside(timeoutMs: number): Promise<void> {
    return waitReadable(this.#libc, this.#ring.fd, timeoutMs);
  }

  /** Asks for an operation to be given up. */
  cancel(slot: number): void {
    this.#fillForNobody(IORING_OP.ASYNC_CANCEL, slot);
    this.enter(0, 0);
  }

  /** Ends a wait on another thread. */
  wake(): void {
    this.#fillForNobody(IORING_OP.NOP, 0);
    this.enter(0, 0);
  }

  /** Closes the ring. */
  close(): void {
    this.#bell?.close();
    this.#ring.close();
  }
}
