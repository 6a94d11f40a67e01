/**
 * What an image is: what its path leads to, before it is opened, and what the
 * file system that it is on does to direct I/O and to flushes, in one table for
 * the direct and the portable backend. What cannot be a disk is refused. Numbers
 * go in, words come out: who asks the system, and how, is the backends' matter.
 *
 * @module
 */

import fs from "node:fs";
import { DiskError } from "../errors.ts";
import type { DirectInfo, DurabilityInfo } from "../info.ts";
import { asDiskError } from "./image_options.ts";

/** What an image is. */
export type Medium = "file" | "block device" | "character device";

/**
 * Looks where a path leads. To open a pipe for reading waits for its other end,
 * so this comes first.
 *
 * @param path The image's path.
 * @param creates Whether it is to be made.
 * @returns What is there; a file if nothing is yet.
 * @throws {DiskError} If that can be no disk, or cannot be made.
 */
export function mediumOf(path: string, creates: boolean): Medium {
  let stat: fs.Stats | undefined;
  try {
    stat = fs.statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw asDiskError(error, path);
  }
  const medium = stat === undefined ? "file" : mediumOfStat(stat);
  if (medium === null) throw noDisk(path);
  if (creates && medium !== "file") throw notToBeMade(path);
  return medium;
}

/**
 * What a path or a descriptor leads to.
 *
 * @param stat What the system says of it.
 * @returns What it is; `null` if that can be no disk.
 */
export function mediumOfStat(
  stat: Pick<fs.Stats, "isFile" | "isBlockDevice" | "isCharacterDevice">,
): Medium | null {
  if (stat.isFile()) return "file";
  if (stat.isBlockDevice()) return "block device";
  return stat.isCharacterDevice() ? "character device" : null;
}

/**
 * The error for what is no disk.
 *
 * @param path Its path.
 * @returns The error.
 */
export function noDisk(path: string): DiskError {
  return new DiskError(
    "geometry",
    `Cannot open "${path}" as a disk as it is neither a file nor a device with a size`,
    { operation: "open", path },
  );
}

/**
 * The error for making an image where a device is.
 *
 * @param path Its path.
 * @returns The error.
 */
export function notToBeMade(path: string): DiskError {
  return new DiskError(
    "exists",
    `Cannot create "${path}" as it is a device, which has its size and its content already: open it instead, and write zeroes where it must be empty`,
    { operation: "create", path },
  );
}

/** What a file system does to direct I/O and to flushes. */
export interface FileSystem {
  /** What statfs(2) says of it. */
  readonly magic: number;
  /** Its name. */
  readonly name: string;
  /** Whether it is on a disk of this machine, so that a flush reaches it. */
  readonly local: boolean;
  /** Whether O_DIRECT is taken and has no effect at all. */
  readonly ignoresDirect: boolean;
  /** Whether what O_DIRECT is asked for may be buffered all the same. */
  readonly buffers: boolean;
  /** What limits direct I/O, said of its name; `null` if nothing does. */
  readonly limit: string | null;
  /** Whether direct I/O must be aligned to the device's logical block size. */
  readonly alignedAsDevice: boolean;
}

function fileSystem(
  magic: number,
  name: string,
  more: Partial<FileSystem> = {},
): FileSystem {
  return {
    magic,
    name,
    local: true,
    ignoresDirect: false,
    buffers: false,
    limit: null,
    alignedAsDevice: false,
    ...more,
  };
}

/** mm/shmem.c and fs/ramfs of Linux: the page cache is all there is. */
const IN_MEMORY = {
  local: false,
  ignoresDirect: true,
  limit: "takes O_DIRECT and keeps its data in memory all the same",
};

const NETWORK = {
  local: false,
  buffers: true,
  limit: "bypasses the cache of this machine only: the server has its own",
};

/**
 * Linux' file systems, by the numbers of its `include/uapi/linux/magic.h` and of
 * OpenZFS' `include/os/linux/zfs/sys/zfs_vfsops_os.h`.
 */
export const FILE_SYSTEMS: readonly FileSystem[] = [
  // ext2, ext3 and ext4 share one number.
  fileSystem(0xef53, "ext4", { alignedAsDevice: true }),
  fileSystem(0x5846_5342, "xfs", { alignedAsDevice: true }),
  // fs/btrfs/direct-io.c, since Linux 6.14.
  fileSystem(0x9123_683e, "btrfs", {
    buffers: true,
    limit:
      "buffers writes to files with data checksums: all but those that were made NOCOW (chattr +C) while empty",
  }),
  fileSystem(0x0102_1994, "tmpfs", IN_MEMORY),
  fileSystem(0x8584_58f6, "ramfs", IN_MEMORY),
  fileSystem(0x2fc1_2fc1, "zfs", {
    buffers: true,
    limit:
      "ignores O_DIRECT before version 2.3 and buffers what is not whole records since",
  }),
  fileSystem(0x6969, "nfs", NETWORK),
  fileSystem(0xff53_4d42, "cifs", NETWORK),
  fileSystem(0xfe53_4d42, "smb2", NETWORK),
  fileSystem(0x0102_1997, "9p", NETWORK),
  fileSystem(0x00c3_6400, "ceph", NETWORK),
  fileSystem(0x6573_5546, "fuse", {
    local: false,
    buffers: true,
    limit: "hands O_DIRECT to a user-space file system that may buffer",
  }),
  // Above tmpfs, or mounted with `-o volatile`, nothing is durable.
  fileSystem(0x794c_7630, "overlay", {
    local: false,
    limit: "leaves direct I/O and flushes to the file system below",
  }),
  fileSystem(0xf2f5_2010, "f2fs"),
  fileSystem(0xca45_1a4e, "bcachefs"),
  fileSystem(0x4d44, "vfat"),
  fileSystem(0x2011_bab0, "exfat"),
];

/**
 * What is known of a file system.
 *
 * @param magic What statfs(2) of Linux says of it.
 * @returns What it does; for one that is not known, nothing that could be relied
 * upon, under its number for a name.
 */
export function fileSystemOf(magic: number): FileSystem {
  return FILE_SYSTEMS.find((known) => known.magic === magic) ??
    fileSystem(magic, `0x${magic.toString(16)}`, {
      local: false,
      limit: "is a file system that is not known here, so it may buffer",
    });
}

/**
 * What a flush reaches.
 *
 * @param fileSystem The file system that a file is on.
 * @returns How far, and why no farther.
 */
export function flushReach(
  { name, local, ignoresDirect }: FileSystem,
): Pick<DurabilityInfo, "flush" | "reason"> {
  if (local) return { flush: "media", reason: null };
  return ignoresDirect
    ? { flush: "page cache", reason: `${name} keeps its data in memory` }
    : {
      flush: "unknown",
      reason: `what a flush reaches on ${name} is not to be told from here`,
    };
}

/**
 * What there is to say of I/O that is buffered.
 *
 * @param reason Why it is not direct; `null` if there is nothing to say.
 * @returns The same, for `info`.
 */
export function bufferedInfo(reason: string | null): DirectInfo {
  return {
    active: false,
    method: null,
    reason,
    memoryAlignment: 1,
    offsetAlignment: 1,
    readOffsetAlignment: 1,
    alignmentSource: "none",
  };
}

/**
 * The error for an image where direct I/O was a condition and is not to be had.
 *
 * @param path Its path.
 * @param reason Why not.
 * @returns The error.
 */
export function notDirect(path: string, reason: string): DiskError {
  return new DiskError(
    "platform",
    `Cannot open "${path}" for direct I/O as ${reason}`,
    { operation: "open", path },
  );
}
