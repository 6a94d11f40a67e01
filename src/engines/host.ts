/**
 * The operating system as the engines see it: blocking calls for operations, and
 * turns of the event loop. POSIX systems are one host (`posix_host.ts`), Windows
 * is another (`windows/host.ts`).
 *
 * @module
 */

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

/** An operating system. */
export interface Host {
  /** Its error numbers by name. */
  readonly errno: HostErrno;
  /**
   * Carries out an operation in one blocking call.
   *
   * @param operation The operation.
   * @returns Bytes moved, 0 for those that move none, or −errno.
   */
  perform(operation: Operation): number;
  /**
   * Makes turns of the event loop.
   *
   * @param callback Called in each, with whether sockets were asked about first.
   * @returns The turns.
   */
  makeTurns(callback: (asked: boolean) => void): Turns;
}
