/**
 * How a disk behind an NBD server is opened.
 *
 * @module
 */

/** How long opening may take, in ms, if nothing else is said. */
export const DEFAULT_OPEN_TIMEOUT_MS = 30_000;

/** How long closing waits for a silent server, in ms, if nothing else is said. */
export const DEFAULT_CLOSE_TIMEOUT_MS = 30_000;

/** How to open a disk behind an NBD server. */
export interface NbdOptions {
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Logical block size in bytes; the server's own by default. */
  readonly blockSize?: number;
  /** What the disk says of itself; the export's name by default. */
  readonly id?: string;
  /** Gives up opening. */
  readonly signal?: AbortSignal;
  /** Gives up opening after so many ms; 30,000 by default. */
  readonly openTimeoutMs?: number;
  /**
   * Once it is to be closed: drops the connection when the server has been
   * silent for so many ms; 30,000 by default.
   */
  readonly closeTimeoutMs?: number;
  /**
   * Drops the connection when requests wait and the server has been silent for so
   * many ms; no bound by default.
   */
  readonly requestTimeoutMs?: number;
}
