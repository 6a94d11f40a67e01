/**
 * An export: a disk as NBD shows it, in bytes. What all of its connections
 * share is here: memory, and how parts of blocks are written.
 *
 * @module
 */

import { BlockLocks } from "../disk/block_locks.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { ExportFlag, WireError } from "../protocol/nbd/numbers.ts";
import { settleAll } from "../settle_all.ts";
import {
  HEADROOM_BYTES,
  type Memory,
  memoryBytes,
  MemoryPool,
} from "./memory_pool.ts";
import { type ByteRun, RunMap } from "./run_map.ts";

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
  /**
   * Whether what a client trims reads as zeroes from then on, each byte of it:
   * it is zeroed, and may become a hole. A trim alone promises nothing about
   * content, and leaves parts of blocks as they are; fallocate(2) of a file
   * does, with FALLOC_FL_PUNCH_HOLE.
   *
   * @default {false}
   */
  readonly trimToZeroes?: boolean | undefined;
}

/** Sectors that a read asks about first: 512 KiB, and so mostly once. */
const READ_PIECE = 1024;

/** Sectors that a map begins with: 64 KiB. */
const MAP_PIECE = 128;

/** A disk in the words of NBD. */
export class ServedDisk {
  readonly #locks: BlockLocks;
  /** The disk. */
  readonly disk: VirtualDisk;
  /** What clients call it. */
  readonly name: string;
  /** A line about it. */
  readonly description: string;
  /**
   * Bytes of a block of the disk. Requests need not be multiples of it, but it
   * takes a read before each write to change a part of a block.
   */
  readonly blockSize: number;
  /** Bytes that requests go best with. */
  readonly preferredSize: number;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Whether what is trimmed must read as zeroes. */
  readonly trimToZeroes: boolean;
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
   * @throws {DiskError} With kind `closed` if the disk is.
   */
  constructor(from: NbdExport) {
    const { disk } = from;
    VirtualDisk.refuseClosed("serve", disk);
    const { abilities, physicalBlockSize } = disk.info;
    this.disk = disk;
    this.#locks = BlockLocks.of(disk);
    this.name = from.name ?? "";
    this.description = from.description ?? "";
    this.blockSize = disk.blockSize;
    this.preferredSize = Math.max(4096, disk.blockSize, physicalBlockSize);
    this.readOnly = disk.readOnly || (from.readOnly ?? false);
    this.trimToZeroes = from.trimToZeroes ?? false;
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
      const trim = this.trimToZeroes ? "writeZeroes" : "discard";
      if (abilities[trim] !== "none") flags |= ExportFlag.SendTrim;
      if (abilities.writeZeroes !== "none") {
        flags |= ExportFlag.SendWriteZeroes | ExportFlag.SendFastZero;
      }
    }
    this.flags = flags;
  }

  /**
   * Bytes that it has now. A client hears of it once, when it attaches: the
   * protocol has no word for a disk that changes its size.
   */
  get size(): number {
    return this.disk.sectors * SECTOR_BYTES;
  }

  /** Whether a place starts and ends on blocks. */
  isAligned(offset: number, length: number): boolean {
    return offset % this.blockSize === 0 && length % this.blockSize === 0;
  }

  /**
   * The whole blocks that some bytes are in.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @returns Their bytes.
   */
  span(offset: number, length: number): number {
    const block = this.blockSize;
    return Math.ceil((offset + length) / block) * block -
      (offset - offset % block);
  }

  /**
   * What changing parts of blocks takes, beside the data.
   *
   * @returns Bytes of memory.
   */
  get endsBytes(): number {
    return memoryBytes(2 * this.blockSize);
  }

  /**
   * What one request takes at most.
   *
   * @param maxPayload Bytes of data that it has at most.
   * @returns Bytes of memory.
   */
  mostMemory(maxPayload: number): number {
    return memoryBytes(maxPayload + 2 * this.blockSize) + this.endsBytes;
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
    return this.#whole(
      offset,
      length,
      () => this.#writeNow(offset, length, memory, HEADROOM_BYTES, fua),
    );
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
    const span = this.span(offset, length);
    const last = start + span - block;
    const tail = offset + length;
    return this.#alone(
      start,
      span,
      () =>
        this.#withEnds(start, last, async (ends, first, second) => {
          const { bytes } = memory;
          bytes.set(
            ends.bytes.subarray(first, first + offset - start),
            HEADROOM_BYTES,
          );
          bytes.set(
            ends.bytes.subarray(second + tail - last, second + block),
            HEADROOM_BYTES + tail - start,
          );
          await this.#writeNow(start, span, memory, HEADROOM_BYTES, fua);
        }),
    );
  }

  /**
   * Makes bytes zero. Blocks of which only a part is meant are read, changed
   * and written; nobody else changes any of it meanwhile.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @param unmap Whether they may become a hole.
   * @param fua Whether it must be durable when it is done.
   * @returns When it is done.
   */
  writeZeroes(
    offset: number,
    length: number,
    unmap: boolean,
    fua: boolean,
  ): Promise<void> {
    const zero = (from: number, to: number) =>
      this.disk.writeZeroes(
        from / SECTOR_BYTES,
        (to - from) / SECTOR_BYTES,
        { unmap, fua },
      );
    const tail = offset + length;
    if (this.isAligned(offset, length)) {
      return this.#whole(offset, length, () => zero(offset, tail));
    }
    const block = this.blockSize;
    const start = offset - offset % block;
    const end = start + this.span(offset, length);
    const last = end - block;
    return this.#alone(
      start,
      end - start,
      () =>
        this.#withEnds(start, last, async (ends, first, second) => {
          const parts: Promise<void>[] = [];
          const part = (
            at: number,
            place: number,
            zeroed: [number, number],
          ) => {
            const [from, to] = zeroed;
            ends.bytes.fill(0, at + from - place, at + to - place);
            parts.push(this.#writeNow(place, block, ends, at, fua));
          };
          let from = start;
          let to = end;
          if (offset > start || last === start) {
            from += block;
            part(first, start, [offset, Math.min(tail, from)]);
          }
          if (tail < end && last > start) {
            to -= block;
            part(second, last, [last, tail]);
          }
          if (from < to) parts.push(zero(from, to));
          await settleAll(parts);
        }),
    );
  }

  /**
   * Gives up the content of the whole blocks among some bytes, or makes all of
   * the bytes zero, as the export says.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @param fua Whether it must be durable when it is done.
   * @returns When it is done.
   */
  async trim(offset: number, length: number, fua: boolean): Promise<void> {
    if (this.trimToZeroes) {
      return await this.writeZeroes(offset, length, true, fua);
    }
    const block = this.blockSize;
    const first = Math.ceil(offset / block) * block;
    const last = offset + length - (offset + length) % block;
    if (first < last) {
      await this.#whole(first, last - first, () =>
        this.disk.discard(
          first / SECTOR_BYTES,
          (last - first) / SECTOR_BYTES,
        ));
    }
    if (fua) await this.disk.flush();
  }

  /**
   * Where data and holes are, if that is told in a few words.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @param most Runs that are few.
   * @returns Data and holes in turn, from the first byte to the last; `null` if
   * they are more.
   */
  async fewRuns(
    offset: number,
    length: number,
    most: number,
  ): Promise<ByteRun[] | null> {
    const map = new RunMap(this.disk, offset, length, most, READ_PIECE);
    while (!map.done) await map.step();
    return map.runs.length > most ? null : map.runs;
  }

  /**
   * Where data and holes are, to be found step by step.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @param most Runs that are wanted.
   * @returns A map to be made.
   */
  map(offset: number, length: number, most: number): RunMap {
    return new RunMap(this.disk, offset, length, most, MAP_PIECE);
  }

  /** Reads the first and the last block, to do something with them. */
  async #withEnds(
    start: number,
    last: number,
    work: (ends: Memory, first: number, second: number) => Promise<void>,
  ): Promise<void> {
    const block = this.blockSize;
    const ends = this.memory.take(2 * block);
    const first = HEADROOM_BYTES;
    const second = last > start ? first + block : first;
    try {
      const reads = [this.read(start, block, ends, first)];
      if (last > start) reads.push(this.read(last, block, ends, second));
      await settleAll(reads);
      await work(ends, first, second);
    } finally {
      this.memory.give(ends);
    }
  }

  #writeNow(
    offset: number,
    length: number,
    memory: Memory,
    at: number,
    fua: boolean,
  ): Promise<void> {
    return this.disk.write(
      offset / SECTOR_BYTES,
      memory.bytes.subarray(at, at + length),
      fua ? { fua } : undefined,
    );
  }

  /** Changes whole blocks, but not while others change a part of one. */
  #whole(
    offset: number,
    length: number,
    work: () => Promise<void>,
  ): Promise<void> {
    return this.#locks.isFree ? work() : this.#alone(offset, length, work);
  }

  /** Does something while nobody else changes these bytes. */
  #alone(
    offset: number,
    length: number,
    work: () => Promise<void>,
  ): Promise<void> {
    return this.#locks.change(this.disk, offset, length, work);
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
    case "protected":
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
