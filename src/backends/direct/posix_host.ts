/**
 * POSIX systems as the direct backend sees them: by the C library.
 *
 * @module
 */

import { closeSync } from "node:fs";
import { errnoName } from "../../../ffi/abi.ts";
import type { Libc } from "../../../ffi/libc.ts";
import { mapMemory, type MappedMemory } from "../../../ffi/mapped_memory.ts";
import type { Extent } from "../../backend.ts";
import { truncateImage } from "../truncate_image.ts";
import type { Operation } from "./engine.ts";
import { extentsOf } from "./extents.ts";
import type { Host, HostErrno } from "./host.ts";
import { perform } from "./kernel.ts";
import { LoopTurn, type Turns } from "./loop_turn.ts";

/** A POSIX system. Descriptors of images are those of `node:fs`. */
export class PosixHost implements Host {
  readonly #libc: Libc;
  /** Its error numbers by name. */
  readonly errno: HostErrno;

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   */
  constructor(libc: Libc) {
    this.#libc = libc;
    this.errno = libc.abi.errno;
  }

  /** The name of an error number. */
  errnoName(errno: number): string {
    return errnoName(this.#libc.abi, errno);
  }

  /** Carries out an operation in one blocking call. */
  perform(operation: Operation): number {
    return perform(this.#libc, operation);
  }

  /** Maps memory. */
  mapMemory(byteLength: number): MappedMemory {
    return mapMemory(this.#libc, byteLength);
  }

  /** The size of a file: where a seek finds its end. */
  fileSize(fd: number): number {
    return this.#libc.lseek(fd, 0, this.#libc.abi.whence.SEEK_END);
  }

  /** Where data of a file is stored and where holes are. */
  extents(fd: number, sector: number, count: number): Extent[] {
    return extentsOf(this.#libc, fd, sector, count);
  }

  /** Gives a file another size. */
  resize(
    fd: number,
    path: string,
    oldBytes: number,
    newBytes: number,
  ): Promise<void> {
    return truncateImage(fd, path, oldBytes, newBytes);
  }

  /** Closes a descriptor. */
  close(fd: number): void {
    closeSync(fd);
  }

  /** Makes turns of the event loop, by bytes through a socket pair too. */
  makeTurns(callback: (asked: boolean) => void): Turns {
    return new LoopTurn(this.#libc, callback);
  }
}
