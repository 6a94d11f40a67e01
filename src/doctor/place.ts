/**
 * Where a diagnosis makes its scratch file: in the folder that a path is, or
 * that its file is in. What was there before is not touched; what is made there
 * is one new folder, and removed whatever happens. Permissions are looked at
 * first, so that nobody is prompted.
 *
 * @module
 */

import fs from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { asDiskError } from "../backends/image_options.ts";
import { mediumOfStat, noDisk } from "../backends/medium.ts";
import { DiskError } from "../errors.ts";
import { isGranted, isNotCapable } from "../platform/permissions.ts";
import { runtimeName } from "../platform/system.ts";
import { isNbdUri } from "../protocol/nbd/uri.ts";
import { isRbdUri } from "../protocol/rbd/uri.ts";

/** Why there is no scratch file. */
export interface Lack {
  /** Why. */
  readonly reason: string;
  /** What would mend it; `null` if nothing is known to. */
  readonly remedy: string | null;
}

/** What a path leads to. */
export interface Place {
  /** The path, as it was given. */
  readonly path: string;
  /** Where scratch files go; `null` if they cannot. */
  readonly folder: string | null;
  /** Whether the path is a disk that can be looked at. */
  readonly isImage: boolean;
  /** Why there is no folder, and what would mend it. */
  readonly lack: Lack | null;
}

/**
 * Finds out where a path leads.
 *
 * @param given The path, or a `file:` URL.
 * @returns What is there.
 * @throws {DiskError} If there is nothing, or something that has no place for
 * files.
 */
export function placeOf(given: string | URL): Place {
  if (isNbdUri(given) || isRbdUri(given)) {
    throw new TypeError(
      `Cannot diagnose "${given}" as it must be a path on this machine`,
    );
  }
  const path = typeof given === "string" ? given : fileURLToPath(given);
  const lacking = (permission: "read" | "write", where: string) => ({
    reason: `${runtimeName} may not ${permission} "${where}"`,
    remedy: permission === "read"
      ? `--allow-read=${where} --allow-write=${where}`
      : `--allow-write=${where}`,
  });
  if (!isGranted({ name: "read", path })) {
    const lack = lacking("read", path);
    return { path, folder: null, isImage: false, lack };
  }
  let stat: fs.Stats;
  let folder = path;
  try {
    stat = fs.statSync(path);
    if (stat.isFile()) folder = dirname(fs.realpathSync(path));
  } catch (error) {
    const why = asDiskError(error, path, "diagnose");
    if (why.kind === "not-found") {
      throw new DiskError(
        "not-found",
        `Cannot diagnose "${path}" as there is no such file or directory`,
        { operation: "diagnose", path, cause: error },
      );
    }
    if (!isNotCapable(error)) throw why;
    // Deno gives /dev, /proc and others to programs with --allow-all alone.
    const lack = { reason: why.message, remedy: "--allow-all" };
    return { path, folder: null, isImage: false, lack };
  }
  if (!stat.isDirectory() && mediumOfStat(stat) === null) throw noDisk(path);
  if (!stat.isDirectory() && !stat.isFile()) {
    const lack = {
      reason: "nothing is written on a device, so nothing is tried",
      remedy: stat.isBlockDevice()
        ? "a folder of a file system that is mounted of it"
        : null,
    };
    return { path, folder: null, isImage: true, lack };
  }
  for (const name of ["read", "write"] as const) {
    if (isGranted({ name, path: folder })) continue;
    const lack = lacking(name, folder);
    return { path, folder: null, isImage: stat.isFile(), lack };
  }
  return { path, folder, isImage: stat.isFile(), lack: null };
}

/** A folder for scratch files. It goes away with its scope. */
export interface Scratch extends Disposable {
  /** The path of something in it. */
  of(name: string): string;
}

/**
 * Makes a folder for scratch files.
 *
 * @param folder Where.
 * @returns It.
 * @throws {DiskError} If it cannot be made.
 */
export function makeScratch(folder: string): Scratch {
  let path: string;
  try {
    path = fs.mkdtempSync(join(folder, ".platter-doctor-"));
  } catch (error) {
    throw asDiskError(error, folder, "make a scratch file in");
  }
  return {
    of: (name) => join(path, name),
    [Symbol.dispose]: () => fs.rmSync(path, { recursive: true, force: true }),
  };
}

/**
 * Why a scratch file cannot be made or written, and what would mend that.
 *
 * @param error What was thrown.
 * @param folder Where it was to be.
 * @returns The same in words.
 */
export function lackOf(
  error: DiskError,
  folder: string,
): Lack {
  const remedies: Readonly<Partial<Record<DiskError["kind"], string>>> = {
    "no-space": `make room: df -h ${folder}; df -i ${folder}`,
    "read-only": "a folder on a file system that is mounted for writing",
    permission: `a folder that may be written to: ls -ld ${folder}`,
  };
  return {
    reason: error.message,
    // Of what the runtime does not allow, or FFI that does not work, the reason
    // tells.
    remedy: isNotCapable(error.cause) || error.kind === "platform"
      ? null
      : remedies[error.kind] ?? "another folder",
  };
}
