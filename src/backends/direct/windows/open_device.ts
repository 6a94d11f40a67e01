/**
 * Opens a disk or a volume of Windows (`\\.\PhysicalDrive1`, `\\.\E:`,
 * `\\?\Volume{…}`) for the direct backend. It takes an administrator, and Deno's
 * `--allow-all`.
 *
 * Windows lets nobody write to sectors of a volume that is mounted ("Blocking
 * Direct Write Operations to Volumes and Disks", Microsoft). So before a disk is
 * written to, each volume that has a part of it is locked, which is refused while
 * any file on it is open, and dismounted. Both last until the disk is closed; then
 * Windows mounts what it finds. `info.lock` and `info.warnings` name them.
 *
 * A volume is longer than its file system, which ends I/O where it ends itself
 * unless it is asked not to: beyond that is the second boot sector of NTFS
 * ("FSCTL_ALLOW_EXTENDED_DASD_IO", Microsoft).
 *
 * Tried by a fake of Windows only: Wine has no such devices.
 *
 * @module
 */

import fs from "node:fs";
import { addressOf, alignedMemory, readU64 } from "../../../../ffi/memory.ts";
import type { Windows } from "../../../../ffi/windows.ts";
import {
  ACCESS,
  CONTROL,
  FILE_FLAG,
  SHARE,
  STORAGE_ACCESS_ALIGNMENT,
} from "../../../../ffi/windows_abi.ts";
import {
  WINDOWS_ERRNO,
  windowsErrnoName,
} from "../../../../ffi/windows_errno.ts";
import {
  contentFormatOf,
  describeFormat,
  FORMAT_BYTES,
} from "../../../content_format.ts";
import { DiskError } from "../../../errors.ts";
import type { DirectInfo, LockInfo } from "../../../info.ts";
import { roundDown } from "../../alignment_plan.ts";
import { lockedError } from "../../holder.ts";
import { refuseOtherFormats } from "../../image_format.ts";
import { asDiskError, type ImageOptions } from "../../image_options.ts";
import { imageGeometry } from "../../image_size.ts";
import { bufferedInfo, noDisk, notToBeMade } from "../../medium.ts";
import { isAlignment, MAX_ALIGNMENT } from "../../sysfs.ts";
import type { Seen } from "../../warnings.ts";
import type { EngineOptions } from "../../../engines/mod.ts";
import { chooseWindowsEngine } from "../../../engines/windows/mod.ts";
import { DirectBackend } from "../backend.ts";
import { WindowsFileHost } from "./file_host.ts";
import { openErrorOf } from "./lock.ts";
import { MAX_CALL_BYTES } from "./open_file.ts";
import { durabilityInfo } from "./probe.ts";

/** Bytes of a part of a volume on a disk, of which each begins with its number. */
const EXTENT_BYTES = 24;

/** Parts of a volume that are asked for: a spanned volume has several. */
const MOST_PARTS = 64;

/** What is assumed where a device does not say: no disk is known to want more. */
const ASSUMED_SECTOR = 4096;

/**
 * Whether a path is that of a device: in the namespace of devices, or of a volume
 * and not of a file on it.
 *
 * @param path The path.
 * @returns Whether it is.
 */
export function isDevicePath(path: string): boolean {
  return /^\\\\\.\\[^\\]+\\?$/.test(path) ||
    /^\\\\\?\\(Volume\{[^\\]*\}|PhysicalDrive\d+)\\?$/i.test(path);
}

/**
 * Opens a device.
 *
 * @param windows Windows.
 * @param path Its path; a backslash at its end, as `mountvol` prints it, is cut:
 * with it, it would be a volume's root folder.
 * @param options How to open it.
 * @param engine How an engine is wanted.
 * @returns The backend.
 * @throws {DiskError} If it cannot be opened as asked: kind `locked` while files
 * on it are open.
 */
export async function openDevice(
  windows: Windows,
  path: string,
  options: ImageOptions,
  engine: EngineOptions,
): Promise<DirectBackend> {
  path = path.replace(/\\$/, "");
  const { readOnly } = options;
  if (options.create !== undefined) throw notToBeMade(path);
  askDeno(path, readOnly);
  const held: number[] = [];
  let backend: DirectBackend | null = null;
  try {
    const direct = options.direct !== "never";
    const handle = openHandle(windows, path, readOnly, direct);
    held.push(handle);
    // What has no file system refuses it, and needs it not.
    windows.control(
      "file system",
      handle,
      CONTROL.FSCTL_ALLOW_EXTENDED_DASD_IO,
    );
    const sizeBytes = sizeOf(windows, handle, path);
    const { logical, physical } = sectorsOf(windows, handle);
    const lock = takeLock(windows, handle, path, options, held);
    const seen = look(windows, handle, sizeBytes, logical);
    refuseOtherFormats(path, seen.contentFormat, sizeBytes, options);
    const blockSize = options.blockSize ?? logical;
    const host = new WindowsFileHost(windows, readOnly);
    backend = new DirectBackend(
      host,
      {
        fd: handle,
        tailFd: -1,
        openTail: () => {
          throw noDisk(path);
        },
        geometry: imageGeometry(path, sizeBytes, blockSize, {
          physicalBlockSize: physical,
        }),
        abilities: {
          readOnly,
          flush: "native",
          fua: "emulated",
          discard: "none",
          writeZeroes: "emulated",
          secureErase: "none",
        },
        // Through the cache as well, a device takes whole sectors only.
        writeAlignment: logical,
        readAlignment: logical,
        maxCallBytes: MAX_CALL_BYTES,
        maxSegments: 1,
        blockDevice: true,
        zeroesRanges: false,
        // The handle itself is the backend's.
        claim: {
          release: () => held.slice(1).forEach((one) => windows.close(one)),
        },
        signal: null,
        info: {
          backend: "direct",
          path,
          medium: "block device",
          fileSystem: null,
          engine: { name: "sync", reason: null },
          direct: direct
            ? directInfo(logical)
            : bufferedInfo('direct I/O was not wanted: direct: "never"'),
          durability: durabilityInfo(true),
          lock,
          format: "raw",
          ...seen,
          warnings: [...seen.warnings, ...dismounted(lock)],
          id: options.id ?? path.replace(/^\\\\[.?]\\/, "").slice(0, 20),
        },
      },
      chooseWindowsEngine(host, handle, path, engine),
    );
    return backend;
  } catch (error) {
    if (backend !== null) await backend.close();
    else for (const handle of held) windows.close(handle);
    throw asDiskError(error, path);
  }
}

/** Has Deno say whether this program may have the device. */
function askDeno(path: string, readOnly: boolean): void {
  const { O_RDONLY, O_RDWR } = fs.constants;
  try {
    fs.closeSync(fs.openSync(path, readOnly ? O_RDONLY : O_RDWR));
  } catch (error) {
    throw asDiskError(error, path);
  }
}

function openHandle(
  windows: Windows,
  path: string,
  readOnly: boolean,
  direct: boolean,
): number {
  const { GENERIC_READ, GENERIC_WRITE } = ACCESS;
  const handle = windows.createFile(
    path,
    readOnly ? GENERIC_READ : GENERIC_READ | GENERIC_WRITE,
    // The volumes on a disk have it open: nothing else would be granted.
    SHARE.READ | SHARE.WRITE,
    FILE_FLAG.OVERLAPPED | (direct ? FILE_FLAG.NO_BUFFERING : 0),
  );
  if (handle < 0) throw openErrorOf(path, -handle);
  return handle;
}

function sizeOf(windows: Windows, handle: number, path: string): number {
  const { IOCTL_DISK_GET_LENGTH_INFO } = CONTROL;
  const found = windows.control(
    "device",
    handle,
    IOCTL_DISK_GET_LENGTH_INFO,
    undefined,
    8,
  );
  if (typeof found === "number" || found.byteLength < 8) throw noDisk(path);
  return readU64(found, 0);
}

function sectorsOf(
  windows: Windows,
  handle: number,
): { logical: number; physical: number | undefined } {
  const query = new Uint8Array(12);
  query[0] = STORAGE_ACCESS_ALIGNMENT;
  const found = windows.control(
    "device",
    handle,
    CONTROL.IOCTL_STORAGE_QUERY_PROPERTY,
    query,
    28,
  );
  if (typeof found !== "number" && found.byteLength >= 28) {
    const logical = found.getUint32(16, true);
    const physical = found.getUint32(20, true);
    if (isAlignment(logical)) {
      return {
        logical,
        physical: isAlignment(physical) ? physical : undefined,
      };
    }
  }
  const geometry = windows.control(
    "device",
    handle,
    CONTROL.IOCTL_DISK_GET_DRIVE_GEOMETRY_EX,
    undefined,
    256,
  );
  const logical = typeof geometry === "number" || geometry.byteLength < 24
    ? 0
    : geometry.getUint32(20, true);
  return {
    logical: isAlignment(logical) ? logical : ASSUMED_SECTOR,
    physical: undefined,
  };
}

function directInfo(sector: number): DirectInfo {
  return {
    active: true,
    method: "FILE_FLAG_NO_BUFFERING",
    reason: null,
    memoryAlignment: sector,
    offsetAlignment: sector,
    readOffsetAlignment: sector,
    alignmentSource: "ioctl",
  };
}

/**
 * Locks and dismounts the volumes on a device that is to be written to.
 *
 * @param held Takes the handles that hold them.
 */
function takeLock(
  windows: Windows,
  handle: number,
  path: string,
  { lock, readOnly }: ImageOptions,
  held: number[],
): LockInfo {
  if (readOnly) {
    return {
      method: "none",
      reason: "a reader of a device locks nobody out",
    };
  }
  const writable = windows.control(
    "device",
    handle,
    CONTROL.IOCTL_DISK_IS_WRITABLE,
  );
  if (writable === -WINDOWS_ERRNO.EROFS) {
    throw new DiskError(
      "read-only",
      `Cannot open "${path}" for writing as the device is read-only: open with readOnly: true to read it`,
      { operation: "open", path },
    );
  }
  if (lock === "none") {
    return { method: "none", reason: 'not wanted: lock: "none"' };
  }
  const disk = diskNumberOf(windows, handle);
  const isDisk = /PhysicalDrive\d+$/i.test(path);
  if (isDisk && disk === null) {
    return {
      method: "none",
      reason: "which volumes are on this disk cannot be told",
    };
  }
  const { volumes, untold } = isDisk
    ? volumesOn(windows, disk!)
    : { volumes: [path], untold: [] };
  const names: string[] = [];
  for (const name of volumes) {
    let volume = handle;
    if (isDisk) {
      volume = openHandle(windows, name, false, false);
      held.push(volume);
    }
    const locked = windows.control(
      "file system",
      volume,
      CONTROL.FSCTL_LOCK_VOLUME,
    );
    if (typeof locked === "number") throw inUse(path, name, -locked);
    const dismounted = windows.control(
      "file system",
      volume,
      CONTROL.FSCTL_DISMOUNT_VOLUME,
    );
    if (typeof dismounted === "number") throw inUse(path, name, -dismounted);
    names.push(name);
  }
  const reason = names.length > 0
    ? `dismounted until the disk is closed: ${names.join(", ")}`
    : `no volume is ${
      untold.length > 0 ? "known to be " : ""
    }on this disk, and nothing keeps other programs from writing to it`;
  return {
    method: "FSCTL_LOCK_VOLUME",
    reason: untold.length === 0
      ? reason
      : `${reason}; what disk this is on is unknown: ${untold.join(", ")}`,
  };
}

function dismounted({ method, reason }: LockInfo): string[] {
  return method === "FSCTL_LOCK_VOLUME" && reason!.startsWith("dismounted")
    ? [reason!]
    : [];
}

function inUse(path: string, volume: string, errno: number): DiskError {
  return lockedError(path, "writing", {
    holder: `the volume ${volume}`,
    holds: `has open files, and cannot be locked (${windowsErrnoName(errno)})`,
  });
}

function diskNumberOf(windows: Windows, handle: number): number | null {
  const found = windows.control(
    "device",
    handle,
    CONTROL.IOCTL_STORAGE_GET_DEVICE_NUMBER,
    undefined,
    12,
  );
  return typeof found === "number" || found.byteLength < 8
    ? null
    : found.getUint32(4, true);
}

/** Volumes by name, to be opened. */
interface Volumes {
  /** Those that have a part on a disk. */
  readonly volumes: string[];
  /** Those of which it cannot be told. */
  readonly untold: string[];
}

function volumesOn(windows: Windows, disk: number): Volumes {
  const volumes: string[] = [];
  const untold: string[] = [];
  for (const found of windows.volumes()) {
    // With a backslash at its end it would be the root folder.
    const name = found.replace(/\\$/, "");
    const isOn = isVolumeOn(windows, name, disk);
    if (isOn !== false) (isOn === null ? untold : volumes).push(name);
  }
  return { volumes, untold };
}

/** Whether a volume has a part on a disk; `null` if that cannot be told. */
function isVolumeOn(
  windows: Windows,
  name: string,
  disk: number,
): boolean | null {
  const volume = windows.createFile(name, 0, SHARE.READ | SHARE.WRITE, 0);
  const parts = volume < 0 ? volume : windows.control(
    "device",
    volume,
    CONTROL.IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS,
    undefined,
    8 + MOST_PARTS * EXTENT_BYTES,
  );
  if (volume >= 0) windows.close(volume);
  if (typeof parts === "number") {
    // A drive without a medium, or one that is no disk, as of CDs.
    const { ENXIO, ENODEV, EOPNOTSUPP } = WINDOWS_ERRNO;
    return [ENXIO, ENODEV, EOPNOTSUPP].some((errno) => errno === -parts)
      ? false
      : null;
  }
  const count = parts.getUint32(0, true);
  const isOn = Array.from({ length: Math.min(count, MOST_PARTS) })
    .some((_, i) => parts.getUint32(8 + i * EXTENT_BYTES, true) === disk);
  return isOn || count <= MOST_PARTS ? isOn : null;
}

/** Looks what the content is. */
function look(
  windows: Windows,
  handle: number,
  sizeBytes: number,
  sector: number,
): Seen {
  const memory = alignedMemory(MAX_ALIGNMENT);
  const read = (at: number) => {
    const count = windows.read(handle, addressOf(memory), memory.length, at);
    return memory.slice(0, Math.max(0, count));
  };
  const end = roundDown(sizeBytes, sector);
  const lastAt = Math.max(0, end - memory.length);
  const contentFormat = contentFormatOf(
    read(0).subarray(0, FORMAT_BYTES),
    read(lastAt).subarray(-FORMAT_BYTES),
  );
  return {
    contentFormat,
    warnings: contentFormat === null ? [] : [describeFormat(contentFormat)],
  };
}
