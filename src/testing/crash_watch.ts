/**
 * Sees to it that what an exploration runs comes to an end: a workload when it
 * is given up, a recovery after its time as well.
 *
 * A disk that is in memory answers at once, so that a loop over it never lets
 * the event loop have a turn, and no clock and no signal would be heard. So now
 * and then a request waits for a turn. When the time is over, requests fail,
 * which ends what awaits them; who goes on in spite of that is not waited for.
 *
 * @module
 */

// Those of Node, as tests put their own in place of the global ones.
import { clearTimeout, setTimeout } from "node:timers";
import { type Complete, refusal } from "../backend.ts";
import type { Request } from "../request.ts";

/** A recovery that did not end in its time, or in the memory that there is. */
export class RecoveryTimeout extends Error {
  /** Always `"RecoveryTimeout"`. */
  override readonly name = "RecoveryTimeout";

  /**
   * Constructs a new instance.
   *
   * @param limit Within what it did not end, in words.
   */
  constructor(limit: string) {
    super(`The recovery has not ended within ${limit}`);
  }
}

/** Requests until somebody looks at the clock. */
const REQUESTS_PER_LOOK = 32;

/**
 * Answers in a row for which the device was not asked (refused requests,
 * extents), until one waits for a turn. Counted, not timed: what a workload does
 * must not depend on the clock, or its tokens were worth nothing.
 */
const UNREACHED_PER_TURN = 256;

/** Looks at the clock in the time of a recovery. */
const LOOKS_PER_TIMEOUT = 8;

/** Milliseconds after which a request waits for a turn. */
const TURN_MS = 20;

/**
 * Milliseconds in which something ends, and cleans up, when all its requests
 * fail: as long again as a recovery may take, from the first to the second.
 */
const GRACE_MS = [100, 5000] as const;

/** Requests of something that nobody waits for that are still answered. */
const MOST_REFUSED = 1000;

/**
 * Lets the event loop have a turn: timers fire, signals are heard.
 *
 * @returns When it had it.
 */
export function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, 0);
  });
}

/** What a disk asks before it answers whoever is watched. */
export class CrashGuard {
  /** Whether anything was read. */
  read = false;
  /** Whether the time is over: every request is to be refused. */
  over = false;
  /** Why, if it is over. */
  reason: unknown = undefined;
  readonly #watch: CrashWatch;
  #requests = 0;
  /** Answers in a row for which the device was not asked. */
  #unreached = 0;
  #abandoned = false;

  /**
   * Constructs a new instance.
   *
   * @param watch What it belongs to.
   */
  constructor(watch: CrashWatch) {
    this.#watch = watch;
  }

  /**
   * Counts requests.
   *
   * @returns Whether the next one is to wait for a turn.
   */
  needsTurn(): boolean {
    this.#unreached = 0;
    return ++this.#requests % REQUESTS_PER_LOOK === 0 &&
      this.#watch.turnIsDue();
  }

  /**
   * Ends the time.
   *
   * @param reason Why.
   */
  end(reason: unknown): void {
    if (this.over) return;
    this.over = true;
    this.reason = reason;
    this.#requests = 0;
    this.#watch.ended(this);
  }

  /**
   * Waits for it no longer.
   *
   * @returns When all that was refused before is answered.
   */
  leave(): Promise<void> {
    this.#abandoned = true;
    return eventLoopTurn();
  }

  /**
   * Fails a request, in a turn of its own: what tries again and again must not
   * keep all others out. What nobody waits for any more is answered at once,
   * and not for ever: so a loop ends that no error does.
   *
   * @param request The request.
   * @param complete Where the answer goes.
   */
  refuse(request: Request, complete: Complete): void {
    const why = this.reason instanceof RecoveryTimeout
      ? "the time of the recovery is over"
      : "the exploration was given up";
    // Of a kind that no queue takes for a lost write.
    const error = refusal("aborted", request, why);
    error.cause = this.reason;
    if (!this.#abandoned) {
      void eventLoopTurn().then(() => complete(request, error));
    } else if (++this.#requests <= MOST_REFUSED) complete(request, error);
  }

  /** For a queue's `throttle`: the same for what never reaches the device. */
  readonly throttle = (): Promise<void> | null => {
    if (!this.over && ++this.#unreached < UNREACHED_PER_TURN) return null;
    this.#unreached = 0;
    return this.#wait();
  };

  async #wait(): Promise<void> {
    if (!this.#abandoned) await eventLoopTurn();
    else if (++this.#requests > MOST_REFUSED) {
      await new Promise<never>(() => {});
    }
    if (this.over) throw this.reason;
  }
}

/** Waits for one thing after the other. */
export class CrashWatch {
  readonly #timeoutMs: number;
  readonly #signal: AbortSignal | undefined;
  // What is waited for, or was waited for last.
  #guard: CrashGuard | null = null;
  #timed = false;
  /** Seen at the last look at the clock, and when it was seen first. */
  #seen: CrashGuard | null = null;
  #seenAt = 0;
  #leave: (() => void) | null = null;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #grace: ReturnType<typeof setTimeout> | null = null;
  #turnedAt = performance.now();

  /**
   * Constructs a new instance.
   *
   * @param timeoutMs How long something timed may take, in milliseconds.
   * @param signal Gives up whatever is waited for.
   */
  constructor(timeoutMs: number, signal: AbortSignal | undefined) {
    this.#timeoutMs = timeoutMs;
    this.#signal = signal;
    signal?.addEventListener("abort", this.#onAbort);
  }

  /** Ends: nothing is waited for any more. */
  end(): void {
    this.#signal?.removeEventListener("abort", this.#onAbort);
    for (const timer of [this.#timer, this.#grace]) {
      if (timer !== null) clearTimeout(timer);
    }
  }

  /** The event loop just had a turn. */
  turned(): void {
    this.#turnedAt = performance.now();
  }

  /** Whether it is time for a turn of the event loop; then it is taken. */
  turnIsDue(): boolean {
    const now = performance.now();
    if (now - this.#turnedAt < TURN_MS) return false;
    this.#turnedAt = now;
    return true;
  }

  /**
   * Waits until something ends, or as long as it may take. If its guard says
   * then that its time is over, nothing that it said counts.
   *
   * @param ended What is waited for.
   * @param guard What its disk asks.
   * @param timed Whether its time is limited.
   * @returns What it returns.
   */
  wait(
    ended: PromiseLike<void>,
    guard: CrashGuard,
    timed: boolean,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#guard = guard;
      this.#timed = timed;
      this.#leave = resolve;
      if (this.#timer === null && timed) this.#lookSoon();
      Promise.resolve(ended).then(resolve, reject);
    });
  }

  /**
   * Looks at the clock now and then: most of what is waited for takes
   * microseconds, and is not to pay for a look of its own.
   */
  #lookSoon(): void {
    const delayMs = Math.ceil(this.#timeoutMs / LOOKS_PER_TIMEOUT);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (!this.#timed) return;
      const now = performance.now();
      if (this.#guard !== this.#seen) {
        this.#seen = this.#guard;
        this.#seenAt = now;
      }
      if (now - this.#seenAt < this.#timeoutMs) this.#lookSoon();
      else this.#stop(new RecoveryTimeout(`${this.#timeoutMs} ms`));
    }, delayMs);
  }

  readonly #onAbort = (): void => this.#stop(this.#signal!.reason);

  #stop(reason: unknown): void {
    this.#guard?.end(reason);
  }

  /**
   * The time of something is over: it may end by itself yet.
   *
   * @param guard Whose.
   */
  ended(guard: CrashGuard): void {
    const leave = this.#leave;
    if (guard !== this.#guard || leave === null) return;
    if (this.#grace !== null) clearTimeout(this.#grace);
    const [least, most] = GRACE_MS;
    const graceMs = Math.min(Math.max(this.#timeoutMs, least), most);
    this.#grace = setTimeout(leave, graceMs);
  }
}
