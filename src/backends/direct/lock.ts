/**
 * The lock of the direct backend on a POSIX system, which is two together:
 * flock(2), which programs without FFI can see, and QEMU's lock bytes. On a disk
 * of this machine they have nothing to do with each other. On 9p
 * (`fs/9p/vfs_file.c`, `v9fs_file_flock_dotl`), on NFS and on what else is served,
 * flock is a lock on every byte of the file, and that of one open description
 * keeps out the bytes of another one, ours included. There the bytes are enough:
 * whoever takes flock finds them. A block device is kept from the kernel as well.
 *
 * @module
 */

import { fstatSync } from "node:fs";
import { errnoName } from "../../../ffi/abi.ts";
import type { Libc } from "../../../ffi/libc.ts";
import { DiskError } from "../../errors.ts";
import { claimFile, type FileClaim } from "../file_claim.ts";
import type { TakenLock } from "../held_image.ts";
import { besideError, lockedError } from "../holder.ts";
import { type ImageOptions, openError } from "../image_options.ts";
import { lockImage, unlockImage } from "./image_lock.ts";

/**
 * Locks an image as it is wanted.
 *
 * @param libc The C library.
 * @param fd The image's descriptor.
 * @param path Its path.
 * @param options How it is wanted.
 * @returns The lock.
 * @throws {DiskError} With kind `locked` if someone else holds the image.
 */
export function takeLock(
  libc: Libc,
  fd: number,
  path: string,
  options: ImageOptions,
): TakenLock {
  if (options.lock === "none") {
    return {
      info: { method: "none", reason: 'not wanted: lock: "none"' },
      claim: null,
    };
  }
  const { readOnly } = options;
  const exclusive = options.lock === "exclusive";
  const held: FileClaim[] = [];
  const release = () => held.forEach((claim) => claim.release());
  const hold = (claim: FileClaim | null) => claim !== null && held.push(claim);
  let missing: string | null;
  try {
    const lockBytes = () => lockImage(libc, fd, path, readOnly, exclusive);
    if (!readOnly || exclusive) {
      const both = takeBoth({
        claim: () => claimFile(path, fd, readOnly),
        lockBytes,
        unlockBytes: () => unlockImage(libc, fd),
      });
      hold(both.claim);
      missing = both.missing;
    } else missing = lockBytes();
    if (!readOnly) hold(claimDevice(libc, fd, path));
  } catch (error) {
    release();
    throw error;
  }
  const claim = held.length === 0 ? null : { release };
  if (missing === null) {
    return { info: { method: "OFD", reason: null }, claim };
  }
  return {
    info: claim === null ? { method: "none", reason: missing } : {
      method: "flock",
      reason: `${missing}: QEMU's tools are not kept out`,
    },
    claim,
  };
}

/**
 * Keeps the kernel out of a block device, if it is one: on a device, O_EXCL
 * without O_CREAT means "not while it is mounted or otherwise in use", and the
 * kernel says EBUSY (open(2)). `node:fs` cannot open like that; the path has
 * been permitted by the descriptor that is open already.
 */
function claimDevice(libc: Libc, fd: number, path: string): FileClaim | null {
  if (libc.abi.os !== "linux" || !fstatSync(fd).isBlockDevice()) return null;
  const { O_RDONLY, O_EXCL, O_CLOEXEC } = libc.abi.open;
  const opened = libc.open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
  if (opened === -libc.abi.errno.EBUSY) {
    throw besideError(path, fd) ?? lockedError(path, "writing", {
      holder: null,
      holds: "uses the device, mounted or otherwise",
    });
  }
  if (opened < 0) throw openError(path, errnoName(libc.abi, -opened), -opened);
  const claim = libc.keep(opened);
  return { release: () => libc.closeKept(claim) };
}

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
