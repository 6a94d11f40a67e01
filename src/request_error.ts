/**
 * The one way to make the error of a request. Whoever fails one says what kind
 * of error it is and why; the place, the words and the fields are made here, so
 * that the same failure reads the same from every backend and layer:
 *
 * ```text
 * Cannot write 8 sectors at sector 16 of "disk.img" as the disk is closed
 * Cannot write 8 sectors at sector 16 of "disk.img" as the system says ENOSPC: No space left on device
 * Cannot flush "nbd://host/name" as the server says EIO: its own words, if it has any
 * ```
 *
 * An error number makes the reason by itself: who says it, its name, and a text.
 * Who says it is the one part that differs:
 *
 * | source | who that is |
 * | --- | --- |
 * | `the system` | the operating system, to the direct and the portable backend |
 * | `the server` | an NBD server |
 * | `the fault rule "…"` | a rule of the layer `faults` |
 * | `the medium` | a sector that the layer `faults` made bad |
 * | `the device` | a device whose crashes are explored |
 *
 * @module
 */

import { canonicalCode, errnoOf, errnoText } from "./errno.ts";
import {
  describePlace,
  describeValue,
  DiskError,
  type DiskErrorKind,
  kindOfCode,
} from "./errors.ts";
import { operationName, Request, RequestType } from "./request.ts";

/** What else is known of a request's failure. */
export interface RequestErrorOptions extends ErrorOptions {
  /** The image's path, or the server's address. */
  readonly path?: string | null | undefined;
  /** The error number's name, such as `"EIO"`. */
  readonly code?: string | undefined;
  /** The error number, if it is another than that of `code` on this system. */
  readonly errno?: number | undefined;
}

/** What is known of an error number that a request failed with. */
export interface ErrnoErrorOptions extends RequestErrorOptions {
  /** What the source says itself; a text for the error number if not given. */
  readonly text?: string | undefined;
}

/**
 * Makes the error of a request.
 *
 * @param kind What kind of error it is.
 * @param request What failed.
 * @param reason The second half of "Cannot … as …".
 * @param options The path, the system's word for it, the cause.
 * @returns The error, with operation, place and numbers of the request.
 *
 * @example In a backend of one's own
 * ```ts
 * import { readRequest, requestError } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * const request = readRequest(8, new Uint8Array(1024));
 * const error = requestError("io", request, "the tape tore", { code: "EIO" });
 * assertEquals(
 *   error.message,
 *   "Cannot read 2 sectors at sector 8 as the tape tore",
 * );
 * assertEquals([error.sector, error.count, error.code], [8, 2, "EIO"]);
 * ```
 */
export function requestError(
  kind: DiskErrorKind,
  request: Request,
  reason: string,
  options: RequestErrorOptions = {},
): DiskError {
  const { code } = options;
  const path = options.path ?? undefined;
  const errno = options.errno ??
    (code === undefined ? undefined : errnoOf(code));
  const operation = operationName(request.type) ?? "carry out";
  const placed = request.type !== RequestType.Flush &&
    request.type !== RequestType.GetId;
  const place = placed
    ? { sector: request.sector, count: request.count }
    : undefined;
  const where = describePlace(operation, place?.sector, place?.count, path);
  return new DiskError(kind, `Cannot ${where} as ${reason}`, {
    operation,
    path,
    ...place,
    code,
    errno,
    // A cause that is there and undefined would be shown.
    ...("cause" in options ? { cause: options.cause } : {}),
  });
}

/**
 * Makes the error of a request that failed with an error number.
 *
 * @param request What failed.
 * @param code The error number's name, such as `"EIO"`: it has the kind.
 * @param source Who says it, as the table of the module has it.
 * @param options The path, the source's own words, the cause.
 * @returns The error.
 */
export function errnoError(
  request: Request,
  code: string,
  source: string,
  options: ErrnoErrorOptions = {},
): DiskError {
  const name = canonicalCode(code);
  const text = options.text ?? errnoText(name);
  const reason = `${source} says ${name}${text ? `: ${text}` : ""}`;
  return requestError(kindOfCode(name), request, reason, {
    ...options,
    code: name,
  });
}

/**
 * Makes the error of what cannot be submitted: a request that is in flight, or
 * no request at all.
 *
 * @param value What was given as a request.
 * @returns The error, of kind `argument`.
 */
export function notSubmitted(value: Request): DiskError {
  return value instanceof Request
    ? requestError("argument", value, "it is in flight already")
    : new DiskError(
      "argument",
      `Cannot submit a request as it must be a Request: current value is ${
        describeValue(value)
      }`,
      { operation: "submit" },
    );
}

/**
 * Makes the error of a request that its caller gave up.
 *
 * @param request The request.
 * @param options The path, and the reason to give up as the cause.
 * @returns The error, of kind `aborted`.
 */
export function abortedError(
  request: Request,
  options?: RequestErrorOptions,
): DiskError {
  return requestError("aborted", request, "it was aborted", options);
}

/**
 * Makes the error of a request to a disk that is closed or closing.
 *
 * @param request The request.
 * @param path The image's path.
 * @returns The error, of kind `closed`.
 */
export function closedError(
  request: Request,
  path?: string | null,
): DiskError {
  return requestError("closed", request, "the disk is closed", { path });
}

/**
 * Makes the error of a synchronous request that meets others: two requests at
 * once could be put into an order, but not one that is over when its call is.
 *
 * @param request The request.
 * @param path The image's path.
 * @returns The error, of kind `busy`.
 */
export function busyError(
  request: Request,
  path?: string | null,
): DiskError {
  const reason =
    "a synchronous request must be alone on its disk: others are in flight, await them first";
  return requestError("busy", request, reason, { path });
}

/**
 * Makes the error of a request whose memory was detached or resized after it
 * was submitted.
 *
 * @param request The request.
 * @param path The image's path.
 * @returns The error, of kind `argument`.
 */
export function changedError(
  request: Request,
  path?: string | null,
): DiskError {
  const reason = "its memory was detached or resized while it was in flight";
  return requestError("argument", request, reason, { path });
}

/**
 * Makes the error of a request that finds the image shorter than the disk.
 *
 * @param request The request.
 * @param path The image's path.
 * @returns The error, of kind `io`.
 */
export function cutError(request: Request, path?: string | null): DiskError {
  const reason = "the image ends before the disk does: it was cut while open";
  return requestError("io", request, reason, { path });
}

/**
 * Makes the error of a request that waited for a flush which others had asked
 * for as well, and which failed.
 *
 * @param request The request.
 * @param cause The error of who asked first.
 * @param path The image's path.
 * @returns The error, of the same kind.
 */
export function sharedFlushError(
  request: Request,
  cause: DiskError,
  path?: string | null,
): DiskError {
  const { kind, code, errno, message } = cause;
  const reason = `the flush that it shared failed: ${message}`;
  return requestError(kind, request, reason, { path, code, errno, cause });
}

/**
 * Whether a flush or a durable write that failed so may have cost durability,
 * which is latched then: anything that the operating system said while it worked
 * (a file system that went read-only answers a flush with EROFS), but for "there is
 * no such call". Everybody who latches goes by this, so that a disk has a failure
 * whenever one of its parts has.
 *
 * @param error Why it failed.
 * @returns Whether what is durable is not known any more.
 */
export function costsDurability(error: DiskError): boolean {
  return error.kind === "io" || error.kind === "no-space" ||
    (error.errno !== undefined && error.kind !== "unsupported");
}

/**
 * Makes the error of a request that must not be carried out any more after a
 * failed flush.
 *
 * @param request The request.
 * @param cause What failed: a flush, or a write that had one inside.
 * @param path The image's path.
 * @returns The error, of kind `latched`.
 */
export function latchedError(
  request: Request,
  cause: DiskError,
  path?: string | null,
): DiskError {
  const { operation = "flush", code, message } = cause;
  const reason = `an earlier ${operation} failed (${
    code ?? message
  }) and what is durable is no longer known: reopen the disk`;
  return requestError("latched", request, reason, { path, cause });
}
