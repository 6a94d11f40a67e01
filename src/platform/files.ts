/**
 * Files that are read and written from one end to the other, and what the system
 * says of files. Deno's own are used there, so that `deno test` sees one that is
 * left open; elsewhere those of `node:fs` are made to look like them. Errors have
 * the system's `code`, such as `ENOENT`, everywhere. Images are no such files:
 * what they need is in `../backends/`.
 *
 * @module
 */

import fs from "node:fs";
import os from "node:os";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { runtime } from "./system.ts";

/** What the system says of a file; `null` for what it has not. */
export interface FileFacts {
  /** Whether it is a regular file. */
  readonly isFile: boolean;
  /** Whether it is a directory. */
  readonly isDirectory: boolean;
  /** Whether it is a symbolic link. */
  readonly isSymlink: boolean;
  /** Whether it is a block device. */
  readonly isBlockDevice: boolean | null;
  /** Whether it is a character device. */
  readonly isCharDevice: boolean | null;
  /** Whether it is a pipe with a name. */
  readonly isFifo: boolean | null;
  /** Whether it is a socket. */
  readonly isSocket: boolean | null;
  /** Its size in bytes. */
  readonly size: number;
  /** When its content was changed. */
  readonly mtime: Date | null;
  /** The device that it is on. */
  readonly dev: number;
  /** Its number there. */
  readonly ino: number | null;
  /** The device that it is. */
  readonly rdev: number | null;
  /** Its type and permissions. */
  readonly mode: number | null;
  /** Names that it has. */
  readonly nlink: number | null;
}

/** How a file is opened; for reading alone if nothing is said. */
export interface FileOpening {
  /** Whether it is read. */
  readonly read?: boolean;
  /** Whether it is written to. */
  readonly write?: boolean;
  /** Whether it is made if it is not there. */
  readonly create?: boolean;
  /** Whether it is made, and must not be there. */
  readonly createNew?: boolean;
  /** Whether it is emptied. */
  readonly truncate?: boolean;
  /** What it is made with: permissions, less the umask. */
  readonly mode?: number;
}

/** An open file. */
export interface OpenedFile extends Disposable {
  /** Its content, from here on, as a stream that closes it. */
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** Reads what there is; `null` at the end. */
  read(into: Uint8Array): Promise<number | null>;
  /** Writes some of it. */
  write(bytes: Uint8Array): Promise<number>;
  /** Cuts it, or makes it longer. */
  truncate(size?: number): Promise<void>;
  /** Has all of it on the medium. */
  sync(): Promise<void>;
  /** What the system says of it. */
  stat(): Promise<FileFacts>;
  /** Closes it. */
  close(): void;
}

/**
 * Opens a file.
 *
 * @param path Its path.
 * @param opening How.
 * @returns The file.
 * @throws {Error} With the system's `code`.
 */
export async function openFile(
  path: string,
  opening: FileOpening = { read: true },
): Promise<OpenedFile> {
  if (runtime === "deno") return await Deno.open(path, opening);
  const { open } = fs.promises;
  const handle = await open(path, flagsOf(opening), opening.mode);
  return new NodeFile(handle);
}

/**
 * Tells of a file, through symbolic links.
 *
 * @param path Its path.
 * @returns What the system says.
 * @throws {Error} With the system's `code`.
 */
export async function statFile(path: string): Promise<FileFacts> {
  if (runtime === "deno") return await Deno.stat(path);
  return factsOf(await fs.promises.stat(path));
}

/**
 * Tells of an open file. Deno asks for no permission.
 *
 * @param descriptor Its descriptor.
 * @returns What the system says.
 * @throws {Error} With the system's `code`.
 */
export function statDescriptor(descriptor: number): FileFacts {
  return factsOf(fs.fstatSync(descriptor));
}

/**
 * Makes a directory with a name of its own, for temporary files.
 *
 * @param where What its name begins with, and the directory that it is made in if
 * not the usual one.
 * @returns Its path.
 * @throws {Error} With the system's `code`.
 */
export async function makeTempDir(
  where: { readonly prefix: string; readonly dir?: string },
): Promise<string> {
  if (runtime === "deno") return await Deno.makeTempDir(where);
  const { prefix, dir = os.tmpdir() } = where;
  return await fs.promises.mkdtemp(join(dir, prefix));
}

/**
 * Removes a file, or a directory that is empty.
 *
 * @param path Its path.
 * @param options Whether with all that is in it.
 * @throws {Error} With the system's `code`.
 */
export async function remove(
  path: string,
  { recursive = false }: { readonly recursive?: boolean } = {},
): Promise<void> {
  // It needs no permission to read.
  if (runtime === "deno") return await Deno.remove(path, { recursive });
  if (recursive) await fs.promises.rm(path, { recursive });
  else if ((await fs.promises.lstat(path)).isDirectory()) {
    await fs.promises.rmdir(path);
  } else await fs.promises.unlink(path);
}

/** What open(2) is given for it. */
function flagsOf(opening: FileOpening): number {
  const { O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC } = fs.constants;
  const { read, write, create, createNew, truncate } = opening;
  return (write ? read ? O_RDWR : O_WRONLY : O_RDONLY) |
    (create || createNew ? O_CREAT : 0) | (createNew ? O_EXCL : 0) |
    (truncate ? O_TRUNC : 0);
}

function factsOf(stat: fs.Stats): FileFacts {
  return {
    isFile: stat.isFile(),
    isDirectory: stat.isDirectory(),
    isSymlink: stat.isSymbolicLink(),
    isBlockDevice: stat.isBlockDevice(),
    isCharDevice: stat.isCharacterDevice(),
    isFifo: stat.isFIFO(),
    isSocket: stat.isSocket(),
    size: stat.size,
    mtime: stat.mtime,
    dev: stat.dev,
    ino: stat.ino,
    rdev: stat.rdev,
    mode: stat.mode,
    nlink: stat.nlink,
  };
}

/** Bytes that a stream of a file has in a piece. */
const PIECE_BYTES = 65_536;

const fsRead = promisify(fs.read);
const fsWrite = promisify(fs.write);

/** A file by `node:fs`. */
class NodeFile implements OpenedFile {
  readonly #handle: fs.promises.FileHandle;
  #closed = false;

  constructor(handle: fs.promises.FileHandle) {
    this.#handle = handle;
  }

  get readable(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return new ReadableStream({
      pull: async (controller) => {
        const piece = new Uint8Array(PIECE_BYTES);
        const length = await this.read(piece);
        if (length !== null) {
          return controller.enqueue(piece.subarray(0, length));
        }
        this.close();
        controller.close();
      },
      cancel: () => this.close(),
    }, { highWaterMark: 0 });
  }

  async read(into: Uint8Array): Promise<number | null> {
    const { fd } = this.#handle;
    const { length } = into;
    const { bytesRead } = await fsRead(fd, into, 0, length, null);
    return bytesRead || null;
  }

  async write(bytes: Uint8Array): Promise<number> {
    const { fd } = this.#handle;
    const { length } = bytes;
    const { bytesWritten } = await fsWrite(fd, bytes, 0, length, null);
    return bytesWritten;
  }

  async truncate(size = 0): Promise<void> {
    await this.#handle.truncate(size);
  }

  async sync(): Promise<void> {
    await this.#handle.sync();
  }

  async stat(): Promise<FileFacts> {
    return factsOf(await this.#handle.stat());
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    // It fails where the descriptor is not open, and it is.
    this.#handle.close().catch(() => {});
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Follows symbolic links to a name that is none, whether anything is there or not.
 *
 * @param path The name.
 * @returns Where it leads; itself if it is no link, or leads in a circle.
 */
export async function followLinks(path: string): Promise<string> {
  let at = path;
  // As many as Linux follows: MAXSYMLINKS.
  for (let i = 0; i < 40; i++) {
    try {
      at = resolve(dirname(at), await fs.promises.readlink(at));
    } catch {
      return at;
    }
  }
  return path;
}
