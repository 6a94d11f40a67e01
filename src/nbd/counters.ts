/**
 * What a server counts of its clients.
 *
 * @module
 */

/** What is counted of all connections together. */
export interface NbdCounters {
  /** Connections so far. */
  connections: number;
  /** Requests answered, good or bad. */
  requests: number;
  /** Requests answered with an error. */
  errors: number;
  /** Bytes of data sent, holes not counted. */
  bytesRead: number;
  /** Bytes of data taken. */
  bytesWritten: number;
  /**
   * Reads, writes and zeroes that did not start and end on blocks of the disk.
   * To write or zero them, the blocks at their ends are read first.
   */
  unaligned: number;
  /** Connections that were ended as the client broke the protocol. */
  dropped: number;
  /**
   * Connections that were ended as others waited for the memory that the client
   * held, and it neither took its answers nor sent what it had announced.
   */
  evicted: number;
  /** Connections that were gone before they were accepted. */
  resets: number;
  /** The most memory that clients held at any time, in bytes. */
  peakMemory: number;
}
