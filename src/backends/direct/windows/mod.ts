/**
 * Images on Windows: files, and devices such as `\\.\PhysicalDrive1`.
 *
 * @module
 */

import { FfiError } from "../../../../ffi/ffi_error.ts";
import { openWindows, type Windows } from "../../../../ffi/windows.ts";
import { DiskError } from "../../../errors.ts";
import type { ImageOptions } from "../../image_options.ts";
import type { DirectBackend } from "../backend.ts";
import type { EngineOptions } from "../choose_engine.ts";
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
  windows: Windows = load(path),
): Promise<DirectBackend> {
  const open = isDevicePath(path) ? openDevice : openFile;
  return await open(windows, path, options, engine);
}

function load(path: string): Windows {
  try {
    return openWindows();
  } catch (cause) {
    if (!(cause instanceof FfiError)) throw cause;
    throw new DiskError(
      cause.kind === "permission" ? "permission" : "platform",
      `Cannot open "${path}" with the direct backend: ${cause.message}`,
      { operation: "open", path, cause },
    );
  }
}
