/**
 * Writes bytes that come one after another onto a disk: gathers them into large
 * writes, of which a few are in flight, and knows afterwards how far it came.
 * Memory is bounded by those few.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { runsOf, Zeroes } from "../disk/sparse.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { settleAll } from "../settle_all.ts";

/** Sectors of one write: 1 MiB. */
const CHUNK_SECTORS = 2048;

/** Writes in flight unless said otherwise. */
const DEPTH = 4;

/** How bytes are written. */
export interface SequentialWriterOptions {
  /** Where to, in bytes; on a block. 0 by default. */
  readonly offset?: number;
  /** Whether every write is durable by itself. */
  readonly fua?: boolean;
  /** Whether runs of zeroes become holes where the disk can have them. */
  readonly sparse?: boolean;
  /** Whether the disk is known to read as zeroes, so that they are left out. */
  readonly targetIsZero?: boolean;
  /** Writes in flight. */
  readonly depth?: number | undefined;
  /** Whether sums are kept, to be compared with what is read back. */
  readonly sums?: boolean;
  /** Stops what is being written. */
  readonly signal: AbortSignal;
}

/** A piece that was written, and what it summed up to. */
export interface WrittenPiece {
  /** Its first sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
  /** SHA-256 of its bytes. */
  readonly sum: Uint8Array;
}

/** What came of the bytes, in sectors. */
export interface WrittenSectors {
  /** Written as data. */
  written: number;
  /** Made zeroes. */
  zeroed: number;
  /** Left alone, as they were zeroes already. */
  skipped: number;
}

/** Writes bytes onto a disk from one place on. */
export class SequentialWriter {
  readonly #disk: VirtualDisk;
  readonly #start: number;
  readonly #options: SequentialWriterOptions;
  readonly #zeroes: Zeroes;
  readonly #free: Uint8Array<ArrayBuffer>[] = [];
  readonly #pending: { bytes: number; done: Promise<void> }[] = [];
  readonly #pieces: WrittenPiece[] = [];
  readonly #counts: WrittenSectors = { written: 0, zeroed: 0, skipped: 0 };
  #buffers = 0;
  #buffer: Uint8Array<ArrayBuffer> | undefined;
  #filled = 0;
  /** Bytes handed to the disk, or passed over. */
  #sent = 0;
  /** Bytes from the start that are known to be dealt with. */
  #settled = 0;

  /**
   * Constructs a new instance.
   *
   * @param disk The disk.
   * @param options How.
   */
  constructor(disk: VirtualDisk, options: SequentialWriterOptions) {
    this.#disk = disk;
    this.#start = (options.offset ?? 0) / SECTOR_BYTES;
    this.#options = options;
    this.#zeroes = new Zeroes(disk, options.signal);
  }

  /** Bytes at the end that are no whole block yet. */
  get ragged(): number {
    return this.#filled % this.#disk.blockSize;
  }

  /** Bytes taken in, and passed over. */
  get taken(): number {
    return this.#sent + this.#filled;
  }

  /** Bytes from the start that are known to be on the disk, or passed over. */
  get settled(): number {
    return this.#settled;
  }

  /** What came of them so far. */
  get counts(): Readonly<WrittenSectors> {
    return this.#counts;
  }

  /** What was written, in order, with sums; none unless they are kept. */
  get pieces(): readonly WrittenPiece[] {
    return this.#pieces;
  }

  /**
   * Takes bytes in.
   *
   * @param bytes The bytes; their memory is free again afterwards.
   * @returns False if the disk ended before they did.
   */
  async add(bytes: Uint8Array): Promise<boolean> {
    for (let at = 0; at < bytes.length;) {
      const position = this.#start * SECTOR_BYTES + this.taken;
      const room = this.#disk.sectors * SECTOR_BYTES - position;
      if (room === 0) return false;
      const buffer = this.#buffer ??= await this.#take();
      const length = Math.min(
        bytes.length - at,
        buffer.length - this.#filled,
        room,
      );
      buffer.set(bytes.subarray(at, at + length), this.#filled);
      at += length;
      this.#filled += length;
      if (this.#filled === buffer.length) this.#send();
    }
    return true;
  }

  /**
   * Passes over a part of the disk, which stays as it is.
   *
   * @param bytes How much; whole blocks, after whole blocks.
   */
  pass(bytes: number): void {
    if (bytes === 0) return;
    if (this.#filled > 0) this.#send();
    this.#sent += bytes;
    this.#pending.push({ bytes, done: Promise.resolve() });
  }

  /** Fills the last block with zeroes. */
  pad(): void {
    const { blockSize } = this.#disk;
    const end = Math.ceil(this.#filled / blockSize) * blockSize;
    this.#buffer?.fill(0, this.#filled, end);
    this.#filled = end;
  }

  /**
   * Writes what is left of whole blocks, waits for everything, and flushes where
   * the disk can.
   */
  async finish(): Promise<void> {
    this.#filled -= this.ragged;
    if (this.#filled > 0) this.#send();
    while (this.#pending.length > 0) await this.#settle();
    if (this.#disk.info.abilities.flush === "none") return;
    await this.#disk.flush({ signal: this.#options.signal });
  }

  /** Waits for what is in flight after a failure. */
  async giveUp(): Promise<void> {
    try {
      while (this.#pending.length > 0) await this.#settle();
    } catch {
      // What comes after the first failure does not count.
      await Promise.allSettled(this.#pending.map(({ done }) => done));
    }
  }

  #send(): void {
    const buffer = this.#buffer!;
    const bytes = this.#filled;
    const sector = this.#start + this.#sent / SECTOR_BYTES;
    const data = buffer.subarray(0, bytes);
    const work = [this.#put(sector, data)];
    if (this.#options.sums) work.push(this.#sumUp(sector, data));
    const done = settleAll(work).then(() => void this.#free.push(buffer));
    // It is waited for later, in order; until then it must not count as lost.
    done.catch(() => {});
    this.#pending.push({ bytes, done });
    this.#sent += bytes;
    this.#buffer = undefined;
    this.#filled = 0;
  }

  async #put(sector: number, data: Uint8Array): Promise<void> {
    const { sparse, fua = false, signal, targetIsZero } = this.#options;
    const counts = this.#counts;
    if (!sparse) {
      await this.#disk.write(sector, data, { fua, signal });
      counts.written += data.length / SECTOR_BYTES;
      return;
    }
    // All are waited for, even if one fails: they share the buffer.
    await settleAll(
      runsOf(data).map(async (run) => {
        const from = run.sector * SECTOR_BYTES;
        const bytes = data.subarray(from, from + run.count * SECTOR_BYTES);
        if (!run.hole) {
          await this.#disk.write(sector + run.sector, bytes, { fua, signal });
          counts.written += run.count;
        } else if (targetIsZero) counts.skipped += run.count;
        else {
          await this.#zeroes.write(sector + run.sector, run.count);
          counts.zeroed += run.count;
        }
      }),
    );
  }

  async #sumUp(sector: number, data: Uint8Array<ArrayBuffer>): Promise<void> {
    const piece = {
      sector,
      count: data.length / SECTOR_BYTES,
      sum: new Uint8Array(),
    };
    this.#pieces.push(piece);
    piece.sum = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  }

  async #settle(): Promise<void> {
    const { bytes, done } = this.#pending[0]!;
    await done;
    this.#pending.shift();
    this.#settled += bytes;
  }

  async #take(): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#buffers < (this.#options.depth ?? DEPTH)) {
      this.#buffers++;
      return this.#disk.allocate(CHUNK_SECTORS);
    }
    while (this.#free.length === 0) await this.#settle();
    return this.#free.pop()!;
  }
}
