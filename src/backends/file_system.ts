/**
 * Which file system a file is on, asked without FFI, and what lies below an
 * overlay: that is in `/proc/self/mountinfo`, which Deno gives to programs with
 * `--allow-all` alone. Nobody is prompted; what may not be asked is not known.
 * What a file system does is in `./medium.ts`.
 *
 * statfs(2) does not always tell. Of 9p it says what the server says of the file
 * system below it there (fs/9p/vfs_super.c, `v9fs_statfs`), so that ext4 may be
 * that of another machine: it has no device here.
 *
 * An overlay names the directory of its upper layer, where written files are, as
 * the program that mounted it saw it. In a container that is a path of the host,
 * and whatever has that path here is another thing. So a file counts as found
 * below only if it has the times and the size of the one that is open.
 *
 * @module
 */

import fs from "node:fs";
import { isGranted } from "../platform/permissions.ts";
import { os } from "../platform/system.ts";
import { belowDevice } from "./device_use.ts";
import {
  type FileSystem,
  fileSystemOf,
  type FlushReach,
  flushReach,
  isKnown,
  isOverlay,
  nineP,
  overlayAbove,
} from "./medium.ts";
import { splitDevice } from "./sysfs.ts";

/**
 * The file system that an image is on.
 *
 * @param path Its path.
 * @param fd Its descriptor.
 * @returns What is known of it; `null` if it cannot be asked for without a prompt
 * (`--allow-sys=statfs`).
 */
export function fileSystemAt(path: string, fd: number): FileSystem | null {
  const found = statfs(path);
  return found === null ? null : identify(found, fd);
}

/**
 * Whether a file system can be asked for its name, and has none that is known here.
 *
 * @param path A file on it.
 * @returns Whether that is so.
 */
export function isUnknownAt(path: string): boolean {
  const found = statfs(path);
  return found !== null && !isKnown(found.name);
}

/**
 * What a file system really is.
 *
 * @param found What statfs(2) says that a file is on.
 * @param fd The file's descriptor.
 * @returns What it is, as far as that may be asked.
 */
export function identify(found: FileSystem, fd: number): FileSystem {
  if (isOverlay(found)) return overlayOf(fd);
  const mount = mountOf(fd, findMount);
  const madeUp = isMadeUp(fs.fstatSync(fd, { bigint: true }).dev);
  if (madeUp && (found.onDevice || mount?.type === "9p")) return nineP();
  return mount !== null && isWithoutBarriers(mount)
    ? { ...found, withoutBarriers: true }
    : found;
}

/** Whether ext4, btrfs, f2fs, or XFS before Linux 4.19, is mounted so. */
function isWithoutBarriers({ options }: MountLine): boolean {
  const words = options.split(",");
  return words.includes("nobarrier") || words.includes("barrier=0");
}

/**
 * What a flush of an image reaches: what its file system lets through, and the
 * file that the device is made of, as a loop device is, which is flushed with it.
 *
 * @param fileSystem The file system that it is on; `null` for a device.
 * @param fd Its descriptor.
 * @param deviceCache The cache of the device, as far as it is known.
 * @returns How far, and why no farther.
 */
export function flushReachOf(
  fileSystem: FileSystem | null,
  fd: number,
  deviceCache: string,
): FlushReach {
  const own: FlushReach = fileSystem === null
    ? { flush: "media", reason: null }
    : flushReach(fileSystem, deviceCache);
  if (own.flush !== "media") return own;
  const stat = fs.fstatSync(fd, { bigint: true });
  const device = stat.isBlockDevice() ? stat.rdev : stat.dev;
  for (const below of belowDevice(Number(device))) {
    if (!("path" in below)) continue;
    const reach = reachOfFile(below.path);
    if (reach === null || reach.flush === "media") continue;
    return {
      ...reach,
      reason:
        `of "${below.path}", which the device is made of, ${reach.reason}`,
    };
  }
  return own;
}

/** What a flush of another file reaches; `null` if it is not to be told. */
function reachOfFile(path: string): FlushReach | null {
  return withFile(path, (fd) => {
    const found = fileSystemAt(path, fd);
    return found === null ? null : flushReachOf(found, fd, "unknown");
  });
}

/** Opens a file for a moment; `null` if it cannot be. */
function withFile<T>(path: string, use: (fd: number) => T | null): T | null {
  let fd: number;
  try {
    const { O_RDONLY, O_NONBLOCK } = fs.constants;
    fd = fs.openSync(path, O_RDONLY | (O_NONBLOCK ?? 0));
  } catch {
    return null;
  }
  try {
    return use(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** Whether no device has that number: its first half is 0. */
function isMadeUp(device: bigint): boolean {
  return splitDevice(device).major === 0;
}

/**
 * How much space a file system has left.
 *
 * @param path A file on it.
 * @returns Bytes, those for the administrator alone included; `null` if it cannot
 * be asked for.
 */
export function freeBytesAt(path: string): number | null {
  const found = askStatfs(path);
  // One without a limit says nothing but zeroes, as tmpfs with size=0.
  return found === null || found.blocks === 0
    ? null
    : found.bfree * found.bsize;
}

/** What statfs(2) says that a path is on, if it may be asked. */
function statfs(path: string): FileSystem | null {
  const found = askStatfs(path);
  // Magic numbers above 2^31 may come sign-extended.
  return found === null
    ? null
    : fileSystemOf(Number(BigInt.asUintN(32, BigInt(found.type))));
}

/** Asks statfs(2), if there need be no prompt. */
function askStatfs(path: string): fs.StatsFs | null {
  if (os !== "linux") return null;
  try {
    return isGranted({ name: "sys", kind: "statfs" })
      ? fs.statfsSync(path)
      : null;
  } catch {
    return null;
  }
}

/** What `/proc/self/mountinfo` says of a mount: proc_pid_mountinfo(5). */
interface MountLine {
  readonly root: string;
  readonly mountPoint: string;
  readonly type: string;
  readonly options: string;
}

/** Finds the mount that a file is on; `null` if that may not be asked. */
function mountOf<T>(
  fd: number,
  find: (mountInfo: string, id: number) => T | null,
): T | null {
  try {
    if (!isGranted({ name: "read" })) return null;
    const info = fs.readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
    const id = /^mnt_id:\s*(\d+)$/m.exec(info)?.[1];
    return id === undefined
      ? null
      : find(fs.readFileSync("/proc/self/mountinfo", "utf8"), Number(id));
  } catch {
    // Deno gives /proc to programs with `--allow-all` alone.
    return null;
  }
}

/** Finds a mount by its number. */
function findMount(mountInfo: string, id: number): MountLine | null {
  for (const line of mountInfo.split("\n")) {
    if (!line.startsWith(`${id} `)) continue;
    // 36 35 0:30 /root /mountpoint rw,noatime shared:1 - overlay none rw,…
    const match = /^(.*?) - (\S+) \S+ (\S+)$/.exec(line);
    if (match === null) return null;
    const [, fields, type, options] = match;
    const [, , , root, mountPoint] = fields!.split(" ");
    return {
      root: unescape(root!),
      mountPoint: unescape(mountPoint!),
      type: type!,
      options: options!,
    };
  }
  return null;
}

/** How an overlay is mounted. */
export interface OverlayMount {
  /** Where it is mounted. */
  readonly mountPoint: string;
  /** The directory of the overlay that is mounted there; most often `/`. */
  readonly root: string;
  /** The directory of its upper layer; `null` if it has none. */
  readonly upper: string | null;
  /** Whether a flush does nothing on it. */
  readonly volatile: boolean;
}

/**
 * Finds an overlay's mount.
 *
 * @param mountInfo The content of `/proc/self/mountinfo`.
 * @param id The mount's number.
 * @returns How it is mounted; `null` if no overlay has that number.
 */
export function findOverlay(
  mountInfo: string,
  id: number,
): OverlayMount | null {
  const line = findMount(mountInfo, id);
  return line === null ? null : overlayMount(line);
}

function overlayMount(line: MountLine): OverlayMount | null {
  if (line.type !== "overlay") return null;
  const { mountPoint, root } = line;
  const words = line.options.split(",");
  const upper = words.find((word) => word.startsWith("upperdir="));
  return {
    mountPoint,
    root,
    upper: upper === undefined
      ? null
      : unescape(upper.slice("upperdir=".length)),
    volatile: words.includes("volatile") || words.includes("fsync=volatile"),
  };
}

/** Blanks and the like are octal there; bytes of UTF-8 stay as they are. */
function unescape(text: string): string {
  return text.replace(
    /\\([0-7]{3})/g,
    (_, octal) => String.fromCharCode(parseInt(octal, 8)),
  );
}

/**
 * Sees through an overlay, as far as that is allowed.
 *
 * @param fd A file on it.
 * @returns What is known of it.
 */
export function overlayOf(fd: number): FileSystem {
  const mount = mountOf(fd, findOverlay);
  if (mount === null) return overlayAbove(null, false);
  try {
    const path = pathInUpper(mount, fs.readlinkSync(`/proc/self/fd/${fd}`));
    const upper = path !== null && isSeenThrough(fd, path)
      ? withFile(path, (below) => fileSystemAt(path, below))
      : null;
    return overlayAbove(upper, mount.volatile);
  } catch {
    // Not in the upper layer.
    return overlayAbove(null, mount.volatile);
  }
}

/**
 * Where a file of an overlay is in its upper layer.
 *
 * @param mount How the overlay is mounted.
 * @param path The file's path, without links.
 * @returns The path of what it is made of; `null` if that is not to be told.
 */
export function pathInUpper(
  { mountPoint, root, upper }: OverlayMount,
  path: string,
): string | null {
  // What was given as a relative path was relative to another directory.
  if (upper === null || !upper.startsWith("/")) return null;
  const base = mountPoint === "/" ? "" : mountPoint;
  if (!path.startsWith(`${base}/`)) return null;
  const inside = root === "/" ? "" : root;
  return `${upper}${inside}${path.slice(base.length)}`;
}

/** Whether a path leads to what an open file of an overlay is made of. */
function isSeenThrough(fd: number, path: string): boolean {
  const file = fs.fstatSync(fd, { bigint: true });
  // Its inode may have another number: a file that was copied up keeps its own.
  const below = fs.lstatSync(path, { bigint: true });
  return below.isFile() && below.size === file.size &&
    below.mtimeNs === file.mtimeNs && below.ctimeNs === file.ctimeNs &&
    below.mode === file.mode && below.uid === file.uid &&
    below.blocks === file.blocks;
}
