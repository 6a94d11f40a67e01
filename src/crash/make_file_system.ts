/**
 * New file systems, by the programs that make them on an image without root.
 *
 * @module
 */

import { program, requireAll, runProgram } from "./programs.ts";

/** The package of Debian that has `mkfs`, and what it is told. */
const MAKERS: Readonly<
  Record<string, { package: string; args(blockSize: number): string[] }>
> = {
  ...Object.fromEntries(["ext2", "ext3", "ext4"].map((type) => [type, {
    package: "e2fsprogs",
    // All of it now: what is left for later, the kernel does at some moment.
    args: (blockSize: number) => [
      ...["-q", "-F", "-b", String(Math.max(blockSize, 1024)), "-E"],
      "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
    ],
  }])),
  xfs: {
    package: "xfsprogs",
    args: (blockSize) => ["-q", "-f", "-K", "-s", `size=${blockSize}`],
  },
  btrfs: { package: "btrfs-progs", args: () => ["-q", "-f", "-K"] },
  f2fs: { package: "f2fs-tools", args: () => ["-q", "-f", "-t", "0"] },
  vfat: {
    package: "dosfstools",
    args: (blockSize) => ["-S", String(blockSize)],
  },
  exfat: { package: "exfatprogs", args: () => ["-q"] },
};

/**
 * Makes a file system.
 *
 * @param type What `mkfs` and `mount` call it.
 * @param path An image, which is a hole.
 * @param blockSize The block size of the disk that it will be on, in bytes.
 * @returns When it is made.
 * @throws {ProgramError} If there is no such program, or it fails.
 */
export async function makeFileSystem(
  type: string,
  path: string,
  blockSize: number,
): Promise<void> {
  const maker = MAKERS[type];
  const name = `mkfs.${type}`;
  await requireAll(`make a file system of type ${type}`, [
    program(name, maker?.package ?? null),
  ]);
  await runProgram(name, [...maker?.args(blockSize) ?? [], path]);
}
