/**
 * Calls callbacks that may throw. That is the mistake of whoever gave them, and
 * whoever calls them has more to do: others to answer, and requests whose memory
 * the kernel has. So it is thrown again by itself, in a microtask, where handlers
 * of uncaught errors alone hear of it.
 *
 * @module
 */

import type { Complete } from "./backend.ts";
import type { DiskError } from "./errors.ts";
import type { Request } from "./request.ts";

/**
 * Throws something once nothing depends on it any more.
 *
 * @param thrown What was thrown.
 */
export function throwLater(thrown: unknown): void {
  queueMicrotask(() => {
    throw thrown;
  });
}

/**
 * Answers a request; never throws.
 *
 * @param request The request.
 * @param error Why it failed; `null` if it did not.
 * @param complete The callback.
 */
export function answerRequest(
  request: Request,
  error: DiskError | null,
  complete: Complete,
): void {
  try {
    complete(request, error);
  } catch (thrown) {
    throwLater(thrown);
  }
}

/**
 * Tells somebody of something; never throws.
 *
 * @param listener Who is told, if anybody.
 * @param value What.
 */
export function tell<T>(
  listener: ((value: T) => void) | undefined,
  value: T,
): void {
  try {
    listener?.(value);
  } catch (thrown) {
    throwLater(thrown);
  }
}
