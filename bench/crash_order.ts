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
import { PLANTED } from "../tests/testing/planted_bugs.ts";

/** States after which a bug counts as not found. */
const BUDGET = 5000;

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
