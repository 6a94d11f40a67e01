/**
 * The name of a new file: where there may be none, and that it stays.
 *
 * The name of a new image is made durable: a file that is synced and whose folder
 * is not may have no name after a power cut (fsync(2), "Description").
 *
 * The file goes first, or a name could lead to an image of size 0. Then the
 * folder, if it may be opened without a prompt. Where it may not, the file's own
 * sync is all there is. It keeps the name as well on file systems whose journal
 * has it in the same transaction as the file's size, and ext4, XFS and btrfs are
 * such.
 *
 * @module
 */

import fs from "node:fs";
import { dirname, isAbsolute, resolve } from "node:path";
import { DiskError, kindOfCode } from "../errors.ts";
import { isGranted, isNotCapable } from "../platform/permissions.ts";
import { os } from "../platform/system.ts";
import { systemCode } from "./system_error.ts";

/**
 * What systems say of a folder that cannot be opened or synced, whatever it
 * holds: not permitted (Windows, a folder that may be entered and not read), or
 * not implemented. Anything else is a failure.
 */
const CANNOT: ReadonlySet<string> = new Set([
  ...["EACCES", "EPERM", "EISDIR", "EBADF"],
  ...["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "ENOTTY"],
]);

/** Where devices are. */
const DEVICES = "/dev";

/**
 * Refuses to make a file among devices: see {@linkcode isNewAmongDevices}.
 *
 * @param path The file's path.
 * @throws {DiskError} With kind `not-found` if it would be one.
 */
export function refuseAmongDevices(path: string): void {
  if (!isNewAmongDevices(path)) return;
  throw new DiskError(
    "not-found",
    `Cannot create "${path}" as there is no such device, and a file among devices would be in memory`,
    { operation: "create", path },
  );
}

/**
 * Whether a file would be a new one among devices: in memory, and there for
 * whoever means a device, such as by a mistyped name. What is mounted there, such
 * as `/dev/shm`, is for files.
 *
 * @param path The file's path.
 * @returns Whether it would be; not if it is there.
 */
export function isNewAmongDevices(path: string): boolean {
  // Which directory this is takes a permission to find out.
  const place = isAbsolute(path) || isGranted({ name: "read" })
    ? resolve(path)
    : path;
  if (os === "windows" || !place.startsWith(`${DEVICES}/`)) return false;
  // It need not be mounted there.
  if (place.startsWith(`${DEVICES}/shm/`)) return false;
  const look = { throwIfNoEntry: false } as const;
  if (fs.lstatSync(place, look) !== undefined) return false;
  let folder = dirname(place);
  while (fs.statSync(folder, look) === undefined) folder = dirname(folder);
  return fs.statSync(folder).dev === fs.statSync(DEVICES).dev;
}

/**
 * Syncs a new file and the folder that has its name.
 *
 * @param path The file's path.
 * @param descriptor The file, open for writing.
 * @param syncFolder Syncs a folder; returns the error's code, or `null`.
 * @throws {DiskError} If a sync fails that the system can do.
 */
export function keepName(
  path: string,
  descriptor: number,
  syncFolder: (folder: string) => string | null = syncFolderByNode,
): void {
  refuse(path, codeOf(() => fs.fsyncSync(descriptor)));
  refuse(path, syncFolder(dirname(path)));
}

/**
 * Syncs the folder of a file that has been synced itself.
 *
 * @param path The file's path.
 * @throws {DiskError} If it fails and the system can do it.
 */
export function keepNameOf(path: string): void {
  refuse(path, syncFolderByNode(dirname(path)));
}

function refuse(path: string, code: string | null): void {
  if (code === null || CANNOT.has(code)) return;
  throw new DiskError(
    kindOfCode(code),
    `Cannot create "${path}" as its name cannot be made durable: the system says ${code}`,
    { operation: "create", path, code },
  );
}

function syncFolderByNode(folder: string): string | null {
  const query = { name: "read", path: folder } as const;
  if (!isGranted(query)) return "EPERM";
  return codeOf(() => {
    const descriptor = fs.openSync(folder, fs.constants.O_RDONLY);
    try {
      fs.fsyncSync(descriptor);
    } finally {
      fs.closeSync(descriptor);
    }
  });
}

/** The code of the error that something throws; `null` if it throws none. */
function codeOf(act: () => void): string | null {
  try {
    act();
    return null;
  } catch (error) {
    if (isNotCapable(error)) return "EPERM";
    const found = systemCode(error);
    if (found === null) throw error;
    return found.code;
  }
}
