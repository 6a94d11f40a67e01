/**
 * What is measured, and what comes out: the words that the harness, Platter and
 * its peers share.
 *
 * @module
 */

/** One measurement to take, the same for everybody who takes it. */
export interface Work {
  /** The image or block device; empty for memory. */
  path: string;
  /** Its size. */
  bytes: number;
  /** Whether to pass the operating system's cache by. */
  direct: boolean;
  /** What to do. `mixed` is as many reads as writes. */
  operation: "read" | "write" | "mixed" | "write + flush";
  /** Where to. */
  order: "random" | "sequential";
  /** Bytes of one request. */
  blockBytes: number;
  /** Requests in flight. */
  depth: number;
  /** How long to measure. */
  seconds: number;
  /** How long to run before that. */
  warmUpSeconds: number;
  /** For the random places. */
  seed: number;
}

/** Durations of single requests in µs. */
export interface Latency {
  /** The median. */
  p50: number;
  /** One of 100 takes longer. */
  p99: number;
  /** One of 1,000 takes longer. */
  p999: number;
}

/** What one measurement gave. */
export interface Measurement {
  /** Requests that were answered. */
  operations: number;
  /** Bytes that were moved. */
  bytes: number;
  /** How long that took. */
  seconds: number;
  /** User and system time of the process. */
  cpuSeconds: number;
  /** Durations of single requests, where they were taken. */
  latency: Latency | null;
  /** The engine that Platter really used. */
  engine?: string;
  /** Resident memory in bytes, and how long opening took. */
  memory?: {
    /** Before the disk was opened. */
    start: number;
    /** After it was opened. */
    open: number;
    /** After the first quarter of the run. */
    early: number;
    /** The most at any time. */
    peak: number;
    /** After the disk was closed. */
    end: number;
    /** How long opening took. */
    openMs: number;
  };
  /** JavaScript heap that one request took, in bytes. */
  heapBytes?: number;
}

/** A contender that cannot take part here, and why. */
export class Unavailable extends Error {}
