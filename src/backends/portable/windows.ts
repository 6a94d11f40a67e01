/**
 * What only FFI can do for the portable backend on Windows: a lock, and files that
 * take place for what is written to them alone. It is used where it is allowed
 * already; nobody is asked.
 *
 * @module
 */

import { claimOnWindows, windowsIfAllowed } from "../direct/windows/lock.ts";
import { makeSparseOnWindows } from "../direct/windows/sparse.ts";
import { os } from "../../platform/system.ts";
import type { TakenLock } from "../held_image.ts";

/**
 * Locks an image on Windows.
 *
 * @param path The image's path.
 * @param fd Its descriptor.
 * @param readOnly Whether others may read it under the same lock.
 * @returns The lock, or why there is none.
 * @throws {DiskError} With kind `locked` if someone else holds it.
 */
export function takeWindowsLock(
  path: string,
  fd: number,
  readOnly: boolean,
): TakenLock {
  const windows = windowsIfAllowed();
  const none = (reason: string) => ({
    info: { method: "none", reason },
    claim: null,
  });
  if (windows === null) {
    return none(
      "the locks that Deno has on Windows would keep out our own descriptors, and others need FFI: nothing keeps a second writer out",
    );
  }
  const claim = claimOnWindows(path, fd, readOnly, windows);
  if (claim === null) return none("the file system has no locks");
  const reason =
    "programs other than Platter are not kept out, as Deno opens files for others to write to as well";
  return { info: { method: "LockFileEx", reason }, claim };
}

/**
 * Has a new image take place only for what is written to it, where it would take
 * all of it at once otherwise: on Windows.
 *
 * @param path The image's path.
 * @param fd Its descriptor.
 */
export function takeNoSpace(path: string, fd: number): void {
  if (os !== "windows") return;
  const windows = windowsIfAllowed();
  if (windows !== null) makeSparseOnWindows(path, fd, windows);
}
