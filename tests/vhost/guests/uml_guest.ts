/**
 * A User Mode Linux guest with one disk, of somebody who may do nothing.
 *
 * @module
 */

import type { Guest, GuestUser } from "../../../src/crash/guests/guest.ts";
import {
  loadModules,
  startUml as start,
} from "../../../src/crash/guests/uml_guest.ts";
import { isRoot } from "../../helpers.ts";

/** Somebody who may do nothing, and whose groups neither. */
export const NOBODY: GuestUser = { uid: 65534, gid: 65534 };

/** What the guest's first process does before it is a shell. */
const INIT = `#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir -p /tmp/mnt
${loadModules(["drivers/block/virtio_blk"])}
`;

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
  const user = isRoot() ? NOBODY : undefined;
  if (user !== undefined) {
    await Deno.chown(socket, user.uid, user.gid);
    await Deno.chmod(directory, 0o755);
  }
  return await start({
    sockets: [socket],
    directory,
    init: INIT,
    memoryMib: 256,
    user,
  });
}
