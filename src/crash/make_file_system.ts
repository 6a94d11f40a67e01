/**
 * New file systems, by the programs that make them on an image without root.
 *
 * @module
 */

import { program, requireAll, runProgram } from "./programs.ts";

/** The package of Debian that has `mkfs`, and what it is told. */
const MAKERS: Readonly<
  Record<string, { package: string; args: readonly string[] }>
> = {
  ...Object.fromEntries(["ext2", "ext3", "ext4"].map((type) => [type, {
    package: "e2fsprogs",
    // All of it now: what is left for later, the kernel does at some moment.
    args: [
      "-q",
      "-F",
      "-E",
      "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
    ],
  }])),
  xfs: { package: "xfsprogs", args: ["-q", "-f", "-K"] },
  btrfs: { package: "btrfs-progs", args: ["-q", "-f", "-K"] },
  f2fs: { package: "f2fs-tools", args: ["-q", "-f", "-t", "0"] },
  vfat: { package: "dosfstools", args: [] },
  exfat: { package: "exfatprogs", args: [] },
};

/**
 * Makes a file system.
 *
 * @param type What `mkfs` and `mount` call it.
 * @param path An image, which is a hole.
 * @returns When it is made.
 * @throws {ProgramError} If there is no such program, or it fails.
 */
export async function makeFileSystem(
  type: string,
  path: string,
): Promise<void> {
  const maker = MAKERS[type];
  const name = `mkfs.${type}`;
  await requireAll(`make a file system of type ${type}`, [
    program(name, maker?.package ?? null),
  ]);
  await runProgram(name, [...maker?.args ?? [], path]);
}
