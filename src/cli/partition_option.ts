/**
 * The option that makes a verb work on one partition of an image, and not on
 * all of it.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { openPartition } from "../image/open_partition.ts";
import { parseCount, type VerbArguments, type VerbOption } from "./verb.ts";

/** The option; sectors and sizes of the verb are those of the partition then. */
export const PARTITION_OPTION: VerbOption = {
  name: "partition",
  value: "N",
  summary: "Not the whole disk, but this partition of it",
};

/**
 * Finds the part of an image that a verb works on.
 *
 * @param disk The image.
 * @param args What was typed.
 * @param signal Gives up.
 * @param option The option that says which partition.
 * @returns The partition, a slice that need not be closed; the image itself if
 * the option was not given.
 * @throws {UsageError} If it is no number.
 * @throws {DiskError} If there is no such partition.
 */
export async function partitionOf(
  disk: VirtualDisk,
  args: VerbArguments,
  signal?: AbortSignal,
  option = PARTITION_OPTION.name,
): Promise<VirtualDisk> {
  const number = args.parsed(option, parseCount);
  return number === undefined
    ? disk
    : await openPartition(disk, number, { signal });
}
