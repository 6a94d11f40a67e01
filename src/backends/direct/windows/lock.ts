/**
 * The lock on an image on Windows: a byte far beyond the end of any image, locked
 * by `LockFileEx` on a handle of its own. Locks of bytes are mandatory there, and
 * one on the content would keep out our own handles; where there is no content, it
 * keeps out nobody but those who ask for the same byte.
 *
 * The direct backend opens an image so that no other program can write to it as
 * well (`./open_file.ts`). The portable one cannot: files of Deno and `node:fs`
 * share everything with everybody.
 *
 * @module
 */

import fs from "node:fs";
import { resolve, toNamespacedPath } from "node:path";
import { FfiError } from "../../../../ffi/ffi_error.ts";
import { openWindows, type Windows } from "../../../../ffi/windows.ts";
import {
  ACCESS,
  FILE_INFORMATION,
  SHARE,
  VOLUME_INFORMATION,
} from "../../../../ffi/windows_abi.ts";
import { windowsErrnoName } from "../../../../ffi/windows_errno.ts";
import type { DiskError } from "../../../errors.ts";
import { isGranted } from "../../../platform/permissions.ts";
import { type FileClaim, ReplacedError } from "../../file_claim.ts";
import { lockedError, nameHolder } from "../../holder.ts";
import { openError } from "../../image_options.ts";

/** The byte that is locked: images are below 2^53 bytes. */
const LOCK_AT = 2 ** 53 - 1;

/** Everything that others may do with a file. */
export const SHARE_ALL = SHARE.READ | SHARE.WRITE | SHARE.DELETE;

/**
 * Windows, for a backend that does without it where FFI is not allowed: nobody is
 * asked.
 *
 * @returns Windows; `null` if it is not to be had.
 */
export function windowsIfAllowed(): Windows | null {
  if (!isGranted({ name: "ffi" })) return null;
  try {
    return openWindows();
  } catch (error) {
    if (error instanceof FfiError && error.kind !== "unusable") return null;
    throw error;
  }
}

/**
 * Locks a file against other programs that lock it so.
 *
 * @param path The file.
 * @param fd A descriptor of `node:fs` of the very file that is meant.
 * @param readOnly Whether others may read it under the same lock.
 * @param windows Windows.
 * @returns The lock; `null` where the file system has none.
 * @throws {DiskError} With kind `locked` if someone else holds it.
 * @throws {ReplacedError} If the path leads to another file by now.
 */
export function claimOnWindows(
  path: string,
  fd: number,
  readOnly: boolean,
  windows: Windows,
): FileClaim | null {
  const handle = openSame(windows, path, fd, ACCESS.GENERIC_READ, SHARE_ALL);
  if (handle < 0) throw openErrorOf(path, -handle);
  const locked = windows.lock(handle, LOCK_AT, 1, !readOnly);
  if (locked === true) return { release: () => windows.close(handle) };
  windows.close(handle);
  if (typeof locked === "number") return null;
  throw lockedError(path, readOnly ? "reading alone" : "writing", {
    holder: nameHolder(fd, "FLOCK"),
    holds: "holds it",
  });
}

/**
 * Opens the file that a descriptor of `node:fs` is of, whose permission Deno has
 * checked by then.
 *
 * @param windows Windows.
 * @param path The file.
 * @param fd The descriptor.
 * @param access What it is opened for.
 * @param share What others may do meanwhile.
 * @param flags How.
 * @returns The handle, or −errno.
 * @throws {ReplacedError} If the path leads to another file by now.
 */
export function openSame(
  windows: Windows,
  path: string,
  fd: number,
  access: number,
  share: number,
  flags = 0,
): number {
  const full = toNamespacedPath(resolve(path));
  const handle = windows.createFile(full, access, share, flags);
  if (handle < 0) return handle;
  try {
    if (!isSameFile(windows, handle, fd)) throw new ReplacedError(path);
    return handle;
  } catch (error) {
    windows.close(handle);
    throw error;
  }
}

/** Whether a handle and a descriptor are of one file. */
function isSameFile(windows: Windows, handle: number, fd: number): boolean {
  const internal = windows.fileInformation(handle, FILE_INFORMATION.Internal);
  if (typeof internal === "number") return false;
  const number = internal.getBigUint64(0, true);
  const volume = windows.volumeInformation(handle, VOLUME_INFORMATION.Volume);
  if (typeof volume === "number") return false;
  const serial = BigInt(volume.getUint32(8, true));
  const { dev, ino } = fs.fstatSync(fd, { bigint: true });
  return BigInt.asUintN(64, ino) === number &&
    BigInt.asUintN(32, dev) === serial;
}

/**
 * The error for a file that cannot be opened.
 *
 * @param path The file.
 * @param errno What Windows says.
 * @returns The error.
 */
export function openErrorOf(path: string, errno: number): DiskError {
  return openError(path, windowsErrnoName(errno), errno);
}
