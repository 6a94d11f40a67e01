/**
 * What must have reached the disk before a file is read and written past the page
 * cache.
 *
 * Linux writes the pages of a range back before each direct read and write of it,
 * and drops them (mm/filemap.c, `kiocb_write_and_wait` and
 * `kiocb_invalidate_pages`). Nanos does neither (src/unix/syscall.c: a descriptor
 * with O_DIRECT goes by the file system, and others by the cache). There a direct
 * read shows what was on the disk before, and the next flush writes old pages over
 * what direct I/O has written.
 *
 * @module
 */

import fs from "node:fs";
import { isKnown } from "./medium.ts";
import { systemCode } from "./system_error.ts";

/** What a system says that cannot flush such a file: fsync(2). It keeps nothing. */
const NOT_FLUSHED = ["EINVAL", "EROFS", "ENOSYS", "EOPNOTSUPP", "ENOTSUP"];

/**
 * Writes back what programs have written to a file through the page cache, once,
 * where nobody knows whether the system does so by itself.
 *
 * @param fd The file, open for direct I/O.
 * @param fileSystem The name of the file system that it is on; `null` if that
 * cannot be told.
 * @throws {Error} The system's, if it cannot be written.
 */
export function writeBack(fd: number, fileSystem: string | null): void {
  if (fileSystem === null || isKnown(fileSystem)) return;
  try {
    fs.fdatasyncSync(fd);
  } catch (error) {
    const code = systemCode(error)?.code;
    if (code === undefined || !NOT_FLUSHED.includes(code)) throw error;
  }
}
