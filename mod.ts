/**
 * A sector-accurate virtual disk: raw images and block devices, direct I/O, a
 * request queue in the manner of virtio-blk.
 *
 * @module
 */

export * from "./src/backend.ts";
export * from "./src/disk.ts";
export * from "./src/errors.ts";
export * from "./src/geometry.ts";
export * from "./src/info.ts";
export * from "./src/request.ts";
