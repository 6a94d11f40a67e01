/**
 * Reads one file of a file system on a disk, by its path.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { printable } from "../printable.ts";
import type { FileEntry } from "./file_entry.ts";
import { partsOf } from "./file_path.ts";
import { FileSystemError } from "./file_system_error.ts";
import { findFileSystem, type FoundFileSystem } from "./find_file_system.ts";
import { listing } from "./list_files.ts";
import { readItems } from "./read_items.ts";
import type { FilesOptions } from "./seven_zip.ts";

/** How a file is read as a whole. */
export interface ReadFileOptions extends FilesOptions {
  /**
   * The most that is read, in bytes.
   *
   * @default {268_435_456}
   */
  maxBytes?: number | undefined;
}

/** 256 MiB. */
const DEFAULT_MAX_BYTES = 2 ** 28;

/** Symbolic links on one way, as many as Linux follows (path_resolution(7)). */
const MOST_LINKS = 40;

/**
 * Reads a file of the file system on a disk as a whole. Symbolic links in the
 * path are followed, and lead nowhere but in that file system.
 *
 * @param disk The disk; which file system, see {@linkcode listFiles}.
 * @param path The file's path from the root of the file system.
 * @param options How much, and when to give up.
 * @returns Its bytes.
 * @throws {FileSystemError} If there is no such file, it is too large, or the
 * file system cannot be read.
 * @throws {DiskError} If the disk fails.
 * @throws {RangeError} If a number is out of its range.
 *
 * @example
 * ```ts ignore
 * import { VirtualDisk } from "@platter/disk";
 * import { readFile } from "@platter/disk/files";
 *
 * await using disk = await VirtualDisk.open("disk.img", { readOnly: true });
 * console.log(new TextDecoder().decode(await readFile(disk, "/etc/os-release")));
 * ```
 */
export async function readFile(
  disk: VirtualDisk,
  path: string,
  options: ReadFileOptions = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const { maxBytes = DEFAULT_MAX_BYTES } = options;
  if (!Number.isSafeInteger(maxBytes) || maxBytes < 0) {
    throw new RangeError(
      `Cannot read a file as maxBytes must be a safe integer from 0: current value is ${maxBytes}`,
    );
  }
  const found = await findFileSystem(disk, options.signal);
  const entry = await resolve(found, path, options);
  if (entry.size > maxBytes) {
    throw new FileSystemError(
      "too-large",
      `Cannot read "${
        printable(path)
      }" as it must have at most ${maxBytes} bytes: current value is ${entry.size}`,
    );
  }
  const bytes = new Uint8Array(entry.size);
  let at = 0;
  for await (const chunk of contentOf(found, entry, options)) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/**
 * Opens a file of the file system on a disk as a stream, for files of any size:
 * it is read as fast as it is taken.
 *
 * @param disk The disk; which file system, see {@linkcode listFiles}.
 * @param path The file's path from the root of the file system.
 * @param options When to give up.
 * @returns Its bytes, in pieces of up to 256 KiB. It fails at its end if the
 * file was not all there.
 * @throws {FileSystemError} If there is no such file, or the file system cannot
 * be read.
 * @throws {DiskError} If the disk fails.
 * @throws {RangeError} If the timeout is no number of ms.
 *
 * @example
 * ```ts ignore
 * import { VirtualDisk } from "@platter/disk";
 * import { openFile } from "@platter/disk/files";
 *
 * await using disk = await VirtualDisk.open("disk.img", { readOnly: true });
 * const video = await openFile(disk, "home/video.mkv");
 * await video.pipeTo((await Deno.create("video.mkv")).writable);
 * ```
 */
export async function openFile(
  disk: VirtualDisk,
  path: string,
  options: FilesOptions = {},
): Promise<ReadableStream<Uint8Array>> {
  const found = await findFileSystem(disk, options.signal);
  const entry = await resolve(found, path, options);
  return ReadableStream.from(contentOf(found, entry, options));
}

/** The content of a file, or where a symbolic link leads. */
async function* contentOf(
  found: FoundFileSystem,
  entry: FileEntry,
  options: FilesOptions,
): AsyncGenerator<Uint8Array, void> {
  const events = readItems(found, [entry], [entry.path], options);
  let isWhole = false;
  for await (const event of events) {
    if (event.kind === "data") yield event.bytes;
    else if (event.kind === "fault") throw damaged(entry.path, event.reason);
    else if (event.kind === "end") {
      isWhole = true;
      break;
    }
  }
  if (!isWhole) throw damaged(entry.path, "it is listed and not there");
}

function damaged(path: string, reason: string): FileSystemError {
  return new FileSystemError(
    "damaged",
    `Cannot read "${printable(path)}" as the file system is damaged: ${
      printable(reason)
    }`,
  );
}

/**
 * Finds the file that a path leads to. Most are found at once; for what there is
 * not, the whole tree is listed and its symbolic links followed.
 */
async function resolve(
  found: FoundFileSystem,
  path: string,
  options: FilesOptions,
): Promise<FileEntry> {
  const parts = partsOf(path);
  const plain = parts.join("/");
  if (plain !== "" && !parts.includes("..")) {
    for await (const entries of listing(found, [plain], options)) {
      const entry = entries.find((it) => it.path === plain);
      if (entry?.type === "file") return entry;
      // Its content, if it is a directory, may be long.
      if (entry !== undefined) break;
    }
  }
  const tree = new Map<string, FileEntry>();
  const key = (path: string) =>
    found.kind.ignoresCase ? path.toLowerCase() : path;
  for await (const entries of listing(found, [], options)) {
    for (const entry of entries) {
      if (!tree.has(key(entry.path))) tree.set(key(entry.path), entry);
    }
  }
  const at: string[] = [];
  let entry: FileEntry | undefined;
  let links = 0;
  for (let part = parts.shift(); part !== undefined; part = parts.shift()) {
    if (part === "..") {
      at.pop();
      continue;
    }
    at.push(part);
    entry = tree.get(key(at.join("/")));
    if (entry === undefined) {
      throw new FileSystemError(
        "not-found",
        `Cannot read "${printable(path)}" as there is no "${
          printable(at.join("/"))
        }" in the file system`,
      );
    }
    if (entry.type !== "symlink") continue;
    if (++links > MOST_LINKS) throw notAFile(path, "a loop of symbolic links");
    const target = entry.target ?? await targetOf(found, entry, options);
    if (target.startsWith("/")) at.length = 0;
    else at.pop();
    parts.unshift(...partsOf(target));
  }
  entry = tree.get(key(at.join("/")));
  if (entry === undefined) throw notAFile(path, "the root directory");
  if (entry.type === "file") return entry;
  throw notAFile(
    path,
    entry.type === "directory" ? "a directory" : "a device, pipe or socket",
  );
}

async function targetOf(
  found: FoundFileSystem,
  entry: FileEntry,
  options: FilesOptions,
): Promise<string> {
  const decoder = new TextDecoder();
  let target = "";
  for await (const bytes of contentOf(found, entry, options)) {
    target += decoder.decode(bytes, { stream: true });
  }
  return target;
}

function notAFile(path: string, what: string): FileSystemError {
  return new FileSystemError(
    "not-a-file",
    `Cannot read "${printable(path)}" as it must be a file: it is ${what}`,
  );
}
