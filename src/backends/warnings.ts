/**
 * What should be known before an image is used, though nothing is wrong with
 * opening it.
 *
 * @module
 */

import {
  contentFormatOf,
  describeFormat,
  FORMAT_BYTES,
} from "../content_format.ts";
import type { BackendInfo } from "../info.ts";
import { loopDevicesOver } from "./device_use.ts";

/** Reads an image where that is possible: offset and length in bytes. */
export type ReadSome = (offset: number, length: number) => Uint8Array | null;

/**
 * Looks at an image.
 *
 * @param fd Its descriptor.
 * @param sizeBytes Its size.
 * @param alignment What offsets and lengths of reads must be multiples of.
 * @param readSome Reads; short at the end of the image.
 * @returns What was found, for `info`.
 */
export function lookAt(
  fd: number,
  sizeBytes: number,
  alignment: number,
  readSome: ReadSome,
): Required<Pick<BackendInfo, "contentFormat" | "warnings">> {
  const piece = Math.max(alignment, FORMAT_BYTES);
  const read = (offset: number) =>
    sizeBytes === 0 ? null : readSome(offset, piece);
  const head = read(0) ?? new Uint8Array();
  const lastAt = Math.floor(Math.max(0, sizeBytes - 1) / piece) * piece;
  const last = read(lastAt) ?? new Uint8Array();
  const contentFormat = contentFormatOf(
    head.subarray(0, FORMAT_BYTES),
    last.subarray(0, sizeBytes - lastAt).subarray(-FORMAT_BYTES),
  );
  const warnings = loopDevicesOver(fd).map((device) =>
    `${device} is made of it and has a cache of its own: what is written on one side may not be seen on the other`
  );
  if (contentFormat !== null) warnings.unshift(describeFormat(contentFormat));
  return { contentFormat, warnings };
}
