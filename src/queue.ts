/**
 * One request queue: it checks, orders, batches, merges, dispatches and
 * completes. It knows nothing of files; below it is a backend, above it a disk.
 *
 * A request moves through these stages:
 *
 * | stage | what it waits for |
 * | --- | --- |
 * | `submit()` | nothing: what the disk cannot do is refused at once |
 * | `#backlog` | a kick (a microtask), and room: at most `size` requests are active |
 * | `#active` | earlier requests that it overlaps, its blockers |
 * | `#runnable` | nothing: the same kick hands it over |
 * | backend | the device; one batch for all that a turn of the event loop submitted |
 * | `#complete` | nothing: it settles the promise, and unblocks what waited for it |
 *
 * The backlog is not examined, so that the cost of ordering and the backend's
 * memory are bounded by `size`.
 *
 * The rules:
 *
 * - A request that overlaps an earlier one, one of them writing, waits for it;
 *   a flush waits for every earlier write and flush. Nothing else waits for
 *   anything.
 * - Ready neighbours of one kind, adjacent on the disk, go out as one vectored
 *   request. If that fails, each is carried out again alone, so that only the
 *   one that really fails reports it; but not if the backend's patience is over.
 * - A failed flush is latched: what an operating system kept of the writes
 *   before it can no longer be known (Rebello et al., "Can Applications
 *   Recover from fsync Failures?", ATC 2020), so from then on writes and
 *   flushes are refused, and no flush is ever repeated. A failed FUA write
 *   holds a flush inside and latches as well.
 *
 * @module
 */

import {
  type Backend,
  checkBackend,
  type Complete,
  type Limits,
  refuse,
  refuseChanged,
  whyAsyncOnly,
  whyKeepsSize,
} from "./backend.ts";
import { DiskError } from "./errors.ts";
import { SECTOR_BYTES, type SectorRange } from "./geometry.ts";
import { plural } from "./plural.ts";
import { keepPlaces, placesFor } from "./queue_places.ts";
import {
  checkQueueOptions,
  DEFAULT_QUEUE_SIZE,
  type QueueCounters,
  type QueueOptions,
} from "./queue_options.ts";
import {
  isIntact,
  MergedRequests,
  operationName,
  Request,
  RequestFlag,
  RequestType,
  Status,
} from "./request.ts";
import {
  abortedError,
  busyError,
  closedError,
  costsDurability,
  latchedError,
  notSubmitted,
  requestError,
} from "./request_error.ts";
import { checkNewSize, resizeError, wouldLose } from "./resize.ts";

/** What the promise of a request settles with. */
export const Outcome = {
  /** Nothing; rejects on failure. */
  Void: 0,
  /** The request's first segment; rejects on failure. */
  Data: 1,
  /** The request's status; never rejects. */
  Status: 2,
} as const;

/** What the promise of a request settles with. */
export type Outcome = typeof Outcome[keyof typeof Outcome];

/** A request's place in the queue. Entries are used again, not made anew. */
class Entry {
  request: Request | null = null;
  outcome: Outcome = Outcome.Void;
  resolve: ((value: unknown) => void) | null = null;
  reject: ((reason: unknown) => void) | null = null;
  /** Position among the active; −1 when it is not one of them. */
  index = -1;
  /** Earlier requests that it waits for. */
  blockers = 0;
  /** Whether the backend has it. */
  dispatched = false;
  /** Whether it must travel alone as a merged one with it failed. */
  solo = false;
  /** Later requests that wait for it: each has it among its blockers. */
  readonly dependents: Entry[] = [];
  /** Flushes that share its answer. */
  readonly followers: Entry[] = [];
  signal: AbortSignal | null = null;
  /** Queries that wait for its completion. */
  queries: (() => void)[] | null = null;
}

/**
 * What one signal aborts: requests, and queries by how they reject. It has
 * one listener, as a signal searches all of its listeners whenever one is added
 * or removed.
 */
interface Watch {
  readonly entries: Set<Entry>;
  readonly queries: Set<(reason: unknown) => void>;
  readonly onAbort: () => void;
}

/** What keeps its place among requests and is none. */
interface Step {
  /** Whether it is a resize: what comes later waits for it. */
  readonly resizes: boolean;
  readonly start: () => void;
}

/** The owner of a request that is over when its call is. */
const SYNCHRONOUS = {};

function statusOf(error: DiskError | null): Status {
  if (error === null) return Status.Ok;
  return error.kind === "unsupported" ? Status.Unsupp : Status.IoErr;
}

const KIND_READ = 0;
const KIND_WRITE = 1;
const KIND_FLUSH = 2;
const KIND_OTHER = 3;

/**
 * Whether a backend has waited long enough (`requestTimeoutMs`). A device that
 * says ETIMEDOUT of a place on it says so by a number.
 */
function isImpatience({ code, errno }: DiskError): boolean {
  return code === "ETIMEDOUT" && errno === undefined;
}

/** Times that a kick is put off to the next microtask while requests arrive. */
const MAX_DEFERRALS = 8;

/**
 * Empties a list. Setting its length is a call into V8's runtime, which was a
 * fifth of the queue's own time.
 */
function empty(list: unknown[]): void {
  while (list.length > 0) list.pop();
}

// A promise's resolvers are caught here, so that no closure is made for them.
let caughtResolve: ((value: unknown) => void) | null = null;
let caughtReject: ((reason: unknown) => void) | null = null;
function catchResolvers(
  resolve: (value: unknown) => void,
  reject: (reason: unknown) => void,
): void {
  caughtResolve = resolve;
  caughtReject = reject;
}

/**
 * Appends a segment; one that goes on where the last one ends joins it. To ask
 * for a view's buffer is a call into V8, so that is done last.
 */
function append(segments: Uint8Array[], segment: Uint8Array): void {
  const last = segments.at(-1);
  if (
    last !== undefined &&
    last.byteOffset + last.length === segment.byteOffset &&
    last.buffer === segment.buffer
  ) {
    segments[segments.length - 1] = new Uint8Array(
      last.buffer,
      last.byteOffset,
      last.length + segment.length,
    );
  } else segments.push(segment);
}

/** One request queue over one backend. */
export class RequestQueue {
  readonly #backend: Backend;
  readonly #path: string | undefined;
  readonly #writeThrough: boolean;
  readonly #onSubmit: ((request: Request) => void) | undefined;
  readonly #throttle: (() => Promise<void> | null) | undefined;
  /** Requests that the backend may have at once. */
  readonly size: number;
  /** What was counted so far. */
  readonly counters: QueueCounters = {
    requests: 0,
    batches: 0,
    merged: 0,
    flushes: 0,
    bytesRead: 0,
    bytesWritten: 0,
    errors: 0,
  };

  /** Submitted and not yet active: a FIFO from `#backlogHead` on. */
  #backlog: (Entry | null)[] = [];
  #backlogHead = 0;

  // The active requests; what the overlap scan reads lies in flat arrays.
  readonly #active: Entry[] = [];
  readonly #starts: Float64Array;
  readonly #ends: Float64Array;
  readonly #kinds: Uint8Array;
  #activeWrites = 0;
  /** Sectors that hold all of the active: what lies outside overlaps none. */
  #lowest = Infinity;
  #highest = 0;
  /** A flush not yet dispatched, with no write after it: others may join. */
  #openFlush: Entry | null = null;

  /** Active, waiting for nothing, not yet with the backend. */
  #runnable: Entry[] = [];
  /** The list that the next dispatch collects into. */
  #spare: Entry[] | null = null;
  readonly #batch: Request[] = [];
  readonly #pool: Entry[] = [];
  readonly #watches = new Map<AbortSignal, Watch>();

  /** The synchronous request that is being carried out, and its answer. */
  readonly #syncBatch: Request[] = [];
  #syncAnswer: DiskError | null | undefined;

  /** Whether a dispatch is on the stack: it must not be entered again. */
  #dispatching = false;
  #kickScheduled = false;
  #deferrals = 0;
  #seen = 0;
  #failure: DiskError | null = null;
  #closing: Promise<void> | null = null;
  /** Queries not answered yet: the backend is not closed under them. */
  readonly #queries = new Set<Promise<unknown>>();
  readonly #drained: (() => void)[] = [];
  /** Since a resize was asked for: what came later, in order, to go on then. */
  #held: (Entry | Step)[] | null = null;
  /** The last resize that was asked for. */
  #resizing: Promise<void> = Promise.resolve();
  #onResized = new Set<(sectors: number) => void>();
  #room: PromiseWithResolvers<void> | null = null;

  /**
   * Constructs a new instance.
   *
   * @param backend What carries out the requests; the queue closes it.
   * @param options How it is set up.
   * @throws {RangeError} If the queue size is no power of two up to 1,024.
   * @throws {TypeError} If the write cache is none that there is, or the backend
   * is none.
   */
  constructor(backend: Backend, options: QueueOptions = {}) {
    checkBackend("make a disk", backend);
    checkQueueOptions(options);
    const size = options.queueSize ?? DEFAULT_QUEUE_SIZE;
    this.#backend = backend;
    this.#path = backend.info.path ?? undefined;
    this.#writeThrough = options.writeCache === "writethrough";
    this.#onSubmit = options.onSubmit;
    this.#throttle = options.throttle;
    this.size = size;
    const { starts, ends, kinds } = placesFor(size);
    this.#starts = starts;
    this.#ends = ends;
    this.#kinds = kinds;
    backend.onResized?.(this.#resized);
  }

  /** What carries out the requests. */
  get backend(): Backend {
    return this.#backend;
  }

  /** Whether every write is made durable when it completes. */
  get writeThrough(): boolean {
    return this.#writeThrough;
  }

  /** The error of the first failed flush; `null` while none failed. */
  get failure(): DiskError | null {
    return this.#failure;
  }

  /** Whether the queue is closed or closing. */
  get closed(): boolean {
    return this.#closing !== null;
  }

  /** Requests that are active, in the backlog, or wait for a resize. */
  get pending(): number {
    return this.#taken + (this.#held?.length ?? 0);
  }

  /** Whether the disk is about to have another size. */
  get resizing(): boolean {
    return this.#held !== null;
  }

  /** Requests that are active or in the backlog. */
  get #taken(): number {
    return this.#active.length + this.#backlog.length - this.#backlogHead;
  }

  /** Whether a request would have to wait in the backlog. */
  get full(): boolean {
    return this.pending >= this.size;
  }

  /**
   * Settles as soon as the queue has room: await it before each request to
   * make requests no faster than the disk takes them.
   */
  get ready(): Promise<void> {
    if (!this.full) return Promise.resolve();
    return (this.#room ??= Promise.withResolvers<void>()).promise;
  }

  /**
   * Takes a request. It goes out with the others of this turn of the event
   * loop, or at {@linkcode kick}.
   *
   * @param request The request.
   * @param outcome What the promise settles with.
   * @param signal Aborts the request. The promise rejects once the request's
   * memory is no longer in use; a write may or may not have happened.
   * @returns A promise for the answer.
   */
  submit(
    request: Request,
    outcome: Outcome,
    signal?: AbortSignal,
  ): Promise<unknown> {
    if (request?.owner !== null) return this.reject(notSubmitted(request));
    const promise = new Promise<unknown>(catchResolvers);
    const resolve = caughtResolve!;
    const reject = caughtReject!;
    if (this.#writeThrough && request.writes) {
      request.flags |= RequestFlag.Fua;
    }
    this.#onSubmit?.(request);
    const entry = this.#pool.pop() ?? new Entry();
    entry.request = request;
    entry.outcome = outcome;
    entry.resolve = resolve;
    entry.reject = reject;
    request.owner = entry;
    request.status = undefined;
    request.error = null;

    if (this.#held !== null && this.#closing === null) {
      this.#hold(entry, signal);
      return promise;
    }
    const refused = this.#closing !== null
      ? closedError(request, this.#path)
      : refuse(
        request,
        this.#backend.geometry,
        this.#backend.abilities,
        this.#path,
      );
    if (refused !== null || signal?.aborted) {
      this.#refuse(entry, refused ?? this.#aborted(request, signal!));
    } else {
      if (signal) this.#watch(entry, signal);
      this.#backlog.push(entry);
      this.#kickSoon();
    }
    return promise;
  }

  /** Keeps a request until the disk has its new size. */
  #hold(entry: Entry, signal: AbortSignal | undefined): void {
    const { request } = entry;
    if (signal?.aborted) {
      return this.#refuse(entry, this.#aborted(request!, signal));
    }
    if (signal) this.#watch(entry, signal);
    this.#held!.push(entry);
  }

  /** Goes on with what has waited, up to the next resize. */
  #letGo(): void {
    const held = this.#held!;
    // What a step submits is not held again, behind what comes later.
    this.#held = null;
    for (let i = 0; i < held.length; i++) {
      const next = held[i]!;
      if (!(next instanceof Entry)) {
        if (next.resizes) {
          this.#held = held.slice(i + 1);
          return next.start();
        }
        next.start();
        continue;
      }
      const { request } = next;
      // Aborted meanwhile.
      if (request === null) {
        this.#recycle(next);
        continue;
      }
      const { geometry, abilities } = this.#backend;
      const refused = refuse(request, geometry, abilities, this.#path);
      if (refused !== null) this.#refuse(next, refused);
      else this.#backlog.push(next);
    }
    this.#kickSoon();
    this.#notifyWaiters();
  }

  /**
   * Carries out a request before it returns, by blocking calls of the backend.
   * It must be alone: what is submitted by {@linkcode submit} and not answered
   * yet has it refused.
   *
   * @param request The request.
   * @returns Why it failed, with kind `unsupported` if the backend has no
   * blocking calls and `busy` if it is not alone; `null` if it did not fail.
   */
  submitSync(request: Request): DiskError | null {
    if (request?.owner !== null) return notSubmitted(request);
    if (this.#writeThrough && request.writes) {
      request.flags |= RequestFlag.Fua;
    }
    this.#onSubmit?.(request);
    request.status = undefined;
    const error = this.#refuseSync(request) ?? this.#carryOutSync(request);
    request.error = error;
    request.status = statusOf(error);
    this.#countAnswer(request, error !== null);
    return error;
  }

  readonly #submitSyncBatch = (): void =>
    this.#backend.submit(this.#syncBatch, this.#completeSync);

  readonly #completeSync: Complete = (request, error) => {
    // One that comes late has nobody to take it.
    if (request === this.#syncBatch[0]) this.#syncAnswer = error;
  };

  /** What keeps a synchronous request from the backend. */
  #refuseSync(request: Request): DiskError | null {
    const backend = this.#backend;
    if (this.#closing !== null) return closedError(request, this.#path);
    // What its size will be is not known yet.
    if (this.resizing) return busyError(request, this.#path);
    const refused = refuse(
      request,
      backend.geometry,
      backend.abilities,
      this.#path,
    );
    if (refused !== null) return refused;
    const why = whyAsyncOnly(backend);
    if (why !== null) {
      return requestError("unsupported", request, why, { path: this.#path });
    }
    // Inside of a dispatch: a layer's callback asks, or one is being answered.
    return this.pending > 0 || this.#dispatching
      ? busyError(request, this.#path)
      : this.#latched(request);
  }

  #carryOutSync(request: Request): DiskError | null {
    request.owner = SYNCHRONOUS;
    this.#dispatching = true;
    this.#syncBatch[0] = request;
    this.#syncAnswer = undefined;
    this.counters.batches++;
    if (request.type === RequestType.Flush) this.counters.flushes++;
    let ran = true;
    try {
      ran = this.#backend.synchronously!(this.#submitSyncBatch);
    } catch (cause) {
      this.#syncAnswer = this.#threw(request, cause);
    } finally {
      this.#syncBatch.pop();
      this.#dispatching = false;
      request.owner = null;
    }
    if (!ran) return busyError(request, this.#path);
    const answer = this.#syncAnswer;
    // A backend must answer; if one does not, it does not count as done.
    const error = answer === undefined
      ? requestError("io", request, "the backend has not answered at once", {
        path: this.#path,
      })
      : this.#checkMemory(request, answer);
    this.#latchOn(request, error);
    return error;
  }

  // Apart from `submit`, whose every call its closure would make dearer.
  #refuse(entry: Entry, error: DiskError): void {
    const answer = () => {
      // One that waited for a resize may have been aborted by now.
      if (entry.request !== null) this.#answer(entry, error);
      this.#recycle(entry);
    };
    const throttled = this.#throttle?.() ?? null;
    if (throttled === null) answer();
    else throttled.then(answer, answer);
  }

  /**
   * Rejects what a caller asks for before it has become a request.
   *
   * @param error Why.
   * @returns A promise that rejects with it.
   */
  reject(error: DiskError): Promise<never> {
    const throttled = this.#throttle?.() ?? null;
    if (throttled === null) return Promise.reject(error);
    const fail = () => Promise.reject(error);
    return throttled.then(fail, fail);
  }

  /** Hands what was submitted to the backend now. */
  kick(): void {
    // From inside of the backend: the call below takes it along.
    if (this.#dispatching) return this.#kickSoon();
    this.#dispatching = true;
    try {
      this.#admit();
      while (this.#runnable.length > 0) this.#dispatch();
    } finally {
      this.#dispatching = false;
    }
  }

  /**
   * Asks the backend for something that is no request (its extents), but in the
   * order of requests: once every write that was submitted before and overlaps
   * the range has completed. What is submitted later may show or not.
   *
   * @param rangeOf Says which sectors it is about, or why it is refused, once the
   * disk has the size that it will see.
   * @param ask Asks about them; the backend stays open until it has its answer.
   * @param signal Gives up waiting.
   * @returns A promise for the answer; it rejects with what `ask` threw, or with
   * the signal's reason.
   */
  query<T>(
    rangeOf: () => SectorRange | DiskError,
    ask: (backend: Backend, range: SectorRange) => T | Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    const answer = this.afterResizes(() => {
      const range = rangeOf();
      return range instanceof DiskError
        ? this.reject(range)
        : this.#query(range, ask, signal);
    });
    if (signal === undefined) return answer;
    return new Promise((resolve, reject) => {
      const watch = this.#watchOf(signal);
      watch.queries.add(reject);
      answer.then(resolve, reject).finally(() => {
        watch.queries.delete(reject);
        this.#endWatch(signal, watch);
      });
    });
  }

  /**
   * Begins something where a request that was submitted now would be: after every
   * resize that was asked for before, and at once if there is none.
   *
   * @param begin Begins it. The disk's size is the one that it will see.
   * @returns What that returns.
   */
  afterResizes<T>(begin: () => Promise<T>): Promise<T> {
    const held = this.#held;
    if (held === null) return begin();
    return new Promise((resolve) => {
      held.push({ resizes: false, start: () => resolve(Promise.try(begin)) });
    });
  }

  #query<T>(
    range: SectorRange,
    ask: (backend: Backend, range: SectorRange) => T | Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    const { sector, count } = range;
    const before = Promise.withResolvers<void>();
    let left = 1;
    const completed = () => {
      if (--left === 0) before.resolve();
    };
    const wait = (entry: Entry | null) => {
      const request = entry?.request;
      if (
        !request?.writes || request.sector >= sector + count ||
        sector >= request.sector + request.count
      ) return;
      left++;
      (entry!.queries ??= []).push(completed);
    };
    for (const entry of this.#active) wait(entry);
    for (let i = this.#backlogHead; i < this.#backlog.length; i++) {
      wait(this.#backlog[i]!);
    }
    completed();
    const run = () => {
      signal?.throwIfAborted();
      const { sectors } = this.#backend.geometry;
      if (count > sectors || sector > sectors - count) {
        throw new DiskError(
          "range",
          `Cannot map ${
            plural(count, "sector")
          } at sector ${sector} as the disk has ${plural(sectors, "sector")}`,
          { operation: "map", path: this.#path, sector, count },
        );
      }
      return ask(this.#backend, range);
    };
    const answer = before.promise.then(() => {
      const throttled = this.#throttle?.() ?? null;
      return throttled === null ? run() : throttled.then(run);
    });
    this.#queries.add(answer);
    const forget = () => {
      this.#queries.delete(answer);
    };
    answer.then(forget, forget);
    return answer;
  }

  /**
   * Changes the disk's size, in the order of requests: after all that were
   * submitted before, and before all that are submitted later, which are checked
   * against the new size.
   *
   * @param sectors Sectors that the disk has afterwards.
   * @param force Whether it may become smaller.
   * @returns When it is done.
   * @throws {DiskError} If it cannot be; the disk is as it was then.
   * @throws {RangeError} If no disk of these blocks has so many sectors.
   */
  async resize(sectors: number, force: boolean): Promise<void> {
    checkNewSize(sectors, this.#backend.geometry);
    if (this.#closing !== null) {
      throw resizeError("it is closed", this.#path ?? null, "closed");
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const start = () => {
      this.#resizeNow(sectors, force).then(resolve, reject).finally(() =>
        this.#letGo()
      );
    };
    this.#resizing = promise.catch(() => {});
    if (this.#held !== null) this.#held.push({ resizes: true, start });
    else {
      this.#held = [];
      start();
    }
    await promise;
  }

  /**
   * Calls a function whenever the disk has got another size.
   *
   * @param listener The function; it must not throw.
   * @returns What ends that.
   */
  onResized(listener: (sectors: number) => void): () => void {
    // One of its own, so that nobody else's ends with it.
    const own = (sectors: number) => listener(sectors);
    this.#onResized.add(own);
    return () => this.#onResized.delete(own);
  }

  async #resizeNow(sectors: number, force: boolean): Promise<void> {
    await this.#untilTakenAreDone();
    const { geometry, abilities } = this.#backend;
    const path = this.#path ?? null;
    if (this.#failure !== null) {
      const { operation = "flush", message } = this.#failure;
      throw resizeError(
        `an earlier ${operation} failed and what is durable is no longer known: ${message}`,
        path,
        "latched",
      );
    }
    if (abilities.readOnly) {
      throw resizeError("it is open for reading only", path, "read-only");
    }
    if (sectors === geometry.sectors) return;
    // First, or it would be told to do by force what it never does.
    const keepsSize = whyKeepsSize(this.#backend);
    if (keepsSize !== null) throw resizeError(keepsSize, path);
    if (sectors < geometry.sectors && !force) {
      throw wouldLose(sectors, geometry, path);
    }
    await this.#backend.resize!(sectors);
    this.#resized(sectors);
  }

  readonly #resized = (sectors: number): void => {
    for (const listener of [...this.#onResized]) listener(sectors);
  };

  /** Waits for every request and query that was taken. */
  async #untilTakenAreDone(): Promise<void> {
    if (this.#taken > 0) {
      this.#kickSoon();
      await new Promise<void>((resolve) => this.#drained.push(resolve));
    }
    while (this.#queries.size > 0) await Promise.allSettled(this.#queries);
  }

  /**
   * Refuses new requests, waits for those that were taken, and closes the
   * backend. Does not flush. Idempotent.
   *
   * @returns When it is done.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  async #close(): Promise<void> {
    this.#backend.closing?.();
    // Its last one lets go what waits for it.
    while (this.#held !== null) await this.#resizing;
    await this.#untilTakenAreDone();
    // Nothing is active, and nothing will be.
    keepPlaces(this.size, {
      starts: this.#starts,
      ends: this.#ends,
      kinds: this.#kinds,
    });
    await this.#backend.close();
  }

  #kickSoon(): void {
    if (this.#kickScheduled) return;
    this.#kickScheduled = true;
    this.#deferrals = 0;
    this.#seen = 0;
    queueMicrotask(this.#tick);
  }

  /**
   * Kicks once no request has arrived since the last microtask: when a batch
   * of answers wakes many callers, their next requests come one microtask
   * after another, and belong together.
   */
  readonly #tick = (): void => {
    const waiting = this.#backlog.length;
    if (waiting > this.#seen && this.#deferrals < MAX_DEFERRALS) {
      this.#seen = waiting;
      this.#deferrals++;
      queueMicrotask(this.#tick);
      return;
    }
    this.#kickScheduled = false;
    this.kick();
  };

  /** Makes requests of the backlog active, as far as there is room. */
  #admit(): void {
    while (
      this.#backlogHead < this.#backlog.length &&
      this.#active.length < this.size
    ) {
      const entry = this.#backlog[this.#backlogHead]!;
      this.#backlog[this.#backlogHead++] = null;
      if (entry.request === null) this.#recycle(entry);
      else this.#activate(entry);
    }
    if (this.#backlogHead === this.#backlog.length) {
      empty(this.#backlog);
      this.#backlogHead = 0;
    } else if (this.#backlogHead >= 4096) {
      this.#backlog = this.#backlog.slice(this.#backlogHead);
      this.#backlogHead = 0;
    }
    // What was aborted in the backlog left it just now, and flushes that joined
    // another one take no place.
    this.#notifyWaiters();
  }

  #activate(entry: Entry): void {
    const request = entry.request!;
    const kind = request.type === RequestType.In
      ? KIND_READ
      : request.writes
      ? KIND_WRITE
      : request.type === RequestType.Flush
      ? KIND_FLUSH
      : KIND_OTHER;
    if (kind === KIND_FLUSH) {
      if (this.#openFlush !== null) {
        this.#openFlush.followers.push(entry);
        return;
      }
      // One that can be withdrawn cannot answer for others.
      if (entry.signal === null) this.#openFlush = entry;
    } else if (kind === KIND_WRITE) {
      this.#openFlush = null;
    }
    const start = request.sector;
    const end = start + request.count;
    const active = this.#active;
    const index = active.length;
    if (index === 0) {
      this.#lowest = Infinity;
      this.#highest = 0;
    }
    const mayOverlap = start < this.#highest && this.#lowest < end;
    if (
      kind === KIND_FLUSH ||
      mayOverlap &&
        (kind === KIND_WRITE || kind === KIND_READ && this.#activeWrites > 0)
    ) {
      for (let i = 0; i < index; i++) {
        const other = this.#kinds[i]!;
        // A flush waits for another one as well: of two at once, the system
        // reports a failed write-back to one, and success to the other.
        const waits = kind === KIND_FLUSH
          ? other === KIND_WRITE || other === KIND_FLUSH
          : (kind === KIND_WRITE
            ? other <= KIND_WRITE
            : other === KIND_WRITE) &&
            start < this.#ends[i]! && this.#starts[i]! < end;
        if (waits) {
          active[i]!.dependents.push(entry);
          entry.blockers++;
        }
      }
    }
    if (start < this.#lowest) this.#lowest = start;
    if (end > this.#highest) this.#highest = end;
    active.push(entry);
    entry.index = index;
    this.#starts[index] = start;
    this.#ends[index] = end;
    this.#kinds[index] = kind;
    if (kind === KIND_WRITE) this.#activeWrites++;
    if (entry.blockers === 0) this.#runnable.push(entry);
  }

  /** Hands what is ready to the backend, neighbours merged. */
  #dispatch(): void {
    const ready = this.#runnable;
    this.#runnable = this.#spare ?? [];
    this.#spare = null;
    const batch = this.#batch;
    // Asked once: through layers it is a chain of calls.
    const { limits } = this.#backend;
    for (let i = 0; i < ready.length;) {
      const entry = ready[i]!;
      const request = entry.request;
      const refused = request === null ? null : this.#latched(request);
      if (request === null || refused !== null) {
        if (request === null) this.#release(entry);
        else this.#finish(entry, refused);
        i++;
        continue;
      }
      if (entry === this.#openFlush) this.#openFlush = null;
      if (request.type === RequestType.Flush) this.counters.flushes++;
      const next = this.#groupEnd(ready, i, limits);
      if (next === i + 1) {
        entry.dispatched = true;
        batch.push(request);
      } else {
        batch.push(this.#merge(ready.slice(i, next)));
      }
      i = next;
    }
    empty(ready);
    this.#spare = ready;
    if (batch.length === 0) return;
    this.counters.batches++;
    try {
      this.#backend.submit(batch, this.#complete);
    } catch (cause) {
      // A backend must not throw; if one does, no promise stays pending.
      for (const request of batch) {
        if (request.owner === null) continue;
        this.#complete(request, this.#threw(request, cause));
      }
    }
    empty(batch);
  }

  /** The end of the run of entries from `from` that can go as one request. */
  #groupEnd(
    ready: Entry[],
    from: number,
    { maxSegments, maxBytes }: Limits,
  ): number {
    const first = ready[from]!;
    const { type, flags } = first.request!;
    if (
      (type !== RequestType.In && type !== RequestType.Out) || first.solo ||
      first.signal !== null
    ) return from + 1;
    let segments = first.request!.segmentCount;
    let end = first.request!.sector + first.request!.count;
    const limit = first.request!.sector + maxBytes / SECTOR_BYTES;
    let next = from + 1;
    for (; next < ready.length; next++) {
      const entry = ready[next]!;
      const request = entry.request;
      if (request === null) break;
      segments += request.segmentCount;
      if (
        request.type !== type || request.flags !== flags || entry.solo ||
        entry.signal !== null || request.sector !== end ||
        segments > maxSegments || end + request.count > limit ||
        !isIntact(request)
      ) break;
      end += request.count;
    }
    // One that has changed is the backend's to refuse, alone.
    return isIntact(first.request!) ? next : from + 1;
  }

  #merge(parts: Entry[]): Request {
    const first = parts[0]!.request!;
    const segments: Uint8Array[] = [];
    let count = 0;
    for (const part of parts) {
      const request = part.request!;
      part.dispatched = true;
      for (let i = 0; i < request.segmentCount; i++) {
        append(segments, request.segment(i));
      }
      count += request.count;
    }
    this.counters.merged += parts.length;
    const merged = new Request(
      first.type,
      first.sector,
      count,
      first.flags,
      segments[0]!,
      segments.slice(1),
    );
    merged.owner = new MergedRequests(parts);
    return merged;
  }

  readonly #complete: Complete = (request, error) => {
    const owner = request.owner;
    if (owner instanceof Entry) {
      this.#finish(owner, error);
    } else if (owner instanceof MergedRequests) {
      request.owner = null;
      if (error === null) {
        for (const part of owner.parts as Entry[]) this.#finish(part, null);
      } else if (request.fua || isImpatience(error)) {
        // Durability of all of them is unknown now, and no sync is repeated; or
        // their time is over, and none of them gets as much once more.
        for (const part of owner.parts as Entry[]) {
          this.#finish(part, this.#partOf(part.request!, error));
        }
      } else {
        for (const part of owner.parts as Entry[]) {
          part.solo = true;
          part.dispatched = false;
          this.#runnable.push(part);
        }
        this.#kickSoon();
      }
    } else {
      throw new Error(
        `Cannot answer a ${
          operationName(request.type)
        } request that is not in flight`,
      );
    }
  };

  /** Completes a request that is active. */
  #finish(entry: Entry, error: DiskError | null): void {
    const request = entry.request!;
    error = this.#checkMemory(request, error);
    this.#latchOn(request, error);
    for (const follower of entry.followers) {
      if (follower.request !== null) this.#answer(follower, error);
      this.#recycle(follower);
    }
    this.#answer(entry, error);
    this.#release(entry);
  }

  /** What was read into memory that has gone meanwhile has gone with it. */
  #checkMemory(request: Request, error: DiskError | null): DiskError | null {
    return error === null && request.type === RequestType.In &&
        !isIntact(request)
      ? refuseChanged(request, this.#path)
      : error;
  }

  /** Remembers the first failure that may have cost durability. */
  #latchOn(request: Request, error: DiskError | null): void {
    if (
      error !== null && this.#failure === null && costsDurability(error) &&
      (request.type === RequestType.Flush || (request.writes && request.fua))
    ) this.#failure = error;
  }

  #threw(request: Request, cause: unknown): DiskError {
    const reason = `the backend threw: ${cause}`;
    return requestError("io", request, reason, { path: this.#path, cause });
  }

  /** Takes a completed request out of the active ones, and unblocks others. */
  #release(entry: Entry): void {
    if (entry === this.#openFlush) this.#openFlush = null;
    const index = entry.index;
    if (this.#kinds[index] === KIND_WRITE) this.#activeWrites--;
    const last = this.#active.pop()!;
    if (last !== entry) {
      const from = this.#active.length;
      this.#active[index] = last;
      this.#starts[index] = this.#starts[from]!;
      this.#ends[index] = this.#ends[from]!;
      this.#kinds[index] = this.#kinds[from]!;
      last.index = index;
    }
    for (const dependent of entry.dependents) {
      if (--dependent.blockers === 0) this.#runnable.push(dependent);
    }
    this.#recycle(entry);
    if (this.#runnable.length > 0 || this.#backlogHead < this.#backlog.length) {
      this.#kickSoon();
    }
    this.#notifyWaiters();
  }

  /** Resolves `ready` when there is room, and the drain when nothing is left. */
  #notifyWaiters(): void {
    if (this.#room !== null && !this.full) {
      this.#room.resolve();
      this.#room = null;
    }
    if (this.#drained.length > 0 && this.#taken === 0) {
      for (const drained of this.#drained.splice(0)) drained();
    }
  }

  /** Settles the promise of a request; its entry stays where it is. */
  #answer(entry: Entry, error: DiskError | null): void {
    const { signal } = entry;
    if (signal !== null) {
      this.#unwatch(entry, signal);
      if (signal.aborted) return this.#answerAborted(entry, signal);
    }
    if (error === null) return this.#settle(entry, Status.Ok, null, null);
    const status = statusOf(error);
    const reason = error.kind === "aborted" ? error.cause : error;
    this.#settle(entry, status, error, reason);
  }

  /**
   * Answers a request that its signal aborted. One signal may abort thousands,
   * and their promises reject with its reason: the error is made only if
   * somebody reads it from the request.
   */
  #answerAborted(entry: Entry, signal: AbortSignal): void {
    const request = entry.request!;
    const error = () => this.#aborted(request, signal);
    this.#settle(entry, Status.IoErr, error, signal.reason);
  }

  /** Tells how a request ended; its promise rejects with the reason, if at all. */
  #settle(
    entry: Entry,
    status: Status,
    error: DiskError | (() => DiskError) | null,
    reason: unknown,
  ): void {
    const request = entry.request!;
    const { outcome } = entry;
    const resolve = entry.resolve!;
    const reject = entry.reject!;
    entry.request = null;
    if (entry.queries !== null) {
      for (const completed of entry.queries) completed();
      entry.queries = null;
    }
    request.owner = null;
    request.error = error;
    request.status = status;
    this.#countAnswer(request, error !== null);
    if (outcome === Outcome.Status) resolve(status);
    else if (error !== null) reject(reason);
    else resolve(outcome === Outcome.Data ? request.data : undefined);
  }

  #countAnswer(request: Request, failed: boolean): void {
    const counters = this.counters;
    counters.requests++;
    if (failed) {
      counters.errors++;
    } else if (request.type === RequestType.In) {
      counters.bytesRead += request.count * SECTOR_BYTES;
    } else if (request.type === RequestType.Out) {
      counters.bytesWritten += request.count * SECTOR_BYTES;
    }
  }

  #recycle(entry: Entry): void {
    entry.request = null;
    entry.resolve = null;
    entry.reject = null;
    entry.index = -1;
    entry.blockers = 0;
    entry.dispatched = false;
    entry.solo = false;
    empty(entry.dependents);
    empty(entry.followers);
    entry.signal = null;
    if (this.#pool.length < this.size) this.#pool.push(entry);
  }

  /**
   * Watches for the abort of a request. One that the backend does not have yet
   * completes at once and leaves an empty entry that is dropped when its turn
   * comes; the others complete when the backend is done with them.
   */
  #watch(entry: Entry, signal: AbortSignal): void {
    entry.signal = signal;
    this.#watchOf(signal).entries.add(entry);
  }

  #watchOf(signal: AbortSignal): Watch {
    let watch = this.#watches.get(signal);
    if (watch === undefined) {
      const entries: Watch["entries"] = new Set();
      const queries: Watch["queries"] = new Set();
      const onAbort = () => {
        for (const each of entries) this.#abort(each);
        for (const giveUp of queries) giveUp(signal.reason);
      };
      watch = { entries, queries, onAbort };
      this.#watches.set(signal, watch);
      signal.addEventListener("abort", onAbort, { once: true });
    }
    return watch;
  }

  #abort(entry: Entry): void {
    const request = entry.request!;
    if (entry.dispatched) this.#backend.cancel?.(request);
    else this.#answer(entry, null);
  }

  #unwatch(entry: Entry, signal: AbortSignal): void {
    const watch = this.#watches.get(signal)!;
    watch.entries.delete(entry);
    this.#endWatch(signal, watch);
  }

  #endWatch(signal: AbortSignal, watch: Watch): void {
    if (watch.entries.size > 0 || watch.queries.size > 0) return;
    this.#watches.delete(signal);
    signal.removeEventListener("abort", watch.onAbort);
  }

  /** Why a request must not go out after a failed flush, if it must not. */
  #latched(request: Request): DiskError | null {
    const cause = this.#failure;
    if (
      cause === null ||
      !request.writes && request.type !== RequestType.Flush
    ) return null;
    return latchedError(request, cause, this.#path);
  }

  /** The error of a merged request, as that of one of its parts. */
  #partOf(request: Request, error: DiskError): DiskError {
    const { kind, code, errno, message } = error;
    return requestError(
      kind,
      request,
      `it went out merged with its neighbours, and that failed: ${message}`,
      { path: this.#path, code, errno, cause: error },
    );
  }

  #aborted(request: Request, signal: AbortSignal): DiskError {
    return abortedError(request, { path: this.#path, cause: signal.reason });
  }
}
