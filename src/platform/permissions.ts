/**
 * What the runtime lets this program do. Only Deno asks; elsewhere everything
 * is granted, and what is not fails when it is done.
 *
 * @module
 */

import { runtime } from "./system.ts";

/** What grants permissions; the part of `Deno.permissions` that is used. */
export type Permissions = Pick<
  Deno.Permissions,
  "query" | "querySync" | "requestSync"
>;

const granted = {
  state: "granted",
  partial: false,
  onchange: null,
} as Deno.PermissionStatus;

/** The runtime's permissions. */
export const permissions: Permissions = runtime === "deno"
  ? Deno.permissions
  : {
    query: () => Promise.resolve(granted),
    querySync: () => granted,
    requestSync: () => granted,
  };

/**
 * Whether something is allowed now; nobody is asked.
 *
 * @param descriptor What.
 * @returns Whether it is.
 */
export function isGranted(descriptor: Deno.PermissionDescriptor): boolean {
  return permissions.querySync(descriptor).state === "granted";
}

/**
 * Whether an error says that the runtime does not allow something, which is not
 * the operating system's word.
 *
 * @param error What was thrown.
 * @returns Whether it does: Deno's `NotCapable`, or Node's `ERR_ACCESS_DENIED`
 * (with `--permission`).
 */
export function isNotCapable(error: unknown): error is Error {
  return error instanceof Error &&
    (error.name === "NotCapable" ||
      (error as { code?: unknown }).code === "ERR_ACCESS_DENIED");
}
