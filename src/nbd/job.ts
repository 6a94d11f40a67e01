/**
 * A client's request while it is under way.
 *
 * @module
 */

import { readU64 } from "../protocol/nbd/big_endian.ts";
import { Command } from "../protocol/nbd/numbers.ts";
import type { Memory } from "./memory_pool.ts";
import type { ServedDisk } from "./served_disk.ts";

/** A request under way. */
export class Job {
  /** What it asks for; one of `Command`, or unknown. */
  readonly type: number;
  /** Bits of `CommandFlag`. */
  readonly flags: number;
  /** What its reply brings back, in halves. */
  readonly cookieHigh: number;
  /** The other half. */
  readonly cookieLow: number;
  /** Where it begins, in bytes. */
  readonly offset: number;
  /** Bytes that it is about. */
  readonly length: number;
  /** Bytes of data that it has under way. */
  readonly weight: number;
  /** Whether it starts and ends on blocks of the disk. */
  readonly aligned: boolean;
  /** Bytes of the server's memory that it holds. */
  held = 0;
  /** The memory for its data, while it has some. */
  memory: Memory | null = null;

  /**
   * Constructs a new instance.
   *
   * @param view Where the request is.
   * @param at Its offset there.
   * @param served The disk that it is for.
   */
  constructor(view: DataView, at: number, served: ServedDisk) {
    this.flags = view.getUint16(at + 4);
    this.type = view.getUint16(at + 6);
    this.cookieHigh = view.getUint32(at + 8);
    this.cookieLow = view.getUint32(at + 12);
    this.offset = readU64(view, at + 16);
    this.length = view.getUint32(at + 24);
    this.weight = this.type === Command.Read || this.type === Command.Write
      ? this.length
      : 0;
    this.aligned = served.isAligned(this.offset, this.length);
  }
}

/** Who counts the requests under way and what they hold. */
export interface JobKeeper {
  /** Whether nobody gets an answer any more. */
  readonly isGone: boolean;
  /**
   * Gives a request's memory back: the disk and the socket are done with it.
   *
   * @param job The request.
   */
  giveMemory(job: Job): void;
  /** Hears that a request was answered. */
  answered(): void;
}
