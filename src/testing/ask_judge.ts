/**
 * Asks a judge for a verdict, which has a time for it, and may be given up.
 *
 * @module
 */

import { inspected } from "../platform/inspect.ts";
import type { CrashVerdict } from "./crash_verdict.ts";

/** Milliseconds that a judge has to end after its time is over. */
const GRACE_MS = 5000;

/**
 * Asks a judge, and waits for its verdict.
 *
 * @param judge The judge. Its signal ends it: it has 5 seconds left then to let go
 * of what it has.
 * @param options Milliseconds that it may take, and what gives all up.
 * @returns The verdict: that it fails, if its time was over; `null` if all was
 * given up meanwhile.
 * @throws {TypeError} If what it returns is no verdict.
 * @throws Whatever the judge throws within its time.
 */
export async function askJudge(
  judge: (signal: AbortSignal) => Promise<CrashVerdict> | CrashVerdict,
  { timeoutMs, signal }: {
    timeoutMs: number;
    signal: AbortSignal | undefined;
  },
): Promise<CrashVerdict | null> {
  if (signal?.aborted) return null;
  const controller = new AbortController();
  const late: CrashVerdict = {
    outcome: "failed",
    message: `The check has not ended within ${timeoutMs} ms`,
  };
  let over: CrashVerdict | null | undefined;
  let grace: ReturnType<typeof setTimeout> | undefined;
  const { promise: abandoned, resolve: abandon } = Promise.withResolvers<
    void
  >();
  const end = (verdict: CrashVerdict | null, reason: unknown) => {
    if (over !== undefined) return;
    over = verdict;
    controller.abort(reason);
    grace = setTimeout(abandon, GRACE_MS);
  };
  const timer = setTimeout(
    () => end(late, new DOMException(late.message, "TimeoutError")),
    timeoutMs,
  );
  const onAbort = () => end(null, signal!.reason);
  signal?.addEventListener("abort", onAbort);
  try {
    const asked = (async () => await judge(controller.signal))();
    const verdict = await Promise.race([asked, abandoned]);
    // No verdict is what a judge may say: `null` is that all was given up.
    return over === undefined ? checkVerdict(verdict) : over;
  } catch (error) {
    // What it throws after its time is what it makes of being ended.
    if (over === undefined) throw error;
    return over;
  } finally {
    clearTimeout(timer);
    clearTimeout(grace);
    signal?.removeEventListener("abort", onAbort);
  }
}

/** What a judge said, if it is a verdict: nothing else is to be counted as one. */
function checkVerdict(verdict: unknown): CrashVerdict {
  const { outcome, message, output } = (verdict ?? {}) as Partial<
    Record<"outcome" | "message" | "output", unknown>
  >;
  const whole = outcome === "sound" ||
    (outcome === "failed" || outcome === "unjudged") &&
      typeof message === "string";
  if (whole && (output === undefined || typeof output === "string")) {
    return verdict as CrashVerdict;
  }
  throw new TypeError(
    `Cannot judge crash states as the judge must return a verdict, { outcome: "sound" } or one of "failed" and "unjudged" with a message: current value is ${
      inspected(verdict)
    }`,
  );
}
