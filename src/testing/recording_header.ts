/**
 * The first record of a recording's file: the device with its promises, and the
 * shape of its base.
 *
 * @module
 */

import type { DiskError } from "../errors.ts";
import {
  type CompleteCrashDevice,
  completeCrashDevice,
  type CrashDevice,
} from "./crash_device.ts";

/** What a header says. */
export interface RecordingHeader {
  /** The device. */
  readonly device: CompleteCrashDevice;
  /** The shape of the base; `null` if there was none: the device was zeroes. */
  readonly base:
    | { readonly sectors: number; readonly blockSize: number }
    | null;
  /** Whether a start follows: what comes before it is none of the workload's. */
  readonly starts: boolean;
}

/**
 * Writes a header.
 *
 * @param header The header.
 * @returns What becomes JSON.
 */
export function writeHeader(
  { device, base, starts }: RecordingHeader,
): unknown {
  const options: Required<CrashDevice> = {
    sectors: device.sectors,
    blockSize: device.blockSize,
    cache: device.writeBack ? "writeback" : "writethrough",
    reorders: device.reorders,
    tornBlocks: device.tornBlocks,
    atomicWriteBytes: device.atomicWriteBytes,
    honorsFlush: device.honorsFlush,
    honorsFua: device.honorsFua,
    discarded: device.discarded,
    failFlushes: [...device.failFlushes],
  };
  return { device: options, base, starts };
}

/**
 * Reads a header.
 *
 * @param value What was read as JSON.
 * @param invalid Makes the error.
 * @returns The header.
 */
export function readHeader(
  value: unknown,
  invalid: (reason: string) => DiskError,
): RecordingHeader {
  if (!isRecord(value) || !isRecord(value.device)) {
    throw invalid("its header has no device");
  }
  // Older recorders did not say whether they start.
  const { device, base = null, starts = false } = value;
  if (typeof starts !== "boolean") {
    throw invalid("its header does not say whether it starts");
  }
  for (const name of ["reorders", "tornBlocks", "honorsFlush", "honorsFua"]) {
    if (typeof device[name] !== "boolean") {
      throw invalid(`its device does not say ${name}`);
    }
  }
  const { sectors, blockSize, atomicWriteBytes, failFlushes } = device;
  const numbers = [sectors, blockSize, atomicWriteBytes];
  if (
    !numbers.every(Number.isSafeInteger) || !Array.isArray(failFlushes) ||
    !failFlushes.every(Number.isSafeInteger)
  ) throw invalid("its device has numbers that are none");
  let complete: CompleteCrashDevice;
  try {
    complete = completeCrashDevice(device as CrashDevice);
  } catch (cause) {
    throw invalid(`there is no such device (${(cause as Error).message})`);
  }
  if (base === null) return { device: complete, base, starts };
  if (
    !isRecord(base) || base.sectors !== complete.sectors ||
    !Number.isSafeInteger(base.blockSize)
  ) throw invalid("its base has another shape than its device");
  const { sectors: baseSectors, blockSize: baseBlockSize } = base;
  return {
    device: complete,
    base: {
      sectors: baseSectors as number,
      blockSize: baseBlockSize as number,
    },
    starts,
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
