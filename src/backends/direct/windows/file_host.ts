/**
 * Windows as the direct backend sees it. Descriptors of images are handles.
 *
 * @module
 */

import type { MappedMemory } from "../../../../ffi/mapped_memory.ts";
import { readU64, writeU64 } from "../../../../ffi/memory.ts";
import { CONTROL, FILE_INFORMATION } from "../../../../ffi/windows_abi.ts";
import { windowsErrnoName } from "../../../../ffi/windows_errno.ts";
import { type Extent, MAX_EXTENTS } from "../../../backend.ts";
import { WindowsHost } from "../../../engines/windows/mod.ts";
import { kindOfCode } from "../../../errors.ts";
import { SECTOR_BYTES } from "../../../geometry.ts";
import { refuseChangedSize, resizeError } from "../../../resize.ts";
import type { FileHost } from "../file_host.ts";

/** Bytes of a range that is allocated: offset i64@0, length i64@8. */
const RANGE_BYTES = 16;

/** Ranges that are asked for at once. */
const MOST_RANGES = Math.min(MAX_EXTENTS, 128);

/** Windows. */
export class WindowsFileHost extends WindowsHost implements FileHost {
  /** The name of an error number. */
  errnoName(errno: number): string {
    return windowsErrnoName(errno);
  }

  /** Gives memory. */
  mapMemory(byteLength: number): MappedMemory {
    return this.windows.mapMemory(byteLength);
  }

  /** The size of a file. */
  fileSize(fd: number): number {
    const found = this.windows.fileInformation(fd, FILE_INFORMATION.Standard);
    return typeof found === "number" ? found : readU64(found, 8);
  }

  /** Where ranges of a sparse file are allocated, and where they are not. */
  extents(fd: number, sector: number, count: number): Extent[] {
    const all = [{ sector, count, hole: false }];
    const start = sector * SECTOR_BYTES;
    const end = start + count * SECTOR_BYTES;
    const fileEnd = Math.min(end, this.fileSize(fd));
    const input = new Uint8Array(RANGE_BYTES);
    const inputView = new DataView(input.buffer);
    writeU64(inputView, 0, start);
    writeU64(inputView, 8, fileEnd - start);
    const ranges = fileEnd <= start ? -1 : this.windows.control(
      "file system",
      fd,
      CONTROL.FSCTL_QUERY_ALLOCATED_RANGES,
      input,
      MOST_RANGES * RANGE_BYTES,
    );
    if (typeof ranges === "number") return all;
    const found: Extent[] = [];
    let at = start;
    const add = (to: number, hole: boolean) => {
      if (to <= at) return;
      found.push({
        sector: at / SECTOR_BYTES,
        count: (to - at) / SECTOR_BYTES,
        hole,
      });
      at = to;
    };
    const most = Math.floor(ranges.byteLength / RANGE_BYTES);
    for (let i = 0; i < most && found.length + 2 <= MAX_EXTENTS; i++) {
      const from = readU64(ranges, i * RANGE_BYTES);
      const to = from + readU64(ranges, i * RANGE_BYTES + 8);
      // A sector that is partly data is data.
      add(Math.min(from - from % SECTOR_BYTES, end), true);
      add(Math.min(Math.ceil(to / SECTOR_BYTES) * SECTOR_BYTES, end), false);
    }
    // A list that is full may have been cut: the rest is asked for next.
    if (most === MOST_RANGES) return found;
    add(fileEnd - fileEnd % SECTOR_BYTES, true);
    // What is beyond the file's end is lost: a read is to say so.
    add(end, false);
    return found;
  }

  /** Gives a file another size. */
  // deno-lint-ignore require-await
  async resize(
    fd: number,
    path: string,
    oldBytes: number,
    newBytes: number,
  ): Promise<void> {
    refuseChangedSize(this.fileSize(fd), oldBytes, path);
    const result = this.windows.setSize(fd, newBytes);
    if (result < 0) {
      const code = windowsErrnoName(-result);
      throw resizeError(`the system says ${code}`, path, kindOfCode(code));
    }
  }

  /** Closes a handle. */
  close(fd: number): void {
    this.windows.close(fd);
  }
}
