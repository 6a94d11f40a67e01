/**
 * After a large read has failed: which of its blocks are bad, exactly.
 *
 * @module
 */

import { SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import { isOfMedium } from "../medium_error.ts";
import { VirtualDisk } from "./disk.ts";
import { refuseRange, restFrom } from "./view.ts";

/** What the search needs of a disk. */
export interface ReadableDisk {
  /** Capacity in sectors. */
  readonly sectors: number;
  /** The sector of the whole disk that it begins at, if that is not its first. */
  readonly start?: number;
  /** Logical block size in bytes. */
  readonly blockSize: number;
  /** Memory that moves without a copy. */
  allocate(sectors: number): Uint8Array<ArrayBuffer>;
  /** Reads sectors into memory. */
  readInto(
    sector: number,
    buffer: Uint8Array,
    options?: { signal?: AbortSignal },
  ): Promise<void>;
}

/** Where to look for bad sectors. */
export interface BadSectorOptions {
  /**
   * First sector.
   *
   * @default {0}
   */
  sector?: number | undefined;
  /** Sectors; the rest of the disk by default. */
  count?: number | undefined;
  /** Ends the search with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Sectors that are read at once where nothing is bad. */
const CHUNK_SECTORS = 2048;

/**
 * Reads a range and finds the blocks of it that cannot be read, by halves: a
 * bad block costs about eleven more reads.
 *
 * @param disk The disk.
 * @param options Where to look.
 * @returns The bad runs, in order, whole blocks; empty if all can be read.
 * @throws {DiskError} With kind `range` or `argument`, as a read would, if there
 * is nothing to read or not all of it is on the disk; or if a read fails for
 * another reason than the medium: with another kind than `io`, or a `code` that
 * is none of a medium (`EIO` is one), or none.
 *
 * @example
 * ```ts
 * import { findBadSectors, VirtualDisk } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * await using disk = VirtualDisk.memory({ sectors: 64 });
 * assertEquals(await findBadSectors(disk, { sector: 8, count: 16 }), []);
 * ```
 */
export async function findBadSectors(
  disk: ReadableDisk,
  options: BadSectorOptions = {},
): Promise<SectorRange[]> {
  const { sector: start = 0, signal } = options;
  const resized = disk instanceof VirtualDisk
    ? VirtualDisk.resized([disk], signal)
    : null;
  if (resized !== null) await resized;
  // Where no sector is left to read, none can be called good.
  const { count = Math.max(1, restFrom(disk.sectors, start)) } = options;
  const at = disk.start ?? 0;
  const refused = refuseRange(
    { start: at, sectors: disk.sectors, owner: at === 0 },
    "read",
    start,
    count,
  );
  if (refused !== null) throw refused;
  const end = start + count;
  const blockSectors = disk.blockSize / SECTOR_BYTES;
  const chunk = Math.max(CHUNK_SECTORS, blockSectors);
  const memory = disk.allocate(chunk);
  const bad: { sector: number; count: number }[] = [];
  const search = async (sector: number, count: number): Promise<void> => {
    try {
      await disk.readInto(
        sector,
        memory.subarray(0, count * SECTOR_BYTES),
        signal === undefined ? {} : { signal },
      );
      return;
    } catch (error) {
      if (!isOfMedium(error)) throw error;
    }
    if (count === blockSectors) {
      const last = bad.at(-1);
      if (last !== undefined && last.sector + last.count === sector) {
        last.count += count;
      } else bad.push({ sector, count });
      return;
    }
    const half = Math.ceil(count / blockSectors / 2) * blockSectors;
    await search(sector, half);
    await search(sector + half, count - half);
  };
  for (let sector = start; sector < end; sector += chunk) {
    await search(sector, Math.min(chunk, end - sector));
  }
  return bad;
}
