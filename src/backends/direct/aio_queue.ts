/**
 * Linux AIO as a queue for operations, for kernels and containers where io_uring
 * is blocked.
 *
 * Its old trap: io_submit blocks where the file system has to allocate, to wait
 * for metadata, or has no direct I/O at all. The event loop is held that long.
 *
 * @module
 */

import { errnoName, RWF } from "../../../ffi/abi.ts";
import { AioContext, IOCB_CMD } from "../../../ffi/aio.ts";
import type { Libc } from "../../../ffi/libc.ts";
import { addressOf, alignedMemory } from "../../../ffi/memory.ts";
import { waitReadable } from "../../../ffi/poll.ts";
import { type KernelQueue, NOT_TAKEN, STUCK_MS } from "./async_engine.ts";
import { type Operation, OperationCode } from "./engine.ts";

/** What is read to try it out, at any alignment that a host is known to want. */
const TRIAL_BYTES = 65_536;

/** The longest wait for it, in µs, and how often that is tried. */
const TRIAL_US = 1_000_000;
const MOST_TRIALS = 8;

/** Operations over Linux AIO. */
export class AioQueue<T extends Operation> implements KernelQueue<T> {
  readonly #libc: Libc;
  readonly #context: AioContext;
  /** Completions found while waiting, and operations that were not taken. */
  readonly #found: { slot: number; result: number }[] = [];
  /** Since when the kernel has taken nothing, in ms; 0 while it does. */
  #stuckSince = 0;
  /** Why the context is of no use any more; `null` as long as it is. */
  broken: string | null = null;
  /** Operations that may be in flight at once. */
  readonly depth: number;

  private constructor(libc: Libc, context: AioContext) {
    this.#libc = libc;
    this.#context = context;
    this.depth = context.depth;
  }

  /**
   * Sets a queue up.
   *
   * @param libc The C library.
   * @param depth Operations that may be in flight at once.
   * @returns The queue, or why there is none.
   */
  static open<T extends Operation>(
    libc: Libc,
    depth: number,
  ): AioQueue<T> | string {
    const context = AioContext.setup(libc, depth);
    if (typeof context !== "number") return new AioQueue<T>(libc, context);
    const { EAGAIN, EPERM, ENOSYS } = libc.abi.errno;
    return context === -EAGAIN
      ? "io_setup reached the limit fs.aio-max-nr"
      : context === -EPERM || context === -ENOSYS
      ? "the kernel has no AIO, or a filter hides it"
      : `io_setup failed with ${errnoName(libc.abi, -context)}`;
  }

  /**
   * Makes sure that operations come back: reads at the end of an image, for
   * which its medium is not asked.
   *
   * @param fd The image's descriptor.
   * @param sizeBytes Its size in bytes.
   * @returns `null`, or why they do not.
   */
  tryOut(fd: number, sizeBytes: number): string | null {
    const context = this.#context;
    const memory = alignedMemory(TRIAL_BYTES);
    const offset = Math.ceil(sizeBytes / TRIAL_BYTES) * TRIAL_BYTES;
    context.fill(
      0,
      IOCB_CMD.PREAD,
      fd,
      addressOf(memory),
      TRIAL_BYTES,
      offset,
      0,
    );
    for (let tries = 0; tries < MOST_TRIALS; tries++) {
      // What is not taken for lack of memory, or for a signal, is taken later.
      this.enter(1, TRIAL_US);
      let result: number | undefined;
      this.reap((_slot, value) => result = value, 1);
      if (this.broken !== null) return this.broken;
      if (result === NOT_TAKEN) return "io_submit does not take a read";
      if (result !== undefined) return null;
    }
    return "io_getevents gives nothing back";
  }

  /** Describes an operation. */
  fill(operation: T, slot: number): boolean {
    const { code, fd, address, offset } = operation;
    const durable = operation.durable ? RWF.DSYNC : 0;
    const context = this.#context;
    switch (code) {
      case OperationCode.Read:
        context.fill(
          slot,
          IOCB_CMD.PREAD,
          fd,
          address,
          operation.length,
          offset,
          0,
        );
        return true;
      case OperationCode.Write:
        context.fill(
          slot,
          IOCB_CMD.PWRITE,
          fd,
          address,
          operation.length,
          offset,
          durable,
        );
        return true;
      case OperationCode.ReadVector:
        context.fill(
          slot,
          IOCB_CMD.PREADV,
          fd,
          address,
          operation.vectorCount,
          offset,
          0,
        );
        return true;
      case OperationCode.WriteVector:
        context.fill(
          slot,
          IOCB_CMD.PWRITEV,
          fd,
          address,
          operation.vectorCount,
          offset,
          durable,
        );
        return true;
      case OperationCode.Sync:
        context.fill(slot, IOCB_CMD.FDSYNC, fd, 0, 0, 0, 0);
        return true;
      default:
        return false;
    }
  }

  /** Hands over what was filled, and waits. */
  enter(completions: number, timeoutUs: number): number {
    const { EAGAIN, EINTR, EINVAL, EOPNOTSUPP } = this.#libc.abi.errno;
    const context = this.#context;
    while (context.filled > 0 && this.broken === null) {
      const result = context.submit();
      if (result > 0) this.#stuckSince = 0;
      else if (result === -EAGAIN || result === -EINTR) {
        const now = performance.now();
        if (this.#stuckSince === 0) this.#stuckSince = now;
        if (now - this.#stuckSince < STUCK_MS) break;
        this.#break("io_submit", result);
      } else if (result === -EINVAL || result === -EOPNOTSUPP) {
        // The first one is not known here; the others may be fine.
        this.#dropFirst();
      } else this.#break("io_submit", result);
    }
    while (context.filled > 0 && this.broken !== null) this.#dropFirst();
    if (completions > 0 && this.#found.length === 0) {
      this.#collect(completions, timeoutUs);
    }
    return context.filled;
  }

  #break(call: string, result: number): void {
    const code = errnoName(this.#libc.abi, -result);
    this.broken = `${call} failed with ${code}`;
  }

  /** What the kernel does not take was never begun. */
  #dropFirst(): void {
    this.#found.push({ slot: this.#context.firstFilled, result: NOT_TAKEN });
    this.#context.dropFirst();
  }

  /** Takes what there is, as far as the kernel lets us. */
  #collect(completions: number, timeoutUs: number): void {
    const { EAGAIN, EINTR } = this.#libc.abi.errno;
    if (this.broken === null) {
      const result = this.#context.reap(completions, timeoutUs, this.#keep);
      if (result >= 0 || result === -EINTR || result === -EAGAIN) return;
      this.#break("io_getevents", result);
    }
    this.#context.take(this.#keep);
  }

  /** Looks for completions. */
  get ready(): boolean {
    return this.#found.length > 0 || this.#context.hasEvents;
  }

  /** Takes the completions. */
  reap(
    visit: (slot: number, result: number) => void,
    most: number,
  ): number {
    if (this.#found.length === 0) this.#collect(0, 0);
    let count = 0;
    // One by one: whoever is told may throw.
    while (count < most && this.#found.length > 0) {
      const { slot, result } = this.#found.shift()!;
      count++;
      visit(slot, result);
    }
    return count;
  }

  readonly #keep = (slot: number, result: number): void => {
    this.#found.push({ slot, result });
  };

  /** Waits on another thread. */
  async waitAside(timeoutMs: number): Promise<void> {
    await waitReadable(this.#libc, this.#context.eventFd, timeoutMs);
    this.#context.drain();
  }

  /** Ends a wait on another thread. */
  wake(): void {
    this.#context.signal();
  }

  /** Destroys the context. */
  close(): void {
    this.#context.close();
  }
}
