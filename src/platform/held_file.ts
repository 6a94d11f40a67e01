/**
 * A file that is open for its lock alone, flock(2). Deno's files have that, and
 * `deno test` sees when one is left open; Node.js and Bun have no flock but by FFI,
 * and without that nobody is locked out there.
 *
 * @module
 */

import fs from "node:fs";
import { FfiError } from "../../ffi/ffi_error.ts";
import { isGranted } from "./permissions.ts";
import { runtime } from "./system.ts";

/** An open file. */
export interface HeldFile {
  /** What it is; `null` where Deno would ask whether that may be known. */
  statSync(): { readonly dev: number; readonly ino: number | null } | null;
  /**
   * Locks it, without waiting.
   *
   * @param exclusive Whether against readers too.
   * @returns Whether it did.
   * @throws {FfiError} If FFI is there and does not work: {@linkcode isUnusable}.
   * @throws {Error} With the system's `code`; `ENOSYS` without FFI.
   */
  tryLockSync(exclusive: boolean): boolean;
  /** Closes it, with its lock. */
  close(): void;
}

let flock: ((fd: number, exclusive: boolean) => boolean) | null = null;

/**
 * Loads what locks files where the runtime itself cannot; to be called before
 * {@linkcode openHeld}.
 */
export async function loadLocks(): Promise<void> {
  if (runtime === "deno") return;
  ({ tryFlock: flock } = await import("../../ffi/flock.ts"));
}

/**
 * Whether something failed as FFI, which is there, does not work.
 *
 * @param error What was thrown.
 * @returns Whether that is so.
 */
export function isUnusable(error: unknown): error is Error {
  return error instanceof FfiError && error.kind === "unusable";
}

/**
 * Opens a file.
 *
 * @param path Its path.
 * @param write Whether for writing too.
 * @returns The file.
 * @throws {Error} If it cannot be opened.
 */
export function openHeld(path: string, write = false): HeldFile {
  if (runtime === "deno") {
    const file = Deno.openSync(path, { read: true, write });
    return {
      statSync: () => mayStat(path) ? file.statSync() : null,
      tryLockSync: (exclusive) => file.tryLockSync(exclusive),
      close: () => file.close(),
    };
  }
  const fd = fs.openSync(path, write ? "r+" : "r");
  return {
    statSync: () => fs.fstatSync(fd),
    tryLockSync(exclusive) {
      try {
        if (flock !== null) return flock(fd, exclusive);
      } catch (cause) {
        if (!(cause instanceof FfiError) || isUnusable(cause)) throw cause;
      }
      throw Object.assign(
        new Error(`Cannot lock "${path}" as this runtime has no flock`),
        { code: "ENOSYS" },
      );
    },
    close: () => fs.closeSync(fd),
  };
}

/**
 * Whether Deno tells of an open file what it is: for that it wants the permission
 * of the path that the links of the given one lead to.
 */
function mayStat(path: string): boolean {
  try {
    return isGranted({ name: "read", path: Deno.realPathSync(path) });
  } catch {
    return false;
  }
}
