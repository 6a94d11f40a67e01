/**
 * A disk that QEMU emulates, with a Linux guest that has ext4 on it: one file after
 * another is written and synced, and acknowledged when `sync` has returned.
 *
 * ```text
 * deno run -A qemu_disk.ts prepare|run|check|damage virtio-blk|virtio-scsi|nvme
 * ```
 *
 * ext4 ends a transaction by a block that must be durable when its write returns.
 * Linux asks for that by FUA where the controller says that it has it, else by a
 * flush after the write. Either way the file is there, from then on, whenever the
 * power of the host fails.
 *
 * @module
 */

import { shellOn } from "../../../src/crash/guests/guest.ts";
import { guestKernel } from "../../../src/crash/guests/kernel_package.ts";
import { firstLines } from "../../../src/crash/guests/machine.ts";
import { startQemu } from "../../../src/crash/guests/qemu_guest.ts";

const FILES = 12;

/** The controllers: their arguments, modules, and what Linux calls the disk. */
const CONTROLLERS: Record<
  string,
  { args: string[]; modules: string[]; device: string }
> = {
  "virtio-blk": {
    args: ["-device", "virtio-blk-pci,drive=disk"],
    modules: ["virtio_blk"],
    device: "/dev/vda",
  },
  "virtio-scsi": {
    args: ["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk"],
    modules: ["virtio_scsi", "sd_mod"],
    device: "/dev/sda",
  },
  nvme: {
    args: ["-device", "nvme,serial=1,drive=disk"],
    modules: ["nvme"],
    device: "/dev/nvme0n1",
  },
};

const [verb, controller] = Deno.args;
const image = Deno.env.get("PLATTER_IMAGE")!;

/** Runs a program of the host's. */
async function host(program: string, ...args: string[]) {
  const { code, stdout } = await new Deno.Command(program, {
    args,
    stdin: "null",
    stderr: "null",
  }).output();
  return { code, text: new TextDecoder().decode(stdout) };
}

async function run(): Promise<void> {
  const { args, modules, device } = CONTROLLERS[controller!]!;
  const directory = await Deno.makeTempDir({ prefix: "platter-qemu-" });
  try {
    const init = `${directory}/init`;
    await Deno.writeTextFile(init, firstLines("") + shellOn("/dev/ttyS1"), {
      mode: 0o755,
    });
    await using guest = await startQemu({
      kernel: await guestKernel(),
      modules: [
        "virtio_pci",
        ...modules,
        "9p",
        "9pnet_virtio",
        "crc32c_generic",
        "ext4",
      ],
      init: `/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro ` +
        `host /root || exec /bin/busybox poweroff -f
exec /bin/busybox switch_root /root ${init}
`,
      sockets: [],
      directory,
      processors: 1,
      memoryMib: 512,
      accelerator: "tcg",
      args: [
        ...["-fsdev", "local,id=host,path=/,security_model=none,readonly=on"],
        ...["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"],
        ...["-drive", `file=${image},format=raw,if=none,id=disk`],
        ...args,
      ],
    });
    const folder = "/dev/platter/mnt";
    const queue = `/sys/block/${device.slice("/dev/".length)}/queue`;
    console.log(await guest.run(`cd ${queue} && grep . write_cache fua`));
    await guest.run(`mkdir ${folder} && mount -t ext4 ${device} ${folder}`);
    for (let number = 1; number <= FILES; number++) {
      const path = `${folder}/${number}`;
      await guest.run(`echo ${number} >${path} && sync ${path} ${folder}`);
      console.log(`ACK ${number}`);
    }
    await guest.run(`umount ${folder}`);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

async function check(): Promise<void> {
  const lines = await Deno.readTextFile(Deno.env.get("PLATTER_ACKED")!);
  // Takes over what is in the journal, as a mount does.
  if ((await host("e2fsck", "-fy", image)).code > 1) {
    console.log("The file system is damaged");
    Deno.exit(1);
  }
  for (const number of lines.split("\n").filter((line) => line !== "")) {
    const { text } = await host("debugfs", "-R", `cat /${number}`, image);
    if (text !== `${number}\n`) {
      console.log(`A file that was acknowledged is gone: ${number}`);
      Deno.exit(1);
    }
  }
  console.log("Each file that was acknowledged is there");
}

switch (verb) {
  case "prepare":
    await host("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard", image);
    break;
  case "run":
    await run();
    break;
  case "check":
    await check();
    break;
  case "damage":
    await host("debugfs", "-w", "-R", `rm /${FILES}`, image);
}
