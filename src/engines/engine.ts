/**
 * The seam between a backend and the kernel: one operation at a time is described
 * here, and an engine carries out many of them.
 *
 * An engine knows descriptors, addresses and results, no disks and no requests.
 *
 * @module
 */

import { FALLOCATE } from "../../ffi/abi.ts";
import type { EngineInfo } from "../info.ts";

/** What an operation does. */
export const OperationCode = {
  /** pread into `address`. */
  Read: 0,
  /** pwrite from `address`. */
  Write: 1,
  /** preadv into the iovec array at `address`, `vectorCount` long. */
  ReadVector: 2,
  /** pwritev from the iovec array at `address`, `vectorCount` long. */
  WriteVector: 3,
  /** Make everything written before durable. */
  Sync: 4,
  /** fallocate(2) with `mode`, an {@linkcode AllocateMode}. */
  Allocate: 5,
  /** Tell a block device that a range is not needed. */
  Discard: 6,
  /** Erase a range of a block device beyond recovery. */
  SecureErase: 7,
} as const;

/** What an operation does. */
export type OperationCode = typeof OperationCode[keyof typeof OperationCode];

/**
 * fallocate modes for the two things that a disk wants of it: all keep the
 * file's size. See fallocate(2).
 */
export const AllocateMode = {
  /** Deallocate: the range reads as zeroes. */
  Punch: FALLOCATE.PUNCH_HOLE | FALLOCATE.KEEP_SIZE,
  /** Zero and keep allocated, without moving data. */
  Zero: FALLOCATE.ZERO_RANGE | FALLOCATE.KEEP_SIZE,
} as const;

/** One operation on a descriptor; used again and again by its owner. */
export class Operation {
  /** What it does. */
  code: OperationCode = OperationCode.Read;
  /** The descriptor. */
  fd = -1;
  /** Memory, or the iovec array, as an address. */
  address = 0;
  /** Bytes. */
  length = 0;
  /** Entries of the iovec array. */
  vectorCount = 0;
  /** Offset in the file, in bytes. */
  offset = 0;
  /**
   * Whether a write must be durable when it completes: of this operation, from
   * before it is pushed until it is completed, and never of what it is part of.
   */
  durable = false;
  /** Mode of fallocate(2): {@linkcode AllocateMode}. */
  mode = 0;
}

/**
 * Answers an operation.
 *
 * @param operation The operation.
 * @param result Bytes moved (0 for those that move none) or −errno.
 */
export type OperationComplete<T extends Operation> = (
  operation: T,
  result: number,
) => void;

/** Carries out operations. */
export interface Engine<T extends Operation> {
  /** What it is and why. */
  readonly info: EngineInfo;
  /** Calls into the kernel so far. */
  readonly systemCalls: number;
  /**
   * Takes an operation; it may be carried out at the next {@linkcode kick}.
   *
   * @param operation The operation; the engine's until it is answered.
   */
  push(operation: T): void;
  /** Carries out, or hands to the kernel, what was taken. */
  kick(): void;
  /**
   * Tries to stop operations early. They are answered all the same.
   *
   * @param matches Tells which ones.
   */
  cancel?(matches: (operation: T) => boolean): void;
  /**
   * Releases everything. Nothing may be in flight.
   *
   * @returns When it is done.
   */
  close(): Promise<void>;
}
