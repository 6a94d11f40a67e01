/**
 * A disk, or a partition of one, that is to be looked into: its bytes, and a
 * private file of it for programs, made when one asks.
 *
 * @module
 */

import { copyDisk } from "../../../disk/copy.ts";
import { VirtualDisk } from "../../../disk/disk.ts";
import { SECTOR_BYTES } from "../../../geometry.ts";
import { findTable, type FoundTable } from "../../../image/read_partitions.ts";

/** Bytes of data that a private file may have. */
const MOST_FILE_BYTES = 2 ** 31;

/** A volume is too large to be copied for a program. */
export class VolumeTooLarge extends Error {
  /** Always `"VolumeTooLarge"`. */
  override readonly name = "VolumeTooLarge";
}

/** A disk or a partition. */
export class Volume {
  /** Sectors. */
  readonly sectors: number;
  readonly #disk: VirtualDisk;
  readonly #directory: string;
  #file: Promise<string> | null = null;

  /**
   * Constructs a new instance.
   *
   * @param disk What is looked into; it is only read.
   * @param directory Where private files go; whoever made it removes it.
   */
  constructor(disk: VirtualDisk, directory: string) {
    this.#disk = disk;
    this.#directory = directory;
    this.sectors = disk.sectors;
  }

  /**
   * A part of it.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @returns The part; `null` if it is not on the disk or not whole blocks.
   */
  slice(sector: number, count: number): Volume | null {
    try {
      return new Volume(this.#disk.slice(sector, count), this.#directory);
    } catch {
      return null;
    }
  }

  /**
   * Reads its table of partitions.
   *
   * @returns The table; one of kind `"none"` if it has none.
   * @throws {DiskError} If it cannot be read.
   */
  table(): Promise<FoundTable> {
    return findTable(this.#disk);
  }

  /**
   * Reads bytes.
   *
   * @param offset Where, in bytes.
   * @param length How many.
   * @returns The bytes; zeroes beyond the end.
   */
  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const { blockSize } = this.#disk;
    const result = new Uint8Array(length);
    const start = Math.floor(offset / blockSize) * blockSize;
    const end = Math.min(
      Math.ceil((offset + length) / blockSize) * blockSize,
      this.sectors * SECTOR_BYTES,
    );
    if (end <= start) return result;
    const bytes = await this.#disk.read(
      start / SECTOR_BYTES,
      (end - start) / SECTOR_BYTES,
    );
    result.set(bytes.subarray(offset - start, offset - start + length));
    return result;
  }

  /**
   * A private file with the whole content, which a program may change.
   *
   * @returns Its path.
   * @throws {VolumeTooLarge} If that would be too much.
   */
  file(): Promise<string> {
    return this.#file ??= this.#copy(async (target) => {
      let data = 0;
      for (const { count, hole } of await this.#disk.extents()) {
        if (!hole) data += count * SECTOR_BYTES;
      }
      if (data > MOST_FILE_BYTES) {
        throw new VolumeTooLarge(
          "there is more data on it than is copied for a program to look at (2 GiB)",
        );
      }
      await copyDisk(this.#disk, target, { targetIsZero: true });
    });
  }

  async #copy(fill: (target: VirtualDisk) => Promise<void>): Promise<string> {
    const path = `${this.#directory}/${crypto.randomUUID()}.img`;
    await using target = await VirtualDisk.create(path, {
      sectors: this.sectors,
      blockSize: this.#disk.blockSize,
      direct: "never",
    });
    await fill(target);
    return path;
  }
}
