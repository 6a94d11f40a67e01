/**
 * A file in a region of a disk: any bytes from any offset, on a disk that moves
 * whole blocks. A write that does not fill its first or last block reads it
 * first. Nothing is durable before {@linkcode Volume.sync}.
 *
 * @module
 */

import { SECTOR_BYTES, type VirtualDisk } from "@platter/disk";
import type { RegionState } from "./volume_header.ts";

/** Bytes that are read at once at least: small reads mostly come in rows. */
const WINDOW_BYTES = 8192;

/** Bytes of zeroes that are written at once where a file skips some. */
const ZEROES_BYTES = 65_536;

/** A write beyond the end of a file's region. */
export class RegionFullError extends Error {
  /** Always `"RegionFullError"`. */
  override readonly name = "RegionFullError";
}

/** A file in a region. One operation at a time. */
export class VolumeFile {
  readonly #disk: VirtualDisk;
  readonly #sync: () => Promise<void>;
  /** The region, and the file as the newest header shows it. */
  #shown: RegionState;
  #size: number;
  #exists: boolean;
  /**
   * The largest size that a header gives the file, of those that a power cut
   * may leave: the durable one, and the ones written since.
   */
  #reach: number;
  /** Less than that if the file was cut off since: the smallest size it had. */
  #floor: number;

  // What was read last, kept in step with what is written.
  #window: Uint8Array<ArrayBuffer>;
  #windowStart = 0;
  #windowEnd = 0;

  /**
   * Constructs a new instance.
   *
   * @param disk The disk.
   * @param state The region, and the file as the durable header shows it.
   * @param sync Makes everything on the volume durable.
   */
  constructor(
    disk: VirtualDisk,
    state: RegionState,
    sync: () => Promise<void>,
  ) {
    this.#disk = disk;
    this.#sync = sync;
    this.#shown = state;
    this.#size = state.size;
    this.#exists = state.exists;
    this.#reach = state.size;
    this.#floor = state.size;
    this.#window = disk.allocate(WINDOW_BYTES / SECTOR_BYTES);
  }

  /** Its name. */
  get name(): string {
    return this.#shown.name;
  }

  /** Bytes that it has. */
  get size(): number {
    return this.#size;
  }

  /** Whether it exists. */
  get exists(): boolean {
    return this.#exists;
  }

  /** The file as a header must show it. */
  get state(): RegionState {
    return { ...this.#shown, size: this.#size, exists: this.#exists };
  }

  /** Whether the newest header shows it otherwise than it is. */
  get changed(): boolean {
    return this.#shown.size !== this.#size ||
      this.#shown.exists !== this.#exists;
  }

  /** Whether it is longer than the newest header shows it. */
  get grown(): boolean {
    return this.#size > this.#shown.size;
  }

  /** Makes it exist, empty. */
  create(): void {
    this.#exists = true;
  }

  /** Makes it exist no more. */
  remove(): void {
    this.truncate(0);
    this.#exists = false;
  }

  /**
   * Cuts it off.
   *
   * @param size Bytes that stay.
   */
  truncate(size: number): void {
    this.#size = Math.min(this.#size, size);
    this.#floor = Math.min(this.#floor, this.#size);
  }

  /**
   * Reads.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @returns The bytes that there are of these; valid until the next call.
   */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const end = Math.min(offset + length, this.#size);
    if (end <= offset) return new Uint8Array(0);
    if (offset < this.#windowStart || end > this.#windowEnd) {
      await this.#load(offset, end);
    }
    return this.#window.subarray(
      offset - this.#windowStart,
      end - this.#windowStart,
    );
  }

  /**
   * Writes.
   *
   * @param offset First byte; bytes between the end and it become zeroes.
   * @param data What to write; it is not used after the call has returned.
   * @throws {RegionFullError} If the region ends before.
   */
  async write(offset: number, data: Uint8Array): Promise<void> {
    const end = offset + data.length;
    const capacity = this.#shown.sectors * SECTOR_BYTES;
    if (end > capacity) {
      throw new RegionFullError(
        `Cannot write ${data.length} bytes at ${offset} of "${this.name}" as its region has ${capacity} bytes`,
      );
    }
    const block = this.#disk.blockSize;
    const first = offset - offset % block;
    const last = Math.ceil(end / block) * block;
    const blocks = this.#disk.allocate((last - first) / SECTOR_BYTES);
    blocks.set(data, offset - first);
    while (this.#size < offset) {
      const gap = Math.min(offset - this.#size, ZEROES_BYTES);
      await this.write(this.#size, new Uint8Array(gap));
    }
    // What was cut off is still part of the file in a header that a power cut
    // may bring back. Only when there is none may its place be used again: an
    // old journal with a few new pages in it would be taken for a whole one.
    if (
      offset < this.#reach && end > this.#floor && this.#floor < this.#reach
    ) {
      await this.#sync();
    }
    if (offset > first) blocks.set(await this.read(first, offset - first));
    if (end < last) blocks.set(await this.read(end, last - end), end - first);
    try {
      await this.#disk.write(this.#shown.sector + first / SECTOR_BYTES, blocks);
    } catch (error) {
      this.#windowEnd = this.#windowStart;
      throw error;
    }
    this.#size = Math.max(this.#size, end);
    this.#keep(first, blocks);
  }

  /** A header that shows the file as it is was written. */
  published(): void {
    this.#shown = this.state;
    if (this.#size < this.#reach) return;
    this.#reach = this.#floor = this.#size;
  }

  /** The newest header is durable, and with it no other can come back. */
  flushed(): void {
    this.#reach = this.#shown.size;
    this.#floor = this.#size;
  }

  /** Reads the blocks of a range, and some more, into the window. */
  async #load(offset: number, end: number): Promise<void> {
    const block = this.#disk.blockSize;
    const start = offset - offset % block;
    const wanted = Math.max(
      Math.ceil(end / block) * block,
      start + WINDOW_BYTES,
    );
    const length = Math.min(wanted, Math.ceil(this.#size / block) * block) -
      start;
    if (this.#window.length < length) {
      this.#window = this.#disk.allocate(length / SECTOR_BYTES);
    }
    this.#windowEnd = this.#windowStart = start;
    await this.#disk.readInto(
      this.#shown.sector + start / SECTOR_BYTES,
      this.#window.subarray(0, length),
    );
    this.#windowEnd = start + length;
  }

  /** Takes over what was written, where it overlaps or continues the window. */
  #keep(first: number, blocks: Uint8Array): void {
    const start = this.#windowStart;
    const room = start + this.#window.length;
    if (first > this.#windowEnd || first >= room || first < start) {
      // A row of small writes goes on from the last block of this one.
      const block = this.#disk.blockSize;
      this.#windowEnd = first + blocks.length;
      this.#windowStart = this.#windowEnd - block;
      this.#window.set(blocks.subarray(blocks.length - block));
      return;
    }
    const to = Math.min(first + blocks.length, room);
    this.#window.set(blocks.subarray(0, to - first), first - start);
    this.#windowEnd = Math.max(this.#windowEnd, to);
  }
}
