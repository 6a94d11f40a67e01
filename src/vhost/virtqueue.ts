/**
 * One split virtqueue, from the device's side: takes chains of descriptors that
 * a driver made available, and puts them back as used.
 *
 * The ring lies in memory that the driver may change at any time. So every field
 * is loaded once into a local, and only that is looked at; what the driver could
 * do wrong is a {@linkcode VirtqueueError}, after which the queue is not touched
 * any more. Nothing a driver writes makes a loop longer than the queue is.
 *
 * Which access is which (OASIS virtio 1.3 §2.7.13, Linux
 * `drivers/vhost/vring.c`), by {@linkcode RegionMemory}:
 *
 * | access | order | against |
 * | --- | --- | --- |
 * | load avail.idx | acquire | its ring, descriptors and buffers are newer |
 * | store used.idx | release | data, status and used elements come before it |
 * | store used.idx, load used_event or avail.flags | full barrier | the driver's store of used_event, load of used.idx |
 * | store avail_event or used.flags, load avail.idx | full barrier | the driver's store of avail.idx, load of avail_event |
 *
 * @module
 */

import { alignedMemory, readU64 } from "../../ffi/memory.ts";
import type { MemoryMap, Piece } from "./memory_map.ts";

/** A driver broke the rules of the ring; the queue cannot go on. */
export class VirtqueueError extends Error {
  /** Always `"VirtqueueError"`. */
  override readonly name = "VirtqueueError";
}

/** The largest queue that is taken; the specification's own limit is 32,768. */
export const MAX_VIRTQUEUE_SIZE = 1024;

/** The most queues that a device has. */
export const MAX_QUEUES = 64;

/**
 * Descriptors of one chain in a table of its own. The specification has them be
 * no more than the queue has; Linux makes as many as `seg_max` allows, however
 * short the queue is.
 */
const MAX_INDIRECT = 1024;

// include/uapi/linux/virtio_ring.h.
const DESC_BYTES = 16;
const DESC_NEXT = 1;
const DESC_WRITE = 2;
const DESC_INDIRECT = 4;
const AVAIL_NO_INTERRUPT = 1;
const USED_NO_NOTIFY = 1;
const RING_AT = 4;
const USED_BYTES = 8;

/** Where a queue lies and how it is used. */
export interface VirtqueueOptions {
  /** Descriptors: a power of two up to {@linkcode MAX_VIRTQUEUE_SIZE}. */
  readonly size: number;
  /** The front end's address of the descriptors, a multiple of 16. */
  readonly descriptors: number;
  /** The front end's address of what is available, even. */
  readonly available: number;
  /** The front end's address of what is used, a multiple of 4. */
  readonly used: number;
  /** Whether used_event and avail_event are in use. */
  readonly eventIndex: boolean;
  /** Whether descriptors may lie in tables of their own. */
  readonly indirect: boolean;
}

/** What a driver made available at once: a request. */
export interface Chain {
  /** The first descriptor's index, which names the chain. */
  readonly head: number;
  /** What the device reads, in order. */
  readonly readable: Piece[];
  /** What the device writes, in order. */
  readonly writable: Piece[];
}

/** Where a queue's chains in flight are noted, by their heads. */
export interface InflightLog {
  /**
   * Begins, or goes on where another one ended.
   *
   * @param used The ring's index of what is used.
   * @returns The chains that are in flight, in the order in which they were taken;
   * `null` if nothing was noted so far.
   * @throws {VirtqueueError} If what is noted cannot be.
   * @throws {GuestFault} If the memory has gone.
   */
  recover(used: number): number[] | null;
  /**
   * Notes that a chain was taken.
   *
   * @param head Its name, below the ring's size.
   * @throws {GuestFault} If the memory has gone.
   */
  begin(head: number): void;
  /**
   * Notes that a chain was put back, and is to be shown with the next ones.
   *
   * @param head Its name.
   * @throws {GuestFault} If the memory has gone.
   */
  end(head: number): void;
  /**
   * Notes that the driver sees what was put back.
   *
   * @param used The ring's index of what is used.
   * @throws {GuestFault} If the memory has gone.
   */
  settle(used: number): void;
  /** Forgets what was put back and not shown: it stays in flight. */
  dropUnshown(): void;
}

/** One split virtqueue in a guest's memory. */
export class Virtqueue {
  readonly #memory: MemoryMap;
  readonly #options: VirtqueueOptions;
  readonly #mask: number;
  readonly #descriptors: Piece;
  readonly #available: Piece;
  readonly #used: Piece;
  /** Where used_event and avail_event are in their parts. */
  readonly #usedEventAt: number;
  readonly #availEventAt: number;
  /** Free-running: the next to be taken. */
  #nextAvailable: number;
  /** Free-running: the next to be used, and how far the driver knows. */
  #nextUsed: number;
  #published: number;
  /** Whether the driver was told of something since the start. */
  #told = false;
  /** Chains that were taken and not put back, by head. */
  readonly #taken: Uint8Array;
  /** Chains that a device before this one took, which are given once more. */
  readonly #again: number[];
  /** Where what is in flight is noted; `null` if it is not. */
  readonly #inflight: InflightLog | null;
  readonly #element = alignedMemory(DESC_BYTES, 16);
  readonly #view = new DataView(
    this.#element.buffer,
    this.#element.byteOffset,
    DESC_BYTES,
  );
  readonly #usedElement = this.#element.subarray(0, USED_BYTES);
  readonly #headElement = this.#element.subarray(0, 2);
  #table: Uint8Array<ArrayBuffer> | null = null;
  #tableView: DataView | null = null;

  /**
   * Constructs a new instance.
   *
   * @param memory The guest's memory; it is held by whoever has the queue.
   * @param options Where the queue lies and how it is used.
   * @param from Where it goes on: the index of the next chain; or an instance
   * before it, whose chains are put back to this one.
   * @param inflight Where what is in flight is noted. What a device before this
   * one had in flight comes first, and says where it goes on.
   * @throws {VirtqueueError} If its size or an address is none that there can be.
   * @throws {GuestFault} If it is not in the guest's memory.
   */
  constructor(
    memory: MemoryMap,
    options: VirtqueueOptions,
    from: number | Virtqueue,
    inflight: InflightLog | null = null,
  ) {
    const { size, descriptors, available, used } = options;
    if (
      !(size >= 1 && size <= MAX_VIRTQUEUE_SIZE) || (size & (size - 1)) !== 0
    ) {
      throw new VirtqueueError(
        `Cannot use a ring as its size must be a power of two up to ${MAX_VIRTQUEUE_SIZE}: current value is ${size}`,
      );
    }
    if (
      descriptors % DESC_BYTES !== 0 || available % 2 !== 0 || used % 4 !== 0
    ) {
      throw new VirtqueueError(
        "Cannot use a ring as its parts must be aligned to 16, 2 and 4 bytes",
      );
    }
    this.#memory = memory;
    this.#options = options;
    this.#mask = size - 1;
    this.#usedEventAt = RING_AT + 2 * size;
    this.#availEventAt = RING_AT + USED_BYTES * size;
    // The event fields are there whether or not they are in use: §2.7.
    this.#descriptors = memory.findByUser(descriptors, DESC_BYTES * size);
    this.#available = memory.findByUser(available, this.#usedEventAt + 2);
    this.#used = memory.findByUser(used, this.#availEventAt + 2);
    const { memory: usedMemory, at } = this.#used;
    this.#nextUsed = usedMemory.loadU16(at + 2);
    this.#published = this.#nextUsed;
    this.#inflight = inflight;
    if (typeof from !== "number") {
      this.#nextAvailable = from.#nextAvailable;
      this.#taken = from.#taken;
      this.#again = from.#again;
      inflight?.dropUnshown();
      return;
    }
    const again = inflight?.recover(this.#nextUsed) ?? null;
    // Whatever was taken is either used or in flight.
    const next = again === null ? from : this.#nextUsed + again.length;
    this.#nextAvailable = next & 0xffff;
    this.#taken = new Uint8Array(size);
    this.#again = again ?? [];
  }

  /** Where the queue goes on: the index of the next chain, 16 bits. */
  get nextAvailable(): number {
    return this.#nextAvailable;
  }

  /** Whether {@linkcode Virtqueue.takeAgain} has any left. */
  get hasAgain(): boolean {
    return this.#again.length > 0;
  }

  /**
   * Takes the next chain.
   *
   * @returns The chain; `null` if there is none.
   * @throws {VirtqueueError} If the driver broke the rules.
   * @throws {GuestFault} If a buffer is not in the guest's memory.
   */
  take(): Chain | null {
    const again = this.takeAgain();
    if (again !== null) return again;
    const { memory, at } = this.#available;
    const index = memory.loadU16(at + 2);
    const ahead = (index - this.#nextAvailable) & 0xffff;
    if (ahead === 0) return null;
    if (ahead > this.#options.size) {
      throw new VirtqueueError(
        `Cannot take a chain as the driver must not be more than ${this.#options.size} ahead: current value is ${ahead}`,
      );
    }
    const slot = this.#nextAvailable & this.#mask;
    memory.read(at + RING_AT + 2 * slot, this.#headElement);
    const head = this.#view.getUint16(0, true);
    if (head > this.#mask) {
      throw new VirtqueueError(
        `Cannot take a chain as its head must be below ${this.#options.size}: current value is ${head}`,
      );
    }
    if (this.#taken[head] !== 0) {
      throw new VirtqueueError(
        `Cannot take a chain as descriptor ${head} must not be in use already`,
      );
    }
    const chain = this.#follow(head);
    this.#inflight?.begin(head);
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
    return chain;
  }

  /**
   * Takes the next chain of those that a device before this one took, which come
   * before {@linkcode Virtqueue.nextAvailable}.
   *
   * @returns The chain; `null` if there is none left.
   * @throws {VirtqueueError} If the driver broke the rules.
   * @throws {GuestFault} If a buffer is not in the guest's memory.
   */
  takeAgain(): Chain | null {
    const head = this.#again.shift();
    return head === undefined ? null : this.#follow(head);
  }

  /**
   * Puts a chain back. The driver does not know of it before
   * {@linkcode Virtqueue.publish}.
   *
   * @param head Its name.
   * @param written Bytes that were written, from the first writable one on.
   * @throws {GuestFault} If the ring's memory has gone.
   */
  put(head: number, written: number): void {
    this.#taken[head] = 0;
    this.#view.setUint32(0, head, true);
    this.#view.setUint32(4, written, true);
    const slot = this.#nextUsed & this.#mask;
    const { memory, at } = this.#used;
    memory.write(at + RING_AT + USED_BYTES * slot, this.#usedElement);
    this.#inflight?.end(head);
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
  }

  /**
   * Shows the driver what was put back.
   *
   * @returns Whether it wants to be told.
   * @throws {GuestFault} If the ring's memory has gone.
   */
  publish(): boolean {
    const before = this.#published;
    const now = this.#nextUsed;
    if (before === now) return false;
    this.#published = now;
    this.#used.memory.storeU16(this.#used.at + 2, now);
    this.#inflight?.settle(now);
    const first = !this.#told;
    this.#told = true;
    const { memory, at } = this.#available;
    if (!this.#options.eventIndex) {
      return first || (memory.loadU16(at) & AVAIL_NO_INTERRUPT) === 0;
    }
    const event = memory.loadU16(at + this.#usedEventAt);
    return first || ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
  }

  /**
   * Asks the driver not to tell of new chains, where it can be asked: with
   * events it tells of one that was named, which is past already.
   *
   * @throws {GuestFault} If the ring's memory has gone.
   */
  stopKicks(): void {
    if (!this.#options.eventIndex) {
      this.#used.memory.storeU16(this.#used.at, USED_NO_NOTIFY);
    }
  }

  /**
   * Asks the driver to tell of the next chain.
   *
   * @returns Whether there is one already, of which it may not tell.
   * @throws {GuestFault} If the ring's memory has gone.
   */
  wantKick(): boolean {
    const { memory, at } = this.#used;
    if (this.#options.eventIndex) {
      memory.storeU16(at + this.#availEventAt, this.#nextAvailable);
    } else memory.storeU16(at, 0);
    return this.#available.memory.loadU16(this.#available.at + 2) !==
      this.#nextAvailable;
  }

  #follow(head: number): Chain {
    const chain: Chain = { head, readable: [], writable: [] };
    this.#walk(chain);
    this.#taken[head] = 1;
    return chain;
  }

  /** Follows a chain from its head to its end, into tables and out of memory. */
  #walk(chain: Chain): void {
    const { memory, at } = this.#descriptors;
    let entries = this.#options.size;
    let index = chain.head;
    let table: DataView | null = null;
    // In each table no more steps than it has entries: more are a loop.
    for (let steps = 0; steps < entries; steps++) {
      if (table === null) {
        memory.read(at + DESC_BYTES * index, this.#element);
      }
      const view = table ?? this.#view;
      const place = table === null ? 0 : DESC_BYTES * index;
      const address = readU64(view, place);
      const length = view.getUint32(place + 8, true);
      const flags = view.getUint16(place + 12, true);
      const next = view.getUint16(place + 14, true);
      if ((flags & DESC_INDIRECT) !== 0) {
        if (
          !this.#options.indirect || table !== null || (flags & DESC_NEXT) !== 0
        ) {
          throw new VirtqueueError(
            "Cannot follow a descriptor as a table must be agreed on, stand last, and not in a table",
          );
        }
        table = this.#copyTable(address, length);
        entries = length / DESC_BYTES;
        index = 0;
        steps = -1;
        continue;
      }
      if (length === 0) {
        throw new VirtqueueError(
          "Cannot follow a descriptor as its buffer must have at least one byte",
        );
      }
      if ((flags & DESC_WRITE) !== 0) {
        this.#memory.find(address, length, chain.writable);
      } else if (chain.writable.length > 0) {
        throw new VirtqueueError(
          "Cannot follow a chain as what the device reads must come before what it writes",
        );
      } else this.#memory.find(address, length, chain.readable);
      if ((flags & DESC_NEXT) === 0) return;
      if (next >= entries) {
        throw new VirtqueueError(
          `Cannot follow a chain as the next descriptor must be below ${entries}: current value is ${next}`,
        );
      }
      index = next;
    }
    throw new VirtqueueError("Cannot follow a chain as it must not be a loop");
  }

  /** A copy of a table, as the driver may change it while it is read. */
  #copyTable(address: number, length: number): DataView {
    if (
      length === 0 || length % DESC_BYTES !== 0 ||
      length > MAX_INDIRECT * DESC_BYTES
    ) {
      throw new VirtqueueError(
        `Cannot follow a table of descriptors as it must have from 1 to ${MAX_INDIRECT} of ${DESC_BYTES} bytes: current value is ${length} bytes`,
      );
    }
    const table = this.#table ??= alignedMemory(
      MAX_INDIRECT * DESC_BYTES,
      DESC_BYTES,
    );
    const pieces: Piece[] = [];
    this.#memory.find(address, length, pieces);
    let done = 0;
    for (const piece of pieces) {
      piece.memory.read(piece.at, table.subarray(done, done + piece.length));
      done += piece.length;
    }
    return this.#tableView ??= new DataView(
      table.buffer,
      table.byteOffset,
      table.length,
    );
  }
}
