/**
 * Waiting that a signal ends.
 *
 * @module
 */

/**
 * Waits for something, or for a signal. What was waited for goes on; if it fails
 * later, nobody hears of it.
 *
 * @param signal Gives up, if there is one.
 * @param promise What is waited for.
 * @returns What it gives.
 * @throws What it rejects with, or the signal's reason.
 */
export async function unless<T>(
  signal: AbortSignal | undefined,
  promise: Promise<T>,
): Promise<T> {
  if (signal === undefined) return await promise;
  const stopped = Promise.withResolvers<never>();
  const stop = () => stopped.reject(signal.reason);
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();
  try {
    return await Promise.race([stopped.promise, promise]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
