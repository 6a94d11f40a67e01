/**
 * How many crash states an exploration visits until it finds a bug: the order
 * of states is worth what this table says.
 *
 *     deno task bench:crash-order
 *     deno run -A bench/crash_order.ts --seeds 9 --tree ../older ../newer
 *
 * Bugs are planted, in a place and with an exploration that a seed decides; the
 * catalogue of `tests/testing/mistakes` is run as it is. Each tree is measured
 * by a process of its own, with its own library and its own catalogue, so that
 * two of them can be compared. States are counted, nothing is timed.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { fileURLToPath, pathToFileURL } from "node:url";

const SECTOR = 512;

/** States after which a bug counts as not found. */
const BUDGET = 5000;

/** As much of a disk as the bugs need. */
interface Disk {
  write(sector: number, data: Uint8Array): Promise<void>;
  read(sector: number, count: number): Promise<Uint8Array>;
  flush(): Promise<void>;
}

/** A program with a bug. */
interface Planted {
  readonly sectors: number;
  workload(disk: Disk, acknowledge: (value: number) => void): Promise<void>;
  recover(disk: Disk, acknowledged: readonly number[]): Promise<void>;
}

function filled(value: number, sectors = 1): Uint8Array {
  const bytes = new Uint8Array(sectors * SECTOR);
  new DataView(bytes.buffer).setUint32(0, value);
  for (let at = 4; at < bytes.length; at++) bytes[at] = value & 0xff;
  for (let sector = 1; sector < sectors; sector++) {
    new DataView(bytes.buffer).setUint32(sector * SECTOR, value);
  }
  return bytes;
}

function valueOf(bytes: Uint8Array, sector = 0): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(
    sector * SECTOR,
  );
}

function must(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

/** Somewhere between `first` and `last`, by a seed. */
function place(seed: number, first: number, last: number): number {
  const mixed = Math.imul(seed + 1, 0x9e3779b1) >>> 8;
  return first + mixed % (last - first + 1);
}

const PLANTED: Record<string, (seed: number) => Planted> = {
  "missing flush in 1 epoch of 100": (seed) => {
    const bad = place(seed, 1, 100);
    return {
      sectors: 1024,
      async workload(disk, acknowledge) {
        for (let epoch = 1; epoch <= 100; epoch++) {
          await Promise.all(
            [0, 1, 2, 3].map((i) =>
              disk.write(8 + epoch * 8 + i * 2, filled(epoch, 2))
            ),
          );
          if (epoch !== bad) await disk.flush();
          await disk.write(0, filled(epoch));
          await disk.flush();
          acknowledge(epoch);
        }
      },
      async recover(disk, acknowledged) {
        const epoch = valueOf(await disk.read(0, 1));
        must(epoch >= (acknowledged.at(-1) ?? 0), "An epoch is gone");
        if (epoch === 0) return;
        const data = await disk.read(8 + epoch * 8, 8);
        for (let i = 0; i < 8; i++) {
          must(valueOf(data, i) === epoch, "An epoch lacks data");
        }
      },
    };
  },
  "1 early acknowledgement of 400": (seed) => {
    const bad = place(seed, 1, 400);
    return {
      sectors: 1024,
      async workload(disk, acknowledge) {
        for (let i = 1; i <= 400; i++) {
          await disk.write(i, filled(i));
          if (i === bad) acknowledge(i);
          await disk.flush();
          if (i !== bad) acknowledge(i);
        }
      },
      async recover(disk, acknowledged) {
        const last = acknowledged.at(-1) ?? 0;
        must(
          last === 0 || valueOf(await disk.read(last, 1)) === last,
          "What was acknowledged is gone",
        );
      },
    };
  },
  "middle of 5 versions": (seed) => {
    const bad = place(seed, 0, 7);
    return {
      sectors: 64,
      async workload(disk) {
        for (let version = 1; version <= 5; version++) {
          for (let i = 0; i < 8; i++) await disk.write(i, filled(version));
        }
        await disk.flush();
      },
      async recover(disk) {
        must(valueOf(await disk.read(bad, 1)) !== 3, "The middle version");
      },
    };
  },
  "2 of 200 lost, rest free": (seed) => {
    const one = place(seed, 1, 200);
    const other = 1 + (one + place(seed + 77, 1, 199) - 1) % 200;
    return {
      sectors: 1024,
      async workload(disk) {
        for (let i = 1; i <= 200; i++) await disk.write(i, filled(i));
        await disk.write(0, filled(1));
        await disk.flush();
      },
      async recover(disk) {
        if (valueOf(await disk.read(0, 1)) === 0) return;
        const lost = async (i: number) => valueOf(await disk.read(i, 1)) === 0;
        must(!(await lost(one) && await lost(other)), "Both are gone");
      },
    };
  },
  "torn page 4+4 of 50": (seed) => {
    const bad = place(seed, 0, 49);
    return {
      sectors: 1024,
      async workload(disk) {
        for (let i = 0; i < 50; i++) {
          await disk.write(i * 8, filled(i + 1, 8));
        }
        await disk.flush();
      },
      async recover(disk) {
        const page = await disk.read(bad * 8, 8);
        const torn = [0, 1, 2, 3, 4, 5, 6, 7].every((i) =>
          (valueOf(page, i) !== 0) === (i < 4)
        );
        must(!torn, "The page is torn in the middle");
      },
    };
  },
  "torn page of 8 in 1 epoch of 60": (seed) => {
    const bad = place(seed, 1, 60);
    return {
      sectors: 2048,
      async workload(disk, acknowledge) {
        for (let epoch = 1; epoch <= 60; epoch++) {
          await disk.write(1024 + epoch * 2, filled(epoch, 2));
          await disk.flush();
          acknowledge(epoch);
          // A checkpoint, of pages that the log has whole: but for one.
          if (epoch % 4 > 0 && epoch !== bad) continue;
          await Promise.all(
            [1, 2, 3].map((i) => disk.write(i * 8, filled(epoch, 8))),
          );
          await disk.flush();
        }
      },
      async recover(disk) {
        const page = await disk.read(16, 8);
        const values = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => valueOf(page, i));
        const torn = new Set(values).size > 1;
        must(!torn || !values.includes(bad), "The page is torn");
      },
    };
  },
  "1 block of 1 write in 200 epochs": (seed) => {
    const bad = place(seed, 1, 200);
    return {
      sectors: 4096,
      async workload(disk) {
        for (let epoch = 1; epoch <= 200; epoch++) {
          await Promise.all([
            disk.write(epoch * 8, filled(epoch, 2)),
            disk.write(epoch * 8 + 4, filled(epoch, 2)),
          ]);
          await disk.flush();
        }
      },
      async recover(disk) {
        const [a, b] = [
          await disk.read(bad * 8, 2),
          await disk.read(bad * 8 + 4, 2),
        ];
        must(
          !(valueOf(a, 0) === 0 && valueOf(a, 1) > 0 && valueOf(b) > 0),
          "Only its second block is there",
        );
      },
    };
  },
};

/** States until found by bug, a number for each seed; `null` if not found. */
type Found = Record<string, (number | null)[]>;

/** What this needs of a library, whichever it is. */
interface Library {
  exploreCrashes(options: unknown): Promise<unknown>;
  CrashFailure: new (...args: never[]) => Error & {
    report: { states: number };
  };
}

/** Runs everything on one tree, in this process. */
async function measure(tree: string, seeds: number): Promise<Found> {
  const root = pathToFileURL(`${tree}/`);
  const { exploreCrashes, CrashFailure }: Library = await import(
    new URL("src/testing/mod.ts", root).href
  );
  const statesOf = async (
    run: () => Promise<unknown>,
  ): Promise<number | null> => {
    try {
      await run();
      return null;
    } catch (error) {
      if (error instanceof CrashFailure) return error.report.states;
      throw error;
    }
  };
  const found: Found = {};
  for (const [name, plant] of Object.entries(PLANTED)) {
    const results: (number | null)[] = found[name] = [];
    for (let seed = 0; seed < seeds; seed++) {
      const { sectors, workload, recover } = plant(seed);
      results.push(
        await statesOf(() =>
          exploreCrashes({
            device: { sectors },
            workload,
            recover,
            seed,
            maxStates: BUDGET,
            progress: false,
          })
        ),
      );
    }
  }
  const catalogue = new URL("tests/testing/mistakes/", root);
  for await (const { name } of Deno.readDir(catalogue)) {
    if (!name.endsWith(".ts") || /^mistake|_test/.test(name)) continue;
    const { default: mistake } = await import(new URL(name, catalogue).href);
    found[name.slice(0, -3)] = [await statesOf(() => mistake.wrong())];
  }
  return found;
}

/** The middle one; `null` if most were not found. */
function median(values: readonly (number | null)[]): number | null {
  const sorted = values.map((value) => value ?? Infinity).sort((a, b) => a - b);
  const middle = sorted[sorted.length >> 1]!;
  return middle === Infinity ? null : middle;
}

/** Runs everything on one tree, in a process of its own. */
async function measureApart(tree: string, seeds: number): Promise<Found> {
  const { stdout, success } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--no-check",
      "--config",
      `${tree}/deno.json`,
      fileURLToPath(import.meta.url),
      "--measure",
      tree,
      "--seeds",
      `${seeds}`,
    ],
    stderr: "inherit",
  }).output();
  if (!success) throw new Error(`Cannot measure ${tree}: it failed`);
  return JSON.parse(new TextDecoder().decode(stdout));
}

async function main(): Promise<void> {
  const { tree, seeds, measure: here, _ } = parseArgs(Deno.args, {
    string: ["tree", "seeds", "measure"],
    default: { seeds: "9" },
  });
  if (here !== undefined) {
    console.log(JSON.stringify(await measure(here, Number(seeds))));
    return;
  }
  const own = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");
  const trees = [...(tree === undefined ? [] : [tree]), ...(_.map(String))]
    .map((path) => Deno.realPathSync(path));
  if (trees.length === 0) trees.push(own);
  const columns = await Promise.all(
    trees.map((tree) => measureApart(tree, Number(seeds))),
  );
  console.log(
    `Median states until found, ${seeds} seeds, budget ${BUDGET} ("-": not found)`,
  );
  console.log(["".padEnd(34), ...trees.map((t) => t.padStart(24))].join(" "));
  for (const name of new Set(columns.flatMap((found) => Object.keys(found)))) {
    const cells = columns.map((found) => {
      const middle = median(found[name] ?? [null]);
      return (middle === null ? "-" : `${middle}`).padStart(24);
    });
    console.log([name.padEnd(34), ...cells].join(" "));
  }
}

if (import.meta.main) await main();
