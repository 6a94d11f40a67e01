/**
 * What one client has in flight, and what that holds of the server's memory:
 * counted here and nowhere else, against the client's own bounds and against
 * the budget of all clients.
 *
 * @module
 */

import type { NbdCounters } from "./counters.ts";
import type { Job } from "./job.ts";
import type {
  MemoryAccount,
  MemoryBudget,
  MemoryHolder,
} from "./memory_budget.ts";

/** What a client may have in flight. */
export interface LoadBounds {
  /** Requests in flight at once. */
  readonly maxRequests: number;
  /** Bytes in flight at once; one request goes through, however large. */
  readonly maxBytes: number;
  /** What all clients together may hold. */
  readonly budget: MemoryBudget;
  /** What is counted. */
  readonly counters: NbdCounters;
}

/** Replies that the client has not taken. */
export interface Unsent {
  /** Bytes of them. */
  readonly pendingBytes: number;
  /** Those in memory of their own. */
  readonly copiedBytes: number;
}

/** A client's requests in flight. */
export class Load {
  readonly #bounds: LoadBounds;
  readonly #account: MemoryAccount;
  readonly #unsent: () => Unsent;
  readonly #onAnswer: () => void;
  #requests = 0;
  #bytes = 0;
  /** Bytes of the server's memory. */
  #held = 0;

  /**
   * Constructs a new instance.
   *
   * @param bounds What the client may have in flight.
   * @param holder The client, as far as memory goes.
   * @param unsent Tells which replies the client has not taken.
   * @param onAnswer Called when a request was answered.
   */
  constructor(
    bounds: LoadBounds,
    holder: MemoryHolder,
    unsent: () => Unsent,
    onAnswer: () => void,
  ) {
    this.#bounds = bounds;
    this.#account = bounds.budget.open(holder);
    this.#unsent = unsent;
    this.#onAnswer = onAnswer;
  }

  /** Requests that are not answered yet. */
  get requests(): number {
    return this.#requests;
  }

  /**
   * Takes a request in, if there is room for it now. If there is none in the
   * budget, the client is woken when there may be.
   *
   * @param job The request.
   * @param memory Bytes of the server's memory that it takes.
   * @returns Whether it is in; then its memory is its own.
   */
  admit(job: Job, memory: number): boolean {
    const { maxRequests, maxBytes, budget } = this.#bounds;
    if (this.#requests >= maxRequests) return false;
    // What is read counts once more while it is sent: with half as much in
    // flight, all of its memory is used again.
    const bytes = this.#bytes + this.#unsent().pendingBytes;
    if (bytes > 0 && bytes + job.weight > maxBytes) return false;
    if (!budget.admit(this.#account, memory)) return false;
    this.#requests++;
    this.#bytes += job.weight;
    this.#held += memory;
    job.held = memory;
    return true;
  }

  /**
   * Gives a request's memory back: the disk and the socket are done with it.
   *
   * @param job The request.
   */
  giveMemory(job: Job): void {
    const { memory } = job;
    if (memory !== null) {
      job.memory = null;
      this.#bytes -= job.weight;
      job.served.memory.give(memory);
    }
    // The budget hears of it with the answer, or when that is written.
    this.#held -= job.held;
    job.held = 0;
  }

  /** Hears that a request was answered. */
  answered(): void {
    this.#requests--;
    this.#bounds.counters.requests++;
    this.settle();
    this.#onAnswer();
  }

  /**
   * Takes a request out that will not be carried out nor answered.
   *
   * @param job The request.
   */
  withdraw(job: Job): void {
    this.giveMemory(job);
    this.#requests--;
  }

  /** Tells the budget what the client holds. */
  settle(): void {
    this.#bounds.budget.hold(
      this.#account,
      this.#held + this.#unsent().copiedBytes,
    );
  }

  /** Waits for no more memory. */
  leave(): void {
    this.#bounds.budget.leave(this.#account);
  }

  /** Holds nothing any more. */
  close(): void {
    this.#bounds.budget.close(this.#account);
  }
}
