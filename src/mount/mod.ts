/**
 * Any disk as a path, for programs that open files: {@linkcode asFile} is where
 * to start. Linux only, by FUSE. {@linkcode attachLoop} makes a block device of
 * such a file, or of any other.
 *
 * @module
 */

export { asFile, type MountOptions } from "./as_file.ts";
export type { FuseToolName } from "./fuse_tool.ts";
export {
  attachLoop,
  type LoopDevice,
  type LoopOptions,
} from "./loop_device.ts";
export type { MountedFile, MountEnd } from "./mounted_file.ts";
