/**
 * An image that is open and locked, as both backends begin with it; made first,
 * if that is asked for.
 *
 * Two programs may make, open, rename and remove one path at once. So what
 * counts is the file, not the path: once it is locked, it must be what the path
 * leads to, and a file that was made must be as empty as it was made. Nothing
 * is removed but a file that was made here, is locked, and still has its name.
 *
 * @module
 */

import fs from "node:fs";
import { captureStack } from "../call_site.ts";
import { DiskError } from "../errors.ts";
import type { LockInfo } from "../info.ts";
import { isReadOnlyDevice, refuseInUse } from "./device_use.ts";
import {
  claimFile,
  type FileClaim,
  leadsTo,
  ReplacedError,
} from "./file_claim.ts";
import {
  besideError,
  lockedError,
  patiently,
  rememberOpening,
} from "./holder.ts";
import {
  asDiskError,
  type ImageOptions,
  openFailure,
  openingOf,
} from "./image_options.ts";
import { notToBeMade } from "./medium.ts";
import { refuseAmongDevices } from "./new_name.ts";
import { systemCode } from "./system_error.ts";
import { loadLocks, openHeld } from "../platform/held_file.ts";
import { isGranted } from "../platform/permissions.ts";
import { os } from "../platform/system.ts";

/** What has been opened. */
export interface OpenedImage {
  /** Its descriptor. */
  readonly fd: number;
}

/** How an image is locked. */
export interface TakenLock {
  /** The same in words. */
  readonly info: LockInfo;
  /** What must be given back; `null` if closing the image is enough. */
  readonly claim: FileClaim | null;
}

/** An image that is open and locked. */
export interface HeldImage<T extends OpenedImage> {
  /** What was opened. */
  readonly image: T;
  /** How it is locked. */
  readonly lock: TakenLock;
  /** Whether it was made just now, and so is empty. */
  readonly made: boolean;
  /** Removes it if it was made just now. Before it is closed. */
  takeBack(): void;
  /** Unlocks and closes it. */
  close(): void;
}

/** Times that a path may lead elsewhere before this gives up. */
const MOST_TRIES = 100;

/**
 * Opens an image and locks it.
 *
 * @param path Its path.
 * @param options How it is wanted.
 * @param open Opens what the path leads to.
 * @param lock Locks it.
 * @returns The image.
 * @throws {DiskError} If it cannot be had; nothing is left open, and no file
 * that was not there.
 */
export async function holdImage<T extends OpenedImage>(
  path: string,
  options: ImageOptions,
  open: () => T,
  lock: (image: T) => TakenLock,
): Promise<HeldImage<T>> {
  await loadLocks();
  for (let tries = 1;; tries++) {
    try {
      return await tryToHold(path, options, open, lock);
    } catch (error) {
      if (!(error instanceof ReplacedError)) {
        throw openFailure(error, path, options);
      }
      if (tries < MOST_TRIES) continue;
      throw new DiskError(
        "locked",
        `Cannot open "${path}" as others remove it and make it anew all the time`,
        { operation: "open", path },
      );
    }
  }
}

async function tryToHold<T extends OpenedImage>(
  path: string,
  options: ImageOptions,
  open: () => T,
  lock: (image: T) => TakenLock,
): Promise<HeldImage<T>> {
  const { create, readOnly } = options;
  const origin = options.openedAt ?? captureStack();
  // Open until the end, so that no other file can get its number.
  const madeFd = create === undefined ? null : make(path, create.overwrite);
  let image: T | null = null;
  let taken: TakenLock | null = null;
  try {
    try {
      image = open();
    } catch (error) {
      const failure = whyNotOpened(error, path, options);
      // It was there a moment ago.
      if (create !== undefined && failure.kind === "not-found") {
        const there = fs.lstatSync(path, { throwIfNoEntry: false });
        if (!there?.isSymbolicLink()) throw new ReplacedError(path);
      }
      throw failure;
    }
    const { fd } = image;
    if (madeFd !== null && !isSame(madeFd, fd)) throw takenOver(path);
    if (create !== undefined && !fs.fstatSync(fd).isFile()) {
      throw notToBeMade(path);
    }
    if (!readOnly) refuseReadOnly(path, fd);
    if (!readOnly && options.lock !== "none") refuseInUse(path, fd);
    taken = await patiently(() => lock(image!), options.signal);
    // Locked itself by now: of two at once, one at least finds the other.
    await patiently(() => {
      if (!leadsTo(path, fd)) throw new ReplacedError(path);
      const beside = readOnly || options.lock === "none"
        ? null
        : besideError(path, fd);
      if (beside !== null) throw beside;
    }, options.signal);
    if (madeFd !== null && fs.fstatSync(fd).size > 0) throw takenOver(path);
    const { info } = taken;
    const claim = taken.claim ?? marker(path);
    const forget = info.method === "none" ? null : rememberOpening(fd, origin);
    const release = () => {
      forget?.();
      claim?.release();
    };
    return {
      image,
      lock: { info, claim: { release } },
      made: madeFd !== null,
      takeBack: () => {
        if (madeFd !== null) takeBack(path, fd, info.method !== "none");
      },
      close: () => {
        release();
        fs.closeSync(fd);
      },
    };
  } catch (error) {
    taken?.claim?.release();
    if (image !== null) fs.closeSync(image.fd);
    if (madeFd !== null && !isLost(error)) takeBack(path, madeFd, false);
    throw error;
  } finally {
    if (madeFd !== null) fs.closeSync(madeFd);
  }
}

/**
 * A file that Deno knows to be open, as a lock has one: `deno test` reports
 * those that a test leaves open, and not those of `node:fs`.
 */
function marker(path: string): FileClaim | null {
  try {
    const file = openHeld(path);
    return { release: () => file.close() };
  } catch {
    return null;
  }
}

/** Whether the file that was made here has another owner by now. */
function isLost(error: unknown): boolean {
  return error instanceof ReplacedError ||
    error instanceof DiskError &&
      (error.kind === "locked" || error.kind === "exists");
}

/** Makes an empty file; `null` if there is one that may be overwritten. */
function make(path: string, overwrite: boolean): number | null {
  const { O_RDWR, O_CREAT, O_EXCL } = fs.constants;
  refuseAmongDevices(path);
  try {
    return fs.openSync(path, O_RDWR | O_CREAT | O_EXCL, 0o644);
  } catch (error) {
    const failure = whyNotOpened(error, path, {
      ...{ create: { sizeBytes: 0, overwrite }, readOnly: false },
    });
    if (failure.kind !== "exists") throw failure;
    const target = lostTarget(path);
    if (target !== null) {
      throw new DiskError(
        "not-found",
        `Cannot create "${path}" as it is a link to "${target}", which is not there`,
        { operation: "create", path, cause: error },
      );
    }
    if (overwrite) return null;
    const { code, errno } = failure;
    throw new DiskError(
      "exists",
      `Cannot create "${path}" as it exists and "overwrite" must be true to lose its content: current value is false`,
      { operation: "create", path, code, errno, cause: error },
    );
  }
}

/** Where a link leads if nothing is there; `null` if it is none. */
function lostTarget(path: string): string | null {
  try {
    fs.statSync(path);
    return null;
  } catch (error) {
    if (systemCode(error)?.code !== "ENOENT") return null;
  }
  try {
    return fs.readlinkSync(path);
  } catch {
    return null;
  }
}

function takenOver(path: string): DiskError {
  return new DiskError(
    "exists",
    `Cannot create "${path}" as another program made it at the same time`,
    { operation: "create", path },
  );
}

/**
 * Opens an image once more.
 *
 * @param path Its path.
 * @param fd Its descriptor.
 * @param flags How: see open(2).
 * @returns Another descriptor of the very same file; `null` if its path leads
 * elsewhere by now.
 */
export function openAgain(
  path: string,
  fd: number,
  flags: number,
): number | null {
  // A pipe that has the name by now would be waited for. Files and block devices
  // take no notice: open(2).
  const other = fs.openSync(path, flags | (fs.constants.O_NONBLOCK ?? 0));
  if (isSame(fd, other)) return other;
  fs.closeSync(other);
  return null;
}

/**
 * The same, where it must be that file.
 *
 * @param path Its path.
 * @param fd Its descriptor.
 * @param flags How: see open(2).
 * @returns Another descriptor of the very same file.
 * @throws {DiskError} With kind `locked` if its path leads elsewhere by now.
 */
export function openSure(path: string, fd: number, flags: number): number {
  const other = openAgain(path, fd, flags);
  if (other !== null) return other;
  throw new DiskError(
    "locked",
    `Cannot open "${path}" as it was replaced meanwhile`,
    { operation: "open", path },
  );
}

/**
 * Whether two descriptors are of one file.
 *
 * @param a A descriptor.
 * @param b Another one.
 * @returns Whether they are.
 */
export function isSame(a: number, b: number): boolean {
  const [one, other] = [a, b].map((fd) => fs.fstatSync(fd, { bigint: true }));
  return one!.dev === other!.dev && one!.ino === other!.ino;
}

/**
 * Removes a file that was made here, as nothing came of it; not another one
 * that has its name by now, nor one that is held or was filled elsewhere.
 */
function takeBack(path: string, fd: number, locked: boolean): void {
  let claim: FileClaim | null = null;
  try {
    if (!locked) {
      claim = claimFile(path, fd, false);
      if (fs.fstatSync(fd).size > 0) return;
    }
    const file = fs.fstatSync(fd, { bigint: true });
    // A link that leads there is not what was made.
    const there = fs.lstatSync(path, { bigint: true });
    if (there.dev === file.dev && there.ino === file.ino) fs.unlinkSync(path);
  } catch {
    // Held, gone or not to be removed: what went wrong before counts.
  } finally {
    claim?.release();
  }
}

/**
 * What opening or making a file threw, in words.
 *
 * @param error What was thrown.
 * @param path The file's path.
 * @param options Whether it was to be written.
 * @returns The error.
 */
function whyNotOpened(
  error: unknown,
  path: string,
  options: Pick<ImageOptions, "create" | "readOnly">,
): DiskError {
  const operation = openingOf(options);
  const failure = asDiskError(error, path, operation);
  // How Windows says that others have it open, and do not share it.
  if (failure.code === "EBUSY" && os === "windows") {
    return lockedError(path, options.readOnly ? "reading" : "writing", {
      holder: null,
      holds: "has it open and does not share it",
    });
  }
  if (options.readOnly || failure === error) return failure;
  const { code, errno } = failure;
  // An open for writing is not permitted by mode (EACCES) or by attribute
  // (EPERM): fs/namei.c, inode_permission. A device may be out of bounds.
  const reason = code === "EROFS"
    ? "it is on a read-only file system"
    : code === "EPERM" && os === "linux" && !isDevice(path)
    ? "the file or its directory is immutable or append-only (see lsattr)"
    : code === "EACCES" && operation === "open" && isReadable(path)
    ? "the operating system does not permit it"
    : null;
  if (reason === null) return failure;
  return new DiskError(
    code === "EACCES" ? failure.kind : "read-only",
    operation === "create"
      ? `Cannot create "${path}" as ${reason}`
      : `Cannot open "${path}" for writing as ${reason}: open with readOnly: true to read it`,
    {
      operation,
      path,
      code: code!,
      cause: error,
      ...(errno === undefined ? {} : { errno }),
    },
  );
}

/** The kernel lets a read-only device be opened, and fails every write. */
function refuseReadOnly(path: string, fd: number): void {
  const stat = fs.fstatSync(fd, { bigint: true });
  if (!stat.isBlockDevice() || !isReadOnlyDevice(stat.rdev)) return;
  throw new DiskError(
    "read-only",
    `Cannot open "${path}" for writing as the device is read-only: open with readOnly: true to read it`,
    { operation: "open", path },
  );
}

/** Whether a file may be read. To ask takes a permission, which nobody is asked for. */
function isReadable(path: string): boolean {
  if (!isGranted({ name: "sys", kind: "uid" })) return false;
  try {
    fs.accessSync(path, fs.constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function isDevice(path: string): boolean {
  return fs.statSync(path, { throwIfNoEntry: false })?.isFile() === false;
}
