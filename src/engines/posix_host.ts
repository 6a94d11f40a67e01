/**
 * POSIX systems as the engines see them: one operation as one blocking call of
 * the C library, and what differs from one of these systems to the next.
 *
 * @module
 */

import { RWF } from "../../ffi/abi.ts";
import {
  discard,
  flushDevice,
  isNoFlush,
  secureErase,
} from "../../ffi/block_device.ts";
import type { Libc } from "../../ffi/libc.ts";
import { type Operation, OperationCode } from "./engine.ts";
import type { Host, HostErrno } from "./host.ts";
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
    const { libc } = this;
    const { fd, address, length, vectorCount, offset } = operation;
    switch (operation.code) {
      case OperationCode.Read:
        return libc.pread(fd, address, length, offset);
      case OperationCode.Write:
        return operation.durable
          ? libc.pwritev2(fd, address, 1, offset, RWF.DSYNC)
          : libc.pwrite(fd, address, length, offset);
      case OperationCode.ReadVector:
        return libc.preadv(fd, address, vectorCount, offset);
      case OperationCode.WriteVector:
        return operation.durable
          ? libc.pwritev2(fd, address, vectorCount, offset, RWF.DSYNC)
          : libc.pwritev(fd, address, vectorCount, offset);
      case OperationCode.Sync:
        return syncFile(libc, fd);
      case OperationCode.Allocate:
        return libc.fallocate(fd, operation.mode, offset, length);
      case OperationCode.Discard:
        return discard(libc, fd, offset, length);
      case OperationCode.SecureErase:
        return secureErase(libc, fd, offset, length);
    }
  }

  /** Makes turns of the event loop, by bytes through a socket pair too. */
  makeTurns(callback: (asked: boolean) => void): Turns {
    return new LoopTurn(this.libc, callback);
  }
}

/** The name of the call that {@linkcode syncFile} makes first. */
export function syncMethod(libc: Libc): string {
  return libc.abi.os === "darwin" ? "F_FULLFSYNC" : "fdatasync";
}

/**
 * Makes what was written through a descriptor durable, once. macOS' fsync stops
 * in front of the drive's cache; F_FULLFSYNC goes through it, and what is without
 * it, devices among others, says ENOTSUP or ENOTTY (fcntl(2) of macOS). A device
 * has a request of its own for that, there, on FreeBSD and on illumos.
 *
 * @param libc The C library.
 * @param fd The descriptor.
 * @returns 0 or −errno.
 */
export function syncFile(libc: Libc, fd: number): number {
  const fullSync = libc.abi.fcntl.F_FULLFSYNC;
  if (fullSync !== undefined) {
    const result = libc.fcntl(fd, fullSync, 0);
    const { ENOTSUP, ENOTTY } = libc.abi.errno;
    if (result !== -ENOTSUP && result !== -ENOTTY) return result;
  }
  const result = libc.fdatasync(fd);
  if (result < 0 || libc.abi.os === "linux") return result;
  const flushed = flushDevice(libc, fd);
  return isNoFlush(libc, flushed) ? result : flushed;
}
