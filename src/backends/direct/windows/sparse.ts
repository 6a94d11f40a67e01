/**
 * Files of Windows that take place only for what is written to them.
 *
 * @module
 */

import type { Windows } from "../../../../ffi/windows.ts";
import { ACCESS, CONTROL } from "../../../../ffi/windows_abi.ts";
import { openSame, SHARE_ALL } from "./lock.ts";

/**
 * Makes a file sparse; where that fails, it takes place for all of its size, and
 * that is no error.
 *
 * @param windows Windows.
 * @param handle The file, open for writing.
 */
export function makeSparse(windows: Windows, handle: number): void {
  windows.control("file system", handle, CONTROL.FSCTL_SET_SPARSE);
}

/**
 * The same, for a file that `node:fs` has opened.
 *
 * @param path The file.
 * @param fd Its descriptor.
 * @param windows Windows.
 */
export function makeSparseOnWindows(
  path: string,
  fd: number,
  windows: Windows,
): void {
  const { GENERIC_WRITE } = ACCESS;
  const handle = openSame(windows, path, fd, GENERIC_WRITE, SHARE_ALL);
  if (handle < 0) return;
  makeSparse(windows, handle);
  windows.close(handle);
}
