/**
 * One partition of a disk as a disk.
 *
 * @module
 */

import type { RequestOptions, VirtualDisk } from "../disk/disk.ts";
import { describeValue, DiskError } from "../errors.ts";
import { plural } from "../plural.ts";
import type { PartitionTable } from "./partition_table.ts";
import { readPartitions } from "./read_partitions.ts";

/**
 * Opens a partition: a {@linkcode VirtualDisk.slice} of its disk, which shares
 * the disk's queue, so that order, flush and failure are those of the whole
 * disk. Closing it leaves the disk open.
 *
 * @param disk The disk.
 * @param number The partition's number.
 * @param options A signal.
 * @returns The partition.
 * @throws {DiskError} With kind `argument` if the number is none, `not-found` if
 * there is none of that number, `range` if it is not all on the disk, `alignment` if it does not start and end
 * on blocks of the disk; or as the disk fails.
 *
 * @example
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { openPartition, writePartitions } from "@platter/disk/image";
 * import { assertEquals } from "@std/assert";
 *
 * await using disk = VirtualDisk.memory({ size: "64MiB" });
 * await writePartitions(disk, {
 *   kind: "gpt",
 *   partitions: [{ type: "efi", size: "16MiB" }, { type: "linux" }],
 * });
 * await using partition = await openPartition(disk, 2);
 * await partition.write(0, new Uint8Array(512).fill(1));
 * assertEquals(partition.start, 34_816);
 * assertEquals((await disk.read(34_816, 1))[0], 1);
 * ```
 */
export async function openPartition(
  disk: VirtualDisk,
  number: number,
  options: RequestOptions = {},
): Promise<VirtualDisk> {
  if (!Number.isSafeInteger(number)) {
    throw new DiskError(
      "argument",
      `Cannot open a partition as its number must be a safe integer: current value is ${
        typeof number === "number" ? number : describeValue(number)
      }`,
      { operation: "open" },
    );
  }
  const table = await readPartitions(disk, options);
  const partition = table.partitions.find((it) => it.number === number);
  const path = disk.info.path ?? undefined;
  // Of two disks, it is to be known which.
  const what = `partition ${number}${
    path === undefined ? "" : ` of "${path}"`
  }`;
  if (partition === undefined) {
    throw new DiskError(
      "not-found",
      `Cannot open ${what} as ${describeNumbers(table)}`,
      { operation: "open", path },
    );
  }
  const { start, sectors } = partition;
  try {
    return disk.slice(start, sectors);
  } catch (cause) {
    const { kind, message } = cause as DiskError;
    throw new DiskError(kind, `Cannot open ${what} as that fails: ${message}`, {
      ...{ operation: "open", path, sector: start, count: sectors, cause },
    });
  }
}

/** Which partitions there are, for whoever asked for another one. */
function describeNumbers({ kind, copy, partitions }: PartitionTable): string {
  if (kind === "none") return "the disk has no table of partitions";
  if (copy === null) return "neither copy of the disk's GPT can be used";
  const numbers = partitions.map(({ number }) => number).slice(0, 16);
  const count = plural(partitions.length, "partition");
  return partitions.length === 0
    ? "the disk's table has no partitions"
    : `the disk has ${count}: ${numbers.join(", ")}${
      numbers.length < partitions.length ? ", …" : ""
    }`;
}
