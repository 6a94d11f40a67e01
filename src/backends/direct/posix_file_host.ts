/**
 * POSIX systems as the direct backend sees them. Descriptors of images are those
 * of `node:fs`.
 *
 * @module
 */

import { closeSync } from "node:fs";
import { errnoName } from "../../../ffi/abi.ts";
import { mapMemory, type MappedMemory } from "../../../ffi/mapped_memory.ts";
import type { Extent } from "../../backend.ts";
import { PosixHost } from "../../engines/mod.ts";
import { truncateImage } from "../truncate_image.ts";
import { extentsOf } from "./extents.ts";
import type { FileHost } from "./file_host.ts";

/** A POSIX system. */
export class PosixFileHost extends PosixHost implements FileHost {
  /** Closes a descriptor. */
  readonly close = closeSync;
  /** Gives a file another size. */
  readonly resize = truncateImage;

  /** The name of an error number. */
  errnoName(errno: number): string {
    return errnoName(this.libc.abi, errno);
  }

  /** Maps memory. */
  mapMemory(byteLength: number): MappedMemory {
    return mapMemory(this.libc, byteLength);
  }

  /** The size of a file: where a seek finds its end. */
  fileSize(fd: number): number {
    return this.libc.lseek(fd, 0, this.libc.abi.whence.SEEK_END);
  }

  /** Where data of a file is stored and where holes are. */
  extents(fd: number, sector: number, count: number): Extent[] {
    return extentsOf(this.libc, fd, sector, count);
  }
}
