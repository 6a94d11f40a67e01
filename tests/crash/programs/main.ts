/**
 * Pulls the plug on all programs of `programs.ts`, and says of each whether it
 * is as its documentation says: `deno task programs`. It takes an hour or so.
 *
 * ```text
 * deno task programs [WORD...] [--states N] [--jobs N] [--stories]
 * ```
 *
 * A word chooses the programs whose names contain it.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { runCrashTest } from "../../../src/crash/run_crash_test.ts";
import { reportText } from "../../../src/crash/report/terminal.ts";
import { plural } from "../../../src/plural.ts";
import { missingOf } from "./missing.ts";
import { crashTestOf, type Program, PROGRAMS } from "./programs.ts";

const args = parseArgs(Deno.args, {
  string: ["states", "jobs", "only"],
  boolean: ["stories"],
});

const words = args._.map(String);
const chosen = PROGRAMS.filter(({ name }) =>
  words.length === 0 || words.some((word) => name.includes(word))
);
const stop = new AbortController();
Deno.addSignalListener("SIGINT", () => stop.abort());

/** What came of one, and whether that is as it should be. */
async function pullPlug(program: Program): Promise<boolean> {
  const missing = missingOf(program);
  if (missing.length > 0) {
    console.log(`${program.name}: not run, missing: ${missing.join(", ")}`);
    return true;
  }
  const begin = performance.now();
  const report = await runCrashTest({
    ...crashTestOf(program),
    only: args.only,
    maxStates: Number(args.states ?? program.states),
    jobs: args.jobs === undefined ? undefined : Number(args.jobs),
    signal: stop.signal,
  });
  const { verdict, explored, groups } = report;
  const { states, failed, unstable, unjudged } = explored;
  const expected = unstable + unjudged === 0 &&
    (failed === 0) === program.survives;
  const doubts = [
    ...unstable > 0 ? [`${unstable} unstable`] : [],
    ...unjudged > 0 ? [`${unjudged} not judged`] : [],
  ].map((text) => `${text}, `).join("");
  const seconds = (performance.now() - begin) / 1000;
  console.log(
    `${program.name}: ${failed}/${states} ${verdict}, ${doubts}${
      expected ? "as expected" : "NOT as expected"
    }, ${plural(explored.points, "point")}, ${seconds.toFixed(0)} s`,
  );
  for (const { count, message } of groups) {
    console.log(`  ${count}: ${message}`);
  }
  if (args.stories) console.log(reportText(report));
  return expected;
}

let failures = 0;
for (const program of chosen) {
  try {
    if (!await pullPlug(program)) failures++;
  } catch (error) {
    if (stop.signal.aborted) Deno.exit(130);
    failures++;
    console.log(`${program.name}: ${error}`);
  }
}
if (failures > 0) {
  console.log(`${plural(failures, "program")} not as expected`);
  Deno.exit(1);
}
