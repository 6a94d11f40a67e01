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

/** A recovery that did not end in its time. */
export class RecoveryTimeout extends Error {
  /** Always `"RecoveryTimeout"`. */
  override readonly name = "RecoveryTimeout";

  /**
   * Constructs a new instance.
   *
   * @param timeoutMs Its time, in milliseconds.
   */
  constructor(timeoutMs: number) {
    super(`The recovery has not ended within ${timeoutMs} ms`);
  }
}

/** Requests until somebody looks at the clock. */
const REQUESTS_PER_LOOK = 32;

/** Milliseconds after which a request waits for a turn. */
const TURN_MS = 20;

/** Milliseconds in which something ends when all its requests fail. */
const GRACE_MS = 100;

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
  readonly #watch: CrashWatch;
  #reason: unknown = undefined;
  #over = false;
  #abandoned = false;
  #refused = 0;

  /**
   * Constructs a new instance.
   *
   * @param watch What it belongs to.
   */
  constructor(watch: CrashWatch) {
    this.#watch = watch;
  }

  /** Whether the time is over: every request is to be refused. */
  get over(): boolean {
    return this.#over;
  }

  /** Why, if it is over. */
  get reason(): unknown {
    return this.#reason;
  }

  /**
   * Counts requests.
   *
   * @returns Whether the next one is to wait for a turn.
   */
  needsTurn(): boolean {
    return this.#watch.needsTurn();
  }

  /**
   * Ends the time.
   *
   * @param reason Why.
   */
  end(reason: unknown): void {
    this.#over = true;
    this.#reason = reason;
  }

  /** Nobody waits for it any more. */
  abandon(): void {
    this.#abandoned = true;
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
    const why = this.#reason instanceof RecoveryTimeout
      ? "the time of the recovery is over"
      : "the exploration was given up";
    // Of a kind that no queue takes for a lost write.
    const error = refusal("aborted", request, why);
    error.cause = this.#reason;
    if (!this.#abandoned) {
      void eventLoopTurn().then(() => complete(request, error));
    } else if (++this.#refused <= MOST_REFUSED) complete(request, error);
  }
}

/** What is running. */
interface Running {
  readonly guard: CrashGuard;
  readonly timed: boolean;
  readonly startedAt: number;
  /** Goes on without it, if it does not end by itself. */
  readonly leave: () => void;
  /** When to do that. */
  grace: ReturnType<typeof setTimeout> | null;
}

/** How something ended: `null` for well. */
export type Ending = { readonly error: unknown } | null;

/** Runs one thing after the other. */
export class CrashWatch {
  readonly #timeoutMs: number;
  readonly #signal: AbortSignal | undefined;
  #running: Running | null = null;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #requests = 0;
  #turnedAt = performance.now();

  /**
   * Constructs a new instance.
   *
   * @param timeoutMs How long something timed may take, in milliseconds.
   * @param signal Gives up whatever is running.
   */
  constructor(timeoutMs: number, signal: AbortSignal | undefined) {
    this.#timeoutMs = timeoutMs;
    this.#signal = signal;
    signal?.addEventListener("abort", this.#onAbort);
  }

  /** Ends: there is nothing left to run. */
  end(): void {
    this.#signal?.removeEventListener("abort", this.#onAbort);
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** The event loop just had a turn. */
  turned(): void {
    this.#turnedAt = performance.now();
  }

  /** Counts requests; whether the next one is to wait for a turn. */
  needsTurn(): boolean {
    if (++this.#requests % REQUESTS_PER_LOOK !== 0) return false;
    const now = performance.now();
    if (now - this.#turnedAt < TURN_MS) return false;
    this.#turnedAt = now;
    return true;
  }

  /**
   * Runs something to its end, or as long as it may take.
   *
   * @param guard What its disk asks.
   * @param timed Whether its time is limited.
   * @param run Runs it.
   * @returns How it ended: with a {@linkcode RecoveryTimeout} if its time was
   * over, whatever it did then.
   * @throws The signal's reason, if it was given up.
   */
  run(
    guard: CrashGuard,
    timed: boolean,
    run: () => Promise<void>,
  ): Promise<Ending> {
    return new Promise((resolve, reject) => {
      const settle = (ending: Ending) => {
        if (this.#running !== running) return;
        this.#running = null;
        if (running.grace !== null) clearTimeout(running.grace);
        if (!guard.over) resolve(ending);
        else if (guard.reason instanceof RecoveryTimeout) {
          resolve({ error: guard.reason });
        } else reject(guard.reason);
      };
      const leave = () => {
        guard.abandon();
        // What was refused before is answered by then.
        void eventLoopTurn().then(() => settle(null));
      };
      const startedAt = performance.now();
      const running: Running = { guard, timed, startedAt, leave, grace: null };
      this.#running = running;
      if (timed && this.#timer === null) this.#look(this.#timeoutMs);
      run().then(() => settle(null), (error) => settle({ error }));
    });
  }

  #look(delayMs: number): void {
    // One timer for all that is run: most of it takes microseconds.
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (this.#running === null || !this.#running.timed) return;
      const tookMs = performance.now() - this.#running.startedAt;
      const leftMs = this.#timeoutMs - tookMs;
      if (leftMs > 0) this.#look(leftMs);
      else this.#stop(this.#running, new RecoveryTimeout(this.#timeoutMs));
    }, delayMs);
  }

  readonly #onAbort = (): void => {
    if (this.#running !== null) {
      this.#stop(this.#running, this.#signal!.reason);
    }
  };

  #stop(running: Running, reason: unknown): void {
    if (running.guard.over) return;
    running.guard.end(reason);
    running.grace = setTimeout(running.leave, GRACE_MS);
  }
}
