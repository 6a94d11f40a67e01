/**
 * What a path leads to, before it is opened; what cannot be a disk is refused.
 *
 * @module
 */

import fs from "node:fs";
import { DiskError } from "../errors.ts";
import { asDiskError } from "./image_options.ts";

/** What an image is. */
export type Medium = "file" | "block device" | "character device";

/**
 * Looks where a path leads. To open a pipe for reading waits for its other end,
 * so this comes first.
 *
 * @param path The image's path.
 * @param creates Whether it is to be made.
 * @returns What is there; a file if nothing is yet.
 * @throws {DiskError} If that can be no disk, or cannot be made.
 */
export function mediumOf(path: string, creates: boolean): Medium {
  let stat: fs.Stats | undefined;
  try {
    stat = fs.statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw asDiskError(error, path);
  }
  if (stat === undefined || stat.isFile()) return "file";
  const block = stat.isBlockDevice();
  if (!block && !stat.isCharacterDevice()) throw noDisk(path);
  if (creates) throw notToBeMade(path);
  return block ? "block device" : "character device";
}

/**
 * The error for what is no disk.
 *
 * @param path Its path.
 * @returns The error.
 */
export function noDisk(path: string): DiskError {
  return new DiskError(
    "geometry",
    `Cannot open "${path}" as a disk as it is neither a file nor a device with a size`,
    { operation: "open", path },
  );
}

/**
 * The error for making an image where a device is.
 *
 * @param path Its path.
 * @returns The error.
 */
export function notToBeMade(path: string): DiskError {
  return new DiskError(
    "exists",
    `Cannot create "${path}" as it is a device, which has its size and its content already: open it instead, and write zeroes where it must be empty`,
    { operation: "create", path },
  );
}
