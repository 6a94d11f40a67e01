/**
 * A file that is open for its lock alone, flock(2). Deno's files have that, and
 * `deno test` sees when one is left open; Node.js and Bun have no flock, so that
 * nobody is locked out by it there.
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
    tryLockSync() {
      throw new Error("Cannot lock a file as this runtime has no flock");
    },
    close: () => fs.closeSync(fd),
  };
}
