/**
 * Images on Windows: files, and devices such as `\\.\PhysicalDrive1`.
 *
 * @module
 */

import { openWindows, type Windows } from "../../../../ffi/windows.ts";
import type { ImageOptions } from "../../image_options.ts";
import type { DirectBackend } from "../backend.ts";
import type { EngineOptions } from "../../../engines/mod.ts";
import { loadFfi } from "../load_ffi.ts";
import { isDevicePath, openDevice } from "./open_device.ts";
import { openFile } from "./open_file.ts";

/**
 * Opens an image on Windows.
 *
 * @param path Its path.
 * @param options How to open it.
 * @param engine How an engine is wanted.
 * @param windows Windows, if not the one that this runs on.
 * @returns The backend.
 * @throws {DiskError} If it cannot be opened as asked.
 */
export async function openOnWindows(
  path: string,
  options: ImageOptions,
  engine: EngineOptions,
  windows: Windows = loadFfi(openWindows, path),
): Promise<DirectBackend> {
  const open = isDevicePath(path) ? openDevice : openFile;
  return await open(windows, path, options, engine);
}
