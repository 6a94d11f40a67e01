/**
 * How much of a file is in the page cache (cachestat, Linux 6.5 and later): a
 * way to see whether direct I/O was direct.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { readU64, structMemory, writeU64 } from "./memory.ts";

/** struct cachestat_range {u64 offset, u64 length}; include/uapi/linux/mman.h. */
const RANGE_BYTES = 16;

/**
 * struct cachestat {u64 nr_cache, nr_dirty, nr_writeback, nr_evicted,
 * nr_recently_evicted}; include/uapi/linux/mman.h.
 */
const RESULT_BYTES = 40;

/**
 * Counts the pages of a file that are in the page cache: `int cachestat(int
 * fd, struct cachestat_range *range, struct cachestat *result, unsigned
 * flags)`.
 *
 * @param libc The C library.
 * @param fd File descriptor.
 * @param offset First byte.
 * @param length Number of bytes; 0 means up to the end of the file.
 * @returns Number of pages, or −errno: −ENOSYS before Linux 6.5 and elsewhere,
 * −EPERM where the caller may neither write nor owns the file.
 */
export function cachedPages(
  libc: Libc,
  fd: number,
  offset: number,
  length: number,
): number {
  const number = libc.abi.syscalls?.cachestat;
  if (number === undefined) return -libc.abi.errno.ENOSYS;
  const { address, view } = structMemory(RANGE_BYTES + RESULT_BYTES);
  writeU64(view, 0, offset);
  writeU64(view, 8, length);
  const result = libc.syscall(number, fd, address, address + RANGE_BYTES, 0);
  // nr_cache is the first word of the result.
  return result < 0 ? result : readU64(view, RANGE_BYTES);
}
