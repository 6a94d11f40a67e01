/**
 * Requests that were answered early, as they were aborted or took too long, while
 * whoever carries them out still has them: an NBD server, librbd. Whether they are
 * carried out is not known, so that what could come before or after them waits
 * until they are over; and the failure of a flush, which had no caller left, is
 * that of the next one.
 *
 * @module
 */

import type { DiskError } from "../errors.ts";
import { costsDurability } from "../request_error.ts";
import { type Request, RequestType } from "../request.ts";

/** A request of which pieces are in flight. */
export interface InPieces {
  /** The request. */
  readonly request: Request;
  /** Pieces in flight. */
  readonly pieces: number;
}

/** What was left to others, and what waits for it. */
export class Abandoned<T extends InPieces> {
  /** Those that change or flush something. */
  readonly #changes = new Set<T>();
  #waiting: T[] = [];
  #pieces = 0;
  #failure: DiskError | null = null;

  /** Pieces that others still have. */
  get pieces(): number {
    return this.#pieces;
  }

  /** The failure of an abandoned flush; `null` if none failed. */
  get failure(): DiskError | null {
    return this.#failure;
  }

  /** Takes in a request that was answered, with the pieces it has in flight. */
  add(transfer: T): void {
    if (transfer.pieces === 0) return;
    this.#pieces += transfer.pieces;
    if (transfer.request.type !== RequestType.In) this.#changes.add(transfer);
  }

  /**
   * Lets a request wait if it must: one of these could change what it reads, or
   * be carried out after what it writes.
   *
   * @param transfer The request.
   * @returns Whether it waits.
   */
  holds(transfer: T): boolean {
    if (this.#changes.size === 0 || !this.#mustWait(transfer)) return false;
    this.#waiting.push(transfer);
    return true;
  }

  /**
   * Takes a request out of those that wait.
   *
   * @param request The request.
   * @returns What it is; nothing if it does not wait.
   */
  withdraw(request: Request): T | undefined {
    const at = this.#waiting.findIndex((one) => one.request === request);
    return at < 0 ? undefined : this.#waiting.splice(at, 1)[0];
  }

  /**
   * Hears that a piece is over.
   *
   * @param transfer Its request, of which it is not counted any more.
   * @param flushFailure Why it failed, if it was to make something durable.
   * @param resume Goes on with a request that need not wait any more; in the
   * order of their coming.
   */
  returned(
    transfer: T,
    flushFailure: DiskError | null,
    resume: (transfer: T) => void,
  ): void {
    this.#pieces--;
    if (flushFailure !== null && costsDurability(flushFailure)) {
      this.#failure ??= flushFailure;
    }
    if (transfer.pieces > 0 || !this.#changes.delete(transfer)) return;
    for (const one of this.#waiting.splice(0)) {
      if (!this.holds(one)) resume(one);
    }
  }

  /**
   * Forgets all of it, as the others are gone.
   *
   * @returns What has waited.
   */
  clear(): T[] {
    this.#changes.clear();
    return this.#waiting.splice(0);
  }

  #mustWait({ request }: T): boolean {
    if (request.type === RequestType.Flush || request.writes && request.fua) {
      return true;
    }
    for (const { request: change } of this.#changes) {
      if (
        request.sector < change.sector + change.count &&
        change.sector < request.sector + request.count
      ) return true;
    }
    return false;
  }
}
