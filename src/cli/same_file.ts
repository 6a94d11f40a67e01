/**
 * Which file a name leads to: before something is overwritten or removed, it
 * must be known to be what it is taken for. Names do not say: there are links,
 * and one file system may be mounted in several places.
 *
 * @module
 */

import { realpathSync } from "node:fs";
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
    // Two nodes of one device have inodes of their own.
    key: isBlockDevice
      ? `device ${stat.rdev}`
      : stat.ino === null
      ? `path ${realpathSync(path)}`
      : `file ${stat.dev} ${stat.ino}`,
    isFile: stat.isFile,
    isStream: stat.isCharDevice === true || stat.isFifo === true ||
      stat.isSocket === true,
    isBlockDevice,
  };
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
 * Whether two names lead to one file.
 *
 * @param a One name.
 * @param b The other.
 * @returns Whether they do; not if either leads nowhere.
 */
export async function isSameFile(a: string, b: string): Promise<boolean> {
  const [first, second] = await Promise.all([identify(a), identify(b)]);
  return first !== null && first.key === second?.key;
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
