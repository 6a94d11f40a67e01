/**
 * The lock that needs no FFI: flock(2) on the whole file, exclusive for
 * writers, shared for readers that want no writer beside them, so that the
 * direct and the portable backend keep each other out.
 *
 * @module
 */

import fs from "node:fs";
import { isUnknownAt } from "./file_system.ts";
import { lockedError, nameHolder } from "./holder.ts";
import { type HeldFile, openHeld } from "../platform/held_file.ts";

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
 * @throws {Error} If it cannot be opened once more.
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
    if ((error as { code?: unknown }).code === "ENOENT") {
      throw new ReplacedError(path);
    }
    throw error;
  }
  let taken: boolean;
  try {
    // Before it is locked: the other file's owner would find it taken.
    if (!isSame(file, fd)) throw new ReplacedError(path);
    taken = file.tryLockSync(!readOnly);
    if (taken && !readOnly && isUnknownAt(path) && isGrantedTwice(path, fd)) {
      file.close();
      return null;
    }
  } catch (error) {
    if (error instanceof ReplacedError || !isConflict(error)) {
      file.close();
      if (error instanceof ReplacedError) throw error;
      return null;
    }
    taken = false;
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

/** Whether a file is what a descriptor is open for. */
function isSame(file: HeldFile, fd: number): boolean {
  const [here, meant] = [file.statSync(), fs.fstatSync(fd)];
  return here.ino === meant.ino && here.dev === meant.dev;
}

/** Whether a lock that nobody else may have is granted once more: Nanos does so. */
function isGrantedTwice(path: string, fd: number): boolean {
  let second: HeldFile | null = null;
  try {
    second = openHeld(path, true);
    // Another file by now is not ours to lock.
    return isSame(second, fd) && second.tryLockSync(true);
  } catch {
    return false;
  } finally {
    second?.close();
  }
}

/**
 * Whether an error means that someone else has the lock. SMB answers so what its
 * server does not grant (fs/smb/client/smb2maperror.c, STATUS_LOCK_NOT_GRANTED):
 * as fcntl(2) may, and flock(2) elsewhere never does.
 */
function isConflict(error: unknown): boolean {
  return (error as { code?: unknown }).code === "EACCES";
}
