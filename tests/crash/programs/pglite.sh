# PGlite, PostgreSQL in WebAssembly, in a folder: one row and one counter in each
# transaction. By Deno, from npm.
#
#   sh pglite.sh prepare|run|check|damage strict|relaxed
#
# strict and relaxed are PGlite's own `relaxedDurability: false | true`.
set -eu
exec deno run -A --quiet --no-config --no-lock - "$1" "$2" <<'END'
import { PGlite } from "npm:@electric-sql/pglite@0.5.16";

const [verb, mode] = Deno.args;
const folder = `${Deno.env.get("PLATTER_DIR")}/pglite`;
const text = (id: number) => `${id * 7919 % 1000003} `.repeat(60);

function fail(reason: string): never {
  console.log(reason);
  Deno.exit(1);
}

async function open() {
  try {
    return await PGlite.create(folder, { relaxedDurability: mode === "relaxed" });
  } catch (error) {
    console.log(error);
    fail("PGlite does not start");
  }
}

if (verb === "prepare") {
  await Deno.mkdir(folder);
  const database = await open();
  await database.exec(`
    CREATE TABLE entry (id integer PRIMARY KEY, text text NOT NULL);
    CREATE INDEX by_text ON entry (text);
    CREATE TABLE counter (value integer NOT NULL);
    INSERT INTO counter VALUES (0);`);
  await database.close();
} else if (verb === "run") {
  const database = await open();
  for (let id = 1; id <= 30; id++) {
    await database.transaction(async (transaction) => {
      await transaction.query("INSERT INTO entry VALUES ($1, $2)", [id, text(id)]);
      await transaction.query("UPDATE counter SET value = $1", [id]);
    });
    console.log(`ACK ${id}`);
    if (id % 10 === 0) await database.exec("CHECKPOINT");
  }
  // Without close(): the power fails while it runs.
  Deno.exit(0);
} else if (verb === "damage") {
  await Deno.remove(`${folder}/global/pg_control`);
} else {
  const lines = (await Deno.readTextFile(Deno.env.get("PLATTER_ACKED")!)).split("\n");
  const promised = Math.max(0, ...lines.map(Number));
  const database = await open();
  try {
    const { rows } = await database.query<{ id: number; text: string }>(
      "SELECT id, text FROM entry ORDER BY text",
    );
    const newest = Math.max(0, ...rows.map(({ id }) => id));
    const [counter] = (await database.query<{ value: number }>("SELECT value FROM counter")).rows;
    if (rows.length !== newest) fail(`Of ${newest} rows there are only ${rows.length}`);
    if (rows.some((row) => row.text !== text(row.id))) fail("Rows are not what was written");
    if (counter?.value !== newest) {
      fail(`A part of a transaction: counter ${counter?.value}, newest row ${newest}`);
    }
    if (newest < promised) {
      fail(`A transaction that was acknowledged is gone: ${promised} is promised, ${newest} is there`);
    }
    console.log(`${newest} transactions are there, ${promised} promised`);
  } catch (error) {
    console.log(error);
    fail("A query fails");
  }
  Deno.exit(0);
}
END
