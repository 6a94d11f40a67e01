/**
 * The error for what a file system on a disk cannot give. What the disk itself
 * fails with is a `DiskError`, as everywhere.
 *
 * @module
 */

/**
 * Why a file system cannot give what was asked for.
 *
 * | kind | meaning |
 * | --- | --- |
 * | `none` | no file system was recognised on the disk |
 * | `partitioned` | the disk has partitions: one of them must be chosen |
 * | `unsupported` | the file system is known, and cannot be read |
 * | `damaged` | the file system is damaged, or not as its kind should be |
 * | `not-found` | there is no such file in it |
 * | `not-a-file` | a directory, a device, a loop of symbolic links |
 * | `too-large` | the file is larger than the limit, or the file system than the memory |
 * | `timeout` | nothing came of it in the time that it had |
 * | `exists` | there is something at the target already |
 */
export type FileSystemErrorKind =
  | "none"
  | "partitioned"
  | "unsupported"
  | "damaged"
  | "not-found"
  | "not-a-file"
  | "too-large"
  | "timeout"
  | "exists";

/** What a file system on a disk cannot give. */
export class FileSystemError extends Error {
  /** Always `"FileSystemError"`. */
  override readonly name = "FileSystemError";
  /** What is wrong: switch on this. */
  readonly kind: FileSystemErrorKind;

  /**
   * Constructs a new instance.
   *
   * @param kind What is wrong.
   * @param message A sentence without a final period.
   * @param options What it comes from.
   */
  constructor(
    kind: FileSystemErrorKind,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.kind = kind;
  }
}
