/**
 * When to poll, when to sleep, and how much to deliver at once: times in,
 * decisions out. It knows no kernel, no event loop and no clock.
 *
 * To put the thread to sleep and to wake it takes some 20 µs, a third of what a
 * fast disk needs for a sector. So completions that are expected within twice
 * {@linkcode WaitPolicy.pollUs} are polled for first, for once that at most; what
 * is expected is what the quickest kind of operation in flight took the last time.
 * Two things speak against it: a poll that missed, from which on the policy backs
 * off for that kind, and a durable write in flight, as the kernel completes such a
 * write on the processor that it came from, in a thread that would have to wait
 * for us.
 *
 * With nothing in flight the same holds for the next request: after a delivery
 * it is polled for ({@linkcode WaitPolicy.takeIdlePoll}), with a back-off of its
 * own.
 *
 * A turn that waited and brought nothing is a miss, unless the loop was wanted.
 * After 4 misses in a row, with no new request between, the event loop may sleep
 * for the device ({@linkcode WaitPolicy.isSlow}); after 64, a thread may wait for
 * it ({@linkcode WaitPolicy.isVerySlow}), and after 1 where nothing else can.
 *
 * @module
 */

/**
 * Misses, one after the other, before the event loop is left to sleep. After
 * one, a read that takes 1.6 ms needs 0.8 of the processor time, but a write and
 * a flush of a fast disk, one by one, are made 0.95 times as often.
 */
const SLOW_MISSES = 4;

/**
 * The same before a thread is taken for the wait: a hand-off to it costs some
 * 50 µs. After 4, a read that takes 1.5 ms needs 1.45 times the processor time;
 * 16 and 512 do as 64 does.
 */
const VERY_SLOW_MISSES = 64;

/** Operations in flight up to which their caller most likely waits for them. */
const FEW = 2;

/**
 * Polling pays up to so many times the time that it may take, as what was slept
 * for seems to take longer than it does.
 */
const ASLEEP_FACTOR = 2;

/** The most polls that are left out after a miss. */
const MOST_LEFT_OUT = 64;

/**
 * The most completions that are delivered at once. Random writes of 4 KiB, 32 at
 * a time, on a virtio disk, as a ratio to 16: one by one 0.6, 8 at most 0.88, 64
 * at most 1.0; reads the same within 5 %.
 */
const MOST_DELIVERED = 16;

/**
 * Leaves attempts out after misses: none after the first, which was an
 * exception most likely, then 1, 3, 7, … after each further one.
 */
export class BackOff {
  #left = 0;
  #next = 1;

  /** Takes note of an occasion for an attempt. */
  pass(): void {
    if (this.#left > 0) this.#left--;
  }

  /** Whether the attempt is to be made. */
  get allows(): boolean {
    return this.#left === 0;
  }

  /** Takes note of what became of an attempt. */
  attempted(hit: boolean): void {
    if (hit) this.#next = 1;
    else {
      this.#left = this.#next;
      this.#next = Math.min(this.#next * 2, MOST_LEFT_OUT);
    }
  }
}

/**
 * Operations that take about as long as each other. With one expectation for
 * all, a write and a flush one by one on a virtio disk each wait as the other
 * should, and are made 0.84 to 0.92 times as often.
 */
export const OperationKind = {
  Read: 0,
  Write: 1,
  DurableWrite: 2,
  Other: 3,
} as const;

/** Operations that take about as long as each other. */
export type OperationKind = typeof OperationKind[keyof typeof OperationKind];

/** What is known of one kind. */
class Expectation {
  inFlight = 0;
  /** From a submission to the first completion, the last time. */
  latestUs = 0;
  readonly poll = new BackOff();
}

/** Decides how one engine waits. All times are in µs. */
export class WaitPolicy {
  /** The longest poll; 0 for none. */
  readonly pollUs: number;
  readonly #verySlowMisses: number;
  readonly #kinds = Object.values(OperationKind).map(() => new Expectation());
  readonly #idlePoll = new BackOff();
  #misses = 0;
  /** Completions to deliver next. */
  #burst = 1;

  /**
   * Constructs a new instance.
   *
   * @param pollUs The longest poll; 0 for none.
   * @param verySlowMisses Misses in a row before a thread may wait.
   */
  constructor(pollUs: number, verySlowMisses: number = VERY_SLOW_MISSES) {
    this.pollUs = pollUs;
    this.#verySlowMisses = verySlowMisses;
  }

  /** An operation was taken. */
  taken(kind: OperationKind): void {
    const expectation = this.#kinds[kind]!;
    expectation.poll.pass();
    expectation.inFlight++;
  }

  /** An operation is over. */
  over(kind: OperationKind): void {
    this.#kinds[kind]!.inFlight--;
  }

  /** What is known of the quickest kind in flight. */
  get #first(): Expectation {
    let first: Expectation | null = null;
    for (const kind of this.#kinds) {
      if (kind.inFlight === 0) continue;
      if (first === null || kind.latestUs < first.latestUs) first = kind;
    }
    return first ?? this.#kinds[OperationKind.Read]!;
  }

  /** A caller asks for something. */
  asked(): void {
    this.#misses = 0;
  }

  /** Whether its caller waits here for what is in flight. */
  isFew(inFlight: number): boolean {
    return inFlight <= FEW;
  }

  /** Whether what is in flight should be over within this time. */
  isExpected(leftUs: number): boolean {
    return leftUs >= Math.max(1, this.#first.latestUs);
  }

  /** Whether what is in flight is polled for. */
  get polls(): boolean {
    if (this.#kinds[OperationKind.DurableWrite]!.inFlight > 0) return false;
    const { poll, latestUs } = this.#first;
    return this.pollUs > 0 && poll.allows &&
      latestUs <= this.pollUs * ASLEEP_FACTOR;
  }

  /** What is in flight was polled for. */
  polled(hit: boolean): void {
    this.#first.poll.attempted(hit);
  }

  /** Whether the next request is to be polled for, with nothing in flight now. */
  takeIdlePoll(): boolean {
    this.#idlePoll.pass();
    return this.pollUs > 0 && this.#idlePoll.allows;
  }

  /** The next request was polled for. */
  idlePolled(hit: boolean): void {
    this.#idlePoll.attempted(hit);
  }

  /**
   * A wait has ended; what it brought is in flight until it is delivered.
   *
   * @param found Completions that it brought.
   * @param tookUs The time since the last submission.
   */
  waited(found: number, tookUs: number): void {
    this.#burst = 1;
    // Without a completion, it is a lower bound.
    const first = this.#first;
    if (found > 0 || tookUs > first.latestUs) first.latestUs = tookUs;
  }

  /**
   * Completions were found without a wait, and are in flight until they are
   * delivered.
   *
   * @param inFlight Operations in flight.
   * @param tookUs The time since the last submission: an upper bound.
   */
  foundAtOnce(inFlight: number, tookUs: number): void {
    if (!this.isFew(inFlight)) return;
    const first = this.#first;
    first.latestUs = Math.min(first.latestUs, tookUs);
  }

  /** A turn brought completions, or was a miss. */
  turned(found: number): void {
    if (found > 0) this.#misses = 0;
    else this.#misses++;
  }

  /** Whether the device is slow: the event loop may sleep for it. */
  get isSlow(): boolean {
    return this.#misses >= SLOW_MISSES;
  }

  /** Whether it is so slow that a hand-off to a thread does not matter. */
  get isVerySlow(): boolean {
    return this.#misses >= this.#verySlowMisses;
  }

  /**
   * How many completions to deliver before what their callers ask for next is
   * submitted: one after a wait, so that the device has something to do
   * meanwhile, and twice as many each time until the next wait.
   */
  burst(): number {
    const burst = this.#burst;
    this.#burst = Math.min(burst * 2, MOST_DELIVERED);
    return burst;
  }
}
