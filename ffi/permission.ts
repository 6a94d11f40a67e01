/**
 * Whether FFI is allowed now. Deno asks the user whenever something needs a
 * permission that was given up, in the midst of anything; here nobody is asked
 * but when a disk is opened (`ensureFfiPermission`).
 *
 * @module
 */

import { foreign } from "./foreign/mod.ts";

let status: Deno.PermissionStatus | undefined;

/**
 * Makes sure that what follows will not have Deno ask for FFI. It costs next to
 * nothing: a status shows what was revoked or granted since it was made.
 *
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function assertFfiGranted(): void {
  status ??= foreign().permissions.querySync({ name: "ffi" });
  if (status.state !== "granted") {
    throw new Deno.errors.NotCapable(
      "Cannot use FFI as it is not allowed any more: run with --allow-ffi, and keep it",
    );
  }
}
