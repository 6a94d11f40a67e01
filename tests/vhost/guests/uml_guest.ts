/**
 * A User Mode Linux guest: Debian's, which runs as an ordinary program of an
 * ordinary user, with this system's files for its root and a vhost-user device
 * for its disk.
 *
 * @module
 */

import { isRoot } from "../../helpers.ts";
import { Guest, shellOn } from "./guest.ts";

/** VIRTIO_ID_BLOCK (include/uapi/linux/virtio_ids.h). */
const BLOCK_DEVICE = 2;

/** Somebody who may do nothing, and whose groups neither. */
const NOBODY = 65534;

/** The guest's first process: a shell on the first console. */
const INIT = `#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir -p /tmp/mnt
find /usr/lib/uml/modules -name virtio_blk.ko -exec busybox insmod {} ';'
${shellOn("/dev/tty0")}`;

/**
 * Starts a guest, as nobody if this is root.
 *
 * @param socket Its disk's socket, to which everybody is let.
 * @param directory A directory for what it needs, which everybody can read.
 * @returns Its shell.
 */
export async function startUml(
  socket: string,
  directory: string,
): Promise<Guest> {
  const init = `${directory}/init`;
  await Deno.writeTextFile(init, INIT, { mode: 0o755 });
  const home = `${directory}/home`;
  await Deno.mkdir(home);
  if (isRoot()) {
    await Deno.chown(home, NOBODY, NOBODY);
    await Deno.chown(socket, NOBODY, NOBODY);
    await Deno.chmod(directory, 0o755);
  }
  return await Guest.start(
    "linux.uml",
    [
      "mem=256M",
      "root=/dev/root",
      "rootfstype=hostfs",
      "rootflags=/",
      `init=${init}`,
      `virtio_uml.device=${socket}:${BLOCK_DEVICE}`,
      "con=none",
      "con0=fd:0,fd:1",
      "panic=-1",
      "loglevel=6",
    ],
    () => Promise.resolve("Its kernel speaks on the same console"),
    {
      ...(isRoot() ? { uid: NOBODY, gid: NOBODY } : {}),
      env: { HOME: home, TMPDIR: "/dev/shm" },
    },
  );
}
