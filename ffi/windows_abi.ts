/**
 * The numbers that Windows and a program agree on: flags, classes of information,
 * control codes, and what a status means. Tables only: no I/O, no addresses.
 *
 * Names are those of the headers (`winnt.h`, `winioctl.h`, `wdm.h`, `ntifs.h`).
 * Calls of ntdll.dll return a status (NTSTATUS), so that there is no
 * `GetLastError` to be read in time, which a call on another thread could not do
 * at all. An error becomes an error number of the C library of Windows, as every
 * other system has them.
 *
 * @module
 */

import { WINDOWS_ERRNO } from "./windows_errno.ts";

/** Access rights of `CreateFileW`, for what a file is opened. */
export const ACCESS = {
  GENERIC_READ: 0x8000_0000,
  GENERIC_WRITE: 0x4000_0000,
} as const;

/** What others may do with a file meanwhile. */
export const SHARE = { READ: 1, WRITE: 2, DELETE: 4 } as const;

/** `CreateFileW` opens what is there, and makes nothing. */
export const OPEN_EXISTING = 3;

/** Flags of `CreateFileW`. */
export const FILE_FLAG = {
  NO_BUFFERING: 0x2000_0000,
  OVERLAPPED: 0x4000_0000,
} as const;

/** Attributes of files. */
export const FILE_ATTRIBUTE = {
  SPARSE_FILE: 0x200,
  COMPRESSED: 0x800,
  ENCRYPTED: 0x4000,
} as const;

/** `FILE_INFORMATION_CLASS`: what to ask of a file, or to set. */
export const FILE_INFORMATION = {
  /** 40 bytes: attributes u32@32. */
  Basic: 4,
  /** 24 bytes: allocation size i64@0, end of file i64@8. */
  Standard: 5,
  /** 8 bytes: number of the file in its volume. */
  Internal: 6,
  /** 4 bytes: the bits that must be 0 in an address of memory. */
  Alignment: 17,
  /** 8 bytes, to be set: where the file ends. */
  EndOfFile: 20,
} as const;

/** `FSINFOCLASS`: what to ask of a file's volume. */
export const VOLUME_INFORMATION = {
  /** 18 bytes and a name: serial number u32@8. */
  Volume: 1,
  /** 24 bytes: bytes of a sector u32@20. */
  Size: 3,
  /** 8 bytes: characteristics u32@4. */
  Device: 4,
  /** 12 bytes and a name: length of the file system's name u32@8. */
  Attribute: 5,
  /** 28 bytes: sector, logical u32@0, and physical u32@8 (Windows 8). */
  SectorSize: 11,
} as const;

/** A characteristic of a volume: it is on another machine. */
export const FILE_REMOTE_DEVICE = 0x10;

/** Control codes of file systems and of devices. */
export const CONTROL = {
  /** Whole volume for this handle alone; refused while files are open on it. */
  FSCTL_LOCK_VOLUME: 0x0009_0018,
  FSCTL_DISMOUNT_VOLUME: 0x0009_0020,
  /** For this handle, the end of the volume counts, and not its file system's. */
  FSCTL_ALLOW_EXTENDED_DASD_IO: 0x0009_0083,
  FSCTL_SET_SPARSE: 0x0009_00c4,
  /** In: first byte i64@0, the one after the last i64@8. */
  FSCTL_SET_ZERO_DATA: 0x0009_80c8,
  /** In: offset i64@0, length i64@8. Out: the same for each range. */
  FSCTL_QUERY_ALLOCATED_RANGES: 0x0009_40cf,
  /** Out: bytes of a sector u32@20, of the disk i64@24. */
  IOCTL_DISK_GET_DRIVE_GEOMETRY_EX: 0x0007_00a0,
  /** Out: i64. */
  IOCTL_DISK_GET_LENGTH_INFO: 0x0007_405c,
  IOCTL_DISK_IS_WRITABLE: 0x0007_0024,
  /** In: property u32@0, query u32@4. */
  IOCTL_STORAGE_QUERY_PROPERTY: 0x002d_1400,
  /** Out: type u32@0, number u32@4. */
  IOCTL_STORAGE_GET_DEVICE_NUMBER: 0x002d_1080,
  /** Out: count u32@0, and from 8 on, 24 bytes each: disk number u32@0. */
  IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS: 0x0056_0000,
} as const;

/** `STORAGE_PROPERTY_ID`: sectors, logical u32@16 and physical u32@20. */
export const STORAGE_ACCESS_ALIGNMENT = 6;

/** Flags of `LockFileEx`. */
export const LOCKFILE = { FAIL_IMMEDIATELY: 1, EXCLUSIVE_LOCK: 2 } as const;

/** Flags of `VirtualAlloc` and `VirtualFree`. */
export const VIRTUAL = {
  MEM_COMMIT: 0x1000,
  MEM_RESERVE: 0x2000,
  MEM_RELEASE: 0x8000,
  PAGE_READWRITE: 4,
} as const;

/** Statuses that are told apart here, as signed numbers. */
export const STATUS = {
  SUCCESS: 0,
  TIMEOUT: 0x102,
  PENDING: 0x103,
  BUFFER_OVERFLOW: 0x8000_0005 | 0,
  INVALID_PARAMETER: 0xc000_000d | 0,
  END_OF_FILE: 0xc000_0011 | 0,
  ACCESS_DENIED: 0xc000_0022 | 0,
  CANCELLED: 0xc000_0120 | 0,
} as const;

type WindowsErrno = keyof typeof WINDOWS_ERRNO;

/**
 * Statuses by name of the error number: those that storage meets. What is not
 * here is EIO. Most as in `RtlNtStatusToDosError` and `_dosmaperr` of Microsoft's
 * C library; what says that something is not implemented is kept apart from what
 * says that arguments are wrong.
 */
const STATUSES: readonly (readonly [WindowsErrno, readonly number[]])[] = [
  ["ENOSYS", [0xc000_0002]],
  ["EOPNOTSUPP", [0xc000_0010, 0xc000_00bb, 0xc000_0003, 0xc000_0148]],
  ["EBADF", [0xc000_0008, 0xc000_0024]],
  // A byte that somebody locked is not to be had by trying again.
  ["EACCES", [0xc000_0022, 0xc000_0054, 0xc000_0055, 0xc000_0061]],
  ["EINVAL", [0xc000_000d, 0xc000_0004, 0xc000_0206, 0xc000_00f0]],
  ["EFAULT", [0xc000_0005, 0x8000_0002]],
  ["ENXIO", [0xc000_0013, 0xc000_00a3]],
  ["ENODEV", [0xc000_000e, 0xc000_009d, 0xc000_02b6, 0xc000_00c0]],
  ["ENOMEM", [0xc000_0017, 0xc000_009a, 0xc000_00a1, 0xc000_012d]],
  ["ENOENT", [0xc000_000f, 0xc000_0034, 0xc000_003a, 0xc000_0123]],
  ["EEXIST", [0xc000_0035]],
  ["EBUSY", [0xc000_0043, 0x8000_0011]],
  // A full disk, and what a quota does not let be written.
  ["ENOSPC", [0xc000_007f, 0xc000_0044, 0xc000_0799, 0xc000_0802]],
  ["EROFS", [0xc000_00a2]],
  ["EISDIR", [0xc000_00ba]],
  ["EFBIG", [0xc000_0904]],
  ["ETIMEDOUT", [0xc000_00b5]],
  ["ECANCELED", [0xc000_0120, 0xc000_0703]],
];

const ERRNO_OF_STATUS: ReadonlyMap<number, number> = new Map(
  STATUSES.flatMap(([name, statuses]) =>
    statuses.map((status) => [status | 0, WINDOWS_ERRNO[name]] as const)
  ),
);

/**
 * What `GetLastError` says after `CreateFileW` and its like, by name of the
 * error number: `winerror.h`.
 */
const LAST_ERRORS: readonly (readonly [WindowsErrno, readonly number[]])[] = [
  ["ENOENT", [2, 3, 123, 161]],
  ["EACCES", [5, 33, 1314]],
  ["ENOMEM", [8, 14, 1450, 1455]],
  ["EINVAL", [87]],
  ["EROFS", [19]],
  ["ENODEV", [15, 20, 21, 55, 433, 1167]],
  ["EBUSY", [32, 170]],
  ["EOPNOTSUPP", [1, 50]],
  ["EMFILE", [4]],
  ["EEXIST", [80, 183]],
  ["ENOSPC", [39, 112, 1295]],
];

const ERRNO_OF_LAST_ERROR: ReadonlyMap<number, number> = new Map(
  LAST_ERRORS.flatMap(([name, codes]) =>
    codes.map((code) => [code, WINDOWS_ERRNO[name]] as const)
  ),
);

/**
 * Whether a status is an error: its upper two bits are set (`NT_ERROR`). A call
 * that returns one has begun nothing, and nothing comes of it later.
 *
 * @param status The status, signed.
 * @returns Whether it is.
 */
export function isError(status: number): boolean {
  return status >>> 30 === 3;
}

/**
 * Whether an operation that is over has failed: what is no success is a failure
 * (`!NT_SUCCESS`), warnings such as STATUS_DEVICE_BUSY among them, but for the one
 * that says that an answer is longer than the room for it.
 *
 * @param status The status, signed.
 * @returns Whether it has.
 */
export function isFailure(status: number): boolean {
  return status < 0 && status !== STATUS.BUFFER_OVERFLOW;
}

/**
 * The error number for a status that is an error.
 *
 * @param status The status, signed.
 * @returns The number, positive; EIO for what has no other.
 */
export function errnoOfStatus(status: number): number {
  return ERRNO_OF_STATUS.get(status) ?? WINDOWS_ERRNO.EIO;
}

/**
 * The error number for what `GetLastError` says.
 *
 * @param code What it says.
 * @returns The number, positive; EIO for what has no other.
 */
export function errnoOfLastError(code: number): number {
  return ERRNO_OF_LAST_ERROR.get(code) ?? WINDOWS_ERRNO.EIO;
}

/**
 * What an operation that is over comes to, as the other systems say it.
 *
 * @param status Its status.
 * @param information Bytes that it moved.
 * @returns Bytes, or −errno: 0 at the end of a file.
 */
export function resultOf(status: number, information: number): number {
  if (status === STATUS.END_OF_FILE) return 0;
  return isFailure(status) ? -errnoOfStatus(status) : information;
}
