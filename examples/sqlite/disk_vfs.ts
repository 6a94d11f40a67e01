/**
 * SQLite's file system over volumes: a VFS in JavaScript, for a build of SQLite
 * whose C code can wait for promises. Each volume is one database with its
 * rollback journal, or its write-ahead log, and one connection.
 *
 * It promises SQLite nothing that the disk does not:
 *
 * - `xSync` returns when {@linkcode Volume.sync} has: a real flush.
 * - `xDelete` is durable only if SQLite asks for that, as unlinking a file is.
 * - No `SQLITE_IOCAP_ATOMIC`: a power cut may tear a page between its sectors.
 * - No `SQLITE_IOCAP_SAFE_APPEND`: a file may come back shorter than written.
 * - No `SQLITE_IOCAP_SEQUENTIAL`: writes reach the medium in any order.
 * - No `SQLITE_IOCAP_POWERSAFE_OVERWRITE`: a write of half a sector writes the
 *   other half again, and a disk that tears a sector may lose both.
 *
 * @module
 */

import { DiskError } from "@platter/disk";
import * as SQLite from "npm:@journeyapps/wa-sqlite@2.0.6";
import { Base } from "npm:@journeyapps/wa-sqlite@2.0.6/src/VFS.js";
import type { Volume } from "./volume.ts";
import { RegionFullError, type VolumeFile } from "./volume_file.ts";

/** The name under which SQLite knows this VFS. */
export const VFS_NAME = "platter";

/** The names of a volume's files: what SQLite appends to a database's name. */
export const FILES = ["", "-journal", "-wal"].map((suffix) => `main${suffix}`);

/** The largest sector that SQLite takes (`MAX_SECTOR_SIZE` in pager.c). */
const MAX_SECTOR_BYTES = 65_536;

/** Methods that wait for the disk. */
const ASYNC_METHODS = new Set([
  "xClose",
  "xDelete",
  "xRead",
  "xWrite",
  "xSync",
  "xUnlock",
]);

/** What is used of the WebAssembly module. */
export interface WasmModule {
  /** Its memory; another array when it has grown. */
  readonly HEAPU8: Uint8Array<ArrayBuffer>;
  /** Reads a C string. */
  UTF8ToString(pointer: number): string;
}

/** A file that SQLite has open. */
interface OpenFile {
  readonly volume: Volume;
  readonly file: VolumeFile;
  readonly deleteOnClose: boolean;
}

/** SQLite's file system. Files are named `<mount>` plus SQLite's suffixes. */
export class DiskVfs extends Base {
  readonly #module: WasmModule;
  readonly #volumes = new Map<string, Volume>();
  /** By the address of SQLite's own structure. */
  readonly #open = new Map<number, OpenFile>();
  /** Fills memory with random bytes. */
  random: (bytes: Uint8Array<ArrayBuffer>) => void = (bytes) =>
    crypto.getRandomValues(bytes);
  /** The last error that SQLite was given a code for; `null` if none. */
  failure: unknown = null;

  /**
   * Constructs a new instance.
   *
   * @param module The WebAssembly module.
   */
  constructor(module: WasmModule) {
    super(VFS_NAME, module);
    this.#module = module;
  }

  /**
   * Makes a volume known.
   *
   * @param mount What SQLite is to call its database, without a hyphen.
   * @param volume The volume.
   */
  mount(mount: string, volume: Volume): void {
    this.#volumes.set(mount, volume);
  }

  /**
   * Makes a volume unknown, once SQLite has closed its database.
   *
   * @param mount What SQLite called it.
   */
  unmount(mount: string): void {
    this.#volumes.delete(mount);
  }

  override hasAsyncMethod(name: string): boolean {
    return ASYNC_METHODS.has(name);
  }

  override xOpen(
    _vfs: number,
    name: number,
    pointer: number,
    flags: number,
    outFlags: number,
  ): number {
    // Temporary files have no name: they belong into memory.
    const found = name === 0 ? null : this.#find(this.#text(name));
    if (found === null) return SQLite.SQLITE_CANTOPEN;
    const { file } = found;
    for (const other of this.#open.values()) {
      // There are no locks here, so there must be no other connection.
      if (other.file === file) return SQLite.SQLITE_CANTOPEN;
    }
    if (!file.exists) {
      if ((flags & SQLite.SQLITE_OPEN_CREATE) === 0) {
        return SQLite.SQLITE_CANTOPEN;
      }
      file.create();
    }
    const deleteOnClose = (flags & SQLite.SQLITE_OPEN_DELETEONCLOSE) !== 0;
    this.#open.set(pointer, { ...found, deleteOnClose });
    this.#setInt32(outFlags, flags);
    return SQLite.SQLITE_OK;
  }

  override async xClose(pointer: number): Promise<number> {
    const open = this.#open.get(pointer);
    // SQLite closes what it could not open as well.
    if (open === undefined) return SQLite.SQLITE_OK;
    const { volume, file, deleteOnClose } = open;
    this.#open.delete(pointer);
    try {
      if (deleteOnClose) file.remove();
      // A journal is closed before it is deleted: the database comes last.
      if (!this.#uses(volume)) await volume.publish();
      return SQLite.SQLITE_OK;
    } catch (error) {
      return this.#failed(error, SQLite.SQLITE_IOERR_CLOSE);
    }
  }

  override async xDelete(
    _vfs: number,
    name: number,
    sync: number,
  ): Promise<number> {
    const found = this.#find(this.#text(name));
    if (found === null || !found.file.exists) {
      return SQLite.SQLITE_IOERR_DELETE_NOENT;
    }
    try {
      found.file.remove();
      if (sync !== 0) await found.volume.sync();
      return SQLite.SQLITE_OK;
    } catch (error) {
      return this.#failed(error, SQLite.SQLITE_IOERR_DELETE);
    }
  }

  override xAccess(
    _vfs: number,
    name: number,
    _flags: number,
    result: number,
  ): number {
    const exists = this.#find(this.#text(name))?.file.exists ?? false;
    this.#setInt32(result, exists ? 1 : 0);
    return SQLite.SQLITE_OK;
  }

  override xFullPathname(
    _vfs: number,
    name: number,
    length: number,
    result: number,
  ): number {
    const bytes = new TextEncoder().encode(`${this.#text(name)}\0`);
    if (bytes.length > length) return SQLite.SQLITE_CANTOPEN;
    this.#module.HEAPU8.set(bytes, result);
    return SQLite.SQLITE_OK;
  }

  /** Not in the base class; where it is missing, SQLite asks its own system. */
  xRandomness(_vfs: number, length: number, result: number): number {
    const bytes = new Uint8Array(length);
    this.random(bytes);
    this.#module.HEAPU8.set(bytes, result);
    return length;
  }

  override async xRead(
    pointer: number,
    result: number,
    length: number,
    low: number,
    high: number,
  ): Promise<number> {
    const { file } = this.#file(pointer);
    try {
      const bytes = await file.read(offsetOf(low, high), length);
      const heap = this.#module.HEAPU8;
      heap.set(bytes, result);
      if (bytes.length === length) return SQLite.SQLITE_OK;
      heap.fill(0, result + bytes.length, result + length);
      return SQLite.SQLITE_IOERR_SHORT_READ;
    } catch (error) {
      return this.#failed(error, SQLite.SQLITE_IOERR_READ);
    }
  }

  override async xWrite(
    pointer: number,
    data: number,
    length: number,
    low: number,
    high: number,
  ): Promise<number> {
    const { file } = this.#file(pointer);
    try {
      const bytes = this.#module.HEAPU8.subarray(data, data + length);
      await file.write(offsetOf(low, high), bytes);
      return SQLite.SQLITE_OK;
    } catch (error) {
      return this.#failed(error, SQLite.SQLITE_IOERR_WRITE);
    }
  }

  override xTruncate(pointer: number, low: number, high: number): number {
    this.#file(pointer).file.truncate(offsetOf(low, high));
    return SQLite.SQLITE_OK;
  }

  override async xSync(pointer: number): Promise<number> {
    try {
      await this.#file(pointer).volume.sync();
      return SQLite.SQLITE_OK;
    } catch (error) {
      return this.#failed(error, SQLite.SQLITE_IOERR_FSYNC);
    }
  }

  override xFileSize(pointer: number, result: number): number {
    const { HEAPU8 } = this.#module;
    new DataView(HEAPU8.buffer, HEAPU8.byteOffset)
      .setBigInt64(result, BigInt(this.#file(pointer).file.size), true);
    return SQLite.SQLITE_OK;
  }

  override xLock(): number {
    return SQLite.SQLITE_OK;
  }

  /** The end of a transaction: what no sync has shown is shown now. */
  override async xUnlock(pointer: number, level: number): Promise<number> {
    if (level !== SQLite.SQLITE_LOCK_NONE) return SQLite.SQLITE_OK;
    try {
      await this.#file(pointer).volume.publish();
      return SQLite.SQLITE_OK;
    } catch (error) {
      return this.#failed(error, SQLite.SQLITE_IOERR_UNLOCK);
    }
  }

  override xCheckReservedLock(_pointer: number, result: number): number {
    this.#setInt32(result, 0);
    return SQLite.SQLITE_OK;
  }

  override xSectorSize(pointer: number): number {
    const { physicalBlockSize } = this.#file(pointer).volume.disk.info;
    return Math.min(physicalBlockSize, MAX_SECTOR_BYTES);
  }

  override xDeviceCharacteristics(): number {
    return 0;
  }

  /** The file that SQLite means by a name. */
  #find(name: string): { volume: Volume; file: VolumeFile } | null {
    const hyphen = name.indexOf("-");
    const mount = hyphen < 0 ? name : name.slice(0, hyphen);
    const volume = this.#volumes.get(mount);
    const file = volume?.file(`main${name.slice(mount.length)}`);
    if (volume === undefined || file === undefined) return null;
    return { volume, file };
  }

  /** Whether a volume has files that are open. */
  #uses(volume: Volume): boolean {
    for (const open of this.#open.values()) {
      if (open.volume === volume) return true;
    }
    return false;
  }

  #file(pointer: number): OpenFile {
    return this.#open.get(pointer)!;
  }

  #text(pointer: number): string {
    return this.#module.UTF8ToString(pointer);
  }

  #setInt32(pointer: number, value: number): void {
    const { HEAPU8 } = this.#module;
    new DataView(HEAPU8.buffer, HEAPU8.byteOffset)
      .setInt32(pointer, value, true);
  }

  /** The code that SQLite gets for an error, which is kept. */
  #failed(error: unknown, code: number): number {
    this.failure = error;
    const full = error instanceof RegionFullError ||
      error instanceof DiskError && error.kind === "no-space";
    return full ? SQLite.SQLITE_FULL : code;
  }
}

/** WebAssembly hands 64-bit integers over as two signed 32-bit ones. */
function offsetOf(low: number, high: number): number {
  return high * 2 ** 32 + (low >>> 0);
}
