/**
 * What is thrown while requests are carried out and is no error of a disk: above
 * all that there is no memory. Requests are answered with errors of disks alone.
 *
 * @module
 */

import { DiskError } from "../../errors.ts";

/**
 * Turns whatever was thrown into the project's error.
 *
 * @param thrown What was thrown.
 * @param operation What was tried.
 * @param path The path of the overlay's file.
 * @returns The error, of kind `io`; one of the project's own comes back as it is.
 */
export function anyError(
  thrown: unknown,
  operation: string,
  path: string | null,
): DiskError {
  if (thrown instanceof DiskError) return thrown;
  const file = path === null ? "the file of an overlay" : `"${path}"`;
  return new DiskError("io", `Cannot ${operation} ${file} as ${thrown}`, {
    operation,
    path: path ?? undefined,
    cause: thrown,
  });
}
