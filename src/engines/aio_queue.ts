/**
 * Linux AIO as a queue for operations, for kernels and containers where io_uring
 * is blocked.
 *
 * Its old trap: io_submit blocks where the file system has to allocate, to wait
 * for metadata, or has no direct I/O at all. The event loop is held that long.
 *
 * @module
 */

import { errnoName, RWF } from "../../ffi/abi.ts";
import { AioContext } from "../../ffi/aio.ts";
import type { Libc } from "../../ffi/libc.ts";
import { withMemory } from "../../ffi/memory.ts";
import { makeMemoryFile } from "../../ffi/shared_memory.ts";
import { waitReadable } from "../../ffi/poll.ts";
import { type Operation, OperationCode } from "./engine.ts";
import {
  type KernelQueue,
  NOT_TAKEN,
  STUCK_MS,
  type Visit,
} from "./kernel_queue.ts";

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
  /**
   * Whether it can sync: Linux before 4.18 cannot (fs/aio.c, `aio_fsync`), nor
   * can the Nanos unikernel. Then a blocking call does.
   */
  syncs = true;
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
   * which its medium is not asked. And finds out whether it can sync, on a file
   * in memory: the image's own sync might take long, and a failure that it has to
   * tell belongs to whoever flushes.
   *
   * @param fd The image's descriptor.
   * @param sizeBytes Its size in bytes.
   * @returns `null`, or why they do not.
   */
  tryOut(fd: number, sizeBytes: number): string | null {
    const context = this.#context;
    const offset = Math.ceil(sizeBytes / TRIAL_BYTES) * TRIAL_BYTES;
    const read = withMemory(TRIAL_BYTES, (address) => {
      context.prepareRead(fd, address, TRIAL_BYTES, offset, 0);
      return this.#try();
    });
    if (this.broken !== null) return this.broken;
    if (read === undefined) return "io_getevents gives nothing back";
    if (read === NOT_TAKEN) return "io_submit does not take a read";
    const synced = this.#trySync();
    if (synced === undefined) return "io_getevents gives nothing back";
    this.syncs = synced === 0;
    return this.broken;
  }

  /** Syncs a file in memory, which is over at once. */
  #trySync(): number | undefined {
    const file = makeMemoryFile(this.#libc, "aio", 1);
    if (file < 0) return NOT_TAKEN;
    try {
      this.#context.prepareFdatasync(file, 0);
      return this.#try();
    } finally {
      this.#libc.close(file);
    }
  }

  /** The result of the operation that is prepared, once it is there. */
  #try(): number | undefined {
    for (let tries = 0; tries < MOST_TRIALS; tries++) {
      // What is not taken for lack of memory, or for a signal, is taken later.
      this.enter(1, TRIAL_US);
      let result: number | undefined;
      this.drain((_slot, value) => result = value);
      if (this.broken !== null || result !== undefined) return result;
    }
    return undefined;
  }

  /** Calls into the kernel so far. */
  get systemCalls(): number {
    return this.#context.systemCalls;
  }

  /** None: what AIO has no place for, it does not take. */
  get lost(): number {
    return 0;
  }

  /** Describes an operation. */
  prepare(operation: T, slot: number): boolean {
    const { code, fd, address, length, vectorCount, offset } = operation;
    const rwFlags = operation.durable ? RWF.DSYNC : 0;
    const context = this.#context;
    switch (code) {
      case OperationCode.Read:
        context.prepareRead(fd, address, length, offset, slot);
        return true;
      case OperationCode.Write:
        context.prepareWrite(fd, address, length, offset, rwFlags, slot);
        return true;
      case OperationCode.ReadVector:
        context.prepareReadv(fd, address, vectorCount, offset, slot);
        return true;
      case OperationCode.WriteVector:
        context.prepareWritev(fd, address, vectorCount, offset, rwFlags, slot);
        return true;
      case OperationCode.Sync:
        if (!this.syncs) return false;
        context.prepareFdatasync(fd, slot);
        return true;
      default:
        return false;
    }
  }

  /** Submits what was prepared, and waits. */
  enter(completions: number, timeoutUs: number): number {
    const { EAGAIN, EINTR, EINVAL, EOPNOTSUPP } = this.#libc.abi.errno;
    const context = this.#context;
    while (context.prepared > 0 && this.broken === null) {
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
    while (context.prepared > 0 && this.broken !== null) this.#dropFirst();
    if (completions > 0 && this.#found.length === 0) {
      this.#getEvents(completions, timeoutUs);
    }
    return context.prepared;
  }

  #break(call: string, result: number): void {
    const code = errnoName(this.#libc.abi, -result);
    this.broken = `${call} failed with ${code}`;
  }

  /** What the kernel does not take was never begun. */
  #dropFirst(): void {
    this.#found.push({ slot: this.#context.firstPrepared, result: NOT_TAKEN });
    this.#context.dropFirst();
  }

  #getEvents(completions: number, timeoutUs: number): void {
    if (this.broken !== null) return;
    const { EAGAIN, EINTR } = this.#libc.abi.errno;
    const keep = (slot: number, result: number) => {
      this.#found.push({ slot, result });
    };
    const result = this.#context.getEvents(completions, timeoutUs, keep);
    if (result < 0 && result !== -EINTR && result !== -EAGAIN) {
      this.#break("io_getevents", result);
    }
  }

  /** Takes every completion. */
  drain(visit: Visit): number {
    // A ring in memory that looks otherwise than it is known here.
    if (!this.#context.isDrainable) this.#getEvents(0, 0);
    let count = 0;
    for (const { slot, result } of this.#found.splice(0)) {
      count++;
      visit(slot, result);
    }
    return count + this.#context.drain(visit);
  }

  /** Waits on another thread. */
  async waitOffThread(timeoutMs: number): Promise<void> {
    await waitReadable(this.#libc, this.#context.eventFd, timeoutMs);
    this.#context.clearSignal();
  }

  /** Ends a wait on another thread. */
  endOffThreadWait(): void {
    this.#context.signal();
  }

  /** Destroys the context. */
  close(): void {
    this.#context.close();
  }
}
