/**
 * A request of the direct backend in flight, and the operation of an engine
 * that it is at: one object, used again for the next request.
 *
 * @module
 */

import type { IoVector } from "../../../ffi/memory.ts";
import type { Complete } from "../../backend.ts";
import { Operation } from "../../engines/mod.ts";
import type { Request } from "../../request.ts";
import type { Bounce } from "./bounce.ts";

/** What a transfer is doing. */
export const Stage = {
  /** Caller's memory to or from the medium, or no memory at all. */
  Plain: 0,
  /** A piece through aligned memory; of a changed host block, its write. */
  Bounce: 1,
  /** Reading a host block that will be written with a part of it changed. */
  ReadEdge: 2,
  /** Making a write durable that no single call could. */
  Sync: 3,
} as const;

/** What a transfer is doing. */
export type Stage = typeof Stage[keyof typeof Stage];

/** A request in flight, and the operation that it is at. */
export class Transfer extends Operation {
  request: Request | null = null;
  complete: Complete | null = null;
  stage: Stage = Stage.Plain;
  /** Bytes of the request. */
  total = 0;
  /** Bytes of it that are done. */
  done = 0;
  /** Bytes of it that the piece in flight moves: see `../alignment_plan.ts`. */
  pieceBytes = 0;
  /** Where the host blocks around the piece start in the file. */
  start = 0;
  /** Bytes of these blocks. */
  span = 0;
  /** Where the piece starts in them. */
  skip = 0;
  /** Whether the first of them has yet to be read. */
  readsFirst = false;
  /** Whether the last of them has. */
  readsLast = false;
  bounce: Bounce | null = null;
  vector: IoVector | null = null;
  vectored = false;
  bounced = false;
  modified = false;
  tried = false;
  /** Whether the kernel was asked to give it up. */
  cancelled = false;
  retries = 0;
  release: (() => void) | null = null;

  /** Forgets the request, for the next one. Its iovec array stays. */
  reset(): void {
    this.request = null;
    this.complete = null;
    this.done = 0;
    this.retries = 0;
    this.durable = false;
    this.vectored = false;
    this.bounced = false;
    this.modified = false;
    this.tried = false;
    this.cancelled = false;
    this.release = null;
  }
}
