/**
 * Making a table of partitions on a disk, in place of whatever table there is.
 *
 * A power cut at any moment leaves either the table that was there or the new
 * one, by way of {@linkcode writeStep}:
 *
 * | new table | steps, with a flush after each |
 * | --- | --- |
 * | GPT | the copy that does not count so far (the backup, unless that is all that is left); the other copy; the first sector |
 * | MBR | the records of logical partitions, where nothing of the old table is; the first sector; zeroes over the headers of a GPT |
 *
 * The first sector decides what kind of table counts (`read_partitions.ts`), so
 * it comes after all that it points to and before anything that it pointed to
 * goes.
 *
 * @module
 */

import type { RequestOptions, VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { usedCopyOf } from "./find_gpt.ts";
import {
  encodeEntries,
  entriesCrc,
  ENTRY_BYTES,
  GPT_REVISION,
  type GptHeader,
  LEGACY_BOOT,
  MAX_ENTRIES_BYTES,
} from "./gpt.ts";
import {
  copyPatches,
  entryBlocksOf,
  LEAST_ENTRIES,
  placesOfCopy,
  protectiveMbr,
} from "./gpt_layout.ts";
import { isGuid } from "./guid.ts";
import { viewOf } from "../bytes.ts";
import {
  BOOT_CODE_BYTES,
  encodeEntries as encodeMbrEntries,
  MAX_MBR_BLOCKS,
  MBR_BYTES,
  type MbrEntry,
} from "./mbr.ts";
import {
  type NewPartition,
  type PlannedPartition,
  planPartitions,
} from "./plan_partitions.ts";
import type { PartitionTable } from "./partition_table.ts";
import { findTable, type FoundTable } from "./read_partitions.ts";
import {
  type ByteRange,
  checkApart,
  intersect,
  type Patch,
  placesOf,
  writeStep,
} from "./table_writer.ts";

/** What partitions are multiples of unless told otherwise: 1 MiB. */
const ALIGNMENT_BYTES = 2 ** 20;

/** Type of the extended partition that is made around logical ones. */
const EXTENDED_LBA = 0x0f;

/** What is being done, as errors name it. */
const TASK = "write the table of partitions";

/** The table to be made. */
export interface WritePartitionsOptions extends RequestOptions {
  /** Its kind. */
  kind: "gpt" | "mbr";
  /** Its partitions, which may be none. */
  partitions: readonly NewPartition[];
  /**
   * Sectors that places which were not given are multiples of: a whole number of
   * blocks.
   *
   * @default {2048}
   */
  alignment?: number | undefined;
  /**
   * GPT: the disk's GUID. MBR: its signature, such as `"0x1234abcd"`. Random if
   * not given.
   */
  id?: string | undefined;
}

/**
 * Makes a table of partitions, in place of whatever table there is. What is in
 * the partitions stays as it is.
 *
 * The table is for sectors of the disk's block size. It is written so that a
 * power cut at any moment leaves the old table or the new one, which
 * {@linkcode readPartitions} reads then; that holds as far as the disk keeps
 * what it flushed, and writes single sectors whole or not at all. Boot code in
 * the first sector stays. The signature of a file system that began at sector 0
 * goes.
 *
 * Nothing is written unless all of it can be.
 *
 * @param disk The disk.
 * @param options The table.
 * @returns The table, as it reads now.
 * @throws {RangeError | TypeError} If the partitions cannot be made as they were
 * asked for.
 * @throws {DiskError} If the disk fails, or is read-only; with kind
 * `unsupported` if the table could not be written safely, as the one that there
 * is lies where it must go.
 *
 * @example An MBR with logical partitions
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { writePartitions } from "@platter/disk/image";
 * import { assertEquals } from "@std/assert";
 *
 * await using disk = VirtualDisk.memory({ size: "1GiB" });
 * const table = await writePartitions(disk, {
 *   kind: "mbr",
 *   partitions: [
 *     { type: "fat", size: "64MiB", bootable: true },
 *     { type: "linux", size: "256MiB", logical: true },
 *     { type: "0x83", logical: true },
 *   ],
 * });
 * assertEquals(table.partitions.map((it) => [it.number, it.role]), [
 *   [1, "primary"],
 *   [2, "extended"],
 *   [5, "logical"],
 *   [6, "logical"],
 * ]);
 * ```
 */
export async function writePartitions(
  disk: VirtualDisk,
  options: WritePartitionsOptions,
): Promise<PartitionTable> {
  const { kind, signal } = options;
  if (kind !== "gpt" && kind !== "mbr") {
    throw new TypeError(
      `Cannot ${TASK} as its kind must be "gpt" or "mbr": current value is ${
        JSON.stringify(kind)
      }`,
    );
  }
  const alignment = alignmentOf(disk, options.alignment);
  if (disk.readOnly) {
    throw new DiskError(
      "read-only",
      `Cannot ${TASK} as the disk is open for reading only`,
      { operation: "write" },
    );
  }
  if (disk.sectors === 0) {
    throw new RangeError(
      `Cannot ${TASK} as the disk must have at least one block: current value is 0 sectors`,
    );
  }
  const found = await findTable(disk, signal);
  const sector = (await disk.read(0, disk.blockSize / SECTOR_BYTES, { signal }))
    .subarray(0, MBR_BYTES);
  const steps = kind === "gpt"
    ? gptSteps(disk, options, alignment, found, sector)
    : mbrSteps(disk, options, alignment, found, sector);
  for (const step of steps) {
    signal?.throwIfAborted();
    await writeStep(disk, step);
  }
  return (await findTable(disk, signal)).table;
}

function alignmentOf(
  disk: VirtualDisk,
  alignment: number = ALIGNMENT_BYTES / SECTOR_BYTES,
): number {
  const each = disk.blockSize / SECTOR_BYTES;
  if (
    !Number.isSafeInteger(alignment) || alignment < each ||
    alignment % each !== 0
  ) {
    throw new RangeError(
      `Cannot ${TASK} as the alignment must be a whole number of blocks of ${
        each * SECTOR_BYTES
      } bytes, in sectors: current value is ${alignment}`,
    );
  }
  return alignment;
}

/** Where everything is that the table which counts so far consists of. */
function neededOf(found: FoundTable): ByteRange[] {
  const { table, gpt, records } = found;
  const size = table.sectorSize;
  const inMbr = records.map((it) => ({ offset: it * size, length: MBR_BYTES }));
  if (table.kind !== "gpt" || gpt === null) return inMbr;
  const used = usedCopyOf(gpt);
  return used === null ? [] : placesOfCopy(gpt, used);
}

function gptSteps(
  disk: VirtualDisk,
  { id, partitions }: WritePartitionsOptions,
  alignment: number,
  found: FoundTable,
  sector: Uint8Array,
): Patch[][] {
  if (id !== undefined && !isGuid(id)) {
    throw new RangeError(
      `Cannot ${TASK} as the id of a GPT must be a GUID: current value is ${
        JSON.stringify(id)
      }`,
    );
  }
  const { blockSize } = disk;
  const each = blockSize / SECTOR_BYTES;
  const blocks = disk.sectors / each;
  const highest = partitions.reduce(
    (most, { number = 0 }) => Math.max(most, number),
    partitions.length,
  );
  // Whole blocks of entries.
  const perBlock = blockSize / ENTRY_BYTES;
  const mostNumbers = MAX_ENTRIES_BYTES / ENTRY_BYTES;
  const entryCount = Math.min(
    mostNumbers,
    Math.max(LEAST_ENTRIES, Math.ceil(highest / perBlock) * perBlock),
  );
  const size = { entryCount, entryBytes: ENTRY_BYTES };
  const entryBlocks = entryBlocksOf(size, blockSize);
  const firstUsable = 2 + entryBlocks;
  const lastUsable = blocks - 2 - entryBlocks;
  if (lastUsable < firstUsable) {
    throw new RangeError(
      `Cannot ${TASK} as a disk with a GPT must have at least ${
        firstUsable + entryBlocks + 2
      } blocks of ${blockSize} bytes: current value is ${blocks}`,
    );
  }
  const planned = planPartitions(partitions, {
    kind: "gpt",
    usable: {
      sector: firstUsable * each,
      count: (lastUsable - firstUsable + 1) * each,
    },
    alignment,
    blockSectors: each,
    mostNumbers,
  });
  const entries = encodeEntries(
    planned.map((it) => ({
      ...it,
      first: BigInt(it.start / each),
      last: BigInt((it.start + it.sectors) / each - 1),
      attributes: it.attributes | (it.bootable ? LEGACY_BOOT : 0n),
    })),
    entryCount,
  );
  const last = BigInt(blocks - 1);
  const primary: GptHeader = {
    revision: GPT_REVISION,
    own: 1n,
    alternate: last,
    firstUsable: BigInt(firstUsable),
    lastUsable: BigInt(lastUsable),
    guid: (id ?? crypto.randomUUID()).toUpperCase(),
    entries: 2n,
    ...size,
    entriesCrc: entriesCrc(entries),
  };
  const backup: GptHeader = {
    ...primary,
    own: last,
    alternate: 1n,
    entries: BigInt(lastUsable + 1),
  };
  const needed = neededOf(found);
  const steps = [backup, primary].map((header): Patch[] =>
    copyPatches(header, entries, blockSize)
  );
  // If the backup is all that is left, it stays until the primary copy is new.
  if (found.table.copy === "backup") steps.reverse();
  checkApart(steps[0]!, needed, TASK);
  // Records of an MBR are needed until the first sector is new.
  if (found.table.kind === "mbr") checkApart(steps[1]!, needed, TASK);
  return [...steps, [protectiveMbr(sector, found.mbr, BigInt(blocks))]];
}

function mbrSteps(
  disk: VirtualDisk,
  { id, partitions }: WritePartitionsOptions,
  alignment: number,
  found: FoundTable,
  sector: Uint8Array,
): Patch[][] {
  if (id !== undefined && !/^0x[0-9a-f]{1,8}$/i.test(id)) {
    throw new RangeError(
      `Cannot ${TASK} as the id of an MBR must be a number of 32 bits such as 0x1234abcd: current value is ${
        JSON.stringify(id)
      }`,
    );
  }
  const { blockSize } = disk;
  const each = blockSize / SECTOR_BYTES;
  const blocks = Math.min(disk.sectors / each, MAX_MBR_BLOCKS + 1);
  const planned = planPartitions(partitions, {
    kind: "mbr",
    usable: { sector: each, count: Math.max(0, blocks - 1) * each },
    alignment,
    blockSectors: each,
    mostNumbers: 4,
  });
  const needed = neededOf(found);
  const bytes = found.mbr.kind === "boot"
    ? new Uint8Array(MBR_BYTES)
    : sector.slice();
  const number = id === undefined
    ? crypto.getRandomValues(new Uint32Array(1))[0]!
    : Number(id);
  viewOf(bytes).setUint32(BOOT_CODE_BYTES, number, true);
  bytes.fill(0, BOOT_CODE_BYTES + 4, BOOT_CODE_BYTES + 6);
  const entries = new Array<MbrEntry | undefined>(4).fill(undefined);
  for (const it of planned.filter(({ logical }) => !logical)) {
    entries[it.number - 1] = mbrEntry(it, it.start, each, 0);
  }
  const chain = planChain(planned, needed, alignment, blockSize);
  if (chain.extended !== null) {
    entries[entries.indexOf(undefined)] = chain.extended;
  }
  encodeMbrEntries(entries, bytes);
  // What a record has taken the place of is no header any more.
  const headers = headersOf(found).filter((it) =>
    !intersect(placesOf([it]), placesOf(chain.patches))
  );
  return [chain.patches, [{ offset: 0, bytes }], headers];
}

/** Zeroes over the headers of a GPT, so that nobody takes it for the table. */
function headersOf({ gpt }: FoundTable): Patch[] {
  if (gpt === null) return [];
  const { sectorSize } = gpt;
  return [gpt.primary, gpt.backup].flatMap((copy) =>
    copy.sound
      ? [{
        offset: Number(copy.header.own) * sectorSize,
        bytes: new Uint8Array(sectorSize),
      }]
      : []
  );
}

/** An entry that counts from a sector. */
function mbrEntry(
  it: Pick<PlannedPartition, "bootable" | "type" | "start" | "sectors">,
  start: number,
  each: number,
  base: number,
): MbrEntry {
  return {
    status: it.bootable ? 0x80 : 0,
    type: Number(it.type),
    start: (start - base) / each,
    count: it.sectors / each,
  };
}

/** The records of logical partitions, and the extended partition around them. */
function planChain(
  planned: readonly PlannedPartition[],
  needed: readonly ByteRange[],
  alignment: number,
  blockSize: number,
): { extended: MbrEntry | null; patches: Patch[] } {
  const each = blockSize / SECTOR_BYTES;
  const logical = planned.filter((it) => it.logical);
  const places = logical.map((it) => {
    const before = planned[planned.indexOf(it) - 1];
    const free = before === undefined ? each : before.start + before.sectors;
    return recordPlace(it.start, free, needed, alignment, blockSize);
  });
  const [head] = places;
  const tail = logical.at(-1);
  if (head === undefined || tail === undefined) {
    return { extended: null, patches: [] };
  }
  const end = tail.start + tail.sectors;
  const stray = planned.find((it) =>
    !it.logical && it.start > head && it.start < end
  );
  if (stray !== undefined) {
    throw new RangeError(
      `Cannot make partition ${stray.number} as it must not lie between logical partitions: current value of its start is ${stray.start}`,
    );
  }
  const patches = logical.map((it, i): Patch => {
    const place = places[i]!;
    const own = mbrEntry(it, it.start, each, place);
    const next = logical[i + 1];
    const link = next === undefined ? undefined : {
      status: 0,
      type: 0x05,
      start: (places[i + 1]! - head) / each,
      count: (next.start + next.sectors - places[i + 1]!) / each,
    };
    const bytes = new Uint8Array(MBR_BYTES);
    encodeMbrEntries([own, link], bytes, [place / each, head / each]);
    return { offset: place * SECTOR_BYTES, bytes };
  });
  const extended = {
    status: 0,
    type: EXTENDED_LBA,
    start: head / each,
    count: (end - head) / each,
  };
  return { extended, patches };
}

/**
 * Finds a block for a record before its partition: an alignment before it, as
 * other tools do, or the nearest one that the old table does not need.
 */
function recordPlace(
  start: number,
  free: number,
  needed: readonly ByteRange[],
  alignment: number,
  blockSize: number,
): number {
  const each = blockSize / SECTOR_BYTES;
  const isFree = (sector: number) =>
    sector >= free && sector < start &&
    !intersect([{ offset: sector * SECTOR_BYTES, length: blockSize }], needed);
  if (isFree(start - alignment)) return start - alignment;
  // The old table has only so many places, so that one more always has a free
  // one, if there are as many.
  for (let i = 1; i <= needed.length * 2 + 1; i++) {
    if (isFree(start - i * each)) return start - i * each;
  }
  if (start - each < free) {
    throw new RangeError(
      `Cannot make a logical partition as it must have a block before it for its record: current value of its start is ${start}`,
    );
  }
  throw new DiskError(
    "unsupported",
    `Cannot ${TASK} as the record of the logical partition at sector ${start} must be where the old table needs its own: write a table without partitions first`,
    { operation: "write" },
  );
}
