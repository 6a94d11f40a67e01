/**
 * Reading the table of partitions of a disk.
 *
 * A disk's first sector decides what kind of table counts, as it does for Linux:
 * an entry of type 0xEE means a GPT, other entries an MBR. What is on the disk is
 * taken for hostile: every place is checked before it is read, what is read is
 * bounded (1 MiB of GPT entries in each copy, 256 logical partitions), and what
 * makes no sense is a {@linkcode PartitionProblem} and not an error.
 *
 * @module
 */

import { type RequestOptions, VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { checkPartitions } from "./check_partitions.ts";
import {
  findGpt,
  type GptCopies,
  type GptCopy,
  usedCopyOf,
} from "./find_gpt.ts";
import {
  findLogical,
  type MbrPartition,
  primariesOf,
  sectorSizeOfMbr,
} from "./find_mbr.ts";
import {
  decodeEntries,
  ENTRY_BYTES,
  GPT_REVISION,
  type GptEntry,
  type GptHeader,
  LEGACY_BOOT,
} from "./gpt.ts";
import {
  decodeMbr,
  isUsed,
  MAX_MBR_BLOCKS,
  type Mbr,
  MBR_BYTES,
  PROTECTIVE,
} from "./mbr.ts";
import type {
  Partition,
  PartitionProblem,
  PartitionProblemKind,
  PartitionTable,
} from "./partition_table.ts";
import { partitionTypeName } from "./partition_types.ts";
import { TableReader } from "./table_reader.ts";

/** A table, and the structures that it was read from. */
export interface FoundTable {
  /** The table. */
  readonly table: PartitionTable;
  /** The first sector. */
  readonly mbr: Mbr;
  /** The copies of the GPT that counts, or of one that is left over. */
  readonly gpt: GptCopies | null;
  /** The blocks that the records of logical partitions stand in. */
  readonly records: readonly number[];
}

/**
 * Reads the table of partitions of a disk.
 *
 * Of a GPT the primary copy counts if it is sound, else the backup; the table
 * says which it was, and its problems say why. A table that was made for sectors
 * of another size than the disk has, 512 or 4,096 bytes, is read all the same
 * and its places are right; that is a problem as well, since other systems will
 * not find it.
 *
 * A table that cannot be made sense of is no error. At most 64 KiB are read of a
 * disk with an ordinary table.
 *
 * @param disk The disk.
 * @param options A signal.
 * @returns Its table; one of kind `"none"` if it has none.
 * @throws {DiskError} If the disk fails; if only the medium does, the sectors
 * count as damaged.
 *
 * @example
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { readPartitions, writePartitions } from "@platter/disk/image";
 * import { assertEquals } from "@std/assert";
 *
 * await using disk = VirtualDisk.memory({ size: "64MiB" });
 * await writePartitions(disk, {
 *   kind: "gpt",
 *   partitions: [{ type: "efi", sectors: 32_768 }, { type: "linux" }],
 * });
 * const { kind, partitions, problems } = await readPartitions(disk);
 * assertEquals(kind, "gpt");
 * assertEquals(partitions.map((it) => [it.number, it.start, it.typeName]), [
 *   [1, 2048, "EFI system"],
 *   [2, 34_816, "Linux file system"],
 * ]);
 * assertEquals(problems, []);
 * ```
 */
export async function readPartitions(
  disk: VirtualDisk,
  options: RequestOptions = {},
): Promise<PartitionTable> {
  return (await findTable(disk, options.signal)).table;
}

/**
 * Reads the table of a disk, and says where it is.
 *
 * @param disk The disk.
 * @param signal Gives up.
 * @returns The table and its structures.
 */
export async function findTable(
  disk: VirtualDisk,
  signal?: AbortSignal,
): Promise<FoundTable> {
  const resized = VirtualDisk.resized([disk], signal);
  if (resized !== null) await resized;
  const reader = new TableReader(disk, signal);
  const sector = await reader.read(0, MBR_BYTES);
  const mbr = decodeMbr(sector ?? new Uint8Array(MBR_BYTES));
  const gpt = await chooseGpt(reader, mbr, disk.blockSize);
  const used = gpt === null ? null : usedCopyOf(gpt);
  const isGpt = mbr.kind === "protective" ||
    (used !== null && mbr.kind !== "boot" &&
      !(mbr.kind === "mbr" && primariesOf(mbr).length > 0));
  const unread: PartitionProblem[] = sector === null && disk.sectors > 0
    ? [problem("protective-mbr", "The first sector cannot be read")]
    : [];
  if (isGpt && gpt !== null) {
    return {
      table: gptTable(disk, mbr, gpt, unread),
      mbr,
      gpt,
      records: [],
    };
  }
  const stale = staleGpt(mbr, gpt);
  if (mbr.kind === "mbr" || mbr.kind === "hybrid") {
    return await mbrTable(disk, reader, mbr, gpt, stale);
  }
  const table: PartitionTable = {
    kind: "none",
    sectorSize: disk.blockSize,
    id: undefined,
    copy: undefined,
    usable: { start: 0, sectors: disk.sectors },
    partitions: [],
    problems: [...unread, ...stale],
  };
  return { table, mbr, gpt, records: [] };
}

function problem(
  kind: PartitionProblemKind,
  message: string,
  partitions: readonly number[] = [],
): PartitionProblem {
  return { kind, message, partitions };
}

/**
 * Looks for a GPT with the disk's sector size, and if there is none that can be
 * used, with the others that disks have.
 */
async function chooseGpt(
  reader: TableReader,
  mbr: Mbr,
  blockSize: number,
): Promise<GptCopies | null> {
  let damaged: GptCopies | null = null;
  for (const sectorSize of new Set([blockSize, 512, 4096])) {
    const copies = await findGpt(reader, mbr, sectorSize);
    if (usedCopyOf(copies) !== null) return copies;
    const isSeen = [copies.primary, copies.backup].some((copy) =>
      !copy.sound && copy.signature
    );
    if (damaged === null && isSeen) damaged = copies;
    if (mbr.kind === "protective" && sectorSize === blockSize) {
      damaged = copies;
    }
  }
  return damaged;
}

/** What is said of a GPT that does not count. */
function staleGpt(mbr: Mbr, gpt: GptCopies | null): PartitionProblem[] {
  if (gpt === null) {
    return mbr.kind === "hybrid"
      ? [problem(
        "primary",
        "The MBR has an entry for a GPT, and there is none",
      )]
      : [];
  }
  const used = usedCopyOf(gpt);
  const { primary } = gpt;
  if (used === null) {
    return [problem(
      "stale-gpt",
      `There are remains of a GPT that cannot be used${
        primary.sound || !primary.signature ? "" : `: ${primary.reason}`
      }`,
    )];
  }
  return [problem(
    "stale-gpt",
    `There is a GPT (its ${used} copy is sound), and it does not count as the first sector ${
      mbr.kind === "boot"
        ? "is the boot sector of a file system"
        : "lists other partitions"
    }`,
  )];
}

function gptTable(
  disk: VirtualDisk,
  mbr: Mbr,
  copies: GptCopies,
  before: readonly PartitionProblem[],
): PartitionTable {
  const { sectorSize, blocks } = copies;
  const copy = usedCopyOf(copies);
  const problems = [
    ...before,
    ...copyProblems(copies),
    ...sectorSizeProblems(disk, sectorSize),
    ...protectiveProblems(mbr, blocks),
  ];
  const found = copy === null ? null : copies[copy];
  if (found === null || !found.sound) {
    return {
      kind: "gpt",
      sectorSize,
      id: undefined,
      copy: null,
      usable: { start: 0, sectors: 0 },
      partitions: [],
      problems,
    };
  }
  const { header } = found;
  const each = sectorSize / SECTOR_BYTES;
  const last = header.lastUsable < blocks ? header.lastUsable : blocks - 1n;
  const first = header.firstUsable > last ? last + 1n : header.firstUsable;
  const usable = {
    start: Number(first) * each,
    sectors: Number(last - first + 1n) * each,
  };
  problems.push(...headerProblems(header, blocks));
  const { partitions, refused } = partitionsOf(found, sectorSize);
  problems.push(...hybridProblems(mbr, partitions, each));
  problems.push(...refused.map(({ number, first, last }) =>
    problem(
      "entry",
      `Entry ${number} is not listed as it cannot be a partition: it goes from block ${first} to ${last}`,
      [number],
    )
  ));
  problems.push(...checkPartitions(
    partitions,
    { sector: usable.start, count: usable.sectors },
    disk.info,
  ));
  return {
    kind: "gpt",
    sectorSize,
    id: header.guid,
    copy,
    usable,
    partitions,
    problems,
  };
}

/**
 * The partitions that a copy of a GPT lists.
 *
 * @param copy The copy.
 * @param sectorSize Bytes of a block.
 * @returns Its partitions, and the entries that cannot be any.
 */
export function partitionsOf(
  copy: GptCopy,
  sectorSize: number,
): { partitions: Partition[]; refused: GptEntry[] } {
  const partitions: Partition[] = [];
  const refused: GptEntry[] = [];
  for (const entry of decodeEntries(copy.entries, copy.header)) {
    const partition = gptPartition(entry, sectorSize / SECTOR_BYTES);
    if (partition !== null) partitions.push(partition);
    else refused.push(entry);
  }
  return { partitions, refused };
}

/** An entry in sectors; `null` if they cannot be counted. */
function gptPartition(entry: GptEntry, each: number): Partition | null {
  const end = (entry.last + 1n) * BigInt(each);
  if (entry.first > entry.last || end > Number.MAX_SAFE_INTEGER) return null;
  const start = Number(entry.first) * each;
  return {
    number: entry.number,
    start,
    sectors: Number(end) - start,
    type: entry.type,
    typeName: partitionTypeName(entry.type),
    name: entry.name,
    guid: entry.guid,
    attributes: `0x${entry.attributes.toString(16)}`,
    bootable: (entry.attributes & LEGACY_BOOT) !== 0n,
    role: "primary",
  };
}

/** What is wrong with the copies, and which of them is used for it. */
function copyProblems(copies: GptCopies): PartitionProblem[] {
  const { primary, backup, blocks } = copies;
  const problems: PartitionProblem[] = [];
  if (!primary.sound) {
    const instead = backup.sound ? ", and the backup is used" : "";
    problems.push(problem(
      "primary",
      `The primary copy of the GPT is damaged: ${primary.reason}${instead}`,
    ));
  }
  const last = blocks - 1n;
  if (!backup.sound) {
    const end = primary.sound && primary.header.alternate !== last
      ? `, and the primary copy says that it is in block ${primary.header.alternate}`
      : "";
    problems.push(problem(
      "backup",
      `The backup copy of the GPT is damaged: ${backup.reason}${end}`,
    ));
    return problems;
  }
  if (backup.header.own !== last) {
    problems.push(problem(
      "backup-place",
      `The backup copy of the GPT is in block ${backup.header.own} and not in the last one, ${last}: the disk may have grown`,
    ));
  }
  if (!primary.sound) return problems;
  if (primary.header.alternate !== backup.header.own) {
    problems.push(problem(
      "header",
      `The primary header says that the backup is in block ${primary.header.alternate}, and it is in block ${backup.header.own}`,
    ));
  }
  const differ = (["guid", "firstUsable", "lastUsable", "entriesCrc"] as const)
    .filter((field) => primary.header[field] !== backup.header[field]);
  if (differ.length > 0) {
    problems.push(problem(
      "copies-differ",
      "Both copies of the GPT are sound, and they do not say the same: the primary one is used",
    ));
  }
  return problems;
}

function headerProblems(
  header: GptHeader,
  blocks: bigint,
): PartitionProblem[] {
  const problems: PartitionProblem[] = [];
  const wrong = (message: string) =>
    void problems.push(problem("header", message));
  if (header.revision !== GPT_REVISION) {
    wrong(`The GPT has revision 0x${header.revision.toString(16)}, not 1.0`);
  }
  const times = header.entryBytes / ENTRY_BYTES;
  if (!Number.isInteger(Math.log2(times))) {
    wrong(
      `The entries of the GPT have ${header.entryBytes} bytes, which is not 128 times a power of two`,
    );
  }
  if (header.lastUsable >= blocks) {
    wrong(
      `The GPT says that partitions may reach block ${header.lastUsable}, and the disk has ${blocks}: it may have been cut`,
    );
  }
  return problems;
}

function sectorSizeProblems(
  disk: VirtualDisk,
  sectorSize: number,
): PartitionProblem[] {
  if (sectorSize === disk.blockSize) return [];
  return [problem(
    "sector-size",
    `The table was made for sectors of ${sectorSize} bytes and the disk has blocks of ${disk.blockSize}, so that other systems do not find it, or not what it says`,
  )];
}

function protectiveProblems(mbr: Mbr, blocks: bigint): PartitionProblem[] {
  const entry = mbr.entries.find(({ type }) => type === PROTECTIVE);
  if (entry === undefined) {
    return [problem(
      "protective-mbr",
      "There is no protective MBR, so that other systems do not look for the GPT",
    )];
  }
  const problems: PartitionProblem[] = [];
  if (mbr.kind === "hybrid") {
    problems.push(problem(
      "hybrid-mbr",
      "The MBR lists partitions beside the GPT, which other systems may take for the table",
    ));
  }
  // Beside what is right, UEFI wants, and tools write, the largest number there
  // is for a disk of more blocks than that.
  const count = Number(blocks - 1n);
  const isWhole = entry.count === MAX_MBR_BLOCKS || entry.count === count;
  if (entry.start !== 1 || (!isWhole && mbr.kind !== "hybrid")) {
    problems.push(problem(
      "protective-mbr",
      `The protective MBR covers blocks ${entry.start} to ${
        entry.start + entry.count - 1
      }, and the disk has ${blocks}`,
    ));
  }
  return problems;
}

/** Partitions of a hybrid MBR that the GPT has elsewhere, or not at all. */
function hybridProblems(
  mbr: Mbr,
  partitions: readonly Partition[],
  each: number,
): PartitionProblem[] {
  if (mbr.kind !== "hybrid") return [];
  return mbr.entries.filter((entry) =>
    isUsed(entry) && entry.type !== PROTECTIVE &&
    !partitions.some(({ start, sectors }) =>
      start === entry.start * each && sectors === entry.count * each
    )
  ).map(({ start, count }) =>
    problem(
      "hybrid-mbr",
      `The MBR lists a partition that the GPT does not list: it goes from block ${start} to ${
        start + count - 1
      }`,
    )
  );
}

async function mbrTable(
  disk: VirtualDisk,
  reader: TableReader,
  mbr: Mbr,
  gpt: GptCopies | null,
  before: readonly PartitionProblem[],
): Promise<FoundTable> {
  const primaries = primariesOf(mbr);
  const { blockSize } = disk;
  const sectorSize = await sectorSizeOfMbr(
    reader,
    primaries,
    blockSize,
    blockSize === 512 ? 4096 : 512,
  );
  const chain = await findLogical(reader, primaries, sectorSize);
  const each = sectorSize / SECTOR_BYTES;
  const partitions = [...primaries, ...chain.partitions].map((it) =>
    mbrPartition(it, each)
  );
  const blocks = Math.min(
    Math.floor(disk.sectors / each),
    MAX_MBR_BLOCKS + 1,
  );
  const usable = {
    start: each,
    sectors: Math.max(0, (blocks - 1) * each),
  };
  const problems = [
    ...before,
    ...sectorSizeProblems(disk, sectorSize),
    ...(mbr.kind === "hybrid"
      ? [problem(
        "hybrid-mbr",
        "The MBR is made to stand beside a GPT that cannot be used",
      )]
      : []),
    ...chain.problems,
    ...checkPartitions(
      partitions,
      { sector: usable.start, count: usable.sectors },
      disk.info,
    ),
    ...coveredRecords(partitions, chain.records, each),
  ];
  const table: PartitionTable = {
    kind: "mbr",
    sectorSize,
    id: `0x${mbr.id.toString(16).padStart(8, "0")}`,
    copy: undefined,
    usable,
    partitions,
    problems,
  };
  return { table, mbr, gpt, records: chain.records };
}

function mbrPartition(it: MbrPartition, each: number): Partition {
  const type = `0x${it.type.toString(16).padStart(2, "0")}`;
  return {
    number: it.number,
    start: it.start * each,
    sectors: it.count * each,
    type,
    typeName: partitionTypeName(type),
    name: "",
    guid: undefined,
    attributes: `0x${it.status.toString(16)}`,
    bootable: it.status === 0x80,
    role: it.role,
  };
}

/** Partitions that hold a record of the chain, which writes to them destroy. */
function coveredRecords(
  partitions: readonly Partition[],
  records: readonly number[],
  each: number,
): PartitionProblem[] {
  return partitions.flatMap(({ number, start, sectors, role }) => {
    const covered = role === "extended"
      ? undefined
      : records.find((record) =>
        record * each >= start && record * each < start + sectors
      );
    return covered === undefined ? [] : [problem(
      "overlap",
      `Partition ${number} overlaps a record of logical partitions at block ${covered}`,
      [number],
    )];
  });
}
