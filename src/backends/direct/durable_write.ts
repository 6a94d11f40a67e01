/**
 * Where one call makes a write durable: RWF_DSYNC, where it is known to hold.
 *
 * The flag is a promise of the file system's, and not all keep it: FUSE takes
 * it on an asynchronous direct write and sends no FSYNC (fs/fuse/file.c,
 * `fuse_direct_IO`, whose completion runs no `generic_write_sync`). Nothing
 * tells from a call that succeeds. So this is a table of what was counted, at
 * the device below, for every engine; whatever is not in it writes and flushes.
 *
 * | where | why it is in the table |
 * | --- | --- |
 * | block device | block/fops.c, `dio_bio_write_op`: the write itself is FUA |
 * | ext4, XFS | fs/iomap/direct-io.c: a FUA write, or a sync when it completes |
 *
 * And why others are not, although their flushes were seen: an overlay is as
 * good as what lies below, which cannot be seen from here; btrfs syncs after
 * the write as we do; tmpfs keeps nothing anyway.
 *
 * Buffered writes are not in it on any file system: that a write-back failed is
 * reported once for a descriptor (lib/errseq.c), so that of two calls that sync
 * at once one may get the other's failure and the other none. Our own syncs
 * follow each other, and the first that fails is the last.
 *
 * @module
 */

import type { DirectInfo } from "../../info.ts";

const FILE_SYSTEMS: ReadonlySet<string> = new Set(["ext4", "xfs"]);

/**
 * Whether RWF_DSYNC is known to make a write durable.
 *
 * @param os The operating system, as Deno names it.
 * @param medium What the image is.
 * @param fileSystem The file system that it is on; `null` if it is not known,
 * or if there is none.
 * @param direct Whether I/O on it is direct.
 * @returns Whether it is known; `false` where it only may be so.
 */
export function writesDurably(
  os: string,
  medium: "file" | "block device" | "character device" | null,
  fileSystem: string | null,
  direct: DirectInfo,
): boolean {
  if (os !== "linux" || !direct.active) return false;
  return medium === "block device" ||
    medium === "file" && fileSystem !== null && FILE_SYSTEMS.has(fileSystem);
}
