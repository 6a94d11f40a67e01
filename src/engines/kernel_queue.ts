/**
 * The seam between the asynchronous engine and the kernels' ways to take
 * operations now and to complete them later: io_uring and Linux AIO, and the
 * completion ports of Windows.
 *
 * An operation goes to the kernel under a slot, and its completion is drained
 * under that slot. A queue never waits but where it is told to, calls nothing
 * back but the visitor of {@linkcode KernelQueue.drain}, and
 * counts its calls into the kernel where it makes them.
 *
 * @module
 */

import type { SocketPair } from "../../ffi/socket_pair.ts";
import type { Operation } from "./engine.ts";

/**
 * In place of a result: the kernel never took the operation, so that it can be
 * carried out otherwise. No errno reaches this (`MAX_ERRNO`, include/linux/err.h).
 */
export const NOT_TAKEN = -0x1_0000;

/**
 * How long the kernel may take nothing, saying each time that it may do so
 * later, until a queue is given up, in ms.
 */
export const STUCK_MS = 1000;

/** Called with the slot of an operation that is over, and its result. */
export type Visit = (slot: number, result: number) => void;

/** A queue into the kernel. Numbers returned are −errno where negative. */
export interface KernelQueue<T extends Operation> {
  /** Operations that may be in flight at once. */
  readonly depth: number;
  /** Calls into the kernel so far. */
  readonly systemCalls: number;
  /**
   * Why the kernel cannot be entered any more; `null` as long as it can. What it
   * never took is drained as {@linkcode NOT_TAKEN}, and what it has when it is
   * done.
   */
  readonly broken: string | null;
  /** Operations in the kernel whose completions it lost. */
  readonly lost: number;
  /**
   * Describes an operation to the kernel, without a call.
   *
   * @param operation The operation.
   * @param slot What its completion is drained under.
   * @returns Whether the kernel can do it; if not, it is done by a blocking
   * call.
   */
  prepare(operation: T, slot: number): boolean;
  /**
   * Submits what was prepared, and waits if told to.
   *
   * @param completions Completions to wait for; 0 does not wait.
   * @param timeoutUs The longest wait, in µs.
   * @returns How many of those that were prepared are left.
   */
  enter(completions: number, timeoutUs: number): number;
  /**
   * Takes every completion that there is. Enters the kernel only if it says in
   * the ring that it needs that to post some.
   *
   * @param visit Called for each; must not throw.
   * @returns How many there were.
   */
  drain(visit: Visit): number;
  /**
   * Waits for completions and for the event loop together, from now on.
   *
   * @param fd The descriptor on which the loop sleeps.
   * @param pair Where a byte wakes the loop; the queue is closed before it.
   * @returns The capability; `null` if the system refuses it.
   */
  watchLoop?(fd: number, pair: SocketPair): LoopWatch | null;
  /**
   * Whether it waits on another thread alone, which takes the completions:
   * {@linkcode enter} never waits, and meanwhile nothing is to be drained.
   */
  readonly waitsElsewhere?: boolean;
  /**
   * Waits on another thread until there may be completions.
   *
   * @param timeoutMs The longest wait, in ms.
   */
  waitOffThread(timeoutMs: number): Promise<void>;
  /** Ends a wait on another thread. */
  endOffThreadWait(): void;
  /** Asks the kernel to give up an operation. */
  cancel?(slot: number): void;
  /** Releases everything; nothing is in flight. */
  close(): void;
}

/**
 * What a queue can do that watches the event loop: a wait for completions also
 * ends when the loop has something to do, and the loop, asleep, is woken by
 * completions.
 */
export interface LoopWatch {
  /** Has the next wait end, once, when the loop has something to do. */
  arm(): void;
  /** Whether it had, as far as was drained since {@linkcode clear}. */
  readonly fired: boolean;
  /** Forgets that it had. */
  clear(): void;
  /**
   * Sends the loop a byte once there are completions, or if there are any.
   *
   * @returns Whether that will be so; if not, it never will be again.
   */
  notify(): boolean;
}
