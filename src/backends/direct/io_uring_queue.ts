/**
 * io_uring as a queue for operations: which operation is which opcode.
 *
 * @module
 */

import { RWF } from "../../../ffi/abi.ts";
import {
  IORING_FEAT,
  IORING_OP,
  IORING_SETUP,
  IOSQE,
  IoUring,
} from "../../../ffi/io_uring.ts";
import type { Libc } from "../../../ffi/libc.ts";
import { POLLIN, waitReadable } from "../../../ffi/poll.ts";
import type { SocketPair } from "../../../ffi/socket_pair.ts";
import type { KernelQueue } from "./async_engine.ts";
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
  /** Operations that were answered in this call, and by what. */
  #answered = 0;
  #visit: (slot: number, result: number) => void = () => {};
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
        return new IoUringQueue<T>(
          libc,
          ring,
          operations,
          submissionFlags,
          depth,
        );
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
      : `io_uring_setup failed with errno ${-refused}`;
  }

  /** Describes an operation. */
  fill(operation: T, slot: number): boolean {
    const ring = this.#ring;
    const { code, fd, address, length, offset } = operation;
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
    const result = this.#ring.enter(completions, timeoutUs);
    const { EAGAIN, EBUSY, EINTR, ENOMEM, ETIME } = this.#libc.abi.errno;
    if (
      result < 0 && result !== -EAGAIN && result !== -EBUSY &&
      result !== -EINTR && result !== -ENOMEM && result !== -ETIME!
    ) throw new Error(`Cannot enter io_uring: errno ${-result}`);
    return this.#ring.unsubmitted;
  }

  /** Looks for completions. */
  get ready(): boolean {
    const ring = this.#ring;
    if (!ring.hasCompletions) {
      if (!ring.hasWork) return false;
      ring.enter(0, 0);
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
    return this.#answered;
  }

  readonly #onCompletion = (userData: number, result: number): void => {
    if (userData === WATCH) {
      this.#watching = false;
      this.alerted = result > 0 && !this.#known;
      this.#known = false;
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
      if (ring.hasWork) ring.enter(0, 0);
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
    this.#ring.fill(IORING_OP.ASYNC_CANCEL, 0, -1, 0, slot, 0, 0, NOBODY);
    this.#ring.enter(0, 0);
  }

  /** Ends a wait on another thread. */
  wake(): void {
    this.#ring.fill(IORING_OP.NOP, 0, -1, 0, 0, 0, 0, NOBODY);
    this.#ring.enter(0, 0);
  }

  /** Closes the ring. */
  close(): void {
    this.#bell?.close();
    this.#ring.close();
  }
}
