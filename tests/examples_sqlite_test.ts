/**
 * SQLite over disks: the adapter on each kind of disk, what a volume's header
 * survives, and a short form of the exploration of crashes.
 *
 * @module
 */

import { SECTOR_BYTES, VirtualDisk } from "@platter/disk";
import { CrashFailure } from "@platter/disk/testing";
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { exploreLedger } from "../examples/sqlite/explore.ts";
import {
  Engine,
  formatForSqlite,
  SqliteError,
} from "../examples/sqlite/engine.ts";
import { Volume, VolumeError } from "../examples/sqlite/volume.ts";
import { tempDir } from "./helpers.ts";

const SECTORS = 8192;
const engine = await Engine.load();

/** Settings under which SQLite promises that what is committed stays. */
const SAFE: readonly [journal: string, synchronous: string][] = [
  ["TRUNCATE", "FULL"],
  ["PERSIST", "FULL"],
  ["DELETE", "EXTRA"],
  ["WAL", "FULL"],
];

/** Uses a database for a while, and opens it again from the bare disk. */
async function useDatabase(disk: VirtualDisk, journal: string): Promise<void> {
  {
    await using database = await engine.open(await formatForSqlite(disk));
    assertEquals(
      await database.run(`PRAGMA locking_mode = EXCLUSIVE;
        PRAGMA page_size = 1024; PRAGMA cache_size = 8;
        PRAGMA temp_store = MEMORY; PRAGMA journal_mode = ${journal}`),
      [["exclusive"], [journal.toLowerCase()]],
    );
    await database.run("CREATE TABLE file(id INTEGER PRIMARY KEY, data)");
    for (let i = 1; i <= 12; i++) {
      await database.run(
        `INSERT INTO file VALUES(${i}, zeroblob(${i * 997}))`,
      );
    }
    await database.run("BEGIN; DELETE FROM file WHERE id > 2; ROLLBACK");
    await database.run("DELETE FROM file WHERE id % 3 = 0; VACUUM");
  }
  await using database = await engine.open(await Volume.open(disk));
  assertEquals(
    await database.run(`PRAGMA locking_mode = EXCLUSIVE;
      SELECT count(*), sum(length(data)) FROM file; PRAGMA integrity_check`),
    [["exclusive"], [8, 997 * (78 - 30)], ["ok"]],
  );
}

for (const [journal] of SAFE) {
  Deno.test(`Engine keeps a database in memory, journal ${journal}`, async () => {
    for (const blockSize of [512, 4096]) {
      await using disk = VirtualDisk.memory({ sectors: SECTORS, blockSize });
      await useDatabase(disk, journal);
    }
  });
}

Deno.test("Engine keeps a database in an image", async () => {
  await using dir = await tempDir();
  await using disk = await VirtualDisk.create(dir.join("disk.img"), {
    sectors: SECTORS,
  });
  await useDatabase(disk, "TRUNCATE");
});

Deno.test("Engine reports a full region and leaves the database whole", async () => {
  await using disk = VirtualDisk.memory({ sectors: 512 });
  await using database = await engine.open(await formatForSqlite(disk));
  await database.run("CREATE TABLE file(data)");
  const error = await assertRejects(
    () => database.run("INSERT INTO file VALUES(zeroblob(1000000))"),
    SqliteError,
    "as its region has 131072 bytes",
  );
  assertEquals(error.code, 13); // SQLITE_FULL
  assertEquals(
    await database.run("SELECT count(*) FROM file; PRAGMA integrity_check"),
    [[0], ["ok"]],
  );
});

Deno.test("Engine refuses a second connection to a volume", async () => {
  await using disk = VirtualDisk.memory({ sectors: SECTORS });
  const volume = await formatForSqlite(disk);
  await using database = await engine.open(volume);
  await database.run("CREATE TABLE file(data)");
  await assertRejects(() => engine.open(volume), SqliteError, "unable to open");
});

Deno.test("Volume.open() takes the newest header that is whole", async () => {
  await using disk = VirtualDisk.memory({ sectors: SECTORS });
  const regions = [{ name: "a", sectors: 64 }, { name: "b", sectors: 64 }];
  const volume = await Volume.format(disk, regions);
  const file = volume.file("a")!;
  file.create();
  await file.write(0, new Uint8Array(1000).fill(1));
  await volume.sync(); // To the slot at 8, as the first one is at 0.
  const sizeNow = async () => (await Volume.open(disk)).file("a")!.size;
  assertEquals(await sizeNow(), 1000);

  const newest = await disk.read(8, 1);
  await disk.write(8, newest.with(100, 0xff));
  assertEquals(await sizeNow(), 0);
  await disk.write(0, new Uint8Array(SECTOR_BYTES));
  await assertRejects(sizeNow, VolumeError, "neither slot");
});

Deno.test("Volume.publish() never overwrites the durable header", async () => {
  await using disk = VirtualDisk.memory({ sectors: SECTORS });
  const volume = await Volume.format(disk, [{ name: "a", sectors: 64 }]);
  const file = volume.file("a")!;
  file.create();
  await file.write(0, new Uint8Array(5000));
  await volume.sync();
  const durable = await disk.read(8, 1);
  for (const size of [4000, 3000, 2000]) {
    file.truncate(size);
    await volume.publish();
    assertEquals(await disk.read(8, 1), durable);
  }
});

Deno.test("VolumeFile writes and reads what a plain array would", async () => {
  for (const blockSize of [512, 4096]) {
    await using disk = VirtualDisk.memory({ sectors: SECTORS, blockSize });
    await disk.write(0, new Uint8Array(SECTORS * SECTOR_BYTES).fill(0xee));
    const volume = await Volume.format(disk, [{ name: "a", sectors: 1024 }]);
    const file = volume.file("a")!;
    file.create();
    const model = new Uint8Array(1024 * SECTOR_BYTES);
    let [size, state] = [0, 1];
    const below = (end: number) => (state = state * 48271 % 0x7fffffff) % end;
    for (let step = 0; step < 400; step++) {
      const offset = below(60_000);
      const length = 1 + below(below(4) === 0 ? 9000 : 40);
      switch (below(6)) {
        case 0:
          file.truncate(offset);
          model.fill(0, offset);
          size = Math.min(size, offset);
          break;
        case 1:
          await volume.sync();
          break;
        default: {
          const data = new Uint8Array(length).fill(1 + step % 255);
          await file.write(offset, data);
          model.set(data, offset);
          size = Math.max(size, offset + length);
        }
      }
      assertEquals(file.size, size);
      const from = below(60_000);
      assertEquals(
        new Uint8Array(await file.read(from, 5000)),
        model.slice(from, Math.max(from, Math.min(from + 5000, size))),
      );
    }
  }
});

for (const [journal, synchronous] of SAFE) {
  Deno.test(`exploreLedger() finds nothing with ${journal} and ${synchronous}`, async () => {
    const report = await exploreLedger(engine, {
      journal,
      synchronous,
      torn: true,
      explore: { maxStates: 300, progress: false },
    });
    assertEquals(report.states, 300);
    assertEquals(report.acknowledged, 9);
  });
}

Deno.test("exploreLedger() finds nothing after a flush that fails", async () => {
  const report = await exploreLedger(engine, {
    failFlush: 20,
    explore: { maxStates: 200, progress: false },
  });
  assertEquals(report.flushes, 20);
});

const UNSAFE: readonly [journal: string, synchronous: string, RegExp][] = [
  ["TRUNCATE", "OFF", /Damaged database|malformed|not a database|transaction/],
  // Only as SQLite says: the last transaction may be gone, but nothing worse.
  ["DELETE", "FULL", /Lost transaction: (\d) were acknowledged/],
  ["TRUNCATE", "NORMAL", /Lost transaction: (\d) were acknowledged/],
];

for (const [journal, synchronous, expected] of UNSAFE) {
  Deno.test(`exploreLedger() finds out about ${journal} and ${synchronous}`, async () => {
    const failure = await assertRejects(
      () =>
        exploreLedger(engine, {
          journal,
          synchronous,
          explore: { maxStates: 1000, progress: false },
        }),
      CrashFailure,
    );
    assert(expected.test(String(failure.cause)), String(failure.cause));
    assertStringIncludes(failure.message, "the power fails");

    const again = await assertRejects(
      () =>
        exploreLedger(engine, {
          journal,
          synchronous,
          explore: { only: failure.token },
        }),
      CrashFailure,
    );
    assertEquals(again.story, failure.story);
  });
}

const ROOT = new URL("../", import.meta.url);

/** Runs an example as its reader would. */
async function runExample(
  name: string,
  permissions: readonly string[],
  ...args: string[]
): Promise<{ code: number; stdout: string; stderr: string }> {
  const script = new URL(`examples/sqlite/${name}.ts`, ROOT).href;
  const output = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--quiet", ...permissions, script, ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return {
    code: output.code,
    stdout: decoder.decode(output.stdout),
    stderr: decoder.decode(output.stderr),
  };
}

Deno.test("shell.ts keeps what it was told in its image", async () => {
  await using dir = await tempDir();
  const shell = (sql: string) =>
    runExample("shell", ["-A"], dir.join("bank.img"), sql);
  const made = await shell(
    "CREATE TABLE account(owner, balance); INSERT INTO account VALUES('Ada', 100)",
  );
  assertEquals([made.code, made.stdout], [0, ""], made.stderr);
  const read = await shell("SELECT * FROM account");
  assertEquals([read.code, read.stdout], [0, "Ada|100\n"], read.stderr);
  assertMatch(
    read.stderr,
    /a flush reaches: .*, (1 flush|(?!1 )\d+ flushes)\n$/,
  );
  const wrong = await shell("SELECT nonsense");
  assertEquals([wrong.code, wrong.stdout], [1, ""]);
  assertStringIncludes(wrong.stderr, "no such column: nonsense");
});

Deno.test("explore.ts says by its exit code what became of SQLite", async () => {
  const crash = (...args: string[]) => runExample("explore", ["-A"], ...args);
  const full = await crash("--states", "60");
  assertEquals(full.code, 0, full.stderr);
  assertStringIncludes(full.stdout, "Nothing lost, nothing damaged");
  const off = await crash("--synchronous", "off");
  assertEquals(off.code, 1, off.stderr);
  assertStringIncludes(off.stdout, "the power fails");
  assertStringIncludes(off.stdout, '"main-journal" from');
  assertEquals((await crash("--journal", "MEMORY")).code, 2);
});
