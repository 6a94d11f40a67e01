/**
 * The two locks of the direct backend together: flock(2), which programs without
 * FFI can see, and QEMU's lock bytes. On a disk of this machine they have nothing
 * to do with each other. On 9p (`fs/9p/vfs_file.c`, `v9fs_file_flock_dotl`), on
 * NFS and on what else is served, flock is a lock on every byte of the file, and
 * that of one open description keeps out the bytes of another one, ours
 * included. There the bytes are enough: whoever takes flock finds them.
 *
 * @module
 */

import { DiskError } from "../../errors.ts";
import type { FileClaim } from "../file_claim.ts";

/** How the two are taken. Both throw kind `locked` where someone holds them. */
export interface Locks {
  /** Takes flock; `null` where the file system has none. */
  readonly claim: () => FileClaim | null;
  /** Takes the bytes; returns `null`, or why the file system has no such locks. */
  readonly lockBytes: () => string | null;
  /** Gives the bytes back. */
  readonly unlockBytes: () => void;
}

/** What was taken. */
export interface BothLocks {
  /** The flock; `null` if there is none. */
  readonly claim: FileClaim | null;
  /** Why there are no bytes; `null` if they are taken. */
  readonly missing: string | null;
}

/**
 * Takes both locks, or the bytes alone where one keeps out the other.
 *
 * flock comes first: of two who ask at once it takes exactly one, while QEMU's
 * bytes are taken by both, to be found by each other.
 *
 * @param locks How they are taken.
 * @returns What was taken.
 * @throws {DiskError} With kind `locked` if someone else holds either.
 */
export function takeBoth(locks: Locks): BothLocks {
  const first = tryBoth(locks);
  if (first !== null) return first;
  // Without flock, they are someone else's if they are refused once more.
  const missing = locks.lockBytes();
  try {
    // The other one has gone, and both can be had after all.
    return { claim: locks.claim(), missing };
  } catch (error) {
    locks.unlockBytes();
    if (!isLocked(error)) throw error;
  }
  // Refused beside our bytes: by them, if it can be had without them.
  return tryBoth(locks) ?? { claim: null, missing: locks.lockBytes() };
}

/** Takes flock and then the bytes; `null` if these are refused beside it. */
function tryBoth({ claim, lockBytes }: Locks): BothLocks | null {
  const taken = claim();
  try {
    return { claim: taken, missing: lockBytes() };
  } catch (error) {
    taken?.release();
    if (taken === null || !isLocked(error)) throw error;
    return null;
  }
}

function isLocked(error: unknown): boolean {
  return error instanceof DiskError && error.kind === "locked";
}
