/**
 * Making the copies of a GPT whole again: one from the other, the backup at the
 * end of a disk that has grown, the protective MBR.
 *
 * What is written goes in steps as in `table_writer.ts`, so that a power cut at
 * any moment leaves a table that can be read: the copy that is repaired comes
 * first, then what changes in the one that it was made from.
 *
 * @module
 */

import type { RequestOptions, VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { isOfMedium } from "../medium_error.ts";
import { fileSystemNameOf, SIGNATURE_BYTES } from "./file_system_signature.ts";
import { type GptCopy, usedCopyOf } from "./find_gpt.ts";
import type { GptHeader } from "./gpt.ts";
import {
  copyPatches,
  entryBlocksOf,
  placesOfCopy,
  protectiveMbr,
} from "./gpt_layout.ts";
import { decodeEntries, isUsed, MBR_BYTES, PROTECTIVE } from "./mbr.ts";
import type { Partition, PartitionTable } from "./partition_table.ts";
import { findTable, type FoundTable, partitionsOf } from "./read_partitions.ts";
import {
  checkApart,
  intersect,
  type Patch,
  placesOf,
  writeStep,
} from "./table_writer.ts";

/** What is being done, as errors name it. */
const TASK = "repair the table of partitions";

/** How to repair. */
export interface RepairPartitionsOptions extends RequestOptions {
  /**
   * The copy that the other one is made from, which must be sound: the one that
   * {@linkcode readPartitions} uses if not given.
   */
  from?: "primary" | "backup" | undefined;
}

/** What was repaired. */
export interface RepairedPartitions {
  /** The table, as it reads now. */
  readonly table: PartitionTable;
  /** What was written, as sentences without a final period; often nothing. */
  readonly repaired: readonly string[];
}

/**
 * Makes the copies of a GPT whole again: the damaged one from the other, the
 * backup at the end of the disk if it has grown, with the room that partitions
 * may use, and the protective MBR. What is right stays as it is, and no partition
 * is moved, cut or grown. Of an MBR there is one copy, and nothing to repair it
 * from: it is left alone.
 *
 * @param disk The disk.
 * @param options From which copy, and a signal.
 * @returns The table, and what was repaired.
 * @throws {DiskError} With kind `not-found` if the disk has no GPT, or no copy
 * that can be used; `unsupported` if a partition lies where the table must go,
 * as on a disk that was cut, or if the first sector has no entry for a GPT and
 * something else is there; or as the disk fails. Nothing was written then.
 *
 * @example A disk that grew
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { copyDisk } from "@platter/disk";
 * import { repairPartitions, writePartitions } from "@platter/disk/image";
 * import { assertEquals } from "@std/assert";
 *
 * await using small = VirtualDisk.memory({ size: "64MiB" });
 * await writePartitions(small, { kind: "gpt", partitions: [{ type: "linux" }] });
 * await using large = VirtualDisk.memory({ size: "128MiB" });
 * await copyDisk(small, large);
 * const { table, repaired } = await repairPartitions(large);
 * assertEquals(table.problems, []);
 * assertEquals(table.usable.sectors, 262_144 - 34 - 33);
 * assertEquals(repaired.length, 3);
 * ```
 */
export async function repairPartitions(
  disk: VirtualDisk,
  options: RepairPartitionsOptions = {},
): Promise<RepairedPartitions> {
  const { signal } = options;
  const found = await findTable(disk, signal);
  if (found.table.kind === "mbr") return { table: found.table, repaired: [] };
  if (disk.readOnly) {
    throw new DiskError(
      "read-only",
      `Cannot ${TASK} as the disk is open for reading only`,
      { operation: "write" },
    );
  }
  const { gpt } = found;
  const from = options.from ?? (gpt === null ? null : usedCopyOf(gpt));
  const copy = from === null ? undefined : gpt?.[from];
  if (found.table.kind === "none" || from === null || !copy?.sound) {
    throw new DiskError(
      "not-found",
      `Cannot ${TASK} as ${
        found.table.kind === "none"
          ? "the disk has none"
          : options.from === undefined
          ? "neither copy of the GPT can be used"
          : `its ${options.from} copy cannot be used`
      }`,
      { operation: "write" },
    );
  }
  const sector = (await disk.read(0, disk.blockSize / SECTOR_BYTES, { signal }))
    .subarray(0, MBR_BYTES);
  await refuseOther(disk, found, sector, signal);
  const repaired: string[] = [];
  // What is there already may be a repair that ended before it was durable, and
  // no step may come before the one before it.
  if (disk.info.abilities.flush !== "none") await disk.flush();
  for (const { patches, says } of planRepair(found, from, copy, sector)) {
    const changed: Patch[] = [];
    for (const patch of patches) {
      if (!await isThere(disk, patch)) changed.push(patch);
    }
    if (changed.length === 0) continue;
    signal?.throwIfAborted();
    await writeStep(disk, changed);
    repaired.push(says);
  }
  return { table: (await findTable(disk, signal)).table, repaired };
}

/**
 * Refuses where the first sector does not say that the disk has a GPT, and
 * something else is there: then what was found is left over from before, and its
 * copies would be written over what the disk has now.
 */
async function refuseOther(
  disk: VirtualDisk,
  { mbr }: FoundTable,
  sector: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (mbr.kind === "protective" || mbr.kind === "hybrid") return;
  // Of an MBR with a damaged entry, which counts as none, too.
  const other = decodeEntries(sector)?.find((entry) =>
    isUsed(entry) && entry.type !== PROTECTIVE
  );
  const bytes = Math.min(SIGNATURE_BYTES, disk.sectors * SECTOR_BYTES);
  const whole = Math.floor(bytes / disk.blockSize) * disk.blockSize;
  const name = fileSystemNameOf(
    await disk.read(0, whole / SECTOR_BYTES, { signal }),
  );
  if (other === undefined && name === null) return;
  throw new DiskError(
    "unsupported",
    `Cannot ${TASK} as the GPT may be left over: ${
      name === null
        ? "the first sector has other partitions and a damaged entry"
        : `the disk begins with ${name}`
    }, and no entry for a GPT`,
    { operation: "write" },
  );
}

/** One step, and what is said of it. */
interface RepairStep {
  readonly patches: readonly Patch[];
  readonly says: string;
}

function planRepair(
  { table, mbr, gpt }: FoundTable,
  from: "primary" | "backup",
  copy: GptCopy,
  sector: Uint8Array,
): RepairStep[] {
  const { sectorSize, blocks } = gpt!;
  const { header, entries } = copy;
  const last = blocks - 1n;
  const entryBlocks = BigInt(entryBlocksOf(header, sectorSize));
  const backupEntries = last - entryBlocks;
  const end = from === "primary" ? header.alternate : header.own;
  // Room is won when the disk grew, and lost when it was cut.
  const isMoved = end !== last;
  const isTooLong = header.lastUsable >= backupEntries;
  const shared: GptHeader = {
    ...header,
    lastUsable: isMoved || isTooLong ? backupEntries - 1n : header.lastUsable,
  };
  const primary: GptHeader = {
    ...shared,
    own: 1n,
    alternate: last,
    entries: from === "primary" ? header.entries : 2n,
  };
  const backup: GptHeader = {
    ...shared,
    own: last,
    alternate: 1n,
    entries: from === "backup" && !isMoved ? header.entries : backupEntries,
  };
  const steps = {
    primary: {
      patches: copyPatches(primary, entries, sectorSize, copy.block),
      says: "The primary copy of the GPT was written",
    },
    backup: {
      patches: copyPatches(backup, entries, sectorSize, copy.block),
      says: `The backup copy of the GPT was written to the end of the disk`,
    },
  };
  const other = from === "primary" ? "backup" : "primary";
  const order: RepairStep[] = [steps[other], steps[from]];
  const { partitions } = partitionsOf(copy, sectorSize);
  for (const { patches } of order) checkRoom(patches, partitions, entryBlocks);
  if (backupEntries <= primary.entries + entryBlocks) {
    throw new DiskError(
      "unsupported",
      `Cannot ${TASK} as the disk must have room for both copies: it has ${blocks} blocks`,
      { operation: "write" },
    );
  }
  checkApart(order[0]!.patches, placesOfCopy(gpt!, from), TASK);
  const isWrong = table.problems.some(({ kind }) => kind === "protective-mbr");
  if (isWrong && mbr.kind !== "hybrid") {
    order.push({
      patches: [protectiveMbr(sector, mbr, blocks)],
      says: "The protective MBR was written",
    });
  }
  return order;
}

/** Refuses to write where a partition is. */
function checkRoom(
  patches: readonly Patch[],
  partitions: readonly Partition[],
  entryBlocks: bigint,
): void {
  for (const { number, start, sectors } of partitions) {
    const place = {
      offset: start * SECTOR_BYTES,
      length: sectors * SECTOR_BYTES,
    };
    if (!intersect(placesOf(patches), [place])) continue;
    throw new DiskError(
      "unsupported",
      `Cannot ${TASK} as partition ${number}, of sectors ${start} to ${
        start + sectors - 1
      }, lies where the table must go: it needs ${
        entryBlocks + 1n
      } blocks at the end of the disk`,
      { operation: "write" },
    );
  }
}

/** Whether a place holds what is to be written to it. */
async function isThere(
  disk: VirtualDisk,
  { offset, bytes }: Patch,
): Promise<boolean> {
  const { blockSize } = disk;
  const start = Math.floor(offset / blockSize) * blockSize;
  const end = Math.ceil((offset + bytes.length) / blockSize) * blockSize;
  try {
    const there = await disk.read(
      start / SECTOR_BYTES,
      (end - start) / SECTOR_BYTES,
    );
    return bytes.every((byte, i) => there[offset - start + i] === byte);
  } catch (error) {
    // What cannot be read may be cured by being written.
    if (isOfMedium(error)) return false;
    throw error;
  }
}
