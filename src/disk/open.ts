/**
 * The default stack for an image: which backend, opened how. Any other stack is
 * built by hand and given to `VirtualDisk.over`. Backends that few programs need
 * are loaded when they are opened: with all of them a program starts later.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import type { Backend } from "../backend.ts";
import { openDirect } from "../backends/direct/mod.ts";
import { NotRawError, refuseRawName } from "../backends/image_format.ts";
import type { ImageOptions } from "../backends/image_options.ts";
import { captureStack } from "../call_site.ts";
import {
  CONTAINER_FORMATS,
  type ContainerFormat,
  type ImageFormat,
} from "../content_format.ts";
import { type DiskSize, sectorsOf } from "../disk_size.ts";
import {
  DEFAULT_ENGINE,
  ENGINE_NAMES,
  type EngineName,
  type EngineOptions,
} from "../engines/mod.ts";
import { DiskError } from "../errors.ts";
import { checkBlockSize, SECTOR_BYTES } from "../geometry.ts";
import { isNbdUri } from "../protocol/nbd/uri.ts";
import { isRbdUri } from "../protocol/rbd/uri.ts";
import { DEFAULT_QUEUE_SIZE, type QueueOptions } from "../queue_options.ts";
import { isUnusable } from "../platform/held_file.ts";
import { permissions } from "../platform/permissions.ts";

/** How to open an image or a block device. */
export interface OpenOptions extends QueueOptions {
  /**
   * Direct I/O passes by the operating system's cache. `"require"` fails where
   * it is not to be had, or cannot be known to be, `"prefer"` goes on without and says why in
   * `info.direct.reason`, `"never"` does not ask for it.
   *
   * @default {"prefer"}
   */
  direct?: "require" | "prefer" | "never" | undefined;
  /**
   * What talks to the operating system: `"direct"` needs FFI, `"portable"` does
   * not; `"auto"` takes `"direct"` where the platform has it and FFI has been
   * allowed, and asks for no permission.
   *
   * @default {"auto"}
   */
  backend?: "auto" | "direct" | "portable" | undefined;
  /**
   * How the direct backend talks to the kernel. `"auto"` tries and takes the
   * fastest; `info.engine` says which and why. Any other asks for the direct
   * backend as well, and `backend: "portable"` is refused with it.
   *
   * @default {"auto"}
   */
  engine?: EngineName | undefined;
  /**
   * The longest that one wait for the disk may hold the event loop, in ms; one
   * wait may end a turn and another one begin the next. All disks of a thread
   * share that time, but for those of engine `"sync"`, of which a blocking call
   * can take longer: it cannot be interrupted.
   *
   * @default {0.2}
   */
  stallMs?: number | undefined;
  /**
   * How long a wait may poll for completions before it sleeps, in ms: processor
   * time for latency, spent only where completions usually come within about
   * this time. For as long it polls for a request from a socket after the last
   * completion (the idle poll), where those usually come so soon. 0 never polls.
   *
   * @default {0.1}
   */
  pollMs?: number | undefined;
  /**
   * Whether writes are refused.
   *
   * @default {false}
   */
  readOnly?: boolean | undefined;
  /**
   * Logical block size in bytes, a power of two from 512 to 65,536. By default
   * that of the block device; 512 for a file.
   */
  blockSize?: number | undefined;
  /**
   * What the image is. A container (qcow2, VMDK, VDI, VHD, VHDX, Parallels, …) is
   * read and written by `qemu-nbd`, which must be installed and takes
   * `--allow-run=qemu-nbd`. `"auto"` opens one where both the content's signature
   * and the name's ending say so, refuses where only one of them does, and takes
   * everything else for raw. `"raw"` insists on the bytes as they are: for disks
   * whose content comes from somebody else, such as a guest. It is decided once;
   * what is written later changes nothing.
   *
   * @default {"auto"}
   */
  format?: "auto" | ImageFormat | undefined;
  /**
   * Whether the files are opened that a container names: its backing file, for
   * reading only; its data file, its extents. Whoever made the image chose these
   * names, and could have chosen any file that this program may read. Those that
   * are not files, and backing files without a format, are refused all the same.
   *
   * @default {"refuse"}
   */
  backingFiles?: "refuse" | "allow" | undefined;
  /**
   * Whether to keep out other writers, by QEMU's own lock bytes where FFI is
   * allowed: `"auto"` does when it writes and reads beside a writer,
   * `"exclusive"` does when it reads, too (for a copy that must not change
   * meanwhile), `"none"` never does. Nor is a device written to that the system
   * uses: mounted, swapped to, part of another one; or a file that such a device
   * is made of. A lock whose holder cannot be named may be that of a program
   * that has just ended: it is waited for, for a second.
   *
   * @default {"auto"}
   */
  lock?: "exclusive" | "auto" | "none" | undefined;
  /** What the disk says of itself to GET_ID: up to 20 ASCII characters. */
  id?: string | undefined;
  /** Aborts opening. */
  signal?: AbortSignal | undefined;
  /**
   * How long connecting to an NBD server, to the `qemu-nbd` of a container or to
   * a Ceph cluster, and negotiating may take, in ms.
   *
   * @default {30000}
   */
  openTimeoutMs?: number | undefined;
  /**
   * How long an NBD server may be silent while the disk is being closed, and
   * `qemu-nbd` may take to close its image, in ms. Then the connection is
   * dropped, and what it has not answered fails. Each answer, and data that
   * moves, begin the time anew. For a Ceph cluster it is the time that requests
   * in flight, and then closing the image, may still take.
   *
   * @default {30000}
   */
  closeTimeoutMs?: number | undefined;
  /**
   * How long an NBD server, or the `qemu-nbd` of a container, may be silent while
   * requests wait for it, in ms. Then the connection is dropped, and what it has
   * not answered fails. 600,000 for a container if not given, for which the
   * slowest medium has no need; a server is waited for without a bound.
   *
   * How long each request may wait for a Ceph cluster: 60,000 if not given, as
   * storage that was away is back by then mostly. Then it fails with code ETIMEDOUT,
   * and may still be carried out.
   */
  requestTimeoutMs?: number | undefined;
}

/** How to make an image; how large, by `sectors` or by `size`. */
export interface CreateOptions extends OpenOptions, DiskSize {
  /**
   * Whether an image that exists already loses its content. It keeps it if the
   * new one cannot be made as asked.
   *
   * @default {false}
   */
  overwrite?: boolean | undefined;
  /**
   * Whether space is reserved now and not when it is written.
   *
   * @default {false}
   */
  preallocate?: boolean | undefined;
}

/**
 * Opens an image or a block device.
 *
 * @param path Its path, or a `file:` URL.
 * @param options How to open it.
 * @returns Its backend.
 * @throws {DiskError} If it cannot be opened as asked.
 * @throws {RangeError} If an option is out of its range.
 */
export async function openBackend(
  path: string | URL,
  options: OpenOptions = {},
): Promise<Backend> {
  return await open(path, options);
}

/**
 * Opens an image or a block device for callers that wait for every answer: they
 * need no engine that has several operations in flight.
 *
 * @param path Its path, or a `file:` URL.
 * @param options How to open it; engine `"auto"` is `"sync"`.
 * @returns Its backend.
 * @throws {DiskError} If it cannot be opened as asked.
 * @throws {RangeError} If an option is out of its range.
 */
export async function openBlocking(
  path: string | URL,
  options: OpenOptions = {},
): Promise<Backend> {
  return await open(path, options, undefined, true);
}

/**
 * Makes an image, which reads as zeroes, and opens it.
 *
 * @param path Its path, or a `file:` URL.
 * @param options Its size, and how to open it.
 * @param blocking Whether callers wait, as with {@linkcode openBlocking}.
 * @returns Its backend.
 * @throws {DiskError} If it cannot be made as asked.
 * @throws {RangeError} If an option is out of its range.
 * @throws {TypeError} If there are both or neither of `sectors` and `size`.
 */
export async function createBackend(
  path: string | URL,
  options: CreateOptions,
  blocking = false,
): Promise<Backend> {
  const { blockSize = SECTOR_BYTES } = options;
  const sectors = sectorsOf(options, `create "${path}"`);
  const sizeBytes = sectors * SECTOR_BYTES;
  checkBlockSize(blockSize);
  const reason = !Number.isInteger(sectors) || sectors <= 0
    ? "its sectors must be an integer above 0"
    : !Number.isSafeInteger(sizeBytes)
    ? `its sectors of ${SECTOR_BYTES} bytes must be less than 8 PiB together`
    : sizeBytes % blockSize !== 0
    ? `its sectors must be whole blocks of ${blockSize} bytes`
    : null;
  if (reason !== null) {
    throw new RangeError(
      `Cannot create "${path}" as ${reason}: current value is ${sectors}`,
    );
  }
  if (options.readOnly) {
    throw new TypeError(`Cannot create "${path}" as a read-only disk`);
  }
  return await open(path, options, {
    sizeBytes,
    overwrite: options.overwrite ?? false,
    preallocate: options.preallocate ?? false,
  }, blocking);
}

async function open(
  path: string | URL,
  options: OpenOptions,
  create?: ImageOptions["create"],
  blocking = false,
): Promise<Backend> {
  const openedAt = captureStack();
  options.signal?.throwIfAborted();
  if (options.blockSize !== undefined) checkBlockSize(options.blockSize);
  const isUri = isNbdUri(path) || isRbdUri(path);
  const name = typeof path === "string" || isUri
    ? String(path)
    : fileURLToPath(path);
  checkId(name, options.id);
  if (isNbdUri(path)) return await openRemote(name, options, create);
  if (isRbdUri(path)) return await openCluster(name, options, create);
  const format = oneOf("format", options.format ?? "auto", [
    "auto",
    "raw",
    ...CONTAINER_FORMATS,
  ]);
  if (create !== undefined) {
    if (format !== "raw") refuseRawName(name, format);
    if (format !== "raw" && format !== "auto") {
      throw new DiskError(
        "format",
        `Cannot create "${name}" as ${format} as only raw images are made here: "qemu-img create" makes others`,
        { operation: "create", path: name },
      );
    }
  }
  const image: ImageOptions = {
    readOnly: options.readOnly ?? false,
    direct: oneOf("direct", options.direct ?? "prefer", [
      "require",
      "prefer",
      "never",
    ]),
    lock: oneOf("lock", options.lock ?? "auto", [
      "exclusive",
      "auto",
      "none",
    ]),
    ...(options.blockSize === undefined
      ? {}
      : { blockSize: options.blockSize }),
    ...(options.id === undefined ? {} : { id: options.id }),
    ...(create === undefined ? {} : { create }),
    ...(format === "raw" ? { format } : {}),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    openedAt,
  };
  const backend = oneOf("backend", options.backend ?? "auto", [
    "auto",
    "direct",
    "portable",
  ]);
  const wanted = engineOptions(options);
  const container = (is: ContainerFormat) =>
    openInside(name, is, image, options);
  if (format !== "auto" && format !== "raw") return await container(format);
  try {
    return await openRaw(name, image, backend, wanted, blocking);
  } catch (error) {
    if (!(error instanceof NotRawError) || error.container === null) {
      throw error;
    }
    return await container(error.container);
  }
}

/** Opens the bytes of an image as they are. */
async function openRaw(
  name: string,
  image: ImageOptions,
  backend: "auto" | "direct" | "portable",
  wanted: EngineOptions,
  blocking: boolean,
): Promise<Backend> {
  // An engine that is asked for by name is one of the direct backend's.
  const insists = backend === "direct" || wanted.engine !== "auto";
  const engine: EngineOptions = blocking && wanted.engine === "auto"
    ? { ...wanted, engine: "sync" }
    : wanted;
  if (insists && backend !== "portable") {
    return await openDirect(name, { ...image, engine });
  }
  if (backend === "portable" || !await ffiIsGranted()) {
    return await openWithoutFfi(name, image);
  }
  try {
    return await openDirect(name, { ...image, engine });
  } catch (error) {
    // No libc, or none of this platform: the portable backend needs neither.
    if (
      !(error instanceof DiskError) || error.kind !== "platform" ||
      image.direct === "require" || isUnusable(error.cause)
    ) throw error;
    return await openWithoutFfi(name, image);
  }
}

async function openWithoutFfi(
  name: string,
  image: ImageOptions,
): Promise<Backend> {
  const { openPortable } = await import("../backends/portable/mod.ts");
  return await openPortable(name, image);
}

/** Opens the disk inside a container, which has no engine of its own. */
async function openInside(
  path: string,
  format: ContainerFormat,
  image: ImageOptions,
  options: OpenOptions,
): Promise<Backend> {
  const { direct: _, ...common } = image;
  refuseFileOptions(
    path,
    `a disk inside ${format}, which qemu-nbd reads and writes,`,
    options,
  );
  const backingFiles = oneOf(
    "backingFiles",
    options.backingFiles ?? "refuse",
    ["refuse", "allow"],
  );
  const timeouts = await timeoutsOf(options);
  const { openContainer } = await import("../backends/container/mod.ts");
  return await openContainer(path, format, {
    ...common,
    backingFiles,
    ...timeouts,
  });
}

/** Refuses what only files and devices can have. */
function refuseFileOptions(
  path: string,
  what: string,
  options: OpenOptions,
): void {
  const { direct = "prefer", backend = "auto", engine = "auto" } = options;
  const reason = direct === "require"
    ? "have direct I/O"
    : backend !== "auto" || engine !== "auto"
    ? "be opened with a backend or an engine for files"
    : null;
  if (reason === null) return;
  throw new DiskError(
    "platform",
    `Cannot open "${path}" as ${what} cannot ${reason}`,
    { operation: "open", path },
  );
}

async function timeoutsOf(options: OpenOptions) {
  const { DEFAULT_CLOSE_TIMEOUT_MS, DEFAULT_OPEN_TIMEOUT_MS } = await import(
    "../backends/nbd/mod.ts"
  );
  return {
    openTimeoutMs: timeout(
      "openTimeoutMs",
      options.openTimeoutMs ?? DEFAULT_OPEN_TIMEOUT_MS,
    ),
    closeTimeoutMs: timeout(
      "closeTimeoutMs",
      options.closeTimeoutMs ?? DEFAULT_CLOSE_TIMEOUT_MS,
    ),
    ...(options.requestTimeoutMs === undefined ? {} : {
      requestTimeoutMs: timeout("requestTimeoutMs", options.requestTimeoutMs),
    }),
  };
}

/** Opens a disk behind an NBD server, which is no file and has no engine. */
async function openRemote(
  uri: string,
  options: OpenOptions,
  create?: ImageOptions["create"],
): Promise<Backend> {
  const what = "a disk behind an NBD server";
  const { format = "auto" } = options;
  if (create !== undefined || (format !== "auto" && format !== "raw")) {
    const reason = create !== undefined
      ? "be made"
      : "have a format other than raw, as the server has opened it already";
    throw new DiskError(
      "platform",
      `Cannot open "${uri}" as ${what} cannot ${reason}`,
      { operation: "open", path: uri },
    );
  }
  refuseFileOptions(uri, what, options);
  const { readOnly = false, blockSize, id, signal } = options;
  const timeouts = await timeoutsOf(options);
  const { openNbd } = await import("../backends/nbd/mod.ts");
  return await openNbd(uri, {
    readOnly,
    ...timeouts,
    ...(blockSize === undefined ? {} : { blockSize }),
    ...(id === undefined ? {} : { id }),
    ...(signal === undefined ? {} : { signal }),
  });
}

/** Opens or makes an image in a Ceph cluster. */
async function openCluster(
  uri: string,
  options: OpenOptions,
  create?: ImageOptions["create"],
): Promise<Backend> {
  const what = "an image in a Ceph cluster";
  const { format = "auto", readOnly = false, blockSize, id, signal } = options;
  const reason = format !== "auto" && format !== "raw"
    ? "have a format other than raw"
    : create?.preallocate
    ? "have its space reserved"
    : null;
  if (reason !== null) {
    throw new DiskError(
      "platform",
      `Cannot open "${uri}" as ${what} cannot ${reason}`,
      { operation: "open", path: uri },
    );
  }
  refuseFileOptions(uri, what, options);
  const lock = oneOf("lock", options.lock ?? "auto", [
    "exclusive",
    "auto",
    "none",
  ]);
  const timeouts = await timeoutsOf(options);
  const { openRbd } = await import("../backends/rbd/mod.ts");
  return await openRbd(uri, {
    readOnly,
    lock,
    ...timeouts,
    ...(blockSize === undefined ? {} : { blockSize }),
    ...(id === undefined ? {} : { id }),
    ...(signal === undefined ? {} : { signal }),
    ...(create === undefined ? {} : { create }),
  });
}

/** What a disk says of itself is up to 20 ASCII characters. */
function checkId(name: string, id: string | undefined): void {
  if (id === undefined || /^[\x20-\x7e]{1,20}$/.test(id)) return;
  throw new RangeError(
    `Cannot open "${name}" as its id must be 1 to 20 printable ASCII characters: current value is ${
      JSON.stringify(id)
    }`,
  );
}

/** Timers hold no more than 31 bits. */
function timeout(name: string, value: number): number {
  if (value > 0 && value < 2 ** 31) return value;
  throw new RangeError(
    `Cannot open a disk as ${name} must be above 0 and below 2^31: current value is ${value}`,
  );
}

function engineOptions(options: OpenOptions): EngineOptions {
  const { backend, engine = "auto" } = options;
  if (backend === "portable" && engine !== "auto") {
    throw new RangeError(
      `Cannot open a disk with the engine "${engine}" as the portable backend has none`,
    );
  }
  const stallMs = options.stallMs ?? DEFAULT_ENGINE.stallMs;
  if (!(stallMs > 0 && stallMs <= 1000)) {
    throw new RangeError(
      `Cannot open a disk as stallMs must be above 0 and up to 1000: current value is ${stallMs}`,
    );
  }
  const pollMs = options.pollMs ?? DEFAULT_ENGINE.pollMs;
  if (!(pollMs >= 0 && pollMs <= 1000)) {
    throw new RangeError(
      `Cannot open a disk as pollMs must be from 0 to 1000: current value is ${pollMs}`,
    );
  }
  return {
    engine: oneOf("engine", options.engine ?? "auto", ENGINE_NAMES),
    depth: options.queueSize ?? DEFAULT_QUEUE_SIZE,
    stallMs,
    pollMs,
  };
}

async function ffiIsGranted(): Promise<boolean> {
  const { state } = await permissions.query({ name: "ffi" });
  return state === "granted";
}

function oneOf<T extends string>(
  name: string,
  value: T,
  values: readonly T[],
): T {
  if (values.includes(value)) return value;
  throw new TypeError(
    `Cannot open a disk as ${name} must be one of ${
      values.map((one) => `"${one}"`).join(", ")
    }: current value is ${JSON.stringify(value)}`,
  );
}
