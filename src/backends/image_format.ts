/**
 * What an image is opened as. Whoever writes to a disk chooses its content, a
 * guest of a virtual machine for one: with the header of a qcow2 on its first
 * sector it could have the host read another disk, of its own making, where it
 * has read a raw one. So content alone decides nothing:
 *
 * | content | name | opened as |
 * | --- | --- | --- |
 * | no signature | says nothing | raw |
 * | a container's | says the same | that container |
 * | a container's | says nothing, or else | refused |
 * | no signature | says a container | refused |
 * | gzip, xz, zstd | any | raw for reading, refused for writing |
 * | an overlay's file | any | refused |
 * | LUKS | says nothing | raw |
 *
 * What is refused here opens with the format's name: that is decided once, when
 * an image is opened, and what is written to it changes nothing of that.
 *
 * @module
 */

import {
  compressionOf,
  type ContainerFormat,
  containerOf,
  formatsOfName,
  OVERLAY_FILE,
} from "../content_format.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import type { ImageOptions } from "./image_options.ts";

/** An image that is not to be opened as a raw one. */
export class NotRawError extends DiskError {
  /** What it is, if content and name agree; `null` if a person must say. */
  readonly container: ContainerFormat | null;

  /**
   * Constructs a new instance.
   *
   * @param path The image's path.
   * @param reason Why not.
   * @param container What it is, where that is beyond doubt.
   */
  constructor(
    path: string,
    reason: string,
    container: ContainerFormat | null = null,
  ) {
    super("format", `Cannot open "${path}" as a raw disk as ${reason}`, {
      operation: "open",
      path,
    });
    this.container = container;
  }
}

/**
 * Refuses to take something for a raw disk that does not look like one.
 *
 * @param path The image's path.
 * @param found What its content looks like.
 * @param sizeBytes Its size: what is no whole blocks is not to be had raw either.
 * @param options How it is opened.
 * @throws {NotRawError} If it must be opened otherwise, or a person must say.
 */
export function refuseOtherFormats(
  path: string,
  found: string | null,
  sizeBytes: number,
  options: Pick<ImageOptions, "format" | "readOnly" | "create" | "blockSize">,
): void {
  if (options.format === "raw" || options.create !== undefined) return;
  const couldBeRaw = sizeBytes % (options.blockSize ?? SECTOR_BYTES) === 0;
  const orRaw = (words: string) => couldBeRaw ? `, ${words} format: "raw"` : "";
  const container = containerOf(found);
  const named = formatsOfName(path);
  if (container !== null) {
    if (named.includes(container)) {
      throw new NotRawError(
        path,
        `it is ${found}: open it with VirtualDisk.open(), which takes it as that`,
        container,
      );
    }
    throw new NotRawError(
      path,
      `its content looks like ${found}, which its name does not say, and whoever wrote to the disk may have made it look so: if it is, open it with format: "${container}"${
        orRaw("and if it is not, with")
      }`,
    );
  }
  if (found === OVERLAY_FILE) {
    throw new NotRawError(
      path,
      `its content looks like ${found}, which has the changes to another image: open that image with it, by overlay(base, { file }) or "platter serve IMAGE --overlay=FILE", or write the changes to it by "platter commit"${
        orRaw("and if it is a raw disk all the same, open it with")
      }`,
    );
  }
  if (compressionOf(found) !== null && !options.readOnly) {
    throw new NotRawError(
      path,
      `its content looks like ${found}, and what is written into compressed data makes it unreadable: unpack it first${
        orRaw("or insist with")
      }`,
    );
  }
  const [other] = named;
  if (other !== undefined) {
    throw new NotRawError(
      path,
      `its name says ${other} and its content does not: it may be damaged${
        orRaw("and if it is a raw disk all the same, open it with")
      }`,
    );
  }
}

/**
 * Refuses to make a raw image under a name that says otherwise: whoever writes
 * to it could have it opened as what the name says.
 *
 * @param path The image's path.
 * @param format What was asked for.
 * @throws {DiskError} With kind `format`.
 */
export function refuseRawName(path: string, format: string): void {
  const [named] = formatsOfName(path);
  if (format === "raw" || named === undefined) return;
  throw new DiskError(
    "format",
    `Cannot create "${path}" as a raw image as its name says ${named}: "qemu-img create" makes those, which can be opened here, and format: "raw" insists`,
    { operation: "create", path },
  );
}
