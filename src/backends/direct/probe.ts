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
  flushDevice,
  flushRequest,
  logicalBlockSize,
  minimumIo,
  optimalIo,
  physicalBlockSize,
  secureErase,
} from "../../../ffi/block_device.ts";
import { isKernelSince } from "../../../ffi/kernel_release.ts";
import type { Libc } from "../../../ffi/libc.ts";
import {
  addressOf,
  alignedMemory,
  memoryAt,
  withMemory,
} from "../../../ffi/memory.ts";
import { cachedPages } from "../../../ffi/page_cache.ts";
import {
  type FileStatus,
  statfsType,
  statx,
  xfsDirectIo,
} from "../../../ffi/statx.ts";
import { type EngineFile, syncMethod } from "../../engines/mod.ts";
import type { DirectInfo, DurabilityInfo } from "../../info.ts";
import { flushReachOf, identify } from "../file_system.ts";
import {
  bufferedInfo,
  bufferingReason,
  directLimit,
  type FileSystem,
  fileSystemOf,
  type Medium,
  mediumOfStat,
  untoldReach,
} from "../medium.ts";
import {
  isAlignment,
  type QueueAttributes,
  queueAttributes,
  splitDevice,
} from "../sysfs.ts";
import { LARGE_BOUNCE_BYTES } from "./bounce.ts";
import { writesDurably } from "./durable_write.ts";

/** What is assumed where the host does not say: no host is known to want more. */
const ASSUMED_ALIGNMENT = 4096;

/** Where something other than zeroes is looked for, evenly spread. */
const PLACES = 4;

/** What an open image is. */
export interface Probed extends EngineFile {
  /** What it is; `null` if that can be no disk. */
  readonly medium: Medium | null;
  /** The device's logical block size in bytes; 512 for a file. */
  readonly logicalBlockSize: number;
  /** Bytes that the medium writes without read-modify-write, if known. */
  readonly physicalBlockSize: number | undefined;
  /** Smallest I/O that performs well, in bytes; 0 when not known. */
  readonly minimumIoSize: number;
  /** I/O size that performs best, in bytes; 0 when not known. */
  readonly optimalIoSize: number;
  /** Device and inode, for an identity. */
  readonly inode: number;
  /** What a flush gives. */
  readonly durability: DurabilityInfo;
  /** Whether RWF_DSYNC is known to make a write durable. */
  readonly durableWrites: boolean;
  /** Whether the medium takes discards; `undefined` if that is not known. */
  readonly discards: boolean | undefined;
  /**
   * Whether the system can zero a range without data, and reads of it then are
   * known to find zeroes.
   */
  readonly zeroesRanges: boolean;
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
  const medium = mediumOfStat(fstatSync(fd));
  const isDevice = medium !== "file";
  const sizeBytes = isDevice ? deviceSize(libc, fd, medium) : status.sizeBytes;
  if (medium !== null && sizeBytes < 0) return sizeBytes;

  const queue = medium === "block device"
    ? queueAttributes(status.rdevMajor, status.rdevMinor)
    : queueAttributes(status.deviceMajor, status.deviceMinor);
  const logical = !isDevice ? 512 : Math.max(
    positive(logicalBlockSize(libc, fd)) ?? queue.logicalBlockSize ??
      positive(status.dioOffsetAlign ?? 0) ?? ASSUMED_ALIGNMENT,
    512,
  );
  const found = isDevice ? null : fileSystemOfFile(libc, fd);
  const fileSystem = typeof found === "number" ? null : found;
  const direct = directInfo(
    libc,
    fd,
    opened,
    status,
    fileSystem,
    isDevice ? logical : undefined,
    queue.logicalBlockSize,
    sizeBytes,
  );
  return {
    medium,
    sizeBytes,
    logicalBlockSize: logical,
    physicalBlockSize: isDevice
      ? positive(physicalBlockSize(libc, fd))
      : queue.physicalBlockSize,
    minimumIoSize: isDevice
      ? Math.max(minimumIo(libc, fd), 0)
      : queue.minimumIoSize ?? 0,
    optimalIoSize: isDevice
      ? Math.max(optimalIo(libc, fd), 0)
      : queue.optimalIoSize ?? 0,
    fileSystem: fileSystem?.name ?? null,
    inode: status.inode,
    direct,
    writtenOffset: () =>
      writtenOffset(libc, fd, sizeBytes, direct.readOffsetAlignment),
    durability: durabilityInfo(libc, fd, medium, found, queue),
    durableWrites: writesDurably(
      libc.abi.os,
      medium,
      fileSystem?.name ?? null,
      direct,
    ) && fileSystem?.withoutBarriers !== true,
    erases: medium === "block device" && takesSecureErase(libc, fd),
    zeroesRanges: isDevice || (fileSystem?.zeroesRanges ?? false),
    discards: !isDevice
      ? fileSystem?.zeroesRanges ?? false
      : queue.discardMaxBytes === undefined
      ? undefined
      : queue.discardMaxBytes > 0,
  };
}

/**
 * The file system that a file is on.
 *
 * @param libc The C library.
 * @param fd The file's descriptor.
 * @returns What is known of it, or −errno; `null` where there is no table of
 * them, which is everywhere but on Linux.
 */
export function fileSystemOfFile(
  libc: Libc,
  fd: number,
): FileSystem | number | null {
  if (libc.abi.os !== "linux") return null;
  const magic = statfsType(libc, fd);
  if (magic < 0) return magic;
  return identify(fileSystemOf(magic), fd);
}

/**
 * Asks a device to erase what no device can: half a sector. One that erases
 * finds fault with the range, one that does not with the request: block/ioctl.c,
 * `blk_ioctl_secure_erase`. Before Linux 5.19 the range was looked at first, so
 * that this told nothing, and nothing else tells.
 */
function takesSecureErase(libc: Libc, fd: number): boolean {
  return isKernelSince(libc, 5, 19) &&
    secureErase(libc, fd, 1, 1) === -libc.abi.errno.EINVAL;
}

function positive(value: number): number | undefined {
  return value > 0 ? value : undefined;
}

/**
 * The size of a device; where a filter denies the request that asks for it, a
 * block device's end is where a seek finds it.
 */
function deviceSize(
  libc: Libc,
  fd: number,
  medium: Medium | null,
): number {
  const asked = blockDeviceSize(libc, fd);
  return asked < 0 && medium === "block device"
    ? libc.lseek(fd, 0, libc.abi.whence.SEEK_END)
    : asked;
}

/** What fstat(2) tells, and maybe the rest of statx(2). */
type Status =
  & Partial<FileStatus>
  & Pick<FileStatus, "inode" | "sizeBytes" | "deviceMajor" | "deviceMinor">
  & Pick<FileStatus, "rdevMajor" | "rdevMinor">;

/** statx(2); fstat(2) where there is none, or a filter denies it. */
function fileStatus(libc: Libc, fd: number): Status {
  const status = libc.abi.os === "linux" ? statx(libc, fd) : -1;
  if (typeof status !== "number") return status;
  const { ino, size, dev, rdev } = fstatSync(fd, { bigint: true });
  const device = splitDevice(dev);
  const ownDevice = splitDevice(rdev);
  return {
    inode: Number(ino),
    sizeBytes: Number(size),
    deviceMajor: device.major,
    deviceMinor: device.minor,
    rdevMajor: ownDevice.major,
    rdevMinor: ownDevice.minor,
  };
}

function directInfo(
  libc: Libc,
  fd: number,
  opened: OpenedFor,
  status: Status,
  fileSystem: FileSystem | null,
  deviceBlockSize: number | undefined,
  blockSizeBelow: number | undefined,
  sizeBytes: number,
): DirectInfo {
  if (opened.method === null) return bufferedInfo(opened.reason);
  if (status.dioMemoryAlign === 0 || status.dioOffsetAlign === 0) {
    return bufferedInfo(
      "statx says that direct I/O is not supported on this file",
    );
  }
  if (fileSystem?.ignoresDirect) return bufferedInfo(directLimit(fileSystem));
  const found = alignmentsOf(
    libc,
    fd,
    status,
    fileSystem,
    deviceBlockSize,
    blockSizeBelow,
    sizeBytes,
  );
  const atOnce = Math.max(found.offsetAlignment, found.readOffsetAlignment);
  const tooLarge = atOnce > LARGE_BOUNCE_BYTES;
  // Such as records of ZFS, which buffers whole pages that are no whole record.
  const alignments = !tooLarge ? found : {
    ...alignedTo("assumed", ASSUMED_ALIGNMENT),
    memoryAlignment: found.memoryAlignment,
  };
  const statxAligns = alignments.alignmentSource === "statx";
  const reason = tooLarge
    ? `statx wants direct I/O in multiples of ${atOnce} bytes, and at most ${LARGE_BOUNCE_BYTES} can be rewritten at once`
    : fileSystem !== null
    ? bufferingReason(fileSystem, {
      statxAligns,
      noCow: fileSystem.buffers && isNoCow(libc, fd),
    })
    : libc.abi.os === "linux" && deviceBlockSize === undefined && !statxAligns
    ? "which file system this is cannot be told, so it may buffer"
    : null;
  const buffered = reason ??
    silentlyBuffered(libc, fd, sizeBytes, alignments.readOffsetAlignment);
  return {
    active: buffered === null,
    method: opened.method,
    reason: buffered,
    ...alignments,
  };
}

/** What direct I/O must be multiples of, and who says so. */
type Alignments = Pick<
  DirectInfo,
  | "memoryAlignment"
  | "offsetAlignment"
  | "readOffsetAlignment"
  | "alignmentSource"
>;

function alignedTo(
  alignmentSource: string,
  memoryAlignment: number,
  offsetAlignment: number = memoryAlignment,
  readOffsetAlignment: number = offsetAlignment,
): Alignments {
  return {
    memoryAlignment,
    offsetAlignment,
    readOffsetAlignment,
    alignmentSource,
  };
}

function alignmentsOf(
  libc: Libc,
  fd: number,
  { dioMemoryAlign, dioOffsetAlign, dioReadOffsetAlign }: Status,
  fileSystem: FileSystem | null,
  deviceBlockSize: number | undefined,
  blockSizeBelow: number | undefined,
  sizeBytes: number,
): Alignments {
  if (dioMemoryAlign !== undefined && dioOffsetAlign !== undefined) {
    const reads = dioReadOffsetAlign || dioOffsetAlign;
    return alignedTo("statx", dioMemoryAlign, dioOffsetAlign, reads);
  }
  if (deviceBlockSize !== undefined) return alignedTo("ioctl", deviceBlockSize);
  const xfs = fileSystem?.name === "xfs" ? xfsDirectIo(libc, fd) : undefined;
  if (typeof xfs === "object") {
    return alignedTo("ioctl", xfs.memoryAlign, xfs.minimumBytes);
  }
  // FreeBSD's O_DIRECT, macOS' F_NOCACHE and illumos' directio are hints: what is
  // not aligned is buffered and never refused. Whole sectors stay on the direct
  // path.
  if (libc.abi.os !== "linux") return alignedTo("none", 1);
  const tried = tryReads(libc, fd, sizeBytes);
  if (tried !== undefined) return alignedTo("trial reads", tried);
  return fileSystem?.alignedAsDevice && isAlignment(blockSizeBelow)
    ? alignedTo("sysfs", blockSizeBelow)
    : alignedTo("assumed", ASSUMED_ALIGNMENT);
}

/** Whether btrfs keeps no checksums of a file, and so writes it directly. */
function isNoCow(libc: Libc, fd: number): boolean {
  const flags = alignedMemory(8);
  const result = libc.ioctl(fd, LINUX_IOCTL.FS_IOC_GETFLAGS, addressOf(flags));
  const view = new DataView(flags.buffer, flags.byteOffset);
  return result >= 0 && (view.getUint32(0, true) & FS_NOCOW_FL) !== 0;
}

/**
 * Where the host says that data begins, from a place on, with a block before the
 * end behind its own. Data may still be zeroes that no device is asked for: ext4
 * calls an unwritten extent data once somebody has read it.
 */
function dataOffset(
  libc: Libc,
  fd: number,
  from: number,
  sizeBytes: number,
  blockBytes: number,
): number | undefined {
  const found = libc.lseek(fd, from, libc.abi.whence.SEEK_DATA);
  // A device has no holes to ask for, and says EINVAL.
  const offset = found === -libc.abi.errno.EINVAL ? from : found;
  if (offset < 0) return undefined;
  const aligned = Math.ceil(offset / blockBytes) * blockBytes;
  return aligned + 2 * blockBytes <= sizeBytes ? aligned : undefined;
}

/** {@linkcode Probed.writtenOffset}. */
function writtenOffset(
  libc: Libc,
  fd: number,
  sizeBytes: number,
  alignment: number,
): number | undefined {
  const size = Math.max(ASSUMED_ALIGNMENT, alignment);
  return withMemory(size, (address) => {
    const bytes = new Uint8Array(memoryAt(address, size));
    for (let i = 0; i < PLACES; i++) {
      const from = Math.floor(sizeBytes / PLACES * i);
      const offset = dataOffset(libc, fd, from, sizeBytes, size);
      if (offset === undefined) return undefined;
      const read = libc.pread(fd, address, size, offset);
      if (read === size && bytes.some((byte) => byte !== 0)) return offset;
    }
    return undefined;
  });
}

/** The shortest read that the host takes at that offset alignment. */
function tryReads(
  libc: Libc,
  fd: number,
  sizeBytes: number,
): number | undefined {
  const offset = writtenOffset(libc, fd, sizeBytes, ASSUMED_ALIGNMENT);
  if (offset === undefined) return undefined;
  return withMemory(ASSUMED_ALIGNMENT, (address) => {
    // A single byte is taken by whatever does not look: that says nothing.
    if (libc.pread(fd, address, 1, offset) === 1) return undefined;
    for (let size = 512; size <= ASSUMED_ALIGNMENT; size *= 2) {
      if (libc.pread(fd, address, size, offset + size) === size) return size;
    }
    return undefined;
  });
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
  const size = Math.max(ASSUMED_ALIGNMENT, alignment);
  const offset = dataOffset(libc, fd, 0, sizeBytes, size);
  if (offset === undefined) return null;
  if (cachedPages(libc, fd, offset, size) !== 0) return null;
  const read = withMemory(
    size,
    (address) => libc.pread(fd, address, size, offset),
  );
  if (read <= 0) return null;
  return cachedPages(libc, fd, offset, size) > 0
    ? "the kernel took O_DIRECT and buffered a read all the same"
    : null;
}

function durabilityInfo(
  libc: Libc,
  fd: number,
  medium: Medium | null,
  fileSystem: FileSystem | number | null,
  queue: QueueAttributes,
): DurabilityInfo {
  const { os } = libc.abi;
  const deviceCache = queue.writeCache ?? "unknown";
  if (os !== "linux" && medium !== "file") {
    return deviceDurability(libc, fd, deviceCache);
  }
  const method = syncMethod(libc);
  const reach = typeof fileSystem === "number"
    ? {
      flush: "unknown",
      reason: `which file system this is cannot be told: fstatfs failed with ${
        errnoName(libc.abi, -fileSystem)
      }`,
    } as const
    : os === "linux"
    ? flushReachOf(fileSystem, fd, deviceCache)
    : untoldReach(method);
  return { method, fua: `write + ${method}`, deviceCache, ...reach };
}

/** Of a device whose cache fsync does not reach: whether it takes the request. */
function deviceDurability(
  libc: Libc,
  fd: number,
  deviceCache: string,
): DurabilityInfo {
  const { os } = libc.abi;
  const request = flushRequest(libc)!;
  const sync = os === "darwin" ? "fsync" : "fdatasync";
  const result = flushDevice(libc, fd);
  const method = result < 0 ? sync : `${sync} + ${request}`;
  const reach = result >= 0 ? { flush: "media", reason: null } as const : {
    flush: "device cache",
    reason:
      `${sync} does not flush the cache of a device, and ${request} failed with ${
        errnoName(libc.abi, -result)
      }`,
  } as const;
  return { method, fua: `write + ${method}`, deviceCache, ...reach };
}
