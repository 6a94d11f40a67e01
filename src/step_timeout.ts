/**
 * Time-outs in steps. Where this program itself has no turn for all of a time-out,
 * a single timer finds it over, and whoever was waited for had no chance to be
 * heard. In steps only one of them is late, and what came meanwhile is heard
 * before the next.
 *
 * @module
 */

import { clearInterval, setInterval } from "node:timers";

/** What a time-out may be told. */
export interface StepTimeoutOptions {
  /** Steps of a time-out. */
  readonly steps: number;
  /**
   * Asked at each step: after a sign of life the time begins anew.
   *
   * @default {() => false}
   */
  readonly lives?: (() => boolean) | undefined;
  /**
   * Whether the program goes on for it.
   *
   * @default {true}
   */
  readonly keepsAlive?: boolean | undefined;
}

/**
 * Calls back when a time has passed in steps without a sign of life, and with
 * every further such step.
 *
 * @param timeoutMs The time, in ms.
 * @param onTime What is called.
 * @param options In how many steps, and what begins it anew.
 * @returns What ends it.
 */
export function stepTimeout(
  timeoutMs: number,
  onTime: () => void,
  { steps, lives = () => false, keepsAlive = true }: StepTimeoutOptions,
): () => void {
  let passed = 0;
  const timer = setInterval(() => {
    passed = lives() ? 0 : passed + 1;
    if (passed >= steps) onTime();
  }, timeoutMs / steps);
  if (!keepsAlive) timer.unref();
  return () => clearInterval(timer);
}
