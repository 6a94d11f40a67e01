/**
 * Which Linux this is, for what differs between versions and cannot be tried
 * without doing it.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { structMemory } from "./memory.ts";

/**
 * struct new_utsname: six texts of 65 bytes, the third of which is the release
 * (include/uapi/linux/utsname.h).
 */
const TEXT_BYTES = 65;
const TEXTS = 6;
const RELEASE = 2;

/**
 * Asks the kernel for its version: uname(2).
 *
 * @param libc The C library.
 * @returns For example `[6, 1]`; `null` on other systems, and where it is not
 * to be told.
 */
export function kernelVersion(
  libc: Libc,
): readonly [major: number, minor: number] | null {
  const number = libc.abi.syscalls?.uname;
  if (number === undefined) return null;
  const { address, view } = structMemory(TEXTS * TEXT_BYTES);
  if (libc.syscall(number, address) < 0) return null;
  const bytes = new Uint8Array(
    view.buffer,
    view.byteOffset + RELEASE * TEXT_BYTES,
    TEXT_BYTES,
  );
  const release = new TextDecoder().decode(bytes);
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release) ?? [];
  return major === undefined ? null : [Number(major), Number(minor)];
}

/**
 * Whether this is that version of Linux or a later one.
 *
 * @param libc The C library.
 * @param major The version's first number.
 * @param minor Its second number.
 * @returns Whether it is known to be.
 */
export function isKernelSince(
  libc: Libc,
  major: number,
  minor: number,
): boolean {
  const version = kernelVersion(libc);
  return version !== null &&
    (version[0] > major || version[0] === major && version[1] >= minor);
}
