/**
 * A `VirtualDisk` as a file system of the running kernel: served over NBD, made
 * a file by `nbdfuse`, a block device by a loop device, and mounted.
 *
 * What the kernel asks of its block device arrives at the disk: the loop device
 * does direct I/O, so that nothing waits in a page cache below it, and what it
 * makes of a flush is `fsync()` on the file, of which `nbdfuse` makes the flush
 * of NBD. A loop device does not know FUA: the kernel puts a flush after the
 * write instead.
 *
 * @module
 */

import type { VirtualDisk } from "@platter/disk";
import { asFile, attachLoop } from "@platter/disk/mount";
import { attempt, run, ToolError } from "./tools.ts";

/** The programs that are needed. */
export const MOUNT_TOOLS: readonly string[] = [
  "nbdfuse",
  "fusermount3",
  "losetup",
  "mount",
  "umount",
];

/** The longest that anything may take to appear or to go, in ms. */
const PATIENCE_MS = 60_000;

/** A disk that is mounted; disposing of it takes all of it down again. */
export interface MountedDisk extends AsyncDisposable {
  /** Where the file system is. */
  readonly path: string;
}

/**
 * Mounts a disk that has a file system on it.
 *
 * @param disk The disk; it stays open.
 * @param dir A folder for the mount points.
 * @param options Options of the mount beside `noatime`.
 * @returns The file system.
 * @throws {ToolError | DiskError} If any part of it fails; nothing is left of the
 * others.
 */
export async function mountDisk(
  disk: VirtualDisk,
  dir: string,
  options: string = "",
): Promise<MountedDisk> {
  await using parts = new AsyncDisposableStack();

  // What forgets a flush must not be saved by the tool: QEMU's flushes by itself.
  const file = parts.use(
    await asFile(disk, { path: `${dir}/disk`, tool: "nbdfuse" }),
  );
  const loop = parts.use(
    await attachLoop(file.path, { blockSize: disk.blockSize }),
  );
  if (!loop.direct) {
    throw new ToolError(
      "Cannot attach as the loop device does not do direct I/O over FUSE here",
    );
  }

  const path = `${dir}/mnt`;
  await Deno.mkdir(path);
  parts.defer(() => Deno.remove(path));
  const words = options === "" ? "noatime" : `noatime,${options}`;
  await run("mount", ["-t", "ext4", "-o", words, loop.device, path]);
  parts.defer(async () => {
    const unmounted = () => attempt("umount", [path]);
    if (await soon(async () => (await unmounted()).code === 0)) return;
    // Better a file system that goes when the last one leaves it.
    await run("umount", ["--lazy", path]);
  });

  const all = parts.move();
  return { path, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** Waits until something is so; whether it became so in time. */
async function soon(what: () => boolean | Promise<boolean>): Promise<boolean> {
  for (const end = performance.now() + PATIENCE_MS;;) {
    if (await what()) return true;
    if (performance.now() > end) return false;
    await pause(20);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
