/**
 * What the runtime lets this program do: Deno, and Node.js with `--permission`, which
 * asks nobody. Elsewhere everything is granted, and what is not fails when it is
 * done.
 *
 * @module
 */

import fs from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { runtime } from "./system.ts";

/** What grants permissions; the part of `Deno.permissions` that is used. */
export type Permissions = Pick<
  Deno.Permissions,
  "query" | "querySync" | "requestSync"
>;

/** What Node.js has with `--permission`, and nothing else has. */
const ofNode = runtime !== "node" ? undefined : (process as unknown as {
  permission?: { has(scope: string, reference?: string): boolean };
}).permission;

const isOption = (name: string) =>
  process.allowedNodeEnvironmentFlags.has(name);

/** The option that lets a program use FFI: before Node.js 26 that is an addon. */
export const ffiOption: string =
  ofNode !== undefined && !isOption("--allow-ffi")
    ? "--allow-addons"
    : "--allow-ffi";

/** What Node.js calls a permission of Deno's; `undefined` if it has none such. */
function scopeOf(name: string): string | undefined {
  switch (name) {
    case "read":
    case "write":
      return `fs.${name}`;
    case "run":
      return "child";
    case "ffi":
      return ffiOption === "--allow-ffi" ? "ffi" : "addon";
    case "net":
      return isOption("--allow-net") ? "net" : undefined;
    default:
      return undefined;
  }
}

function statusOutsideDeno(
  descriptor: Deno.PermissionDescriptor,
): Deno.PermissionStatus {
  const { name, path } = descriptor as { name: string; path?: string | URL };
  return {
    // As in Deno, it shows what was given up since.
    get state() {
      const scope = scopeOf(name);
      if (ofNode === undefined || scope === undefined) return "granted";
      const reference = scope.startsWith("fs.") && path !== undefined
        ? path instanceof URL ? fileURLToPath(path) : path
        : undefined;
      return ofNode.has(scope, reference) ? "granted" : "denied";
    },
    partial: false,
    onchange: null,
  } as Deno.PermissionStatus;
}

/** The runtime's permissions. */
export const permissions: Permissions = runtime === "deno"
  ? Deno.permissions
  : {
    query: (descriptor) => Promise.resolve(statusOutsideDeno(descriptor)),
    querySync: statusOutsideDeno,
    requestSync: statusOutsideDeno,
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

/** A number that no file is open under. */
const NO_DESCRIPTOR = 0x7fff_ffff;

/**
 * Tries whether `node:fs` may flush: not in Node.js with `--permission`, whatever is
 * granted.
 *
 * @returns What it throws if not; else `null`.
 */
export function whyNoFlush(): Error | null {
  if (ofNode === undefined) return null;
  try {
    fs.fdatasyncSync(NO_DESCRIPTOR);
  } catch (error) {
    if (isNotCapable(error)) return error;
  }
  return null;
}
