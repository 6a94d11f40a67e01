/**
 * Where data and holes are, found piece by piece: a disk can have a hole on
 * every other page, and each costs a call, so that nobody may have all of them
 * found at once.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";

/** Sectors of the largest piece: 4 MiB, some thousand runs at worst. */
const MAX_PIECE = 8192;

/**
 * Pieces grow by this. After one that was a single run there is no bound: a
 * sparse disk of many terabytes has few runs, and ends an answer itself that
 * has many.
 */
const GROWTH = 4;

/** A run of bytes that is data or a hole. */
export interface ByteRun {
  /** First byte. */
  start: number;
  /** The byte after the last. */
  end: number;
  /** Whether it is a hole, which reads as zeroes. */
  hole: boolean;
}

/** A map of some bytes of a disk that is being made. */
export class RunMap {
  readonly #disk: VirtualDisk;
  readonly #offset: number;
  readonly #end: number;
  readonly #most: number;
  /** The next sector, the one after the last, and how many are next. */
  #at: number;
  readonly #last: number;
  #piece: number;
  /** Data and holes in turn, from the first byte on; the last may go on. */
  readonly runs: ByteRun[] = [];

  /**
   * Constructs a new instance.
   *
   * @param disk The disk.
   * @param offset First byte.
   * @param length Bytes.
   * @param most Runs that are wanted.
   * @param piece Sectors to begin with; the pieces after that are larger.
   */
  constructor(
    disk: VirtualDisk,
    offset: number,
    length: number,
    most: number,
    piece: number,
  ) {
    const block = disk.blockSize;
    this.#disk = disk;
    this.#offset = offset;
    this.#end = offset + length;
    this.#most = most;
    this.#at = Math.floor(offset / block) * (block / SECTOR_BYTES);
    this.#last = Math.ceil(this.#end / block) * (block / SECTOR_BYTES);
    this.#piece = Math.max(piece, block / SECTOR_BYTES);
  }

  /** Whether all of it is there, or more runs than are wanted. */
  get done(): boolean {
    return this.#at >= this.#last || this.runs.length > this.#most;
  }

  /**
   * Maps the next piece.
   *
   * @returns When it is done.
   * @throws {DiskError} As the disk does.
   */
  async step(): Promise<void> {
    const count = Math.min(this.#piece, this.#last - this.#at);
    const found = await this.#disk.firstExtents(this.#at, count);
    for (const { sector, count: sectors, hole } of found) {
      const start = Math.max(this.#offset, sector * SECTOR_BYTES);
      const end = Math.min(this.#end, (sector + sectors) * SECTOR_BYTES);
      if (start >= end) continue;
      const before = this.runs.at(-1);
      if (before?.hole === hole) before.end = end;
      else this.runs.push({ start, end, hole });
    }
    const last = found.at(-1)!;
    this.#at = last.sector + last.count;
    this.#piece *= GROWTH;
    if (found.length > 1) this.#piece = Math.min(this.#piece, MAX_PIECE);
  }
}
