/**
 * A wait that blocks the thread, for calls that return when they are done.
 *
 * @module
 */

/** Nobody wakes who waits for it. */
const NEVER = new Int32Array(new SharedArrayBuffer(4));

/**
 * Stops this thread for a while.
 *
 * @param ms How long, in ms.
 */
export function sleepSync(ms: number): void {
  Atomics.wait(NEVER, 0, 0, ms);
}
