/**
 * A completion port of Windows as a queue for operations. Each operation is begun
 * by a call of its own; completions are taken in batches.
 *
 * A flush has no form that does not wait, so it waits on another thread. What is
 * begun may wait too, and hold the event loop that long: a write beyond what was
 * ever written of a file that is not sparse, for which NTFS writes the zeroes
 * before it ("Asynchronous Disk I/O Appears as Synchronous on Windows", Microsoft).
 *
 * @module
 */

import {
  CompletionPort,
  type VisitCompletion,
} from "../../../ffi/completion_port.ts";
import { OperationMemory, type Started } from "../../../ffi/windows.ts";
import {
  errnoOfStatus,
  isError,
  isFailure,
  resultOf,
} from "../../../ffi/windows_abi.ts";
import { windowsErrnoName } from "../../../ffi/windows_errno.ts";
import { type Operation, OperationCode } from "../engine.ts";
import type { KernelQueue, Visit } from "../kernel_queue.ts";
import type { WindowsHost } from "./host.ts";

/** What is begun for an operation; its own again for the next one in its slot. */
class Slot<T extends Operation> implements Started {
  readonly event = 0;
  readonly memory: OperationMemory;
  readonly index: number;
  handle = 0;
  /**
   * What its completion is told by, and 0 when there is nothing to come. No two
   * operations have the same, so that a completion that came twice, or for what
   * was refused, is none of the next operation in this slot.
   */
  context = 0;
  operation: T | null = null;

  constructor(memory: OperationMemory, index: number) {
    this.memory = memory;
    this.index = index;
  }
}

/** Operations over a completion port. */
export class CompletionPortQueue<T extends Operation>
  implements KernelQueue<T> {
  readonly #host: WindowsHost;
  readonly #port: CompletionPort;
  readonly #memory: OperationMemory;
  readonly #slots: Slot<T>[];
  #prepared: number[] = [];
  /** Over, but not through the port. */
  readonly #found: { slot: number; result: number }[] = [];
  /** Begun, and to come through the port. */
  #inPort = 0;
  #contexts = 0;
  /** Whether another thread waits at the port. */
  #waiting = false;
  #calls = 0;
  /** Operations that may be in flight at once. */
  readonly depth: number;
  /** A thread cannot sleep for less than a tick of the clock, of 1 to 16 ms. */
  readonly waitsElsewhere = true;

  private constructor(host: WindowsHost, port: CompletionPort, depth: number) {
    this.#host = host;
    this.#port = port;
    this.depth = depth;
    const memory = new OperationMemory(host.windows, depth);
    this.#memory = memory;
    this.#slots = Array.from({ length: depth }, (_, i) => new Slot(memory, i));
  }

  /**
   * Sets a queue up.
   *
   * @param host Windows.
   * @param handle The image, opened for it: all operations are on this one.
   * @param depth Operations that may be in flight at once.
   * @returns The queue, or why there is none.
   */
  static open<T extends Operation>(
    host: WindowsHost,
    handle: number,
    depth: number,
  ): CompletionPortQueue<T> | string {
    const port = CompletionPort.open(host.windows, handle);
    if (typeof port === "number") {
      return `no completion port is to be had: ${windowsErrnoName(-port)}`;
    }
    try {
      return new CompletionPortQueue<T>(host, port, depth);
    } catch (error) {
      port.close();
      throw error;
    }
  }

  /** Why nothing comes out of the port any more; `null` as long as it does. */
  get broken(): string | null {
    const { failure } = this.#port;
    return failure === 0
      ? null
      : `NtRemoveIoCompletionEx failed with 0x${(failure >>> 0).toString(16)}`;
  }

  /** What is to come through a port out of which nothing comes. */
  get lost(): number {
    return this.#port.failure === 0 ? 0 : this.#inPort;
  }

  /** Calls into the kernel so far. */
  get systemCalls(): number {
    return this.#calls + this.#port.systemCalls;
  }

  /** Describes an operation. */
  prepare(operation: T, slot: number): boolean {
    switch (operation.code) {
      case OperationCode.Read:
      case OperationCode.Write:
      case OperationCode.Sync:
      case OperationCode.Allocate:
        this.#slots[slot]!.operation = operation;
        this.#prepared.push(slot);
        return true;
      default:
        return false;
    }
  }

  /** Begins what was prepared; does not wait. */
  enter(): number {
    const prepared = this.#prepared;
    if (prepared.length === 0) return 0;
    this.#prepared = [];
    for (const index of prepared) this.#begin(this.#slots[index]!);
    return 0;
  }

  #begin(slot: Slot<T>): void {
    const operation = slot.operation!;
    const { address, length, offset } = operation;
    const { windows } = this.#host;
    if (operation.code === OperationCode.Sync) {
      return this.#flush(slot.index, operation.fd);
    }
    slot.handle = operation.fd;
    slot.context = ++this.#contexts * this.depth + slot.index;
    this.#calls++;
    const status = operation.code === OperationCode.Read
      ? windows.startRead(slot, address, length, offset)
      : operation.code === OperationCode.Write
      ? windows.startWrite(slot, address, length, offset)
      : windows.startZero(slot, offset, length);
    // What is over at once comes through the port all the same, but for errors.
    if (!isError(status)) this.#inPort++;
    else {
      slot.context = 0;
      this.#isOver(slot.index, resultOf(status, 0));
    }
  }

  #flush(slot: number, handle: number): void {
    if (!this.#host.flushes) return this.#isOver(slot, 0);
    this.#calls++;
    let flushed: Promise<number>;
    try {
      flushed = this.#port.offThread().NtFlushBuffersFile(
        BigInt(handle),
        BigInt(this.#memory.addressOf(slot)),
      );
    } catch {
      // FFI was given up with the disk open: no other thread is to be had.
      return this.#isOver(slot, this.#host.windows.flush(handle));
    }
    flushed.then((status) => {
      this.#isOver(slot, isFailure(status) ? -errnoOfStatus(status) : 0);
    });
  }

  /** Something is over that does not come through the port. */
  #isOver(slot: number, result: number): void {
    this.#found.push({ slot, result });
    if (this.#waiting) this.#port.post();
  }

  /** Takes every completion. */
  drain(visit: Visit): number {
    let count = 0;
    for (const { slot, result } of this.#found.splice(0)) {
      count++;
      visit(slot, result);
    }
    if (this.#inPort === 0) return count;
    const taken: VisitCompletion = (context, status, information) => {
      const slot = this.#slots[context % this.depth]!;
      if (slot.context !== context) return;
      slot.context = 0;
      count++;
      this.#inPort--;
      const { code } = slot.operation!;
      const result = resultOf(status, information);
      const moves = code === OperationCode.Read || code === OperationCode.Write;
      visit(slot.index, moves ? result : Math.min(result, 0));
    };
    this.#port.take(taken);
    return count;
  }

  /** Waits on another thread, which takes what comes through the port. */
  async waitOffThread(timeoutMs: number): Promise<void> {
    if (this.#found.length > 0) return;
    this.#waiting = true;
    try {
      await this.#port.waitOffThread(timeoutMs);
    } finally {
      this.#waiting = false;
    }
  }

  /** Ends a wait on another thread. */
  endOffThreadWait(): void {
    this.#port.post();
  }

  /** Asks Windows to give up an operation. */
  cancel(slot: number): void {
    if (this.#slots[slot]!.context === 0) return;
    this.#calls++;
    this.#host.windows.cancel(this.#slots[slot]!);
  }

  /** Closes the port. */
  close(): void {
    this.#port.close();
    this.#memory.release();
  }
}
