/**
 * Runs Platter on other kernels, processors, file systems and in containers, and
 * prints one table of what came about.
 *
 * ```sh
 * deno task platforms --list          # what there is
 * deno task platforms                 # all of it: hours
 * deno task platforms 6.1 arm64:ext4  # some
 * deno task platforms --suites facts,contract 6.1
 * deno task platforms --short         # what CI runs
 * ```
 *
 * Exits with 1 if anything failed that was run, or, with `PLATTER_REQUIRE_TOOLS=1`,
 * could not be run; with 2 if there is no such platform.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { Missing } from "./platform.ts";
import type { Row } from "./platform.ts";
import { ALL, SHORT } from "./all.ts";
import { choose } from "./choose.ts";
import { add, EVERYWHERE, NOTHING, SUITE_NAMES } from "./suites.ts";
import { table } from "./table.ts";

const { list, short, suites: only, _: names } = parseArgs(Deno.args, {
  boolean: ["list", "short"],
  string: ["suites", "_"],
  unknown(name) {
    if (!name.startsWith("-")) return true;
    console.error(`Cannot take ${name} as there is no such option`);
    Deno.exit(2);
  },
});

if (list) {
  for (const { name, about, places } of ALL) {
    console.log(
      `${name.padEnd(12)} ${about}\n${" ".repeat(13)}${
        places.map((place) => `${name}:${place}`).join(" ")
      }`,
    );
  }
  Deno.exit();
}

const wanted = names.length > 0 ? names.map(String) : short ? SHORT : [];
const chosen = choose(ALL, wanted);
if (typeof chosen === "string") {
  console.error(chosen);
  Deno.exit(2);
}

const suites = only?.split(",") ?? (short ? EVERYWHERE : undefined);
for (const suite of suites ?? []) {
  if ((SUITE_NAMES as readonly string[]).includes(suite)) continue;
  console.error(
    `Cannot run ${suite} as it must be one of ${SUITE_NAMES.join(", ")}`,
  );
  Deno.exit(2);
}

const rows: Row[] = [];
const began = performance.now();
const report = (line: string) =>
  console.error(
    `${((performance.now() - began) / 1000).toFixed(0).padStart(5)} s  ${line}`,
  );
let broken = false;
for (const { platform, places } of chosen) {
  const known = rows.length;
  try {
    const found = (row: Row) => rows.push(row);
    await platform.run({ places, suites, report, found });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    report(`${platform.name}: ${reason}`);
    if (!(error instanceof Missing)) broken = true;
    const done = new Set(rows.slice(known).map(({ name }) => name));
    for (const place of places) {
      const name = `${platform.name}:${place}`;
      if (done.has(name)) continue;
      rows.push({
        name,
        kernel: "",
        outcome: null,
        reason: reason.split("\n")[0]!,
      });
    }
  }
}
console.log(table(rows, new Date()));
const failed = rows.some(({ outcome }) =>
  outcome !== null && outcome.failed > 0
);
const missing = rows.some(({ outcome }) => outcome === null);
const sum = rows.reduce(
  (sum, row) => add(sum, row.outcome ?? NOTHING),
  NOTHING,
);
// As deno test closes.
console.log(
  `\n${
    sum.failed > 0 || broken ? "FAILED" : "ok"
  } | ${sum.passed} passed | ${sum.failed} failed | ${sum.skipped} ignored`,
);
const strict = Deno.env.get("PLATTER_REQUIRE_TOOLS") === "1";
Deno.exit(failed || broken || (missing && strict) ? 1 : 0);
