/**
 * The lock that needs no FFI: flock(2) on the whole file, exclusive for
 * writers, shared for readers that want no writer beside them, so that the
 * direct and the portable backend keep each other out.
 *
 * @module
 */

import fs from "node:fs";
import { isUnknownAt } from "./file_system.ts";
import { canonicalCode } from "../errno.ts";
import { DiskError } from "../errors.ts";
import { lockedError, nameHolder } from "./holder.ts";
import { systemCode } from "./system_error.ts";
import { type HeldFile, isUnusable, openHeld } from "../platform/held_file.ts";

/** A lock that is held. */
export interface FileClaim {
  /** Gives it back. */
  release(): void;
}

/** The path leads to another file than the one that was opened there. */
export class ReplacedError extends Error {}

/**
 * Locks a file against writers.
 *
 * @param path The file.
 * @param fd A descriptor of the very file that is meant.
 * @param readOnly Whether others may read it under the same lock.
 * @returns The lock; `null` where the file system has none.
 * @throws {DiskError} With kind `locked` if someone else holds it.
 * @throws {ReplacedError} If the path leads to another file by now.
 * @throws {Error} If it cannot be opened once more, or the system does not say
 * whether it is locked.
 */
export function claimFile(
  path: string,
  fd: number,
  readOnly: boolean,
): FileClaim | null {
  // Before it is opened: a pipe would be waited for.
  if (!leadsTo(path, fd)) throw new ReplacedError(path);
  let file: HeldFile;
  try {
    // Over NFS an exclusive lock needs a descriptor for writing: flock(2).
    file = openHeld(path, !readOnly);
  } catch (error) {
    if (systemCode(error)?.code === "ENOENT") throw new ReplacedError(path);
    throw error;
  }
  let taken: boolean | null;
  try {
    // Before it is locked: the other file's owner would find it taken.
    if (!isSame(file, path, fd)) throw new ReplacedError(path);
    taken = tryLock(file, path, !readOnly);
    if (taken && !readOnly && isUnknownAt(path) && isGrantedTwice(path, fd)) {
      taken = null;
    }
  } catch (error) {
    file.close();
    throw error;
  }
  if (taken === null) {
    file.close();
    return null;
  }
  if (!taken) {
    file.close();
    const holder = nameHolder(fd, "FLOCK");
    throw lockedError(path, readOnly ? "reading alone" : "writing", {
      holder,
      holds: "holds it",
    });
  }
  return { release: () => file.close() };
}

/**
 * Whether a path leads to an open file; links are followed.
 *
 * @param path The path.
 * @param fd The file's descriptor.
 * @returns Whether it does.
 */
export function leadsTo(path: string, fd: number): boolean {
  const file = fs.fstatSync(fd, { bigint: true });
  const there = fs.statSync(path, { bigint: true, throwIfNoEntry: false });
  return there !== undefined && there.dev === file.dev &&
    there.ino === file.ino;
}

/** Whether a file that was opened by a path is what a descriptor is open for. */
function isSame(file: HeldFile, path: string, fd: number): boolean {
  const here = file.statSync();
  // Then the path led there before, and if it does now, it was not replaced.
  if (here === null) return leadsTo(path, fd);
  const meant = fs.fstatSync(fd);
  return here.ino === meant.ino && here.dev === meant.dev;
}

/** Whether a lock that nobody else may have is granted once more: Nanos does so. */
function isGrantedTwice(path: string, fd: number): boolean {
  const second = openHeld(path, true);
  try {
    // Another file by now is not ours to lock.
    return isSame(second, path, fd) && tryLock(second, path, true) === true;
  } finally {
    second.close();
  }
}

/**
 * Locks a file; `null` where there are no such locks. EACCES means that someone
 * else has it: SMB answers so what its server does not grant
 * (fs/smb/client/smb2maperror.c, STATUS_LOCK_NOT_GRANTED), as fcntl(2) may, and
 * flock(2) elsewhere never does.
 */
function tryLock(
  file: HeldFile,
  path: string,
  exclusive: boolean,
): boolean | null {
  try {
    return file.tryLockSync(exclusive);
  } catch (error) {
    if (isUnusable(error)) {
      throw new DiskError(
        "platform",
        `Cannot lock "${path}": ${error.message}`,
        { operation: "open", path, cause: error },
      );
    }
    const code = systemCode(error)?.code;
    if (code === "EACCES") return false;
    if (code !== undefined && meansNoLocks(code)) return null;
    throw error;
  }
}

/**
 * What systems answer where a file, or the system itself, has no such locks; EPERM
 * is the word of a filter of system calls alone.
 */
const NO_LOCKS = new Set(
  ["EINVAL", "ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EPERM"]
    .map(canonicalCode),
);

/**
 * Whether an answer says that there are no locks to be had, rather than that
 * something went wrong: then the image may be locked by others, and must not be
 * taken for one that nobody locks.
 *
 * @param code The system's word, such as `"ENOLCK"`.
 * @returns Whether it does.
 */
export function meansNoLocks(code: string): boolean {
  return NO_LOCKS.has(canonicalCode(code));
}
