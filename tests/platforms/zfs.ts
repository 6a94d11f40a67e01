/**
 * ZFS for a guest, which no kernel of Debian's has: OpenZFS's modules, made of
 * Debian's package of their source by this machine's compiler and the headers of
 * the guest's kernel, and OpenZFS's programs. It is made once, in ten minutes
 * of a processor, and kept.
 *
 * @module
 */

import { ProgramError, searchPath } from "../../src/crash/programs.ts";
import { kept, type Kernel, type Suite, unpack } from "./packages.ts";

/** The release whose ZFS is made: the first one with 2.3, which has direct I/O. */
const ZFS: Suite = {
  release: "trixie",
  architecture: "amd64",
  components: ["contrib"],
};

/** ZFS for one kernel. */
export interface Zfs {
  /** Files of modules, in the order in which they are to be loaded. */
  readonly modules: readonly string[];
  /** What to write before the arguments of `zpool`. */
  readonly zpool: string;
}

/**
 * Makes ZFS for a kernel. It takes `make`, and the compiler of the kernel's release.
 *
 * @param suite The kernel's release.
 * @param kernel The kernel.
 * @returns Where it is.
 * @throws {ProgramError} If it cannot be fetched or made.
 */
export async function zfsFor(suite: Suite, kernel: Kernel): Promise<Zfs> {
  const { release } = kernel;
  const place = await kept(`zfs-${ZFS.release}-${release}`, async (folder) => {
    const programs = `${folder}/programs`;
    await unpack(ZFS, ["zfsutils-linux"], programs, { dependencies: true });
    const sources = `${folder}/sources`;
    await unpack(ZFS, ["zfs-dkms"], sources);
    await unpack(suite, [
      `linux-headers-${release}`,
      `linux-headers-${release.replace(/-amd64$/, "-common")}`,
      `linux-kbuild-${release.split(".").slice(0, 2).join(".")}`,
    ], sources);
    await makeModules(sources, release, folder);
    await Deno.remove(sources, { recursive: true });
  });
  const root = `${place}/programs`;
  return {
    modules: ["spl", "zfs"].map((name) => `${place}/${name}.ko`),
    // With the C library that they were made for.
    zpool: `${root}/usr/lib64/ld-linux-x86-64.so.2 --library-path ` +
      `${root}/usr/lib/x86_64-linux-gnu ${root}/usr/sbin/zpool`,
  };
}

/**
 * Makes the modules: of the sources in the folder `$1`, for the kernel `$2`, into
 * the folder `$3`. The headers name each other by where they would be installed, and
 * what a debugger reads would be most of the modules.
 */
const MAKE = `
common=$1/usr/src/linux-headers-\${2%-amd64}-common
headers=$1/usr/src/linux-headers-$2
sed -i "s|/usr/src/|$1/usr/src/|" "$headers/Makefile"
cd "$1"/usr/src/zfs-*
export KCFLAGS=-g0
./configure --with-config=kernel --with-linux="$common" --with-linux-obj="$headers"
make -C module -j "$(nproc)"
cp module/spl.ko module/zfs.ko "$3"
`;

/** In this process's group, unlike short programs: Ctrl-C ends the compiler, too. */
async function makeModules(
  sources: string,
  release: string,
  target: string,
): Promise<void> {
  const { success, code, stderr } = await new Deno.Command("sh", {
    args: ["-ec", MAKE, "make", sources, release, target],
    env: { PATH: searchPath(), LC_ALL: "C" },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  if (success) return;
  const said = new TextDecoder().decode(stderr).trim().split("\n").slice(-12);
  throw new ProgramError(
    `Cannot make ZFS for ${release} as that ends with ${code}: ${
      said.join("\n")
    }`,
  );
}
