/**
 * Error numbers by name, on the system that this program runs on: a number to a
 * name, a name to a number, and what it means in English. Whoever is told a
 * number asks here, so that one number has one name wherever it comes from.
 *
 * `ffi/errno.ts` has the numbers of every system for the direct backend, which
 * compares them with what the kernel says; both give the same names.
 *
 * @module
 */

import { constants } from "node:os";
import { os } from "./platform/system.ts";

/**
 * Numbers that storage meets and `node:os` does not know. Linux:
 * asm-generic/errno.h. macOS: bsd/sys/errno.h of XNU. FreeBSD: sys/sys/errno.h.
 */
const MORE: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  linux: {
    ENOTBLK: 15,
    EBADR: 53,
    ECOMM: 70,
    EBADFD: 77,
    EUSERS: 87,
    ESHUTDOWN: 108,
    EUCLEAN: 117,
    EREMOTEIO: 121,
    ENOMEDIUM: 123,
    EMEDIUMTYPE: 124,
    EKEYREJECTED: 129,
    EOWNERDEAD: 130,
    ENOTRECOVERABLE: 131,
    EHWPOISON: 133,
  },
  darwin: {
    ENOTBLK: 15,
    ESHUTDOWN: 58,
    EUSERS: 68,
    EFTYPE: 79,
    EPWROFF: 82,
    EDEVERR: 83,
    ENOATTR: 93,
    ENOTRECOVERABLE: 104,
    EOWNERDEAD: 105,
  },
  freebsd: {
    ENOTBLK: 15,
    ESHUTDOWN: 58,
    EUSERS: 68,
    EFTYPE: 79,
    ENOATTR: 87,
    ENOTCAPABLE: 93,
    ECAPMODE: 94,
    ENOTRECOVERABLE: 95,
    EOWNERDEAD: 96,
    EINTEGRITY: 97,
  },
};

/** Of two names for one number, the one that is used. */
const PREFERRED = ["EAGAIN", "EOPNOTSUPP"];

const NUMBERS: ReadonlyMap<string, number> = new Map(
  Object.entries({ ...constants.errno, ...MORE[os] }),
);

const NAMES: ReadonlyMap<number, string> = new Map([
  ...[...NUMBERS].map(([name, number]) => [number, name] as const),
  ...PREFERRED.filter((name) => NUMBERS.has(name))
    .map((name) => [NUMBERS.get(name)!, name] as const),
]);

/** Texts of the errors that storage meets, in the words of glibc. */
const TEXTS: Readonly<Record<string, string>> = {
  EPERM: "Operation not permitted",
  ENOENT: "No such file or directory",
  ESRCH: "No such process",
  EINTR: "Interrupted system call",
  EIO: "Input/output error",
  ENXIO: "No such device or address",
  E2BIG: "Argument list too long",
  EBADF: "Bad file descriptor",
  EAGAIN: "Resource temporarily unavailable",
  ENOMEM: "Cannot allocate memory",
  EACCES: "Permission denied",
  EFAULT: "Bad address",
  ENOTBLK: "Block device required",
  EBUSY: "Device or resource busy",
  EEXIST: "File exists",
  EXDEV: "Invalid cross-device link",
  ENODEV: "No such device",
  ENOTDIR: "Not a directory",
  EISDIR: "Is a directory",
  EINVAL: "Invalid argument",
  ENFILE: "Too many open files in system",
  EMFILE: "Too many open files",
  ENOTTY: "Inappropriate ioctl for device",
  ETXTBSY: "Text file busy",
  EFBIG: "File too large",
  ENOSPC: "No space left on device",
  ESPIPE: "Illegal seek",
  EROFS: "Read-only file system",
  EMLINK: "Too many links",
  EPIPE: "Broken pipe",
  ERANGE: "Numerical result out of range",
  EDEADLK: "Resource deadlock avoided",
  ENAMETOOLONG: "File name too long",
  ENOLCK: "No locks available",
  ENOSYS: "Function not implemented",
  ENOTEMPTY: "Directory not empty",
  ELOOP: "Too many levels of symbolic links",
  EBADR: "Invalid request descriptor",
  ENODATA: "No data available",
  ETIME: "Timer expired",
  ENOLINK: "Link has been severed",
  ECOMM: "Communication error on send",
  EPROTO: "Protocol error",
  EBADMSG: "Bad message",
  EOVERFLOW: "Value too large for defined data type",
  EBADFD: "File descriptor in bad state",
  EILSEQ: "Invalid or incomplete multibyte or wide character",
  EUSERS: "Too many users",
  EOPNOTSUPP: "Operation not supported",
  ENOTSUP: "Operation not supported",
  ENOBUFS: "No buffer space available",
  ESHUTDOWN: "Cannot send after transport endpoint shutdown",
  ETIMEDOUT: "Connection timed out",
  ECONNRESET: "Connection reset by peer",
  EALREADY: "Operation already in progress",
  EINPROGRESS: "Operation now in progress",
  ESTALE: "Stale file handle",
  EUCLEAN: "Structure needs cleaning",
  EREMOTEIO: "Remote I/O error",
  EDQUOT: "Disk quota exceeded",
  ENOMEDIUM: "No medium found",
  EMEDIUMTYPE: "Wrong medium type",
  ECANCELED: "Operation canceled",
  EKEYREJECTED: "Key was rejected by service",
  EOWNERDEAD: "Owner died",
  ENOTRECOVERABLE: "State not recoverable",
  EHWPOISON: "Memory page has hardware error",
  EFTYPE: "Inappropriate file type or format",
  EDEVERR: "Device error",
  EPWROFF: "Device power is off",
  EINTEGRITY: "Integrity check failed",
  ENOTCAPABLE: "Capabilities insufficient",
  ECAPMODE: "Not permitted in capability mode",
  ENOATTR: "Attribute not found",
};

/**
 * The number of an error on this system.
 *
 * @param code Its name.
 * @returns The number, or `undefined` if the system does not have it.
 */
export function errnoOf(code: string): number | undefined {
  return NUMBERS.get(code);
}

/**
 * The name of an error number on this system.
 *
 * @param errno The number, positive.
 * @returns Its name, or `undefined` if the system does not have it.
 */
export function codeOfErrno(errno: number): string | undefined {
  return NAMES.get(errno);
}

/**
 * The one name of an error that has several, as `EWOULDBLOCK` is `EAGAIN`.
 *
 * @param code A name of it.
 * @returns The name that is used; a name that is not known as it is.
 */
export function canonicalCode(code: string): string {
  const errno = errnoOf(code);
  return errno === undefined ? code : codeOfErrno(errno)!;
}

/**
 * What an error means, in a few words.
 *
 * @param code Its name.
 * @returns For example `"Input/output error"`; `undefined` for what storage
 * does not meet.
 */
export function errnoText(code: string): string | undefined {
  return Object.hasOwn(TEXTS, code) ? TEXTS[code] : undefined;
}
