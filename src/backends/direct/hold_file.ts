/**
 * Keeps a file from those to whom it is a disk while it is written over as a
 * file: under the lock of a disk that is open for writing.
 *
 * @module
 */

import fs from "node:fs";
import { type Libc, openLibc } from "../../../ffi/libc.ts";
import { captureStack } from "../../call_site.ts";
import { DiskError } from "../../errors.ts";
import { isGranted } from "../../platform/permissions.ts";
import { os } from "../../platform/system.ts";
import { claimFile } from "../file_claim.ts";
import { holdImage, type TakenLock } from "../held_image.ts";
import { asDiskError, type ImageOptions } from "../image_options.ts";
import { loadFfi } from "./load_ffi.ts";
import { takeLock } from "./lock.ts";

/**
 * Locks a file as a disk that is written to.
 *
 * @param path The file, which must be there.
 * @param signal Gives up waiting for a lock whose holder cannot be named.
 * @returns The lock, held until it is disposed of.
 * @throws {DiskError} With kind `locked` if someone else holds it, or the system
 * uses it; or as opening it fails.
 */
export async function holdFile(
  path: string,
  signal?: AbortSignal,
): Promise<Disposable> {
  // The system itself lets nobody write to what is open as a disk there.
  if (os === "windows") return { [Symbol.dispose]() {} };
  const options: ImageOptions = {
    ...{ readOnly: false, direct: "never", lock: "auto" },
    openedAt: captureStack(),
    ...(signal === undefined ? {} : { signal }),
  };
  const libc = libcFor(path);
  try {
    const held = await holdImage(
      path,
      options,
      () => ({ fd: fs.openSync(path, fs.constants.O_RDWR) }),
      ({ fd }) =>
        libc === null
          ? flockAlone(path, fd)
          : takeLock(libc, fd, path, options),
    );
    return { [Symbol.dispose]: held.close };
  } catch (error) {
    if (signal?.aborted && error === signal.reason) throw error;
    throw asDiskError(error, path);
  }
}

/** The C library, if it may be used and there is one. */
function libcFor(path: string): Libc | null {
  if (!isGranted({ name: "ffi" })) return null;
  try {
    return loadFfi(openLibc, path);
  } catch (error) {
    if (error instanceof DiskError) return null;
    throw error;
  }
}

/** What programs without FFI have, and see of each other. */
function flockAlone(path: string, fd: number): TakenLock {
  const claim = claimFile(path, fd, false);
  const method = claim === null ? "none" : "flock";
  return { claim, info: { method, reason: null } };
}
