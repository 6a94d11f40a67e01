/**
 * How requests get to the sectors of an overlay with a file: each sector of a
 * read comes from the file if it is marked, and else from the base; what is
 * written goes to its place in the file, and is marked when it is there.
 *
 * What goes to one of both only, and whose part of the map is at hand, is passed
 * on at once. The rest is carried out in pieces, one after the other.
 *
 * @module
 */

import type { Backend, Complete } from "../../backend.ts";
import type { DiskError } from "../../errors.ts";
import { Request, RequestFlag, RequestType } from "../../request.ts";
import {
  abortedError,
  costsDurability,
  latchedError,
  requestError,
} from "../../request_error.ts";
import { answerRequest } from "../../throw_later.ts";
import { unless } from "../../unless.ts";
import { sliceRequest } from "../slice_request.ts";
import { anyError } from "./any_error.ts";
import type { MapPage } from "./change_map.ts";
import { PAGE_BITS } from "./format.ts";
import type { Gate } from "./gate.ts";
import type { OverlayMetadata } from "./metadata.ts";

/** Sectors that a request may have to be carried out in one go: 496 MiB. */
export const PIECE_SECTORS = 32 * PAGE_BITS;

/** One of a user's requests that is carried out by others. */
class Job {
  readonly request: Request;
  readonly complete: Complete;
  /** Those to the base, and to the file. */
  readonly below: readonly Request[];
  readonly toFile: readonly Request[];
  left: number;
  error: DiskError | null = null;
  /** Pages to mark when it is done; `null` for a read. */
  readonly pages: readonly MapPage[] | null;

  constructor(
    request: Request,
    complete: Complete,
    below: readonly Request[],
    toFile: readonly Request[],
    pages: readonly MapPage[] | null,
  ) {
    this.request = request;
    this.complete = complete;
    this.below = below;
    this.toFile = toFile;
    this.left = below.length + toFile.length;
    this.pages = pages;
    for (const part of below) part.owner = this;
    for (const part of toFile) part.owner = this;
  }
}

/** How far a request is that is carried out in pieces. */
interface Progress {
  /** The piece at work. */
  piece: Request;
  /** Gives it up. */
  readonly withdrawal: AbortController;
}

/** The way of the requests of one overlay. */
export class DataPath {
  readonly #base: Backend;
  readonly #file: Backend;
  readonly #metadata: OverlayMetadata;
  readonly #gate: Gate;
  /** Jobs at work by their requests, to be found by `cancel`. */
  readonly #jobs = new Map<Request, Job>();
  /** Requests that are carried out in pieces. */
  readonly #progress = new Map<Request, Progress>();

  /**
   * Constructs a new instance.
   *
   * @param base The base.
   * @param file The file.
   * @param metadata Which sectors the file has.
   * @param gate Lets requests in, and is told when they are done.
   */
  constructor(
    base: Backend,
    file: Backend,
    metadata: OverlayMetadata,
    gate: Gate,
  ) {
    this.#base = base;
    this.#file = file;
    this.#metadata = metadata;
    this.#gate = gate;
  }

  /**
   * Carries out requests that have been checked.
   *
   * @param batch The requests; the array is valid during the call only.
   * @param complete Called once for each of them.
   */
  carryOut(batch: readonly Request[], complete: Complete): void {
    const { map } = this.#metadata;
    let below: Request[] | null = null;
    let toFile: Request[] | null = null;
    for (let i = 0; i < batch.length; i++) {
      const request = batch[i]!;
      if (!this.#gate.admit(request, complete)) continue;
      const { type, sector, count } = request;
      switch (type) {
        case RequestType.GetId:
          (below ??= []).push(request);
          continue;
        case RequestType.Flush:
          void this.#flush(request, complete);
          continue;
      }
      if (
        count > PIECE_SECTORS || !map.has(sector, count) ||
        request.writes && map.crowded
      ) {
        void this.#inPieces(request, complete);
        continue;
      }
      if (type === RequestType.In) {
        const end = sector + count;
        if (map.runEnd(sector, end) === end) {
          if (!map.isChanged(sector)) {
            (below ??= []).push(request);
            continue;
          }
          (toFile ??= []).push(this.#inFile(request, complete, null));
        } else this.#readMixed(request, complete);
        continue;
      }
      let pages: MapPage[];
      try {
        pages = map.take(sector, count);
      } catch (error) {
        this.#gate.answer(request, this.wrap(request, error), complete);
        continue;
      }
      (toFile ??= []).push(this.#inFile(request, complete, pages));
    }
    if (below !== null) {
      this.#base.submit(
        below,
        (request, error) => this.#gate.answer(request, error, complete),
      );
    }
    if (toFile !== null) this.#file.submit(toFile, this.#fileDone);
  }

  /**
   * Tries to stop a submitted request early, wherever it is. What it needs of the
   * map goes on without it, as others need it, too. A flush is waited for.
   *
   * @param request The request.
   */
  cancel(request: Request): void {
    const held = this.#gate.withdraw(request);
    if (held !== null) {
      return answerRequest(request, this.#aborted(request), held);
    }
    const progress = this.#progress.get(request);
    progress?.withdrawal.abort();
    const job = this.#jobs.get(progress?.piece ?? request);
    if (job !== undefined) {
      cancelParts(job, job.below, this.#base);
      cancelParts(job, job.toFile, this.#file);
    } else if (progress === undefined) this.#base.cancel?.(request);
  }

  #aborted(request: Request): DiskError {
    return abortedError(request, { path: this.#base.info.path });
  }

  /**
   * What failed in the file, as the failure of a request.
   *
   * @param request The request.
   * @param thrown What the file says.
   * @returns The error.
   */
  wrap(request: Request, thrown: unknown): DiskError {
    const error = anyError(thrown, "use", this.#file.info.path);
    const { kind, code, errno, message } = error;
    return requestError(kind, request, `its overlay says: ${message}`, {
      path: this.#base.info.path,
      code,
      errno,
      cause: error,
    });
  }

  /** Makes all durable, and answers. */
  async #flush(request: Request, complete: Complete): Promise<void> {
    const error = await this.#metadata.flush();
    const failed = error === null ? null : this.#latched(request, error);
    this.#gate.answer(request, failed, complete);
  }

  /** The error of a flush, for one of those who share it. */
  #latched(request: Request, error: DiskError): DiskError {
    return error.kind === "latched"
      ? latchedError(request, this.#metadata.failure!, this.#base.info.path)
      : this.wrap(request, error);
  }

  /** Carries out a request whose pages are not at hand, or are many. */
  async #inPieces(request: Request, complete: Complete): Promise<void> {
    let error: DiskError | null = null;
    const isWhole = request.count <= PIECE_SECTORS;
    const progress: Progress = {
      piece: request,
      withdrawal: new AbortController(),
    };
    this.#progress.set(request, progress);
    for (let done = 0; done < request.count && error === null;) {
      const count = Math.min(PIECE_SECTORS, request.count - done);
      if (!isWhole) progress.piece = sliceRequest(request, done, count);
      error = await this.#piece(progress);
      done += count;
    }
    this.#progress.delete(request);
    if (error !== null && !isWhole) {
      const { kind, code, errno, message } = error;
      const path = this.#base.info.path;
      error = requestError(kind, request, `a part of it failed: ${message}`, {
        path,
        code,
        errno,
        cause: error,
      });
    }
    this.#gate.answer(request, error, complete);
  }

  async #piece(progress: Progress): Promise<DiskError | null> {
    const request = progress.piece;
    const { type, sector, count } = request;
    const { map } = this.#metadata;
    const { signal } = progress.withdrawal;
    let pages: MapPage[];
    try {
      if (request.writes && map.crowded) {
        await unless(signal, this.#metadata.flushOrThrow());
      }
      pages = await map.hold(sector, count, signal);
    } catch (error) {
      return signal.aborted
        ? this.#aborted(request)
        : this.wrap(request, error);
    }
    if (signal.aborted) {
      map.release(pages);
      return this.#aborted(request);
    }
    const { promise, resolve } = Promise.withResolvers<DiskError | null>();
    const answer: Complete = (_, error) => resolve(error);
    // Counted once, by the request that this is a part of.
    this.#gate.enter(request);
    if (type === RequestType.In) {
      this.#readMixed(request, answer);
      map.release(pages);
    } else {
      const part = this.#inFile(request, answer, pages);
      this.#file.submit([part], this.#fileDone);
    }
    return await promise;
  }

  /** Reads run by run, from the file and from the base. */
  #readMixed(request: Request, complete: Complete): void {
    const { sector, count } = request;
    const { map } = this.#metadata;
    const below: Request[] = [];
    const toFile: Request[] = [];
    for (let at = sector; at < sector + count;) {
      const end = map.runEnd(at, sector + count);
      const part = sliceRequest(request, at - sector, end - at);
      if (map.isChanged(at)) toFile.push(this.#translate(part));
      else below.push(part);
      at = end;
    }
    this.#jobs.set(request, new Job(request, complete, below, toFile, null));
    if (below.length > 0) this.#base.submit(below, this.#baseDone);
    if (toFile.length > 0) this.#file.submit(toFile, this.#fileDone);
  }

  /** Begins a job that the file does alone; the part of it is to be submitted. */
  #inFile(
    request: Request,
    complete: Complete,
    pages: readonly MapPage[] | null,
  ): Request {
    const part = this.#translate(request);
    this.#jobs.set(request, new Job(request, complete, [], [part], pages));
    return part;
  }

  /** A request as one to the file; both kinds of zeroes become holes there. */
  #translate(request: Request): Request {
    const { type, sector, count, data, more } = request;
    const at = this.#metadata.layout.dataSector + sector;
    const zeroes = type === RequestType.WriteZeroes ||
      type === RequestType.Discard;
    // Nothing is made durable after a failure: a flush says so.
    const durable = request.fua && request.writes &&
      this.#metadata.failure === null &&
      this.#file.abilities.fua !== "none" && this.#isSettled(sector, count);
    const flags = (zeroes ? RequestFlag.Unmap : 0) |
      (durable ? RequestFlag.Fua : 0);
    return new Request(
      zeroes ? RequestType.WriteZeroes : type,
      at,
      count,
      flags,
      data,
      more,
    );
  }

  /** Whether sectors are changed, and the file's map says so. */
  #isSettled(sector: number, count: number): boolean {
    const { map } = this.#metadata;
    return map.isSettled(sector, count) && map.isChanged(sector) &&
      map.runEnd(sector, sector + count) === sector + count;
  }

  readonly #baseDone: Complete = (part, error) => {
    const job = part.owner as Job;
    part.owner = null;
    job.error ??= error;
    if (--job.left > 0) return;
    this.#jobs.delete(job.request);
    this.#gate.answer(job.request, job.error, job.complete);
  };

  readonly #fileDone: Complete = (part, error) => {
    const job = part.owner as Job;
    part.owner = null;
    const { request, complete, pages } = job;
    job.error ??= error === null ? null : this.wrap(request, error);
    if (--job.left > 0) return;
    this.#jobs.delete(request);
    if (pages === null) return this.#gate.answer(request, job.error, complete);
    const { map } = this.#metadata;
    const settled = part.fua;
    if (job.error === null) map.mark(pages, request.sector, request.count);
    map.release(pages);
    // One that was given up promises nothing, and the next flush has it all.
    const failed = job.error !== null && costsDurability(job.error);
    if (failed && settled && request.fua) this.#metadata.latch(job.error!);
    if (job.error !== null || !request.fua || settled) {
      return this.#gate.answer(request, job.error, complete);
    }
    void this.#flush(request, complete);
  };
}

/** Cancels what is not answered yet of a job. */
function cancelParts(
  job: Job,
  parts: readonly Request[],
  backend: Backend,
): void {
  for (const part of parts) if (part.owner === job) backend.cancel?.(part);
}
