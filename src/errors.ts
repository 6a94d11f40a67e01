/**
 * The one error that Platter throws for a disk: a small stable `kind` to
 * switch on, the place on the disk, and the operating system's own word for it.
 *
 * @module
 */

import { plural } from "./plural.ts";

/**
 * What went wrong, in the few words that a program may want to switch on.
 *
 * | kind | meaning |
 * | --- | --- |
 * | `argument` | the request cannot be read as one (not a safe integer, no buffer, …) |
 * | `range` | outside the disk |
 * | `alignment` | does not start or end on a block of the disk |
 * | `read-only` | a write to a disk that is open for reading |
 * | `protected` | a write to sectors that the layer `protect` protects |
 * | `closed` | the disk is closed or closing |
 * | `busy` | a synchronous request while asynchronous ones are in flight: await them first |
 * | `unsupported` | this disk cannot do that (virtio-blk's `UNSUPP`) |
 * | `io` | the medium or the kernel failed the operation |
 * | `no-space` | the file system or its quota is full |
 * | `latched` | refused as an earlier flush failed: see `cause` |
 * | `aborted` | the caller's `AbortSignal` fired |
 * | `locked` | another program, or another disk of this one, holds the image |
 * | `permission` | the operating system or Deno's sandbox says no |
 * | `not-found` | no such image, or no such part of it |
 * | `exists` | there is an image already |
 * | `geometry` | the image cannot be a disk of that shape |
 * | `format` | the image is not in the format that it would be opened as |
 * | `platform` | not to be had on this platform, file system or permission set |
 */
export type DiskErrorKind =
  | "argument"
  | "range"
  | "alignment"
  | "read-only"
  | "protected"
  | "closed"
  | "busy"
  | "unsupported"
  | "io"
  | "no-space"
  | "latched"
  | "aborted"
  | "locked"
  | "permission"
  | "not-found"
  | "exists"
  | "geometry"
  | "format"
  | "platform";

/** Where an error happened and what the operating system said. */
export interface DiskErrorOptions extends ErrorOptions {
  /** What was asked for: `"read"`, `"write"`, `"flush"`, `"open"`, …. */
  operation?: string | undefined;
  /** The image's path. */
  path?: string | undefined;
  /** First sector (512 bytes) of the request, counted on the whole disk. */
  sector?: number | undefined;
  /** Sectors of the request. */
  count?: number | undefined;
  /** The operating system's error number, positive. */
  errno?: number | undefined;
  /** The error number's name, such as `"EIO"`. */
  code?: string | undefined;
}

/**
 * An operation on a disk that failed.
 *
 * @example Telling a bad sector from a bad call
 * ```ts
 * import { DiskError, VirtualDisk } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * await using disk = VirtualDisk.memory({ sectors: 8 });
 * try {
 *   await disk.read(8, 1);
 * } catch (error) {
 *   if (!(error instanceof DiskError)) throw error;
 *   assertEquals(error.kind, "range");
 *   assertEquals(error.sector, 8);
 * }
 * ```
 */
export class DiskError extends Error {
  /** Always `"DiskError"`. */
  override readonly name = "DiskError";
  /** What went wrong: switch on this. */
  readonly kind: DiskErrorKind;
  /** What was asked for: `"read"`, `"write"`, `"flush"`, `"open"`, …. */
  readonly operation: string | undefined;
  /** The image's path, if the disk has one. */
  readonly path: string | undefined;
  /** First sector of the request, counted on the whole disk. */
  readonly sector: number | undefined;
  /** Sectors of the request. */
  readonly count: number | undefined;
  /** The operating system's error number, positive. */
  readonly errno: number | undefined;
  /** The error number's name, such as `"EIO"`. */
  readonly code: string | undefined;

  /**
   * Constructs a new instance.
   *
   * @param kind What went wrong.
   * @param message A sentence without a final period.
   * @param options Where, and the operating system's word for it.
   */
  constructor(
    kind: DiskErrorKind,
    message: string,
    options: DiskErrorOptions = {},
  ) {
    super(message, options);
    this.kind = kind;
    this.operation = options.operation;
    this.path = options.path;
    this.sector = options.sector;
    this.count = options.count;
    this.errno = options.errno;
    this.code = options.code;
  }
}

/** Names of error numbers that are not plain I/O errors, and what they mean. */
const KINDS: Readonly<Record<string, DiskErrorKind>> = {
  EACCES: "permission",
  EPERM: "permission",
  EROFS: "read-only",
  ENOENT: "not-found",
  EEXIST: "exists",
  ENOSPC: "no-space",
  EDQUOT: "no-space",
  EFBIG: "no-space",
  EOPNOTSUPP: "unsupported",
  ENOTSUP: "unsupported",
  ENOSYS: "unsupported",
  ENOTTY: "unsupported",
};

/**
 * The kind that an error number's name stands for: anything that is not known
 * to be something else is an I/O error.
 *
 * @param code The name of an error number, such as `"EIO"`.
 * @returns The kind.
 */
export function kindOfCode(code: string): DiskErrorKind {
  return Object.hasOwn(KINDS, code) ? KINDS[code]! : "io";
}

/**
 * The words for a place on a disk, as error messages use them.
 *
 * @param operation What was asked for.
 * @param sector First sector, if the operation has one.
 * @param count Sectors, if the operation has them.
 * @param path The image's path, if there is one.
 * @returns For example `write 8 sectors at sector 16 of "disk.img"`.
 */
export function describePlace(
  operation: string,
  sector?: number,
  count?: number,
  path?: string,
): string {
  const where = sector === undefined || count === undefined
    ? ""
    : ` ${describeRange(sector, count)}`;
  const of = path === undefined
    ? ""
    : where === ""
    ? ` "${path}"`
    : ` of "${path}"`;
  return `${operation}${where}${of}`;
}

/**
 * The words for a range of sectors. What is no number, which only a caller
 * without types can give, is named by its type: text may be empty, and symbols
 * cannot be shown.
 *
 * @param sector First sector.
 * @param count Sectors.
 * @returns For example `8 sectors at sector 16`, or
 * `sectors (sector: null, count: 8)`.
 */
export function describeRange(sector: number, count: number): string {
  if (typeof sector === "number" && typeof count === "number") {
    return `${plural(count, "sector")} at sector ${sector}`;
  }
  const [at, of] = [sector, count].map((value: unknown) =>
    typeof value === "number" ? value : describeValue(value)
  );
  return `sectors (sector: ${at}, count: ${of})`;
}

/**
 * A word for a value that is not of the type that it should be, and never its
 * content: it may be anybody's data.
 *
 * @param value The value.
 * @returns For example `a string`, `null`, `of type Uint16Array`.
 */
export function describeValue(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value !== "object") return `a ${typeof value}`;
  const name: unknown = value.constructor?.name;
  return typeof name === "string" && name !== ""
    ? `of type ${name}`
    : "an object";
}
