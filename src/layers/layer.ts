/**
 * What every layer does: it is a backend over a backend (its base), checks each
 * request once before it passes it on, counts what is in flight, and drains
 * before it closes its base.
 *
 * A layer passes the caller's own request on wherever it can, and a batch as a
 * batch; it changes nothing of a request. Requests of its own complete to the
 * callback that it submits them with.
 *
 * One rule of ownership: a layer owns its base, and closes it when it is closed
 * itself, unless `ownsBase: false` says that it is shared. A factory that throws
 * has taken nothing.
 *
 * @module
 */

import {
  type Abilities,
  type Backend,
  type BackendCounters,
  checkBackend,
  type Complete,
  type Extent,
  type Limits,
  refuse,
  whyAsyncOnly,
  whyKeepsSize,
} from "../backend.ts";
import type { DiskError } from "../errors.ts";
import type { Geometry } from "../geometry.ts";
import { InFlight } from "../in_flight.ts";
import type { BackendInfo } from "../info.ts";
import type { Request } from "../request.ts";
import { closedError } from "../request_error.ts";
import { keepOnThread } from "../one_thread.ts";
import { resizeError } from "../resize.ts";
import { answerRequest } from "../throw_later.ts";

/** Options of every layer. */
export interface LayerOptions {
  /**
   * Whether closing the layer closes what it lies over. Say no where that is
   * shared, and close it where it was made.
   *
   * @default {true}
   */
  ownsBase?: boolean | undefined;
}

/** A backend over a backend. */
export abstract class Layer implements Backend {
  /** What it lies over. */
  readonly backend: Backend;
  readonly #name: string;
  /** Whether closing the layer closes what it lies over. */
  readonly ownsBase: boolean;
  readonly #inFlight = new InFlight();
  #blocking = false;

  /**
   * Constructs a new instance.
   *
   * @param name The layer's name, for `info.backend`.
   * @param backend What it lies over.
   * @param options Whether it owns that.
   * @throws {TypeError} If that is no backend.
   */
  constructor(name: string, backend: Backend, options: LayerOptions = {}) {
    checkBackend(`make the layer ${name}`, backend);
    this.#name = name;
    this.backend = backend;
    this.ownsBase = options.ownsBase ?? true;
    keepOnThread(this, "a layer");
  }

  /** The disk's shape. */
  get geometry(): Geometry {
    return this.backend.geometry;
  }

  /** What it can do. */
  get abilities(): Abilities {
    return this.backend.abilities;
  }

  /** How large requests may get. */
  get limits(): Limits {
    return this.backend.limits;
  }

  /**
   * What it is and why: the backend's own as it is now, which may change (an
   * engine that broke), with the layer's name before it.
   */
  get info(): BackendInfo {
    return this.describe(this.backend.info);
  }

  /** What the backend counted so far. */
  get counters(): Readonly<BackendCounters> {
    return this.backend.counters;
  }

  /** Whether it is closed or closing. */
  get closed(): boolean {
    return this.#inFlight.closed;
  }

  /**
   * Why nothing can be carried out by blocking calls: what keeps this layer's
   * own answers ({@linkcode Layer.answersLate}), or what the base says; `null`
   * if nothing does.
   */
  get asyncOnly(): string | null {
    return this.answersLate ?? whyAsyncOnly(this.backend);
  }

  /**
   * Runs a function during which every request is answered before `submit`
   * returns: see `Backend.synchronously`. Not there with a base that has no such
   * method.
   */
  get synchronously(): ((run: () => void) => boolean) | undefined {
    return this.asyncOnly === null ? this.#synchronously : undefined;
  }

  /** Requests that are not answered yet. */
  get pending(): number {
    return this.#inFlight.count;
  }

  /**
   * Carries out a batch.
   *
   * @param batch The requests.
   * @param complete Called once for each of them.
   */
  submit(batch: readonly Request[], complete: Complete): void {
    let refused: (DiskError | null)[] | null = null;
    for (let i = 0; i < batch.length; i++) {
      const error = this.#refuse(batch[i]!);
      if (error !== null) (refused ??= [])[i] = error;
    }
    let good = batch;
    if (refused !== null) {
      good = batch.filter((_, i) => !refused[i]);
      const bad = batch.filter((_, i) => refused[i]);
      const errors = refused.filter((error) => error);
      this.#inFlight.enter(good.length);
      bad.forEach((request, i) => answerRequest(request, errors[i]!, complete));
    } else this.#inFlight.enter(good.length);
    if (good.length === 0) return;
    this.carryOut(
      good,
      (request, error) => this.#inFlight.answer(request, error, complete),
    );
  }

  /**
   * Tries to stop a submitted request early.
   *
   * @param request The request.
   */
  cancel(request: Request): void {
    this.backend.cancel?.(request);
  }

  /**
   * Called when the disk begins to close; passed on to the base, unless that is
   * shared.
   */
  closing(): void {
    if (this.ownsBase) this.backend.closing?.();
  }

  /**
   * Where data is stored and where holes are.
   *
   * @param sector First sector.
   * @param count Sectors, within the disk.
   * @returns Extents in order, adjoining; they may end before the range does.
   */
  extents(sector: number, count: number): Extent[] {
    return this.backend.extents?.(sector, count) ??
      [{ sector, count, hole: false }];
  }

  /**
   * Why the disk keeps its size: what the base says, unless the layer itself
   * cannot follow; `null` if it does not.
   */
  get keepsSize(): string | null {
    return whyKeepsSize(this.backend);
  }

  /**
   * Changes the size of what it lies over, unless the disk keeps its size.
   *
   * @param sectors Sectors that the disk has afterwards.
   * @returns When it is done.
   * @throws {DiskError} If it cannot be; the disk is as it was then.
   */
  async resize(sectors: number): Promise<void> {
    const { backend, keepsSize } = this;
    if (keepsSize !== null) throw resizeError(keepsSize, backend.info.path);
    await backend.resize!(sectors);
  }

  /**
   * Memory that moves without a copy.
   *
   * @param byteLength Bytes.
   * @returns The memory, zeroed.
   */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return this.backend.allocate(byteLength);
  }

  /**
   * Waits for everything submitted, then closes what it owns. Idempotent.
   *
   * @returns When it is done.
   */
  close(): Promise<void> {
    if (!this.closed) this.closing();
    return this.#inFlight.close(() => this.release());
  }

  /**
   * Carries out requests that have been checked.
   *
   * @param batch The requests; the array is valid during the call only.
   * @param complete Called once for each of them.
   */
  protected abstract carryOut(
    batch: readonly Request[],
    complete: Complete,
  ): void;

  /**
   * Why answers of the layer need more than those of its base, as the second
   * half of "Cannot … as …". A layer that needs nothing else says `null`.
   */
  protected get answersLate(): string | null {
    return `the layer ${this.#name} answers when the event loop has turned`;
  }

  /** Whether the caller waits: what is to be answered later must be now. */
  protected get blocking(): boolean {
    return this.#blocking;
  }

  /**
   * Runs a function while the base carries out requests by blocking calls.
   *
   * @param run The function.
   * @returns Whether it was called.
   */
  protected block(run: () => void): boolean {
    return this.backend.synchronously!(run);
  }

  /**
   * Takes requests in that {@linkcode Layer.submit} has not seen: for a layer
   * that leaves their checks to its base.
   *
   * @param count How many.
   */
  protected enter(count: number): void {
    this.#inFlight.enter(count);
  }

  /**
   * Answers a request that was taken in.
   *
   * @param request The request.
   * @param error Why it failed.
   * @param complete Called with both.
   */
  protected answer(
    request: Request,
    error: DiskError | null,
    complete: Complete,
  ): void {
    this.#inFlight.answer(request, error, complete);
  }

  /**
   * What the layer says of itself.
   *
   * @param info What the backend says of itself.
   * @returns The same, with the layer's name.
   */
  protected describe(info: BackendInfo): BackendInfo {
    return { ...info, backend: `${this.#name} over ${info.backend}` };
  }

  /**
   * Gives up what the layer holds; everything has been answered.
   *
   * @returns When it is done.
   */
  protected async release(): Promise<void> {
    if (this.ownsBase) await this.backend.close();
  }

  readonly #synchronously = (run: () => void): boolean => {
    if (!this.#inFlight.idle) return false;
    this.#blocking = true;
    try {
      return this.block(run);
    } finally {
      this.#blocking = false;
    }
  };

  #refuse(request: Request): DiskError | null {
    const error = refuse(request, this.geometry, this.abilities);
    // Made anew with the path, which costs something to learn.
    if (error === null && !this.closed) return null;
    const path = this.backend.info.path ?? undefined;
    return this.closed
      ? closedError(request, path)
      : refuse(request, this.geometry, this.abilities, path);
  }
}

/**
 * Submits requests of one's own as one batch.
 *
 * @param backend The backend.
 * @param batch The requests.
 * @returns The error of the first of them that failed; `null` if none did.
 */
export function submitAll(
  backend: Backend,
  batch: readonly Request[],
): Promise<DiskError | null> {
  return new Promise((resolve) => submitAllThen(backend, batch, resolve));
}

/**
 * Carries out one request of one's own, which a signal withdraws.
 *
 * @param backend The backend.
 * @param request The request.
 * @param signal Withdraws it, if there is one.
 * @returns Why it failed; `null` if it did not.
 * @throws The signal's reason, once the request is over: whatever came of it.
 */
export async function submitUnless(
  backend: Backend,
  request: Request,
  signal: AbortSignal | undefined,
): Promise<DiskError | null> {
  signal?.throwIfAborted();
  const withdraw = () => backend.cancel?.(request);
  signal?.addEventListener("abort", withdraw);
  const error = await submitAll(backend, [request]);
  signal?.removeEventListener("abort", withdraw);
  signal?.throwIfAborted();
  return error;
}

/**
 * The same with a callback, which is called before this returns if every answer
 * comes before `submit` does.
 *
 * @param backend The backend.
 * @param batch The requests.
 * @param done Called with the error of the first of them that failed; `null` if
 * none did.
 */
export function submitAllThen(
  backend: Backend,
  batch: readonly Request[],
  done: (error: DiskError | null) => void,
): void {
  let left = batch.length;
  let first: DiskError | null = null;
  if (left === 0) return done(null);
  backend.submit(batch, (_, error) => {
    first ??= error;
    if (--left === 0) done(first);
  });
}
