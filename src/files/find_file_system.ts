/**
 * The file system that is meant when somebody asks a disk for files: the one on
 * the whole disk, or on the only partition that has one.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import type { Partition } from "../image/partition_table.ts";
import { readPartitions } from "../image/read_partitions.ts";
import { plural } from "../plural.ts";
import { printable } from "../printable.ts";
import { FileSystemError } from "./file_system_error.ts";
import { type FileSystemKind, fileSystemOf } from "./file_system_kind.ts";
import { hiddenJoliet, type Mask } from "./joliet.ts";
import { unreadFeature } from "./unread_feature.ts";

/** A file system that can be read. */
export interface FoundFileSystem {
  /** What it is on: the disk, or a slice of it. */
  readonly disk: VirtualDisk;
  /** What it is. */
  readonly kind: FileSystemKind;
  /** What 7-Zip calls it. */
  readonly reader: string;
  /** What 7-Zip is not to see of it. */
  readonly mask: Mask;
}

/** Partitions that a message lists. */
const MOST_LISTED = 16;

/**
 * Finds the file system of a disk.
 *
 * @param disk The disk.
 * @param signal Gives up.
 * @returns It.
 * @throws {FileSystemError} If there is none, it cannot be read, or the disk has
 * partitions of which several, or none, have one.
 * @throws {DiskError} If the disk fails.
 */
export async function findFileSystem(
  disk: VirtualDisk,
  signal: AbortSignal | undefined,
): Promise<FoundFileSystem> {
  if (disk.sectors === 0) {
    throw new FileSystemError(
      "none",
      "Cannot read files as the disk is empty: it has 0 sectors",
    );
  }
  const kind = await fileSystemOf(disk, { signal });
  if (kind !== null) return await readable(disk, kind, signal);
  const { partitions } = await readPartitions(disk, { signal });
  if (partitions.length === 0) {
    throw new FileSystemError(
      "none",
      "Cannot read files as no file system was recognised on the disk",
    );
  }
  const found: { disk: VirtualDisk; kind: FileSystemKind }[] = [];
  const lines: string[] = [];
  for (const partition of partitions.slice(0, MOST_LISTED)) {
    const part = await sliceOf(disk, partition, signal);
    if (part.kind !== null) found.push({ ...part, kind: part.kind });
    lines.push(describe(partition, part.kind));
  }
  const all = partitions.length <= MOST_LISTED;
  const [only] = found;
  if (all && found.length === 1) {
    return await readable(only!.disk, only!.kind, signal);
  }
  if (all && found.length === 0) {
    const count = partitions.length;
    throw new FileSystemError(
      "none",
      `Cannot read files as ${
        count === 1
          ? "the only partition has no file system"
          : `none of the ${count} partitions has a file system`
      } that was recognised: ${lines.join(", ")}`,
    );
  }
  throw new FileSystemError(
    "partitioned",
    `Cannot read files as the disk has ${
      plural(partitions.length, "partition")
    }, of which one must be chosen: ${lines.join(", ")}${all ? "" : ", …"}` +
      ": choose it with openPartition(disk, number)",
  );
}

async function sliceOf(
  disk: VirtualDisk,
  { role, start, sectors }: Partition,
  signal: AbortSignal | undefined,
): Promise<{ disk: VirtualDisk; kind: FileSystemKind | null }> {
  // A table may say what is not on the disk.
  const isThere = role !== "extended" && sectors > 0 &&
    start + sectors <= disk.sectors &&
    [start, sectors].every((it) => it * 512 % disk.blockSize === 0);
  if (!isThere) return { disk, kind: null };
  const slice = disk.slice(start, sectors);
  return { disk: slice, kind: await fileSystemOf(slice, { signal }) };
}

function describe(
  { number, name, typeName, type }: Partition,
  kind: FileSystemKind | null,
): string {
  const title = printable(name || typeName || type, 40);
  return `${number} (${title}, ${kind?.name ?? "no file system"})`;
}

async function readable(
  disk: VirtualDisk,
  kind: FileSystemKind,
  signal: AbortSignal | undefined,
): Promise<FoundFileSystem> {
  const { name, reader } = kind;
  const feature = reader === null
    ? null
    : await unreadFeature(disk, reader, { signal });
  if (reader !== null && feature === null) {
    const mask = reader === "Iso"
      ? await hiddenJoliet(disk, { signal })
      : new Map();
    return { disk, kind, reader, mask };
  }
  const advice = name === "swap space"
    ? "it has no files"
    : ["LUKS", "BitLocker", "LVM", "Linux RAID"].includes(name)
    ? "guestfish --ro -a IMAGE -i (package libguestfs-tools) looks inside"
    : "mount it as root by mount -o ro,loop, or guestmount -a IMAGE -i --ro " +
      "(package libguestfs-tools)";
  throw new FileSystemError(
    "unsupported",
    `Cannot read files as the disk has ${
      feature === null ? name : `${name} with ${feature}`
    }, which 7-Zip cannot read: ${advice}`,
  );
}
