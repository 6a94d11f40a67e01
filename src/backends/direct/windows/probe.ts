/**
 * Finds out what an open file is on Windows: its sectors, whether I/O passes by
 * the cache, what a flush reaches.
 *
 * @module
 */

import type { Windows } from "../../../../ffi/windows.ts";
import {
  FILE_ATTRIBUTE,
  FILE_INFORMATION,
  FILE_REMOTE_DEVICE,
  VOLUME_INFORMATION,
} from "../../../../ffi/windows_abi.ts";
import type { DirectInfo, DurabilityInfo } from "../../../info.ts";
import { bufferedInfo } from "../../medium.ts";
import { isAlignment } from "../../sysfs.ts";

/** What is assumed where Windows does not say: no disk is known to want more. */
const ASSUMED_ALIGNMENT = 4096;

/** A file system of Windows. */
interface FileSystem {
  readonly name: string;
  /** Whether it has sparse files, and zeroes ranges of files. */
  readonly zeroesRanges: boolean;
}

/** Those whose flush is known to reach the disk. */
const FILE_SYSTEMS: readonly FileSystem[] = [
  { name: "NTFS", zeroesRanges: true },
  { name: "ReFS", zeroesRanges: true },
  { name: "exFAT", zeroesRanges: false },
  { name: "FAT32", zeroesRanges: false },
  { name: "FAT", zeroesRanges: false },
];

/** What an open file is. */
export interface ProbedFile {
  /** The file system's name; `null` if it does not say. */
  readonly fileSystem: string | null;
  /** Whether I/O is direct. */
  readonly direct: DirectInfo;
  /** What a flush gives. */
  readonly durability: DurabilityInfo;
  /** Bytes that the medium writes without read-modify-write, if known. */
  readonly physicalBlockSize: number | undefined;
  /** Whether a range can be zeroed without data. */
  readonly zeroesRanges: boolean;
  /** Whether zeroes become holes. */
  readonly sparse: boolean;
}

/** What a file was opened for. */
export interface OpenedFile {
  /** Its handle. */
  readonly handle: number;
  /** Why it is buffered; `null` if `FILE_FLAG_NO_BUFFERING` was taken. */
  readonly reason: string | null;
}

/**
 * Finds out what an open file is. Reads and writes nothing of it.
 *
 * @param windows Windows.
 * @param opened The file.
 * @returns What was found.
 */
export function probeFile(windows: Windows, opened: OpenedFile): ProbedFile {
  const { handle } = opened;
  const fileSystem = fileSystemOf(windows, handle);
  const known = FILE_SYSTEMS.find(({ name }) => name === fileSystem);
  const device = windows.volumeInformation(handle, VOLUME_INFORMATION.Device);
  const remote = typeof device === "number" ||
    (device.getUint32(4, true) & FILE_REMOTE_DEVICE) !== 0;
  const attributes = attributesOf(windows, handle);
  const sectors = sectorsOf(windows, handle);
  const buffered = opened.reason ??
    (remote
      ? "it is on another machine, or cannot be told to be on this one: the server has a cache of its own"
      : attributes & FILE_ATTRIBUTE.COMPRESSED
      ? "the file is compressed, which goes through the cache"
      : attributes & FILE_ATTRIBUTE.ENCRYPTED
      ? "the file is encrypted, which goes through the cache"
      : null);
  return {
    fileSystem,
    direct: opened.reason !== null ? bufferedInfo(opened.reason) : {
      active: buffered === null,
      method: "FILE_FLAG_NO_BUFFERING",
      reason: buffered,
      memoryAlignment: memoryAlignmentOf(windows, handle, sectors.logical),
      offsetAlignment: sectors.logical,
      readOffsetAlignment: sectors.logical,
      alignmentSource: sectors.source,
    },
    durability: durabilityInfo(known !== undefined && !remote),
    physicalBlockSize: sectors.physical,
    zeroesRanges: (known?.zeroesRanges ?? false) && !remote,
    sparse: (attributes & FILE_ATTRIBUTE.SPARSE_FILE) !== 0,
  };
}

/** A policy of the disk, in Windows' device manager. */
const UNLESS_TURNED_OFF =
  "Windows sends the disk no flush if somebody has turned off its write-cache buffer flushing, which is not asked";

/**
 * What a flush gives.
 *
 * @param known Whether it is known to reach the disk.
 * @returns The same, for `info`.
 */
export function durabilityInfo(known: boolean): DurabilityInfo {
  const method = "FlushFileBuffers";
  return {
    method,
    // Not FILE_FLAG_WRITE_THROUGH: Windows leaves it to the disk whether that
    // heeds it ("File Buffering", Microsoft), and nothing tells.
    fua: `write + ${method}`,
    deviceCache: "unknown",
    ...(known ? { flush: "media", reason: UNLESS_TURNED_OFF } : {
      flush: "unknown",
      reason: "what a flush reaches on this file system is not known",
    }),
  };
}

/** The size of the sectors of what a file is on. */
interface Sectors {
  readonly logical: number;
  readonly physical: number | undefined;
  readonly source: string;
}

function sectorsOf(windows: Windows, handle: number): Sectors {
  const { SectorSize, Size } = VOLUME_INFORMATION;
  const found = windows.volumeInformation(handle, SectorSize);
  if (typeof found !== "number") {
    const logical = found.getUint32(0, true);
    const physical = found.getUint32(8, true);
    if (isAlignment(logical)) {
      return {
        logical,
        physical: isAlignment(physical) ? physical : undefined,
        source: "volume",
      };
    }
  }
  // Before Windows 8.
  const size = windows.volumeInformation(handle, Size);
  const logical = typeof size === "number" ? 0 : size.getUint32(20, true);
  return isAlignment(logical)
    ? { logical, physical: undefined, source: "volume" }
    : { logical: ASSUMED_ALIGNMENT, physical: undefined, source: "assumed" };
}

/** Sectors, unless the driver says that less, or more, will do. */
function memoryAlignmentOf(
  windows: Windows,
  handle: number,
  sector: number,
): number {
  const found = windows.fileInformation(handle, FILE_INFORMATION.Alignment);
  return typeof found === "number"
    ? sector
    : Math.max(sector, found.getUint32(0, true) + 1);
}

function attributesOf(windows: Windows, handle: number): number {
  const found = windows.fileInformation(handle, FILE_INFORMATION.Basic);
  return typeof found === "number" ? 0 : found.getUint32(32, true);
}

function fileSystemOf(windows: Windows, handle: number): string | null {
  const found = windows.volumeInformation(handle, VOLUME_INFORMATION.Attribute);
  if (typeof found === "number") return null;
  const units = Math.min(found.getUint32(8, true), 64) / 2;
  return String.fromCharCode(
    ...Array.from(
      { length: units },
      (_, i) => found.getUint16(12 + 2 * i, true),
    ),
  );
}
