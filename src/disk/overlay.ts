/**
 * The way to make an overlay: in memory, or in a file, which is opened or made
 * here as an image is.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import { DiskError } from "../errors.ts";
import {
  FileOverlay,
  type OverlayFileOptions,
} from "../layers/file_overlay.ts";
import {
  type Overlay,
  overlay as inMemory,
  type OverlayOptions,
} from "../layers/overlay.ts";
import { layoutOf, OverlayState } from "../layers/overlay_file/format.ts";
import { readOverlayHeader } from "../layers/overlay_file/header_file.ts";
import { isNbdUri } from "../protocol/nbd/uri.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { createBackend, openBackend, type OpenOptions } from "./open.ts";

/** How to make an overlay that keeps its changes in a file. */
export interface FileOverlayOptions extends
  OverlayFileOptions,
  Pick<
    OpenOptions,
    | "direct"
    | "backend"
    | "engine"
    | "stallMs"
    | "pollMs"
    | "openTimeoutMs"
    | "closeTimeoutMs"
    | "requestTimeoutMs"
  > {
  /**
   * Gives up opening. It has no part in a fork.
   */
  signal?: AbortSignal | undefined;
  /**
   * Where the changes are: a path, which is made if nothing is there, or a
   * backend, which is closed with the overlay.
   */
  file: string | URL | Backend;
  /**
   * Whether to make the file if there is none.
   *
   * @default {true}
   */
  create?: boolean | undefined;
}

/**
 * Opens a disk whose changes stay in a file, over one that is only read. The
 * file is locked for it alone.
 *
 * @param base What is read: it must not change as long as there are changes to
 * it. Closing the overlay closes it, unless `ownsBase` is false.
 * @param options The file, and how it is opened.
 * @returns The overlay.
 * @throws {DiskError} With kind `geometry` if the file is none of an overlay, is
 * damaged, or goes with another base; or as opening an image does. The base stays
 * open then, and what was there is as it was; a file that was made just now is
 * empty, and is taken for a new one the next time.
 *
 * @example
 * ```ts
 * import { openBackend, VirtualDisk } from "@platter/disk";
 * import { overlay } from "@platter/disk/testing";
 *
 * const folder = await Deno.makeTempDir();
 * await (await VirtualDisk.create(`${folder}/disk.img`, { size: "64MiB" })).close();
 * const base = await openBackend(`${folder}/disk.img`, {
 *   readOnly: true,
 *   lock: "exclusive", // Nobody may write to it meanwhile
 * });
 * const changes = await overlay(base, { file: `${folder}/disk.overlay` });
 * await using disk = VirtualDisk.over(changes);
 * await disk.write(0, new Uint8Array(512).fill(1));
 * await disk.flush(); // in disk.overlay, durably; disk.img is as it was
 * ```
 */
export function overlay(
  base: Backend,
  options: FileOverlayOptions,
): Promise<FileOverlay>;
/**
 * Makes a disk whose changes stay in memory, over one that is only read.
 *
 * @param base What is read: it must not change meanwhile. Closing the overlay
 * closes it, unless `ownsBase` is false.
 * @param options Whether the overlay owns the base, and more.
 * @returns The overlay.
 *
 * @example Two of a kind
 * ```ts
 * import { MemoryBackend } from "@platter/disk";
 * import { overlay } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const first = overlay(new MemoryBackend({ sectors: 2 ** 31 }));
 * first.put(0, new Uint8Array(512).fill(1));
 * const second = first.fork();
 * second.put(7, new Uint8Array(512).fill(2));
 * assertEquals(first.changes().length, 1);
 * assertEquals(second.changes().length, 2);
 * ```
 */
export function overlay(base: Backend, options?: OverlayOptions): Overlay;
export function overlay(
  base: Backend,
  options: OverlayOptions | FileOverlayOptions = {},
): Overlay | Promise<FileOverlay> {
  return "file" in options ? inFile(base, options) : inMemory(base, options);
}

async function inFile(
  base: Backend,
  options: FileOverlayOptions,
): Promise<FileOverlay> {
  const how = howToOpen(options);
  const { file, made } = await openFile(base, options);
  try {
    return await FileOverlay.open(
      base,
      file,
      options,
      (base, file, more) => inFile(base, { ...more, ...how, file }),
      made,
      options.signal,
    );
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** How the file is opened, and those of forks as well. */
function howToOpen(options: FileOverlayOptions): OpenOptions {
  const { direct, backend, engine, stallMs, pollMs } = options;
  const { openTimeoutMs, closeTimeoutMs, requestTimeoutMs } = options;
  return {
    ...{ direct, backend, engine, stallMs, pollMs },
    ...{ openTimeoutMs, closeTimeoutMs, requestTimeoutMs },
  };
}

/**
 * The path of the base that an overlay's file was made for.
 *
 * @param path The file.
 * @returns The path, which is the file's word alone; `null` if it has no changes,
 * empty if its base has no path.
 * @throws {DiskError} If it is none of an overlay, or cannot be opened.
 */
export async function basePathOf(path: string): Promise<string | null> {
  const file = await openBackend(path, {
    readOnly: true,
    lock: "exclusive",
    format: "raw",
  });
  try {
    const { state, basePath } = await readOverlayHeader(file);
    return state === OverlayState.Empty ? null : basePath;
  } finally {
    await file.close();
  }
}

/** Opens the file, or makes it. */
async function openFile(
  base: Backend,
  options: FileOverlayOptions,
): Promise<{ file: Backend; made: boolean }> {
  const { file, readOnly = false, create = true } = options;
  if (typeof file !== "string" && !(file instanceof URL)) {
    return { file, made: false };
  }
  const open = { ...howToOpen(options), signal: options.signal };
  if (create && !readOnly && !isNbdUri(file)) {
    try {
      const sectors = layoutOf(base.geometry.sectors).fileSectors;
      return {
        file: await createBackend(file, { ...open, sectors }),
        made: true,
      };
    } catch (error) {
      if (!(error instanceof DiskError) || error.kind !== "exists") throw error;
    }
  }
  return {
    file: await openBackend(file, {
      ...open,
      readOnly,
      // Nobody may write while it is read, either.
      // What it is, its own header says.
      ...(isNbdUri(file)
        ? {}
        : { lock: "exclusive", blockSize: SECTOR_BYTES, format: "raw" }),
    }),
    made: false,
  };
}
