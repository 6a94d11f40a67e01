/**
 * The driver's side of a split virtqueue.
 *
 * Source: OASIS virtio 1.3 §2.7 "Split Virtqueues". The indices are read and
 * written by `Atomics`, which are sequentially consistent; that covers every
 * barrier of §2.7.13.
 *
 * @module
 */

import type { GuestMemory } from "./memory.ts";

/** Flags of a descriptor. */
export const DescriptorFlag = { Next: 1, Write: 2, Indirect: 4 } as const;

/** VIRTQ_AVAIL_F_NO_INTERRUPT, and VIRTQ_USED_F_NO_NOTIFY. */
const SUPPRESS = 1;

/** Bytes of a descriptor. */
export const DESCRIPTOR_BYTES = 16;

/** One buffer of a chain. */
export interface Buffer {
  /** Its guest address. */
  readonly address: number;
  /** Bytes. */
  readonly length: number;
  /** Whether the device writes it. */
  readonly write: boolean;
}

/** A chain that the device has used. */
export interface Used {
  /** Its first descriptor. */
  readonly head: number;
  /** Bytes that the device says it wrote. */
  readonly length: number;
}

/** A split virtqueue, as its driver has it. */
export class Ring {
  readonly #memory: GuestMemory;
  readonly #eventIndex: boolean;
  readonly #at: number;
  readonly #byteLength: number;
  readonly #descriptors: DataView<ArrayBuffer>;
  readonly #available: Uint16Array<ArrayBuffer>;
  readonly #used: Uint16Array<ArrayBuffer>;
  readonly #usedView: DataView<ArrayBuffer>;
  readonly #free: number[] = [];
  /** The descriptors of each chain, by the first one. */
  readonly #chains = new Map<number, number[]>();
  /** The next available index, and what of it was published. */
  #next = 0;
  #published = 0;
  /** The next used index to look at. */
  #seen = 0;
  /** Descriptors. */
  readonly size: number;
  /** Guest addresses of its three parts. */
  readonly parts: {
    readonly descriptors: number;
    readonly available: number;
    readonly used: number;
  };

  /**
   * Makes a ring in guest memory.
   *
   * @param memory The guest's memory.
   * @param size Descriptors, a power of two.
   * @param eventIndex Whether EVENT_IDX was negotiated.
   * @param skew Bytes that its parts are moved by from where they would be
   * aligned to pages: a multiple of 16.
   */
  constructor(
    memory: GuestMemory,
    size: number,
    eventIndex: boolean,
    skew = 0,
  ) {
    this.#memory = memory;
    this.size = size;
    this.#eventIndex = eventIndex;
    const tableBytes = DESCRIPTOR_BYTES * size;
    const availableBytes = 6 + 2 * size;
    // 2 bytes are enough for the available ring, 4 for the used one.
    const availableAt = tableBytes + skew + (skew === 0 ? 0 : 2);
    const usedAt = Math.ceil((availableAt + availableBytes) / 4) * 4;
    this.#byteLength = skew + usedAt + 6 + 8 * size;
    const at = memory.take(this.#byteLength, true);
    if (at === null) throw new RangeError("There is no memory for a ring");
    this.#at = at;
    const start = at + skew;
    this.parts = {
      descriptors: start,
      available: start + availableAt,
      used: start + usedAt,
    };
    const shorts = (address: number, count: number) => {
      const { buffer, byteOffset } = memory.view(address, count * 2);
      return new Uint16Array(buffer, byteOffset, count);
    };
    const view = (address: number, bytes: number) => {
      const { buffer, byteOffset } = memory.view(address, bytes);
      return new DataView(buffer, byteOffset, bytes);
    };
    memory.view(at, this.#byteLength).fill(0);
    this.#descriptors = view(this.parts.descriptors, tableBytes);
    this.#available = shorts(this.parts.available, 3 + size);
    this.#used = shorts(this.parts.used, 3 + 4 * size);
    this.#usedView = view(this.parts.used, 6 + 8 * size);
    for (let i = size - 1; i >= 0; i--) this.#free.push(i);
  }

  /** Gives its memory back. */
  release(): void {
    this.#memory.give(this.#at, this.#byteLength);
  }

  /** Descriptors that are free. */
  get free(): number {
    return this.#free.length;
  }

  /** Chains that the device has. */
  get outstanding(): number {
    return this.#chains.size;
  }

  /** The next available index: where a device begins if it is given the ring. */
  get nextAvailable(): number {
    return this.#published;
  }

  /** What the device has used so far, modulo 2^16. */
  get usedIndex(): number {
    return Atomics.load(this.#used, 1);
  }

  /**
   * Makes a chain, which the device sees once it is published.
   *
   * @param buffers What the device reads, then what it writes.
   * @param table The guest address of memory for a table of descriptors, and
   * how many descriptors come before the one that points to it; `null` for a
   * chain without one.
   * @returns The first descriptor; `null` if too few are free.
   */
  add(
    buffers: readonly Buffer[],
    table: { address: number; before: number } | null = null,
  ): number | null {
    const direct = table === null ? buffers : buffers.slice(0, table.before);
    const rest = buffers.slice(direct.length);
    const count = direct.length + (table === null ? 0 : 1);
    if (this.#free.length < count) return null;
    const chain = Array.from({ length: count }, () => this.#free.pop()!);
    direct.forEach((buffer, i) => {
      const next = chain[i + 1];
      this.put(
        chain[i]!,
        buffer.address,
        buffer.length,
        flagsOf(buffer, next !== undefined),
        next ?? 0,
      );
    });
    if (table !== null) {
      const bytes = new Uint8Array(DESCRIPTOR_BYTES * rest.length);
      const view = new DataView(bytes.buffer);
      rest.forEach((buffer, i) => {
        const more = i < rest.length - 1;
        putDescriptor(
          view,
          i,
          buffer.address,
          buffer.length,
          flagsOf(buffer, more),
          more ? i + 1 : 0,
        );
      });
      this.#memory.write(table.address, bytes);
      this.put(
        chain.at(-1)!,
        table.address,
        bytes.length,
        DescriptorFlag.Indirect,
        0,
      );
    }
    this.offer(chain[0]!);
    this.#chains.set(chain[0]!, chain);
    return chain[0]!;
  }

  /** Writes one descriptor. */
  put(
    index: number,
    address: number | bigint,
    length: number,
    flags: number,
    next: number,
  ): void {
    putDescriptor(this.#descriptors, index, address, length, flags, next);
  }

  /** Puts a descriptor into the available ring. */
  offer(head: number): void {
    this.#available[2 + (this.#next & (this.size - 1))] = head;
    this.#next = (this.#next + 1) & 0xffff;
  }

  /**
   * Shows the device what was added.
   *
   * @returns Whether it wants to be told.
   */
  publish(): boolean {
    const before = this.#published;
    this.#published = this.#next;
    if (before === this.#next) return false;
    Atomics.store(this.#available, 1, this.#next);
    if (!this.#eventIndex) {
      return (Atomics.load(this.#used, 0) & SUPPRESS) === 0;
    }
    const event = Atomics.load(this.#used, 2 + 4 * this.size);
    return passes(event, before, this.#next);
  }

  /** Sets the available index to anything. */
  forge(index: number): void {
    this.#next = index & 0xffff;
    this.#published = this.#next;
    Atomics.store(this.#available, 1, this.#next);
  }

  /**
   * Takes what the device has used.
   *
   * @returns The chains, in the device's order.
   * @throws If it used what it was not given.
   */
  take(): Used[] {
    const all: Used[] = [];
    for (
      const end = Atomics.load(this.#used, 1);
      this.#seen !== end;
      this.#seen = (this.#seen + 1) & 0xffff
    ) {
      const at = 4 + 8 * (this.#seen & (this.size - 1));
      const head = this.#usedView.getUint32(at, true);
      const length = this.#usedView.getUint32(at + 4, true);
      const chain = this.#chains.get(head);
      if (chain === undefined) {
        throw new Error(`The device used descriptor ${head}, which it has not`);
      }
      this.#chains.delete(head);
      this.#free.push(...chain);
      all.push({ head, length });
    }
    return all;
  }

  /**
   * Asks to be told of what is used from now on.
   *
   * @param delay How many of them need not be told of.
   * @returns Whether there is something already.
   */
  listen(delay = 0): boolean {
    if (this.#eventIndex) {
      const event = (this.#seen + delay) & 0xffff;
      Atomics.store(this.#available, 2 + this.size, event);
    } else {
      Atomics.store(this.#available, 0, 0);
    }
    const ready = (Atomics.load(this.#used, 1) - this.#seen) & 0xffff;
    return ready > (this.#eventIndex ? delay : 0);
  }

  /** Asks not to be told, which a device need not heed. */
  ignore(): void {
    if (!this.#eventIndex) Atomics.store(this.#available, 0, SUPPRESS);
  }
}

/** Whether an index passed an event's: vring_need_event() of virtio_ring.h. */
function passes(event: number, before: number, after: number): boolean {
  return ((after - event - 1) & 0xffff) < ((after - before) & 0xffff);
}

function flagsOf(buffer: Buffer, more: boolean): number {
  return (buffer.write ? DescriptorFlag.Write : 0) |
    (more ? DescriptorFlag.Next : 0);
}

/** Writes a descriptor into a table. */
export function putDescriptor(
  table: DataView,
  index: number,
  address: number | bigint,
  length: number,
  flags: number,
  next: number,
): void {
  const at = index * DESCRIPTOR_BYTES;
  table.setBigUint64(at, BigInt(address), true);
  table.setUint32(at + 8, length, true);
  table.setUint16(at + 12, flags, true);
  table.setUint16(at + 14, next, true);
}
