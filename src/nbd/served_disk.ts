/**
 * An export: a disk as NBD shows it, in bytes. What all of its connections
 * share is here: memory, and the lock for writes of less than a block.
 *
 * @module
 */

import { RangeLock } from "../backends/range_lock.ts";
import type { VirtualDisk } from "../disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { ExportFlag, WireError } from "../nbd_wire.ts";
import { HEADROOM_BYTES, type Memory, MemoryPool } from "./memory_pool.ts";

/** A disk to be served. */
export interface NbdExport {
  /** The disk; the server never closes it. */
  readonly disk: VirtualDisk;
  /**
   * The name that clients ask for.
   *
   * @default {""}
   */
  readonly name?: string | undefined;
  /** A line about it, for clients that list exports. */
  readonly description?: string | undefined;
  /**
   * Whether writes are refused, whatever the disk does.
   *
   * @default {false}
   */
  readonly readOnly?: boolean | undefined;
}

/** Extents that one answer has at most. */
const MAX_EXTENTS = 4096;

/** Sectors whose extents are asked for at once: 128 MiB. */
const EXTENT_SECTORS = 262_144;

/** A run of bytes that is data or a hole. */
export interface ByteRun {
  /** First byte. */
  start: number;
  /** The byte after the last. */
  end: number;
  /** Whether it is a hole, which reads as zeroes. */
  hole: boolean;
}

/** A disk in the words of NBD. */
export class ServedDisk {
  readonly #lock = new RangeLock();
  #claims = 0;
  /** The disk. */
  readonly disk: VirtualDisk;
  /** What clients call it. */
  readonly name: string;
  /** A line about it. */
  readonly description: string;
  /** Bytes that it has. */
  readonly size: number;
  /** Bytes that requests should be multiples of. */
  readonly blockSize: number;
  /** Bytes that requests go best with. */
  readonly preferredSize: number;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Whether zeroes are moved to be written. */
  readonly slowZeroes: boolean;
  /** What it can do; DF comes on top where replies come in chunks. */
  readonly flags: number;
  /** Memory for requests. */
  readonly memory: MemoryPool;

  /**
   * Constructs a new instance.
   *
   * @param from The disk and how to show it.
   */
  constructor(from: NbdExport) {
    const { disk } = from;
    const { abilities, physicalBlockSize } = disk.info;
    this.disk = disk;
    this.name = from.name ?? "";
    this.description = from.description ?? "";
    this.size = disk.sectors * SECTOR_BYTES;
    this.blockSize = disk.blockSize;
    this.preferredSize = Math.max(4096, disk.blockSize, physicalBlockSize);
    this.readOnly = disk.readOnly || (from.readOnly ?? false);
    this.slowZeroes = abilities.writeZeroes !== "native";
    this.memory = new MemoryPool((sectors) => disk.allocate(sectors));
    // One queue carries out the requests of all connections, and its flush
    // covers every write before it, whoever made it.
    let flags: number = ExportFlag.HasFlags | ExportFlag.CanMultiConn |
      ExportFlag.SendCache;
    if (abilities.flush !== "none") flags |= ExportFlag.SendFlush;
    if (this.readOnly) {
      flags |= ExportFlag.ReadOnly;
    } else {
      if (abilities.fua !== "none" && abilities.flush !== "none") {
        flags |= ExportFlag.SendFua;
      }
      if (abilities.discard !== "none") flags |= ExportFlag.SendTrim;
      if (abilities.writeZeroes !== "none") {
        flags |= ExportFlag.SendWriteZeroes | ExportFlag.SendFastZero;
      }
    }
    this.flags = flags;
  }

  /** Whether a place starts and ends on blocks. */
  isAligned(offset: number, length: number): boolean {
    return offset % this.blockSize === 0 && length % this.blockSize === 0;
  }

  /**
   * Reads whole blocks.
   *
   * @param offset First byte, on a block.
   * @param length Bytes, whole blocks.
   * @param memory Where to.
   * @param at Offset in the memory.
   * @returns When it is done.
   */
  read(
    offset: number,
    length: number,
    memory: Memory,
    at: number,
  ): Promise<void> {
    return this.disk.readInto(
      offset / SECTOR_BYTES,
      memory.bytes.subarray(at, at + length),
    );
  }

  /**
   * Writes whole blocks, but not while others change a part of one.
   *
   * @param offset First byte, on a block.
   * @param length Bytes, whole blocks.
   * @param memory Where from; the data begins at its usual place.
   * @param fua Whether it must be durable when it is done.
   * @returns When it is done.
   */
  write(
    offset: number,
    length: number,
    memory: Memory,
    fua: boolean,
  ): Promise<void> {
    if (this.#claims > 0) {
      return this.#alone(
        offset,
        length,
        () => this.#writeNow(offset, length, memory, fua),
      );
    }
    return this.#writeNow(offset, length, memory, fua);
  }

  /**
   * Writes bytes that are not whole blocks: reads the blocks at both ends,
   * changes them and writes all of it, alone on them.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @param memory Where from; the block that the first byte is in begins at the
   * usual place.
   * @param fua Whether it must be durable when it is done.
   * @returns When it is done.
   */
  modify(
    offset: number,
    length: number,
    memory: Memory,
    fua: boolean,
  ): Promise<void> {
    const block = this.blockSize;
    const start = offset - offset % block;
    const end = Math.ceil((offset + length) / block) * block;
    return this.#alone(start, end - start, async () => {
      const ends = this.memory.take(2 * block);
      try {
        const last = end - block;
        const base = HEADROOM_BYTES;
        const { bytes } = memory;
        await Promise.all([
          this.read(start, block, ends, base),
          ...(last > start ? [this.read(last, block, ends, base + block)] : []),
        ]);
        bytes.set(ends.bytes.subarray(base, base + offset - start), base);
        const tail = offset + length;
        const from = last > start ? base + block : base;
        bytes.set(
          ends.bytes.subarray(from + tail - last, from + block),
          base + tail - start,
        );
        await this.#writeNow(start, end - start, memory, fua);
      } finally {
        this.memory.give(ends);
      }
    });
  }

  /**
   * Makes bytes zero.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @param unmap Whether they may become a hole.
   * @param fua Whether it must be durable when it is done.
   * @returns When it is done.
   */
  async writeZeroes(
    offset: number,
    length: number,
    unmap: boolean,
    fua: boolean,
  ): Promise<void> {
    const block = this.blockSize;
    const end = offset + length;
    const first = Math.ceil(offset / block) * block;
    const last = end - end % block;
    const parts: Promise<void>[] = [];
    if (first < last) {
      const zero = () =>
        this.disk.writeZeroes(
          first / SECTOR_BYTES,
          (last - first) / SECTOR_BYTES,
          { unmap, fua },
        );
      parts.push(
        this.#claims > 0 ? this.#alone(first, last - first, zero) : zero(),
      );
    }
    if (offset < first) {
      parts.push(this.#zeroPart(offset, Math.min(first, end), fua));
    }
    if (last < end && last >= first) {
      parts.push(this.#zeroPart(last, end, fua));
    }
    for (const result of await Promise.allSettled(parts)) {
      if (result.status === "rejected") throw result.reason;
    }
  }

  /**
   * Gives up the content of the whole blocks among some bytes.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @param fua Whether it must be durable when it is done.
   * @returns When it is done.
   */
  async trim(offset: number, length: number, fua: boolean): Promise<void> {
    const block = this.blockSize;
    const first = Math.ceil(offset / block) * block;
    const last = offset + length - (offset + length) % block;
    if (first < last) {
      await this.disk.discard(
        first / SECTOR_BYTES,
        (last - first) / SECTOR_BYTES,
      );
    }
    if (fua) await this.disk.flush();
  }

  /**
   * Where data and holes are. A long list is cut: at least one run is told.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @returns Data and holes in turn, from the first byte on.
   */
  async runs(offset: number, length: number): Promise<ByteRun[]> {
    const end = offset + length;
    const block = this.blockSize / SECTOR_BYTES;
    const last = Math.ceil(end / this.blockSize) * block;
    const runs: ByteRun[] = [];
    let at = Math.floor(offset / this.blockSize) * block;
    while (at < last && runs.length < MAX_EXTENTS) {
      const count = Math.min(EXTENT_SECTORS, last - at);
      for (
        const { sector, count: sectors, hole } of await this.disk.extents(
          at,
          count,
        )
      ) {
        const start = Math.max(offset, sector * SECTOR_BYTES);
        const runEnd = Math.min(end, (sector + sectors) * SECTOR_BYTES);
        const before = runs.at(-1);
        if (before?.hole === hole) before.end = runEnd;
        else if (start < runEnd) runs.push({ start, end: runEnd, hole });
      }
      at += count;
    }
    return runs;
  }

  async #zeroPart(start: number, end: number, fua: boolean): Promise<void> {
    const memory = this.memory.take(this.blockSize);
    try {
      memory.bytes.fill(0);
      await this.modify(start, end - start, memory, fua);
    } finally {
      this.memory.give(memory);
    }
  }

  #writeNow(
    offset: number,
    length: number,
    memory: Memory,
    fua: boolean,
  ): Promise<void> {
    return this.disk.write(
      offset / SECTOR_BYTES,
      memory.bytes.subarray(HEADROOM_BYTES, HEADROOM_BYTES + length),
      fua ? { fua } : undefined,
    );
  }

  /** Does something while nobody else changes these bytes. */
  async #alone(
    offset: number,
    length: number,
    work: () => Promise<void>,
  ): Promise<void> {
    this.#claims++;
    const release = await new Promise<() => void>((resolve) =>
      this.#lock.claim(offset, offset + length, resolve)
    );
    try {
      await work();
    } finally {
      this.#claims--;
      release();
    }
  }
}

/**
 * The error number that stands for a disk's error on the wire.
 *
 * @param error What the disk said.
 * @param writes Whether it was a write.
 * @returns The number.
 */
export function wireErrorOf(error: unknown, writes: boolean): number {
  if (!(error instanceof DiskError)) return WireError.EIO;
  switch (error.kind) {
    case "read-only":
    case "permission":
      return WireError.EPERM;
    case "argument":
    case "alignment":
    case "unsupported":
      return WireError.EINVAL;
    case "range":
      return writes ? WireError.ENOSPC : WireError.EINVAL;
    case "no-space":
      return WireError.ENOSPC;
    case "closed":
      return WireError.ESHUTDOWN;
    default:
      return WireError.EIO;
  }
}
