/**
 * The root file system of guests: an ext4 image with busybox and the tools that
 * the tests use, copied from here with the libraries that they need.
 *
 * @module
 */

import { hasTool, run } from "../../helpers.ts";
import { shellOn } from "../../../src/crash/guests/guest.ts";

/** Programs of the guest. What busybox has as well is taken from here. */
export const GUEST_TOOLS = [
  "blkdiscard",
  "blkid",
  "dd",
  "fio",
  "hdparm",
  "lsblk",
  "mkfs.btrfs",
  "mkfs.ext4",
  "mkfs.xfs",
] as const;

/** Where programs are looked for. */
const DIRS = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/** What the guest's first process is: a shell on the second serial port. */
const INIT = `#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir -p /tmp/mnt
${shellOn("/dev/ttyS1")}`;

/**
 * Makes the image.
 *
 * @param directory A directory for it and for what goes into it.
 * @returns The image's path.
 */
export async function rootImage(directory: string): Promise<string> {
  const root = `${directory}/root`;
  for (const dir of ["proc", "sys", "dev", "tmp", "bin", "etc"]) {
    await Deno.mkdir(`${root}/${dir}`, { recursive: true });
  }
  await Deno.copyFile(programPath("busybox"), `${root}/bin/busybox`);
  const applets = await run("busybox", ["--list"]);
  const kept = new Set<string>(GUEST_TOOLS);
  for (const applet of applets.trim().split("\n")) {
    if (applet === "busybox" || kept.has(applet)) continue;
    await Deno.symlink("busybox", `${root}/bin/${applet}`);
  }
  for (const tool of GUEST_TOOLS) {
    const path = programPath(tool);
    await copyInto(root, path);
    const libraries = await run("ldd", [path]);
    for (const [library] of libraries.matchAll(/\/\S+\.so\S*/g)) {
      await copyInto(root, library);
    }
  }
  await Deno.writeTextFile(`${root}/init`, INIT, { mode: 0o755 });
  const image = `${directory}/root.img`;
  using file = await Deno.create(image);
  await file.truncate(256 << 20);
  await run("mkfs.ext4", ["-q", "-F", "-d", root, image]);
  await Deno.remove(root, { recursive: true });
  return image;
}

function programPath(name: string): string {
  if (!hasTool(name)) {
    throw new Error(`Cannot make a guest as ${name} is not installed`);
  }
  for (const dir of DIRS) {
    try {
      return Deno.realPathSync(`${dir}/${name}`) && `${dir}/${name}`;
    } catch {
      // It is in another one.
    }
  }
  throw new Error(`Cannot find ${name} in ${DIRS.join(", ")}`);
}

async function copyInto(root: string, path: string): Promise<void> {
  const target = `${root}${path}`;
  await Deno.mkdir(target.slice(0, target.lastIndexOf("/")), {
    recursive: true,
  });
  await Deno.copyFile(path, target);
}
