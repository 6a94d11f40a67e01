/**
 * A Linux guest under QEMU, emulated, whose disks are vhost-user devices: the
 * first one is its root.
 *
 * @module
 */

import type { Guest } from "../../../src/crash/guests/guest.ts";
import { guestKernel } from "../../../src/crash/guests/kernel_package.ts";
import { startQemu as start } from "../../../src/crash/guests/qemu_guest.ts";

/** What the kernel of a guest needs that is not part of it. */
const MODULES = [
  "virtio_pci",
  "virtio_blk",
  "crc32c_generic",
  "crc32c_intel",
  "xxhash_generic",
  "blake2b_generic",
  "ext4",
  "xfs",
  "btrfs",
];

/** Goes on from the first disk. */
const INIT = `for i in 1 2 3 4 5 6 7 8 9 10; do
  [ -b /dev/vda ] && break
  /bin/busybox sleep 1
done
/bin/busybox mount -t ext4 -o ro /dev/vda /root
exec /bin/busybox switch_root /root /init
`;

/** How a guest is set up. */
export interface QemuOptions {
  /** Sockets of its disks. */
  readonly sockets: readonly string[];
  /** A directory for what it needs. */
  readonly directory: string;
  /** Queues of each disk, and processors. */
  readonly queues?: number;
  /** More arguments for QEMU. */
  readonly args?: readonly string[];
}

/**
 * Starts a guest.
 *
 * @param options How.
 * @returns Its shell.
 */
export async function startQemu(options: QemuOptions): Promise<Guest> {
  return await start({
    ...options,
    kernel: await guestKernel(),
    modules: MODULES,
    init: INIT,
    processors: options.queues ?? 2,
    memoryMib: 512,
    accelerator: "tcg",
  });
}
