/**
 * SQLite on a disk image, by direct I/O where the host has it: runs SQL and
 * prints the rows, one a line.
 *
 * ```sh
 * deno run -A examples/sqlite/shell.ts bank.img \
 *   "CREATE TABLE account(owner, balance); INSERT INTO account VALUES('Ada', 100)"
 * deno run -A examples/sqlite/shell.ts bank.img "SELECT * FROM account"
 * ```
 *
 * An image that is not there yet is made. One that is there must have been made
 * by this program: anything else is left alone.
 *
 * @module
 */

import { DiskError, VirtualDisk } from "@platter/disk";
import { Engine, formatForSqlite, SqliteError } from "./engine.ts";
import { Volume, VolumeError } from "./volume.ts";

/** Sectors of an image that is made: 16 MiB, of which 8 for the database. */
const IMAGE_SECTORS = 32_768;

/** Whether there is something at a path. */
async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    // Why it cannot be looked at, opening it says.
    return !(error instanceof Deno.errors.NotFound);
  }
}

async function main([path, sql]: string[]): Promise<number> {
  if (path === undefined || sql === undefined) {
    console.error('Usage: shell.ts IMAGE "SQL"');
    return 2;
  }
  const found = await exists(path);
  await using disk = found
    ? await VirtualDisk.open(path)
    : await VirtualDisk.create(path, { sectors: IMAGE_SECTORS });
  const volume = found ? await Volume.open(disk) : await formatForSqlite(disk);
  const engine = await Engine.load();
  await using database = await engine.open(volume);
  // To cut the journal to nothing is what commits, and SQLite syncs that. It
  // does not sync its own default, deleting it: a power cut may bring it back.
  await database.run(`PRAGMA journal_mode = TRUNCATE;
    PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY`);
  for (const row of await database.run(sql)) console.log(row.join("|"));
  const { direct, engine: kernel, durability } = disk.info;
  const { flushes } = disk.counters;
  console.error(
    `SQLite ${engine.version}, ${kernel.name}, ` +
      `direct I/O: ${direct.active ? direct.method : direct.reason}, ` +
      `a flush reaches: ${durability.flush}, ${flushes} ${
        flushes === 1 ? "flush" : "flushes"
      }`,
  );
  return 0;
}

if (import.meta.main) {
  try {
    Deno.exitCode = await main(Deno.args);
  } catch (error) {
    const expected = [SqliteError, VolumeError, DiskError];
    if (!expected.some((kind) => error instanceof kind)) throw error;
    console.error((error as Error).message);
    Deno.exitCode = 1;
  }
}
