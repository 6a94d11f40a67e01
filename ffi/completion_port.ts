/**
 * A completion port of Windows: what is begun on a file ends up in it. Taken out
 * in batches by this thread, which then never waits, or by another one, which
 * waits until there are some.
 *
 * What another thread has taken is seen here when its call has returned, in a
 * later turn of the event loop. Meanwhile this thread finds nothing in the port.
 *
 * @module
 */

import type { MappedMemory } from "./mapped_memory.ts";
import { readU64, writeU64 } from "./memory.ts";
import type { Windows } from "./windows.ts";
import { isError, STATUS } from "./windows_abi.ts";
import type { OffThreadFunctions } from "./windows_library.ts";

/** Completions that are taken at once. */
const BATCH = 64;

/**
 * Bytes of a completion (`FILE_IO_COMPLETION_INFORMATION`): key u64@0, context
 * u64@8, status i32@16, information u64@24.
 */
const ENTRY_BYTES = 32;

/** Room for a batch, how many it has (u32), and a timeout (i64, in 100 ns). */
const REMOVED_AT = BATCH * ENTRY_BYTES;
const TIMEOUT_AT = REMOVED_AT + 8;
const BATCH_BYTES = TIMEOUT_AT + 8;

/** Units of a timeout in a ms; below 0, it is from now on. */
const TICKS_IN_MS = 10_000;

/** Called with the context, the status and the information of each. */
export type VisitCompletion = (
  context: number,
  status: number,
  information: number,
) => void;

/** The completion port of one file. */
export class CompletionPort {
  readonly #windows: Windows;
  readonly #port: number;
  /** Two batches: of this thread, and of another one. */
  readonly #memory: MappedMemory;
  readonly #view: DataView<ArrayBuffer>;
  #offThread: OffThreadFunctions | null = null;
  /** How many completions another thread has taken that were not visited. */
  #takenOffThread = 0;
  /** Why nothing can be taken any more, as a status; 0 while it can. */
  failure = 0;
  /** Calls so far. */
  systemCalls = 0;

  private constructor(windows: Windows, port: number) {
    this.#windows = windows;
    this.#port = port;
    this.#memory = windows.mapMemory(2 * BATCH_BYTES);
    const { buffer, byteOffset } = this.#memory.bytes;
    this.#view = new DataView(buffer, byteOffset);
  }

  /**
   * Makes the port of a file.
   *
   * @param windows Windows.
   * @param handle The file, opened with `FILE_FLAG.OVERLAPPED`; it cannot have
   * another port afterwards.
   * @returns The port, or −errno.
   */
  static open(windows: Windows, handle: number): CompletionPort | number {
    const port = windows.createPort(handle);
    if (port < 0) return port;
    try {
      return new CompletionPort(windows, port);
    } catch (error) {
      windows.close(port);
      throw error;
    }
  }

  /**
   * Takes what is there, without waiting.
   *
   * @param visit Called for each, but for what {@linkcode post} put there.
   * @returns How many there were.
   */
  take(visit: VisitCompletion): number {
    const taken = this.#takenOffThread;
    this.#takenOffThread = 0;
    let total = this.#visit(BATCH_BYTES, taken, visit);
    for (;;) {
      const { address } = this.#memory;
      this.systemCalls++;
      const status = this.#windows.removeCompletions(
        this.#port,
        address,
        BATCH,
        address + REMOVED_AT,
        address + TIMEOUT_AT,
      );
      if (status !== STATUS.SUCCESS) {
        if (isError(status)) this.failure = status;
        return total;
      }
      const count = this.#view.getUint32(REMOVED_AT, true);
      total += this.#visit(0, count, visit);
      if (count < BATCH) return total;
    }
  }

  #visit(base: number, count: number, visit: VisitCompletion): number {
    const view = this.#view;
    let visited = 0;
    for (let i = 0; i < count; i++) {
      const at = base + i * ENTRY_BYTES;
      const context = readU64(view, at + 8);
      if (context === 0) continue;
      visited++;
      visit(context, view.getInt32(at + 16, true), readU64(view, at + 24));
    }
    return visited;
  }

  /**
   * Waits on another thread until there are completions, and takes them; one
   * such wait at a time. {@linkcode take} visits them afterwards.
   *
   * @param timeoutMs The longest wait, in ms.
   * @returns When it is over.
   */
  async waitOffThread(timeoutMs: number): Promise<void> {
    const functions = this.offThread();
    const address = this.#memory.address + BATCH_BYTES;
    writeU64(this.#view, BATCH_BYTES + TIMEOUT_AT, -timeoutMs * TICKS_IN_MS);
    this.systemCalls++;
    const status = await functions.NtRemoveIoCompletionEx(
      BigInt(this.#port),
      BigInt(address),
      BATCH,
      BigInt(address + REMOVED_AT),
      BigInt(address + TIMEOUT_AT),
      0,
    );
    // How many there were is set by a call that succeeds only.
    if (status === STATUS.SUCCESS) {
      this.#takenOffThread = this.#view.getUint32(
        BATCH_BYTES + REMOVED_AT,
        true,
      );
    } else if (isError(status)) this.failure = status;
  }

  /**
   * Functions that are called on another thread, for as long as this is open.
   *
   * @returns The functions.
   */
  offThread(): OffThreadFunctions {
    return this.#offThread ??= this.#windows.openOffThread();
  }

  /** Ends a wait on another thread. */
  post(): void {
    this.systemCalls++;
    this.#windows.postCompletion(this.#port);
  }

  /** Closes the port. Nothing may be in flight, nor waited for. */
  close(): void {
    this.#offThread?.close();
    this.#windows.close(this.#port);
    this.#memory.release();
  }
}
