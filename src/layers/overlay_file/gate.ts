/**
 * What keeps requests apart from work on a whole overlay, such as a commit: it
 * counts those at work, holds back what comes later, and lets one such work have
 * its turn after the other. It moves no data.
 *
 * @module
 */

import type { Complete } from "../../backend.ts";
import type { DiskError } from "../../errors.ts";
import { type Request, RequestType } from "../../request.ts";
import { answerRequest } from "../../throw_later.ts";

/** What waits while something is at work. */
export const Held = {
  /** Nothing. */
  Nothing: 0,
  /** What changes the disk, and flushes. */
  Changes: 1,
  /** Everything. */
  All: 2,
} as const;

/** What waits while something is at work. */
export type Held = typeof Held[keyof typeof Held];

/** The gate of one overlay. */
export class Gate {
  readonly #resume: (request: Request, complete: Complete) => void;
  #holds: Held = Held.Nothing;
  readonly #held: [Request, Complete][] = [];
  /** Requests at work: all of them, and those that change something. */
  #atWork = 0;
  #changesAtWork = 0;
  #drained: (() => void) | null = null;
  /** The last of what takes turns, and how many have not ended. */
  #turn: Promise<unknown> = Promise.resolve();
  #turns = 0;

  /**
   * Constructs a new instance, which is open.
   *
   * @param resume Carries out a request that was held back.
   */
  constructor(resume: (request: Request, complete: Complete) => void) {
    this.#resume = resume;
  }

  /** When nothing has its turn any more. Never rejects. */
  get turn(): Promise<unknown> {
    return this.#turn;
  }

  /**
   * Lets a request in, or holds it back.
   *
   * @param request The request.
   * @param complete Its callback.
   * @returns Whether it is in: {@linkcode Gate.answer} completes it.
   */
  admit(request: Request, complete: Complete): boolean {
    if (
      this.#holds === Held.All ||
      this.#holds === Held.Changes && isChange(request)
    ) {
      this.#held.push([request, complete]);
      return false;
    }
    this.enter(request);
    return true;
  }

  /**
   * Takes out a request that is held back.
   *
   * @param request The request.
   * @returns Its callback; `null` if it is not held back.
   */
  withdraw(request: Request): Complete | null {
    const at = this.#held.findIndex(([held]) => held === request);
    return at < 0 ? null : this.#held.splice(at, 1)[0]![1];
  }

  /**
   * Counts a part of a request that is in.
   *
   * @param part The part, which {@linkcode Gate.answer} completes.
   */
  enter(part: Request): void {
    this.#atWork++;
    if (isChange(part)) this.#changesAtWork++;
  }

  /**
   * Completes what is in.
   *
   * @param request The request, or the part.
   * @param error Why it failed.
   * @param complete The callback.
   */
  answer(request: Request, error: DiskError | null, complete: Complete): void {
    this.#atWork--;
    if (isChange(request)) this.#changesAtWork--;
    answerRequest(request, error, complete);
    this.#drained?.();
  }

  /**
   * Does something while nothing else of its kind is done, and opens the gate
   * after it.
   *
   * @param work Does it.
   * @returns What it returned.
   */
  alone<T>(work: () => Promise<T>): Promise<T> {
    const take = async () => {
      try {
        return await work();
      } finally {
        this.#turns--;
        this.#open();
      }
    };
    // At once if it can be: it keeps its place among requests then.
    const turn = this.#turns++ === 0 ? take() : this.#turn.then(take);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /**
   * Holds back what comes, and waits until what is in is done.
   *
   * @param holds What is held back.
   * @returns When it is.
   */
  async close(holds: Held): Promise<void> {
    this.#holds = holds;
    const left = () => holds === Held.All ? this.#atWork : this.#changesAtWork;
    while (left() > 0) {
      await new Promise<void>((resolve) => this.#drained = resolve);
    }
    this.#drained = null;
  }

  /** Lets everything go on. */
  #open(): void {
    this.#holds = Held.Nothing;
    const held = this.#held.splice(0);
    for (const [request, complete] of held) this.#resume(request, complete);
  }
}

function isChange(request: Request): boolean {
  return request.writes || request.type === RequestType.Flush;
}
