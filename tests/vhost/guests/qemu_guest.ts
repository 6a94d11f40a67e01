/**
 * A Linux guest under QEMU, emulated, whose disks are vhost-user devices: the
 * first one is its root.
 *
 * @module
 */

import { run } from "../../helpers.ts";
import { cpio, type Entry, Mode } from "./cpio.ts";
import { Guest } from "./guest.ts";
import { guestKernel, modulesOf } from "./kernel_package.ts";

/** What the kernel of a guest needs that is not part of it. */
const MODULES = [
  "virtio_pci",
  "virtio_blk",
  "crc32c_generic",
  "crc32c_intel",
  "xxhash_generic",
  "blake2b_generic",
  "xfs",
  "btrfs",
];

/** Megabytes of a guest's memory. */
const MEMORY_MIB = 512;

/** Loads modules, and goes on from the first disk. */
const INIT = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod "$module"; done
for i in 1 2 3 4 5 6 7 8 9 10; do
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
  const { sockets, directory, queues = 2 } = options;
  const kernel = await guestKernel();
  const initrd = `${directory}/initrd`;
  const log = `${directory}/console`;
  await Deno.writeFile(
    initrd,
    await firstFileSystem(await modulesOf(kernel, MODULES)),
  );
  const args = [
    ...["-machine", "accel=tcg", "-cpu", "max", "-smp", String(queues)],
    ...["-m", String(MEMORY_MIB), "-nodefaults", "-no-user-config"],
    ...["-nographic", "-no-reboot", "-monitor", "none"],
    "-object",
    `memory-backend-memfd,id=memory,size=${MEMORY_MIB}M,share=on`,
    ...["-numa", "node,memdev=memory"],
    ...["-serial", `file:${log}`, "-serial", "stdio"],
    ...["-kernel", kernel.image, "-initrd", initrd],
    ...["-append", "console=ttyS0 panic=-1 loglevel=6"],
    ...sockets.flatMap((socket, i) => [
      "-chardev",
      `socket,id=socket${i},path=${socket}`,
      "-device",
      `vhost-user-blk-pci,chardev=socket${i},num-queues=${queues}`,
    ]),
    ...options.args ?? [],
  ];
  return await Guest.start("qemu-system-x86_64", args, async () => {
    const text = await Deno.readTextFile(log).catch(() => "");
    return `Its kernel said: ${text.slice(-4000)}`;
  });
}

async function firstFileSystem(
  modules: readonly string[],
): Promise<Uint8Array<ArrayBuffer>> {
  const entries: Entry[] = ["bin", "dev", "modules", "root"].map((path) => ({
    path,
    mode: Mode.Directory,
  }));
  // "not a dynamic executable" is a failure of ldd.
  if (await run("ldd", ["/bin/busybox"]).then(() => true, () => false)) {
    throw new Error(
      "Cannot make a guest as busybox must have no libraries: install busybox-static",
    );
  }
  entries.push({
    path: "bin/busybox",
    mode: Mode.Program,
    content: await Deno.readFile("/bin/busybox"),
  });
  for (const [i, path] of modules.entries()) {
    entries.push({
      // The shell sorts them.
      path: `modules/${String(i).padStart(3, "0")}`,
      mode: Mode.Program,
      content: await Deno.readFile(path),
    });
  }
  entries.push({
    path: "init",
    mode: Mode.Program,
    content: new TextEncoder().encode(INIT),
  });
  return cpio(entries);
}
