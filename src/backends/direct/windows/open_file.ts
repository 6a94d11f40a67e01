/**
 * Opens a raw image on Windows for the direct backend: through Deno's own
 * permission system, locked, probed, with an engine.
 *
 * A handle comes from `CreateFileW`, which knows no permissions. So the path is
 * opened by `node:fs` first, for the same, and what the handle is of must be what
 * that descriptor is of.
 *
 * The handle that is written to shares reading only, which is mandatory: no other
 * program can open the image for writing meanwhile, whatever it is, and nor can
 * we. What makes new content is closed by the time that it is opened, and a file
 * that would need a second one for its end is buffered.
 *
 * @module
 */

import fs from "node:fs";
import { readU64 } from "../../../../ffi/memory.ts";
import type { Windows } from "../../../../ffi/windows.ts";
import {
  ACCESS,
  FILE_FLAG,
  FILE_INFORMATION,
  SHARE,
} from "../../../../ffi/windows_abi.ts";
import { WINDOWS_ERRNO } from "../../../../ffi/windows_errno.ts";
import { SECTOR_BYTES } from "../../../geometry.ts";
import { resizeError } from "../../../resize.ts";
import { holdImage, openSure, type TakenLock } from "../../held_image.ts";
import { lockedError, nameHolder, patiently } from "../../holder.ts";
import { refuseOtherFormats } from "../../image_format.ts";
import { type ImageOptions, openFailure } from "../../image_options.ts";
import { imageGeometry } from "../../image_size.ts";
import { mediumOf, noDisk, notDirect } from "../../medium.ts";
import { type FastSpace, NewContent } from "../../new_content.ts";
import { keepName } from "../../new_name.ts";
import { MAX_ALIGNMENT } from "../../sysfs.ts";
import { lookAt, type Seen } from "../../warnings.ts";
import type { EngineOptions } from "../../../engines/mod.ts";
import { chooseWindowsEngine } from "../../../engines/windows/mod.ts";
import { DirectBackend } from "../backend.ts";
import { WindowsFileHost } from "./file_host.ts";
import { makeSparse } from "./sparse.ts";
import { claimOnWindows, openErrorOf, openSame, SHARE_ALL } from "./lock.ts";
import { type OpenedFile, type ProbedFile, probeFile } from "./probe.ts";

/**
 * Bytes of one call at most: drivers lock the memory of a call as a whole, and
 * refuse what is too much for them (ERROR_NO_SYSTEM_RESOURCES).
 */
export const MAX_CALL_BYTES = 2 ** 24;

/** A file that is open, and what it is. */
interface OpenedProbed extends OpenedFile {
  readonly probed: ProbedFile;
}

/**
 * Opens a file.
 *
 * @param windows Windows.
 * @param path The image's path.
 * @param options How to open it.
 * @param engine How an engine is wanted.
 * @returns The backend.
 * @throws {DiskError} If it cannot be opened as asked.
 */
export async function openFile(
  windows: Windows,
  path: string,
  options: ImageOptions,
  engine: EngineOptions,
): Promise<DirectBackend> {
  const { create, readOnly } = options;
  if (mediumOf(path, create !== undefined) !== "file") throw noDisk(path);
  const held = await holdImage(
    path,
    options,
    () => openToLook(path, options),
    ({ fd }) => takeLock(windows, path, fd, options),
  );
  const { fd, seen } = held.image;
  const sizeBytes = create?.sizeBytes ?? fs.fstatSync(fd).size;
  let handle = -1;
  let content: Content | null = null;
  let backend: DirectBackend | null = null;
  try {
    const open = () => openProbed(windows, path, fd, sizeBytes, options);
    // Before anything is changed, whether it can be had at all.
    let { probed, ...opened } = await patiently(open, options.signal);
    handle = opened.handle;
    if (options.direct === "require" && !probed.direct.active) {
      throw notDirect(path, probed.direct.reason ?? "Windows refuses it");
    }
    const blockSize = options.blockSize ?? SECTOR_BYTES;
    const geometry = imageGeometry(path, sizeBytes, blockSize, probed);
    if (create !== undefined) {
      windows.close(handle);
      handle = -1;
      content = new Content(windows, path, fd, options, probed.zeroesRanges);
      await content.make();
      content.close();
      ({ probed, ...opened } = open());
      handle = opened.handle;
    }
    const { direct, durability, zeroesRanges, sparse } = probed;
    const host = new WindowsFileHost(windows, readOnly);
    backend = new DirectBackend(
      host,
      {
        fd: handle,
        tailFd: -1,
        openTail: () => {
          const reason =
            `direct I/O needs a size in multiples of ${direct.offsetAlignment} bytes here: open it with direct: "never"`;
          throw resizeError(reason, path);
        },
        geometry,
        abilities: {
          readOnly,
          flush: "native",
          fua: "emulated",
          discard: zeroesRanges && sparse ? "native" : "none",
          writeZeroes: zeroesRanges ? "native" : "emulated",
          secureErase: "none",
        },
        writeAlignment: direct.offsetAlignment,
        readAlignment: direct.readOffsetAlignment,
        maxCallBytes: MAX_CALL_BYTES,
        // Two calls that take only pages, each by itself, are all there is.
        maxSegments: 1,
        blockDevice: false,
        zeroesRanges,
        zeroesInPlace: zeroesRanges && !sparse,
        claim: { release: () => held.close() },
        signal: null,
        info: {
          backend: "direct",
          path,
          medium: "file",
          fileSystem: probed.fileSystem,
          engine: { name: "sync", reason: null },
          direct,
          durability,
          lock: held.lock.info,
          format: "raw",
          ...seen,
          id: options.id ?? idOf(fd),
        },
      },
      chooseWindowsEngine(host, handle, path, engine),
    );
    return backend;
  } catch (error) {
    content?.undo();
    held.takeBack();
    if (backend !== null) await backend.close();
    else {
      if (handle >= 0) windows.close(handle);
      held.close();
    }
    throw openFailure(error, path, options);
  }
}

function idOf(fd: number): string {
  const { ino } = fs.fstatSync(fd, { bigint: true });
  return `platter-${ino.toString(16)}`.slice(0, 20);
}

/**
 * Opens a file for reading, after Deno and Windows have said that it may be opened
 * for what it is to be opened for.
 */
function openToLook(
  path: string,
  options: ImageOptions,
): { fd: number; seen: Seen } {
  if (!options.readOnly) {
    try {
      fs.closeSync(fs.openSync(path, fs.constants.O_RDWR));
    } catch (error) {
      // Someone else writes to it: said once it is to be locked.
      if ((error as { code?: unknown }).code !== "EBUSY") throw error;
    }
  }
  const fd = fs.openSync(path, fs.constants.O_RDONLY);
  try {
    const sizeBytes = options.create === undefined ? fs.fstatSync(fd).size : 0;
    const seen = lookAt(fd, sizeBytes, new Uint8Array(MAX_ALIGNMENT));
    refuseOtherFormats(path, seen.contentFormat, sizeBytes, options);
    return { fd, seen };
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

/** Whether others must not write to the file. */
function excludesWriters({ lock, readOnly }: ImageOptions): boolean {
  return lock === "exclusive" || lock === "auto" && !readOnly;
}

function takeLock(
  windows: Windows,
  path: string,
  fd: number,
  options: ImageOptions,
): TakenLock {
  if (!excludesWriters(options)) {
    const reason = options.lock === "none"
      ? 'not wanted: lock: "none"'
      : "a reader locks nobody out";
    return { info: { method: "none", reason }, claim: null };
  }
  const claim = claimOnWindows(path, fd, options.readOnly, windows);
  return { info: { method: "share mode", reason: null }, claim };
}

/** Opens the file for I/O, and looks what that is. */
function openProbed(
  windows: Windows,
  path: string,
  fd: number,
  sizeBytes: number,
  options: ImageOptions,
): OpenedProbed {
  const { GENERIC_READ, GENERIC_WRITE } = ACCESS;
  const open = (flags: number): number => {
    const handle = openSame(
      windows,
      path,
      fd,
      options.readOnly ? GENERIC_READ : GENERIC_READ | GENERIC_WRITE,
      excludesWriters(options) ? SHARE.READ | SHARE.DELETE : SHARE_ALL,
      flags | FILE_FLAG.OVERLAPPED,
    );
    if (handle === -WINDOWS_ERRNO.EBUSY) {
      const purpose = options.readOnly ? "reading" : "writing";
      throw lockedError(path, purpose, {
        holder: nameHolder(fd, "FLOCK"),
        holds: "has it open and does not share it",
      });
    }
    return handle;
  };
  const buffered = (reason: string): OpenedProbed => {
    const handle = open(0);
    if (handle < 0) throw openErrorOf(path, -handle);
    const opened = { handle, reason };
    return { ...opened, probed: probeFile(windows, opened) };
  };
  if (options.direct === "never") {
    return buffered('direct I/O was not wanted: direct: "never"');
  }
  const handle = open(FILE_FLAG.NO_BUFFERING);
  if (handle === -WINDOWS_ERRNO.EINVAL) {
    return buffered("the file system refuses FILE_FLAG_NO_BUFFERING");
  }
  if (handle < 0) throw openErrorOf(path, -handle);
  const opened = { handle, reason: null };
  const probed = probeFile(windows, opened);
  const { offsetAlignment } = probed.direct;
  if (options.readOnly || sizeBytes % offsetAlignment === 0) {
    return { ...opened, probed };
  }
  windows.close(handle);
  return buffered(
    `direct I/O is whole sectors of ${offsetAlignment} bytes here, and the file's size is not: current value is ${sizeBytes}`,
  );
}

/** Gives a file new content, under the lock, before it is opened for I/O. */
class Content {
  readonly #windows: Windows;
  readonly #path: string;
  readonly #content: NewContent;
  /** Two that write: one of `node:fs`, one of Windows. */
  #writer = -1;
  #handle = -1;

  /** Opens the file; nothing is changed yet. */
  constructor(
    windows: Windows,
    path: string,
    fd: number,
    options: ImageOptions,
    zeroesRanges: boolean,
  ) {
    this.#windows = windows;
    this.#path = path;
    const access = ACCESS.GENERIC_READ | ACCESS.GENERIC_WRITE;
    const handle = openSame(windows, path, fd, access, SHARE_ALL);
    if (handle < 0) throw openErrorOf(path, -handle);
    this.#handle = handle;
    try {
      this.#writer = openSure(path, fd, fs.constants.O_RDWR);
      const space = spaceOf(windows, handle, zeroesRanges);
      this.#content = new NewContent(path, this.#writer, options, space);
      // Where that fails, what is not written takes its place all the same.
      if (!options.create!.preallocate) makeSparse(windows, handle);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Makes it as large and as empty as it is to be. */
  async make(): Promise<void> {
    await this.#content.makeRoom();
    await this.#content.cut();
    keepName(this.#path, this.#writer);
  }

  /** Takes back what was begun, unless it is done. */
  undo(): void {
    if (this.#writer >= 0) this.#content.undo();
    this.close();
  }

  /** Closes what writes. */
  close(): void {
    if (this.#writer >= 0) fs.closeSync(this.#writer);
    if (this.#handle >= 0) this.#windows.close(this.#handle);
    this.#writer = this.#handle = -1;
  }
}

/** What Windows can do for new content. */
function spaceOf(
  windows: Windows,
  handle: number,
  zeroesRanges: boolean,
): FastSpace {
  return {
    // A file that is not sparse has its place once it has its size.
    reserve(sizeBytes) {
      const { Standard } = FILE_INFORMATION;
      const found = windows.fileInformation(handle, Standard);
      return typeof found !== "number" && readU64(found, 0) >= sizeBytes;
    },
    zero: (sizeBytes) =>
      zeroesRanges && windows.zero(handle, 0, sizeBytes) >= 0,
    cutsToZeroes: true,
  };
}
