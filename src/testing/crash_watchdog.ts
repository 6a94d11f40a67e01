/**
 * The watchdog of an exploration: ends a workload when its signal fires, and a
 * recovery when it times out as well.
 *
 * A disk in memory completes requests in microtasks, so that a loop over it
 * starves the event loop, and no timer and no signal would fire. So now and then
 * a request waits for a turn of the event loop, and so does what never becomes a
 * request: refusals, and questions after extents. After the timeout all of them
 * fail, which ends what awaits them. What goes on in spite of that is abandoned:
 * it gets so many more failures, and then promises that never settle.
 *
 * {@linkcode CrashWatchdog} has the clock, one for an exploration;
 * {@linkcode CrashGuard} is what the disk of one run asks before it completes
 * a request.
 *
 * @module
 */

// Those of Node, as tests put their own in place of the global ones.
import { clearTimeout, setTimeout } from "node:timers";
import type { Complete } from "../backend.ts";
import type { Request } from "../request.ts";
import { requestError } from "../request_error.ts";
import { answerRequest } from "../throw_later.ts";

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

/** Requests from one check of the clock to the next. */
const REQUESTS_PER_CHECK = 32;

/**
 * Answers in a row that needed no device request (refusals, extents), until one
 * waits for a turn. Counted, not timed: what a workload does must not depend on
 * the clock, or its tokens were worth nothing.
 */
const UNREACHED_PER_TURN = 256;

/** Checks of the clock within the timeout of a recovery. */
const CHECKS_PER_TIMEOUT = 8;

/** Milliseconds after which a request waits for a turn. */
const TURN_MS = 20;

/**
 * Milliseconds in which something ends, and cleans up, when all its requests
 * fail: as long again as a recovery may take, from the first to the second.
 */
const GRACE_MS = [100, 5000] as const;

/** Failures that something gets after it is abandoned. */
const MOST_REFUSED = 1000;

/**
 * Yields to the event loop: timers and signals fire.
 *
 * @returns When it had a turn.
 */
export function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, 0);
  });
}

/** What the disk of one workload or recovery asks before it completes a request. */
export class CrashGuard {
  /** Whether anything was read. */
  read = false;
  /** Whether the time is over: every request is to be refused. */
  over = false;
  /** Why, if it is over. */
  reason: unknown = undefined;
  readonly #watchdog: CrashWatchdog;
  #requests = 0;
  /** Answers in a row that needed no device request. */
  #unreached = 0;
  #abandoned = false;

  /**
   * Constructs a new instance.
   *
   * @param watchdog What has the clock.
   */
  constructor(watchdog: CrashWatchdog) {
    this.#watchdog = watchdog;
  }

  /**
   * Counts requests.
   *
   * @returns Whether the next one is to wait for a turn.
   */
  needsTurn(): boolean {
    this.#unreached = 0;
    return ++this.#requests % REQUESTS_PER_CHECK === 0 &&
      this.#watchdog.turnIsDue();
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
    this.#watchdog.ended(this);
  }

  /**
   * Abandons it: it is not waited for any longer.
   *
   * @returns When all that was refused before has completed.
   */
  abandon(): Promise<void> {
    this.#abandoned = true;
    return eventLoopTurn();
  }

  /**
   * Fails a request, in a turn of its own, so that retries without an end do not
   * starve the event loop. Once abandoned, it fails at once, and after so many
   * never completes: that ends a loop which no error ends.
   *
   * @param request The request.
   * @param complete Where the answer goes.
   */
  refuse(request: Request, complete: Complete): void {
    const why = this.reason instanceof RecoveryTimeout
      ? "the time of the recovery is over"
      : "the exploration was given up";
    // Of a kind that no queue takes for a lost write.
    const error = requestError("aborted", request, why, {
      cause: this.reason,
    });
    if (!this.#abandoned) {
      void eventLoopTurn().then(() => answerRequest(request, error, complete));
    } else if (++this.#requests <= MOST_REFUSED) {
      answerRequest(request, error, complete);
    }
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

/** The clock and the signal of an exploration, for one run after the other. */
export class CrashWatchdog {
  readonly #timeoutMs: number;
  readonly #signal: AbortSignal | undefined;
  // The run that is waited for, or the last one.
  #guard: CrashGuard | null = null;
  #timed = false;
  /** The run at the last check of the clock, and when it was seen first. */
  #seen: CrashGuard | null = null;
  #seenAt = 0;
  #abandon: (() => void) | null = null;
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

  /** Notes that the event loop just had a turn. */
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
   * Waits for a run, or until it is abandoned. If its guard is over then, its
   * outcome does not count.
   *
   * @param ended Settles with the run.
   * @param guard What its disk asks.
   * @param timed Whether it may time out.
   * @returns When it ended or was abandoned.
   */
  wait(
    ended: PromiseLike<void>,
    guard: CrashGuard,
    timed: boolean,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#guard = guard;
      this.#timed = timed;
      this.#abandon = resolve;
      if (this.#timer === null && timed) this.#checkLater();
      Promise.resolve(ended).then(resolve, reject);
    });
  }

  /**
   * Checks the clock now and then: most runs take microseconds, and are not to
   * pay for a timer of their own.
   */
  #checkLater(): void {
    const delayMs = Math.ceil(this.#timeoutMs / CHECKS_PER_TIMEOUT);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (!this.#timed) return;
      const now = performance.now();
      if (this.#guard !== this.#seen) {
        this.#seen = this.#guard;
        this.#seenAt = now;
      }
      if (now - this.#seenAt < this.#timeoutMs) this.#checkLater();
      else this.#stop(new RecoveryTimeout(`${this.#timeoutMs} ms`));
    }, delayMs);
  }

  readonly #onAbort = (): void => this.#stop(this.#signal!.reason);

  #stop(reason: unknown): void {
    this.#guard?.end(reason);
  }

  /**
   * Starts the time of grace after a timeout, in which a run may still end by
   * itself.
   *
   * @param guard Whose time is over.
   */
  ended(guard: CrashGuard): void {
    const abandon = this.#abandon;
    if (guard !== this.#guard || abandon === null) return;
    if (this.#grace !== null) clearTimeout(this.#grace);
    const [least, most] = GRACE_MS;
    const graceMs = Math.min(Math.max(this.#timeoutMs, least), most);
    this.#grace = setTimeout(abandon, graceMs);
  }
}
