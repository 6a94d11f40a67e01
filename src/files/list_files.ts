/**
 * Lists the files of a file system on a disk.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { type FileEntry, ListingReader } from "./file_entry.ts";
import { partsOf } from "./file_path.ts";
import { findFileSystem, type FoundFileSystem } from "./find_file_system.ts";
import { type FilesOptions, runSevenZip } from "./seven_zip.ts";

/** What is listed, and how. */
export interface ListOptions extends FilesOptions {
  /** What: files, and directories with all that is in them; everything if none. */
  paths?: readonly string[] | undefined;
}

/**
 * Lists every file, directory and other thing of the file system on a disk, in
 * the order in which the file system has them. Nothing is written to the disk;
 * a journal is not replayed.
 *
 * It may be any disk: a partition, over a network, under layers. A disk with
 * partitions of which exactly one has a file system is read there.
 *
 * @param disk The disk.
 * @param options What of it, and when to give up.
 * @returns The files, as they are found; whoever stops taking them ends it.
 * @throws {FileSystemError} If there is no file system that can be read, or it is
 * damaged, after what could be listed.
 * @throws {DiskError} If the disk fails.
 * @throws {RangeError} If the timeout is no number of ms.
 *
 * @example
 * ```ts ignore
 * import { VirtualDisk } from "@platter/disk";
 * import { listFiles } from "@platter/disk/files";
 *
 * await using disk = await VirtualDisk.open("disk.img", { readOnly: true });
 * for await (const { path, type, size } of listFiles(disk)) {
 *   console.log(type, size, path);
 * }
 * ```
 */
export async function* listFiles(
  disk: VirtualDisk,
  options: ListOptions = {},
): AsyncGenerator<FileEntry, void> {
  const found = await findFileSystem(disk, options.signal);
  const paths = plainPaths(options.paths ?? []);
  for await (const entries of listing(found, paths, options)) yield* entries;
}

/**
 * Paths as 7-Zip has them.
 *
 * @param paths Paths from the root, with slashes anywhere.
 * @returns The same without what means nothing; none if the root is among them.
 */
export function plainPaths(paths: readonly string[]): string[] {
  const plain = paths.map((path) => partsOf(path).join("/"));
  return plain.includes("") ? [] : plain;
}

/**
 * Lists a file system.
 *
 * @param found The file system.
 * @param paths What of it, directories with all that is in them; all if none.
 * @param options When to give up.
 * @returns The files, some at a time.
 */
export async function* listing(
  found: FoundFileSystem,
  paths: readonly string[],
  options: FilesOptions,
): AsyncGenerator<readonly FileEntry[], void> {
  const entries = new ListingReader();
  // -ba and -slt: nothing but properties, one a line.
  const args = [
    "l",
    "-ba",
    "-slt",
    "-bso1",
    ...commonArguments(found.reader, paths),
  ];
  for await (const events of runSevenZip(found, args, options)) {
    for (const event of events) {
      if (event.kind === "data") {
        yield entries.read(event.bytes).filter((entry) => isInTree(entry.path));
      }
    }
  }
  yield entries.end().filter((entry) => isInTree(entry.path));
}

/**
 * What 7-Zip is told whatever it does: the kind of file system, so that it tries
 * no other format; what to leave out of it; messages to standard error; names
 * as they are, no patterns.
 *
 * @param reader What 7-Zip calls the file system.
 * @param paths What of it; all if none.
 * @returns Arguments, the image last.
 */
export function commonArguments(
  reader: string,
  paths: readonly string[],
): string[] {
  return [
    ...["-bd", "-bse2", "-bsp0", "-sccUTF-8", "-spd", "-y", `-t${reader}`],
    // Streams beside the one that a file of NTFS is.
    ...(reader === "NTFS" ? ["-sns-"] : []),
    ...(METADATA[reader] ?? []).map((name) => `-x!${name}`),
    ...paths.map((path) => `-i!${path}`),
    ...["--", "/image"],
  ];
}

/**
 * Directories that 7-Zip makes up, with what is no file: the journal, inodes
 * without a name, the master file table, what hard links lead to.
 */
const METADATA: Readonly<Record<string, readonly string[]>> = {
  Ext: ["[SYS]", "[UNKNOWN]"],
  NTFS: ["[SYSTEM]", "[UNKNOWN]", "[LOST]", "[DELETED]"],
  HFS: ["[HFS+ Private Data]"],
};

/**
 * Whether a path is in the tree: cpio has one for the directory that is the root.
 *
 * @param path The path.
 * @returns Whether it is.
 */
export function isInTree(path: string): boolean {
  return path !== "." && path !== "";
}
