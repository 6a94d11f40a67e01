/**
 * Waits for work that shares something, such as memory, and must have ended
 * before that is used again.
 *
 * @module
 */

/**
 * Waits for all of it, also after some has failed.
 *
 * @param work What is waited for.
 * @returns When all has ended.
 * @throws What the first of them, in order, failed with.
 */
export async function settleAll(
  work: readonly Promise<unknown>[],
): Promise<void> {
  for (const outcome of await Promise.allSettled(work)) {
    if (outcome.status === "rejected") throw outcome.reason;
  }
}
