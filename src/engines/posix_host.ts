/**
 * POSIX systems as the engines see them: by the C library.
 *
 * @module
 */

import type { Libc } from "../../ffi/libc.ts";
import type { Operation } from "./engine.ts";
import type { Host, HostErrno } from "./host.ts";
import { perform } from "./kernel.ts";
import { LoopTurn, type Turns } from "./loop_turn.ts";

/** A POSIX system. */
export class PosixHost implements Host {
  /** The C library. */
  readonly libc: Libc;
  /** Its error numbers by name. */
  readonly errno: HostErrno;

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   */
  constructor(libc: Libc) {
    this.libc = libc;
    this.errno = libc.abi.errno;
  }

  /** Carries out an operation in one blocking call. */
  perform(operation: Operation): number {
    return perform(this.libc, operation);
  }

  /** Makes turns of the event loop, by bytes through a socket pair too. */
  makeTurns(callback: (asked: boolean) => void): Turns {
    return new LoopTurn(this.libc, callback);
  }
}
