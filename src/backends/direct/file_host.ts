/**
 * The operating system as the direct backend sees it: an engine's host, and what
 * an open image asks of it outside of operations. POSIX systems are one
 * (`posix_file_host.ts`), Windows is another (`windows/file_host.ts`).
 *
 * @module
 */

import type { MappedMemory } from "../../../ffi/mapped_memory.ts";
import type { Extent } from "../../backend.ts";
import type { Host } from "../../engines/mod.ts";

/** An operating system. Numbers returned are −errno where negative. */
export interface FileHost extends Host {
  /**
   * The name of an error number.
   *
   * @param errno The number.
   * @returns For example `"EIO"`.
   */
  errnoName(errno: number): string;
  /**
   * Gives page-aligned, zeroed memory that outlives the thread.
   *
   * @param byteLength Bytes.
   * @returns The memory.
   * @throws If there is none, or FFI is not allowed any more.
   */
  mapMemory(byteLength: number): MappedMemory;
  /**
   * The size of a regular file; of a block device where the system tells.
   *
   * @param fd Its descriptor.
   * @returns Bytes, or −errno.
   */
  fileSize(fd: number): number;
  /**
   * Where data of a regular file is stored and where holes are.
   *
   * @param fd Its descriptor.
   * @param sector First sector.
   * @param count Sectors.
   * @returns What is there, in order, maybe ending before the range does.
   */
  extents(fd: number, sector: number, count: number): Extent[];
  /**
   * Gives a regular file another size.
   *
   * @param fd Its descriptor, open for writing.
   * @param path Its path, for the error.
   * @param oldBytes What it should have now.
   * @param newBytes What it should have afterwards.
   * @returns When it has.
   * @throws If it cannot, or has another size than it should.
   */
  resize(
    fd: number,
    path: string,
    oldBytes: number,
    newBytes: number,
  ): Promise<void>;
  /**
   * Closes what an image was opened as.
   *
   * @param fd The descriptor.
   */
  close(fd: number): void;
}
