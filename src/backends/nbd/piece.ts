/**
 * Requests in flight to a server, and the pieces that they are cut in: each is
 * one request of NBD.
 *
 * @module
 */

import type { Complete } from "../../backend.ts";
import type { DiskError } from "../../errors.ts";
import { SECTOR_BYTES } from "../../geometry.ts";
import type { OutgoingMessage } from "../../protocol/nbd/writer.ts";
import type { Request } from "../../request.ts";
import type { CoveredRanges } from "./covered_ranges.ts";

/** A request in flight. */
export interface Transfer {
  readonly request: Request;
  readonly complete: Complete;
  readonly command: number;
  readonly flags: number;
  /** Bytes of the largest piece. */
  readonly pieceBytes: number;
  /** Bytes of the request. */
  readonly total: number;
  /** Bytes that were asked for. */
  asked: number;
  /** Pieces in flight. */
  pieces: number;
  /** Whether a flush must follow. */
  flush: boolean;
  error: DiskError | null;
  /** Whether it was aborted. */
  aborted: boolean;
  /** Whether it has been answered; pieces may still be in flight. */
  answered: boolean;
}

/** A piece of a request: one request of NBD. */
export interface Piece {
  readonly transfer: Transfer;
  /** What the reply is known by. */
  readonly cookie: number;
  readonly command: number;
  /** Where it begins in the request, in bytes. */
  readonly from: number;
  readonly length: number;
  /** Bytes of data that have come or are coming. */
  received: number;
  /** Which those are, if they came in several chunks. */
  covered: CoveredRanges | null;
  /** Chunks that reported errors. */
  errorChunks: number;
  /** What carries its data, while that is in the request's own memory. */
  message: OutgoingMessage | null;
  /** Whether the server has answered it before it is over: it may not again. */
  isAnswered: boolean;
  error: DiskError | null;
}

/**
 * Tells where a piece begins on the disk.
 *
 * @param piece The piece.
 * @returns Its offset in bytes.
 */
export function startOf({ transfer, from }: Piece): number {
  return transfer.request.sector * SECTOR_BYTES + from;
}
