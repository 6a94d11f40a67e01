/**
 * A Linux guest of any processor that QEMU emulates, whose root is a folder of
 * this machine by 9p, read-only: so it has this machine's programs, Deno and this
 * repository, and the disks that it is given.
 *
 * @module
 */

import { cpio, type Entry, Mode } from "../../src/crash/guests/cpio.ts";
import { Guest, shellOn } from "../../src/crash/guests/guest.ts";
import { modulesOf } from "../../src/crash/guests/kernel_package.ts";
import type { Kernel } from "./packages.ts";

/** A disk of a guest. */
export interface GuestDisk {
  /** The image. */
  readonly path: string;
  /** Bytes of its blocks, logical and physical. */
  readonly blockSize: number;
  /** Whether it says to have a cache that must be flushed. */
  readonly writeCache: boolean;
}

/** How a guest is set up. */
export interface GuestMachine {
  /** Its processor, as QEMU names it. */
  readonly architecture: "x86_64" | "aarch64";
  /** Its kernel. */
  readonly kernel: Kernel;
  /** The folder of this machine that is its root. */
  readonly root: string;
  /** Where in its root this machine's root is. */
  readonly hostPrefix: string;
  /** A folder for what it needs. */
  readonly directory: string;
  /** Modules for what it is to do, which may be part of its kernel. */
  readonly modules: readonly string[];
  /** Files of modules that are none of its kernel's, loaded after those. */
  readonly otherModules: readonly string[];
  /** Its disks: `/dev/vda` and so on. */
  readonly disks: readonly GuestDisk[];
  /** Sockets of vhost-user devices, which are disks after those. */
  readonly sockets?: readonly string[] | undefined;
  /** A folder that it may write to, by 9p under the tag `share`. */
  readonly share: string;
}

/** What every kernel needs that may not be part of it: its bus, shell and root. */
const MODULES = [
  ...["virtio_pci", "virtio_console", "9p", "9pnet_virtio", "virtio_blk"],
];

/** How a folder of this machine is mounted, which nobody changes meanwhile. */
const SHARED = "-t 9p -o trans=virtio,version=9p2000.L,msize=262144";

/** The first program, which goes on to the root as `/init.sh`. */
const FIRST = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod "$module" 2>/dev/null; done
/bin/busybox mount ${SHARED},cache=loose,ro root /root ||
  exec /bin/busybox poweroff -f
/bin/busybox mount -t tmpfs -o mode=0755 memory /run
/bin/busybox cp /init.sh /run/init.sh
/bin/busybox mkdir -p /root/dev
/bin/busybox mount --move /dev /root/dev
/bin/busybox mkdir -p /root/dev/shm
/bin/busybox mount --move /run /root/dev/shm
exec /bin/busybox switch_root /root /dev/shm/init.sh
`;

/** The second one. */
function init(hostPrefix: string): string {
  const mountHost = hostPrefix === ""
    ? ""
    : `mount ${SHARED},cache=loose,ro host ${hostPrefix}\n`;
  return `#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/dev/shm NO_COLOR=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=1777 memory /tmp
busybox ip link set lo up
${mountHost}mkdir /tmp/share
mount ${SHARED} share /tmp/share
${shellOn("/dev/hvc0")}`;
}

/** QEMU's arguments of a processor, whose first serial port is its console. */
const PROCESSORS = {
  x86_64: { args: ["-machine", "accel=tcg", "-cpu", "max"], console: "ttyS0" },
  aarch64: {
    args: ["-machine", "virt,accel=tcg", "-cpu", "max,pauth-impdef=on"],
    console: "ttyAMA0",
  },
};

/** Memory that a device of another process has as well. */
const SHARED_MEMORY = [
  ...["-object", "memory-backend-memfd,id=memory,size=2048M,share=on"],
  ...["-numa", "node,memdev=memory"],
];

/**
 * Starts a guest.
 *
 * @param machine How.
 * @returns Its shell.
 * @throws {GuestError} If it does not start.
 */
export async function startMachine(machine: GuestMachine): Promise<Guest> {
  const { architecture, directory, kernel, root, hostPrefix } = machine;
  const initrd = `${directory}/initrd`;
  const log = `${directory}/console`;
  await Deno.writeFile(initrd, await firstFileSystem(machine));
  const folder = (id: string, path: string, more: string) => [
    "-fsdev",
    `local,id=${id},path=${path},security_model=none,multidevs=remap${more}`,
    "-device",
    `virtio-9p-pci,fsdev=${id},mount_tag=${id}`,
  ];
  const { args, console } = PROCESSORS[architecture];
  const { sockets = [] } = machine;
  return await Guest.start({
    command: `qemu-system-${architecture}`,
    args: [
      ...args,
      ...["-smp", "1", "-m", "2048", "-nodefaults", "-no-user-config"],
      ...(sockets.length === 0 ? [] : SHARED_MEMORY),
      ...["-nographic", "-no-reboot", "-monitor", "none"],
      ...["-serial", `file:${log}`, "-chardev", "stdio,id=shell,signal=off"],
      ...["-device", "virtio-serial-pci", "-device"],
      "virtconsole,chardev=shell",
      ...["-kernel", kernel.image, "-initrd", initrd, "-append"],
      `console=${console} panic=-1 loglevel=5`,
      ...folder("root", root, ",readonly=on"),
      ...(hostPrefix === "" ? [] : folder("host", "/", ",readonly=on")),
      ...folder("share", machine.share, ""),
      ...machine.disks.flatMap(({ path, blockSize, writeCache }, i) => [
        "-drive",
        `if=none,id=disk${i},file=${path},format=raw,cache=${
          writeCache ? "writeback" : "writethrough"
        },discard=unmap`,
        "-device",
        `virtio-blk-pci,drive=disk${i},logical_block_size=${blockSize},physical_block_size=${blockSize},write-cache=${
          writeCache ? "on" : "off"
        }`,
      ]),
      ...sockets.flatMap((socket, i) => [
        ...["-chardev", `socket,id=socket${i},path=${socket}`],
        ...["-device", `vhost-user-blk-pci,chardev=socket${i}`],
      ]),
    ],
    async log() {
      const text = await Deno.readTextFile(log).catch(() => "");
      // 9p's cache of the host's files says this of each, and means nothing.
      return text.split("\n").filter((line) => !line.includes("FS-Cache"))
        .join("\n").slice(-4000);
    },
  });
}

async function firstFileSystem(
  machine: GuestMachine,
): Promise<Uint8Array<ArrayBuffer>> {
  const { kernel, root, hostPrefix, otherModules } = machine;
  const folders = ["bin", "dev", "modules", "root", "run"];
  const program = async (path: string, content: string | Promise<Uint8Array>) =>
    ({
      path,
      mode: Mode.Program,
      content: typeof content === "string"
        ? new TextEncoder().encode(content)
        : await content,
    }) satisfies Entry;
  const modules = await modulesOf(
    { image: kernel.image, modules: kernel.modules },
    [...MODULES, ...machine.modules],
  );
  return cpio([
    ...folders.map((path) => ({ path, mode: Mode.Directory })),
    await program(
      "bin/busybox",
      Deno.readFile(`${root === "/" ? "" : root}/bin/busybox`),
    ),
    ...await Promise.all([...modules, ...otherModules].map((path, i) =>
      // The shell sorts them.
      program(`modules/${String(i).padStart(3, "0")}`, Deno.readFile(path))
    )),
    await program("init.sh", init(hostPrefix)),
    await program("init", FIRST),
  ]);
}
