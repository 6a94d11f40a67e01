/**
 * Files of the file systems on disks: ext2, ext3, ext4, FAT, NTFS, HFS+, APFS,
 * SquashFS, ISO 9660, UDF and cpio, listed, read and taken out. It is 7-Zip, as
 * WebAssembly, that reads them, by way of the npm package `7z-wasm`, which
 * nobody downloads who does not import this and list files.
 *
 * {@linkcode listFiles}, {@linkcode readFile}, {@linkcode openFile} and
 * {@linkcode extractFiles} take any disk, a partition of it too; nothing of them
 * writes to it.
 *
 * @example
 * ```ts ignore
 * import { VirtualDisk } from "@platter/disk";
 * import { listFiles, readFile } from "@platter/disk/files";
 *
 * await using disk = await VirtualDisk.open("disk.img", { readOnly: true });
 * const names = await Array.fromAsync(listFiles(disk), ({ path }) => path);
 * console.log(names, await readFile(disk, "etc/hostname"));
 * ```
 *
 * @module
 */

export {
  assertFile,
  type ExpectedContent,
  FileAssertionError,
} from "./assert_file.ts";
export {
  extractFiles,
  type ExtractOptions,
  type ExtractResult,
  type SkippedFile,
} from "./extract_files.ts";
export type { FileEntry, FileType } from "./file_entry.ts";
export {
  FileSystemError,
  type FileSystemErrorKind,
} from "./file_system_error.ts";
export { type FileSystemKind, fileSystemOf } from "./file_system_kind.ts";
export { listFiles, type ListOptions } from "./list_files.ts";
export { openFile, readFile, type ReadFileOptions } from "./open_file.ts";
export type { FilesOptions } from "./seven_zip.ts";
