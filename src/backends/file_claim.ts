/**
 * The lock that needs no FFI: flock(2) on the whole file, exclusive for
 * writers, shared for readers that want no writer beside them, so that the
 * direct and the portable backend keep each other out.
 *
 * @module
 */

import { DiskError } from "../errors.ts";

/** A lock that is held. */
export interface FileClaim {
  /** Gives it back. */
  release(): void;
}

/**
 * Locks a file against writers.
 *
 * @param path The file.
 * @param readOnly Whether others may read it under the same lock.
 * @returns The lock; `null` where the file system has none.
 * @throws {DiskError} With kind `locked` if someone else holds it.
 */
export function claimFile(path: string, readOnly: boolean): FileClaim | null {
  const file = Deno.openSync(path, { read: true });
  let taken: boolean;
  try {
    taken = file.tryLockSync(!readOnly);
  } catch {
    file.close();
    return null;
  }
  if (!taken) {
    file.close();
    throw new DiskError(
      "locked",
      `Cannot open "${path}" for ${
        readOnly ? "reading alone" : "writing"
      } as another program holds it: close it there, or open with lock: "none" if you know better`,
      { operation: "open", path },
    );
  }
  return { release: () => file.close() };
}
