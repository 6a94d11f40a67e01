/**
 * The contents of blocks, each of them once, in bounded memory.
 *
 * A content is known by a number: 0 is all zeroes and takes no room, the others
 * count from 1 in the order of their first appearance. They lie in segments of
 * 64 KiB. When more than so many segments are in memory, the oldest go to a
 * file (`ContentFile`), and what is read of them comes back through a cache of
 * segments, or by itself.
 *
 * Whether a block is a content that is there is found by its CRC-32, which is
 * native code and the fastest hash at hand, and then by comparing bytes: no two
 * contents are ever taken for one. Images are compared by another hash, of 64
 * bits, which is computed when it is asked for.
 *
 * @module
 */

import { crc32 } from "node:zlib";
import { hashBytes } from "./hash.ts";
import { Int32List } from "./int32_list.ts";

/** Bytes of a segment: at least those of the largest block. */
const SEGMENT_BYTES = 65_536;

/** Bytes of the first segment in the beginning: most recordings are small. */
const FIRST_BYTES = 4096;

/** Contents that there is room for to be found in the beginning. */
const FIRST_SLOTS = 32;

/** Segments that are kept in memory after they were read back: 16 MiB. */
const CACHED_SEGMENTS = 256;

/** Where contents go that memory has no room for. */
export interface ContentFile {
  /**
   * Takes note of new contents, which memory keeps for now.
   *
   * @param bytes Their bytes, one after the other; valid during the call only.
   */
  add(bytes: Uint8Array): void;
  /**
   * Makes sure that contents can be loaded: memory is about to forget them.
   *
   * @param first The number of the first.
   * @param bytes Their bytes.
   * @returns Whether they can be.
   */
  keep(first: number, bytes: Uint8Array): boolean;
  /**
   * Reads contents back.
   *
   * @param first The number of the first.
   * @param target Where to; filled wholly.
   */
  load(first: number, target: Uint8Array): void;
  /** Closes the file. */
  close(): void;
}

/** Contents of blocks. */
export class ContentStore {
  /** The content that is all zeroes. */
  readonly zeroes: Uint8Array;
  /** How many contents there are, zeroes not counted. */
  count = 0;
  readonly #blockSize: number;
  readonly #blockWords: number;
  /** Blocks of a segment. */
  readonly #blocks: number;
  readonly #file: ContentFile;
  readonly #mostSegments: number;
  /** The segments, `null` where only the file has it. */
  readonly #segments: (Uint8Array<ArrayBuffer> | null)[] = [];
  /** The last segment, as words. */
  #words = new Int32Array(0);
  /** The first segment that memory still has. */
  #oldest = 0;
  /** Whether the file takes what memory forgets. */
  #forgets = true;
  /** Segments that were read back, the last one used last. */
  readonly #cache = new Map<number, Uint8Array>();
  /** The segment that was looked for last in neither; -1 if none was. */
  #missed = -1;
  /**
   * Contents by CRC-32: the sum and the number of each, side by side as both are
   * looked at; the number is 0 where it is free.
   */
  #slots = new Int32Array(FIRST_SLOTS * 2);
  #segmentMemory: Uint8Array | null = null;
  /** Hashes by number, two words each; both 0 where it is not known. */
  #hashes = new Int32Array(0);

  /**
   * Constructs a new instance.
   *
   * @param blockSize Bytes of a block.
   * @param file Where contents go that memory has no room for.
   * @param mostBytes Bytes of contents that stay in memory: one segment at least.
   */
  constructor(blockSize: number, file: ContentFile, mostBytes: number) {
    this.#blockSize = blockSize;
    this.#blockWords = blockSize / 4;
    this.#blocks = SEGMENT_BYTES / blockSize;
    this.#file = file;
    this.#mostSegments = Math.max(1, Math.ceil(mostBytes / SEGMENT_BYTES));
    this.zeroes = new Uint8Array(blockSize);
  }

  /** Whether memory has all of them. */
  get inMemory(): boolean {
    return this.#oldest === 0;
  }

  /**
   * Adds blocks, or finds those that are there.
   *
   * @param count Blocks.
   * @param copy Copies some of them, from a byte of theirs on, to memory that it
   * fills wholly. Nothing else looks at what they are copied from.
   * @param numbers Where the number of each is appended.
   */
  take(
    count: number,
    copy: (from: number, target: Uint8Array) => void,
    numbers: Int32List,
  ): void {
    const size = this.#blockSize;
    for (let done = 0; done < count;) {
      const segment = this.#segmentWithRoom(count - done);
      const start = this.count % this.#blocks;
      const some = Math.min(count - done, segment.length / size - start);
      copy(done * size, segment.subarray(start * size, (start + some) * size));
      let end = start;
      for (let at = start; at < start + some; at++) {
        const found = this.#find(segment, at);
        if (found >= 0) numbers.push(found);
        else {
          if (at > end) {
            segment.copyWithin(end * size, at * size, (at + 1) * size);
          }
          end++;
          numbers.push(this.#enter(~found));
        }
      }
      if (end > start) {
        this.#file.add(segment.subarray(start * size, end * size));
      }
      done += some;
    }
  }

  /**
   * Adds one block, or finds it.
   *
   * @param bytes Its bytes.
   * @returns Its number.
   */
  add(bytes: Uint8Array): number {
    const numbers = new Int32List();
    this.take(1, (_, target) => target.set(bytes), numbers);
    return numbers.at(0);
  }

  /**
   * Adds contents of a file that has each of them once, and none that is all
   * zeroes; their bytes stay there.
   *
   * @param count How many there are.
   */
  adopt(count: number): void {
    this.count = count;
    this.#oldest = Math.ceil(count / this.#blocks);
    this.seal();
  }

  /** Gives up what adding needs: no more come. */
  seal(): void {
    this.#slots = new Int32Array(0);
  }

  /**
   * Gets a content.
   *
   * @param number Its number.
   * @returns Its bytes, not to be changed.
   */
  read(number: number): Uint8Array {
    return number === 0 ? this.zeroes : this.readSome(number, 1);
  }

  /**
   * Gets contents that follow each other.
   *
   * @param first The number of the first, from 1.
   * @param count How many, all of which there are.
   * @returns Their bytes, not to be changed: of one at least, and of no more
   * than lie together.
   */
  readSome(first: number, count: number): Uint8Array {
    const index = Math.floor((first - 1) / this.#blocks);
    const at = (first - 1) % this.#blocks;
    const some = Math.min(count, this.#blocks - at);
    const segment = this.#segment(index);
    if (segment === undefined) return this.#loadSome(first, some);
    return segment.subarray(
      at * this.#blockSize,
      (at + some) * this.#blockSize,
    );
  }

  /**
   * Half of a hash of a content.
   *
   * @param number Its number.
   * @returns An integer of 32 bits.
   */
  high(number: number): number {
    const at = this.#hashed(number);
    return this.#hashes[at]!;
  }

  /**
   * The other half.
   *
   * @param number The content's number.
   * @returns An integer of 32 bits.
   */
  low(number: number): number {
    const at = this.#hashed(number);
    return this.#hashes[at + 1]!;
  }

  /** Closes the file; nothing that it alone has can be read any more. */
  close(): void {
    this.#file.close();
  }

  #hashed(number: number): number {
    const at = number * 2;
    if (at >= this.#hashes.length) {
      const hashes = new Int32Array((this.count + 1) * 2);
      hashes.set(this.#hashes);
      this.#hashes = hashes;
    }
    if (this.#hashes[at] === 0 && this.#hashes[at + 1] === 0) {
      if (number === 0) this.#hash(0, this.zeroes);
      else this.#hashSegment(Math.floor((number - 1) / this.#blocks));
    }
    return at;
  }

  /** Hashes a whole segment: what one passes by, one passes by in order. */
  #hashSegment(index: number): void {
    const first = index * this.#blocks + 1;
    const count = Math.min(this.#blocks, this.count - first + 1);
    let segment = this.#segments[index] ?? this.#cache.get(index);
    if (segment === undefined) {
      segment = this.#scratch.subarray(0, count * this.#blockSize);
      this.#file.load(first, segment);
    }
    for (let i = 0; i < count; i++) {
      const at = i * this.#blockSize;
      this.#hash(first + i, segment.subarray(at, at + this.#blockSize));
    }
  }

  #hash(number: number, bytes: Uint8Array): void {
    const [high, low] = hashBytes(bytes);
    this.#hashes[number * 2] = high;
    this.#hashes[number * 2 + 1] = high === 0 && low === 0 ? 1 : low;
  }

  /** Memory for one segment. */
  get #scratch(): Uint8Array {
    return this.#segmentMemory ??= new Uint8Array(SEGMENT_BYTES);
  }

  /** The number of a block of the last segment, or the complement of its sum. */
  #find(segment: Uint8Array, at: number): number {
    const words = this.#words;
    const start = at * this.#blockWords;
    const end = start + this.#blockWords;
    let word = start;
    while (word < end && words[word] === 0) word++;
    if (word === end) return 0;
    const sum = crc32(
      segment.subarray(at * this.#blockSize, (at + 1) * this.#blockSize),
    ) >>> 1;
    const slots = this.#slots;
    const mask = slots.length - 1;
    for (let slot = sum << 1 & mask; slots[slot + 1] !== 0;) {
      const number = slots[slot + 1]!;
      if (slots[slot] === sum && this.#equals(number, start)) return number;
      slot = (slot + 2) & mask;
    }
    return ~sum;
  }

  #equals(number: number, start: number): boolean {
    const bytes = this.read(number);
    const other = new Int32Array(
      bytes.buffer,
      bytes.byteOffset,
      this.#blockWords,
    );
    for (let i = 0; i < other.length; i++) {
      if (other[i] !== this.#words[start + i]) return false;
    }
    return true;
  }

  #enter(sum: number): number {
    const number = ++this.count;
    // Half of them are free: elsewhere one looks at many, and each is a miss of
    // the processor's cache.
    if (number * 4 > this.#slots.length) {
      const slots = this.#slots;
      this.#slots = new Int32Array(slots.length * 2);
      for (let slot = 0; slot < slots.length; slot += 2) {
        if (slots[slot + 1] !== 0) this.#place(slots[slot]!, slots[slot + 1]!);
      }
    }
    this.#place(sum, number);
    return number;
  }

  #place(sum: number, number: number): void {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let slot = sum << 1 & mask;
    while (slots[slot + 1] !== 0) slot = (slot + 2) & mask;
    slots[slot] = sum;
    slots[slot + 1] = number;
  }

  /** The last segment, or a new one, with room for one block at least. */
  #segmentWithRoom(wanted: number): Uint8Array<ArrayBuffer> {
    const index = Math.floor(this.count / this.#blocks);
    const used = this.count % this.#blocks * this.#blockSize;
    const present = this.#segments[index] ?? null;
    if (present !== null && used < present.length) return present;
    const least = index > 0
      ? SEGMENT_BYTES
      : Math.max(FIRST_BYTES, used * 4, used + wanted * this.#blockSize);
    const segment = this.#forget() ??
      new Uint8Array(Math.min(least, SEGMENT_BYTES));
    if (present !== null) segment.set(present);
    this.#segments[index] = segment;
    this.#words = new Int32Array(segment.buffer);
    return segment;
  }

  /**
   * Lets the file have the oldest segment, if memory has as many as it may.
   *
   * @returns Its memory, to be used again: no one has a view of it for longer
   * than a call while blocks are added.
   */
  #forget(): Uint8Array<ArrayBuffer> | null {
    if (
      !this.#forgets ||
      this.#segments.length - this.#oldest < this.#mostSegments
    ) return null;
    const segment = this.#segments[this.#oldest]!;
    if (segment.length < SEGMENT_BYTES) return null;
    const first = this.#oldest * this.#blocks + 1;
    if (!this.#file.keep(first, segment)) {
      this.#forgets = false;
      return null;
    }
    this.#segments[this.#oldest++] = null;
    return segment;
  }

  /**
   * A segment, if memory has it or has room for it. Where it must replace another
   * one it is loaded if it was missed just before: for whoever reads on in one,
   * and not for whoever reads here and there.
   */
  #segment(index: number): Uint8Array | undefined {
    const segment = this.#segments[index] ?? this.#cache.get(index);
    if (segment === undefined) {
      if (index === this.#missed || this.#cache.size < CACHED_SEGMENTS) {
        return this.#load(index);
      }
      this.#missed = index;
    } else if (index < this.#oldest) {
      this.#cache.delete(index);
      this.#cache.set(index, segment);
    }
    return segment;
  }

  #loadSome(first: number, count: number): Uint8Array {
    const bytes = new Uint8Array(count * this.#blockSize);
    this.#file.load(first, bytes);
    return bytes;
  }

  #load(index: number): Uint8Array {
    const first = index * this.#blocks + 1;
    const count = Math.min(this.#blocks, this.count - first + 1);
    const segment = new Uint8Array(count * this.#blockSize);
    this.#file.load(first, segment);
    if (this.#cache.size >= CACHED_SEGMENTS) {
      this.#cache.delete(this.#cache.keys().next().value!);
    }
    this.#cache.set(index, segment);
    return segment;
  }
}
