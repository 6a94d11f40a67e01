/**
 * What should be known before an image is used, though nothing is wrong with
 * opening it.
 *
 * @module
 */

import fs from "node:fs";
import {
  contentFormatOf,
  describeFormat,
  FORMAT_BYTES,
} from "../content_format.ts";
import type { BackendInfo } from "../info.ts";
import { loopDevicesBeside } from "./device_use.ts";

/** What {@linkcode lookAt} found. */
export type Seen = Required<Pick<BackendInfo, "contentFormat" | "warnings">>;

/**
 * Looks at an image.
 *
 * @param fd Its descriptor.
 * @param sizeBytes Its size; 0 if it is new.
 * @param memory What to read into: aligned, and as long as reads must be.
 * @returns What was found, for `info`.
 */
export function lookAt(
  fd: number,
  sizeBytes: number,
  memory: Uint8Array,
): Seen {
  const piece = memory.length;
  const read = (offset: number, length: number): Uint8Array => {
    try {
      const count = fs.readSync(fd, memory, 0, piece, offset);
      return memory.slice(0, Math.min(count, length));
    } catch {
      // What cannot be read here fails when it is asked for.
      return new Uint8Array();
    }
  };
  const lastAt = Math.floor(Math.max(0, sizeBytes - 1) / piece) * piece;
  const contentFormat = sizeBytes === 0 ? null : contentFormatOf(
    read(0, Math.min(sizeBytes, FORMAT_BYTES)),
    read(lastAt, sizeBytes - lastAt).subarray(-FORMAT_BYTES),
  );
  const warnings = loopDevicesBeside(fd).map((device) =>
    `${device} shares its data and has a cache of its own: what is written on one side may not be seen on the other`
  );
  if (contentFormat !== null) warnings.unshift(describeFormat(contentFormat));
  return { contentFormat, warnings };
}
