/**
 * QEMU's lock on raw images, so that QEMU's tools and we see each other's: one
 * lock byte says that a permission is in use, another that it is not shared.
 *
 * Source: QEMU block/file-posix.c, `raw_apply_lock_bytes` and
 * `raw_check_lock_bytes`; include/block/block-common.h for the permissions.
 *
 * @module
 */

import { errnoName } from "../../../ffi/abi.ts";
import { getLock, setLock } from "../../../ffi/file_lock.ts";
import type { Libc } from "../../../ffi/libc.ts";
import type { DiskError } from "../../errors.ts";
import { meansNoLocks } from "../file_claim.ts";
import { lockedError, nameHolder } from "../holder.ts";
import { openError } from "../image_options.ts";

/** Permission i is in use where byte 100 + i is locked. */
const PERMISSION_BASE = 100;
/** Permission i is not shared where byte 200 + i is locked. */
const SHARED_BASE = 200;

const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;

interface Claim {
  readonly uses: readonly number[];
  readonly denies: readonly number[];
}

/** Readers live beside anything that lets itself be read. */
const READER: Claim = { uses: [CONSISTENT_READ], denies: [] };

/** Readers that want nothing to change meanwhile. */
const LONE_READER: Claim = {
  uses: [CONSISTENT_READ],
  denies: [WRITE, RESIZE],
};

/** One writer at a time, and the size does not change below it. */
const WRITER: Claim = {
  uses: [CONSISTENT_READ, WRITE],
  denies: [WRITE, RESIZE],
};

/**
 * Locks an image until its descriptor is closed.
 *
 * @param libc The C library.
 * @param fd The descriptor.
 * @param path The image's path, for the error.
 * @param readOnly Whether to lock as a reader.
 * @param exclusive Whether a reader keeps out writers.
 * @returns `null`, or why the file system has no such locks.
 * @throws {DiskError} With kind `locked` if someone else holds the image; with
 * another one if the system does not say whether anyone does.
 */
export function lockImage(
  libc: Libc,
  fd: number,
  path: string,
  readOnly: boolean,
  exclusive: boolean,
): string | null {
  const { F_RDLCK, F_UNLCK, F_WRLCK } = libc.abi.flock;
  const { uses, denies } = !readOnly
    ? WRITER
    : exclusive
    ? LONE_READER
    : READER;
  const mine = [
    ...uses.map((permission) => PERMISSION_BASE + permission),
    ...denies.map((permission) => SHARED_BASE + permission),
  ];
  for (const byte of mine) {
    const result = setLock(libc, fd, F_RDLCK, byte, 1);
    if (result < 0) {
      // Someone holds the byte exclusively, which QEMU never does.
      if (
        result === -libc.abi.errno.EAGAIN || result === -libc.abi.errno.EACCES
      ) throw conflict(fd, path, readOnly, byte);
      return noLocks(libc, path, -result);
    }
  }
  const others = [
    ...uses.map((permission) => SHARED_BASE + permission),
    ...denies.map((permission) => PERMISSION_BASE + permission),
  ];
  for (const byte of others) {
    // A write lock would collide with any lock, but for our own.
    const found = getLock(libc, fd, F_WRLCK, byte, 1);
    if (typeof found === "number") {
      unlockImage(libc, fd);
      return noLocks(libc, path, -found);
    }
    if (found !== null) {
      for (const own of mine) setLock(libc, fd, F_UNLCK, own, 1);
      throw conflict(fd, path, readOnly, byte);
    }
  }
  return null;
}

/** Why there are no locks, unless something else went wrong. */
function noLocks(libc: Libc, path: string, errno: number): string {
  const code = errnoName(libc.abi, errno);
  if (!meansNoLocks(code)) throw openError(path, code, errno);
  return "the file system has no locks of open file descriptions";
}

/**
 * Gives back what {@linkcode lockImage} took.
 *
 * @param libc The C library.
 * @param fd The descriptor.
 */
export function unlockImage(libc: Libc, fd: number): void {
  const length = SHARED_BASE + RESIZE + 1 - PERMISSION_BASE;
  setLock(libc, fd, libc.abi.flock.F_UNLCK, PERMISSION_BASE, length);
}

function conflict(
  fd: number,
  path: string,
  readOnly: boolean,
  byte: number,
): DiskError {
  return lockedError(path, readOnly ? "reading" : "writing", {
    holder: nameHolder(fd, "OFDLCK", byte),
    holds: byte >= SHARED_BASE && byte < SHARED_BASE + 100
      ? "holds it and does not share it"
      : "has it open for writing",
  });
}
