/**
 * Where the partitions of a new table go: numbers and places for those that were
 * not given any. Pure; nothing is read or written.
 *
 * Partitions are placed in the order in which they are given. One without a
 * start begins at the first aligned sector after the one before it; one without
 * a length reaches as far as there is room, to an aligned end where
 * that leaves something.
 *
 * @module
 */

import { sectorsOf } from "../disk_size.ts";
import { SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import { plural } from "../plural.ts";
import { isGuid } from "./guid.ts";
import { NAME_UNITS } from "./gpt.ts";
import { parsePartitionType } from "./partition_types.ts";

/** A partition to be made. */
export interface NewPartition {
  /**
   * What is to be in it: a GUID in a GPT, not all zeroes; a type byte such as
   * `"0x83"` in an MBR; or a word for either: `"linux"`, `"efi"`, `"swap"`,
   * `"boot"`, `"home"`, `"lvm"`, `"raid"`, `"fat"`, `"ntfs"`, `"bios"`, `"msr"`.
   */
  type: string;
  /**
   * First sector, on a block of the disk; the first aligned one after the
   * partition before it if not given.
   */
  start?: number | undefined;
  /**
   * Sectors, whole blocks; as many as there is room for if neither this nor
   * `size` is given.
   */
  sectors?: number | undefined;
  /** The same in bytes, or with a unit: `"100MiB"`. */
  size?: number | string | undefined;
  /**
   * Its number; the first that is free if not given. In an MBR from 1 to 4, and
   * none for a logical partition: these count from 5 on, in their order.
   */
  number?: number | undefined;
  /** GPT only: what it is called, at most 36 characters of UTF-16. */
  name?: string | undefined;
  /** GPT only: its own GUID; a random one if not given. */
  guid?: string | undefined;
  /** GPT only: its attribute bits; see `Partition`. */
  attributes?: string | bigint | undefined;
  /**
   * Whether legacy firmware boots from it.
   *
   * @default {false}
   */
  bootable?: boolean | undefined;
  /**
   * MBR only: whether it is a logical partition. The extended partition around
   * all of these is made with them.
   *
   * @default {false}
   */
  logical?: boolean | undefined;
}

/** A partition with its place, in sectors. */
export interface PlannedPartition {
  readonly number: number;
  readonly start: number;
  readonly sectors: number;
  readonly type: string;
  readonly name: string;
  readonly guid: string;
  readonly attributes: bigint;
  readonly bootable: boolean;
  readonly logical: boolean;
}

/** What partitions are planned for. */
export interface PlanContext {
  /** The kind of table. */
  readonly kind: "gpt" | "mbr";
  /** Where partitions may be. */
  readonly usable: SectorRange;
  /** Sectors that the places of partitions are multiples of. */
  readonly alignment: number;
  /** Sectors of a block of the disk. */
  readonly blockSectors: number;
  /** Numbers that there are at most. */
  readonly mostNumbers: number;
}

/**
 * Plans partitions.
 *
 * @param wanted What was asked for.
 * @param context What for.
 * @returns The partitions, in the order of the disk.
 * @throws {RangeError | TypeError} If they cannot be made as they were asked
 * for.
 */
export function planPartitions(
  wanted: readonly NewPartition[],
  context: PlanContext,
): PlannedPartition[] {
  const numbers = numbersOf(wanted, context);
  const planned: PlannedPartition[] = [];
  for (const [i, partition] of wanted.entries()) {
    const refuse = refuserOf(numbers[i]!);
    checkWords(partition, context.kind, refuse);
    const place = placeOf(partition, i, wanted, planned, context, refuse);
    const attributes = attributesOf(partition, refuse);
    planned.push({
      number: numbers[i]!,
      ...place,
      type: parsePartitionType(context.kind, partition.type),
      name: partition.name ?? "",
      guid: (partition.guid ?? crypto.randomUUID()).toUpperCase(),
      attributes,
      bootable: partition.bootable ?? false,
      logical: partition.logical ?? false,
    });
  }
  const sorted = planned.toSorted((a, b) => a.start - b.start);
  for (const [i, each] of sorted.entries()) {
    const before = sorted[i - 1];
    if (before !== undefined && each.start < before.start + before.sectors) {
      refuserOf(each.number)(
        `it must not overlap partition ${before.number}, of ${
          plural(before.sectors, "sector")
        } at sector ${before.start}: current value of its start is ${each.start}`,
      );
    }
  }
  const guids = new Set(sorted.map(({ guid }) => guid));
  if (guids.size < sorted.length) {
    throw new RangeError(
      "Cannot write the table as each partition must have a GUID of its own: current value is one for several",
    );
  }
  return sorted;
}

type Refuse = (reason: string) => never;

function refuserOf(number: number): Refuse {
  return (reason) => {
    throw new RangeError(`Cannot make partition ${number} as ${reason}`);
  };
}

function numbersOf(
  wanted: readonly NewPartition[],
  { kind, mostNumbers }: PlanContext,
): number[] {
  const isLogical = ({ logical }: NewPartition) => logical === true;
  if (kind === "gpt" && wanted.some(isLogical)) {
    throw new RangeError(
      "Cannot make a logical partition in a GPT as only an MBR has them",
    );
  }
  const taken = new Set<number>();
  // The extended partition takes a number, too: the last one that is free.
  const most = kind === "mbr" && wanted.some(isLogical)
    ? mostNumbers - 1
    : mostNumbers;
  for (const partition of wanted) {
    const { number } = partition;
    if (number === undefined) continue;
    if (
      isLogical(partition) || !Number.isInteger(number) || number < 1 ||
      number > mostNumbers || taken.has(number)
    ) {
      throw new RangeError(
        `Cannot number a partition as its number must be ${
          isLogical(partition)
            ? "left out if it is logical"
            : `from 1 to ${mostNumbers} and its own`
        }: current value is ${number}`,
      );
    }
    taken.add(number);
  }
  const primaries = wanted.filter((it) => !isLogical(it)).length;
  if (primaries > most) {
    throw new RangeError(
      `Cannot write the table as it must have at most ${
        plural(most, "partition")
      } that ${
        kind === "gpt" ? "it lists" : "are not logical"
      }: current value is ${primaries}`,
    );
  }
  // Logical partitions are numbered in the order of the disk, which is not
  // known yet: for messages they have the number that they get if that is theirs.
  let logical = 5;
  return wanted.map((partition) => {
    if (isLogical(partition)) return logical++;
    if (partition.number !== undefined) return partition.number;
    let number = 1;
    while (taken.has(number)) number++;
    taken.add(number);
    return number;
  });
}

function placeOf(
  partition: NewPartition,
  index: number,
  wanted: readonly NewPartition[],
  planned: readonly PlannedPartition[],
  context: PlanContext,
  refuse: Refuse,
): { start: number; sectors: number } {
  const { usable, alignment, blockSectors } = context;
  const up = (sector: number) => Math.ceil(sector / alignment) * alignment;
  const end = usable.sector + usable.count;
  const before = planned.at(-1);
  const free = before === undefined
    ? usable.sector
    : before.start + before.sectors;
  // A logical partition has its record before it.
  const start = partition.start ??
    up(free + (partition.logical === true ? blockSectors : 0));
  const isBlocks = (count: number) =>
    Number.isSafeInteger(count) && count >= 0 && count % blockSectors === 0;
  const unit = blockSectors * SECTOR_BYTES;
  if (!isBlocks(start)) {
    refuse(
      `its start must be a sector on a block of ${unit} bytes: current value is ${start}`,
    );
  }
  const { sectors: count, size } = partition;
  let sectors: number;
  if (count === undefined && size === undefined) {
    const next = wanted.slice(index + 1).map((it) => it.start ?? Infinity);
    const placed = planned.map((it) => it.start);
    const limit = Math.min(
      end,
      ...[...next, ...placed].filter((it) => it > start),
    );
    sectors = Math.floor(limit / alignment) * alignment - start;
    // A start of its own, or a small disk, may leave no room for an aligned end.
    const isFirst = before === undefined;
    if (sectors <= 0 && (isFirst || partition.start !== undefined)) {
      sectors = limit - start;
    }
    sectors -= sectors % blockSectors;
  } else sectors = sectorsOf({ sectors: count, size }, "make a partition");
  if (start < usable.sector || sectors <= 0 || start + sectors > end) {
    refuse(
      `it must have at least one block from sector ${usable.sector} to ${
        end - 1
      }, where there is room: current values are ${
        plural(Math.max(sectors, 0), "sector")
      } at sector ${start}`,
    );
  }
  if (!isBlocks(sectors)) {
    refuse(
      `its length must be whole blocks of ${unit} bytes: current value is ${
        plural(sectors, "sector")
      }`,
    );
  }
  return { start, sectors };
}

function checkWords(
  partition: NewPartition,
  kind: "gpt" | "mbr",
  refuse: Refuse,
): void {
  const { name = "", guid, attributes } = partition;
  if (
    kind === "mbr" &&
    (name !== "" || guid !== undefined || attributes !== undefined)
  ) {
    refuse("names, GUIDs and attributes are for a GPT only");
  }
  if (
    name.length > NAME_UNITS || name.includes("\0") || !name.isWellFormed()
  ) {
    refuse(
      `its name must be well-formed text of at most ${NAME_UNITS} characters of UTF-16, without NUL: current value has ${name.length}`,
    );
  }
  if (guid !== undefined && !isGuid(guid)) {
    refuse(
      `its GUID must be 32 hexadecimal digits in five groups: current value is ${
        JSON.stringify(guid)
      }`,
    );
  }
}

function attributesOf(
  { attributes = 0n }: NewPartition,
  refuse: Refuse,
): bigint {
  let bits: bigint;
  try {
    bits = BigInt(attributes);
  } catch {
    bits = -1n;
  }
  if (bits < 0n || bits >= 1n << 64n) {
    refuse(
      `its attributes must be a number of 64 bits: current value is ${
        JSON.stringify(String(attributes))
      }`,
    );
  }
  return bits;
}
