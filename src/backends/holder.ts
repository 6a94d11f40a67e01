/**
 * Who holds an image: the sentence of the error that says so.
 *
 * @module
 */

import fs from "node:fs";
import process from "node:process";
import { callSites } from "../call_site.ts";
import { DiskError } from "../errors.ts";
import { writerBeside } from "./device_use.ts";
import { isGranted } from "../platform/permissions.ts";
import { os, runtime } from "../platform/system.ts";

/** What this thread has open and keeps others out of. */
interface Opening {
  /** Captured where it was opened. */
  readonly origin: Error;
}

const openings = new Map<string, Set<Opening>>();

function keyOf(fd: number): string {
  const { dev, ino } = fs.fstatSync(fd, { bigint: true });
  return `${dev}:${ino}`;
}

/**
 * Remembers who opened an image that is locked.
 *
 * @param fd The image's descriptor.
 * @param origin Captured where it was opened; formatted only for an error.
 * @returns A function that forgets it again.
 */
export function rememberOpening(fd: number, origin: Error): () => void {
  const key = keyOf(fd);
  const opening = { origin };
  const here = openings.get(key) ?? new Set();
  openings.set(key, here.add(opening));
  return () => {
    here.delete(opening);
    if (here.size === 0 && openings.get(key) === here) openings.delete(key);
  };
}

/** How the kernel calls a lock in /proc: fs/locks.c, `lock_get_status`. */
export type LockType = "FLOCK" | "OFDLCK";

/**
 * Who locks a file. Such locks belong to no process, so that /proc/locks names
 * no process that can be relied upon; the descriptors themselves show them, where
 * they may be looked at.
 *
 * @param fd A descriptor of the file.
 * @param type The kind of lock.
 * @param byte The byte that is locked.
 * @returns For example `qemu-io (process 123)`; `null` if it is not to be told.
 */
export function nameHolder(
  fd: number,
  type: LockType,
  byte = 0,
): string | null {
  const here = openings.get(keyOf(fd));
  for (const { origin } of here ?? []) {
    const [site] = callSites(origin);
    const place = site === undefined ? "" : `, opened at ${placeOf(site)}`;
    return `this process, ${runtime} (process ${process.pid})${place},`;
  }
  const pid = findHolder(fd, type, byte);
  if (pid === null || isEnding(pid)) return null;
  return pid === process.pid
    ? `another thread of this process, ${runtime} (process ${pid}),`
    : nameProcess(pid);
}

/**
 * Who has a process' number.
 *
 * @param pid The number.
 * @returns For example `qemu-io (process 123)`; `null` if it is not to be told.
 */
export function nameProcess(pid: number): string | null {
  if (pid === process.pid) {
    return `this process, ${runtime} (process ${pid}),`;
  }
  try {
    const command = fs.readFileSync(`/proc/${pid}/comm`, "utf8").trim();
    return `${command} (process ${pid})`;
  } catch {
    return null;
  }
}

/** PF_EXITING of Linux (include/linux/sched.h). */
const EXITING = 0x4;

/** SIGKILL is signal 9, and has the ninth bit of a set of signals. */
const KILLED = 0x100n;

/**
 * Whether a process is no more, or about to be: it has its name and its
 * descriptors until its memory is given back, which takes a while.
 */
function isEnding(pid: number): boolean {
  try {
    // The seventh after the name, which may have blanks, is the flags:
    // proc_pid_stat(5).
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
    const flags = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[6];
    const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
    const pending = /^SigPnd:\s*([\da-f]+)$/m.exec(status)?.[1] ?? "0";
    return (Number(flags) & EXITING) !== 0 ||
      (BigInt(`0x${pending}`) & KILLED) !== 0n;
  } catch {
    return true;
  }
}

function placeOf({ file, line }: { file: string; line: number }): string {
  return `${file}:${line}`;
}

/** The process with a descriptor that has such a lock. */
function findHolder(fd: number, type: LockType, byte: number): number | null {
  if (os !== "linux") return null;
  // Deno gives /proc to programs with `--allow-all` alone.
  if (!isGranted({ name: "read" })) {
    return null;
  }
  try {
    const own = fs.readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
    const inode = /^ino:\s*(\d+)$/m.exec(own)?.[1];
    if (inode === undefined) return null;
    // lock: 1: OFDLCK ADVISORY READ -1 fe:00:1234 100 101
    const line = new RegExp(
      `^lock:.*${type}\\s.*:${inode} (\\d+) (\\d+|EOF)$`,
      "gm",
    );
    const others = fs.readdirSync("/proc");
    for (const pid of [String(process.pid), ...others]) {
      if (!/^\d+$/.test(pid)) continue;
      try {
        for (const name of fs.readdirSync(`/proc/${pid}/fdinfo`)) {
          if (Number(pid) === process.pid && Number(name) === fd) continue;
          const text = infoOf(pid, name);
          for (const [, from, to] of text.matchAll(line)) {
            if (Number(from) > byte) continue;
            if (to !== "EOF" && Number(to) < byte) continue;
            return Number(pid);
          }
        }
      } catch {
        // Gone, or not ours to look at.
      }
    }
  } catch {
    // Not permitted: the lock is named without its holder.
  }
  return null;
}

/** What is known of a descriptor; nothing if it is closed by now. */
function infoOf(pid: string, name: string): string {
  try {
    return fs.readFileSync(`/proc/${pid}/fdinfo/${name}`, "utf8");
  } catch {
    return "";
  }
}

/** Errors about locks whose holder could not be named, or is about to end. */
const unnamed = new WeakSet<DiskError>();

/**
 * The error for an image that is held.
 *
 * @param path The image's path.
 * @param purpose What it was to be opened for: `writing`, `reading`.
 * @param who Who holds it, `null` if that is not known, and in which way.
 * @returns The error.
 */
export function lockedError(
  path: string,
  purpose: string,
  who: { readonly holder: string | null; readonly holds: string },
): DiskError {
  const error = new DiskError(
    "locked",
    `Cannot open "${path}" for ${purpose} as ${
      who.holder ?? "another program"
    } ${who.holds}: close it there, or open with lock: "none" if you know better`,
    { operation: "open", path },
  );
  if (who.holder === null) unnamed.add(error);
  return error;
}

/**
 * The error for an image that shares its data with something that is open for
 * writing.
 *
 * @param path The image's path.
 * @param fd Its descriptor.
 * @returns The error; `null` if there is no such writer.
 */
export function besideError(path: string, fd: number): DiskError | null {
  const found = writerBeside(fd);
  if (found === null) return null;
  const error = lockedError(path, "writing", {
    holder: nameProcess(found.pid) ?? `process ${found.pid}`,
    holds: `has "${found.path}" open for writing, which shares its data`,
  });
  if (isEnding(found.pid)) unnamed.add(error);
  return error;
}

/**
 * How long, in ms, a lock is waited for whose holder cannot be named: the
 * kernel gives the locks of a killed program back only when its last request
 * has ended, and by then the program has no name any more. 0.6 s were seen.
 */
export const PATIENCE_MS = 1000;

const FIRST_PAUSE_MS = 2;
const LONGEST_PAUSE_MS = 50;

/**
 * Takes a lock, and tries again for {@linkcode PATIENCE_MS} where its holder
 * cannot be named.
 *
 * @param take Takes it.
 * @param signal Gives up.
 * @returns What `take` returned.
 * @throws {DiskError} What `take` threw last.
 */
export async function patiently<T>(
  take: () => T,
  signal?: AbortSignal,
): Promise<T> {
  const end = performance.now() + PATIENCE_MS;
  for (
    let pauseMs = FIRST_PAUSE_MS;;
    pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)
  ) {
    signal?.throwIfAborted();
    try {
      return take();
    } catch (error) {
      if (
        !(error instanceof DiskError) || !unnamed.has(error) ||
        performance.now() >= end
      ) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}
