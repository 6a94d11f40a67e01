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
    throw asDiskError(error, path, creates ? "create" : "open");
  }
  const medium = stat === undefined ? "file" : mediumOfStat(stat);
  if (medium === null) throw creates ? notToBeMade(path) : noDisk(path);
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
 * The error for making an image where something is that is no file.
 *
 * @param path Its path.
 * @returns The error.
 */
export function notToBeMade(path: string): DiskError {
  const stat = fs.statSync(path, { throwIfNoEntry: false });
  const isDevice = stat === undefined || mediumOfStat(stat) !== null;
  return new DiskError(
    "exists",
    isDevice
      ? `Cannot create "${path}" as it is a device, which has its size and its content already: open it instead, and write zeroes where it must be empty`
      : `Cannot create "${path}" as there is something of that name which is no file`,
    { operation: "create", path },
  );
}

/** What a file system does to direct I/O and to flushes. */
export interface FileSystem {
  /** What statfs(2) says of it. */
  readonly magic: number;
  /** Its name. */
  readonly name: string;
  /** The name of the file system below an overlay, if that is known. */
  readonly below: string | null;
  /**
   * Whether the device that stat(2) names is the one that it is on, and not a
   * number that was made up for it.
   */
  readonly onDevice: boolean;
  /** Whether it is on a disk of this machine, so that a flush reaches it. */
  readonly local: boolean;
  /** Whether it was mounted so that a flush does nothing. */
  readonly volatile: boolean;
  /** Whether it was mounted so that it sends no flush to its device. */
  readonly withoutBarriers: boolean;
  /** Whether O_DIRECT is taken and has no effect at all. */
  readonly ignoresDirect: boolean;
  /** Whether what O_DIRECT is asked for may be buffered all the same. */
  readonly buffers: boolean;
  /**
   * Whether it is direct after all where statx(2) says how to align it: that it
   * buffers is then true of some files, versions or settings only, and those
   * have no STATX_DIOALIGN.
   */
  readonly statxTells: boolean;
  /** What limits direct I/O, said of its name; `null` if nothing does. */
  readonly limit: string | null;
  /** Whether direct I/O must be aligned to the device's logical block size. */
  readonly alignedAsDevice: boolean;
  /**
   * Whether a range that fallocate(2) gave up or zeroed is known to read as
   * zeroes at once, by direct I/O as well. It was tried on each of these.
   */
  readonly zeroesRanges: boolean;
  /**
   * Whether a file that is cut to nothing and made long again is known to read as
   * zeroes.
   */
  readonly cutsToZeroes: boolean;
}

function fileSystem(
  magic: number,
  name: string,
  more: Partial<FileSystem> = {},
): FileSystem {
  return {
    magic,
    name,
    below: null,
    onDevice: false,
    local: true,
    volatile: false,
    withoutBarriers: false,
    ignoresDirect: false,
    buffers: false,
    statxTells: false,
    limit: null,
    alignedAsDevice: false,
    zeroesRanges: false,
    cutsToZeroes: true,
    ...more,
  };
}

/** What statfs(2) says of 9p, unless the server says something else. */
const NINE_P_MAGIC = 0x0102_1997;

const OVERLAY_MAGIC = 0x794c_7630;

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
  fileSystem(0xef53, "ext4", {
    onDevice: true,
    alignedAsDevice: true,
    zeroesRanges: true,
  }),
  fileSystem(0x5846_5342, "xfs", {
    onDevice: true,
    alignedAsDevice: true,
    zeroesRanges: true,
  }),
  // fs/btrfs/direct-io.c, since Linux 6.14.
  fileSystem(0x9123_683e, "btrfs", {
    buffers: true,
    limit:
      "buffers writes to files with data checksums: all but those that were made NOCOW (chattr +C) while empty",
    zeroesRanges: true,
  }),
  fileSystem(0x0102_1994, "tmpfs", { ...IN_MEMORY, zeroesRanges: true }),
  fileSystem(0x8584_58f6, "ramfs", IN_MEMORY),
  // module/os/linux/zfs/zpl_inode.c, `zpl_getattr`: STATX_DIOALIGN since 2.3,
  // unless direct I/O is switched off. A direct read may find what a range held
  // before it was given up or zeroed (version 2.3.9).
  fileSystem(0x2fc1_2fc1, "zfs", {
    buffers: true,
    statxTells: true,
    cutsToZeroes: false,
    limit:
      "ignores O_DIRECT before version 2.3 and buffers what is not whole records since",
  }),
  fileSystem(0x6969, "nfs", NETWORK),
  fileSystem(0xff53_4d42, "cifs", NETWORK),
  fileSystem(0xfe53_4d42, "smb2", NETWORK),
  fileSystem(NINE_P_MAGIC, "9p", NETWORK),
  fileSystem(0x00c3_6400, "ceph", NETWORK),
  fileSystem(0x6573_5546, "fuse", {
    local: false,
    buffers: true,
    limit: "hands O_DIRECT to a user-space file system that may buffer",
  }),
  // fs/overlayfs/inode.c, `ovl_getattr`: STATX_DIOALIGN is that of the file
  // below. cachestat(2) asks the overlay's own cache, in which nothing is.
  fileSystem(OVERLAY_MAGIC, "overlay", {
    local: false,
    buffers: true,
    statxTells: true,
    limit:
      "leaves direct I/O and flushes to the file system below, which cannot be told from here",
  }),
  fileSystem(0xf2f5_2010, "f2fs", { onDevice: true }),
  fileSystem(0xca45_1a4e, "bcachefs"),
  fileSystem(0x4d44, "vfat", { onDevice: true }),
  fileSystem(0x2011_bab0, "exfat", { onDevice: true }),
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
      buffers: true,
      statxTells: true,
      cutsToZeroes: false,
      limit: "is a file system that is not known here, so it may buffer",
    });
}

/**
 * Whether anything is known of a file system.
 *
 * @param name Its name, as in {@linkcode FileSystem}.
 * @returns Whether there is.
 */
export function isKnown(name: string): boolean {
  return FILE_SYSTEMS.some((known) => known.name === name);
}

/**
 * What is known of an overlay (overlayfs of Linux) by the file system that its
 * files are written to.
 *
 * @param upper That file system; `null` if it is not known.
 * @param volatile Whether it was mounted with `-o volatile`: fs/overlayfs/file.c,
 * `ovl_fsync`, then does nothing.
 * @returns What the overlay does.
 */
export function overlayAbove(
  upper: FileSystem | null,
  volatile: boolean,
): FileSystem {
  const overlay = fileSystemOf(OVERLAY_MAGIC);
  if (upper === null) return { ...overlay, volatile };
  return {
    ...upper,
    magic: overlay.magic,
    name: overlay.name,
    below: upper.name,
    volatile,
    statxTells: overlay.statxTells,
    onDevice: false,
    // The device that stat(2) names is not the one below.
    alignedAsDevice: false,
  };
}

/**
 * What is known of a file that is served by 9p.
 *
 * @returns What 9p does.
 */
export function nineP(): FileSystem {
  return fileSystemOf(NINE_P_MAGIC);
}

/** Whether a file system is an overlay of which nothing more is known yet. */
export function isOverlay({ magic, below }: FileSystem): boolean {
  return magic === OVERLAY_MAGIC && below === null;
}

/** A file system's name in a sentence. */
function titleOf({ name, below }: FileSystem): string {
  return below === null ? name : `${name} above ${below}`;
}

/**
 * What limits direct I/O on a file system.
 *
 * @param fileSystem The file system.
 * @returns The beginning of a sentence; `null` if nothing does.
 */
export function directLimit(fileSystem: FileSystem): string | null {
  const { limit } = fileSystem;
  return limit === null ? null : `${titleOf(fileSystem)} ${limit}`;
}

/** What there is to judge by whether I/O on a file is direct. */
export interface DirectEvidence {
  /** Whether statx(2) says how to align direct I/O (STATX_DIOALIGN). */
  readonly statxAligns: boolean;
  /** Whether btrfs keeps no checksums of the file (NOCOW). */
  readonly noCow: boolean;
}

/**
 * Why what O_DIRECT is asked for may be buffered all the same.
 *
 * @param fileSystem The file system that a file is on.
 * @param evidence What the kernel says of the file.
 * @returns Why; `null` if nothing speaks for it.
 */
export function bufferingReason(
  fileSystem: FileSystem,
  { statxAligns, noCow }: DirectEvidence,
): string | null {
  const direct = !fileSystem.buffers ||
    fileSystem.statxTells && statxAligns ||
    noCow && (fileSystem.below ?? fileSystem.name) === "btrfs";
  return direct && !fileSystem.ignoresDirect ? null : directLimit(fileSystem);
}

/** How far a flush reaches, and why no farther. */
export type FlushReach = Pick<DurabilityInfo, "flush" | "reason">;

/**
 * What a flush reaches.
 *
 * @param fileSystem The file system that a file is on.
 * @param deviceCache The cache of the device below, as far as it is known.
 * @returns How far, and why no farther.
 */
export function flushReach(
  fileSystem: FileSystem,
  deviceCache: string,
): FlushReach {
  const title = titleOf(fileSystem);
  if (fileSystem.volatile) {
    return {
      flush: "page cache",
      reason: `${title} is mounted volatile, so that a flush does nothing`,
    };
  }
  if (fileSystem.withoutBarriers && deviceCache !== "write through") {
    return {
      flush: "device cache",
      reason:
        `${title} is mounted without barriers, so that no flush is sent to the device`,
    };
  }
  if (fileSystem.local) return { flush: "media", reason: null };
  return fileSystem.ignoresDirect
    ? { flush: "page cache", reason: `${title} keeps its data in memory` }
    : {
      flush: "unknown",
      reason: `what a flush reaches on ${title} is not to be told from here`,
    };
}

/**
 * What a flush reaches where no table of file systems tells, as one does on Linux
 * and, with FFI, on Windows. Some have a drive's cache flushed, some do not, and
 * some are on another machine.
 *
 * @param method The call that flushes.
 * @returns How far, and why no farther is promised.
 */
export function untoldReach(method: string): FlushReach {
  return {
    flush: "unknown",
    reason:
      `whether ${method} reaches the medium depends on what the image is on, which cannot be told here`,
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
