/**
 * Whether FFI is allowed now. Deno asks the user whenever something needs a
 * permission that was given up, in the midst of anything; here nobody is asked
 * but when a disk is opened (`ensureFfiPermission`).
 *
 * @module
 */

import { ffiOption } from "../src/platform/permissions.ts";
import { foreign } from "./foreign/mod.ts";

let status: Deno.PermissionStatus | undefined;

/**
 * Makes sure that what follows will not have Deno ask for FFI. It costs next to
 * nothing: a status shows what was revoked or granted since it was made.
 *
 * @throws {Error} With the name `NotCapable` if FFI is not allowed.
 */
export function assertFfiGranted(): void {
  status ??= foreign().permissions.querySync({ name: "ffi" });
  if (status.state !== "granted") {
    const error = new Error(
      `Cannot use FFI as it is not allowed any more: run with ${ffiOption}, and keep it`,
    );
    // As Deno would have said, which Node.js has no class for.
    error.name = "NotCapable";
    throw error;
  }
}
