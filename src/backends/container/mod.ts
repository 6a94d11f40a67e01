/**
 * Opens the disk inside a container (qcow2, VMDK, VDI, VHD, VHDX, …) by way of
 * QEMU: `qemu-nbd` reads and writes the format, and this process is its one
 * client. The image is opened here first, under Deno's permissions and under the
 * lock of the other backends, its header is read, and QEMU is told what to open,
 * file by file. Data moves through a private Unix socket.
 *
 * @module
 */

import fs from "node:fs";
import { captureStack } from "../../call_site.ts";
import type { ContainerFormat } from "../../content_format.ts";
import { DiskError } from "../../errors.ts";
import { ID_BYTES } from "../../request.ts";
import { claimFile } from "../file_claim.ts";
import { fileSystemAt } from "../file_system.ts";
import { type HeldImage, holdImage, type TakenLock } from "../held_image.ts";
import { lockedError, nameHolder } from "../holder.ts";
import { asDiskError, type ImageOptions } from "../image_options.ts";
import { bufferedInfo, mediumOf, mediumOfStat } from "../medium.ts";
import { NbdBackend } from "../nbd/backend.ts";
import { connectNbd } from "../nbd/connect.ts";
import {
  DEFAULT_CLOSE_TIMEOUT_MS,
  DEFAULT_OPEN_TIMEOUT_MS,
} from "../nbd/options.ts";
import { deviceAttributes } from "../portable/host.ts";
import { durabilityOf } from "../portable/probe.ts";
import { ContainerBackend } from "./backend.ts";
import { graphOf } from "./graph.ts";
import { QemuNbd } from "./qemu_nbd.ts";
import { os } from "../../platform/system.ts";

export { type ContainerFacts, lookInside } from "./graph.ts";

/** How to open a container. */
export interface ContainerOptions
  extends Omit<ImageOptions, "create" | "format" | "direct"> {
  /** Whether the files that it names are opened, too. */
  readonly backingFiles: "refuse" | "allow";
  /** Gives up opening after so many ms; 30,000 by default. */
  readonly openTimeoutMs?: number;
  /** How long closing may take, in ms; 30,000 by default. */
  readonly closeTimeoutMs?: number;
  /**
   * How long a child that owes answers may give none, in ms; 600,000 by default.
   * That is far more than a disk takes, and less than for ever: it may have been
   * stopped.
   */
  readonly requestTimeoutMs?: number;
}

/** How long a child may owe answers, in ms, if nothing else is said. */
const DEFAULT_REQUEST_TIMEOUT_MS = 600_000;

/**
 * The bytes that QEMU locks: block/file-posix.c, RAW_LOCK_PERM_BASE and
 * RAW_LOCK_SHARED_BASE with BLK_PERM_WRITE.
 */
const QEMU_LOCKS = [101, 201];

/**
 * Opens the disk inside a container.
 *
 * @param path The container's path.
 * @param format What it is.
 * @param options How to open it.
 * @returns The backend.
 * @throws {DiskError} If it cannot be opened: `format` (it is not what it should
 * be, or names other files), `platform` (there is no qemu-nbd), `permission`,
 * `locked`, `read-only`, `not-found`, or `io`.
 */
export async function openContainer(
  path: string,
  format: ContainerFormat,
  options: ContainerOptions,
): Promise<ContainerBackend> {
  const { readOnly, lock, signal } = options;
  if (os === "windows") {
    throw new DiskError(
      "platform",
      `Cannot open "${path}" as ${format} as qemu-nbd is not used on Windows: "qemu-img convert" makes a raw image of it`,
      { operation: "open", path },
    );
  }
  try {
    mediumOf(path, false);
    const { O_RDONLY, O_RDWR } = fs.constants;
    const access = readOnly ? O_RDONLY : O_RDWR;
    const held = await holdImage(
      path,
      { openedAt: captureStack(), direct: "never", ...options },
      () => ({ fd: fs.openSync(path, access) }),
      ({ fd }) => takeLock(path, fd, options),
    );
    try {
      const graph = graphOf(held.image.fd, {
        ...{ path, format, readOnly },
        follow: options.backingFiles === "allow",
        locks: lock !== "none",
      });
      return await serve(path, format, options, held, graph);
    } catch (error) {
      held.close();
      throw error;
    }
  } catch (error) {
    if (signal?.aborted && error === signal.reason) throw error;
    throw asDiskError(error, path);
  }
}

/** Starts a child over a graph, and connects to it. */
async function serve(
  path: string,
  format: ContainerFormat,
  options: ContainerOptions,
  held: HeldImage<{ fd: number }>,
  { node, files }: ReturnType<typeof graphOf>,
): Promise<ContainerBackend> {
  const { readOnly, signal } = options;
  const { fd } = held.image;
  const timeoutMs = options.openTimeoutMs ?? DEFAULT_OPEN_TIMEOUT_MS;
  const closeTimeoutMs = options.closeTimeoutMs ?? DEFAULT_CLOSE_TIMEOUT_MS;
  const { requestTimeoutMs = DEFAULT_REQUEST_TIMEOUT_MS } = options;
  const wait = { timeoutMs, ...(signal === undefined ? {} : { signal }) };
  let child: QemuNbd;
  try {
    child = await QemuNbd.start(node, { path, format, readOnly, ...wait });
  } catch (error) {
    if (!(error instanceof DiskError) || error.kind !== "locked") throw error;
    const [holder = null] = QEMU_LOCKS.map((byte) =>
      nameHolder(fd, "OFDLCK", byte)
    ).filter((name) => name !== null);
    const purpose = readOnly ? "reading" : "writing";
    throw lockedError(path, purpose, { holder, holds: "holds it" });
  }
  try {
    const stat = fs.fstatSync(fd, { bigint: true });
    const id = options.id ??
      `platter-${stat.ino.toString(16)}`.slice(0, ID_BYTES);
    const address = { transport: "unix", path: child.socket } as const;
    const below = await connectNbd(
      { address, exportName: "" },
      path,
      wait,
      (stream, negotiated) =>
        new NbdBackend(stream, negotiated, path, id, {
          ...{ readOnly, closeTimeoutMs, requestTimeoutMs },
          ...(options.blockSize === undefined
            ? {}
            : { blockSize: options.blockSize }),
        }),
    );
    await child.hide();
    const medium = mediumOfStat(fs.fstatSync(fd))!;
    const isDevice = medium !== "file";
    const fileSystem = isDevice ? null : fileSystemAt(path, fd);
    return new ContainerBackend({
      ...{ below, child, closeTimeoutMs, release: held.close },
      info: {
        ...below.info,
        backend: "qemu-nbd",
        path,
        medium,
        fileSystem: fileSystem?.name ?? null,
        engine: {
          name: "nbd",
          reason: "in a process of its own, qemu-nbd",
        },
        direct: bufferedInfo("qemu-nbd uses the page cache"),
        durability: durabilityOf(
          held.image.fd,
          isDevice,
          fileSystem,
          deviceAttributes(isDevice ? stat.rdev : stat.dev),
        ),
        lock: held.lock.info,
        format,
        otherFiles: files,
        warnings: [],
        id,
      },
    });
  } catch (error) {
    await child.end(0);
    if (!(error instanceof DiskError) || child.said === "") throw error;
    throw child.openError();
  }
}

/**
 * The lock of a program without FFI, to be seen by others of this library, and
 * by whoever opens it twice: qemu-nbd takes QEMU's own.
 */
function takeLock(
  path: string,
  fd: number,
  { readOnly, lock }: ContainerOptions,
): TakenLock {
  if (lock === "none") {
    return {
      claim: null,
      info: { method: "none", reason: 'not wanted: lock: "none"' },
    };
  }
  const claim = readOnly && lock === "auto"
    ? null
    : claimFile(path, fd, readOnly);
  return { claim, info: { method: "OFD", reason: null } };
}
