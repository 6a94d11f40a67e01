/**
 * A client's request while it is in flight.
 *
 * @module
 */

import { readU64 } from "../protocol/nbd/big_endian.ts";
import { Command } from "../protocol/nbd/numbers.ts";
import type { Memory } from "./memory_pool.ts";
import type { ServedDisk } from "./served_disk.ts";

/** A request in flight. */
export class Job {
  /** The disk that it is for. */
  readonly served: ServedDisk;
  /** What it asks for; one of `Command`, or unknown. */
  readonly type: number;
  /** Bits of `CommandFlag`. */
  readonly flags: number;
  /** What its reply is known by, in halves. */
  readonly cookieHigh: number;
  /** The other half. */
  readonly cookieLow: number;
  /** Where it begins, in bytes. */
  readonly offset: number;
  /** Bytes that it is about. */
  readonly length: number;
  /** Bytes of data that it has in flight; none if it is refused. */
  weight: number;
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
    this.served = served;
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
