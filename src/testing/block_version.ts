/**
 * A write that was recorded, and the content of each of its blocks after it,
 * with a hash: images are compared by the hashes of their blocks.
 *
 * A request holds numbers of contents, 4 bytes for a block; its versions are
 * made when they are asked for, and read their bytes when those are.
 *
 * @module
 */

import { describeOrigin } from "../call_site.ts";
import type { RequestType } from "../request.ts";
import type { ContentStore } from "./content_store.ts";
import { hashBytes, scramble } from "./hash.ts";
import type { Int32List } from "./int32_list.ts";

/** Where a recording keeps what its requests wrote. */
export interface RequestContents {
  /** The contents. */
  readonly store: ContentStore;
  /** The content of each block of each write, in the order of submission. */
  readonly numbers: Int32List;
}

/** What a request is made of. */
export type RecordedRequestFields =
  & Pick<
    RecordedRequest,
    | "number"
    | "type"
    | "sector"
    | "count"
    | "fua"
    | "atomic"
    | "firstBlock"
    | "blocks"
    | "submittedAt"
  >
  & {
    /** Who made it. */
    origin: Error | string | null;
    contents: RequestContents;
    /** Where its contents begin in `contents.numbers`; -1 if it makes zeroes. */
    at: number;
  };

/** A write or flush that was recorded. */
export class RecordedRequest {
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
  /** The first block that it changes. */
  readonly firstBlock: number;
  /** How many blocks it changes, from there on: none if it is a flush, or ignored. */
  readonly blocks: number;
  /** The event with which it was submitted. */
  readonly submittedAt: number;
  /** The event with which it completed; -1 while it is in flight. */
  completedAt: number = -1;
  /** Whether it failed. */
  failed: boolean = false;
  /**
   * The event with which the flush was submitted that failed to write it, and
   * marked it clean all the same; -1 if there is none. No later flush writes it.
   */
  markedCleanAt: number = -1;
  readonly #contents: RequestContents;
  readonly #at: number;
  #origin: Error | string | null;

  /**
   * Constructs a new instance.
   *
   * @param fields What it is made of.
   */
  constructor(fields: RecordedRequestFields) {
    this.number = fields.number;
    this.type = fields.type;
    this.sector = fields.sector;
    this.count = fields.count;
    this.fua = fields.fua;
    this.atomic = fields.atomic;
    this.firstBlock = fields.firstBlock;
    this.blocks = fields.blocks;
    this.submittedAt = fields.submittedAt;
    this.#contents = fields.contents;
    this.#at = fields.at;
    this.#origin = fields.origin;
  }

  /** Which line of a program made it, if that was recorded; else empty. */
  get origin(): string {
    if (this.#origin instanceof Error) {
      this.#origin = describeOrigin(this.#origin);
    }
    return this.#origin ?? "";
  }

  /**
   * What it makes of each of its blocks, in the order of the disk: objects of
   * the caller's own, as there may be millions in a recording.
   */
  get versions(): BlockVersion[] {
    return Array.from({ length: this.blocks }, (_, i) => this.version(i));
  }

  /**
   * What it makes of one of its blocks: an object of the caller's own.
   *
   * @param index Which one, from 0.
   * @returns The version.
   */
  version(index: number): BlockVersion {
    return new BlockVersion(
      this.firstBlock + index,
      this.#contents.store,
      this.contentOf(index),
      this,
    );
  }

  /**
   * The number of the content of one of its blocks.
   *
   * @param index Which one, from 0.
   * @returns The number in the recording's contents.
   */
  contentOf(index: number): number {
    return this.#at < 0 ? 0 : this.#contents.numbers.at(this.#at + index);
  }
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
  /** What wrote it; `null` for what was there before anything was written. */
  readonly request: RecordedRequest | null;
  /** How it is torn; `null` if it is whole. */
  readonly tear: Tear | null;
  /** Half of the hash of block number and bytes. */
  readonly high: number;
  /** The other half. */
  readonly low: number;
  readonly #store: ContentStore | null;
  readonly #content: number;
  #bytes: Uint8Array | null;

  /**
   * Constructs a new instance.
   *
   * @param block The block's number.
   * @param from Where its bytes are, or its bytes, at a multiple of 4 of their
   * buffer.
   * @param content Its number there.
   * @param request What wrote it.
   * @param tear How it is torn.
   */
  constructor(
    block: number,
    from: ContentStore | Uint8Array,
    content: number,
    request: RecordedRequest | null,
    tear: Tear | null = null,
  ) {
    this.block = block;
    this.request = request;
    this.tear = tear;
    this.#content = content;
    let high: number;
    let low: number;
    if (from instanceof Uint8Array) {
      this.#store = null;
      this.#bytes = from;
      [high, low] = hashBytes(from);
    } else {
      this.#store = from;
      this.#bytes = null;
      high = from.high(content);
      low = from.low(content);
    }
    high = scramble(high, block | 0);
    low = scramble(low ^ Math.floor(block / 2 ** 32), high);
    this.high = scramble(high, low);
    this.low = low;
  }

  /** Its bytes; never changed. */
  get bytes(): Uint8Array {
    if (this.#bytes !== null) return this.#bytes;
    const store = this.#store!;
    const bytes = store.read(this.#content);
    // What a file has is not to stay in memory with each of its versions.
    if (store.inMemory) this.#bytes = bytes;
    return bytes;
  }
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
    return new BlockVersion(version.block, bytes, 0, version.request, tear);
  });
}

/**
 * Whether two contents of a block are the same, by their hashes.
 *
 * @param one A content.
 * @param other Another one.
 * @returns Whether they are.
 */
export function isSameContent(one: BlockVersion, other: BlockVersion): boolean {
  return one.high === other.high && one.low === other.low;
}
