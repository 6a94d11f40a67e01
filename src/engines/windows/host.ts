/**
 * Windows as the engines see it. Descriptors are handles.
 *
 * @module
 */

import type { Windows } from "../../../ffi/windows.ts";
import { WINDOWS_ERRNO } from "../../../ffi/windows_errno.ts";
import { type Operation, OperationCode } from "../engine.ts";
import type { Host } from "../host.ts";
import type { Turns } from "../loop_turn.ts";
import { WindowsTurns } from "./turns.ts";

/** Windows. */
export class WindowsHost implements Host {
  /** Windows itself. */
  readonly windows: Windows;
  /** Its error numbers by name. */
  readonly errno: Host["errno"] = WINDOWS_ERRNO;
  /** Whether a flush does anything: Windows flushes for writers alone. */
  readonly flushes: boolean;

  /**
   * Constructs a new instance.
   *
   * @param windows Windows.
   * @param readOnly Whether images are open for reading only.
   */
  constructor(windows: Windows, readOnly: boolean) {
    this.windows = windows;
    this.flushes = !readOnly;
  }

  /** Carries out an operation in one blocking call. */
  perform(operation: Operation): number {
    const { windows } = this;
    const { fd, address, length, offset } = operation;
    switch (operation.code) {
      case OperationCode.Read:
        return windows.read(fd, address, length, offset);
      case OperationCode.Write:
        return windows.write(fd, address, length, offset);
      case OperationCode.Sync:
        return this.flushes ? windows.flush(fd) : 0;
      case OperationCode.Allocate:
        return windows.zero(fd, offset, length);
      default:
        return -WINDOWS_ERRNO.ENOSYS;
    }
  }

  /** Makes turns of the event loop. */
  makeTurns(callback: (asked: boolean) => void): Turns {
    return new WindowsTurns(this.windows, callback);
  }
}
