/**
 * POSIX systems as the direct backend sees them. Descriptors of images are those
 * of `node:fs`.
 *
 * @module
 */

import { closeSync } from "node:fs";
import { errnoName } from "../../../ffi/abi.ts";
import { mapMemory, type MappedMemory } from "../../../ffi/mapped_memory.ts";
import { type Extent, MAX_EXTENTS } from "../../backend.ts";
import { PosixHost } from "../../engines/mod.ts";
import { SECTOR_BYTES } from "../../geometry.ts";
import { truncateImage } from "../truncate_image.ts";
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

  /**
   * Where data of a file is stored and where holes are: SEEK_DATA and SEEK_HOLE
   * of lseek(2). Each is a call, so that an answer has so many of them only. All
   * is data where the file system does not tell.
   */
  extents(fd: number, sector: number, count: number): Extent[] {
    const all = [{ sector, count, hole: false }];
    const { SEEK_DATA, SEEK_HOLE, SEEK_END } = this.libc.abi.whence;
    const found: Extent[] = [];
    const end = (sector + count) * SECTOR_BYTES;
    let at = sector * SECTOR_BYTES;
    const add = (to: number, hole: boolean) => {
      if (to <= at) return;
      found.push({
        sector: at / SECTOR_BYTES,
        count: (to - at) / SECTOR_BYTES,
        hole,
      });
      at = to;
    };
    while (at < end && found.length + 2 <= MAX_EXTENTS) {
      const data = this.libc.lseek(fd, at, SEEK_DATA);
      // ENXIO: nothing but a hole up to the end of the file. Where that is no
      // longer the disk's, what was there is lost: a read is to say so.
      if (data === -this.libc.abi.errno.ENXIO) {
        const size = this.libc.lseek(fd, 0, SEEK_END);
        if (size < 0) return all;
        add(Math.min(size - size % SECTOR_BYTES, end), true);
        add(end, false);
        break;
      }
      if (data < 0) return all;
      // A sector that is partly data is data.
      add(Math.min(data - data % SECTOR_BYTES, end), true);
      if (at >= end) break;
      const hole = this.libc.lseek(fd, Math.max(at, data), SEEK_HOLE);
      if (hole < 0) return all;
      add(Math.min(Math.ceil(hole / SECTOR_BYTES) * SECTOR_BYTES, end), false);
    }
    return found;
  }
}
