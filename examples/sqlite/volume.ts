/**
 * A volume: a few files with fixed names, each in a fixed region of a disk. It
 * is as little of a file system as a database needs that wants to know, after
 * a power cut, which of its files there are and how long each one is.
 *
 * - The header has two slots. A new one always goes to the slot that does not
 *   hold the last durable one, however many are written between two flushes.
 * - A header that shows a file longer than before is written only when the bytes
 *   that it shows are durable.
 * - What was cut off a file is not used again before the cut is durable.
 *
 * The first rule keeps the header through a power cut. The others keep old
 * content of a region from being taken for new content of its file: an old
 * journal, say, that would undo a transaction once more. Without either of them
 * SQLite loses data, and an exploration of crashes finds it.
 *
 * @module
 */

import { SECTOR_BYTES, type VirtualDisk } from "@platter/disk";
import { VolumeFile } from "./volume_file.ts";
import {
  decodeHeader,
  encodeHeader,
  MAX_REGIONS,
  type RegionState,
  type VolumeHeader,
} from "./volume_header.ts";

/** Sectors from one header slot to the other, unless a block has more. */
const SLOT_SECTORS = 8;

/** A disk that holds no volume, or not one that this disk can hold. */
export class VolumeError extends Error {
  /** Always `"VolumeError"`. */
  override readonly name = "VolumeError";
}

/** A file's name, and the most sectors that it can have. */
export interface RegionSize {
  /** Up to 16 ASCII characters. */
  readonly name: string;
  /** Whole blocks. */
  readonly sectors: number;
}

/** A volume. One operation at a time; the disk stays the caller's to close. */
export class Volume {
  /** The disk. */
  readonly disk: VirtualDisk;
  /** Every file that the volume has room for. */
  readonly files: readonly VolumeFile[];
  #generation: number;
  /** The slot, 0 or 1, with the newest header that is durable. */
  #durableSlot: number;
  /** Whether a newer one was written to the other slot. */
  #headerWritten = false;

  private constructor(disk: VirtualDisk, header: VolumeHeader, slot: number) {
    this.disk = disk;
    this.#generation = header.generation;
    this.#durableSlot = slot;
    this.files = header.regions.map((region) =>
      new VolumeFile(disk, region, () => this.sync())
    );
  }

  /**
   * Makes a volume on a disk, whatever was on it before. It is durable.
   *
   * @param disk The disk.
   * @param regions The files that it is to have room for.
   * @returns The volume, without files.
   * @throws {VolumeError} If there is no room for them.
   */
  static async format(
    disk: VirtualDisk,
    regions: readonly RegionSize[],
  ): Promise<Volume> {
    if (regions.length > MAX_REGIONS) {
      throw new VolumeError(
        `Cannot make a volume as it can have ${MAX_REGIONS} files: current value is ${regions.length}`,
      );
    }
    const step = slotSectors(disk);
    let sector = 2 * step;
    const states: RegionState[] = [];
    for (const { name, sectors } of regions) {
      if (!/^[!-~]{1,16}$/.test(name)) {
        throw new VolumeError(
          `Cannot make a volume as a file's name must be 1 to 16 ASCII characters: current value is ${
            JSON.stringify(name)
          }`,
        );
      }
      if (sectors * SECTOR_BYTES % disk.blockSize !== 0) {
        throw new VolumeError(
          `Cannot make a volume as a file must have whole blocks of ${disk.blockSize} bytes: current value is ${sectors} sectors`,
        );
      }
      states.push({ name, sector, sectors, size: 0, exists: false });
      sector = Math.ceil((sector + sectors) / step) * step;
    }
    if (sector > disk.sectors) {
      throw new VolumeError(
        `Cannot make a volume as its files need ${sector} sectors: current value is ${disk.sectors}`,
      );
    }
    const header = {
      generation: 1,
      blockSize: disk.blockSize,
      regions: states,
    };
    const block = disk.allocate(disk.blockSize / SECTOR_BYTES);
    // An old header first, as its generation may be higher than the new one's.
    await disk.write(step, block);
    await disk.flush();
    encodeHeader(header, block);
    await disk.write(0, block);
    await disk.flush();
    return new Volume(disk, header, 0);
  }

  /**
   * Opens the volume on a disk.
   *
   * @param disk The disk.
   * @returns The volume.
   * @throws {VolumeError} If there is none.
   */
  static async open(disk: VirtualDisk): Promise<Volume> {
    const blockSectors = disk.blockSize / SECTOR_BYTES;
    const slots = await Promise.all([
      disk.read(0, blockSectors),
      disk.read(slotSectors(disk), blockSectors),
    ]);
    const headers = slots.map(decodeHeader);
    const newer = (headers[1]?.generation ?? 0) > (headers[0]?.generation ?? 0)
      ? 1
      : 0;
    const header = headers[newer];
    if (header === null || header === undefined) {
      throw new VolumeError(
        "Cannot open the volume as neither slot has a header that is whole",
      );
    }
    if (header.blockSize !== disk.blockSize) {
      throw new VolumeError(
        `Cannot open the volume as it is for blocks of ${header.blockSize} bytes: current value is ${disk.blockSize}`,
      );
    }
    for (const { name, sector, sectors } of header.regions) {
      if (sector + sectors > disk.sectors) {
        throw new VolumeError(
          `Cannot open the volume as "${name}" ends at sector ${
            sector + sectors
          }: the disk has ${disk.sectors}`,
        );
      }
    }
    // What was read may be in a cache only, if a program ended and not the
    // power: it must be durable before anything is built on it.
    if (!disk.readOnly) await disk.flush();
    return new Volume(disk, header, newer);
  }

  /**
   * A file.
   *
   * @param name Its name.
   * @returns The file, which need not exist, or `undefined` without a region.
   */
  file(name: string): VolumeFile | undefined {
    return this.files.find((file) => file.name === name);
  }

  /** Makes everything that was done before durable. */
  async sync(): Promise<void> {
    await this.publish();
    await this.#flush();
  }

  /** Writes the header if it has changed. It is not durable by that. */
  async publish(): Promise<void> {
    if (!this.files.some((file) => file.changed)) return;
    if (this.files.some((file) => file.grown)) await this.#flush();
    const { disk } = this;
    const block = disk.allocate(disk.blockSize / SECTOR_BYTES);
    encodeHeader({
      generation: ++this.#generation,
      blockSize: disk.blockSize,
      regions: this.files.map((file) => file.state),
    }, block);
    await disk.write((1 - this.#durableSlot) * slotSectors(disk), block);
    this.#headerWritten = true;
    for (const file of this.files) file.published();
  }

  async #flush(): Promise<void> {
    await this.disk.flush();
    if (this.#headerWritten) {
      this.#headerWritten = false;
      this.#durableSlot = 1 - this.#durableSlot;
    }
    for (const file of this.files) file.flushed();
  }
}

/** Where the second slot is: not in one physical block with the first. */
function slotSectors(disk: VirtualDisk): number {
  return Math.max(SLOT_SECTORS, disk.info.physicalBlockSize / SECTOR_BYTES);
}
