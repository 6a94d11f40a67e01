/**
 * How an image in a Ceph cluster is opened or made.
 *
 * @module
 */

/** How long a request may wait for the cluster, in ms, if nothing else is said. */
export const DEFAULT_REQUEST_TIMEOUT_MS = 60_000;

/** How to open an image in a Ceph cluster. */
export interface RbdOptions {
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Whether to hold the exclusive lock: always, when writing, or never. */
  readonly lock: "exclusive" | "auto" | "none";
  /** Logical block size in bytes; 512 by default. */
  readonly blockSize?: number;
  /** What the disk says of itself; the image's name by default. */
  readonly id?: string;
  /** Gives up opening. */
  readonly signal?: AbortSignal;
  /** Gives up opening after so many ms. */
  readonly openTimeoutMs: number;
  /** Gives a request up after so many ms; 60,000 by default. */
  readonly requestTimeoutMs?: number;
  /** Gives up closing after so many ms. */
  readonly closeTimeoutMs: number;
  /** Make it first; there must be none of that name. */
  readonly create?: {
    /** Its size in bytes. */
    readonly sizeBytes: number;
  };
}
