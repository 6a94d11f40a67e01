/**
 * What runs on Deno alone says so, and does not fail somewhere within.
 *
 * @module
 */

import { DiskError } from "./errors.ts";
import { runtime, runtimeName } from "./platform/system.ts";

/**
 * Refuses to go on where there is no Deno.
 *
 * @param what What cannot be done elsewhere, after "Cannot".
 * @throws {DiskError} Of kind `platform`, on Node.js and Bun.
 */
export function onlyOnDeno(what: string): void {
  if (runtime === "deno") return;
  throw new DiskError(
    "platform",
    `Cannot ${what} as that needs Deno: this is ${runtimeName}`,
  );
}
