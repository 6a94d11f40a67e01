/**
 * An assertion about the partitions of a disk.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import type { Partition, PartitionTable } from "../image/partition_table.ts";
import { parsePartitionType } from "../image/partition_types.ts";
import { readPartitions } from "../image/read_partitions.ts";
import { plural } from "../plural.ts";
import { printable } from "../printable.ts";
import { DiskAssertionError } from "./assert_sectors.ts";

/** What a disk's partitions should be: what is not given may be anything. */
export interface ExpectedPartitions
  extends Partial<Pick<PartitionTable, "kind" | "sectorSize" | "id">> {
  /**
   * All of its partitions, in the order of their numbers. Of each is compared
   * what is given; a type may be a word such as `"efi"` or `"linux"`, too.
   */
  readonly partitions: readonly Partial<Partition>[];
  /**
   * The kinds of problems that the table may have.
   *
   * @default {[]}
   */
  readonly problems?: readonly PartitionTable["problems"][number]["kind"][];
}

/**
 * Asserts which partitions a disk has, and that its table is sound.
 *
 * @param disk The disk.
 * @param expected What they should be; an array is those of any table.
 * @returns When they were read and are right.
 * @throws {DiskAssertionError} If they are not, with everything that is wrong.
 * @throws {DiskError} If the disk fails.
 *
 * @example
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { writePartitions } from "@platter/disk/image";
 * import { assertPartitions } from "@platter/disk/testing";
 *
 * await using disk = VirtualDisk.memory({ size: "64MiB" });
 * await writePartitions(disk, {
 *   kind: "gpt",
 *   partitions: [{ type: "efi", size: "16MiB" }, { type: "linux", name: "root" }],
 * });
 * await assertPartitions(disk, {
 *   kind: "gpt",
 *   partitions: [{ type: "efi", start: 2048 }, { type: "linux", name: "root" }],
 * });
 * ```
 */
export async function assertPartitions(
  disk: VirtualDisk,
  expected: ExpectedPartitions | readonly Partial<Partition>[],
): Promise<void> {
  const wanted: ExpectedPartitions = "partitions" in expected
    ? expected
    : { partitions: expected };
  const table = await readPartitions(disk);
  const wrong: string[] = [];
  const compare = (what: string, is: unknown, should: unknown) => {
    if (should === undefined || is === should) return;
    wrong.push(
      `${what}: - ${show(is)}`,
      `${" ".repeat(what.length)}  + ${show(should)}`,
    );
  };
  compare("kind of table", table.kind, wanted.kind);
  compare("sector size", table.sectorSize, wanted.sectorSize);
  compare("id", table.id, wanted.id);
  table.partitions.forEach((partition, i) => {
    const { number } = partition;
    const should = wanted.partitions[i];
    if (should === undefined) {
      wrong.push(
        `partition ${number}: - ${describe(partition)}, which should not be`,
      );
      return;
    }
    for (const key of Object.keys(should) as (keyof Partition)[]) {
      const value = key === "type" ? typeOf(table, should.type) : should[key];
      compare(`partition ${number}, ${key}`, partition[key], value);
    }
  });
  const missing = wanted.partitions.slice(table.partitions.length);
  missing.forEach((partition, i) =>
    wrong.push(
      `partition ${partition.number ?? table.partitions.length + i + 1}: + ${
        show(partition)
      }, which is missing`,
    )
  );
  const { problems: allowed = [] } = wanted;
  for (const { kind, message } of table.problems) {
    if (!allowed.includes(kind)) {
      wrong.push(`${kind}: ${printable(message, 500)}`);
    }
  }
  if (wrong.length === 0) return;
  throw new DiskAssertionError(
    [
      "The partitions are not as they should be (- is there, + should be):",
      ...wrong.map((line) => `  ${line}`),
    ].join("\n"),
    [],
  );
}

/** A type as the table has it; one that such a table cannot have as it is. */
function typeOf(
  { kind }: PartitionTable,
  type: string | undefined,
): string | undefined {
  if (type === undefined || kind === "none") return type;
  try {
    return parsePartitionType(kind, type);
  } catch {
    return type;
  }
}

function describe(partition: Partition): string {
  const { start, sectors, type, typeName, name } = partition;
  return `${plural(sectors, "sector")} from ${start} on, ${typeName ?? type}${
    name && ` ${show(name)}`
  }`;
}

function show(value: unknown): string {
  return printable(JSON.stringify(value) ?? "nothing");
}
