/**
 * Debian's kernel for virtual machines, out of its package and not installed:
 * the image, and its modules in the order in which they have to be loaded.
 *
 * @module
 */

import { ProgramError, runProgram } from "../programs.ts";

/** What stands for whatever version is current; the one for clouds has no 9p. */
const META_PACKAGE = "linux-image-amd64";

/** Where packages are kept that were fetched once, unless it is said. */
const CACHE = "/var/tmp/platter-guests";

/** A kernel for guests. */
export interface GuestKernel {
  /** The kernel's image. */
  readonly image: string;
  /** The directory of its modules. */
  readonly modules: string;
}

/**
 * Fetches the kernel's package by apt, if that was not done before, into the
 * folder that the variable `PLATTER_GUEST_CACHE` names.
 *
 * @returns The kernel.
 * @throws {ProgramError} If it cannot be fetched, or the folder is another user's.
 */
export async function guestKernel(): Promise<GuestKernel> {
  const depends = await runProgram("apt-cache", ["depends", META_PACKAGE]);
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
  if (name === undefined) {
    throw new ProgramError(
      `Cannot fetch a kernel as ${META_PACKAGE} depends on none: run apt-get update`,
    );
  }
  const release = name.slice("linux-image-".length);
  const cache = Deno.env.get("PLATTER_GUEST_CACHE") ?? CACHE;
  const place = `${cache}/${name}`;
  const kernel = {
    image: `${place}/boot/vmlinuz-${release}`,
    modules: `${place}/lib/modules/${release}/kernel`,
  };
  await Deno.mkdir(cache, { recursive: true });
  const { uid } = await Deno.stat(cache);
  if (uid !== Deno.uid()) {
    throw new ProgramError(
      `Cannot use the kernels in ${cache} as it must be this user's: current value is user ${uid}`,
    );
  }
  if (await exists(place)) return kernel;
  // Whole or not at all: another process may be about the same.
  const temporary = await Deno.makeTempDir({ dir: cache });
  try {
    const { success, stderr } = await new Deno.Command("apt-get", {
      args: ["download", "-qq", "-o", "Acquire::Retries=5", name],
      cwd: temporary,
      stdin: "null",
      stderr: "piped",
      detached: true,
    }).output();
    if (!success) {
      const said = new TextDecoder().decode(stderr).trim();
      throw new ProgramError(`Cannot fetch ${name}: ${said}`);
    }
    for await (const { name: file } of Deno.readDir(temporary)) {
      if (!file.endsWith(".deb")) continue;
      await runProgram("dpkg-deb", [
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
 * @throws {ProgramError} If the kernel's modules are compressed.
 */
export async function modulesOf(
  kernel: GuestKernel,
  names: readonly string[],
): Promise<string[]> {
  const files = new Map<string, string>();
  const found = await runProgram("find", [kernel.modules, "-name", "*.ko"]);
  if (found === "") {
    throw new ProgramError(
      `Cannot use a kernel as its modules must not be compressed: there is no .ko below ${kernel.modules}`,
    );
  }
  for (const path of found.split("\n")) {
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
