/**
 * Which file a name leads to: before something is overwritten or removed, it
 * must be known to be what it is taken for. Names do not say: there are links,
 * and one file system may be mounted in several places.
 *
 * @module
 */

import { realpathSync } from "node:fs";
import type { BackendInfo } from "../info.ts";
import { type FileFacts, statDescriptor, statFile } from "../platform/files.ts";
import { os } from "../platform/system.ts";
import {
  ALL_BYTES,
  belowDevice,
  isDataShared,
  keyOfDevice,
  keyOfFile,
} from "./device_use.ts";

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
  /**
   * Itself, and what a block device is a part of or made of, as far as known: which
   * bytes of it, or `some` of those.
   */
  readonly places: readonly {
    readonly key: string;
    readonly bytes: {
      readonly start: number;
      readonly end: number;
      readonly some: boolean;
    };
  }[];
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
  const key = keyOf(stat, path);
  return {
    key,
    isFile: stat.isFile,
    isStream: stat.isCharDevice === true || stat.isFifo === true ||
      stat.isSocket === true,
    isBlockDevice,
    places: [
      { key, bytes: ALL_BYTES },
      ...(isBlockDevice ? belowDevice(stat.rdev!) : []),
    ],
  };
}

function keyOf(stat: FileFacts, path: string): string {
  // Two nodes of one device have inodes of their own.
  if (stat.isBlockDevice === true) return keyOfDevice(stat.rdev!);
  return stat.ino === null
    ? `path ${realpathSync(path)}`
    : keyOfFile(stat.dev, stat.ino);
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
 * Finds out which file a descriptor of this process is open for. That needs no
 * permission.
 *
 * @param descriptor The descriptor.
 * @returns Its identity; `null` if it is not open, or on Windows.
 */
export function identifyDescriptor(descriptor: number): FileIdentity | null {
  // Without a number of its file it would take a name to know it by.
  if (os === "windows") return null;
  try {
    return identityOf(statDescriptor(descriptor), "");
  } catch {
    return null;
  }
}

/** A file that something is read from. */
export interface SourceFile {
  /** What to call it. */
  readonly name: string;
  /** Which file it is. */
  readonly identity: FileIdentity;
}

/**
 * Finds out which files a disk takes sectors from: its image, and those that a
 * container names, which the image is worth nothing without.
 *
 * @param info What the disk says of itself.
 * @returns The files; none of what is no file, such as a server's disk.
 */
export async function filesOf(
  { path, otherFiles = [] }: BackendInfo,
): Promise<SourceFile[]> {
  return await namedFiles(path, ...otherFiles.map((file) => file.path));
}

/**
 * Finds out which files a disk's writes may go to: what a container has its data
 * in, but not what backs it, which is only read.
 *
 * @param info What the disk says of itself.
 * @returns The files, as {@linkcode filesOf} has them.
 */
export async function writtenFilesOf(info: BackendInfo): Promise<SourceFile[]> {
  const { otherFiles = [] } = info;
  const written = otherFiles.filter(({ role }) => role !== "backing file");
  return await filesOf({ ...info, otherFiles: written });
}

/**
 * Finds out which files some names lead to.
 *
 * @param names The names; `null` for none.
 * @returns The files; none of what leads nowhere.
 */
export async function namedFiles(
  ...names: readonly (string | null)[]
): Promise<SourceFile[]> {
  const found: SourceFile[] = [];
  for (const name of names) {
    const identity = name === null ? null : await identify(name);
    if (identity !== null) found.push({ name: name!, identity });
  }
  return found;
}

/**
 * Finds out whether to write to a file is to write to what is read.
 *
 * @param file What is to be written to; `null` if there is nothing.
 * @param sources What is read.
 * @returns That of them which it is to write to, as {@linkcode isShared} has it;
 * `null` if it is none.
 */
export function sharedOf(
  file: FileIdentity | null,
  sources: readonly SourceFile[],
): SourceFile | null {
  return sources.find(({ identity }) => isShared(identity, file)) ?? null;
}

/**
 * Whether to write to one is to write to the other: they are one file, one is a
 * block device that is made of the other, such as a loop device, or a part of
 * it, or both are made of the same bytes.
 *
 * @param a One.
 * @param b The other.
 * @returns Whether it is, as far as known; not if either is nothing.
 */
export function isShared(
  a: FileIdentity | null,
  b: FileIdentity | null,
): boolean {
  return a !== null && b !== null && isDataShared(a.places, b.places);
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
