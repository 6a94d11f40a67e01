/**
 * An image that is open, locked and probed, as `mod.ts` hands it to the backend;
 * and how its host is to be asked: the plans of reads and writes on it.
 *
 * @module
 */

import type { Abilities } from "../../backend.ts";
import { type Geometry, SECTOR_BYTES } from "../../geometry.ts";
import type { BackendInfo } from "../../info.ts";
import {
  AlignmentPlanner,
  type HostLimits,
  MAX_CALL_BYTES,
  roundDown,
} from "../alignment_plan.ts";
import type { FileClaim } from "../file_claim.ts";
import type { SignalListener } from "../file_size_signal.ts";
import { LARGE_BOUNCE_BYTES } from "./bounce.ts";

/**
 * What memory must be aligned to for the kernel to get it as it is: a page,
 * whatever the host says it wants. Some drivers (zram) take a less aligned
 * buffer, report success and write beside it.
 */
export const MEMORY_ALIGNMENT = 4096;

/** Segments of one vectored operation: a quarter of IOV_MAX. */
export const MAX_SEGMENTS = 256;

/** What was found out about an open image. */
export interface DirectImage {
  /** Descriptor for everything but the tail. */
  readonly fd: number;
  /**
   * Buffered descriptor for the end of a file whose size is no multiple of the
   * host's alignment; −1 when there is no such end.
   */
  readonly tailFd: number;
  /** Opens such a descriptor, for a file that is to have such an end. */
  readonly openTail: () => number;
  /** The disk's shape. */
  readonly geometry: Geometry;
  /** What it can do; durable writes are native where RWF_DSYNC makes them so. */
  readonly abilities: Abilities;
  /** What offsets and lengths of writes must be multiples of. */
  readonly writeAlignment: number;
  /** What offsets and lengths of reads must be multiples of. */
  readonly readAlignment: number;
  /** Bytes of one call at most; as many as any host takes if not given. */
  readonly maxCallBytes?: number;
  /** Segments of one call at most; {@linkcode MAX_SEGMENTS} if not given. */
  readonly maxSegments?: number;
  /** Whether it is a device; a regular file can be asked for holes. */
  readonly blockDevice: boolean;
  /**
   * Whether the system can zero a range without data, and reads of it then are
   * known to find zeroes.
   */
  readonly zeroesRanges: boolean;
  /** Whether that keeps the space allocated; it does if not given. */
  readonly zeroesInPlace?: boolean;
  /** A lock that ends with the backend. */
  readonly claim: FileClaim | null;
  /** What keeps a limit on file sizes from ending the program. */
  readonly signal: SignalListener | null;
  /** Everything else, as plain data. */
  readonly info: BackendInfo;
}

/** What plans the transfers of an image. */
export interface Planners {
  /** Reads. */
  readonly reads: AlignmentPlanner;
  /** Writes. */
  readonly writes: AlignmentPlanner;
  /** Writes of zeroes, from one piece of memory that all of them share. */
  readonly zeroWrites: AlignmentPlanner;
}

/**
 * What plans the transfers of an image.
 *
 * @param image The image.
 * @returns The planners.
 * @throws {RangeError} If the host's block is more than a bounce buffer holds.
 */
export function plannersOf(image: DirectImage): Planners {
  const { readAlignment, writeAlignment, tailFd, geometry } = image;
  const { maxCallBytes = MAX_CALL_BYTES, maxSegments = MAX_SEGMENTS } = image;
  const reads: HostLimits = {
    writes: false,
    alignment: readAlignment,
    memoryAlignment: MEMORY_ALIGNMENT,
    tailStart: Infinity,
    maxStraightBytes: maxCallBytes,
    maxBounceBytes: LARGE_BOUNCE_BYTES,
    maxSegments,
  };
  const writes: HostLimits = {
    ...reads,
    writes: true,
    alignment: writeAlignment,
    tailStart: tailFd < 0
      ? Infinity
      : roundDown(geometry.sectors * SECTOR_BYTES, writeAlignment),
  };
  return {
    reads: new AlignmentPlanner(reads),
    writes: new AlignmentPlanner(writes),
    zeroWrites: new AlignmentPlanner({
      ...writes,
      maxStraightBytes: LARGE_BOUNCE_BYTES,
    }),
  };
}
