/**
 * A Linux guest under QEMU, with Debian's kernel and a first file system of
 * busybox and modules, which goes on to whatever its first process wants.
 *
 * @module
 */

import { ProgramError, runProgram } from "../programs.ts";
import { cpio, type Entry, Mode } from "./cpio.ts";
import { Guest, type GuestUser } from "./guest.ts";
import { type GuestKernel, modulesOf } from "./kernel_package.ts";

/** How a guest is set up. */
export interface QemuOptions {
  /** Its kernel. */
  readonly kernel: GuestKernel;
  /** Modules that its first process finds loaded, in that order. */
  readonly modules: readonly string[];
  /** What its first process does then, in busybox's shell. */
  readonly init: string;
  /** Sockets of its disks. */
  readonly sockets: readonly string[];
  /** A directory for what it needs, which is its user's. */
  readonly directory: string;
  /** Processors, and queues of each disk. */
  readonly processors: number;
  /** Mebibytes of its memory. */
  readonly memoryMib: number;
  /** `"tcg"` emulates a processor; `"kvm"` has the host's, if it may. */
  readonly accelerator: "tcg" | "kvm";
  /** More arguments for QEMU. */
  readonly args?: readonly string[] | undefined;
  /** Who runs it; this process' user if not given. */
  readonly user?: GuestUser | undefined;
  /** Gives up starting. */
  readonly signal?: AbortSignal | undefined;
}

/** What the first process begins with: it has nothing but busybox. */
const LOAD = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod "$module"; done
`;

/**
 * Starts a guest: its shell is to be on the second serial port.
 *
 * @param options How.
 * @returns Its shell.
 * @throws {GuestError} If it does not start.
 * @throws {ProgramError} If busybox needs libraries.
 */
export async function startQemu(options: QemuOptions): Promise<Guest> {
  const { sockets, directory, processors, memoryMib, kernel, user } = options;
  const initrd = `${directory}/initrd`;
  const log = `${directory}/console`;
  await Deno.writeFile(
    initrd,
    await firstFileSystem(
      await modulesOf(kernel, options.modules),
      LOAD + options.init,
    ),
  );
  const args = [
    ...["-machine", `accel=${options.accelerator}`, "-cpu", "max"],
    ...["-smp", String(processors)],
    ...["-m", String(memoryMib), "-nodefaults", "-no-user-config"],
    ...["-nographic", "-no-reboot", "-monitor", "none"],
    "-object",
    `memory-backend-memfd,id=memory,size=${memoryMib}M,share=on`,
    ...["-numa", "node,memdev=memory"],
    ...["-serial", `file:${log}`, "-serial", "stdio"],
    ...["-kernel", kernel.image, "-initrd", initrd],
    ...["-append", "console=ttyS0 panic=-1 loglevel=6"],
    ...sockets.flatMap((socket, i) => [
      "-chardev",
      `socket,id=socket${i},path=${socket}`,
      "-device",
      `vhost-user-blk-pci,chardev=socket${i},num-queues=${processors}`,
    ]),
    ...options.args ?? [],
  ];
  return await Guest.start({
    command: "qemu-system-x86_64",
    args,
    user,
    async log() {
      const text = await Deno.readTextFile(log).catch(() => "");
      // 9p's cache of the host's files says this of each, and means nothing.
      return text.split("\n").filter((line) => !line.includes("FS-Cache"))
        .join("\n").slice(-4000);
    },
  }, options.signal);
}

/** The one program of the first file system. */
const BUSYBOX = "/bin/busybox";

async function firstFileSystem(
  modules: readonly string[],
  init: string,
): Promise<Uint8Array<ArrayBuffer>> {
  const entries: Entry[] = ["bin", "dev", "modules", "root"].map((path) => ({
    path,
    mode: Mode.Directory,
  }));
  // "not a dynamic executable" is a failure of ldd.
  if (await runProgram("ldd", [BUSYBOX]).then(() => true, () => false)) {
    throw new ProgramError(
      "Cannot make a guest as busybox must have no libraries: install busybox-static",
    );
  }
  entries.push({
    path: "bin/busybox",
    mode: Mode.Program,
    content: await Deno.readFile(BUSYBOX),
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
    content: new TextEncoder().encode(init),
  });
  return cpio(entries);
}
