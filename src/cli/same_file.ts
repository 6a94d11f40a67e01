/**
 * Which file a name leads to: before something is overwritten or removed, it
 * must be known to be what it is taken for. Names do not say: there are links,
 * and one file system may be mounted in several places.
 *
 * @module
 */

import { realpathSync } from "node:fs";
import { belowDevice } from "../backends/device_use.ts";
import { type FileFacts, remove, statFile } from "../platform/files.ts";

/** What two names share if they lead to one file. */
export interface FileIdentity {
  /** Compared; it means nothing else. */
  readonly key: string;
  /** Whether it is a file with content, which can be cut. */
  readonly isFile: boolean;
  /** Whether it is a pipe, a terminal or the like, where nothing is kept. */
  readonly isStream: boolean;
  /** Whether it is a block device. */
  readonly isBlockDevice: boolean;
  /** The keys of what a block device is a part of or made of, as far as known. */
  readonly below: readonly string[];
}

/**
 * Tells what a file is.
 *
 * @param stat What the system says of it.
 * @param path Its name, for systems that do not number their files.
 * @returns Its identity.
 */
export function identityOf(stat: FileFacts, path: string): FileIdentity {
  const isBlockDevice = stat.isBlockDevice === true;
  return {
    key: keyOf(stat, path),
    isFile: stat.isFile,
    isStream: stat.isCharDevice === true || stat.isFifo === true ||
      stat.isSocket === true,
    isBlockDevice,
    below: isBlockDevice
      ? belowDevice(stat.rdev!).map((it) =>
        "device" in it ? keyOfDevice(it.device) : keyOfFile(it)
      )
      : [],
  };
}

function keyOf(stat: FileFacts, path: string): string {
  // Two nodes of one device have inodes of their own.
  if (stat.isBlockDevice === true) return keyOfDevice(stat.rdev!);
  return stat.ino === null ? `path ${realpathSync(path)}` : keyOfFile(stat);
}

function keyOfDevice(rdev: number): string {
  return `device ${rdev}`;
}

function keyOfFile({ dev, ino }: { dev: number; ino: number | null }): string {
  return `file ${dev} ${ino}`;
}

/**
 * Finds out which file a name leads to.
 *
 * @param path The name.
 * @returns Its identity; `null` if there is nothing, or it is no file's name.
 */
export async function identify(path: string): Promise<FileIdentity | null> {
  try {
    return identityOf(await statFile(path), path);
  } catch {
    return null;
  }
}

/**
 * Whether to write to one is to write to the other: they are one file, or one is
 * a block device that is made of the other, such as a loop device, or a part of
 * it.
 *
 * @param a One.
 * @param b The other.
 * @returns Whether it is, as far as known; not if either is nothing.
 */
export function isShared(
  a: FileIdentity | null,
  b: FileIdentity | null,
): boolean {
  if (a === null || b === null) return false;
  return a.key === b.key || a.below.includes(b.key) || b.below.includes(a.key);
}

/**
 * Whether to write to what one name leads to is to write to what the other one
 * leads to: see {@linkcode isShared}.
 *
 * @param a One name.
 * @param b The other.
 * @returns Whether it is; not if either leads nowhere.
 */
export async function isSameFile(a: string, b: string): Promise<boolean> {
  const [first, second] = await Promise.all([identify(a), identify(b)]);
  return isShared(first, second);
}

/**
 * Removes a file that was made here, unless its name leads to another one by
 * now.
 *
 * @param path Its name.
 * @param made What it was when it was made; `null` if that is not known.
 * @returns What became of it, in words.
 */
export async function takeBack(
  path: string,
  made: FileIdentity | null,
): Promise<string> {
  const there = await identify(path);
  if (there === null) return `"${path}" is gone`;
  if (there.key !== made?.key) {
    return `"${path}" is another file by now and was left as it is`;
  }
  return await remove(path).then(
    () => `"${path}" was removed again`,
    () => `"${path}" is incomplete and could not be removed`,
  );
}
