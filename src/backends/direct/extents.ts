/**
 * Where data of a file is stored and where holes are: SEEK_DATA and SEEK_HOLE of
 * lseek(2), in sectors. Each is a call, so that an answer has so many of them
 * only.
 *
 * @module
 */

import type { Libc } from "../../../ffi/libc.ts";
import { type Extent, MAX_EXTENTS } from "../../backend.ts";
import { SECTOR_BYTES } from "../../geometry.ts";

/**
 * Tells data from holes.
 *
 * @param libc The C library.
 * @param fd A regular file.
 * @param sector First sector.
 * @param count Sectors.
 * @returns What is there, in order, maybe ending before the range does; all of
 * it data where the file system does not tell.
 */
export function extentsOf(
  libc: Libc,
  fd: number,
  sector: number,
  count: number,
): Extent[] {
  const all = [{ sector, count, hole: false }];
  const { SEEK_DATA, SEEK_HOLE, SEEK_END } = libc.abi.whence;
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
    const data = libc.lseek(fd, at, SEEK_DATA);
    // ENXIO: nothing but a hole up to the end of the file. Where that is no
    // longer the disk's, what was there is lost: a read is to say so.
    if (data === -libc.abi.errno.ENXIO) {
      const size = libc.lseek(fd, 0, SEEK_END);
      if (size < 0) return all;
      add(Math.min(size - size % SECTOR_BYTES, end), true);
      add(end, false);
      break;
    }
    if (data < 0) return all;
    // A sector that is partly data is data.
    add(Math.min(data - data % SECTOR_BYTES, end), true);
    if (at >= end) break;
    const hole = libc.lseek(fd, Math.max(at, data), SEEK_HOLE);
    if (hole < 0) return all;
    add(Math.min(Math.ceil(hole / SECTOR_BYTES) * SECTOR_BYTES, end), false);
  }
  return found;
}
