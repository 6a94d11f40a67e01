/**
 * A virtio-blk device over a disk, for one driver: its features, its
 * configuration space, and what it does with each chain that a driver makes
 * available.
 *
 * Rules: OASIS virtio 1.3 §5.2.6 "Device Operation"; where the specification
 * leaves a choice, QEMU's `virtio-blk-handler.c`.
 *
 * Data goes from guest memory to the disk as it is where it lies in whole
 * sectors, and may be given away; or else through memory of our own, piece by
 * piece. Guest memory that was lent may change meanwhile, by the guest: what is
 * looked at (header, ranges) is copied first.
 *
 * @module
 */

import { alignedMemory, readU64 } from "../../ffi/memory.ts";
import type { Abilities } from "../backend.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import {
  ID_BYTES,
  Request,
  RequestFlag,
  RequestType,
  Status,
} from "../request.ts";
import {
  configOf,
  encodeConfig,
  featuresOf,
  hasFeature,
  VirtioFeature,
  type VirtioOptions,
} from "../virtio.ts";
import { type BouncePool, MAX_BOUNCE_BYTES } from "./bounce_pool.ts";
import type { VhostCounters } from "./counters.ts";
import type { Piece } from "./memory_map.ts";
import {
  byteLengthOf,
  copyIn,
  copyOut,
  cutFront,
  cutLastByte,
} from "./pieces.ts";
import { type Chain, VirtqueueError } from "./virtqueue.ts";

/** struct virtio_blk_outhdr: le32 type@0, le32 ioprio@4, le64 sector@8. */
const HEADER_BYTES = 16;
/** Of drivers before virtio 1.0: the request is a barrier. */
const BARRIER = 0x8000_0000;
/** struct virtio_blk_discard_write_zeroes: le64 sector@0, le32 count@8, flags@12. */
const RANGE_BYTES = 16;
const RANGE_UNMAP = 1;
/** Ranges of one request to discard, to write zeroes or to erase. */
const MAX_RANGES = 16;
/** Where `writeback` is in the configuration space. */
const WRITEBACK_AT = 32;

/** Bytes that one request to the disk moves at most: a longer one is cut. */
const MAX_LENT_BYTES = 4_194_304;

/** How a device is set up. */
export interface BlockDeviceOptions {
  /** Whether writes are refused, although the disk may take them. */
  readonly readOnly: boolean;
  /** Request queues. */
  readonly queues: number;
}

/** A virtio-blk device, for one driver. */
export class BlockDevice {
  readonly #disk: VirtualDisk;
  readonly #options: BlockDeviceOptions;
  readonly #virtio: VirtioOptions;
  readonly #bounces: BouncePool;
  readonly #counters: VhostCounters;
  /** What the driver took of the features. */
  #features = 0n;
  /** Whether a flush is among them. */
  #flushes = false;
  /** Whether the write cache is on; `null` until that has been settled. */
  #writeback: boolean | null = null;
  /** For what is read and written at once. */
  readonly #scratch = alignedMemory(HEADER_BYTES + 1, 16);
  readonly #header = this.#scratch.subarray(0, HEADER_BYTES);
  readonly #headerView = new DataView(
    this.#header.buffer,
    this.#header.byteOffset,
    HEADER_BYTES,
  );
  readonly #status = this.#scratch.subarray(HEADER_BYTES);

  /**
   * Constructs a new instance.
   *
   * @param disk The disk.
   * @param options How it is set up.
   * @param bounces Memory to bounce data through.
   * @param counters Where requests are counted.
   */
  constructor(
    disk: VirtualDisk,
    options: BlockDeviceOptions,
    bounces: BouncePool,
    counters: VhostCounters,
  ) {
    this.#disk = disk;
    this.#options = options;
    this.#virtio = {
      queues: options.queues,
      configWce: true,
      maxRanges: MAX_RANGES,
    };
    this.#bounces = bounces;
    this.#counters = counters;
  }

  /** The features that it offers, without those of the rings. */
  get features(): bigint {
    return featuresOf(this.#abilities, this.#virtio);
  }

  /**
   * Takes what a driver took of the features. The write cache stays as it is,
   * also for another driver and after a reset: QEMU reads the configuration space
   * once, and tells each driver what the last one wrote there.
   *
   * @param features The features.
   */
  setFeatures(features: bigint): void {
    this.#features = features;
    this.#flushes = hasFeature(features, VirtioFeature.Flush);
  }

  /**
   * Its configuration space now. Whoever reads it before the first ring starts
   * learns that the write cache is on.
   *
   * @returns The bytes.
   */
  config(): Uint8Array<ArrayBuffer> {
    this.#writeback ??= true;
    return encodeConfig(
      configOf(this.#disk.info, this.#abilities, {
        ...this.#virtio,
        writeback: this.#writeback,
      }),
    );
  }

  /**
   * Takes what a driver writes to the configuration space: of all fields,
   * `writeback` alone can be written. Without a write cache, every write is
   * durable when it is answered from here on, and so is, when this is done, what
   * was answered before: the driver has no reason to flush any more.
   *
   * @param offset First byte.
   * @param bytes The bytes.
   * @returns Whether they were taken.
   */
  async setConfig(offset: number, bytes: Uint8Array): Promise<boolean> {
    const value = bytes[0];
    // Also before the features are known: a front end keeps what was written.
    if (offset !== WRITEBACK_AT || bytes.length !== 1 || value! > 1) {
      return false;
    }
    return await this.setWriteback(value === 1);
  }

  /** Whether the driver has the write cache on; `null` until that is settled. */
  get writeback(): boolean | null {
    return this.#writeback;
  }

  /**
   * Settles that the write cache is off, unless the front end has read that it is
   * on, or said something: then an earlier device may have been told to turn it
   * off, and a driver that believes so never flushes.
   */
  settleWriteback(): void {
    this.#writeback ??= false;
  }

  /**
   * Turns the write cache on or off, from now on.
   *
   * @param on Whether it is on.
   * @returns When what was answered before is durable, if it is off: whether it
   * is.
   */
  async setWriteback(on: boolean): Promise<boolean> {
    const before = this.#writeback;
    this.#writeback = on;
    if (before === false || on) return true;
    try {
      await this.#disk.flush();
      return true;
    } catch {
      // The disk refuses writes from now on, which tells the driver.
      return false;
    }
  }

  /**
   * Carries out a request and writes its status.
   *
   * @param chain The request.
   * @returns Bytes written to the chain, from its first writable one on.
   * @throws {VirtqueueError} If there is no header, or no place for a status.
   * @throws {GuestFault} If its memory has gone.
   */
  async carryOut(chain: Chain): Promise<number> {
    const { readable, writable } = chain;
    const readableBytes = byteLengthOf(readable);
    if (readableBytes < HEADER_BYTES || writable.length === 0) {
      throw new VirtqueueError(
        `Cannot take a request as it must have ${HEADER_BYTES} bytes to read and one to write: current values are ${readableBytes} and ${
          byteLengthOf(writable)
        }`,
      );
    }
    copyOut(cutFront(readable, HEADER_BYTES), this.#header);
    const statusAt = cutLastByte(writable);
    const type = (this.#headerView.getUint32(0, true) & ~BARRIER) >>> 0;
    const sector = readU64(this.#headerView, 8);
    let status: Status;
    let written = 1;
    switch (type) {
      case RequestType.In: {
        const bytes = byteLengthOf(writable);
        status = await this.#transfer(type, sector, writable, bytes);
        if (status === Status.Ok) {
          written += bytes;
          this.#counters.bytesRead += bytes;
        }
        break;
      }
      case RequestType.Out: {
        const bytes = readableBytes - HEADER_BYTES;
        status = this.#readOnly
          ? Status.IoErr
          : await this.#transfer(type, sector, readable, bytes);
        if (status === Status.Ok) this.#counters.bytesWritten += bytes;
        break;
      }
      case RequestType.Flush:
        status = this.#flushes
          ? await this.#disk.submit(new Request(type, 0, 0))
          : Status.Unsupp;
        break;
      case RequestType.GetId: {
        const id = alignedMemory(ID_BYTES, 8);
        status = await this.#disk.submit(new Request(type, 0, 0, 0, id));
        const bytes = byteLengthOf(writable);
        const given = Math.min(ID_BYTES, bytes);
        if (status === Status.Ok && given > 0) {
          copyIn(cutFront(writable, given), id.subarray(0, given));
          written = given < bytes ? given : given + 1;
        }
        break;
      }
      case RequestType.Discard:
        status = await this.#ranges(type, VirtioFeature.Discard, readable);
        break;
      case RequestType.WriteZeroes:
        status = await this.#ranges(type, VirtioFeature.WriteZeroes, readable);
        break;
      case RequestType.SecureErase:
        status = await this.#ranges(type, VirtioFeature.SecureErase, readable);
        break;
      default:
        status = Status.Unsupp;
    }
    this.#counters.requests++;
    if (status !== Status.Ok) this.#counters.errors++;
    this.#status[0] = status;
    statusAt.memory.write(statusAt.at, this.#status);
    return written;
  }

  get #readOnly(): boolean {
    return this.#options.readOnly || this.#disk.readOnly;
  }

  /** What the driver may have done. */
  get #abilities(): Abilities {
    const { abilities } = this.#disk.info;
    return this.#options.readOnly
      ? { ...abilities, readOnly: true }
      : abilities;
  }

  /** Of writes: whether they must be durable when they are answered. */
  get #flags(): number {
    return this.#writeback && this.#flushes ? 0 : RequestFlag.Fua;
  }

  /** Moves data; most often that is one request to the disk. */
  #transfer(
    type: RequestType,
    sector: number,
    data: Piece[],
    bytes: number,
  ): Status | Promise<Status> {
    // Whole blocks: the disk says so itself. It counts sectors of the whole.
    if (
      bytes === 0 || bytes % SECTOR_BYTES !== 0 ||
      sector + bytes / SECTOR_BYTES > this.#disk.sectors
    ) return Status.IoErr;
    sector += this.#disk.start;
    const lent = this.#lend(data);
    if (lent !== null) {
      this.#counters.lent++;
      if (bytes <= MAX_LENT_BYTES) {
        return this.#submit(type, sector, bytes, lent);
      }
    } else this.#counters.bounced++;
    return this.#transferParts(type, sector, data, bytes, lent !== null);
  }

  /** Moves data one part after the other, which bounds what it costs at once. */
  async #transferParts(
    type: RequestType,
    sector: number,
    data: Piece[],
    bytes: number,
    isLent: boolean,
  ): Promise<Status> {
    for (let left = bytes; left > 0;) {
      const length = Math.min(
        left,
        isLent ? MAX_LENT_BYTES : MAX_BOUNCE_BYTES,
      );
      const part = cutFront(data, length);
      const status = isLent
        ? await this.#submit(type, sector, length, this.#lend(part)!)
        : await this.#bounce(type, sector, length, part);
      if (status !== Status.Ok) return status;
      sector += length / SECTOR_BYTES;
      left -= length;
    }
    return Status.Ok;
  }

  /** Guest memory as segments of a request; `null` if it cannot be that. */
  #lend(data: readonly Piece[]): Uint8Array<ArrayBuffer>[] | null {
    const segments: Uint8Array<ArrayBuffer>[] = [];
    for (const { memory, at, length } of data) {
      if (length % SECTOR_BYTES !== 0) return null;
      const segment = memory.lend(at, length);
      if (segment === null) return null;
      segments.push(segment);
    }
    return segments;
  }

  async #bounce(
    type: RequestType,
    sector: number,
    length: number,
    data: Piece[],
  ): Promise<Status> {
    const taken = this.#bounces.take(length);
    const memory = taken instanceof Promise ? await taken : taken;
    try {
      const bytes = memory.subarray(0, length);
      if (type === RequestType.Out) copyOut(data, bytes);
      const status = await this.#submit(type, sector, length, [bytes]);
      if (type === RequestType.In && status === Status.Ok) copyIn(data, bytes);
      return status;
    } finally {
      this.#bounces.give(memory);
    }
  }

  /** Asks the disk; the segments are the request's from here on. */
  #submit(
    type: RequestType,
    sector: number,
    length: number,
    segments: Uint8Array<ArrayBuffer>[],
  ): Promise<Status> {
    const first = segments.shift()!;
    return this.#disk.submit(
      new Request(
        type,
        sector,
        length / SECTOR_BYTES,
        type === RequestType.Out ? this.#flags : 0,
        first,
        segments,
      ),
    );
  }

  /** Discards, zeroes or erases: all ranges are looked at before the first. */
  async #ranges(
    type: RequestType,
    feature: VirtioFeature,
    payload: Piece[],
  ): Promise<Status> {
    if (this.#readOnly) return Status.IoErr;
    if (!hasFeature(this.#features, feature)) return Status.Unsupp;
    const bytes = byteLengthOf(payload);
    if (
      bytes === 0 || bytes % RANGE_BYTES !== 0 ||
      bytes > MAX_RANGES * RANGE_BYTES
    ) return Status.IoErr;
    const copy = alignedMemory(bytes, 8);
    copyOut(payload, copy);
    const view = new DataView(copy.buffer, copy.byteOffset, bytes);
    const { sectors, start } = this.#disk;
    // The limit that all of the three have.
    const most = configOf(this.#disk.info, this.#abilities, this.#virtio);
    const maxSectors = Math.max(
      most.maxDiscardSectors,
      most.maxWriteZeroesSectors,
      most.maxSecureEraseSectors,
    );
    const requests: Request[] = [];
    for (let at = 0; at < bytes; at += RANGE_BYTES) {
      const sector = readU64(view, at);
      const count = view.getUint32(at + 8, true);
      const flags = view.getUint32(at + 12, true);
      const known = type === RequestType.WriteZeroes ? RANGE_UNMAP : 0;
      if ((flags & ~known) !== 0) return Status.Unsupp;
      if (count === 0 || count > maxSectors || sector + count > sectors) {
        return Status.IoErr;
      }
      requests.push(
        new Request(
          type,
          start + sector,
          count,
          this.#flags | ((flags & RANGE_UNMAP) !== 0 ? RequestFlag.Unmap : 0),
        ),
      );
    }
    const statuses = await Promise.all(
      requests.map((request) => this.#disk.submit(request)),
    );
    return statuses.find((status) => status !== Status.Ok) ?? Status.Ok;
  }
}
