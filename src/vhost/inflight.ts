/**
 * Which requests of a device's rings are in flight, noted in memory that the
 * front end keeps: a device that ended without a word, and was started again
 * (reconnect), reads there what it still owes the driver.
 *
 * The descriptors that the rings are made of say what was made available and what
 * was used, in which order too. They do not say which of those before the last
 * used one are still open when answers come out of order. So each ring has a
 * table here, by descriptor:
 *
 * | when | what is noted, in this order |
 * | --- | --- |
 * | a chain is taken | its place among all (counter), then that it is in flight |
 * | it is put back | the chain put back before it (next), then that it is the last one |
 * | what was put back is shown | after the ring's index: that each is no longer in flight, then the index |
 *
 * A process may end between any two of these. Where the ring's index is ahead of
 * the one noted, the last answers were shown and not noted yet: they are found
 * from the last one on, by `next`. Whatever is in flight then is carried out once
 * more, in its first order. None of it was answered, so the driver has not touched
 * its buffers meanwhile, and each request of a disk may be done twice.
 *
 * Layout: QEMU, docs/interop/vhost-user.rst, "Inflight I/O tracking", split
 * rings; the distance from ring to ring is that of `libvhost-user`. Behind the
 * last one this device has a word of its own: the write cache's state, which a
 * guest sets once and no front end repeats. The memory may be changed by whoever
 * else has it at any time: each field is loaded once and then looked at.
 *
 * @module
 */

import { alignedMemory, writeU64 } from "../../ffi/memory.ts";
import type { RegionMemory } from "./memory_map.ts";
import { type InflightMessage, VhostProtocolError } from "./messages.ts";
import {
  type InflightLog,
  MAX_QUEUES,
  MAX_VIRTQUEUE_SIZE,
  VirtqueueError,
} from "./virtqueue.ts";

// struct QueueRegionSplit: u64 features@0, u16 version@8, u16 desc_num@10,
// u16 last_batch_head@12, u16 used_idx@14, then one struct for each descriptor.
const VERSION_AT = 8;
const SIZE_AT = 10;
const LAST_AT = 12;
const USED_AT = 14;
const HEADER_BYTES = 16;
const VERSION = 1;

// struct DescStateSplit: u8 inflight@0, 5 bytes of nothing, u16 next@6,
// u64 counter@8. The first two bytes are stored as one word.
const STATE_BYTES = 16;
const NEXT_AT = 6;
const COUNTER_AT = 8;
const COUNTER_BYTES = 8;

/** Rings begin at multiples of this, as those of `libvhost-user` do. */
const ALIGNMENT = 64;

/** The word behind the last ring. Memory that nobody has noted in has 0. */
const CACHE_ON = 1;
const CACHE_OFF = 2;
const CACHE_BYTES = 2;

/** How many rings are noted, and of how many descriptors. */
export type InflightShape = Pick<InflightMessage, "queues" | "queueSize">;

/**
 * Bytes that the memory of a device has.
 *
 * @param shape Rings and descriptors.
 * @returns The bytes.
 */
export function inflightBytes({ queues, queueSize }: InflightShape): number {
  return queues * distance(queueSize) + ALIGNMENT;
}

/** The memory in which a device notes what is in flight. */
export class InflightRegion {
  readonly #memory: RegionMemory;
  readonly #shape: InflightShape;
  /** Where the write cache's state is; `null` if there is no room. */
  readonly #cacheAt: number | null;

  /**
   * Constructs a new instance.
   *
   * @param memory The memory; it is given back by {@linkcode release}.
   * @param message What the front end says of it.
   * @throws {VhostProtocolError} If there can be no rings as it says, or they do
   * not fit in.
   */
  constructor(memory: RegionMemory, message: InflightMessage) {
    const { queues, queueSize, byteLength } = checkInflight(message);
    const end = queues * distance(queueSize);
    if (byteLength < end) {
      throw new VhostProtocolError(
        `Cannot note requests in flight as their memory must have ${end} bytes: current value is ${byteLength}`,
      );
    }
    this.#memory = memory;
    this.#shape = { queues, queueSize };
    this.#cacheAt = byteLength >= end + CACHE_BYTES ? end : null;
  }

  /**
   * Whether the driver has the write cache on; `null` if nothing was noted so far.
   * If it was somewhere else, by a device that notes no such thing, the cache is
   * taken to be off, which loses nothing.
   *
   * @throws {GuestFault} If the memory has gone.
   */
  get writeback(): boolean | null {
    const noted = this.#cacheAt === null
      ? 0
      : this.#memory.loadU16(this.#cacheAt);
    if (noted === CACHE_ON) return true;
    return noted === CACHE_OFF || this.#isUsed ? false : null;
  }

  /**
   * Notes whether the driver has the write cache on.
   *
   * @param on Whether it is on.
   * @throws {GuestFault} If the memory has gone.
   */
  noteWriteback(on: boolean): void {
    if (this.#cacheAt === null) return;
    this.#memory.storeU16(this.#cacheAt, on ? CACHE_ON : CACHE_OFF);
  }

  /**
   * The part of a ring.
   *
   * @param index The ring's number.
   * @param size Its descriptors.
   * @returns What notes its requests.
   * @throws {VhostProtocolError} If the memory is not for such a ring.
   */
  queue(index: number, size: number): InflightQueue {
    const { queues, queueSize } = this.#shape;
    if (index >= queues || size > queueSize) {
      throw new VhostProtocolError(
        `Cannot start ring ${index} of ${size} as there is memory for ${queues} rings of ${queueSize} to note requests in flight`,
      );
    }
    return new InflightQueue(this.#memory, index * distance(queueSize), size);
  }

  /** Gives the memory back. */
  release(): void {
    this.#memory.release();
  }

  get #isUsed(): boolean {
    const { queues, queueSize } = this.#shape;
    for (let i = 0; i < queues; i++) {
      const at = i * distance(queueSize) + VERSION_AT;
      if (this.#memory.loadU16(at) !== 0) return true;
    }
    return false;
  }
}

/** What is noted of one ring. */
export class InflightQueue implements InflightLog {
  readonly #memory: RegionMemory;
  readonly #at: number;
  readonly #size: number;
  readonly #counterBytes = alignedMemory(COUNTER_BYTES, 8);
  readonly #view = new DataView(
    this.#counterBytes.buffer,
    this.#counterBytes.byteOffset,
    COUNTER_BYTES,
  );
  /** The place of the next chain among all. */
  #counter = 1;
  /** The chain that was put back last. */
  #last = 0;
  /** Chains that were put back and not shown yet. */
  readonly #batch: number[] = [];

  /**
   * Constructs a new instance.
   *
   * @param memory The memory.
   * @param at Where the ring's part begins.
   * @param size Descriptors of the ring.
   */
  constructor(memory: RegionMemory, at: number, size: number) {
    this.#memory = memory;
    this.#at = at;
    this.#size = size;
  }

  /** Begins, or goes on where another one ended. */
  recover(used: number): number[] | null {
    const memory = this.#memory;
    const version = memory.loadU16(this.#at + VERSION_AT);
    if (version === 0) {
      memory.storeU16(this.#at + SIZE_AT, this.#size);
      memory.storeU16(this.#at + USED_AT, used);
      memory.storeU16(this.#at + VERSION_AT, VERSION);
      return null;
    }
    if (version !== VERSION) {
      throw new VirtqueueError(
        `Cannot go on with a ring as what is in flight must be noted in version ${VERSION}: current value is ${version}`,
      );
    }
    this.#last = memory.loadU16(this.#at + LAST_AT);
    this.#noteShown(used);
    const found: [head: number, counter: bigint][] = [];
    for (let head = 0; head < this.#size; head++) {
      const at = this.#stateOf(head);
      if ((memory.loadU16(at) & 0xff) === 0) continue;
      memory.read(at + COUNTER_AT, this.#counterBytes);
      found.push([head, this.#view.getBigUint64(0, true)]);
    }
    found.sort(([, one], [, other]) => one < other ? -1 : one > other ? 1 : 0);
    const [, newest] = found.at(-1) ?? [0, 0n];
    this.#counter = Number(newest) + 1;
    return found.map(([head]) => head);
  }

  /** Notes that a chain was taken. */
  begin(head: number): void {
    const at = this.#stateOf(head);
    writeU64(this.#view, 0, this.#counter++);
    this.#memory.write(at + COUNTER_AT, this.#counterBytes);
    this.#memory.storeU16(at, 1);
  }

  /** Notes that a chain was put back, and is to be shown with the next ones. */
  end(head: number): void {
    this.#memory.storeU16(this.#stateOf(head) + NEXT_AT, this.#last);
    this.#memory.storeU16(this.#at + LAST_AT, head);
    this.#last = head;
    this.#batch.push(head);
  }

  /** Notes that the driver sees what was put back. */
  settle(used: number): void {
    for (const head of this.#batch) {
      this.#memory.storeU16(this.#stateOf(head), 0);
    }
    this.#batch.length = 0;
    this.#memory.storeU16(this.#at + USED_AT, used);
  }

  /** Forgets what was put back and not shown: it stays in flight. */
  dropUnshown(): void {
    this.#batch.length = 0;
  }

  /** Notes what was shown by a device that ended before it could. */
  #noteShown(used: number): void {
    const noted = this.#memory.loadU16(this.#at + USED_AT);
    const count = (used - noted) & 0xffff;
    if (count > this.#size) {
      throw new VirtqueueError(
        `Cannot go on with a ring as at most ${this.#size} answers must be shown and not noted: current value is ${count}`,
      );
    }
    let head = this.#last;
    for (let i = 0; i < count; i++) {
      if (head >= this.#size) {
        throw new VirtqueueError(
          `Cannot go on with a ring as an answer must be to a descriptor below ${this.#size}: current value is ${head}`,
        );
      }
      this.#memory.storeU16(this.#stateOf(head), 0);
      head = this.#memory.loadU16(this.#stateOf(head) + NEXT_AT);
    }
    this.#memory.storeU16(this.#at + USED_AT, used);
  }

  #stateOf(head: number): number {
    return this.#at + HEADER_BYTES + STATE_BYTES * head;
  }
}

/**
 * Checks how many rings are to be noted, and of how many descriptors.
 *
 * @param shape Rings and descriptors.
 * @returns The same.
 * @throws {VhostProtocolError} If there are none, or too many.
 */
export function checkInflight<T extends InflightShape>(shape: T): T {
  const { queues, queueSize } = shape;
  if (
    queues >= 1 && queues <= MAX_QUEUES &&
    queueSize >= 1 && queueSize <= MAX_VIRTQUEUE_SIZE
  ) return shape;
  throw new VhostProtocolError(
    `Cannot note requests in flight as there must be 1 to ${MAX_QUEUES} rings of 1 to ${MAX_VIRTQUEUE_SIZE} descriptors: current values are ${queues} and ${queueSize}`,
  );
}

/** Bytes from one ring to the next. */
function distance(queueSize: number): number {
  return Math.ceil((HEADER_BYTES + STATE_BYTES * queueSize) / ALIGNMENT) *
    ALIGNMENT;
}
