/**
 * The error numbers of the C library of Windows (`errno.h` of the Universal C
 * Runtime), which `node:os` and Deno use there as well. A table only: no I/O, no
 * addresses.
 *
 * @module
 */

import { errnoNames, type ErrnoTable } from "./errno.ts";

/** Error numbers by name. */
export const WINDOWS_ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  ECHILD: 10,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EMLINK: 31,
  EPIPE: 32,
  EDOM: 33,
  ERANGE: 34,
  EDEADLK: 36,
  ENAMETOOLONG: 38,
  ENOLCK: 39,
  ENOSYS: 40,
  ENOTEMPTY: 41,
  EILSEQ: 42,
  EALREADY: 103,
  ECANCELED: 105,
  EINPROGRESS: 112,
  ELOOP: 114,
  ENODATA: 120,
  ENOTSUP: 129,
  EOPNOTSUPP: 130,
  EOVERFLOW: 132,
  EPROTO: 134,
  ETIME: 137,
  ETIMEDOUT: 138,
  ETXTBSY: 139,
} as const;

const NAMES = errnoNames(WINDOWS_ERRNO as unknown as ErrnoTable);

/**
 * The name of an error number.
 *
 * @param errno The number, positive.
 * @returns For example `"EIO"`.
 */
export function windowsErrnoName(errno: number): string {
  return NAMES.get(errno) ?? `errno ${errno}`;
}
