/**
 * The operating system as the backend and its engines see it: blocking calls for
 * operations, memory, what a file has, and turns of the event loop. POSIX systems
 * are one host (`posix_host.ts`), Windows is another (`windows/host.ts`).
 *
 * @module
 */

import type { MappedMemory } from "../../../ffi/mapped_memory.ts";
import type { Extent } from "../../backend.ts";
import type { Operation } from "./engine.ts";
import type { Turns } from "./loop_turn.ts";

/** Error numbers that are told apart. */
export type HostErrno = Readonly<
  Record<
    | "EPERM"
    | "EINTR"
    | "EIO"
    | "EAGAIN"
    | "EBUSY"
    | "EINVAL"
    | "ENOSYS"
    | "EOPNOTSUPP"
    | "ECANCELED",
    number
  >
>;

/** An operating system. Numbers returned are −errno where negative. */
export interface Host {
  /** Its error numbers by name. */
  readonly errno: HostErrno;
  /**
   * The name of an error number.
   *
   * @param errno The number.
   * @returns For example `"EIO"`.
   */
  errnoName(errno: number): string;
  /**
   * Carries out an operation in one blocking call.
   *
   * @param operation The operation.
   * @returns Bytes moved, 0 for those that move none, or −errno.
   */
  perform(operation: Operation): number;
  /**
   * Gives page-aligned, zeroed memory that outlives the thread.
   *
   * @param byteLength Bytes.
   * @returns The memory.
   * @throws If there is none, or FFI is not allowed any more.
   */
  mapMemory(byteLength: number): MappedMemory;
  /**
   * The size of a regular file.
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
  /**
   * Makes turns of the event loop.
   *
   * @param callback Called in each, with whether sockets were asked about first.
   * @returns The turns.
   */
  makeTurns(callback: (asked: boolean) => void): Turns;
}
