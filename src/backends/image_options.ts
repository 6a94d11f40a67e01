/**
 * How an image is opened, in the words that the direct and the portable backend
 * share.
 *
 * @module
 */

import { errnoText } from "../errno.ts";
import { DiskError, kindOfCode } from "../errors.ts";
import { checkBlockSize } from "../geometry.ts";
import { encodeId } from "../virtio.ts";
import { systemCode, systemReason } from "./system_error.ts";
import { isNotCapable } from "../platform/permissions.ts";

/** How to open an image. */
export interface ImageOptions {
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Whether direct I/O is a condition, a wish, or unwanted. */
  readonly direct: "require" | "prefer" | "never";
  /**
   * `"raw"` insists on the bytes as they are; without it, what does not look raw
   * is refused.
   */
  readonly format?: "raw";
  /** Whether to keep out writers: always, when writing, or never. */
  readonly lock: "exclusive" | "auto" | "none";
  /** Logical block size in bytes; the medium's own by default. */
  readonly blockSize?: number;
  /** What the disk says of itself: up to 20 ASCII characters. */
  readonly id?: string;
  /** Make the image first; it must not exist, unless it may be overwritten. */
  readonly create?: {
    /** Its size in bytes. */
    readonly sizeBytes: number;
    /** Whether an image that exists loses its content. */
    readonly overwrite: boolean;
    /** Whether its space is reserved now. */
    readonly preallocate?: boolean;
  };
  /** Captured where it is opened, to be told to whom it is locked from. */
  readonly openedAt?: Error;
  /** Gives up waiting for a lock, or making room. */
  readonly signal?: AbortSignal;
}

/**
 * Checks what a disk can be refused for, before there is anything to close again.
 *
 * @param options How it is opened.
 * @throws {RangeError} If its block size or its identity is none.
 */
export function checkImageOptions(
  { blockSize, id }: Pick<Partial<ImageOptions>, "blockSize" | "id">,
): void {
  if (blockSize !== undefined) checkBlockSize(blockSize);
  if (id !== undefined) encodeId(id);
}

/**
 * Turns what Deno or `node:fs` threw while opening into the project's error.
 *
 * @param error What was thrown.
 * @param path The image's path.
 * @param operation What was tried.
 * @returns The error; one of the project's own comes back as it is.
 */
export function asDiskError(
  error: unknown,
  path: string,
  operation = "open",
): DiskError {
  if (error instanceof DiskError) return error;
  const place = { operation, path, cause: error };
  if (isNotCapable(error)) {
    return new DiskError(
      "permission",
      `Cannot ${operation} "${path}": ${error.message}`,
      place,
    );
  }
  const found = systemCode(error);
  if (found !== null) {
    const { code, errno } = found;
    const why = code === "ENOENT" && operation === "open"
      ? whyMissing(path)
      : systemReason(error);
    const reason = why === null
      ? `: ${(error as Error).message}`
      : ` as ${why}`;
    return new DiskError(
      kindOfCode(code),
      `Cannot ${operation} "${path}"${reason}`,
      { ...place, code, ...(errno === undefined ? {} : { errno }) },
    );
  }
  return new DiskError(
    "io",
    `Cannot ${operation} "${path}": ${
      error instanceof Error ? error.message : error
    }`,
    place,
  );
}

/**
 * What opening an image throws.
 *
 * @param error What was thrown.
 * @param path The image's path.
 * @param options How it was wanted, and what may have given it up.
 * @returns The signal's reason, if that was it; else as {@linkcode asDiskError}.
 */
export function openFailure(
  error: unknown,
  path: string,
  options: Pick<ImageOptions, "create" | "signal">,
): unknown {
  const { signal } = options;
  return signal?.aborted && error === signal.reason
    ? error
    : asDiskError(error, path, openingOf(options));
}

/**
 * What opening an image is called in errors.
 *
 * @param options How it was wanted.
 * @returns `"create"` if it was to be made, and else `"open"`.
 */
export function openingOf(
  { create }: Pick<ImageOptions, "create">,
): "create" | "open" {
  return create === undefined ? "open" : "create";
}

/**
 * The error for an image that the system does not open.
 *
 * @param path The image's path.
 * @param code What the system says, such as `"EIO"`.
 * @param errno The same as a number.
 * @returns The error.
 */
export function openError(
  path: string,
  code: string,
  errno: number,
): DiskError {
  return new DiskError(
    kindOfCode(code),
    `Cannot open "${path}": ${errnoText(code) ?? "Unknown error"} (${code})`,
    { operation: "open", path, errno, code },
  );
}

function whyMissing(path: string): string {
  const missing = "there is no such file or directory";
  return /^[a-z][a-z\d+.-]*:\/\//i.test(path)
    ? `${missing}, and a URI must begin with nbd:, nbds:, nbd+unix: or nbds+unix:`
    : missing;
}
