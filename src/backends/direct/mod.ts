/**
 * Opens a raw image or block device for the direct backend: through Deno's own
 * permission system, locked, probed, with an engine.
 *
 * @module
 */

import { closeSync, fstatSync, openSync } from "node:fs";
import { DIRECTIO_ON, errnoName, FALLOCATE } from "../../../ffi/abi.ts";
import { blockDeviceSize } from "../../../ffi/block_device.ts";
import { fileSizeLimit } from "../../../ffi/file_size_limit.ts";
import { type Libc, openLibc } from "../../../ffi/libc.ts";
import { alignedMemory } from "../../../ffi/memory.ts";
import { statfsType } from "../../../ffi/statx.ts";
import { captureStack } from "../../call_site.ts";
import {
  chooseEngine,
  DEFAULT_ENGINE,
  type EngineOptions,
  syncFile,
  WorkerDescriptors,
} from "../../engines/mod.ts";
import { errnoText } from "../../errno.ts";
import { os } from "../../platform/system.ts";
import {
  listenForFileSizeSignal,
  type SignalListener,
} from "../file_size_signal.ts";
import { holdImage, openSure, type TakenLock } from "../held_image.ts";
import { refuseOtherFormats } from "../image_format.ts";
import {
  asDiskError,
  checkImageOptions,
  type ImageOptions,
  openError,
  openFailure,
} from "../image_options.ts";
import { imageGeometry } from "../image_size.ts";
import { fileSystemOf, mediumOf, noDisk, notDirect } from "../medium.ts";
import { type FastSpace, NewContent } from "../new_content.ts";
import { keepName } from "../new_name.ts";
import { MAX_ALIGNMENT } from "../sysfs.ts";
import { lookAt, type Seen } from "../warnings.ts";
import { writeBack } from "../write_back.ts";
import { DirectBackend } from "./backend.ts";
import type { DirectImage } from "./image.ts";
import { loadFfi } from "./load_ffi.ts";
import { takeLock } from "./lock.ts";
import { PosixFileHost } from "./posix_file_host.ts";
import {
  fileSystemOfFile,
  type OpenedFor,
  probe,
  type Probed,
} from "./probe.ts";

export { holdFile } from "./hold_file.ts";

/** How to open an image with FFI. */
export interface DirectOptions extends ImageOptions {
  /** How an engine is wanted. */
  readonly engine?: EngineOptions;
}

/**
 * Opens an image with FFI.
 *
 * The descriptor comes from `node:fs`, so that Deno's read and write
 * permissions are asked for this path as they are for any other: FFI is no way
 * around them.
 *
 * @param path The image's path.
 * @param options How to open it.
 * @returns The backend.
 * @throws {DiskError} If it cannot be opened as asked.
 * @throws {RangeError} If an option is out of its range.
 */
export async function openDirect(
  path: string,
  options: DirectOptions,
): Promise<DirectBackend> {
  options = { openedAt: captureStack(), ...options };
  checkImageOptions(options);
  if (os === "windows") {
    const { openOnWindows } = await import("./windows/mod.ts");
    return await openOnWindows(path, options, options.engine ?? DEFAULT_ENGINE);
  }
  const libc = loadFfi(openLibc, path);
  // Without a limit there is no signal, and no need of a thread for it.
  const signal = options.readOnly || fileSizeLimit(libc) === Infinity
    ? null
    : listenForFileSizeSignal();
  try {
    return await openListening(libc, path, options, signal);
  } catch (error) {
    await signal?.release();
    throw error;
  }
}

/** Writes a file back by its file system's number: what is below does not matter. */
function writeBackFile(libc: Libc, fd: number): void {
  if (libc.abi.os !== "linux" || !fstatSync(fd).isFile()) return;
  const magic = statfsType(libc, fd);
  if (magic >= 0) writeBack(fd, fileSystemOf(magic).name);
}

async function openListening(
  libc: Libc,
  path: string,
  options: DirectOptions,
  signal: SignalListener | null,
): Promise<DirectBackend> {
  mediumOf(path, options.create !== undefined);
  WorkerDescriptors.use(libc, path);
  const held = await holdImage(
    path,
    options,
    () => {
      const file = openFile(libc, path, options);
      try {
        // Before it is looked at, which is a direct read.
        if (file.opened.method !== null) writeBackFile(libc, file.fd);
        const seen = look(libc, file.fd, options);
        // Before it is locked: whoever opens it otherwise locks it otherwise.
        const { size } = fstatSync(file.fd);
        refuseOtherFormats(path, seen.contentFormat, size, options);
        return { ...file, seen };
      } catch (error) {
        closeSync(file.fd);
        throw error;
      }
    },
    ({ fd }) => takeLock(libc, fd, path, options),
  );
  const { fd, opened, seen } = held.image;
  const content = options.create === undefined
    ? null
    : new NewContent(path, fd, options, fastSpace(libc, fd));
  const openTail = () => openSure(path, fd, libc.abi.open.O_RDWR);
  let tailFd = -1;
  let backend: DirectBackend | null = null;
  try {
    await content?.makeRoom();
    const found = examine(libc, fd, path, opened, options);
    // It may be cut yet.
    const sizeBytes = options.create?.sizeBytes ?? found.sizeBytes;
    const probed = { ...found, sizeBytes };
    const geometry = imageGeometry(
      path,
      sizeBytes,
      options.blockSize ?? probed.logicalBlockSize,
      probed,
    );
    const alignment = probed.direct.offsetAlignment;
    if (
      !options.readOnly && opened.method !== null &&
      probed.medium === "file" && probed.sizeBytes % alignment !== 0
    ) tailFd = openTail();
    const host = new PosixFileHost(libc);
    backend = new DirectBackend(
      host,
      {
        ...describe(libc, path, options, probed, tailFd, held.lock, seen),
        fd,
        geometry,
        signal,
        openTail,
      },
      chooseEngine(
        host,
        fd,
        path,
        probed,
        options.engine ?? DEFAULT_ENGINE,
      ),
    );
    await content?.cut();
    if (content !== null) {
      keepName(path, fd, (folder) => syncFolder(libc, folder));
    }
    return backend;
  } catch (error) {
    content?.undo();
    held.takeBack();
    if (backend !== null) await backend.close();
    else {
      if (tailFd >= 0) closeSync(tailFd);
      held.close();
    }
    throw openFailure(error, path, options);
  }
}

/** Looks at what is there, in reads that any host takes. */
function look(libc: Libc, fd: number, options: ImageOptions): Seen {
  const sizeBytes = options.create !== undefined
    ? 0
    : fstatSync(fd).isFile()
    ? fstatSync(fd).size
    : Math.max(0, blockDeviceSize(libc, fd));
  return lookAt(fd, sizeBytes, alignedMemory(MAX_ALIGNMENT));
}

/** What fallocate(2) can do for new content. */
function fastSpace(libc: Libc, fd: number): FastSpace {
  const allocate = (mode: number) => (sizeBytes: number): boolean => {
    const { EINTR, EOPNOTSUPP, ENOSYS, EINVAL } = libc.abi.errno;
    for (;;) {
      const result = libc.fallocate(fd, mode, 0, sizeBytes);
      if (result >= 0) return true;
      if ([-EOPNOTSUPP, -ENOSYS, -EINVAL].includes(result)) return false;
      if (result === -EINTR) continue;
      const code = errnoName(libc.abi, -result);
      throw Object.assign(new Error(errnoText(code) ?? code), {
        code,
        errno: result,
      });
    }
  };
  const found = fileSystemOfFile(libc, fd);
  const fileSystem = typeof found === "number" ? null : found;
  return {
    reserve: allocate(0),
    zero: fileSystem?.zeroesRanges
      ? allocate(FALLOCATE.ZERO_RANGE)
      : () => false,
    cutsToZeroes: libc.abi.os !== "linux" ||
      (fileSystem?.cutsToZeroes ?? false),
  };
}

/** Finds out what an image is, and whether that will do. */
function examine(
  libc: Libc,
  fd: number,
  path: string,
  opened: OpenedFor,
  options: DirectOptions,
): Probed {
  const probed = probe(libc, fd, opened);
  if (typeof probed === "number") {
    // A device that has no size to ask for, such as /dev/null.
    throw probed === -libc.abi.errno.ENOTTY
      ? noDisk(path)
      : openError(path, errnoName(libc.abi, -probed), -probed);
  }
  if (probed.medium === null) throw noDisk(path);
  if (options.direct === "require" && !probed.direct.active) {
    throw notDirect(path, probed.direct.reason ?? "this system has none");
  }
  return probed;
}

interface OpenFile {
  fd: number;
  opened: OpenedFor;
}

/** Opens the file with direct I/O where that is wanted and taken. */
function openFile(libc: Libc, path: string, options: ImageOptions): OpenFile {
  const { O_RDONLY, O_RDWR, O_DIRECT } = libc.abi.open;
  const { F_NOCACHE } = libc.abi.fcntl;
  const flags = options.readOnly ? O_RDONLY : O_RDWR;
  const buffered = (reason: string | null): OpenFile => ({
    fd: openSync(path, flags),
    opened: { method: null, reason },
  });
  if (options.direct === "never") {
    return buffered('direct I/O was not wanted: direct: "never"');
  }
  if (O_DIRECT !== undefined) {
    try {
      const fd = openSync(path, flags | O_DIRECT);
      return { fd, opened: { method: "O_DIRECT", reason: null } };
    } catch (error) {
      // EINVAL is how a file system without direct I/O says so: open(2).
      if (asDiskError(error, path).code !== "EINVAL") throw error;
      return buffered("the file system refuses O_DIRECT");
    }
  }
  const file = buffered(null);
  const [method, result] = F_NOCACHE === undefined
    ? ["directio", libc.directio(file.fd, DIRECTIO_ON)]
    : ["F_NOCACHE", libc.fcntl(file.fd, F_NOCACHE, 1)];
  const { ENOSYS, ENOTTY } = libc.abi.errno;
  const reason = result >= 0
    ? null
    : result === -ENOSYS
    ? "this system has no direct I/O"
    : result === -ENOTTY
    ? "the file system has no direct I/O"
    : `${method} failed with ${errnoName(libc.abi, -result)}`;
  return {
    ...file,
    opened: { method: reason === null ? method : null, reason },
  };
}

/**
 * Syncs the folder of a new image, whose name the path's permission covers: it
 * is opened for nothing else.
 */
function syncFolder(libc: Libc, folder: string): string | null {
  const { O_RDONLY, O_DIRECTORY, O_CLOEXEC } = libc.abi.open;
  const fd = libc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errnoName(libc.abi, -fd);
  const result = libc.abi.os === "darwin" ? syncFile(libc, fd) : libc.fsync(fd);
  libc.close(fd);
  return result < 0 ? errnoName(libc.abi, -result) : null;
}

function describe(
  libc: Libc,
  path: string,
  options: ImageOptions,
  probed: Probed,
  tailFd: number,
  lock: TakenLock,
  seen: Seen,
): Omit<DirectImage, "fd" | "geometry" | "signal" | "openTail"> {
  const blockDevice = probed.medium !== "file";
  const linux = libc.abi.os === "linux";
  // On a raw device, even a buffered one takes blocks only: smaller requests
  // through its cache would be the kernel's read-modify-write, unlocked.
  const least = blockDevice ? probed.logicalBlockSize : 1;
  return {
    tailFd,
    abilities: {
      readOnly: options.readOnly,
      flush: "native",
      // A file's tail is buffered, and its failures are reported to the next sync.
      fua: probed.durableWrites && tailFd < 0 ? "native" : "emulated",
      discard: linux && probed.discards !== false ? "native" : "none",
      writeZeroes: linux && probed.zeroesRanges ? "native" : "emulated",
      secureErase: probed.erases ? "native" : "none",
    },
    writeAlignment: Math.max(probed.direct.offsetAlignment, least),
    readAlignment: Math.max(probed.direct.readOffsetAlignment, least),
    blockDevice,
    zeroesRanges: probed.zeroesRanges,
    claim: lock.claim,
    info: {
      backend: "direct",
      path,
      medium: probed.medium!,
      fileSystem: probed.fileSystem,
      engine: { name: "sync", reason: null },
      direct: probed.direct,
      durability: probed.durability,
      lock: lock.info,
      format: "raw",
      ...seen,
      id: options.id ?? `platter-${probed.inode.toString(16)}`.slice(0, 20),
    },
  };
}
