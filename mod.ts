/**
 * A sector-accurate virtual disk: raw images and block devices, direct I/O, a
 * request queue in the manner of virtio-blk.
 *
 * {@linkcode VirtualDisk} is where to start. {@linkcode Backend} is what to
 * implement for a disk or a layer of one's own; {@linkcode openBackend} and
 * {@linkcode MemoryBackend} are what to build it on.
 *
 * @example Ten lines
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * const path = await Deno.makeTempDir() + "/disk.img";
 * await using disk = await VirtualDisk.create(path, { sectors: 2048 });
 * const data = new Uint8Array(4096).fill(0xa5);
 * await disk.write(8, data);
 * await disk.flush();
 * assertEquals(await disk.read(8, 8), data);
 * ```
 *
 * @module
 */

export * from "./src/backend.ts";
export {
  MemoryBackend,
  type MemoryBackendOptions,
} from "./src/backends/memory.ts";
export type { EngineName } from "./src/engines/mod.ts";
export type { ContainerFormat, ImageFormat } from "./src/content_format.ts";
export * from "./src/disk/bad_sectors.ts";
export * from "./src/disk/copy.ts";
export * from "./src/disk/disk.ts";
export * from "./src/disk/sync_disk.ts";
export type { DiskSize } from "./src/disk_size.ts";
export * from "./src/errors.ts";
export * from "./src/geometry.ts";
export * from "./src/info.ts";
export {
  type CreateOptions,
  openBackend,
  type OpenOptions,
} from "./src/disk/open.ts";
export type { QueueCounters, QueueOptions } from "./src/queue_options.ts";
export * from "./src/request.ts";
export {
  abortedError,
  closedError,
  errnoError,
  type ErrnoErrorOptions,
  requestError,
  type RequestErrorOptions,
} from "./src/request_error.ts";
export type {
  StreamOptions,
  WritableStreamOptions,
} from "./src/disk/streams.ts";
export * from "./src/units.ts";
export * from "./src/virtio.ts";
