/**
 * Debian's kernel for virtual machines, out of its package and not installed:
 * the image, and its modules in the order in which they have to be loaded.
 *
 * @module
 */

import { run } from "../../helpers.ts";

/** What stands for whatever version is current. */
const META_PACKAGE = "linux-image-cloud-amd64";

/** Where packages are kept that were fetched once. */
const CACHE = Deno.env.get("PLATTER_GUEST_CACHE") ?? "/var/tmp/platter-guests";

/** A kernel for guests. */
export interface GuestKernel {
  /** The kernel's image. */
  readonly image: string;
  /** The directory of its modules. */
  readonly modules: string;
}

/**
 * Fetches the kernel's package by apt, if that was not done before.
 *
 * @returns The kernel.
 */
export async function guestKernel(): Promise<GuestKernel> {
  const depends = await run("apt-cache", ["depends", META_PACKAGE]);
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
  if (name === undefined) {
    throw new Error(
      `Cannot fetch a kernel as ${META_PACKAGE} depends on none: run apt-get update`,
    );
  }
  const release = name.slice("linux-image-".length);
  const place = `${CACHE}/${name}`;
  const kernel = {
    image: `${place}/boot/vmlinuz-${release}`,
    modules: `${place}/lib/modules/${release}/kernel`,
  };
  if (await exists(place)) return kernel;
  await Deno.mkdir(CACHE, { recursive: true });
  // Whole or not at all: another process may be about the same.
  const temporary = await Deno.makeTempDir({ dir: CACHE });
  try {
    const { success, stderr } = await new Deno.Command("apt-get", {
      args: ["download", "-qq", name],
      cwd: temporary,
      stdin: "null",
    }).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    for await (const { name: file } of Deno.readDir(temporary)) {
      if (!file.endsWith(".deb")) continue;
      await run("dpkg-deb", [
        "-x",
        `${temporary}/${file}`,
        `${temporary}/root`,
      ]);
    }
    await Deno.rename(`${temporary}/root`, place).catch(async (error) => {
      if (!(await exists(place))) throw error;
    });
  } finally {
    await Deno.remove(temporary, { recursive: true });
  }
  return kernel;
}

/**
 * The files of modules and of all that they depend on, in the order in which
 * they are to be loaded. A module that is not there is part of the kernel.
 *
 * @param kernel The kernel.
 * @param names Names of modules.
 * @returns Their paths.
 */
export async function modulesOf(
  kernel: GuestKernel,
  names: readonly string[],
): Promise<string[]> {
  const files = new Map<string, string>();
  const found = await run("find", [kernel.modules, "-name", "*.ko"]);
  for (const path of found.trim().split("\n")) {
    const name = path.slice(path.lastIndexOf("/") + 1, -".ko".length);
    files.set(name.replaceAll("-", "_"), path);
  }
  const order = new Set<string>();
  const visit = async (name: string) => {
    const path = files.get(name.replaceAll("-", "_"));
    if (path === undefined || order.has(path)) return;
    for (const other of await dependencies(path)) await visit(other);
    order.add(path);
  };
  for (const name of names) await visit(name);
  return [...order];
}

/** What a module says of itself: `depends=` in its section `.modinfo`. */
async function dependencies(path: string): Promise<string[]> {
  const bytes = await Deno.readFile(path);
  const text = new TextDecoder("latin1").decode(bytes);
  const depends = /\0depends=([^\0]*)\0/.exec(text)?.[1] ?? "";
  return depends.split(",").filter((name) => name !== "");
}

async function exists(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}
