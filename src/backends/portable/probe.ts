/**
 * Finds out what I/O on an image is without FFI: whether it can be direct, what
 * the host then demands of it, and what a flush reaches. It decides by what the
 * system says (`./host.ts`) and what is known of file systems (`../medium.ts`).
 *
 * @module
 */

import fs from "node:fs";
import type { DirectInfo, DurabilityInfo } from "../../info.ts";
import {
  bufferedInfo,
  directLimit,
  type FileSystem,
  notDirect,
  untoldReach,
} from "../medium.ts";
import { flushReachOf } from "../file_system.ts";
import { isAlignment, type QueueAttributes } from "../sysfs.ts";
import { PAGE_BYTES } from "./aligned_memory.ts";
import { arch, os } from "../../platform/system.ts";
import { directFlag, tryAlignment } from "./host.ts";

/** What {@linkcode probeDirect} is to look at. */
export interface DirectQuestion {
  /** The image's path. */
  readonly path: string;
  /** Whether direct I/O is a condition, a wish, or unwanted. */
  readonly want: "require" | "prefer" | "never";
  /** Whether the image is a device. */
  readonly isDevice: boolean;
  /** Its size in bytes. */
  readonly size: number;
  /** What the system says of the device that it is or lies on. */
  readonly device: Partial<QueueAttributes>;
  /** The file system that it is on, if that is known. */
  readonly fileSystem: FileSystem | null;
  /** Opens it once more; `null` if its path leads elsewhere now. */
  readonly open: (flags: number) => number | null;
}

/** What {@linkcode probeDirect} found. */
export interface DirectAnswer {
  /** Whether I/O is direct, and why. */
  readonly info: DirectInfo;
  /** What further descriptors are opened with. */
  readonly flag: number;
  /** A descriptor for direct I/O, if that was taken. */
  readonly descriptor: number | null;
  /** Logical block size of a device, as far as it can be told. */
  readonly deviceBlockSize: number;
}

/**
 * Finds out whether I/O can be direct, and opens a descriptor for it.
 *
 * @param question What is to be looked at.
 * @returns What was found; its descriptor is the caller's.
 * @throws {DiskError} With kind `platform` if direct I/O was a condition and is
 * not to be had.
 */
export function probeDirect(question: DirectQuestion): DirectAnswer {
  const { path, want, isDevice, size, device, fileSystem } = question;
  const flag = directFlag();
  const known = isAlignment(device.logicalBlockSize) &&
      (isDevice || fileSystem?.alignedAsDevice)
    ? device.logicalBlockSize
    : null;
  const fallBack = (reason: string, blockSize: number): DirectAnswer => {
    if (want === "require") throw notDirect(path, reason);
    return {
      info: bufferedInfo(reason),
      flag: 0,
      descriptor: null,
      deviceBlockSize: blockSize,
    };
  };
  // Even a buffered device has the blocks that direct reads show.
  if (want === "never" && (!isDevice || known !== null || flag === null)) {
    return fallBack("it was not asked for", known ?? PAGE_BYTES);
  }
  if (flag === null) {
    return fallBack(
      `${os} on ${arch} has none without FFI`,
      known ?? PAGE_BYTES,
    );
  }
  if (fileSystem?.ignoresDirect) {
    return fallBack(directLimit(fileSystem)!, PAGE_BYTES);
  }
  let descriptor: number | null;
  try {
    descriptor = question.open(flag);
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    return fallBack(
      `the file system refuses O_DIRECT (${String(code ?? error)})`,
      known ?? PAGE_BYTES,
    );
  }
  if (descriptor === null) {
    return fallBack("the image was replaced meanwhile", known ?? PAGE_BYTES);
  }
  // Of a file, what the device wants is no proof that it is asked: ext4 buffers
  // all of a file with data=journal.
  const trial = known !== null && isDevice
    ? null
    : tryAlignment(descriptor, size, isDevice);
  const tried = known === null ? trial! : {
    bytes: known,
    source: "sysfs",
    takesAnything: trial?.takesAnything ?? false,
  };
  if (want === "never") {
    fs.closeSync(descriptor);
    return fallBack("it was not asked for", tried.bytes);
  }
  const reasons: string[] = [];
  const limit = fileSystem === null ? null : directLimit(fileSystem);
  if (!isDevice && limit !== null) {
    reasons.push(limit);
  } else if (tried.takesAnything) {
    reasons.push("the file system takes unaligned reads, so it may buffer");
  } else if (fileSystem === null && !isDevice) {
    reasons.push(
      "which file system this is cannot be told without --allow-sys=statfs, so it may buffer",
    );
  }
  // Without a reason it is direct; with one it may be, or is not.
  if (want === "require" && reasons.length > 0) {
    fs.closeSync(descriptor);
    throw notDirect(path, reasons.join("; "));
  }
  if (tried.source === "assumed" && size > 0) {
    reasons.push(
      `what the host demands cannot be told without FFI: ${tried.bytes} bytes are assumed`,
    );
  }
  return {
    info: {
      active: fileSystem?.buffers !== true &&
        !(fileSystem?.alignedAsDevice && tried.takesAnything),
      method: "O_DIRECT",
      reason: reasons.length === 0 ? null : reasons.join("; "),
      // Always pages, whatever less the host would take.
      memoryAlignment: PAGE_BYTES,
      offsetAlignment: tried.bytes,
      readOffsetAlignment: tried.bytes,
      alignmentSource: tried.source,
    },
    flag,
    descriptor,
    deviceBlockSize: tried.bytes,
  };
}

/** What Rust's `File::sync_data` calls, which is what `fdatasync` is in Deno. */
function flushMethod(): string {
  switch (os) {
    case "darwin":
      return "F_FULLFSYNC";
    case "windows":
      return "FlushFileBuffers";
    case "linux":
    case "android":
    case "freebsd":
    case "netbsd":
      return "fdatasync";
    default:
      return "fsync";
  }
}

/**
 * What a flush reaches.
 *
 * @param fd The image's descriptor.
 * @param isDevice Whether the image is a device.
 * @param fileSystem The file system that it is on, if that is known.
 * @param device What the system says of the device that it is or lies on.
 * @returns The same, for `info`.
 */
export function durabilityOf(
  fd: number,
  isDevice: boolean,
  fileSystem: FileSystem | null,
  device: Partial<QueueAttributes>,
): DurabilityInfo {
  const method = flushMethod();
  const known = {
    method,
    deviceCache: device.writeCache ?? "unknown",
    fua: `write + ${method}`,
  };
  if (os !== "linux") return { ...known, ...untoldReach(method) };
  return {
    ...known,
    ...(fileSystem === null && !isDevice
      ? {
        flush: "unknown",
        reason:
          "which file system this is cannot be told without --allow-sys=statfs",
      }
      : flushReachOf(fileSystem, fd, known.deviceCache)),
  };
}
