/**
 * Linux AIO as a queue for operations, for kernels and containers where io_uring
 * is blocked.
 *
 * Its old trap: io_submit blocks where the file system has to allocate, to wait
 * for metadata, or has no direct I/O at all. The event loop is held that long.
 *
 * @module
 */

import { RWF } from "../../../ffi/abi.ts";
import { AioContext, IOCB_CMD } from "../../../ffi/aio.ts";
import type { Libc } from "../../../ffi/libc.ts";
import { waitReadable } from "../../../ffi/poll.ts";
import type { KernelQueue } from "./async_engine.ts";
import { type Operation, OperationCode } from "./engine.ts";

/** Operations over Linux AIO. */
export class AioQueue<T extends Operation> implements KernelQueue<T> {
  readonly #libc: Libc;
  readonly #context: AioContext;
  /** Operations that the kernel refused to take, and why. */
  readonly #refused: { slot: number; result: number }[] = [];
  /** Completions found while waiting. */
  readonly #found: { slot: number; result: number }[] = [];
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
      : `io_setup failed with errno ${-context}`;
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
    const { EAGAIN, EINTR } = this.#libc.abi.errno;
    while (this.#context.filled > 0) {
      const result = this.#context.submit();
      if (result === -EAGAIN || result === -EINTR) break;
      if (result < 0) {
        // The first one is at fault; the others may be fine.
        this.#refused.push({ slot: this.#context.firstFilled, result });
        this.#context.dropFirst();
      }
    }
    if (
      completions > 0 && this.#refused.length === 0 && this.#found.length === 0
    ) {
      this.#context.reap(completions, timeoutUs, this.#keep);
    }
    return this.#context.filled;
  }

  /** Looks for completions. */
  get ready(): boolean {
    return this.#found.length > 0 || this.#refused.length > 0 ||
      this.#context.hasEvents;
  }

  /** Takes the completions. */
  reap(
    visit: (slot: number, result: number) => void,
    most: number,
  ): number {
    if (this.#found.length === 0) this.#context.reap(0, 0, this.#keep);
    this.#found.push(...this.#refused.splice(0));
    const found = this.#found.splice(0, most);
    for (const { slot, result } of found) visit(slot, result);
    return found.length;
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
