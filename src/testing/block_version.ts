/**
 * A write that was recorded, and the content of each of its blocks after it,
 * with a hash: images are compared by the hashes of their blocks.
 *
 * @module
 */

import type { RequestType } from "../request.ts";

/** A write or flush that was recorded. */
export interface RecordedRequest {
  /** Its number in the order of submission, from 1. */
  readonly number: number;
  /** What it is. */
  readonly type: RequestType;
  /** First sector. */
  readonly sector: number;
  /** Sectors; 0 for a flush. */
  readonly count: number;
  /** Whether it is durable when it completes. */
  readonly fua: boolean;
  /** Whether it is found wholly or not at all. */
  readonly atomic: boolean;
  /** Who made it, if that was to be recorded. */
  readonly origin: Error | null;
  /** What it makes of each of its blocks, in the order of the disk. */
  readonly versions: readonly BlockVersion[];
  /** The event with which it was submitted. */
  readonly submittedAt: number;
  /** The event with which it completed; -1 while it is in flight. */
  completedAt: number;
  /** Whether it failed. */
  failed: boolean;
  /**
   * The event with which the flush was submitted that failed to write it, and
   * marked it clean all the same; -1 if there is none. No later flush writes it.
   */
  markedCleanAt: number;
}

/** How a block was torn inside. */
export interface Tear {
  /** What the rest of the block is. */
  readonly under: BlockVersion;
  /** Whether the first part is new, or the last. */
  readonly kept: "first" | "last";
  /** Where the block is torn, in bytes. */
  readonly at: number;
}

/** One content of one block. */
export class BlockVersion {
  /** The block's number. */
  readonly block: number;
  /** Its bytes; never changed. */
  readonly bytes: Uint8Array;
  /** What wrote it; `null` for what was there before anything was written. */
  readonly request: RecordedRequest | null;
  /** How it is torn; `null` if it is whole. */
  readonly tear: Tear | null;
  /** Half of the hash of block number and bytes. */
  readonly high: number;
  /** The other half. */
  readonly low: number;

  /**
   * Constructs a new instance.
   *
   * @param block The block's number.
   * @param bytes Its bytes, at a multiple of 4 of their buffer.
   * @param request What wrote it.
   * @param tear How it is torn.
   */
  constructor(
    block: number,
    bytes: Uint8Array,
    request: RecordedRequest | null,
    tear: Tear | null = null,
  ) {
    this.block = block;
    this.bytes = bytes;
    this.request = request;
    this.tear = tear;
    const words = new Int32Array(
      bytes.buffer,
      bytes.byteOffset,
      bytes.length >> 2,
    );
    let high = scramble(block | 0, 0x9e3779b9);
    let low = scramble(Math.floor(block / 2 ** 32) ^ block, 0x85ebca6b);
    for (let i = 0; i < words.length; i++) {
      const word = words[i]!;
      high = Math.imul((high << 13 | high >>> 19) ^ word, 0xcc9e2d51);
      low = Math.imul((low << 17 | low >>> 15) + word | 0, 0x1b873593);
    }
    this.high = scramble(high, low);
    this.low = scramble(low, high);
  }
}

/**
 * Mixes two integers of 32 bits (the finalizer of Austin Appleby's MurmurHash3
 * over their sum).
 *
 * @param a One.
 * @param b The other.
 * @returns An integer of 32 bits.
 */
export function scramble(a: number, b: number): number {
  let h = a + Math.imul(b, 0x9e3779b1) | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/**
 * A block torn in the middle of what differs.
 *
 * @param version What was to be written.
 * @param under What was there.
 * @returns Both ways to tear it; none if fewer than two bytes differ.
 */
export function tears(
  version: BlockVersion,
  under: BlockVersion,
): BlockVersion[] {
  const next = version.bytes;
  const old = under.bytes;
  let first = 0;
  while (first < next.length && next[first] === old[first]) first++;
  let last = next.length - 1;
  while (last > first && next[last] === old[last]) last--;
  if (last <= first) return [];
  const at = Math.ceil((first + last) / 2);
  return (["first", "last"] as const).map((kept) => {
    const bytes = (kept === "first" ? old : next).slice();
    bytes.set((kept === "first" ? next : old).subarray(0, at));
    const tear = { under, kept, at };
    return new BlockVersion(version.block, bytes, version.request, tear);
  });
}
