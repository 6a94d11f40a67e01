/**
 * Any disk as a path: a file that programs open, read, write and sync as they
 * are, and that is the disk.
 *
 * Data moves from the program through the kernel's FUSE to `nbdfuse` (or QEMU's
 * storage daemon), over a Unix socket in a private folder to an NBD server
 * here, and from there to the disk.
 *
 * @module
 */

import { onlyOnDeno } from "../deno_only.ts";
import type { Backend } from "../backend.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { systemCode, systemReason } from "../backends/system_error.ts";
import { DiskError, kindOfCode } from "../errors.ts";
import { NbdServer } from "../nbd/server.ts";
import { findFuseTool, type FuseToolName } from "./fuse_tool.ts";
import { MountShell } from "./mount_shell.ts";
import { LEAVE_MS, MountedFile, mountError } from "./mounted_file.ts";

/** How a disk becomes a file. */
export interface MountOptions {
  /**
   * Where the file is to be. Nothing may be of that name; its folder must
   * exist. By default a name in a private folder, which goes away with the
   * mount.
   */
  path?: string | undefined;
  /**
   * Whether writes are refused, although the disk may take them.
   *
   * @default {false}
   */
  readOnly?: boolean | undefined;
  /**
   * Whether all users may use the file, and not only the one who runs this. Not
   * for root it takes `user_allow_other` in /etc/fuse.conf.
   *
   * @default {false}
   */
  allowOther?: boolean | undefined;
  /**
   * What makes a file of the disk; by default the first of the two that is
   * there. What QEMU's does otherwise is in docs/mount.md.
   */
  tool?: FuseToolName | undefined;
  /**
   * Hears what failed, if the mount ended by that: the tool, or its connection.
   * So does {@linkcode MountedFile.closed}, which also tells that somebody has
   * unmounted it.
   */
  onError?: ((error: DiskError) => void) | undefined;
  /** Aborts mounting. */
  signal?: AbortSignal | undefined;
}

/**
 * The longest that a tool may take to mount, in ms that this process had to look
 * at it: where the machine stands still, so does the tool.
 */
const START_MS = 20_000;

/** How often it is asked for, in ms. */
const POLL_MS = 5;

/**
 * Makes a disk a file, which unmodified programs use: any byte of it, as many
 * of them at once as like. A `sync` of the file is a flush of the disk. Linux
 * only, with `nbdfuse` (Debian's package `libnbd-bin`) or
 * `qemu-storage-daemon` (`qemu-system-common`), and `fuse3`; with
 * `--allow-run=sh`, and for the private socket and the file `--allow-read`,
 * `--allow-write` and `--allow-net`.
 *
 * The disk is served by this thread. So no call may wait for the file here:
 * `Deno.readFileSync(file.path)` would wait for itself, for ever. Leave the file
 * to other programs, or to a Worker; with `nbdfuse`, calls that return promises
 * are fine as well.
 *
 * Nothing stays mounted after `close()`, nor after this process has ended,
 * however it did.
 *
 * @param what A disk, which stays open when the mount ends; or a backend, which
 * is closed with it.
 * @param options Where, and how.
 * @returns The file, until it is closed.
 * @throws {RangeError} If the path is none of a file, or that of the private socket,
 * in the folder for temporary files (`TMPDIR`), is too long for a socket.
 * @throws {DiskError} With kind `exists` if there is something of that name,
 * `not-found` if its folder is missing, `platform` if a tool is (its package is
 * named), `permission` if the system or Deno says no, `io` if the tool fails,
 * `aborted` if the signal fires, `closed` if the disk is. A backend that was given is closed then, too.
 *
 * @example A disk in memory, given to a program
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { asFile } from "@platter/disk/mount";
 *
 * await using disk = VirtualDisk.memory({ size: "64MiB" });
 * try {
 *   await using file = await asFile(disk);
 *   await new Deno.Command("mkfs.ext4", { args: ["-q", file.path] }).output();
 *   console.log("the superblock begins with", await disk.read(2, 1));
 * } catch (error) {
 *   console.log(error); // Which tool is missing, and its package.
 * }
 * ```
 */
export async function asFile(
  what: VirtualDisk | Backend,
  options: MountOptions = {},
): Promise<MountedFile> {
  const own = what instanceof VirtualDisk ? null : VirtualDisk.over(what);
  const disk = what instanceof VirtualDisk ? what : own!;
  await using parts = new AsyncDisposableStack();
  if (own !== null) parts.use(own);
  const { signal, onError } = options;
  onlyOnDeno("show a disk as a file");
  checkSignal(signal);
  VirtualDisk.refuseClosed("mount", disk);
  const tool = await findFuseTool(options.tool);

  const dir = await permitted(
    options.path ?? null,
    () => Deno.makeTempDir({ prefix: "platter-" }),
  );
  // Empty, unless something failed: its content is removed by who made it.
  parts.defer(() => attempt(() => Deno.remove(dir)));
  const point = options.path === undefined
    ? `${await Deno.realPath(dir)}/disk`
    : await pointOf(options.path);
  const socket = `${dir}/nbd.sock`;
  const faults = Promise.withResolvers<Error>();
  const readOnly = disk.readOnly || (options.readOnly ?? false);
  const server = await permitted(
    socket,
    () =>
      NbdServer.listen({
        path: socket,
        exports: [{ disk, readOnly, trimToZeroes: true }],
        onError: faults.resolve,
      }),
  );
  parts.defer(() => attempt(() => Deno.remove(socket)));
  parts.defer(() => server.close(LEAVE_MS));

  const pidFile = `${dir}/pid`;
  const below = await claim(point);
  const allowOther = options.allowOther ?? false;
  const command = tool.command({
    ...{ point, socket, pidFile, readOnly, allowOther },
  });
  const { endSignal } = tool;
  const shell = new MountShell({ point, below, dir, endSignal, command });
  parts.defer(async () => {
    shell.end();
    await shell.ended;
  });
  await ready(shell, pidFile, tool.name, point, signal);
  // From here on the shell removes what was made, and the mount closes the rest.
  parts.move();
  return new MountedFile({
    ...{ shell, server, own, onError },
    ...{ path: point, tool: tool.name, faults: faults.promise },
  });
}

/** Waits until a tool has mounted. */
async function ready(
  shell: MountShell,
  pidFile: string,
  tool: string,
  point: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  let said: string | undefined;
  shell.ended.then((outcome) => said = outcome.said);
  for (let leftMs = START_MS; !await isThere(pidFile); leftMs -= POLL_MS) {
    checkSignal(signal);
    if (said !== undefined) {
      throw mountError("mount", point, `${tool} failed: ${said}`);
    }
    if (leftMs <= 0) {
      throw mountError("mount", point, `${tool} did not mount it in time`);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  checkSignal(signal);
}

/** The mount point, as the kernel will know it. */
async function pointOf(path: string): Promise<string> {
  const [, folder, name] = /^(.*\/)?([^/]*)$/s.exec(path)!;
  if (name === "" || name === "." || name === ".." || path.includes("\0")) {
    throw new RangeError(
      `Cannot mount a disk as its path must be that of a file: current value is ${
        JSON.stringify(path)
      }`,
    );
  }
  const parent = await permitted(path, () => Deno.realPath(folder ?? "."));
  return `${parent === "/" ? "" : parent}/${name}`;
}

/** Makes the file that is mounted over; returns its device and inode. */
async function claim(point: string): Promise<string> {
  return await permitted(point, async () => {
    using file = await Deno.open(point, { write: true, createNew: true });
    const { dev, ino } = await file.stat();
    return `${dev}:${ino}`;
  });
}

/** Does something with files; what is thrown becomes a disk's error. */
async function permitted<T>(
  path: string | null,
  work: () => T | Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) throw error;
    const kind = error instanceof Deno.errors.NotFound
      ? "not-found"
      : error instanceof Deno.errors.AlreadyExists
      ? "exists"
      : error instanceof Deno.errors.NotCapable ||
          error instanceof Deno.errors.PermissionDenied
      ? "permission"
      : kindOfCode(systemCode(error)?.code ?? "");
    const reason = kind === "exists"
      ? "there is something of that name"
      : systemReason(error) ?? (error as Error).message;
    const place = path === null ? "" : ` at "${path}"`;
    throw new DiskError(kind, `Cannot mount a disk${place} as ${reason}`, {
      ...{ operation: "mount", path: path ?? undefined, cause: error },
    });
  }
}

/** Removes what may be gone. */
async function attempt(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch {
    // The shell has done it.
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch {
    return false;
  }
}

function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return;
  throw new DiskError("aborted", "Cannot mount a disk as it was aborted", {
    ...{ operation: "mount", cause: signal.reason },
  });
}
