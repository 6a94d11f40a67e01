/**
 * SQLite, compiled to WebAssembly, on disks: what an application needs of it in
 * as few words as possible. The build is the one whose C code waits for
 * promises by JavaScript Promise Integration.
 *
 * @module
 */

import type { VirtualDisk } from "@platter/disk";
import * as SQLite from "npm:@journeyapps/wa-sqlite@2.0.6";
import loadModule from "npm:@journeyapps/wa-sqlite@2.0.6/dist/wa-sqlite-jspi.mjs";
import { DiskVfs, FILES, VFS_NAME, type WasmModule } from "./disk_vfs.ts";
import { Volume } from "./volume.ts";

/** What a column of a row may hold. */
export type Value = number | bigint | string | Uint8Array | null;

/** A row: its columns in order. */
export type Row = Value[];

/** A statement that SQLite failed, or a database that it cannot open. */
export class SqliteError extends Error {
  /** Always `"SqliteError"`. */
  override readonly name = "SqliteError";
  /** SQLite's own number for it, such as 11 for `SQLITE_CORRUPT`. */
  readonly code: number;

  /**
   * Constructs a new instance.
   *
   * @param what What was tried.
   * @param error What the build threw.
   * @param cause What the disk said, if it did.
   */
  constructor(what: string, error: unknown, cause: unknown) {
    const text = error instanceof Error ? error.message : String(error);
    const reason = cause instanceof Error ? `${text}: ${cause.message}` : text;
    super(`Cannot ${what} as SQLite says: ${reason}`, {
      cause: cause ?? error,
    });
    this.code = (error as { code?: number }).code ?? SQLite.SQLITE_ERROR;
  }
}

/** The module, and what of SQLite's own functions is called directly. */
interface SqliteModule extends WasmModule {
  _sqlite3_randomness(length: number, pointer: number): void;
}

/** SQLite. Loading it takes a moment, so load it once. */
export class Engine {
  readonly #api: SQLiteAPI;
  readonly #module: SqliteModule;
  readonly #vfs: DiskVfs;
  #mounts = 0;

  private constructor(module: SqliteModule) {
    this.#module = module;
    this.#api = SQLite.Factory(module);
    this.#vfs = new DiskVfs(module);
    this.#api.vfs_register(this.#vfs, true);
  }

  /**
   * Loads SQLite.
   *
   * @returns It.
   */
  static async load(): Promise<Engine> {
    return new Engine(await loadModule());
  }

  /** SQLite's version. */
  get version(): string {
    return this.#api.libversion();
  }

  /**
   * Makes what SQLite takes for random (the stamps in its journals) the same
   * each time from here on.
   *
   * @param random Fills memory with bytes.
   */
  seed(random: (bytes: Uint8Array<ArrayBuffer>) => void): void {
    this.#vfs.random = random;
    // No bytes: SQLite's generator is to ask for a seed at its next use.
    this.#module._sqlite3_randomness(0, 0);
  }

  /**
   * Opens the database on a volume, which is made if there is none.
   *
   * @param volume The volume; nobody else may use it until the database is
   * closed.
   * @returns The database.
   * @throws {SqliteError} If SQLite cannot open it.
   */
  async open(volume: Volume): Promise<Database> {
    const mount = `volume${++this.#mounts}`;
    this.#vfs.mount(mount, volume);
    this.#vfs.failure = null;
    try {
      const handle = await this.#api.open_v2(mount, undefined, VFS_NAME);
      return new Database(this.#api, this.#vfs, mount, handle);
    } catch (error) {
      this.#vfs.unmount(mount);
      throw new SqliteError("open the database", error, this.#vfs.failure);
    }
  }
}

/** An open database. One statement at a time. */
export class Database implements AsyncDisposable {
  readonly #api: SQLiteAPI;
  readonly #vfs: DiskVfs;
  readonly #mount: string;
  readonly #handle: number;
  #closed = false;

  /**
   * Constructs a new instance; {@linkcode Engine.open} is the way.
   *
   * @param api SQLite.
   * @param vfs Its file system.
   * @param mount The volume's name there.
   * @param handle SQLite's own handle.
   */
  constructor(api: SQLiteAPI, vfs: DiskVfs, mount: string, handle: number) {
    this.#api = api;
    this.#vfs = vfs;
    this.#mount = mount;
    this.#handle = handle;
  }

  /**
   * Runs statements.
   *
   * @param sql One or several.
   * @returns The rows of all of them.
   * @throws {SqliteError} If one fails; the ones before it are done.
   */
  async run(sql: string): Promise<Row[]> {
    const rows: Row[] = [];
    this.#vfs.failure = null;
    try {
      await this.#api.exec(this.#handle, sql, (row) => {
        rows.push(row as Row);
      });
    } catch (error) {
      throw new SqliteError(`run "${sql}"`, error, this.#vfs.failure);
    }
    return rows;
  }

  /**
   * Rolls back what is not committed, and closes. Idempotent.
   *
   * @throws {SqliteError} If SQLite cannot.
   */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#vfs.failure = null;
    try {
      await this.#api.close(this.#handle);
    } catch (error) {
      throw new SqliteError("close the database", error, this.#vfs.failure);
    } finally {
      this.#vfs.unmount(this.#mount);
    }
  }

  /** Closes. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/**
 * Makes a volume for a database: half of the disk for the database, a quarter
 * each for the rollback journal and the write-ahead log.
 *
 * @param disk The disk; what was on it is gone.
 * @returns The volume.
 */
export function formatForSqlite(disk: VirtualDisk): Promise<Volume> {
  // Sixteenths leave room for the header in front and for alignment.
  const unit = disk.info.physicalBlockSize / 512;
  const part = Math.floor(disk.sectors / 16 / unit) * unit;
  const shares = [8, 3, 3];
  return Volume.format(
    disk,
    FILES.map((name, index) => ({ name, sectors: shares[index]! * part })),
  );
}
