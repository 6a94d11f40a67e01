/**
 * What the backend reaches the system through, and why it cannot, as a disk's own
 * error: libc, or Windows' libraries.
 *
 * @module
 */

import { FfiError } from "../../../ffi/ffi_error.ts";
import { DiskError } from "../../errors.ts";

/**
 * Loads it.
 *
 * @param load Does that.
 * @param path The image that it is for.
 * @returns What was loaded.
 * @throws {DiskError} With kind `permission` if FFI is not allowed, `platform` if
 * there is none.
 */
export function loadFfi<T>(load: () => T, path: string): T {
  try {
    return load();
  } catch (cause) {
    if (!(cause instanceof FfiError)) throw cause;
    throw new DiskError(
      cause.kind === "permission" ? "permission" : "platform",
      `Cannot open "${path}" with the direct backend: ${cause.message}`,
      { operation: "open", path, cause },
    );
  }
}
