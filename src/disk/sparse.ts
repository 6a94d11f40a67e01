/**
 * Zeroes in what is copied: how runs of them are found, and how sectors become
 * zeroes without being written as data where the disk has something better.
 *
 * @module
 */

import { isZero } from "../buffer.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import type { VirtualDisk } from "./disk.ts";

/** Sectors of zeroes written at once where nothing better is to be had: 1 MiB. */
const CHUNK_SECTORS = 2048;

/**
 * Sectors of the smallest hole that a copy makes: 64 KiB. It is also the
 * largest logical block size, so that what is cut along it is whole blocks of
 * every disk. Smaller holes would save little and cost a request each.
 */
export const GRANULE_SECTORS = 128;

/** A run of sectors to deal with in one go. */
export interface Run {
  /** Its first sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
  /** Whether all of it is zeroes. */
  readonly hole: boolean;
}

/**
 * Cuts data into runs of granules that are zeroes and that are not.
 *
 * @param data Whole sectors.
 * @returns The runs, in order, their sectors counted from the data's start.
 */
export function runsOf(data: Uint8Array): Run[] {
  const runs: { sector: number; count: number; hole: boolean }[] = [];
  const sectors = data.length / SECTOR_BYTES;
  for (let sector = 0; sector < sectors; sector += GRANULE_SECTORS) {
    const count = Math.min(GRANULE_SECTORS, sectors - sector);
    const from = sector * SECTOR_BYTES;
    const hole = isZero(data.subarray(from, from + count * SECTOR_BYTES));
    const last = runs.at(-1);
    if (last?.hole === hole) last.count += count;
    else runs.push({ sector, count, hole });
  }
  return runs;
}

/** Makes sectors zeroes, by whatever means the disk has. */
export class Zeroes {
  readonly #disk: VirtualDisk;
  readonly #options: { signal?: AbortSignal };
  readonly #unmap: boolean;
  #moves: boolean;
  #memory: Uint8Array | undefined;

  /**
   * Constructs a new instance.
   *
   * @param disk The disk.
   * @param signal Stops what is being written.
   * @param unmap Whether the disk may give their space back.
   */
  constructor(
    disk: VirtualDisk,
    signal: AbortSignal | undefined,
    unmap = true,
  ) {
    this.#disk = disk;
    this.#options = signal === undefined ? {} : { signal };
    this.#unmap = unmap;
    this.#moves = disk.info.abilities.writeZeroes === "none";
  }

  /**
   * Makes sectors zeroes.
   *
   * @param sector The first, on a block.
   * @param count Sectors, whole blocks.
   * @returns When they are.
   */
  async write(sector: number, count: number): Promise<void> {
    if (!this.#moves) {
      try {
        const options = { unmap: this.#unmap, ...this.#options };
        return await this.#disk.writeZeroes(sector, count, options);
      } catch (error) {
        if (!(error instanceof DiskError) || error.kind !== "unsupported") {
          throw error;
        }
        this.#moves = true;
      }
    }
    const memory = this.#memory ??= this.#disk.allocate(CHUNK_SECTORS);
    for (let at = 0; at < count; at += CHUNK_SECTORS) {
      const length = Math.min(CHUNK_SECTORS, count - at) * SECTOR_BYTES;
      const data = memory.subarray(0, length);
      await this.#disk.write(sector + at, data, this.#options);
    }
  }
}
