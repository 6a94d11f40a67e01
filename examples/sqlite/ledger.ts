/**
 * A ledger in SQLite that can tell what a power cut made of it: a few
 * transactions in a row, and a check that misses none that was promised and
 * accepts none by half.
 *
 * @module
 */

import type { VirtualDisk } from "@platter/disk";
import { VirtualDisk as Disk } from "@platter/disk";
import { type Database, type Engine, formatForSqlite } from "./engine.ts";
import { Volume, VolumeError } from "./volume.ts";

/** Settings of SQLite for power cuts. */
export interface LedgerOptions {
  /** `PRAGMA synchronous`: `OFF`, `NORMAL`, `FULL` or `EXTRA`. */
  readonly synchronous: string;
  /** `PRAGMA journal_mode`: `TRUNCATE`, `PERSIST`, `DELETE` or `WAL`. */
  readonly journal: string;
  /** Fills memory with bytes, the same ones for each run of the workload. */
  readonly random: () => (bytes: Uint8Array<ArrayBuffer>) => void;
}

/** Sectors of the ledger's disk: 1 MiB. */
export const LEDGER_SECTORS = 2048;

/** Accounts of the ledger. */
const ACCOUNTS = Array.from({ length: 24 }, (_, index) => index + 1);

/**
 * The transactions. A row longer than a page has overflow pages, an index is a
 * second tree to keep in step, and what changes many pages spills out of the
 * cache into the database before the commit.
 */
const TRANSACTIONS: readonly string[] = [
  `CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT, balance INT, note);
   CREATE INDEX account_owner ON account(owner)`,
  `INSERT INTO account VALUES ${
    ACCOUNTS.map((id) => `(${id}, 'owner ${id * 7919 % 100}', 100, '')`)
  }`,
  `UPDATE account SET balance = balance - 30 WHERE id = 3;
   UPDATE account SET balance = balance + 30 WHERE id = 21`,
  `UPDATE account SET note = printf('%.*c', 300, 'b') WHERE id % 2 = 0`,
  `UPDATE account SET balance = 200 WHERE id = 1;
   DELETE FROM account WHERE id = 2`,
  `UPDATE account SET note = printf('%.*c', 2500, 'c') WHERE id = 12`,
  `UPDATE account SET owner = 'owner ' || id, note = '' WHERE id > 12;
   UPDATE account SET balance = balance + 5 - 10 * (id % 2) WHERE id > 12`,
  `DELETE FROM account WHERE id > 6`,
];

/** The whole content in one row; of a long note only its ends. */
const CONTENT = `SELECT group_concat(id || ' ' || owner || ' ' || balance ||
    ' ' || length(note) || substr(note, 1, 1) || substr(note, -1), char(10))
  FROM (SELECT * FROM account NOT INDEXED ORDER BY id)`;

/** Whether the database is whole, and whether there is anything in it. */
const CHECK = `SELECT integrity_check, (SELECT count(*) FROM sqlite_schema)
  FROM pragma_integrity_check LIMIT 1`;

/** A ledger on a disk, its workload and its check. */
export class Ledger {
  readonly #engine: Engine;
  readonly #options: LedgerOptions;
  /** Transactions done, by the content that they leave. */
  readonly #states = new Map<string, number>();

  private constructor(engine: Engine, options: LedgerOptions) {
    this.#engine = engine;
    this.#options = options;
  }

  /**
   * Prepares a ledger: learns, on a disk in memory that does not fail, what
   * each transaction is to leave.
   *
   * @param engine SQLite.
   * @param options Its settings.
   * @returns The ledger.
   */
  static async prepare(
    engine: Engine,
    options: LedgerOptions,
  ): Promise<Ledger> {
    const ledger = new Ledger(engine, options);
    await using disk = Disk.memory({ sectors: LEDGER_SECTORS });
    await using database = await engine.open(await formatForSqlite(disk));
    await ledger.#configure(database);
    for (const [index, sql] of TRANSACTIONS.entries()) {
      await database.run(`BEGIN; ${sql}; COMMIT`);
      ledger.#states.set(await contentOf(database), index + 1);
    }
    return ledger;
  }

  /**
   * What the program does: each transaction is promised to the outside as soon
   * as SQLite says that it is committed.
   *
   * @param disk The disk.
   * @param acknowledge Told how many transactions are done; 0 is the volume.
   */
  async workload(
    disk: VirtualDisk,
    acknowledge: (done: number) => void,
  ): Promise<void> {
    this.#engine.seed(this.#options.random());
    const volume = await formatForSqlite(disk);
    acknowledge(0);
    await using database = await this.#engine.open(volume);
    await this.#configure(database);
    for (const [index, sql] of TRANSACTIONS.entries()) {
      await database.run(`BEGIN; ${sql}; COMMIT`);
      acknowledge(index + 1);
    }
    await database.run("BEGIN; DELETE FROM account; ROLLBACK");
  }

  /**
   * What the program does after a power cut.
   *
   * @param disk The disk.
   * @param acknowledged What the workload had promised.
   * @throws {Error} If something promised is missing, or anything is damaged.
   */
  async recover(
    disk: VirtualDisk,
    acknowledged: readonly number[],
  ): Promise<void> {
    const promised = acknowledged.at(-1);
    let volume: Volume;
    try {
      volume = await Volume.open(disk);
    } catch (error) {
      if (error instanceof VolumeError && promised === undefined) return;
      throw error;
    }
    const database = await this.#engine.open(volume);
    try {
      await this.#check(database, promised ?? 0);
    } catch (error) {
      // The first error is the one to report.
      await database.close().catch(() => {});
      throw error;
    }
    await database.close();
  }

  async #configure(database: Database): Promise<void> {
    const { synchronous, journal } = this.#options;
    // Without shared memory a write-ahead log needs the file for itself.
    if (journal === "WAL") {
      await database.run("PRAGMA locking_mode = EXCLUSIVE");
    }
    const [mode] = await database.run(`PRAGMA page_size = 1024;
      PRAGMA cache_size = 6;
      PRAGMA synchronous = ${synchronous};
      PRAGMA journal_mode = ${journal}`);
    if (mode?.[0] !== journal.toLowerCase()) {
      throw new Error(
        `Cannot use the journal mode ${journal} as SQLite stays with ${
          mode?.[0]
        }`,
      );
    }
  }

  async #check(database: Database, promised: number): Promise<void> {
    const { synchronous, journal } = this.#options;
    if (journal === "WAL") {
      await database.run("PRAGMA locking_mode = EXCLUSIVE");
    }
    // A rollback syncs, too; to do so is what SQLite does unless told not to.
    if (synchronous !== "FULL") {
      await database.run(`PRAGMA synchronous = ${synchronous}`);
    }
    // The first statement that reads finds a hot journal and rolls it back.
    const [row] = await database.run(CHECK);
    if (row?.[0] !== "ok") throw new Error(`Damaged database: ${row?.[0]}`);
    let done = 0;
    if (row[1] !== 0) {
      const content = await contentOf(database);
      const found = this.#states.get(content);
      if (found === undefined) {
        throw new Error(`Half a transaction: the accounts are\n${content}`);
      }
      done = found;
    }
    if (done < promised) {
      throw new Error(
        `Lost transaction: ${promised} were acknowledged, ${done} are there`,
      );
    }
  }
}

/** The whole content of a ledger as text. */
async function contentOf(database: Database): Promise<string> {
  const [row] = await database.run(CONTENT);
  return String(row?.[0]);
}
