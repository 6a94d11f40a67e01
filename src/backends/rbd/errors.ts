/**
 * What librados and librbd answer, in the words of this project. Their error
 * numbers are those of Linux; what one means depends on what was asked.
 *
 * @module
 */

import { codeOfErrno, errnoText } from "../../errno.ts";
import { DiskError, type DiskErrorKind, kindOfCode } from "../../errors.ts";
import type { Request } from "../../request.ts";
import { cutError, errnoError, requestError } from "../../request_error.ts";

/** include/rados.h: EBLOCKLISTED is ESHUTDOWN. */
const SHUT_OUT =
  "the cluster has shut this client out (it is on its block list): another one has broken its lock, open the disk anew";

/** Why nothing new is asked of an image once FFI was revoked. */
export const NO_FFI = "Deno does not allow it any more: it needs --allow-ffi";

/**
 * The name of an error number.
 *
 * @param result −errno.
 * @returns Such as `"EIO"`.
 */
export function codeOf(result: number): string {
  return codeOfErrno(-result) ?? `errno ${-result}`;
}

/**
 * The error of opening an image.
 *
 * @param uri Its name.
 * @param reason The second half of "Cannot open … as …".
 * @param result −errno.
 * @param kind What kind it is, if it is another than that of the number.
 * @returns The error.
 */
export function openError(
  uri: string,
  reason: string,
  result: number,
  kind?: DiskErrorKind,
): DiskError {
  const code = codeOf(result);
  return new DiskError(
    kind ?? kindOfCode(code),
    `Cannot open "${uri}" as ${reason}`,
    { operation: "open", path: uri, code, errno: -result },
  );
}

/**
 * The words for a number that means nothing in particular where it came up.
 *
 * @param result −errno.
 * @returns Such as `librados says EIO: Input/output error`.
 */
export function librarySays(result: number): string {
  const code = codeOf(result);
  const text = code === "ESHUTDOWN" ? SHUT_OUT : errnoText(code);
  return `the cluster says ${code}${text === undefined ? "" : `: ${text}`}`;
}

/**
 * The error of a request that librbd has failed.
 *
 * @param request The request.
 * @param result −errno.
 * @param uri The image's name.
 * @returns The error.
 */
export function failedError(
  request: Request,
  result: number,
  uri: string,
): DiskError {
  const code = codeOf(result);
  // Checked before: so the image has become smaller than the disk.
  if (code === "EINVAL") return cutError(request, uri);
  return errnoError(request, code, "the cluster", {
    path: uri,
    errno: -result,
    ...(code === "ESHUTDOWN" ? { text: SHUT_OUT } : {}),
  });
}

/**
 * The error of a request that the cluster has not answered in time. It has no
 * number, as no system says so: whoever has waited long enough does not ask again,
 * as for a place on a device that says ETIMEDOUT.
 *
 * @param request The request.
 * @param timeoutMs How long that was, in ms.
 * @param uri The image's name.
 * @returns The error.
 */
export function timeoutError(
  request: Request,
  timeoutMs: number,
  uri: string,
): DiskError {
  const reason =
    `the cluster has not answered for ${timeoutMs} ms; it may still carry it out`;
  const { message, operation, path, sector, count } = requestError(
    "io",
    request,
    reason,
    { path: uri },
  );
  const code = "ETIMEDOUT";
  return new DiskError("io", message, { operation, path, sector, count, code });
}
