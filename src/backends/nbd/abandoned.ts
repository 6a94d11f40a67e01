/**
 * Aborted requests that are still at the server. Whether they are carried out is
 * not known, so that what could come before or after them waits until the server
 * has answered them; and the failure of a flush, which had no caller left, is that
 * of the next one.
 *
 * @module
 */

import { callAll } from "../../call_all.ts";
import type { DiskError } from "../../errors.ts";
import { Command, CommandFlag } from "../../protocol/nbd/numbers.ts";
import { type Request, RequestType } from "../../request.ts";
import type { Piece, Transfer } from "./piece.ts";

/** What aborted requests left at the server, and what waits for it. */
export class Abandoned {
  /** Those that change or flush something. */
  readonly #changes = new Set<Transfer>();
  #waiting: Transfer[] = [];
  #pieces = 0;
  #failure: DiskError | null = null;

  /** Pieces that the server still has. */
  get pieces(): number {
    return this.#pieces;
  }

  /** The failure of an aborted flush; `null` if none failed. */
  get failure(): DiskError | null {
    return this.#failure;
  }

  /** Takes in a request that was aborted, with the pieces it has in flight. */
  add(transfer: Transfer): void {
    if (transfer.pieces === 0) return;
    this.#pieces += transfer.pieces;
    if (transfer.command !== Command.Read) this.#changes.add(transfer);
  }

  /**
   * Lets a request wait if it must: one of these could change what it reads, or
   * be carried out after what it writes.
   *
   * @param transfer The request.
   * @returns Whether it waits.
   */
  holds(transfer: Transfer): boolean {
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
  withdraw(request: Request): Transfer | undefined {
    const at = this.#waiting.findIndex((one) => one.request === request);
    return at < 0 ? undefined : this.#waiting.splice(at, 1)[0];
  }

  /**
   * Hears that the server has answered a piece.
   *
   * @param piece The piece, which is not counted in its request any more.
   * @param resume Goes on with a request that need not wait any more; in the
   * order of their coming.
   */
  returned(piece: Piece, resume: (transfer: Transfer) => void): void {
    const { transfer } = piece;
    this.#pieces--;
    const flushed = piece.command === Command.Flush ||
      (transfer.flags & CommandFlag.Fua) !== 0;
    if (piece.error !== null && flushed) this.#failure ??= piece.error;
    if (transfer.pieces > 0 || !this.#changes.delete(transfer)) return;
    callAll(this.#waiting.splice(0), (one) => {
      if (!this.holds(one)) resume(one);
    });
  }

  /**
   * Forgets all of it, as the server is gone.
   *
   * @returns What has waited.
   */
  clear(): Transfer[] {
    this.#changes.clear();
    return this.#waiting.splice(0);
  }

  #mustWait({ request }: Transfer): boolean {
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
