/**
 * Opens a raw image or a block device without FFI: through `node:fs`, direct
 * where the system has O_DIRECT, buffered elsewhere; locked and probed. It needs
 * `--allow-read` and, for writing, `--allow-write`; it asks for nothing else.
 * (Deno wants `--allow-all` for paths under `/dev`.)
 *
 * @module
 */

import fs from "node:fs";
import { captureStack } from "../../call_site.ts";
import { DiskError } from "../../errors.ts";
import { SECTOR_BYTES } from "../../geometry.ts";
import { ID_BYTES } from "../../request.ts";
import { claimFile } from "../file_claim.ts";
import { listenForFileSizeSignal } from "../file_size_signal.ts";
import { fileSystemAt } from "../file_system.ts";
import {
  holdImage,
  openAgain,
  openSure,
  type TakenLock,
} from "../held_image.ts";
import { refuseOtherFormats } from "../image_format.ts";
import {
  checkImageOptions,
  type ImageOptions,
  openFailure,
} from "../image_options.ts";
import { imageGeometry } from "../image_size.ts";
import { mediumOf, noDisk } from "../medium.ts";
import { NewContent, NO_FAST_SPACE } from "../new_content.ts";
import { keepName } from "../new_name.ts";
import { lookAt } from "../warnings.ts";
import { writeBack } from "../write_back.ts";
import { Arena, PAGE_BYTES } from "./aligned_memory.ts";
import { PortableBackend } from "./backend.ts";
import { DescriptorPool } from "./descriptors.ts";
import { deviceAttributes } from "./host.ts";
import { durabilityOf, probeDirect } from "./probe.ts";
import { takeNoSpace, takeWindowsLock } from "./windows.ts";
import { openSized } from "../../platform/device_size.ts";
import {
  ffiOption,
  isGranted,
  whyNoFlush,
} from "../../platform/permissions.ts";
import { os, runtime, runtimeName } from "../../platform/system.ts";

/** Descriptors by default: more gained nothing (measured in `./backend.ts`). */
const DEFAULT_MAX_DESCRIPTORS = 32;

/** How to open an image without FFI. */
export interface PortableOptions extends Partial<ImageOptions> {
  /**
   * How many descriptors may be open for requests, and so how many reads can
   * be in flight at once.
   *
   * @default {32}
   */
  readonly maxDescriptors?: number;
}

/**
 * Opens a raw image or a block device without FFI.
 *
 * @param path The image's path.
 * @param options How to open it.
 * @returns The backend.
 * @throws {DiskError} If it cannot be opened: `not-found`, `permission`,
 * `read-only`, `locked`, `geometry` (not whole blocks, not a file or device),
 * `platform` (direct I/O was required and is not to be had), or `io`.
 * @throws {RangeError} If an option is out of range.
 */
export async function openPortable(
  path: string,
  options: PortableOptions = {},
): Promise<PortableBackend> {
  const { readOnly = false, maxDescriptors = DEFAULT_MAX_DESCRIPTORS } =
    options;
  const openedAt = captureStack();
  checkImageOptions(options);
  if (!Number.isInteger(maxDescriptors) || maxDescriptors < 1) {
    throw new RangeError(
      `Cannot open "${path}" as maxDescriptors must be an integer ≥ 1: current value is ${maxDescriptors}`,
    );
  }
  if (!readOnly) refuseUnflushable(path);
  // What to undo, last first, if something goes wrong.
  const undo: (() => void)[] = [];
  const signal = readOnly ? null : listenForFileSizeSignal();
  try {
    const medium = mediumOf(path, options.create !== undefined);
    const isDevice = medium !== "file";
    const { O_RDONLY, O_RDWR } = fs.constants;
    const access = readOnly ? O_RDONLY : O_RDWR;
    const wanted: ImageOptions = {
      readOnly,
      direct: "prefer",
      lock: "auto",
      openedAt,
      ...options,
    };
    const held = await holdImage(
      path,
      wanted,
      () => ({ fd: fs.openSync(path, access) }),
      ({ fd }) => takeLock(path, fd, readOnly, options.lock),
    );
    undo.push(() => held.close(), () => held.takeBack());
    const { lock } = held;
    // First of all, so that every failed write-back is reported to it.
    const flushDescriptor = held.image.fd;
    // Before it gets its size: NTFS would give it place for all of it.
    if (options.create !== undefined && !options.create.preallocate) {
      takeNoSpace(path, flushDescriptor);
    }
    const content = options.create === undefined
      ? null
      : new NewContent(path, flushDescriptor, wanted, {
        ...NO_FAST_SPACE,
        cutsToZeroes: fileSystemAt(path, flushDescriptor)?.cutsToZeroes ?? true,
      });
    undo.push(() => content?.undo());
    await content?.makeRoom();
    const image = fs.fstatSync(flushDescriptor, { bigint: true });
    const device = isDevice ? openSized(path) : null;
    undo.push(() => device?.close());
    // It may be cut yet.
    const size = options.create?.sizeBytes ?? device?.size() ??
      Number(image.size);
    const openSame = (flags: number) =>
      openAgain(path, flushDescriptor, access | flags);
    const openTail = () => openSure(path, flushDescriptor, access);
    const attributes = deviceAttributes(isDevice ? image.rdev : image.dev);
    const fileSystem = isDevice ? null : fileSystemAt(path, flushDescriptor);
    const direct = probeDirect({
      path,
      want: options.direct ?? "prefer",
      isDevice,
      size,
      device: attributes,
      fileSystem,
      open: openSame,
    });
    // The first ones now, while the path still leads there.
    const first = direct.descriptor ?? openTail();
    undo.push(() => fs.closeSync(first));
    if (direct.descriptor !== null) {
      writeBack(first, fileSystem?.name ?? null);
    }
    // A raw character device takes whole blocks, cached or not.
    const buffered = medium === "character device" ? direct.deviceBlockSize : 1;
    const alignment = direct.descriptor !== null
      ? direct.info.offsetAlignment
      : buffered;
    const tail = size % alignment === 0 ? null : openTail();
    if (tail !== null) undo.push(() => fs.closeSync(tail));
    // Such as /dev/null.
    if (medium === "character device" && size === 0) throw noDisk(path);
    const seen = lookAt(
      first,
      options.create === undefined ? size : 0,
      scratchOf(Math.max(alignment, PAGE_BYTES)),
    );
    refuseOtherFormats(path, seen.contentFormat, size, wanted);
    const geometry = imageGeometry(
      path,
      size,
      options.blockSize ?? (isDevice ? direct.deviceBlockSize : SECTOR_BYTES),
      isDevice ? attributes : {},
    );
    await content?.cut();
    if (content !== null) keepName(path, flushDescriptor);
    return new PortableBackend({
      geometry,
      readOnly,
      size,
      alignment,
      flushDescriptor,
      device,
      pool: new DescriptorPool(
        [first],
        maxDescriptors,
        () => mayOpen(path, readOnly) ? openSame(direct.flag) : null,
      ),
      tail: new DescriptorPool(tail === null ? [] : [tail], 1, () => null),
      openTail: () => new DescriptorPool([openTail()], 1, () => null),
      claim: lock.claim,
      signal,
      info: {
        backend: "portable",
        path,
        medium,
        fileSystem: fileSystem?.name ?? null,
        engine: {
          name: "node:fs",
          reason:
            "without FFI: reads run on other threads, a descriptor each; writes occupy this one while the kernel takes them",
        },
        direct: direct.info,
        durability: durabilityOf(
          flushDescriptor,
          isDevice,
          fileSystem,
          attributes,
        ),
        lock: lock.info,
        format: "raw",
        ...seen,
        id: options.id ??
          `platter-${image.ino.toString(16)}`.slice(0, ID_BYTES),
      },
    });
  } catch (error) {
    for (const step of undo.reverse()) step();
    // Found before anything is waited for.
    const failure = openFailure(error, path, options);
    await signal?.release();
    throw failure;
  }
}

/** A disk that cannot be flushed is not written to, nor made. */
function refuseUnflushable(path: string): void {
  const cause = whyNoFlush();
  if (cause === null) return;
  const missing = ffiOption === "--allow-ffi"
    ? ffiOption
    : `${ffiOption} and the package koffi`;
  throw new DiskError(
    "permission",
    `Cannot open "${path}" for writing as ${runtimeName} flushes nothing with ` +
      `--permission but by FFI: take the direct backend, with ${missing}, or ` +
      "open with readOnly: true",
    { operation: "open", path, cause },
  );
}

/** Whether Deno would open a file without asking the user in the midst of I/O. */
function mayOpen(path: string, readOnly: boolean): boolean {
  const names = readOnly ? ["read"] as const : ["read", "write"] as const;
  return names.every((name) => isGranted({ name, path }));
}

/** Memory to look at an image with, which costs something to align. */
let scratch = new Uint8Array();

function scratchOf(byteLength: number): Uint8Array {
  if (scratch.length < byteLength) scratch = new Arena().allocate(byteLength);
  return scratch.subarray(0, byteLength);
}

function takeLock(
  path: string,
  fd: number,
  readOnly: boolean,
  want: ImageOptions["lock"] = "auto",
): TakenLock {
  const none = (reason: string) => ({
    claim: null,
    info: { method: "none", reason },
  });
  if (want === "none") return none('not wanted: lock: "none"');
  if (readOnly && want === "auto") return none("a reader locks nobody out");
  if (os === "windows") return takeWindowsLock(path, fd, readOnly);
  const claim = claimFile(path, fd, readOnly);
  if (claim === null) {
    return none(
      runtime === "deno"
        ? "the file system has no flock, or one that keeps nobody out"
        : `the file system has no flock, or ${runtimeName} has no FFI to lock by`,
    );
  }
  return {
    claim,
    info: {
      method: "flock",
      reason: "QEMU's lock bytes need FFI: QEMU's tools are not kept out",
    },
  };
}
