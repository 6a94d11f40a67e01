/**
 * Disks for tests, which clean up after themselves.
 *
 * @module
 */

import { makeTempDir, remove } from "../platform/files.ts";
import { copyDisk } from "../disk/copy.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { type DiskSize, sectorsOf } from "../disk_size.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import type { OpenOptions } from "../disk/open.ts";
import type { QueueOptions } from "../queue_options.ts";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";

/** What was made here is raw, whatever a program under test writes into it. */
const RAW = { format: "raw" } as const;

/** A disk for a test. */
export interface TestImage extends AsyncDisposable {
  /** The disk. */
  readonly disk: VirtualDisk;
  /** The image's path; `null` if it is in memory. */
  readonly path: string | null;
  /**
   * Closes the disk and opens it again, as after a restart.
   *
   * @param options How to open it; as before, if not given.
   * @returns The disk, which is also the new `disk`.
   */
  reopen(options?: OpenOptions): Promise<VirtualDisk>;
}

/** What a disk in memory is like; as large as `content` if nothing is said. */
export interface MemoryImageOptions extends QueueOptions, DiskSize {
  /** What is on it from sector 0 on: whole blocks. */
  content?: Uint8Array | undefined;
  /**
   * Logical block size in bytes.
   *
   * @default {512}
   */
  blockSize?: number | undefined;
}

/** What a disk in a file is like; as large as `content` if nothing is said. */
export interface TemporaryImageOptions extends OpenOptions, DiskSize {
  /** What is on it from sector 0 on: whole blocks. */
  content?: Uint8Array | undefined;
  /** The folder that a folder for the image is made in. */
  dir?: string | undefined;
}

/**
 * Makes a disk in memory.
 *
 * @param options Its size and content.
 * @returns The disk; it cannot be read-only.
 * @throws {RangeError} If it cannot have that size.
 *
 * @example
 * ```ts
 * import { memoryImage } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using image = await memoryImage({
 *   content: new Uint8Array(1024).fill(1),
 * });
 * assertEquals(image.disk.sectors, 2);
 * ```
 */
export async function memoryImage(
  options: MemoryImageOptions,
): Promise<TestImage> {
  const { content, sectors: _sectors, size: _size, ...open } = options;
  const sectors = sizeOf(options);
  let disk = VirtualDisk.memory({ ...open, sectors });
  if (content !== undefined) await disk.write(0, content);
  return {
    get disk() {
      return disk;
    },
    path: null,
    async reopen(more: QueueOptions = open) {
      const next = VirtualDisk.memory({ ...open, ...more, sectors });
      await copyDisk(disk, next, { targetIsZero: true });
      await disk.close();
      return disk = next;
    },
    [Symbol.asyncDispose]: () => disk.close(),
  };
}

/**
 * Makes a disk in a file of a folder of its own; both go away in the end.
 *
 * @param options Its size and content, and how to open it.
 * @returns The disk.
 * @throws {DiskError} If it cannot be made.
 *
 * @example
 * ```ts
 * import { temporaryImage } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using image = await temporaryImage({ sectors: 64 });
 * await image.disk.write(3, new Uint8Array(512).fill(3));
 * await image.reopen({ readOnly: true });
 * assertEquals((await image.disk.read(3, 1))[0], 3);
 * ```
 */
export async function temporaryImage(
  options: TemporaryImageOptions,
): Promise<TestImage> {
  const { dir, content, sectors: _sectors, size: _size, ...open } = options;
  const sectors = sizeOf(options);
  return await inFolder(dir, "disk.img", async (path) => {
    const writable = { ...open, ...RAW, readOnly: false };
    {
      await using disk = await VirtualDisk.create(path, {
        ...writable,
        sectors,
      });
      if (content !== undefined) {
        await disk.write(0, content);
        await disk.flush();
      }
    }
    return await VirtualDisk.open(path, { ...open, ...RAW });
  }, open);
}

/**
 * Makes a disk of a copy of an image that is kept for tests: the fixture stays
 * as it is. The copy is raw, whatever the fixture is.
 *
 * @param fixture Its path, or a `file:` URL.
 * @param options How to open the copy, and where to make it.
 * @returns The disk.
 * @throws {DiskError} If there is no such image, or it cannot be copied.
 *
 * @example
 * ```ts
 * import { fixtureImage, temporaryImage } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using fixture = await temporaryImage({ sectors: 64 });
 * await using image = await fixtureImage(fixture.path!);
 * await image.disk.write(0, new Uint8Array(512).fill(1));
 * assertEquals((await fixture.disk.read(0, 1))[0], 0);
 * ```
 */
export async function fixtureImage(
  fixture: string | URL,
  options: OpenOptions & { dir?: string | undefined } = {},
): Promise<TestImage> {
  const { dir, format, ...open } = options;
  const source = typeof fixture === "string" ? fixture : fileURLToPath(fixture);
  return await inFolder(dir, basename(source), async (path) => {
    await using from = await VirtualDisk.open(source, {
      readOnly: true,
      lock: "none",
      direct: "never",
      format,
    });
    {
      await using copy = await VirtualDisk.create(path, {
        sectors: from.sectors,
        direct: "never",
        ...RAW,
      });
      await copyDisk(from, copy, { targetIsZero: true });
    }
    return await VirtualDisk.open(path, { ...open, ...RAW });
  }, open);
}

async function inFolder(
  dir: string | undefined,
  name: string,
  make: (path: string) => Promise<VirtualDisk>,
  open: OpenOptions,
): Promise<TestImage> {
  const folder = await makeTempDir({
    prefix: "platter-",
    ...(dir === undefined ? {} : { dir }),
  });
  const path = `${folder}/${name}`;
  let disk: VirtualDisk;
  try {
    disk = await make(path);
  } catch (error) {
    await remove(folder, { recursive: true });
    throw error;
  }
  return {
    get disk() {
      return disk;
    },
    path,
    async reopen(options = open) {
      await disk.close();
      return disk = await VirtualDisk.open(path, { ...options, ...RAW });
    },
    async [Symbol.asyncDispose]() {
      await disk.close();
      await remove(folder, { recursive: true });
    },
  };
}

function sizeOf(
  options: DiskSize & { content?: Uint8Array | undefined },
): number {
  const { sectors, size, content } = options;
  if (sectors !== undefined || size !== undefined) {
    return sectorsOf(options, "make a disk");
  }
  if (content !== undefined) return content.length / SECTOR_BYTES;
  throw new TypeError(
    "Cannot make a disk as it needs its sectors, its size or its content",
  );
}
