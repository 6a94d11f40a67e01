/**
 * What a vhost-user server counts.
 *
 * @module
 */

/** What is counted of all front ends together. */
export interface VhostCounters {
  /** Front ends so far. */
  frontEnds: number;
  /** Front ends that were sent away as they broke the protocol. */
  dropped: number;
  /** Rings that were stopped as a driver broke their rules. */
  brokenRings: number;
  /** Requests answered, good or bad. */
  requests: number;
  /** Requests answered with an error. */
  errors: number;
  /**
   * Reads and writes whose guest memory went to the disk as it is. What the disk
   * copied all the same, as it is not aligned, its own counters have.
   */
  lent: number;
  /** Reads and writes whose data was copied, by the server. */
  bounced: number;
  /** Bytes of data that guests have read. */
  bytesRead: number;
  /** Bytes of data that guests have written. */
  bytesWritten: number;
  /** Times that a driver told of new requests. */
  kicks: number;
  /** Times that a driver was told of answers. */
  calls: number;
}

/**
 * Counters at their start.
 *
 * @returns All of them 0.
 */
export function noCounts(): VhostCounters {
  return {
    frontEnds: 0,
    dropped: 0,
    brokenRings: 0,
    requests: 0,
    errors: 0,
    lent: 0,
    bounced: 0,
    bytesRead: 0,
    bytesWritten: 0,
    kicks: 0,
    calls: 0,
  };
}
