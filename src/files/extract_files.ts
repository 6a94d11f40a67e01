/**
 * Takes files out of a file system on a disk, into a directory.
 *
 * What stands on the disk is hostile. Nothing is written outside the directory;
 * nothing in it that is a symbolic link is followed; and symbolic links, which
 * may lead anywhere, are made last, when nothing is written any more. That holds
 * as long as nobody else makes links in the directory meanwhile.
 *
 * @module
 */

import * as fs from "node:fs/promises";
import { listenForFileSizeSignal } from "../backends/file_size_signal.ts";
import { asDiskError } from "../backends/image_options.ts";
import { isNewAmongDevices } from "../backends/new_name.ts";
import {
  type FileIdentity,
  filesOf,
  identify,
  isShared,
} from "../backends/same_file.ts";
import { isZero } from "../buffer.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { printable } from "../printable.ts";
import type { FileEntry } from "./file_entry.ts";
import { FileSystemError } from "./file_system_error.ts";
import { findFileSystem } from "./find_file_system.ts";
import { listing, type ListOptions, plainPaths } from "./list_files.ts";
import { readItems } from "./read_items.ts";

/** What is taken out, and how. */
export interface ExtractOptions extends ListOptions {
  /**
   * Whether files that are in the directory already are replaced.
   *
   * @default {false}
   */
  overwrite?: boolean | undefined;
  /**
   * Told of every file and directory that has been made.
   *
   * @param entry What it is.
   */
  onEntry?: ((entry: FileEntry) => void) | undefined;
}

/** What was taken out. */
export interface ExtractResult {
  /** Files that were made. */
  readonly files: number;
  /** Directories that were made, or were there. */
  readonly directories: number;
  /** Symbolic links that were made. */
  readonly symlinks: number;
  /** Bytes of the files. */
  readonly bytes: number;
  /** What was left out, and why; at most 1,000 of them. */
  readonly skipped: readonly SkippedFile[];
  /** How many were left out. */
  readonly skippedCount: number;
}

/** Something that was not taken out. */
export interface SkippedFile {
  /** Its path in the file system. */
  readonly path: string;
  /** Why, as the end of a sentence. */
  readonly reason: string;
}

/** How many left-out files are told of. */
const MOST_SKIPPED = 1000;

/** Names that Windows gives to devices, and letters that it does not allow. */
const WINDOWS_NAME =
  /[<>:"|?*\\\p{Cc}]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)/iu;

/**
 * Takes files out of the file system on a disk. Contents, permission bits
 * without set-user-ID and the like, times and symbolic links are as they were;
 * owners are not, names of one file become files of their own, and devices,
 * pipes and sockets are left out.
 *
 * A file is there as a whole or not at all, as long as the process is not
 * killed. What cannot be taken out is left out, the rest is not; nor is anything
 * that would replace the disk's own image, or a file that this names. The system
 * writes it to the medium in its own time, as with `cp`.
 *
 * @param disk The disk; which file system, see {@linkcode listFiles}.
 * @param directory Where to; made if missing.
 * @param options What, and how.
 * @returns What was taken out, and what was not.
 * @throws {FileSystemError} With kind `exists`, before anything is written, if
 * there is something in the way; `not-found` if there is nothing of a path that
 * was asked for; or if the file system cannot be read.
 * @throws {DiskError} If the disk fails, or the directory does, which has what was
 * taken out before then: kind `no-space`, if it is full.
 * @throws {RangeError} If the timeout is no number of ms.
 *
 * @example
 * ```ts ignore
 * import { VirtualDisk } from "@platter/disk";
 * import { extractFiles } from "@platter/disk/files";
 *
 * await using disk = await VirtualDisk.open("disk.img", { readOnly: true });
 * const { files } = await extractFiles(disk, "etc-of-it", { paths: ["etc"] });
 * console.log(files, "files");
 * ```
 */
export async function extractFiles(
  disk: VirtualDisk,
  directory: string,
  options: ExtractOptions = {},
): Promise<ExtractResult> {
  return await extractSparing(disk, directory, options, []);
}

/** A file that is not replaced. */
export interface SparedFile {
  /** Which file it is. */
  readonly identity: FileIdentity;
  /** Why not, as the end of a sentence. */
  readonly reason: string;
}

/**
 * The same as {@linkcode extractFiles}, which leaves out what some files are in
 * the place of.
 *
 * @param disk The disk.
 * @param directory Where to.
 * @param options What is taken out, and how.
 * @param spared The files, beside those that the disk is read from.
 * @returns What was taken out.
 */
export async function extractSparing(
  disk: VirtualDisk,
  directory: string,
  options: ExtractOptions,
  spared: readonly SparedFile[],
): Promise<ExtractResult> {
  const { signal } = options;
  const found = await findFileSystem(disk, signal);
  const paths = plainPaths(options.paths ?? []);
  const entries: FileEntry[] = [];
  const asked = new Set(paths);
  for await (const some of listing(found, paths, options)) {
    for (const entry of some) {
      entries.push(entry);
      asked.delete(entry.path);
      // A directory need not be listed by itself.
      for (const path of asked) {
        if (entry.path.startsWith(`${path}/`)) asked.delete(path);
      }
    }
  }
  for (const path of asked) {
    throw new FileSystemError(
      "not-found",
      `Cannot extract "${printable(path)}" as there is none in the file system`,
    );
  }
  if (isNewAmongDevices(`${directory}/${crypto.randomUUID()}`)) {
    throw new FileSystemError(
      "exists",
      `Cannot extract to "${
        printable(directory)
      }" as it must be a directory for files: current value is among devices`,
    );
  }
  const there = await lstat(directory);
  // Where it is a link, that is meant: the person has named it.
  if (there !== null && !(await Deno.stat(directory)).isDirectory) {
    throw new FileSystemError(
      "exists",
      `Cannot extract to "${printable(directory)}" as it must be a directory`,
    );
  }
  const target = new Target(
    directory,
    options.overwrite ?? false,
    [
      ...(await filesOf(disk.info)).map(({ identity }) => ({
        identity,
        reason: "the disk is read from the file in its place",
      })),
      ...spared,
    ],
  );
  const wanted = new Set<FileEntry>();
  for (const entry of entries) {
    signal?.throwIfAborted();
    if (await target.plan(entry)) wanted.add(entry);
  }
  target.begin();
  await Deno.mkdir(directory, { recursive: true });
  let failure: unknown;
  const sizeLimit = listenForFileSizeSignal();
  try {
    for await (const event of readItems(found, entries, paths, options)) {
      if (event.kind === "begin") {
        const isWanted = wanted.delete(event.entry);
        await target.open(event.entry, isWanted);
      } else if (event.kind === "data") await target.write(event.bytes);
      else if (event.kind === "fault") await target.fault(event.reason);
      else {
        const entry = await target.close();
        if (entry !== null) options.onEntry?.(entry);
      }
    }
  } catch (error) {
    failure = error;
  } finally {
    await sizeLimit.release();
  }
  await target.fault("it was not read to its end");
  await target.finish();
  // That some files are damaged is said of each of them.
  const isKnown = failure instanceof FileSystemError &&
    failure.kind === "damaged" && target.faults > 0;
  if (failure !== undefined && !isKnown) throw failure;
  for (const { path } of wanted) {
    target.skip(path, "it is listed and not there");
  }
  return target.result;
}

/** The directory that files are taken out into. */
class Target {
  readonly #root: string;
  readonly #overwrite: boolean;
  readonly #spared: readonly SparedFile[];
  /** Paths that are made, or will be: what a name stands for. */
  readonly #planned = new Map<string, boolean>();
  /** Directories that are known to be none but directories. */
  readonly #known = new Set<string>();
  /** Directories that there were not. */
  readonly #missing = new Set<string>();
  readonly #directories: FileEntry[] = [];
  readonly #links: { entry: FileEntry; target: string }[] = [];
  /** What was made, where names alone do not tell: with `overwrite`. */
  readonly #made = new Set<string>();
  readonly #skipped: SkippedFile[] = [];
  #skippedCount = 0;
  #files = 0;
  #symlinks = 0;
  #bytes = 0;
  #open: OpenFile | null = null;
  /** Files that were begun and could not be read. */
  faults = 0;

  constructor(
    root: string,
    overwrite: boolean,
    spared: readonly SparedFile[],
  ) {
    this.#root = root;
    this.#overwrite = overwrite;
    this.#spared = spared;
  }

  get result(): ExtractResult {
    return {
      ...{ files: this.#files, symlinks: this.#symlinks, bytes: this.#bytes },
      ...{ directories: this.#directories.length },
      ...{ skipped: this.#skipped, skippedCount: this.#skippedCount },
    };
  }

  skip(path: string, reason: string): void {
    this.#skippedCount++;
    if (this.#skipped.length < MOST_SKIPPED) {
      this.#skipped.push({ path, reason });
    }
  }

  /** Whether something can be made; looks, and changes nothing. */
  async plan(entry: FileEntry): Promise<boolean> {
    if (this.#planned.size === 0 && await lstat(this.#root) === null) {
      this.#missing.add("");
    }
    const { path, type } = entry;
    const reason = faultOf(path) ??
      (type === "other" ? "it is a device, a pipe or a socket" : null) ??
      this.#clash(path, type === "directory") ??
      await this.#inTheWay(path, type === "directory");
    if (reason === null) this.#planned.set(path, type === "directory");
    else this.skip(path, reason);
    return reason === null;
  }

  /** From here on, directories are those that are made. */
  begin(): void {
    this.#known.clear();
  }

  async open(entry: FileEntry, isWanted: boolean): Promise<void> {
    if (!isWanted) return;
    try {
      if (entry.type === "directory") {
        await this.#makeDirectory(entry.path);
        this.#directories.push(entry);
      } else if (entry.type === "symlink") {
        this.#open = new OpenFile(entry, null, "", "");
      } else {
        this.#open = await this.#create(entry);
      }
    } catch (error) {
      this.#leaveOut(entry.path, error);
    }
  }

  async #create(entry: FileEntry): Promise<OpenFile> {
    const parent = parentOf(entry.path);
    await this.#makeDirectory(parent);
    const final = this.#pathOf(entry.path);
    // What is replaced is there until the new one is whole.
    const path = this.#overwrite
      ? `${this.#pathOf(parent)}/.platter-${crypto.randomUUID()}`
      : final;
    // O_EXCL: neither another's file nor what a link leads to.
    const file = await Deno.open(path, {
      ...{ write: true, createNew: true },
      // What nobody else may read is not to be read meanwhile.
      mode: entry.mode === null ? 0o666 : 0o600,
    });
    return new OpenFile(entry, file, path, final);
  }

  async write(bytes: Uint8Array): Promise<void> {
    const open = this.#open;
    try {
      await open?.write(bytes);
    } catch (error) {
      const { path } = open!.entry;
      const failure = asDiskError(error, this.#pathOf(path), "extract");
      // The rest may be smaller.
      if (failure.code !== "EFBIG") throw failure;
      await this.#remove();
      this.skip(path, messageOf(error));
    }
  }

  async close(): Promise<FileEntry | null> {
    const open = this.#open;
    if (open === null) return null;
    if (open.file === null) {
      // With ISO 9660 it stands in the listing, and else only there whole.
      const target = open.text || open.entry.target || "";
      this.#links.push({ entry: open.entry, target });
    } else {
      try {
        const final = this.#pathOf(open.entry.path);
        if (this.#overwrite) await this.#refuseMade(final);
        await open.keep();
        if (this.#overwrite) await this.#noteMade(final);
      } catch (error) {
        await this.#remove();
        this.#leaveOut(open.entry.path, error);
        return null;
      }
      this.#files++;
      this.#bytes += open.length;
    }
    this.#open = null;
    return open.entry;
  }

  /** What is open cannot be read to its end. */
  async fault(reason: string): Promise<void> {
    const open = await this.#remove();
    if (open === null) return;
    this.faults++;
    this.skip(open.entry.path, reason);
  }

  async #remove(): Promise<OpenFile | null> {
    const open = this.#open;
    this.#open = null;
    await open?.remove();
    return open;
  }

  /**
   * Says of one thing that it could not be made, or throws what keeps everything
   * else from being made.
   */
  #leaveOut(path: string, error: unknown): void {
    const failure = asDiskError(error, this.#pathOf(path), "extract");
    const { kind, code } = failure;
    const isOfAll = kind === "read-only" ||
      kind === "no-space" && code !== "EFBIG";
    if (isOfAll) throw failure;
    this.skip(path, messageOf(error));
  }

  /** Links, then what is known of directories: the innermost first. */
  async finish(): Promise<void> {
    for (const { entry, target } of this.#links) {
      const path = this.#pathOf(entry.path);
      if (target === "" || target.includes("\0")) {
        this.skip(entry.path, "it leads nowhere");
        continue;
      }
      try {
        await this.#makeDirectory(parentOf(entry.path));
        if (this.#overwrite) {
          await this.#refuseMade(path);
          await removeFile(path);
        }
        await Deno.symlink(target, path);
        if (this.#overwrite) await this.#noteMade(path);
        if (entry.modified !== null) {
          await fs.lutimes(path, entry.modified, entry.modified);
        }
        this.#symlinks++;
      } catch (error) {
        this.skip(entry.path, messageOf(error));
      }
    }
    for (const { path, mode, modified } of this.#directories.reverse()) {
      // Links are there now, and could be in the place of one.
      const place = this.#pathOf(path);
      if (!(await lstat(place))?.isDirectory) continue;
      await setMode(place, mode);
      if (modified !== null) await Deno.utime(place, modified, modified);
    }
  }

  /** Throws where something of this image is: case may not count there. */
  async #refuseMade(place: string): Promise<void> {
    const there = await lstat(place);
    if (there !== null && this.#made.has(keyOf(there))) {
      throw new Error("there is another one of that name, but for case");
    }
  }

  async #noteMade(place: string): Promise<void> {
    const there = await lstat(place);
    // Windows numbers no files.
    if (there !== null && there.ino !== null) this.#made.add(keyOf(there));
  }

  #pathOf(path: string): string {
    return path === "" ? this.#root : `${this.#root}/${path}`;
  }

  /** What another file of the listing has made of this path, if that is in the way. */
  #clash(path: string, isDirectory: boolean): string | null {
    const before = this.#planned.get(path);
    if (before !== undefined && !(before && isDirectory)) {
      return "there is another one of that name";
    }
    for (let up = parentOf(path); up !== ""; up = parentOf(up)) {
      const above = this.#planned.get(up);
      if (above === false) return `"${printable(up)}" is no directory`;
      if (above === true) break;
    }
    return null;
  }

  /** What there is already, if it is in the way. */
  async #inTheWay(path: string, isDirectory: boolean): Promise<string | null> {
    const up = parentOf(path);
    if (up !== "" && !this.#known.has(up) && !this.#missing.has(up)) {
      const reason = await this.#inTheWay(up, true);
      if (reason !== null) return reason;
    }
    if (this.#known.has(path)) return isDirectory ? null : "it is a directory";
    // Where there is no directory, there is nothing in it.
    if (this.#missing.has(up)) {
      if (isDirectory) this.#missing.add(path);
      return null;
    }
    const place = this.#pathOf(path);
    const there = await lstat(place);
    if (there === null) {
      if (isDirectory) this.#missing.add(path);
      return null;
    }
    if (there.isDirectory) {
      if (!isDirectory) return "there is a directory in its place";
      this.#known.add(path);
      return null;
    }
    if (isDirectory) return `"${printable(path)}" is there, and no directory`;
    if (this.#overwrite && (there.isFile || there.isSymlink)) {
      // Through links: a container names its files by them, too.
      const found = await identify(place);
      return this.#spared.find(({ identity }) => isShared(identity, found))
        ?.reason ?? null;
    }
    throw new FileSystemError(
      "exists",
      `Cannot extract "${printable(path)}" as "${
        printable(place)
      }" exists: replace it with overwrite: true`,
    );
  }

  /** Makes a directory and those above it, of which none may be a link. */
  async #makeDirectory(path: string): Promise<void> {
    if (path === "" || this.#known.has(path)) return;
    await this.#makeDirectory(parentOf(path));
    const place = this.#pathOf(path);
    try {
      await Deno.mkdir(place);
    } catch (error) {
      if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
      if (!(await Deno.lstat(place)).isDirectory) throw error;
    }
    this.#known.add(path);
  }
}

/** One file, or the text of a link, that is being taken out. */
class OpenFile {
  readonly entry: FileEntry;
  readonly file: Deno.FsFile | null;
  readonly #path: string;
  readonly #final: string;
  #isClosed = false;
  readonly #decoder = new TextDecoder();
  text = "";
  length = 0;

  constructor(
    entry: FileEntry,
    file: Deno.FsFile | null,
    path: string,
    final: string,
  ) {
    this.entry = entry;
    this.file = file;
    this.#path = path;
    this.#final = final;
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.length += bytes.length;
    if (this.file === null) {
      this.text += this.#decoder.decode(bytes, { stream: true });
    } else if (bytes.length >= 4096 && isZero(bytes)) {
      await this.file.seek(bytes.length, Deno.SeekMode.Current);
    } else {
      for (let at = 0; at < bytes.length;) {
        at += await this.file.write(bytes.subarray(at));
      }
    }
  }

  /** It is all there. */
  async keep(): Promise<void> {
    const { mode, modified } = this.entry;
    // Zeroes at the end were left out.
    await this.file!.truncate(this.length);
    if (modified !== null) await this.file!.utime(modified, modified);
    this.#close();
    await setMode(this.#path, mode);
    if (this.#path !== this.#final) await Deno.rename(this.#path, this.#final);
  }

  /** It is not: a file that this has made is removed. */
  async remove(): Promise<void> {
    if (this.file === null) return;
    this.#close();
    await Deno.remove(this.#path);
  }

  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.file!.close();
  }
}

/** Why something of that path is made nowhere, or nothing. */
function faultOf(path: string): string | null {
  const parts = path.split("/");
  const isBad = parts.some((part) =>
    part === "" || part === "." || part === ".." || part.includes("\0")
  );
  if (isBad) return "its path leads out of the directory, or is none";
  if (Deno.build.os !== "windows") return null;
  return parts.some((part) => WINDOWS_NAME.test(part))
    ? "Windows allows no such name"
    : null;
}

function parentOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf("/")));
}

async function lstat(path: string): Promise<Deno.FileInfo | null> {
  try {
    return await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

function keyOf({ dev, ino }: Deno.FileInfo): string {
  return `${dev} ${ino}`;
}

async function removeFile(path: string): Promise<void> {
  const there = await lstat(path);
  if (there !== null && !there.isDirectory) await Deno.remove(path);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function setMode(path: string, mode: number | null): Promise<void> {
  if (mode === null || Deno.build.os === "windows") return;
  await Deno.chmod(path, mode & 0o777);
}
