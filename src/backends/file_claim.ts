/**
 * The lock that needs no FFI: flock(2) on the whole file, held by writers, so
 * that the direct and the portable backend keep each other out.
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
 * Locks a file for writing.
 *
 * @param path The file.
 * @returns The lock; `null` where the file system has none.
 * @throws {DiskError} With kind `locked` if someone else holds it.
 */
export function claimFile(path: string): FileClaim | null {
  const file = Deno.openSync(path, { read: true });
  let taken: boolean;
  try {
    taken = file.tryLockSync(true);
  } catch {
    file.close();
    return null;
  }
  if (!taken) {
    file.close();
    throw new DiskError(
      "locked",
      `Cannot open "${path}" for writing as another program has it open for writing: close it there, or open with lock: "none" if you know better`,
      { operation: "open", path },
    );
  }
  return { release: () => file.close() };
}
