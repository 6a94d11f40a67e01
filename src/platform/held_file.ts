/**
 * A file that is open for its lock alone, flock(2). Deno's files have that, and
 * `deno test` sees when one is left open; Node.js and Bun have no flock but by FFI,
 * and without that nobody is locked out there.
 *
 * @module
 */

import fs from "node:fs";
import { runtime } from "./system.ts";

/** An open file. */
export interface HeldFile {
  /** What it is. */
  statSync(): { readonly dev: number; readonly ino: number | null };
  /**
   * Locks it, without waiting.
   *
   * @param exclusive Whether against readers too.
   * @returns Whether it did.
   * @throws {Error} If there are no such locks here.
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
 * Opens a file.
 *
 * @param path Its path.
 * @param write Whether for writing too.
 * @returns The file.
 * @throws {Error} If it cannot be opened.
 */
export function openHeld(path: string, write = false): HeldFile {
  if (runtime === "deno") return Deno.openSync(path, { read: true, write });
  const fd = fs.openSync(path, write ? "r+" : "r");
  return {
    statSync: () => fs.fstatSync(fd),
    tryLockSync(exclusive) {
      if (flock !== null) return flock(fd, exclusive);
      throw new Error("Cannot lock a file as this runtime has no flock");
    },
    close: () => fs.closeSync(fd),
  };
}
