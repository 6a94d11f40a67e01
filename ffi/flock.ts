/**
 * flock(2), for runtimes that have none of their own.
 *
 * @module
 */

import { errnoName } from "./abi.ts";
import { openLibc } from "./libc.ts";

// include/uapi/asm-generic/fcntl.h; the same on macOS and the BSDs.
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * Locks a file, without waiting.
 *
 * @param fd File descriptor.
 * @param exclusive Whether against readers too.
 * @returns Whether it did; not if another open file has it.
 * @throws {FfiError} If FFI cannot be used.
 * @throws {Error} If the system does not, with its word as `code`.
 */
export function tryFlock(fd: number, exclusive: boolean): boolean {
  const libc = openLibc();
  const operation = (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB;
  const result = libc.flock(fd, operation);
  if (result === 0) return true;
  const { EAGAIN, EACCES } = libc.abi.errno;
  // SMB answers EACCES where others answer EAGAIN.
  if (result === -EAGAIN || result === -EACCES) return false;
  const code = errnoName(libc.abi, -result);
  throw Object.assign(new Error(`Cannot lock a file: ${code}`), { code });
}
