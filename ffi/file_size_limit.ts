/**
 * The limit on the size of files that this process may write (RLIMIT_FSIZE).
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { readU64, structMemory } from "./memory.ts";

// include/uapi/asm-generic/resource.h; struct rlimit64 {u64 current, u64 most}.
const RLIMIT_FSIZE = 1;
const RLIMIT_BYTES = 16;

/** RLIM64_INFINITY is 2^64 − 1; no file reaches 2^63. */
const NO_LIMIT = 2 ** 63;

/**
 * Asks for the limit: `int prlimit64(pid_t pid, int resource, const struct
 * rlimit64 *new, struct rlimit64 *old)`.
 *
 * @param libc The C library.
 * @returns The limit in bytes, `Infinity` where there is none, or −errno
 * (−ENOSYS where it cannot be asked for like this).
 */
export function fileSizeLimit(libc: Libc): number {
  const number = libc.abi.syscalls?.prlimit64;
  if (number === undefined) return -libc.abi.errno.ENOSYS;
  const { address, view } = structMemory(RLIMIT_BYTES);
  const result = libc.syscall(number, 0, RLIMIT_FSIZE, 0, address);
  if (result < 0) return result;
  const limit = readU64(view, 0);
  return limit >= NO_LIMIT ? Infinity : limit;
}
