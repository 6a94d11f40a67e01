/**
 * Finds out what an open image is: its size and blocks, what the host demands
 * of direct I/O on it, whether that I/O is really direct, what a flush reaches.
 *
 * @module
 */

import { fstatSync } from "node:fs";
import { errnoName, FS_NOCOW_FL, LINUX_IOCTL } from "../../../ffi/abi.ts";
import {
  blockDeviceSize,
  logicalBlockSize,
  minimumIo,
  optimalIo,
  physicalBlockSize,
  secureErase,
} from "../../../ffi/block_device.ts";
import type { Libc } from "../../../ffi/libc.ts";
import { addressOf, alignedMemory } from "../../../ffi/memory.ts";
import { cachedPages } from "../../../ffi/page_cache.ts";
import {
  type FileStatus,
  fileSystemName,
  statfsType,
  statx,
  xfsDirectIo,
} from "../../../ffi/statx.ts";
import type { DirectInfo, DurabilityInfo } from "../../info.ts";
import {
  type QueueAttributes,
  queueAttributes,
  splitDevice,
} from "../sysfs.ts";
import { writesDurably } from "./durable_write.ts";
import { syncMethod } from "./kernel.ts";

const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFBLK = 0o060000;
const S_IFCHR = 0o020000;

/** What is assumed where the host does not say: no host is known to want more. */
const ASSUMED_ALIGNMENT = 4096;

/** What an open image is. */
export interface Probed {
  /** `"file"`, `"block device"`, `"character device"`, or `null`: no disk. */
  readonly medium: "file" | "block device" | "character device" | null;
  /** Size in bytes. */
  readonly sizeBytes: number;
  /** The device's logical block size in bytes; 512 for a file. */
  readonly logicalBlockSize: number;
  /** Bytes that the medium writes without read-modify-write, if known. */
  readonly physicalBlockSize: number | undefined;
  /** Smallest I/O that performs well, in bytes; 0 when not known. */
  readonly minimumIoSize: number;
  /** I/O size that performs best, in bytes; 0 when not known. */
  readonly optimalIoSize: number;
  /** The file system's name; `null` if not known. */
  readonly fileSystem: string | null;
  /** Device and inode, for an identity. */
  readonly inode: number;
  /** Whether I/O is direct. */
  readonly direct: DirectInfo;
  /** What a flush gives. */
  readonly durability: DurabilityInfo;
  /** Whether RWF_DSYNC is known to make a write durable. */
  readonly durableWrites: boolean;
  /** Whether the device takes discards; `undefined` if that is not known. */
  readonly discards: boolean | undefined;
  /** Whether the device erases securely. */
  readonly erases: boolean;
}

/** How the descriptor was opened. */
export interface OpenedFor {
  /** How direct I/O was asked for; `null` if it was not, or refused. */
  readonly method: string | null;
  /** Why it was not asked for, or refused. */
  readonly reason: string | null;
}

/**
 * Finds out what an open image is. Reads a little of it; writes nothing.
 *
 * @param libc The C library.
 * @param fd The image's descriptor.
 * @param opened How it was opened.
 * @returns What was found, or −errno.
 */
export function probe(
  libc: Libc,
  fd: number,
  opened: OpenedFor,
): Probed | number {
  const status = fileStatus(libc, fd);
  if (typeof status === "number") return status;
  const type = status.mode & S_IFMT;
  const medium = type === S_IFREG
    ? "file"
    : type === S_IFBLK
    ? "block device"
    : type === S_IFCHR
    ? "character device"
    : null;
  const device = medium === "file" ? null : fd;
  const sizeBytes = device === null
    ? status.sizeBytes
    : deviceSize(libc, fd, medium);
  if (medium !== null && sizeBytes < 0) return sizeBytes;

  const queue = medium === "block device"
    ? queueAttributes(status.rdevMajor, status.rdevMinor)
    : queueAttributes(status.deviceMajor, status.deviceMinor);
  const logical = device === null ? 512 : atLeast(
    positive(logicalBlockSize(libc, fd)) ?? queue.logicalBlockSize ??
      positive(status.dioOffsetAlign ?? 0) ?? ASSUMED_ALIGNMENT,
    512,
  );
  const fileSystemType = device === null && libc.abi.os === "linux"
    ? statfsType(libc, fd)
    : 0;
  const fileSystem = fileSystemName(fileSystemType) ?? null;
  const direct = directInfo(
    libc,
    fd,
    opened,
    status,
    fileSystem,
    device === null ? undefined : logical,
    sizeBytes,
  );
  return {
    medium,
    sizeBytes,
    logicalBlockSize: logical,
    physicalBlockSize: device === null
      ? queue.physicalBlockSize
      : positive(physicalBlockSize(libc, fd)),
    minimumIoSize: device === null
      ? queue.minimumIoSize ?? 0
      : atLeast(minimumIo(libc, fd), 0),
    optimalIoSize: device === null
      ? queue.optimalIoSize ?? 0
      : atLeast(optimalIo(libc, fd), 0),
    fileSystem,
    inode: status.inode,
    direct,
    durability: {
      ...durabilityInfo(libc, fileSystem, medium, queue),
      ...(fileSystemType < 0
        ? {
          flush: "unknown",
          reason:
            `which file system this is cannot be told: fstatfs failed with ${
              errnoName(libc.abi, -fileSystemType)
            }`,
        }
        : {}),
    },
    durableWrites: writesDurably(libc.abi.os, medium, fileSystem, direct),
    erases: medium === "block device" && takesSecureErase(libc, fd),
    discards: device === null
      ? fileSystem === "nfs" ? undefined : true
      : queue.discardMaxBytes === undefined
      ? undefined
      : queue.discardMaxBytes > 0,
  };
}

/**
 * Asks a device to erase what no device can: half a sector. One that erases
 * finds fault with the range, one that does not with the request: block/ioctl.c,
 * `blk_ioctl_secure_erase`.
 */
function takesSecureErase(libc: Libc, fd: number): boolean {
  return libc.abi.os === "linux" &&
    secureErase(libc, fd, 1, 1) === -libc.abi.errno.EINVAL;
}

function positive(value: number): number | undefined {
  return value > 0 ? value : undefined;
}

function atLeast(value: number, least: number): number {
  return Math.max(value, least);
}

/**
 * The size of a device; where a filter denies the request that asks for it, a
 * block device's end is where a seek finds it.
 */
function deviceSize(
  libc: Libc,
  fd: number,
  medium: Probed["medium"],
): number {
  const asked = blockDeviceSize(libc, fd);
  return asked < 0 && medium === "block device"
    ? libc.lseek(fd, 0, libc.abi.whence.SEEK_END)
    : asked;
}

/**
 * statx(2) where there is one; elsewhere, and where a filter denies it, fstat(2),
 * which tells less.
 */
function fileStatus(libc: Libc, fd: number): FileStatus | number {
  if (libc.abi.os === "linux") {
    const status = statx(libc, fd);
    if (typeof status !== "number") return status;
  }
  const { mode, ino, size, blocks, blksize, dev, rdev } = fstatSync(fd, {
    bigint: true,
  });
  const device = splitDevice(dev);
  const ownDevice = splitDevice(rdev);
  return {
    mode: Number(mode),
    inode: Number(ino),
    sizeBytes: Number(size),
    blocks512: Number(blocks),
    blksize: Number(blksize),
    deviceMajor: device.major,
    deviceMinor: device.minor,
    rdevMajor: ownDevice.major,
    rdevMinor: ownDevice.minor,
    attributes: 0,
    attributesMask: 0,
    dioMemoryAlign: undefined,
    dioOffsetAlign: undefined,
    dioReadOffsetAlign: undefined,
    atomicWriteUnitMin: undefined,
    atomicWriteUnitMax: undefined,
    atomicWriteSegmentsMax: undefined,
    atomicWriteUnitMaxOptimal: undefined,
  };
}

function directInfo(
  libc: Libc,
  fd: number,
  opened: OpenedFor,
  status: FileStatus,
  fileSystem: string | null,
  deviceBlockSize: number | undefined,
  sizeBytes: number,
): DirectInfo {
  const buffered = (reason: string | null): DirectInfo => ({
    active: false,
    method: null,
    reason,
    memoryAlignment: 1,
    offsetAlignment: 1,
    readOffsetAlignment: 1,
    alignmentSource: "none",
  });
  if (opened.method === null) return buffered(opened.reason);
  const { dioMemoryAlign, dioOffsetAlign, dioReadOffsetAlign } = status;
  if (dioMemoryAlign === 0 || dioOffsetAlign === 0) {
    return buffered("statx says that direct I/O is not supported on this file");
  }
  const ignored = ignoresDirect(libc, fd, fileSystem);
  if (ignored.wholly) return buffered(ignored.reason);

  let memoryAlignment: number;
  let offsetAlignment: number;
  let readOffsetAlignment: number;
  let alignmentSource: string;
  const xfs = fileSystem === "xfs" ? xfsDirectIo(libc, fd) : undefined;
  if (dioMemoryAlign !== undefined && dioOffsetAlign !== undefined) {
    memoryAlignment = dioMemoryAlign;
    offsetAlignment = dioOffsetAlign;
    readOffsetAlignment = dioReadOffsetAlign || dioOffsetAlign;
    alignmentSource = "statx";
  } else if (deviceBlockSize !== undefined) {
    memoryAlignment = offsetAlignment = readOffsetAlignment = deviceBlockSize;
    alignmentSource = "ioctl";
  } else if (typeof xfs === "object") {
    memoryAlignment = xfs.memoryAlign;
    offsetAlignment = readOffsetAlignment = xfs.minimumBytes;
    alignmentSource = "ioctl";
  } else if (libc.abi.os === "linux") {
    const tried = tryReads(libc, fd, sizeBytes);
    alignmentSource = tried === undefined ? "assumed" : "trial reads";
    memoryAlignment = offsetAlignment = readOffsetAlignment = tried ??
      ASSUMED_ALIGNMENT;
  } else {
    // FreeBSD's O_DIRECT and macOS' F_NOCACHE are hints: what is not aligned is
    // buffered and never refused. Whole sectors stay on the direct path.
    memoryAlignment = offsetAlignment = readOffsetAlignment = 1;
    alignmentSource = "none";
  }
  const silent = ignored.reason ??
    silentlyBuffered(libc, fd, sizeBytes, readOffsetAlignment);
  return {
    active: silent === null,
    method: opened.method,
    reason: silent,
    memoryAlignment,
    offsetAlignment,
    readOffsetAlignment,
    alignmentSource,
  };
}

/**
 * File systems that take O_DIRECT and buffer all the same. The sources are in
 * the kernel: mm/shmem.c (tmpfs), fs/btrfs/direct-io.c (data with checksums is
 * written through the cache since 6.14); OpenZFS before 2.3 ignores the flag.
 */
function ignoresDirect(
  libc: Libc,
  fd: number,
  fileSystem: string | null,
): { wholly: boolean; reason: string | null } {
  switch (fileSystem) {
    case "tmpfs":
      return {
        wholly: true,
        reason: "tmpfs accepts O_DIRECT and ignores it: its data is the cache",
      };
    case "btrfs": {
      const memory = alignedMemory(8);
      const result = libc.ioctl(
        fd,
        LINUX_IOCTL.FS_IOC_GETFLAGS,
        addressOf(memory),
      );
      const flags = new DataView(memory.buffer, memory.byteOffset)
        .getUint32(0, true);
      return {
        wholly: false,
        reason: result >= 0 && (flags & FS_NOCOW_FL) !== 0
          ? null
          : "btrfs buffers writes to files with data checksums: make the empty file NOCOW (chattr +C) for direct writes",
      };
    }
    case "zfs":
      return {
        wholly: false,
        reason:
          "ZFS before 2.3 ignores O_DIRECT, later versions buffer what is not whole records",
      };
    case "nfs":
      return {
        wholly: false,
        reason:
          "NFS passes by this machine's cache only; the server may buffer",
      };
    case "fuse":
      return {
        wholly: false,
        reason:
          "FUSE hands O_DIRECT to a user-space file system that may buffer",
      };
    default:
      return { wholly: false, reason: null };
  }
}

/**
 * Offset of data that was written: holes take any alignment and answer at once,
 * so they lie.
 *
 * @param libc The C library.
 * @param fd The image's descriptor.
 * @param sizeBytes Its size in bytes.
 * @returns A multiple of 4,096 with two blocks of that size behind it;
 * `undefined` if there is none.
 */
export function writtenOffset(
  libc: Libc,
  fd: number,
  sizeBytes: number,
): number | undefined {
  const found = libc.lseek(fd, 0, libc.abi.whence.SEEK_DATA);
  // A device has no holes to ask for, and says EINVAL.
  const offset = found === -libc.abi.errno.EINVAL ? 0 : found;
  if (offset < 0) return undefined;
  const aligned = Math.ceil(offset / ASSUMED_ALIGNMENT) * ASSUMED_ALIGNMENT;
  return aligned + 2 * ASSUMED_ALIGNMENT <= sizeBytes ? aligned : undefined;
}

/** The shortest read that the host takes at that offset alignment. */
function tryReads(
  libc: Libc,
  fd: number,
  sizeBytes: number,
): number | undefined {
  const offset = writtenOffset(libc, fd, sizeBytes);
  if (offset === undefined) return undefined;
  const address = addressOf(alignedMemory(ASSUMED_ALIGNMENT));
  // A single byte is taken by whatever does not look: that says nothing.
  if (libc.pread(fd, address, 1, offset) === 1) return undefined;
  for (let size = 512; size <= ASSUMED_ALIGNMENT; size *= 2) {
    if (libc.pread(fd, address, size, offset + size) === size) return size;
  }
  return undefined;
}

/**
 * Reads a page that is not in the cache and looks whether it is there now
 * (cachestat(2), Linux 6.5): direct I/O would not put it there.
 */
function silentlyBuffered(
  libc: Libc,
  fd: number,
  sizeBytes: number,
  alignment: number,
): string | null {
  const offset = writtenOffset(libc, fd, sizeBytes);
  if (offset === undefined) return null;
  const size = Math.max(ASSUMED_ALIGNMENT, alignment);
  if (cachedPages(libc, fd, offset, size) !== 0) return null;
  const address = addressOf(alignedMemory(size));
  if (libc.pread(fd, address, size, offset) <= 0) return null;
  return cachedPages(libc, fd, offset, size) > 0
    ? "the kernel took O_DIRECT and buffered a read all the same"
    : null;
}

function durabilityInfo(
  libc: Libc,
  fileSystem: string | null,
  medium: Probed["medium"],
  queue: QueueAttributes,
): DurabilityInfo {
  const method = syncMethod(libc);
  const fua = `write + ${method}`;
  const deviceCache = queue.writeCache ?? "unknown";
  const common = { method, fua, deviceCache };
  if (fileSystem === "tmpfs") {
    return { ...common, flush: "page cache", reason: "tmpfs is memory" };
  }
  if (fileSystem === "nfs" || fileSystem === "fuse") {
    return {
      ...common,
      flush: "unknown",
      reason:
        `what a flush reaches is decided behind ${fileSystem.toUpperCase()}`,
    };
  }
  if (fileSystem === "overlay") {
    return {
      ...common,
      flush: "media",
      reason:
        "an overlay mounted with -o volatile ignores flushes, which cannot be seen from here",
    };
  }
  if (libc.abi.os === "freebsd") {
    return {
      ...common,
      flush: medium === "file" ? "media" : "device cache",
      reason: medium === "file"
        ? null
        : "fdatasync does not flush the cache of a raw device",
    };
  }
  return { ...common, flush: "media", reason: null };
}
