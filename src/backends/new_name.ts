/**
 * Makes the name of a new image durable: a file that is synced and whose folder
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
import { dirname } from "node:path";
import { DiskError, kindOfCode } from "../errors.ts";
import { isGranted, isNotCapable } from "../platform/permissions.ts";
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
