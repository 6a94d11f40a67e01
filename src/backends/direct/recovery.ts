/**
 * What a request goes on with after one of its operations failed: a decision from
 * the errno and from where the request is. The backend carries it out.
 *
 * @module
 */

import { type HostErrno, OperationCode } from "../../engines/mod.ts";
import { RequestType } from "../../request.ts";
import type { Transfer } from "./transfer.ts";

/** Times in a row that an operation is repeated for EINTR or EAGAIN. */
const MAX_RETRIES = 1000;

/** What a request goes on with. */
export const Recovery = {
  /** The error is the request's answer. */
  Fail: 0,
  /** It was given up before it began, or was interrupted, as somebody asked for. */
  Abort: 1,
  /** The same operation by a call that blocks. */
  Perform: 2,
  /** The same operation once more. */
  Repeat: 3,
  /** Durable writes as a write and a sync, from now on. */
  SyncInstead: 4,
  /** Zeroes by another mode of `fallocate`, or as data, from now on. */
  ZeroOtherwise: 5,
  /** This range's zeroes as data. */
  WriteZeroes: 6,
  /** What was asked for need not happen. */
  Succeed: 7,
} as const;

/** What a request goes on with. */
export type Recovery = typeof Recovery[keyof typeof Recovery];

/**
 * Decides what a request goes on with.
 *
 * @param transfer The request, at the operation that failed.
 * @param errno The error's number.
 * @param numbers What the host's numbers mean.
 * @param blockDevice Whether the image is a block device.
 * @returns What to do.
 */
export function recoveryOf(
  transfer: Transfer,
  errno: number,
  numbers: HostErrno,
  blockDevice: boolean,
): Recovery {
  const { code, durable } = transfer;
  const { EINTR, EAGAIN, EBUSY, EINVAL, ECANCELED } = numbers;
  const { EOPNOTSUPP, ENOSYS, EPERM } = numbers;
  // A durable write syncs within: that it failed may be the only report there is
  // of what is lost, so that its second answer may be a lie, as that of a sync. An
  // errno does not tell whether it began.
  const syncs = durable || code === OperationCode.Sync;
  // That is no failure of the medium: what never ran, or was interrupted, has cost
  // no durability. A sync is not cancelled.
  if (
    (errno === ECANCELED && code !== OperationCode.Sync ||
      errno === EINTR && !syncs) && transfer.cancelled
  ) return Recovery.Abort;
  const unsupported = errno === EOPNOTSUPP || errno === ENOSYS;
  // What the ring cannot do, a blocking call may. Cancelled without being asked
  // to: io_uring found no thread for what would block (RLIMIT_NPROC;
  // io_uring/io-wq.c). Before Linux 6.12 it cannot discard.
  const performable = code === OperationCode.Discard && unsupported ||
    errno === ECANCELED && !syncs;
  if (performable && !transfer.tried) return Recovery.Perform;
  if (
    (errno === EINTR || errno === EAGAIN) && !syncs &&
    transfer.retries < MAX_RETRIES
  ) return Recovery.Repeat;
  // A filter that denies a call says EPERM; where writes are denied as such, a
  // plain one fails with it again.
  const denied = unsupported || errno === EPERM;
  if (durable && denied) return Recovery.SyncInstead;
  if (
    transfer.request!.type === RequestType.WriteZeroes &&
    code === OperationCode.Allocate && (denied || errno === EINVAL)
  ) return Recovery.ZeroOtherwise;
  if (errno === EBUSY && blockDevice) {
    // Through the cache of a device that is claimed, by us or by others, the
    // kernel gives up no range that has unwritten pages: block/bdev.c,
    // `truncate_bdev_range`. Zeroes can be written, and a discard may leave
    // what is there.
    if (code === OperationCode.Allocate) return Recovery.WriteZeroes;
    if (code === OperationCode.Discard) return Recovery.Succeed;
  }
  return Recovery.Fail;
}
