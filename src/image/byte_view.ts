/**
 * A disk by bytes, in the shape of npm's `file-disk`: what file-system and
 * image libraries of that ecosystem read and write through (`ext2fs`, `fatfs`,
 * `partitioninfo`, `balena-image-fs`). It keeps no content.
 *
 * | bytes | go as |
 * | --- | --- |
 * | whole blocks of the disk | one request, on the caller's memory |
 * | the part of a block at either end of a read | that block, and a copy |
 * | the part of a block at either end of a write | a read-modify-write of that block |
 *
 * A read-modify-write must be alone on its block, or one of two neighbours
 * would put back what the other has changed. So a write holds its blocks, and
 * whatever comes later and shares one waits. All views of one `VirtualDisk` and
 * of its slices share these locks, with whatever serves it by NBD. What is
 * written past them, by the disk's own methods, is not held back.
 *
 * @module
 */

import { BlockLocks } from "../disk/block_locks.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { describeValue, DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { plural } from "../plural.ts";
import { isBytes } from "../request.ts";
import { settleAll } from "../settle_all.ts";

/** What a read of a {@linkcode ByteView} resolves with. */
export interface ByteReadResult<T extends Uint8Array = Uint8Array> {
  /** Bytes that were read: fewer than asked for only at the end of the disk. */
  readonly bytesRead: number;
  /** The memory that was given. */
  readonly buffer: T;
}

/** What a write of a {@linkcode ByteView} resolves with. */
export interface ByteWriteResult<T extends Uint8Array = Uint8Array> {
  /** Bytes that were written: all. */
  readonly bytesWritten: number;
  /** The memory that was given. */
  readonly buffer: T;
}

/**
 * A disk by bytes, in the shape of npm's `file-disk`. Offsets and lengths are in
 * bytes and need not lie on blocks. Closing is the disk's.
 *
 * Operations that share bytes take effect in the order in which they were made.
 *
 * @example Three bytes in the middle of a sector
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { ByteView } from "@platter/disk/image";
 * import { assertEquals } from "@std/assert";
 *
 * await using disk = VirtualDisk.memory({ sectors: 64 });
 * const view = new ByteView(disk);
 * await view.write(new Uint8Array([1, 2, 3]), 0, 3, 1000);
 * const { bytesRead, buffer } = await view.read(new Uint8Array(5), 0, 5, 999);
 * assertEquals(bytesRead, 5);
 * assertEquals(buffer, new Uint8Array([0, 1, 2, 3, 0]));
 * assertEquals(await view.getCapacity(), 64 * 512);
 * ```
 */
export class ByteView {
  readonly #disk: VirtualDisk;
  readonly #locks: BlockLocks;

  /**
   * Constructs a new instance.
   *
   * @param disk The disk, or a slice of one: a partition.
   */
  constructor(disk: VirtualDisk) {
    this.#disk = disk;
    this.#locks = BlockLocks.of(disk);
  }

  /**
   * The size of the disk, once it has the size that a request would see.
   *
   * @returns Bytes.
   */
  getCapacity(): Promise<number> {
    const get = () => Promise.resolve(this.#capacity);
    return VirtualDisk.afterResizes(this.#disk, get);
  }

  /**
   * Reads bytes.
   *
   * @param buffer Where to: the disk's until the promise settles. If it is
   * detached or resized before, the read fails.
   * @param bufferOffset Where in it, in bytes.
   * @param length Bytes.
   * @param fileOffset Where on the disk, in bytes. What lies beyond its end is
   * not read, as of a file.
   * @returns How many bytes were read, and the memory.
   * @throws {RangeError} If a number is none, or the memory is too short.
   * @throws {TypeError} If the memory is none.
   * @throws {DiskError} If the disk fails, with kind `argument` if the memory has
   * changed.
   */
  async read<T extends Uint8Array>(
    buffer: T,
    bufferOffset: number,
    length: number,
    fileOffset: number,
  ): Promise<ByteReadResult<T>> {
    checkOffset("read", "fileOffset", fileOffset);
    const memory = partOf("read", buffer, bufferOffset, length);
    const bytesRead = await VirtualDisk.afterResizes(this.#disk, async () => {
      const bytes = Math.min(length, this.#capacity - fileOffset);
      if (bytes <= 0) return 0;
      const read = () => this.#read(memory, length, fileOffset, bytes);
      // What is being written is waited for; reads do not keep each other off.
      if (this.#locks.isFree) await read();
      else await this.#locks.alone(this.#disk, fileOffset, bytes, read);
      return bytes;
    });
    return { bytesRead, buffer };
  }

  /**
   * Writes bytes. Where they begin or end inside of a block, that block is read,
   * changed and written.
   *
   * @param buffer What. It must stay as it is until the promise settles: if it is
   * detached or resized before it was taken, the write fails.
   * @param bufferOffset Where in it, in bytes.
   * @param length Bytes.
   * @param fileOffset Where on the disk, in bytes.
   * @returns How many bytes were written, and the memory.
   * @throws {RangeError} If a number is none, or the memory is too short.
   * @throws {TypeError} If the memory is none.
   * @throws {DiskError} With kind `range`, and nothing written, if that is not
   * all on the disk; with kind `argument` if the memory has changed; or as the
   * disk fails.
   */
  async write<T extends Uint8Array>(
    buffer: T,
    bufferOffset: number,
    length: number,
    fileOffset: number,
  ): Promise<ByteWriteResult<T>> {
    checkOffset("write", "fileOffset", fileOffset);
    const memory = partOf("write", buffer, bufferOffset, length);
    const parts = this.#partsOf(fileOffset, length);
    // Copied now: an edge is written only after its block has been read.
    const edges = parts.edges.map(([start, end]) => ({
      start,
      bytes: memory.slice(start - fileOffset, end - fileOffset),
    }));
    const [start, end] = parts.middle;
    const middle = memory.subarray(start - fileOffset, end - fileOffset);
    const write = async () => {
      // Or the edges would be written around what is not.
      if (middle.length !== end - start) {
        throw changed("write", fileOffset, length);
      }
      await settleAll([
        ...edges.map((edge) => this.#modify(edge.start, edge.bytes)),
        ...(start === end ? [] : [this.#disk.write(sectorOf(start), middle)]),
      ]);
    };
    await VirtualDisk.afterResizes(this.#disk, async () => {
      this.#checkEnd("write", fileOffset, length);
      if (length === 0) return;
      await this.#locks.change(this.#disk, fileOffset, length, write);
    });
    return { bytesWritten: length, buffer };
  }

  /**
   * Makes every write that was made before it durable, awaited or not. What that
   * means on the disk is in its `info.durability`.
   *
   * @returns When it is done.
   * @throws {DiskError} If the flush fails. A write that failed says so itself.
   */
  async flush(): Promise<void> {
    // Of those that read a block first, the disk does not know yet.
    const settled = () => this.#locks.settled();
    await VirtualDisk.afterResizes(this.#disk, settled);
    await this.#disk.flush();
  }

  /**
   * Gives up the content of bytes: they may read as anything afterwards. Only
   * whole blocks are, as a device would have it.
   *
   * @param offset Where on the disk, in bytes.
   * @param length Bytes.
   * @returns When it is done.
   * @throws {RangeError} If a number is none.
   * @throws {DiskError} With kind `unsupported` if the disk cannot do that, or as
   * it fails.
   */
  async discard(offset: number, length: number): Promise<void> {
    checkOffset("discard", "offset", offset);
    checkOffset("discard", "length", length);
    const [start, end] = this.#partsOf(offset, length).middle;
    await VirtualDisk.afterResizes(this.#disk, async () => {
      this.#checkEnd("discard", offset, length);
      if (start === end) return;
      await this.#locks.change(
        this.#disk,
        start,
        end - start,
        () => this.#disk.discard(sectorOf(start), sectorOf(end - start)),
      );
    });
  }

  get #capacity(): number {
    return this.#disk.sectors * SECTOR_BYTES;
  }

  /** Reads the first `bytes` of the `length` that memory had when it was given. */
  async #read(
    memory: Uint8Array,
    length: number,
    offset: number,
    bytes: number,
  ): Promise<void> {
    const check = () => {
      if (memory.length !== length) throw changed("read", offset, length);
    };
    check();
    const { edges, middle: [start, end] } = this.#partsOf(offset, bytes);
    await settleAll([
      ...edges.map(async ([from, to]) => {
        const block = await this.#blockAt(from);
        check();
        const at = from % block.length;
        memory.set(block.subarray(at, at + to - from), from - offset);
      }),
      ...(start === end ? [] : [
        this.#disk.readInto(
          sectorOf(start),
          memory.subarray(start - offset, end - offset),
        ),
      ]),
    ]);
    check();
  }

  /** Writes a part of one block, and keeps the rest of it. */
  async #modify(offset: number, bytes: Uint8Array): Promise<void> {
    const block = await this.#blockAt(offset);
    const at = offset % block.length;
    block.set(bytes, at);
    await this.#disk.write(sectorOf(offset - at), block);
  }

  /** The block that a byte lies in. */
  async #blockAt(offset: number): Promise<Uint8Array> {
    const { blockSize } = this.#disk;
    const block = this.#disk.allocate(blockSize / SECTOR_BYTES);
    await this.#disk.readInto(sectorOf(offset - offset % blockSize), block);
    return block;
  }

  /** Divides bytes into whole blocks and what is left around. */
  #partsOf(offset: number, length: number): Parts {
    const { blockSize } = this.#disk;
    const end = offset + length;
    const first = offset + (blockSize - offset % blockSize) % blockSize;
    const last = end - end % blockSize;
    // Both ends in one block, and none of them on its border.
    if (first > last) return { edges: [[offset, end]], middle: [first, first] };
    const edges: [number, number][] = [];
    if (offset < first) edges.push([offset, first]);
    if (last < end) edges.push([last, end]);
    return { edges, middle: [first, last] };
  }

  #checkEnd(operation: string, offset: number, length: number): void {
    const capacity = this.#capacity;
    if (offset + length <= capacity) return;
    throw new DiskError(
      "range",
      `Cannot ${operation} ${
        plural(length, "byte")
      } at byte ${offset} as the disk has ${plural(capacity, "byte")}`,
      { operation },
    );
  }
}

/** A range in bytes: whole blocks in the middle, parts of blocks at its edges. */
interface Parts {
  readonly edges: readonly (readonly [start: number, end: number])[];
  readonly middle: readonly [start: number, end: number];
}

function sectorOf(byte: number): number {
  return byte / SECTOR_BYTES;
}

function partOf(
  operation: string,
  buffer: Uint8Array,
  bufferOffset: number,
  length: number,
): Uint8Array {
  if (!isBytes(buffer)) {
    throw new TypeError(
      `Cannot ${operation} bytes as the memory must be a Uint8Array: current value is ${
        describeValue(buffer)
      }`,
    );
  }
  checkOffset(operation, "bufferOffset", bufferOffset);
  checkOffset(operation, "length", length);
  if (bufferOffset + length > buffer.length) {
    throw new RangeError(
      `Cannot ${operation} ${
        plural(length, "byte")
      } as the memory must have as many from byte ${bufferOffset} on: current value is ${
        plural(buffer.length, "byte")
      }`,
    );
  }
  return new Uint8Array(
    buffer.buffer,
    buffer.byteOffset + bufferOffset,
    length,
  );
}

function checkOffset(operation: string, name: string, value: number): void {
  if (Number.isSafeInteger(value) && value >= 0) return;
  throw new RangeError(
    `Cannot ${operation} bytes as ${name} must be a safe integer of at least 0: current value is ${value}`,
  );
}

function changed(operation: string, offset: number, length: number): DiskError {
  return new DiskError(
    "argument",
    `Cannot ${operation} ${
      plural(length, "byte")
    } at byte ${offset} as the memory was detached or resized while it was in flight`,
    { operation },
  );
}
