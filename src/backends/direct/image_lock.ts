/**
 * QEMU's lock on raw images, so that QEMU's tools and we see each other's: one
 * lock byte says that a permission is in use, another that it is not shared.
 *
 * Source: QEMU block/file-posix.c, `raw_apply_lock_bytes` and
 * `raw_check_lock_bytes`; include/block/block-common.h for the permissions.
 *
 * @module
 */

import { getLock, setLock } from "../../../ffi/file_lock.ts";
import type { Libc } from "../../../ffi/libc.ts";
import { DiskError } from "../../errors.ts";

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

/** One writer at a time, and nobody changes the size below it. */
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
 * @throws {DiskError} With kind `locked` if someone else holds the image.
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
      return "the file system has no locks of open file descriptions";
    }
  }
  const others = [
    ...uses.map((permission) => SHARED_BASE + permission),
    ...denies.map((permission) => PERMISSION_BASE + permission),
  ];
  for (const byte of others) {
    // A write lock would collide with any lock, but for our own.
    const found = getLock(libc, fd, F_WRLCK, byte, 1);
    if (found !== null && typeof found === "object") {
      for (const own of mine) setLock(libc, fd, F_UNLCK, own, 1);
      throw conflict(fd, path, readOnly, byte);
    }
  }
  return null;
}

function conflict(
  fd: number,
  path: string,
  readOnly: boolean,
  byte: number,
): DiskError {
  const holder = findHolder(fd, byte);
  const by = holder === null ? "another program" : holder;
  const what = byte >= SHARED_BASE && byte < SHARED_BASE + 100
    ? `${by} holds it and does not share it`
    : `${by} has it open for writing`;
  return new DiskError(
    "locked",
    `Cannot open "${path}" for ${
      readOnly ? "reading" : "writing"
    } as ${what}: close it there, or open with lock: "none" if you know better`,
    { operation: "open", path },
  );
}

/**
 * The program that locks a byte of the file behind a descriptor. Such locks
 * belong to no process, so /proc/locks names none; the descriptors themselves
 * show them, to whoever may look at them.
 *
 * @param fd A descriptor of the file.
 * @param byte The locked byte.
 * @returns For example `qemu-io (process 123)`; `null` if it is not to be told.
 */
function findHolder(fd: number, byte: number): string | null {
  if (Deno.build.os !== "linux") return null;
  // Deno lets nobody look into /proc who may not do everything.
  if (Deno.permissions.querySync({ name: "read" }).state !== "granted") {
    return null;
  }
  try {
    const own = Deno.readTextFileSync(`/proc/self/fdinfo/${fd}`);
    const inode = /^ino:\s*(\d+)$/m.exec(own)?.[1];
    if (inode === undefined) return null;
    // lock: 1: OFDLCK ADVISORY READ -1 fe:00:1234 100 101
    const line = new RegExp(
      `^lock:.*LCK\\s.*:${inode} (\\d+) (\\d+|EOF)$`,
      "gm",
    );
    for (const { name: pid } of Deno.readDirSync("/proc")) {
      if (!/^\d+$/.test(pid)) continue;
      try {
        for (const { name } of Deno.readDirSync(`/proc/${pid}/fdinfo`)) {
          if (Number(pid) === Deno.pid && Number(name) === fd) continue;
          const text = Deno.readTextFileSync(`/proc/${pid}/fdinfo/${name}`);
          for (const [, from, to] of text.matchAll(line)) {
            if (Number(from) > byte) continue;
            if (to !== "EOF" && Number(to) < byte) continue;
            const command = Deno.readTextFileSync(`/proc/${pid}/comm`).trim();
            return `${command} (process ${pid})`;
          }
        }
      } catch {
        // Gone, or not ours to look at.
      }
    }
  } catch {
    // Not permitted: the lock is named without its holder.
  }
  return null;
}
