/**
 * A User Mode Linux guest: Debian's, which runs as an ordinary program of an
 * ordinary user, with this system's files for its root and vhost-user devices for
 * its disks.
 *
 * Its own disks (`ubd`) would not do: they never flush.
 *
 * @module
 */

import { Guest, type GuestUser, shellOn } from "./guest.ts";

/** VIRTIO_ID_BLOCK (include/uapi/linux/virtio_ids.h). */
const BLOCK_DEVICE = 2;

/** Where Debian's package has the kernel's modules. */
const MODULES = "/usr/lib/uml/modules";

/**
 * Commands that load modules of the kernel. There may be no `insmod` but
 * busybox's.
 *
 * @param paths Where they are, from the folder `kernel` on.
 * @returns Lines of a shell script.
 */
export function loadModules(paths: readonly string[]): string {
  return `for module in ${paths.join(" ")}; do
  module=${MODULES}/$(uname -r)/kernel/$module.ko
  insmod $module 2>/dev/null || busybox insmod $module
done`;
}

/** How a guest is set up. */
export interface UmlOptions {
  /** Sockets of its disks; one that nobody listens at can be bound later. */
  readonly sockets: readonly string[];
  /** A directory for what it needs, which is its user's. */
  readonly directory: string;
  /** What its first process does before it is a shell. */
  readonly init: string;
  /** Mebibytes of its memory. */
  readonly memoryMib: number;
  /** Who runs it; this process' user if not given. */
  readonly user?: GuestUser | undefined;
  /** Gives up starting. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Starts a guest.
 *
 * @param options How.
 * @returns Its shell.
 * @throws {GuestError} If it does not start.
 */
export async function startUml(options: UmlOptions): Promise<Guest> {
  const { sockets, directory, user, memoryMib } = options;
  const init = `${directory}/init`;
  const script = options.init + shellOn("/dev/ttyS0");
  await Deno.writeTextFile(init, script, { mode: 0o755 });
  const home = `${directory}/home`;
  await Deno.mkdir(home);
  if (user !== undefined) await Deno.chown(home, user.uid, user.gid);
  return await Guest.start({
    command: "linux.uml",
    args: [
      ...[`mem=${memoryMib}M`, "root=/dev/root", "rootfstype=hostfs"],
      ...["rootflags=/", "ro", `init=${init}`],
      ...sockets.map((path) => `virtio_uml.device=${path}:${BLOCK_DEVICE}`),
      // Its kernel speaks on standard error, and the shell on the other two.
      ...["con=none", "con0=null,fd:2", "ssl0=fd:0,fd:1"],
      ...["panic=-1", "loglevel=5"],
    ],
    // It puts a folder for its monitor into the one, and its memory into the
    // other, where it may be executed.
    env: { HOME: home, TMPDIR: "/dev/shm" },
    user,
  }, options.signal);
}
